//! A disk that does not complete writes: a library makes `fsync` and `fdatasync` of the program wait.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Waits while the file `$HANG` exists and the path of `fd` contains the text in it.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int hangs(int fd) {
    char text[256] = "", link[64], path[4096] = "";
    int file = open(getenv("HANG"), O_RDONLY);
    if (file < 0) return 0;
    if (read(file, text, sizeof text - 1) < 0) text[0] = 0;
    close(file);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof path - 1) < 0) return 0;
    return strstr(path, text) != NULL;
}

static int sync_with(const char *name, int fd) {
    while (hangs(fd)) usleep(10000);
    return ((int (*)(int))dlsym(RTLD_NEXT, name))(fd);
}

int fsync(int fd) { return sync_with("fsync", fd); }
int fdatasync(int fd) { return sync_with("fdatasync", fd); }
"#;

pub(crate) struct HangingDisk {
    library: PathBuf,
    switch: PathBuf,
}

impl HangingDisk {
    pub(crate) fn new(dir: &Path) -> Self {
        let (source, library) = (dir.join("hang.c"), dir.join("hang.so"));
        fs::write(&source, LIBRARY).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
        assert!(compiler.status().unwrap().success());
        Self { library, switch: dir.join("hang") }
    }

    /// Loads the library into the program.
    pub(crate) fn attach(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("HANG", &self.switch);
    }

    /// From now on, no write to a file whose path contains `text` is completed.
    pub(crate) fn hang(&self, text: &str) {
        let unfinished = self.switch.with_extension("new");
        fs::write(&unfinished, text).unwrap();
        fs::rename(unfinished, &self.switch).unwrap();
    }

    /// All writes are completed.
    pub(crate) fn recover(&self) {
        fs::remove_file(&self.switch).unwrap();
    }
}
