//! Signals: when to stop, and when to re-read secrets.
//!
//! The first signal that ends a process by default stops the receiver in order, the second one at once. SIGHUP re-reads
//! secrets.

use std::convert::Infallible;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::Signal as Named;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::logging;

/// How long an immediate stop may take before the process exits whatever still runs.
const EXIT_AFTER: Duration = Duration::from_secs(3);

/// Signals that people, service managers and container engines send to stop a process.
const STOP: [Named; 3] = [Named::TERM, Named::INT, Named::QUIT];

/// Signals of other uses that end a process by default. Those of a crash (SIGSEGV, SIGABRT, …) are left as they are.
const UNUSED: &[Named] = &[
    Named::USR1,
    Named::USR2,
    Named::ALARM,
    Named::VTALARM,
    Named::PROF,
    Named::IO,
    Named::XCPU,
    #[cfg(target_os = "linux")]
    Named::POWER,
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    Named::STKFLT,
];

/// Real-time signals, as far as the C library leaves them to programs.
#[cfg(target_os = "linux")]
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;
#[cfg(not(target_os = "linux"))]
const REAL_TIME: std::ops::Range<i32> = 0..0;

/// What signals ask for.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Stop taking webhooks, record the spool, and end.
    pub graceful: CancellationToken,
    /// End now. The spool keeps what is not recorded.
    pub immediate: CancellationToken,
    /// Re-read secrets.
    pub reload: Arc<Notify>,
}

impl Shutdown {
    /// Follows the process's signals from now on, on a thread of its own: a runtime whose threads are all blocked does
    /// not keep the second signal from ending the process.
    ///
    /// # Errors
    /// When the system refuses a handler or the thread.
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
        start.recv().unwrap_or_else(|_| Err(io::Error::other("the thread for signals ended")))
    }

    async fn worker(&self, started: &mpsc::Sender<io::Result<()>>) -> io::Result<Infallible> {
        let (to, mut signals) = tokio::sync::mpsc::unbounded_channel();
        let listen = |number: i32| {
            let mut received = signal(SignalKind::from_raw(number))?;
            let to = to.clone();
            tokio::spawn(async move { while received.recv().await.is_some() && to.send(number).is_ok() {} });
            io::Result::Ok(())
        };
        for signal in STOP.iter().chain([&Named::HUP]) {
            listen(signal.as_raw())?;
        }
        // The limit on file sizes is reached: the write that exceeded it fails, as on a full disk.
        let _ = listen(Named::XFSZ.as_raw());
        for number in UNUSED.iter().map(|signal| signal.as_raw()).chain(REAL_TIME) {
            // What the system does not have cannot be sent either.
            let _ = listen(number);
        }
        let terminal = io::stdin().is_terminal();
        let _ = started.send(Ok(()));
        let mut stops = 0;
        loop {
            // `to` lives as long as this function: there is always a next one.
            let Some(number) = signals.recv().await else { return Err(io::Error::other("no signals")) };
            let closed = terminal && !io::stdin().is_terminal();
            if number == Named::XFSZ.as_raw() {
                tracing::error!("the limit on file sizes (ulimit -f) is reached: raise it");
            } else if number == Named::HUP.as_raw() && !closed {
                self.reload.notify_one();
            } else {
                stops += 1;
                self.stop(stops, number);
            }
        }
    }

    /// A SIGHUP stops, too, when its reason is that the terminal was closed.
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
                    tracing::error!("a part of the receiver does not end: exiting without it");
                    logging::flush();
                    std::process::exit(1);
                });
            }
            _ => std::process::exit(1),
        }
    }
}
