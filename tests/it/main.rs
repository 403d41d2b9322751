//! Tests of the receiver over HTTP and as a program, with a real PostgreSQL.

#![expect(
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    clippy::needless_pass_by_value,
    reason = "the numbers in tests are small and whole"
)]

mod answers;
mod api;
mod applications;
mod authentication;
mod backup;
mod blame;
mod bounds;
mod browser;
mod browser_pages;
mod bulks;
mod changes;
mod clock_skew;
mod commands;
mod console;
mod console_pages;
mod cookbook;
mod damage;
mod dashboard;
mod demo;
mod documented_examples;
mod encodings;
mod expected;
mod export;
mod failover;
#[cfg(target_os = "linux")]
mod hanging_disk;
mod health;
mod hostile;
mod live;
mod load_balancers;
mod logging;
mod make;
mod memory;
mod migrations;
mod openapi;
mod oracle;
mod outcomes;
mod paging;
mod plans;
mod pooler;
mod predictions;
mod program;
mod properties;
mod pruner;
mod quarantine;
mod reconcile;
mod recorder;
mod references;
mod refusals;
mod repair;
mod results;
mod retention;
mod roles;
mod rollups;
mod rotation;
mod shutdown;
mod siege;
mod signals;
mod single_faults;
mod sizes;
mod spool;
mod spool_files;
mod spool_start;
mod spool_wal;
mod steps;
mod stuck;
mod support;
mod tls;
mod torture;
mod traces;
mod undo;
mod verification;
mod views;
mod visibility;
