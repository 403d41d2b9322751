//! Handles files that SQLite alone would misread: damaged, incomplete, of different spools, or replaced while the
//! receiver runs.
//!
//! - [`salvage`]: a start finds damaged files, or files of different spools. Everything readable goes into a new file.
//! - [`rescue`]: the files change while the receiver runs. Everything that the open connection can read goes into a new
//!   file.
//! - [`adopt`]: a start finds a rescued file that holds everything that the spool's own files hold. This file becomes the
//!   spool.
//! - [`absorb`]: a start adds the deliveries of other rescued files.
//!
//! All except [`adopt`] use [`copy`]. [`replace`] puts a new file into the place of the spool.

pub(super) mod absorb;
pub(super) mod adopt;
pub(super) mod copy;
mod origin;
pub(super) mod replace;
pub(super) mod rescue;
pub(super) mod salvage;
pub(super) mod sequence;
pub(super) mod wal;
