//! The program `workflow-receiver`. All its code is in the library: code that is generic over a future would otherwise be
//! compiled a second time.

use std::process::ExitCode;

fn main() -> ExitCode {
    workflow_receiver::program::main()
}
