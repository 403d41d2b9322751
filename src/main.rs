//! The command line: `workflow-receiver [COMMAND]`.

use std::fmt::{Display, Write as _};
use std::io::{self, Write};
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use sqlx::postgres::PgConnectOptions;
use workflow_receiver::cli::{self, CommandError};
use workflow_receiver::config::Settings;
use workflow_receiver::server::Server;
use workflow_receiver::shutdown::Shutdown;
use workflow_receiver::{db, logging};

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
    Status(cli::status::Status),
    /// List executions, the newest first, or show one with all that is known of it
    Executions(cli::executions::Executions),
    /// List bulks, the newest first, or show how far one is, what failed in it and what it made
    Bulks(cli::bulks::Bulks),
    /// Group failures: what failed how often, and why
    Failures(cli::failures::Failures),
    /// Tell which workflows cost most, failed most, or ran most
    Workflows(cli::workflows::Workflows),
    /// Look at what is no execution, mend it, or drop it
    #[command(subcommand)]
    Quarantine(cli::quarantine::Quarantine),
    /// Fill in what PostgreSQL refused of executions, once it accepts that: it was stored as bytes
    Repair(cli::repair::Repair),
    /// Look at the deliveries that wait for PostgreSQL in the spool
    #[command(subcommand)]
    Spool(cli::spool::Spool),
    /// Remove what has been kept long enough (retention.*), or say what that is
    Prune(cli::prune::Prune),
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
    logging::log_panics();
    let arguments = Arguments::parse();
    // A panic of this thread must not skip the last lines.
    let code = match catch_unwind(|| start(&arguments)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => failed(&error),
        Err(_) => ExitCode::from(101),
    };
    logging::flush();
    code
}

fn start(arguments: &Arguments) -> Result<(), CommandError> {
    let shutdown = Shutdown::default();
    if matches!(arguments.command, None | Some(Command::Serve)) {
        // Before anything else, so that no signal is missed.
        shutdown.follow_signals()?;
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let ended = runtime.block_on(run(arguments, &shutdown));
    // Do not wait for blocking tasks after an immediate stop.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

fn failed(error: &CommandError) -> ExitCode {
    // The reader of standard output closed the pipe (`| head`): not an error.
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    logging::print(&format!("workflow-receiver: {error}"));
    ExitCode::FAILURE
}

/// Writes the one line of a command that has done its work: a failure to write it does not change the exit code.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

async fn run(arguments: &Arguments, shutdown: &Shutdown) -> Result<(), CommandError> {
    let settings = || Settings::load(arguments.config.as_deref());
    match arguments.command.as_ref().unwrap_or(&Command::Serve) {
        Command::NewToken => {
            say(cli::new_token::new_token());
            Ok(())
        }
        Command::Healthcheck => {
            say(cli::healthcheck::healthcheck(&settings()?.admin).await?);
            Ok(())
        }
        Command::Status(status) => status.run(&settings()?).await,
        Command::Executions(executions) => executions.run(&settings()?).await,
        Command::Bulks(bulks) => bulks.run(&settings()?).await,
        Command::Failures(failures) => failures.run(&settings()?).await,
        Command::Workflows(workflows) => workflows.run(&settings()?).await,
        Command::Completions { shell } => cli::packaging::completions(*shell, Arguments::command()),
        Command::Man { directory } => cli::packaging::manual(directory, Arguments::command()),
        Command::Quarantine(quarantine) => quarantine.run(&cli::database(&settings()?)?).await,
        Command::Repair(repair) => repair.run(&cli::database(&settings()?)?).await,
        Command::Spool(spool) => spool.run(&settings()?),
        Command::Prune(prune) => {
            let settings = settings()?;
            prune.run(&cli::database(&settings)?, &settings.retention).await
        }
        Command::Migrate => {
            let settings = settings()?;
            logging::init(&settings.log)?;
            let database = settings.database.connect_options()?.ok_or(cli::NO_DATABASE)?;
            db::migrate(&database).await?;
            say("the schema is up to date");
            Ok(())
        }
        Command::Serve => {
            let settings = settings()?;
            logging::init(&settings.log)?;
            settings.require_auth_off_loopback()?;
            serve(&settings, shutdown).await
        }
    }
}

async fn serve(settings: &Settings, shutdown: &Shutdown) -> Result<(), CommandError> {
    match settings.database.connect_options()? {
        Some(database) => receive(settings, database, None, shutdown).await,
        #[cfg(feature = "embedded-postgres")]
        None => serve_embedded(settings, shutdown).await,
        #[cfg(not(feature = "embedded-postgres"))]
        None => Err(cli::NO_DATABASE.into()),
    }
}

async fn receive(
    settings: &Settings,
    database: PgConnectOptions,
    psql_line: Option<String>,
    shutdown: &Shutdown,
) -> Result<(), CommandError> {
    let receiver = tokio::select! {
        started = Server::start(settings, database) => started?,
        () = shutdown.graceful.cancelled() => return Ok(()),
    };
    let (webhooks, admin) = (receiver.webhook_url(), receiver.admin_address());
    tracing::info!(%webhooks, %admin, version = env!("CARGO_PKG_VERSION"), "receiving");
    let open = settings.auth.allow_unauthenticated || !settings.auth.is_configured();
    if !open {
        let (secrets, tokens) = (settings.auth.webhook_secrets.0.len(), settings.auth.url_tokens.0.len());
        let secret_header = settings.auth.secret_header;
        tracing::info!(secrets, tokens, secret_header, "webhooks are authenticated");
        if settings.auth.webhook_secrets.shortest() < 16 {
            tracing::warn!("a webhook secret of less than 16 characters can be guessed");
        }
    } else if settings.auth.is_configured() {
        tracing::warn!(
            "Anyone who can reach this port can post webhooks (also through a proxy), although auth.webhook_secrets or \
             auth.url_tokens are set. Set auth.allow_unauthenticated = false."
        );
    } else {
        tracing::warn!(
            "Anyone who can reach this port can post webhooks (also through a proxy). Set auth.webhook_secrets or \
             auth.url_tokens."
        );
    }
    if let Some(psql) = psql_line {
        show_first_steps(open, &webhooks, &admin.to_string(), &psql);
    }
    receiver.run(shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Writes to standard output what a first user can do next. On a thread of its own: the terminal may be stopped.
fn show_first_steps(open: bool, webhooks: &str, admin: &str, psql: &str) {
    let mut text = String::new();
    if open {
        let _ = writeln!(
            text,
            "\nSend a webhook:\n  curl -i {webhooks} -d \
             '{{\"execution_id\":\"hello-1\",\"workflow_id\":\"demo\",\"status\":\"completed\"}}'"
        );
    }
    let _ = writeln!(
        text,
        "Look at the result, for example with SELECT * FROM executions;\n  {psql}\n\
         or over HTTP: http://{admin}/docs\n\
         Health and metrics:\n  curl http://{admin}/health/ready; curl http://{admin}/metrics\n"
    );
    let write = move || drop(io::stdout().write_all(text.as_bytes()));
    let _ = std::thread::Builder::new().name("stdout".into()).spawn(write);
}

/// With no database named: on a private PostgreSQL, which stops after the receiver.
#[cfg(feature = "embedded-postgres")]
async fn serve_embedded(settings: &Settings, shutdown: &Shutdown) -> Result<(), CommandError> {
    use private_postgres::Postgres;
    let dir = settings.database.embedded_dir.clone();
    let postgres = tokio::select! {
        started = tokio::task::spawn_blocking(move || Postgres::start(&dir)) => started??,
        () = shutdown.graceful.cancelled() => return Ok(()),
    };
    let database = postgres.connect_options();
    db::create_database(&database).await?;
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
