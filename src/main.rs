//! The command line: `workflow-receiver [COMMAND]`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
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
    /// Say whether webhooks are taken and recorded, and how today went: exit code 1 if not all is well
    Status(commands::status::Status),
    /// List executions, the newest first, or show one with all that is known of it
    Executions(commands::executions::Executions),
    /// List bulks, the newest first, or show how far one is, what failed in it and what it made
    Bulks(commands::bulks::Bulks),
    /// Group failures: what failed how often, and why
    Failures(commands::failures::Failures),
    /// Tell which workflows cost most, failed most, or ran most
    Workflows(commands::workflows::Workflows),
    /// Look at what is no execution, mend it, or drop it
    #[command(subcommand)]
    Quarantine(commands::quarantine::Quarantine),
    /// Fill in what PostgreSQL refused of executions, once it accepts that: it was stored as bytes
    Repair(commands::repair::Repair),
    /// Look at the deliveries that wait for PostgreSQL in the spool
    #[command(subcommand)]
    Spool(commands::spool::Spool),
    /// Remove what has been kept long enough (retention.*), or say what that is
    Prune(commands::prune::Prune),
    /// Make a token for the URL that the sender is given (auth.url_tokens)
    NewToken,
    /// Write what makes a shell complete these commands
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write the manual pages
    Man {
        /// The directory they go to, such as /usr/local/share/man/man1
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
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
    // Whoever read has seen enough.
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
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
        Command::Status(status) => status.run(&settings()?).await,
        Command::Executions(executions) => executions.run(&settings()?).await,
        Command::Bulks(bulks) => bulks.run(&settings()?).await,
        Command::Failures(failures) => failures.run(&settings()?).await,
        Command::Workflows(workflows) => workflows.run(&settings()?).await,
        Command::Completions { shell } => commands::packaging::completions(*shell, Arguments::command()),
        Command::Man { directory } => commands::packaging::manual(directory, Arguments::command()),
        Command::Quarantine(quarantine) => quarantine.run(&commands::database(&settings()?)?).await,
        Command::Repair(repair) => repair.run(&commands::database(&settings()?)?).await,
        Command::Spool(spool) => spool.run(&settings()?),
        Command::Prune(prune) => {
            let settings = settings()?;
            prune.run(&commands::database(&settings)?, &settings.retention).await
        }
        Command::Migrate => {
            let settings = settings()?;
            telemetry::init(&settings.log)?;
            let database = settings.database.connect_options()?.ok_or(commands::NO_DATABASE)?;
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
        None => Err(commands::NO_DATABASE.into()),
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
        let although =
            if settings.auth.names_someone() { ", although secrets or tokens are set" } else { "" };
        tracing::warn!(
            "webhooks are NOT authenticated{although}: whoever reaches the port can post, through a proxy, too (auth.*)"
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
    use private_postgres::Postgres;
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
