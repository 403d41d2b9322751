//! What is compiled in without being Rust: a new migration, a changed statement.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-changed=src/db");
    // `scripts/sqlx-prepare` has every query looked at, each time.
    println!("cargo:rerun-if-env-changed=SQLX_OFFLINE_DIR");
}
