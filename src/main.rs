//! The command line: `workflow-receiver [serve | migrate | healthcheck | quarantine | new-token]`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use sqlx::postgres::PgConnectOptions;
use workflow_receiver::app::Receiver;
use workflow_receiver::commands::{self, Failure};
use workflow_receiver::config::Settings;
use workflow_receiver::shutdown::Shutdown;
use workflow_receiver::{healthcheck, store, telemetry};

/// Receives each::labs workflow webhooks and records them in PostgreSQL, durably.
#[derive(Parser)]
#[expect(clippy::doc_markdown, reason = "these are help texts, shown as they stand")]
#[command(version)]
struct Arguments {
    /// A TOML file with settings, over the defaults; the environment (RECEIVER__SECTION__KEY,
    /// DATABASE_URL) is over both
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
#[expect(clippy::doc_markdown, reason = "these are help texts, shown as they stand")]
enum Command {
    /// Receive webhooks (the default)
    Serve,
    /// Bring the database's schema up to date, and exit
    Migrate,
    /// Ask the running receiver whether it takes webhooks: exit code 0 if so, 1 if not
    Healthcheck,
    /// Look at what is no execution, mend it, or drop it
    #[command(subcommand)]
    Quarantine(commands::quarantine::Quarantine),
    /// Make a token for the URL that the sender is given (auth.url_tokens)
    NewToken,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let ended = runtime.block_on(run(&arguments));
    // What was told to end at once does not wait for what still blocks.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn failed(error: &Failure) -> ExitCode {
    eprintln!("workflow-receiver: {error}");
    ExitCode::FAILURE
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let settings = || Settings::load(arguments.config.as_deref());
    match arguments.command.as_ref().unwrap_or(&Command::Serve) {
        Command::NewToken => {
            // Whoever has seen the first line may have closed the pipe.
            let _ = writeln!(io::stdout(), "{}", commands::new_token::new_token());
            Ok(())
        }
        Command::Healthcheck => {
            println!("{}", healthcheck(&settings()?.admin).await?);
            Ok(())
        }
        Command::Quarantine(quarantine) => quarantine.run(&commands::database(&settings()?)?).await,
        Command::Migrate => {
            let settings = settings()?;
            telemetry::init(&settings.log)?;
            let Some(database) = settings.database.connect_options()? else {
                return Err(
                    "database.url is not set: set DATABASE_URL to the database to bring up to date".into()
                );
            };
            store::migrate(&database).await?;
            println!("the schema is up to date");
            Ok(())
        }
        Command::Serve => {
            let settings = settings()?;
            telemetry::init(&settings.log)?;
            telemetry::log_panics();
            settings.check_door()?;
            let shutdown = Shutdown::default();
            tokio::select! {
                // First, so that a signal is heard from the very beginning.
                biased;
                Err(error) = shutdown.follow_signals() => Err(error.into()),
                served = serve(&settings, &shutdown) => served,
            }
        }
    }
}

async fn serve(settings: &Settings, shutdown: &Shutdown) -> Result<(), Failure> {
    match settings.database.connect_options()? {
        Some(database) => receive(settings, database, None, shutdown).await,
        #[cfg(feature = "embedded-postgres")]
        None => serve_embedded(settings, shutdown).await,
        #[cfg(not(feature = "embedded-postgres"))]
        None => {
            Err("database.url is not set: set DATABASE_URL, like postgres://user:password@host:5432/name"
                .into())
        }
    }
}

async fn receive(
    settings: &Settings,
    database: PgConnectOptions,
    psql_line: Option<String>,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let receiver = tokio::select! {
        started = Receiver::start(settings, database) => started?,
        () = shutdown.graceful.cancelled() => return Ok(()),
    };
    let (webhooks, admin) = (receiver.webhook_url(), receiver.admin_address());
    tracing::info!(%webhooks, %admin, version = env!("CARGO_PKG_VERSION"), "receiving");
    let open = settings.auth.allow_unauthenticated || !settings.auth.names_someone();
    if open {
        tracing::warn!(
            "webhooks are NOT authenticated: whoever reaches the port can post, through a proxy, too (auth.*)"
        );
    } else {
        let (secrets, tokens) = (settings.auth.webhook_secrets.0.len(), settings.auth.url_tokens.0.len());
        let secret_header = settings.auth.secret_header;
        tracing::info!(secrets, tokens, secret_header, "webhooks are authenticated");
        if settings.auth.webhook_secrets.shortest() < 16 {
            tracing::warn!("a webhook secret of less than 16 characters can be guessed");
        }
    }
    if let Some(psql) = psql_line {
        if open {
            println!(
                "\nSend a webhook:\n  curl -i {webhooks} -d \
                 '{{\"execution_id\":\"hello-1\",\"workflow_id\":\"demo\",\"status\":\"completed\"}}'"
            );
        }
        println!(
            "Look at the result, for example with SELECT * FROM executions;\n  {psql}\n\
             or over HTTP: http://{admin}/docs\n\
             Health and metrics:\n  curl http://{admin}/health/ready; curl http://{admin}/metrics\n"
        );
    }
    receiver.run(shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}

/// With no database named: on a private PostgreSQL, which stops after the receiver.
#[cfg(feature = "embedded-postgres")]
async fn serve_embedded(settings: &Settings, shutdown: &Shutdown) -> Result<(), Failure> {
    use workflow_receiver::embedded_postgres::Postgres;
    let dir = settings.database.embedded_dir.clone();
    let postgres = tokio::select! {
        started = tokio::task::spawn_blocking(move || Postgres::start(&dir)) => started??,
        () = shutdown.graceful.cancelled() => return Ok(()),
    };
    let database = postgres.connect_options();
    store::create_database(&database).await?;
    let served = tokio::select! {
        served = receive(settings, database, Some(postgres.psql_line()), shutdown) => served,
        () = postgres.ended() => Err("the private PostgreSQL ended: see its log in database.embedded_dir".into()),
    };
    tokio::select! {
        () = postgres.stop() => {}
        () = shutdown.immediate.cancelled() => {}
    }
    served
}
