//! Confirms unsigned deliveries with the sender's API (`auth.verify_unsigned`).
//!
//! The recorder stores such a delivery in `unverified_deliveries` and acks it, so it blocks no other delivery. The
//! [`Verifier`] requests its execution from the API and compares the two ([`check`]). If they are equal, the API's version
//! continues at the spool like a webhook, with `authenticated_by = callback`. So nothing of an unsigned body is recorded.
//! If they differ, both versions go to quarantine. While the API has no usable answer, or the quarantine is full, the delivery
//! waits. The [`UnverifiedMeter`] counts the waiting ones.
//!
//! After a crash between append and removal, a delivery is verified and recorded again, as a duplicate.

mod api_state;
mod check;
mod limit;
mod meter;
mod predictions;
mod same_json;
mod status;
mod verifier;

pub(crate) use check::Checker;
pub(crate) use limit::UnverifiedLimit;
pub(crate) use meter::UnverifiedMeter;
pub(crate) use predictions::PredictionSearch;
pub(crate) use status::VerificationStatus;
pub(crate) use verifier::Verifier;
