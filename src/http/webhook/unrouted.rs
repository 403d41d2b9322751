//! Requests that no route accepts: 404 and 405, with a log line for requests that may be webhooks.

use std::sync::Arc;

use axum::http::{Method, Uri};

use crate::http::problem::Problem;
use crate::logging::LineLimit;
use crate::metrics::{Metrics, Unrouted};

/// Answers requests that no route accepts. The log never contains the path, because it may hold a token.
pub(super) struct UnroutedRequests {
    metrics: Arc<Metrics>,
    double_slash: LineLimit,
    unknown_path: LineLimit,
    wrong_method: LineLimit,
}

fn warn(limit: &LineLimit, message: &str) {
    if let Some(count) = limit.count(1) {
        tracing::warn!(count, "{message}");
    }
}

impl UnroutedRequests {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let [double_slash, unknown_path, wrong_method] = <[LineLimit; 3]>::default();
        Self { metrics, double_slash, unknown_path, wrong_method }
    }

    pub(super) fn not_found(&self, method: &Method, uri: &Uri) -> Problem {
        self.metrics.answered(404);
        if method != Method::POST {
            self.metrics.unrouted(Unrouted::Other);
            return Problem::NotFound { hint: "Send webhooks to /webhooks/workflow-completed." };
        }
        if uri.path().contains("//") {
            self.metrics.unrouted(Unrouted::DoubleSlash);
            warn(
                &self.double_slash,
                "a webhook was answered 404 because its path has two slashes (//): correct the webhook_url of the \
                 workflow, or the address that a proxy passes requests to",
            );
            return Problem::NotFound { hint: "The path has two slashes (//): check webhook_url." };
        }
        self.metrics.unrouted(Unrouted::UnknownPath);
        warn(
            &self.unknown_path,
            "a POST to an unknown path was answered 404: if it was a webhook, correct the webhook_url of the workflow. \
             Its path must be /webhooks/workflow-completed, with or without a token after it",
        );
        Problem::NotFound { hint: "Send webhooks to /webhooks/workflow-completed." }
    }

    pub(super) fn method_not_allowed(&self) -> Problem {
        self.metrics.answered(405);
        self.metrics.unrouted(Unrouted::WrongMethod);
        warn(
            &self.wrong_method,
            "a request to the path of webhooks was answered 405 because it is not a POST: if it was a webhook, use a \
             webhook_url that is not redirected. A redirect, such as from http to https, changes POST to GET",
        );
        Problem::MethodNotAllowed { allowed: "Use POST." }
    }
}
