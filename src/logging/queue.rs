//! A bounded queue of log lines, and the thread that writes them to standard error.
//!
//! `tracing-appender`'s `NonBlocking` is not used. Its queue is bounded in lines, not in bytes. It does not count lines that
//! are lost by write errors. Its guard gives up after 0.1 s when the queue is full, so a slow reader misses the last lines,
//! and then calls `println!`, which panics when standard output is closed.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;

/// Maximum bytes of queued lines. The thread holds up to the same number of bytes while it writes them.
const MAX_BYTES: usize = 1 << 20;
/// Maximum bytes of one write. [`Queue::flush`] sees progress after each write.
const CHUNK: usize = 16 << 10;
/// The pause after a non-blocking standard error was not writable.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);
/// [`Queue::flush`] gives up when nothing was written for `STALLED_AFTER`, and in any case after `FLUSH_TIMEOUT`.
const STALLED_AFTER: Duration = Duration::from_secs(1);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Standard error. The first use starts the thread.
pub(super) static STDERR: LazyLock<Queue> = LazyLock::new(|| Queue::new(stderr()));

/// A separate descriptor: a blocked write would hold the lock of `io::stderr()`.
fn stderr() -> io::Result<File> {
    Ok(io::stderr().as_fd().try_clone_to_owned()?.into())
}

thread_local! {
    /// True in the thread that writes: its report of dropped lines is queued even if the queue is full.
    static MAY_EXCEED: Cell<bool> = const { Cell::new(false) };
}

pub(super) struct Queue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    filled: Condvar,
    written: Condvar,
    dropped: Counter,
}

#[derive(Default)]
struct State {
    /// Whole lines.
    pending: Vec<u8>,
    /// The thread holds lines that are not written yet.
    writing: bool,
    /// The number of writes since the start.
    chunks: u64,
    /// Dropped lines that are not logged yet.
    unreported: u64,
    /// The thread could not be started: nothing will be written.
    closed: bool,
}

impl Queue {
    fn new(stream: io::Result<impl Write + Send + 'static>) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            filled: Condvar::new(),
            written: Condvar::new(),
            dropped: Counter::default(),
        });
        let worker = shared.clone();
        let started = stream
            .and_then(|stream| thread::Builder::new().name("log".into()).spawn(move || worker.run(stream)));
        shared.state.lock().closed = started.is_err();
        Self(shared)
    }

    /// Adds a line, which ends with a line feed. Drops and counts it when the queue is full.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.0.state.lock();
        let full = state.pending.len() + line.len() > MAX_BYTES && !MAY_EXCEED.get();
        if full || state.closed {
            state.unreported += 1;
            self.0.dropped.inc();
        } else {
            state.pending.extend_from_slice(line);
            drop(state);
            self.0.filled.notify_one();
        }
    }

    /// Waits until all lines are written, while there is progress.
    pub(super) fn flush(&self) {
        let end = Instant::now() + FLUSH_TIMEOUT;
        let mut state = self.0.state.lock();
        while (state.writing || !state.pending.is_empty()) && !state.closed && Instant::now() < end {
            let before = state.chunks;
            let waited = self.0.written.wait_for(&mut state, STALLED_AFTER);
            if waited.timed_out() && state.chunks == before {
                return;
            }
        }
    }

    pub(super) fn dropped(&self) -> Counter {
        self.0.dropped.clone()
    }
}

impl Shared {
    fn run(&self, mut stream: impl Write) {
        MAY_EXCEED.set(true);
        let (mut lines, mut within_line) = (Vec::new(), false);
        loop {
            self.take(&mut lines);
            let written = self.write(&mut stream, &lines, &mut within_line);
            let lost = lines[written..].split(|byte| *byte == b'\n').count() as u64 - 1;
            lines.clear();
            if lost > 0 {
                self.dropped.inc_by(lost);
                self.state.lock().unreported += lost;
                continue;
            }
            let dropped = std::mem::take(&mut self.state.lock().unreported);
            if dropped > 0 {
                tracing::warn!(
                    dropped,
                    "{dropped} log lines were dropped: standard error was read too slowly, or could not be written to"
                );
            }
        }
    }

    /// Waits for lines, and moves all of them into `lines`.
    fn take(&self, lines: &mut Vec<u8>) {
        let mut state = self.state.lock();
        state.writing = false;
        self.written.notify_all();
        while state.pending.is_empty() {
            self.filled.wait(&mut state);
        }
        std::mem::swap(lines, &mut state.pending);
        state.writing = true;
    }

    /// Writes `lines` up to the first error. Returns the number of bytes written.
    fn write(&self, stream: &mut impl Write, lines: &[u8], within_line: &mut bool) -> usize {
        // Ends a line that an error cut short.
        if std::mem::take(within_line) && stream.write(b"\n").is_err() {
            *within_line = true;
            return 0;
        }
        let mut written = 0;
        while written < lines.len() {
            let chunk = &lines[written..lines.len().min(written + CHUNK)];
            match stream.write(chunk) {
                Ok(bytes) if bytes > 0 => {
                    written += bytes;
                    self.state.lock().chunks += 1;
                    self.written.notify_all();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_INTERVAL),
                Ok(_) | Err(_) => break,
            }
        }
        *within_line = written < lines.len() && written > 0 && lines[written - 1] != b'\n';
        written
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// A stream whose writes wait for the test: `true` lets a write succeed, `false` lets it fail.
    struct Stream {
        allowed: Receiver<bool>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stream {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.allowed.recv() {
                Ok(true) | Err(_) => {
                    self.written.lock().extend_from_slice(bytes);
                    Ok(bytes.len())
                }
                Ok(false) => Err(ErrorKind::StorageFull.into()),
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue() -> (Queue, SyncSender<bool>, Arc<Mutex<Vec<u8>>>) {
        let (allow, allowed) = sync_channel(0);
        let written = Arc::new(Mutex::new(Vec::new()));
        let queue = Queue::new(Ok(Stream { allowed, written: written.clone() }));
        (queue, allow, written)
    }

    #[test]
    fn a_full_queue_drops_and_counts_lines_and_writes_the_queued_ones_in_order() {
        let (queue, allow, written) = queue();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        // The thread has taken one line. The queue holds MAX_BYTES more.
        queue.push(b"first\n");
        while !queue.0.state.lock().writing {
            thread::yield_now();
        }
        for _ in 0..MAX_BYTES / line.len() {
            queue.push(&line);
        }
        assert_eq!(queue.dropped().get(), 0);
        queue.push(&line);
        queue.push(b"\n");
        assert_eq!(queue.dropped().get(), 2);
        drop(allow);
        queue.flush();
        let written = written.lock();
        assert!(written.starts_with(b"first\nxx"));
        assert_eq!(written.len(), b"first\n".len() + MAX_BYTES);
    }

    #[test]
    fn flush_gives_up_on_a_stalled_stream() {
        let (queue, _allow, written) = queue();
        queue.push(b"stalled\n");
        queue.flush();
        assert!(written.lock().is_empty());
    }

    #[test]
    fn lines_lost_by_write_errors_are_counted_and_the_next_one_is_complete() {
        let (queue, allow, written) = queue();
        queue.push(b"lost\n");
        allow.send(false).unwrap();
        while queue.dropped().get() < 1 {
            thread::yield_now();
        }
        drop(allow);
        queue.push(b"complete\n");
        queue.flush();
        assert_eq!(*written.lock(), b"complete\n");
    }
}
