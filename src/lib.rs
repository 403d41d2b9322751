//! A receiver of `each::labs` workflow webhooks whose 200 is a promise.
//!
//! # The path of a webhook
//!
//! 1. [`http`]: `POST /webhooks/workflow-completed` is let in ([`auth`]), read and checked: is it an
//!    execution?
//! 2. [`intake`]: it goes over a bounded channel to the spool's writer; a full channel is a 503.
//! 3. [`spool`]: the writer puts whatever waits on disk with one fsync. **Here the 200 leaves.**
//! 4. [`recorder`]: the background worker reads the spool in order, a batch at a time.
//! 5. [`store`]: one transaction dedupes by `execution_id`, records the outcome and counts the bulk.
//! 6. The spool forgets the batch.
//!
//! Nothing flows back but the answer. After a crash, step 4 goes on with what the spool holds.
//!
//! What is recorded is read by [`reading`], for operators: over HTTP, on the admin port. [`live`] tells of it as it
//! happens.
//!
//! [`app`] builds these parts and stops them in the same order; [`payload`] is what a body says;
//! [`config`] the settings; [`retention`] removes what was kept long enough; [`commands`] is what
//! operators do beside running it; [`traces`] shows the path to those who have a collector.

pub mod app;
pub mod auth;
mod client;
pub mod commands;
pub mod config;
mod credentials;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
mod healthcheck;
mod http;
mod intake;
mod live;
pub mod logging;
mod memory;
mod metrics;
pub mod payload;
mod reading;
mod recorder;
mod retention;
pub mod shutdown;
mod spool;
pub mod store;
mod traces;

pub use healthcheck::healthcheck;
