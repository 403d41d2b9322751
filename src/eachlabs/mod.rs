//! The API of `each::labs`: trigger workflows, read executions and the delivery log.
//!
//! Both generations of its paths are supported. Responses are not trusted: their size is limited, unknown and unusable
//! fields are ignored, and fields that contain secrets are never read.

mod client;
mod error;
mod own_url;
mod pager;
mod rate;
mod responses;
mod retry;

pub(crate) use client::Client;
pub(crate) use error::ApiError;
pub(crate) use own_url::OwnUrl;
pub(crate) use pager::Pager;
pub(crate) use responses::{ExecutionRow, LoggedDelivery, Page};
