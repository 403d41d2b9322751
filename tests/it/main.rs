//! The receiver as its users meet it: over HTTP, on a real PostgreSQL.

mod answers;
mod bulks;
mod harness;
mod outcomes;
mod page;
mod process;
mod program;
mod spool;
