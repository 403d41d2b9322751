//! A receiver for `each::labs` workflow webhooks. A 200 means that the webhook is on disk. It is recorded in PostgreSQL
//! even if the receiver or PostgreSQL fails in between.
//!
//! # The path of a webhook
//!
//! 1. [`http`]: `http/webhook/handler.rs` authenticates `POST /webhooks/workflow-completed` ([`auth`]), reads the body
//!    within the memory budget ([`memory`]) and parses it ([`execution`]).
//! 2. [`spool`]: `append` passes the [`delivery`] through a bounded channel to the spool's writer. A full channel is
//!    answered 503.
//! 3. [`spool`]: the writer commits all waiting deliveries with one fsync. **The 200 is sent after this commit.**
//! 4. [`recorder`]: background workers read batches from the spool in order.
//! 5. [`db`]: one transaction deduplicates by `execution_id`, records the executions and updates the counts of bulks.
//! 6. [`spool`]: `ack` marks the deliveries as recorded, and the writer deletes them.
//!
//! After a crash, step 4 resumes with the deliveries that the spool still holds. A delivery that was recorded before the
//! crash is recorded again as a duplicate; `deliveries` may count it twice.
//!
//! # Other parts
//!
//! - [`program`] reads the arguments of the process and runs a command of `cli` or the receiver.
//! - [`server`] builds the parts and stops them in the order above; [`config`] reads the settings, [`credentials`] the
//!   secrets, which can change while the receiver runs. [`shutdown`] handles signals.
//! - `http/admin` serves health, metrics, the API and the console, with the queries in `db/queries`.
//! - `trigger` reads the responses of trigger and bulk-trigger; `expected` follows the executions in them.
//! - [`retention`] removes old rows; [`cli`] holds the commands for operators.
//! - [`reconcile`] fetches executions whose webhook did not arrive, with [`eachlabs`], the client of the sender's API.
//! - [`verification`] confirms unsigned deliveries with the same client.
//! - `export` writes whole lists as JSON Lines, CSV or URLs.
//! - [`metrics`], [`logging`], [`traces`] and [`health`] report on the parts.

pub mod auth;
mod cli;
pub mod config;
mod credentials;
pub mod db;
mod delivery;
mod eachlabs;
pub mod execution;
mod expected;
mod export;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
mod http;
mod http_client;
mod logging;
mod memory;
mod metrics;
#[cfg(feature = "private-postgres")]
mod private_database;
pub mod program;
mod receive;
mod reconcile;
mod recorder;
mod retention;
pub mod server;
pub mod shutdown;
mod spool;
mod test_webhook;
mod traces;
mod trigger;
mod verification;
mod words;
