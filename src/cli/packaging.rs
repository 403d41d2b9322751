//! Shell completions and manual pages, generated from the arguments.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use super::CommandError;

/// Prints the completion script for `shell`.
///
/// # Errors
/// If standard output cannot be written.
pub(crate) fn completions(shell: Shell, mut program: Command) -> Result<(), CommandError> {
    let (name, mut script) = (program.get_name().to_owned(), Vec::new());
    clap_complete::generate(shell, &mut program, name, &mut script);
    // For bash, clap_complete 4.6.11 replaces the hyphen in the program's name in two different ways, so that options of
    // commands are not completed (https://github.com/clap-rs/clap/issues/6421).
    let script = String::from_utf8(script)?.replace("workflow__subcmd__receiver", "workflow__receiver");
    Ok(io::stdout().write_all(script.as_bytes())?)
}

/// Writes the manual pages (section 1) to `directory`, which is created if needed: one for the program and one for each
/// command.
///
/// # Errors
/// If the directory cannot be written.
pub(crate) fn manual(directory: &Path, program: Command) -> Result<(), CommandError> {
    let written = fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(program, directory));
    written.map_err(|error| format!("{} cannot be written to: {error}", directory.display()).into())
}
