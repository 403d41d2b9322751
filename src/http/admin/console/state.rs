//! State that the pages share.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderValue;
use tokio::sync::Semaphore;

use super::hosts::ResultHosts;
use super::login_limit::LoginLimit;
use crate::db::queries::{Query, QueryError};
use crate::http::admin::state::AdminState;

pub(super) struct Console {
    pub(super) admin: AdminState,
    pub(super) result_hosts: ResultHosts,
    /// The Content-Security-Policy of all pages.
    pub(super) policy: HeaderValue,
    /// One permit, for the reconciliation that an operator has started.
    pub(super) reconciling: Arc<Semaphore>,
    pub(super) login_limit: LoginLimit,
}

pub(super) type ConsoleState = State<Arc<Console>>;

impl Console {
    pub(super) fn new(admin: AdminState) -> Arc<Self> {
        let result_hosts = ResultHosts::new(&admin.settings.console.result_hosts);
        let policy = result_hosts.policy();
        let reconciling = Arc::new(Semaphore::new(1));
        Arc::new(Self { admin, result_hosts, policy, reconciling, login_limit: LoginLimit::default() })
    }

    pub(super) async fn run<Q: Query>(&self, query: &Q) -> Result<Q::Answer, QueryError> {
        self.admin.run(query).await
    }
}
