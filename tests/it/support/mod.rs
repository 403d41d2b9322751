//! Helpers that tests share. A test file imports from here, never from another test file.

pub(crate) mod browser;
pub(crate) mod collector;
pub(crate) mod events;
pub(crate) mod faults;
pub(crate) mod fixtures;
#[cfg(target_os = "linux")]
pub(crate) mod hanging_disk;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod oracle;
pub(crate) mod pgbouncer;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod property;
pub(crate) mod proxy;
pub(crate) mod receiver;
pub(crate) mod retention;
pub(crate) mod rollups;
pub(crate) mod sender;
pub(crate) mod small_disk;
pub(crate) mod spool;
pub(crate) mod terminal;
pub(crate) mod wait;
