//! What packagers install beside the program, made from its own arguments: completions for shells, manual pages.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use super::CommandError;

/// Writes to standard output what makes `shell` complete this program's arguments.
///
/// # Errors
/// When standard output cannot be written to.
pub fn completions(shell: Shell, mut program: Command) -> Result<(), CommandError> {
    let (name, mut script) = (program.get_name().to_owned(), Vec::new());
    clap_complete::generate(shell, &mut program, name, &mut script);
    // For bash, two parts of clap_complete 4.6.11 do not agree on what the hyphen in the program's name becomes, and
    // no command's options are completed (https://github.com/clap-rs/clap/issues/6421).
    let script = String::from_utf8(script)?.replace("workflow__subcmd__receiver", "workflow__receiver");
    Ok(io::stdout().write_all(script.as_bytes())?)
}

/// Writes the manual pages (section 1) to a directory, which is made if it is not there: one for the program, which
/// names the others, and one for each command.
///
/// # Errors
/// When the directory cannot be written to.
pub fn manual(directory: &Path, program: Command) -> Result<(), CommandError> {
    let written = fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(program, directory));
    written.map_err(|error| format!("{} cannot be written to: {error}", directory.display()).into())
}
