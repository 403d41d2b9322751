//! Fetches executions whose webhook did not arrive from the sender's API.
//!
//! A run finds candidates in one of the sources: the delivery log ([`delivery_log`]), the lists by workflow ([`lists`]) or
//! single executions ([`single`]). It skips those that PostgreSQL has with a terminal status, and appends the others to the
//! spool, where they continue like webhooks. A run stores no position: after a crash, the next run skips what is recorded.
//!
//! [`background`] decides when the receiver starts a run by itself.

mod background;
mod comparison;
mod delivery_log;
mod events;
mod lists;
mod reconciler;
mod run;
mod single;

pub(crate) use background::Background;
pub(crate) use events::{Counts, Event};
pub(crate) use reconciler::Reconciler;
pub(crate) use run::Scope;
