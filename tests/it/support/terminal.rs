//! A pseudo-terminal.

use std::fs::File;
use std::io::Read;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// The end of a terminal that shows what programs write. Dropping it closes the terminal.
pub(crate) struct Terminal(File);

impl Terminal {
    pub(crate) fn open() -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        Self(File::from(terminal))
    }

    /// The end for a program: its standard input, output or error.
    pub(crate) fn program_end(&self) -> File {
        let path = ptsname(&self.0, Vec::new()).unwrap().into_string().unwrap();
        File::options().read(true).write(true).open(path).unwrap()
    }

    /// What programs have written, once each program's end is closed. A [`Command`](std::process::Command) also owns one.
    pub(crate) fn written(mut self) -> String {
        let (mut written, mut buffer) = (Vec::new(), [0; 4096]);
        // Reading fails after the last end is closed.
        while let Ok(length @ 1..) = self.0.read(&mut buffer) {
            written.extend_from_slice(&buffer[..length]);
        }
        String::from_utf8(written).unwrap()
    }
}
