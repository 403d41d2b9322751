//! Handles signals. The first signal stops the receiver gracefully, the second one immediately. SIGHUP re-reads the
//! secrets.

use std::convert::Infallible;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::logging;

/// How long an immediate stop may take. Then the process exits.
const EXIT_AFTER: Duration = Duration::from_secs(3);

/// Signals that operators, service managers and container engines send to stop a process.
const STOP: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::QUIT];

/// Other signals that end a process by default. They also stop the receiver. Signals of a crash (SIGSEGV, SIGABRT, …) are
/// not handled.
const OTHERS: &[Signal] = &[
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::VTALARM,
    Signal::PROF,
    Signal::IO,
    Signal::XCPU,
    #[cfg(target_os = "linux")]
    Signal::POWER,
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    Signal::STKFLT,
];

/// Real-time signals that the C library does not use itself.
#[cfg(target_os = "linux")]
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;
#[cfg(not(target_os = "linux"))]
const REAL_TIME: std::ops::Range<i32> = 0..0;

/// The requests that signals make.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Accept webhooks for `shutdown.grace` only, record the spool, and end.
    pub graceful: CancellationToken,
    /// End now. Unrecorded deliveries stay in the spool.
    pub immediate: CancellationToken,
    /// Re-read secrets.
    pub reload: Arc<Notify>,
}

impl Shutdown {
    /// Handles signals from now on, on a thread of its own: the second signal must end the process even when all threads of
    /// the runtime are blocked.
    ///
    /// # Errors
    /// When a signal handler cannot be installed, or the thread cannot be started.
    pub fn follow_signals(&self) -> io::Result<()> {
        let (started, start) = mpsc::channel();
        let shutdown = self.clone();
        let follow = move || {
            let followed = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .and_then(|runtime| runtime.block_on(shutdown.worker(&started)));
            let Err(error) = followed;
            let _ = started.send(Err(error));
        };
        thread::Builder::new().name("signals".into()).spawn(follow)?;
        start.recv().unwrap_or_else(|_| Err(io::Error::other("the signal thread ended")))
    }

    async fn worker(&self, started: &mpsc::Sender<io::Result<()>>) -> io::Result<Infallible> {
        let (sender, mut signals) = tokio::sync::mpsc::unbounded_channel();
        let listen = |number: i32| {
            let mut received = signal(SignalKind::from_raw(number))?;
            let sender = sender.clone();
            tokio::spawn(
                async move { while received.recv().await.is_some() && sender.send(number).is_ok() {} },
            );
            io::Result::Ok(())
        };
        for signal in STOP.iter().chain([&Signal::HUP]) {
            listen(signal.as_raw())?;
        }
        // With a handler, a write beyond the limit on file sizes returns an error. Without one, it ends the process.
        let _ = listen(Signal::XFSZ.as_raw());
        for number in OTHERS.iter().map(|signal| signal.as_raw()).chain(REAL_TIME) {
            // An error is ignored: the system does not know the signal, so it cannot be sent.
            let _ = listen(number);
        }
        let terminal = io::stdin().is_terminal();
        let _ = started.send(Ok(()));
        let mut stops = 0;
        loop {
            // `sender` lives as long as this function, so the channel never ends.
            let Some(number) = signals.recv().await else { return Err(io::Error::other("no signals")) };
            let closed = terminal && !io::stdin().is_terminal();
            if number == Signal::XFSZ.as_raw() {
                tracing::error!("the limit on file sizes (ulimit -f) is reached: raise it");
            } else if number == Signal::HUP.as_raw() && !closed {
                self.reload.notify_one();
            } else {
                stops += 1;
                self.stop(stops, number);
            }
        }
    }

    /// Also called for a SIGHUP that was sent because the terminal was closed.
    fn stop(&self, stops: u32, number: i32) {
        match stops {
            1 => {
                tracing::info!(
                    signal = number,
                    "stopping: recording the spool; another signal stops at once"
                );
                self.graceful.cancel();
            }
            2 => {
                tracing::warn!(signal = number, "stopping at once");
                self.immediate.cancel();
                tokio::spawn(async {
                    tokio::time::sleep(EXIT_AFTER).await;
                    tracing::error!("a part of the receiver has not stopped in time: exiting");
                    logging::flush();
                    std::process::exit(1);
                });
            }
            _ => std::process::exit(1),
        }
    }
}
