//! The two HTTP ports: webhooks on the public port; health, metrics, the API and the console on the admin port.

mod admin;
mod health;
mod origin;
mod problem;
mod server;
mod webhook;

pub(crate) use admin::{AdminState, Feed, router as admin_router};
pub(crate) use server::limiter::Limiter;
pub(crate) use server::{ConnectionLimits, PortShutdown, serve};
#[cfg(fuzzing)]
pub(crate) use server::{protocol, serve_connection};
pub(crate) use webhook::{WEBHOOK_PATH, WebhookState, router as webhook_router};
