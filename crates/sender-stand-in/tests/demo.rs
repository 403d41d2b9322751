//! `sender-stand-in demo` starts and stops the receiver. A shell script is the receiver.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// A directory for the data, with `receiver` as the script of the receiver.
fn directory(name: &str, receiver: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("receiver"), format!("#!/bin/sh\n{receiver}")).unwrap();
    fs::set_permissions(dir.join("receiver"), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// The demo in `dir`, on free ports.
fn demo(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sender-stand-in"));
    command.args(["demo", "./receiver"]).current_dir(dir).stdout(Stdio::piped()).stderr(Stdio::piped());
    for variable in ["RECEIVER__HTTP__LISTEN", "RECEIVER__ADMIN__LISTEN", "STAND_IN__LISTEN"] {
        command.env(variable, "127.0.0.1:0");
    }
    command
}

fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_address_in_use_is_an_error_that_says_what_to_do() {
    let used = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = used.local_addr().unwrap().to_string();
    let dir = directory("in-use", "touch started");
    for variable in ["RECEIVER__HTTP__LISTEN", "RECEIVER__ADMIN__LISTEN", "STAND_IN__LISTEN"] {
        let error = error(&demo(&dir).env(variable, &address).output().unwrap());
        assert!(error.contains(&address) && error.contains(&format!("make demo {variable}=127")), "{error}");
    }
    assert!(!dir.join("started").exists());
}

#[test]
fn a_receiver_that_ends_is_reported_with_its_log() {
    let dir = directory("ends", "echo 'no PostgreSQL was found' >&2; exit 3");
    let error = error(&demo(&dir).output().unwrap());
    assert!(error.contains("no PostgreSQL was found") && error.contains("data/demo/receiver.log"), "{error}");
}

#[test]
fn the_receiver_has_data_of_its_own_and_is_stopped_with_one_signal() {
    let receiver = "trap 'echo stopped >>stopped; exit 0' TERM
        env >environment.new; mv environment.new environment
        while :; do sleep 0.01; done";
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let dir = directory("stops", receiver);
        let mut command = demo(&dir);
        command.env("DATABASE_URL", "postgres://other").env("RECEIVER__ADMIN__TOKEN", "another-token");
        let mut demo = command.spawn().unwrap();
        while !dir.join("environment").exists() {
            assert_eq!(demo.try_wait().unwrap(), None);
            sleep(Duration::from_millis(10));
        }
        kill_process(Pid::from_child(&demo), signal).unwrap();
        assert!(demo.wait().unwrap().success());
        assert_eq!(fs::read_to_string(dir.join("stopped")).unwrap(), "stopped\n");
        let environment = fs::read_to_string(dir.join("environment")).unwrap();
        for part in ["SPOOL__DIR=data/demo/spool\n", "PRIVATE_DIR=data/demo/postgres\n", "WEBHOOK_SECRETS="] {
            assert!(environment.contains(part), "{environment}");
        }
        for part in ["DATABASE_URL", "ADMIN__TOKEN"] {
            assert!(!environment.contains(part), "{environment}");
        }
    }
}

#[test]
fn with_login_the_console_requires_one_of_two_tokens() {
    let receiver = "env >environment; exit 3";
    let dir = directory("login", receiver);
    error(&demo(&dir).env("LOGIN", "1").output().unwrap());
    let environment = fs::read_to_string(dir.join("environment")).unwrap();
    let tokens = "RECEIVER__ADMIN__TOKENS=olga:operate:demo-token-that-may-operate,rita:read:demo-token-that-may-read\n";
    assert!(environment.contains(tokens), "{environment}");
}
