//! What to do with files that SQLite alone would misread: damaged, incomplete, mixed up, or replaced at run time.

pub(super) mod absorb;
pub(super) mod copy;
pub(super) mod rescue;
pub(super) mod salvage;
pub(super) mod sequence;
pub(super) mod wal;
