//! The Makefile: targets that remove files, and the profile of `make run`. The files of the image.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A checkout with the Makefile, its scripts, a `cargo` without effect, and acknowledged deliveries in its spool.
fn checkout() -> TempDir {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = TempDir::new().unwrap();
    for name in ["data/spool", "scripts", "bin"] {
        std::fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    for name in ["Makefile", "scripts/remove-data"] {
        std::fs::copy(root.join(name), dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("data/spool/spool.db"), "acknowledged").unwrap();
    let cargo = dir.path().join("bin/cargo");
    std::fs::write(&cargo, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&cargo, std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Runs `make ARGUMENTS` with `input`. Returns whether it succeeded, and its output.
fn make(dir: &Path, arguments: &str, input: &str) -> (bool, String) {
    let mut command = Command::new("make");
    // HOME: the Makefile puts ~/.cargo/bin first in PATH.
    command.args(arguments.split(' ')).arg(format!("HOME={}", dir.display())).current_dir(dir);
    let path = format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn make_clean_keeps_acknowledged_deliveries() {
    let dir = checkout();
    let (success, text) = make(dir.path(), "clean", "");
    assert!(success, "{text}");
    assert!(dir.path().join("data/spool/spool.db").exists(), "{text}");
}

#[test]
fn make_remove_data_names_what_would_be_lost_and_deletes_only_after_yes() {
    let dir = checkout();
    let spool = dir.path().join("data/spool/spool.db");
    for answer in ["", "no\n", "y\n"] {
        let (success, text) = make(dir.path(), "remove-data", answer);
        assert!(!success && spool.exists(), "{answer:?}: {text}");
        assert!(text.contains("data/spool") && text.contains("answered 200"), "{text}");
    }
    // A running receiver holds this lock.
    let lock = std::fs::File::open(&spool).unwrap();
    lock.lock().unwrap();
    let (success, text) = make(dir.path(), "remove-data", "yes\n");
    assert!(!success && spool.exists() && text.contains("is running"), "{text}");
    drop(lock);
    let (success, text) = make(dir.path(), "remove-data", "yes\n");
    assert!(success && !dir.path().join("data").exists(), "{text}");
    let (success, text) = make(dir.path(), "remove-data", "");
    assert!(success && text.contains("no data"), "{text}");
}

#[test]
fn make_demo_builds_and_starts_the_receiver_and_the_stand_in() {
    let dir = checkout();
    let (success, text) = make(dir.path(), "-n demo", "");
    assert!(success && text.contains("-p workflow-receiver -p sender-stand-in"), "{text}");
    assert!(text.contains("target/quick/sender-stand-in demo target/quick/workflow-receiver"), "{text}");
}

#[test]
fn the_profile_of_make_run_exists_and_the_documents_name_its_program() {
    let dir = checkout();
    let (success, text) = make(dir.path(), "-n run", "");
    let profile = text.split("--profile ").nth(1).and_then(|rest| rest.split(' ').next());
    let profile = profile.unwrap_or_else(|| panic!("{success}: {text}"));
    let read =
        |name: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    assert!(read("Cargo.toml").contains(&format!("\n[profile.{profile}]\n")), "{profile}");
    for page in ["docs/operating.md", "docs/runbooks.md"] {
        assert!(read(page).contains(&format!("target/{profile}/workflow-receiver")), "{page}: {profile}");
    }
}

#[test]
fn the_image_is_built_with_all_files_that_the_program_contains() {
    // `.dockerignore` is a list of exceptions from `*`.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ignored = std::fs::read_to_string(root.join(".dockerignore")).unwrap();
    let sent: Vec<_> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    // Cargo lists the files that the program was compiled from.
    let program = Path::new(env!("CARGO_BIN_EXE_workflow-receiver"));
    let compiled_from = std::fs::read_to_string(program.with_extension("d")).unwrap();
    let (_, files) = compiled_from.split_once(": ").unwrap();
    let files = files.split_whitespace().map(|file| Path::new(file).strip_prefix(root).unwrap());
    let missing: Vec<_> = files.filter(|file| !sent.iter().any(|sent| file.starts_with(sent))).collect();
    assert_eq!(missing, Vec::<&Path>::new(), "add them to .dockerignore with an exclamation mark");
}
