//! Runs the receiver from its start until it has stopped.

use std::fmt::Write as _;
use std::io::{self, Write};

use crate::cli::CommandError;
use crate::config::{DatabaseServers, Settings};
use crate::server::Server;
use crate::shutdown::Shutdown;

/// Runs the receiver until it stops. `psql_line` is the shell command that opens the private PostgreSQL.
pub(crate) async fn receive(
    settings: &Settings,
    database: impl Into<DatabaseServers>,
    psql_line: Option<String>,
    shutdown: &Shutdown,
) -> Result<(), CommandError> {
    let server = tokio::select! {
        started = Server::start(settings, database) => started?,
        () = shutdown.graceful.cancelled() => return Ok(()),
    };
    let (webhooks, admin, console) = (server.webhook_url(), server.admin_address(), server.console_url());
    tracing::info!(%webhooks, %admin, console, version = env!("CARGO_PKG_VERSION"), "receiving");
    log_authentication(settings);
    if let Some(psql) = psql_line {
        print_first_steps(!settings.auth.is_configured(), &webhooks, &console, &psql);
    }
    server.run(shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}

fn log_authentication(settings: &Settings) {
    let auth = &settings.auth;
    if auth.is_configured() {
        if auth.allow_unauthenticated {
            tracing::info!("auth.allow_unauthenticated is ignored, because webhooks are authenticated");
        }
        let (secrets, tokens) = (auth.webhook_secrets.0.len(), auth.url_tokens.0.len());
        let (secret_header, verify_unsigned) = (auth.secret_header, auth.verify_unsigned);
        tracing::info!(secrets, tokens, secret_header, verify_unsigned, "webhooks are authenticated");
        if auth.webhook_secrets.shortest() < 16 {
            tracing::warn!(
                "A webhook secret has fewer than 16 characters: it can be guessed. Use a longer one."
            );
        }
    } else {
        tracing::warn!(
            "Anyone who can reach this port can post webhooks (also through a proxy). Set auth.webhook_secrets or \
             auth.url_tokens."
        );
    }
}

/// Prints the first steps for a new user. Another thread writes them: a stopped terminal must not block the receiver.
fn print_first_steps(unauthenticated: bool, webhooks: &str, console: &str, psql: &str) {
    let mut text = String::new();
    if unauthenticated {
        let _ = writeln!(
            text,
            "\nSend a webhook:\n  curl -i {webhooks} -d \
             '{{\"execution_id\":\"hello-1\",\"workflow_id\":\"demo\",\"status\":\"completed\"}}'"
        );
    }
    let _ = writeln!(
        text,
        "Open the console in a browser:\n  {console}\n\
         Open the database, and run SELECT * FROM executions;\n  {psql}\n\
         The JSON API, health and metrics:\n  {console}docs  {console}health/ready  {console}metrics\n"
    );
    let write = move || drop(io::stdout().write_all(text.as_bytes()));
    let _ = std::thread::Builder::new().name("stdout".into()).spawn(write);
}
