//! Rebuilds when a migration or an SQL file changes.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-changed=src/db");
    // `scripts/sqlx-prepare` must check every query on each run.
    println!("cargo:rerun-if-env-changed=SQLX_OFFLINE_DIR");
}
