//! The receiver as its users meet it: over HTTP, on a real PostgreSQL.

#![expect(
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    clippy::needless_pass_by_value,
    reason = "tests deal in small whole numbers, and read better so"
)]

mod answers;
mod api;
mod authentication;
mod blame;
mod blows;
mod bounds;
mod bulks;
mod clock;
mod commands;
mod cookbook;
mod damage;
mod encodings;
mod export;
mod health;
mod hostile;
mod live;
mod logging;
mod make;
mod memory;
mod migrations;
mod openapi;
mod oracle;
mod outcomes;
mod page;
mod paging;
mod plans;
mod program;
mod properties;
mod pruner;
mod quarantine;
mod recorder;
mod refusals;
mod repair;
mod retention;
mod roles;
mod rotation;
mod siege;
mod signals;
mod sizes;
mod spool;
mod spool_files;
mod spool_start;
mod spool_wal;
mod stuck;
mod sums;
mod support;
mod torture;
mod traces;
mod views;
