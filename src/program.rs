//! The command line: `workflow-receiver [COMMAND]`.

use std::io;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::cli::{self, CommandError, print_line};
use crate::config::Settings;
#[cfg(feature = "private-postgres")]
use crate::private_database;
use crate::receive::receive;
use crate::shutdown::Shutdown;
use crate::{db, logging};

/// Receives each::labs workflow webhooks and records them in PostgreSQL, durably.
#[derive(Parser)]
#[expect(clippy::doc_markdown, reason = "help texts are plain text")]
#[command(version)]
struct Arguments {
    /// TOML file with settings. Environment variables (RECEIVER__SECTION__KEY, DATABASE_URL) override it
    #[arg(long, value_name = "FILE", global = true, help_heading = "Global options", display_order = 1000)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
#[expect(clippy::doc_markdown, reason = "help texts are plain text")]
enum Command {
    /// Receive webhooks (the default command)
    Serve,
    /// Create or update the database schema
    Migrate,
    /// Check whether the running receiver accepts webhooks: exit code 0 or 1
    Healthcheck,
    /// Show the health of receiver and database, and today's counts: exit code 1 if there are problems
    #[command(after_long_help = cli::examples::STATUS)]
    Status(cli::status::Status),
    /// List executions, newest first, or show one
    #[command(after_long_help = cli::examples::EXECUTIONS)]
    Executions(cli::executions::Executions),
    /// List the outputs of executions and predictions, newest first
    #[command(after_long_help = cli::examples::RESULTS)]
    Results(cli::results::Results),
    /// List predictions (executions of a single model), newest first, or show one
    Predictions(cli::predictions::Predictions),
    /// List bulks and their progress, newest first, or show one
    #[command(after_long_help = cli::examples::BULKS)]
    Bulks(cli::bulks::Bulks),
    /// List executions that were triggered and registered: arrived, missing, overdue or rejected
    #[command(after_long_help = cli::examples::EXPECTED)]
    Expected(cli::expected::Expected),
    /// Register the responses of trigger and bulk-trigger: bulks get their size, and missing executions are listed
    #[command(after_long_help = cli::examples::REGISTER)]
    Register(cli::register::Register),
    /// Trigger an execution through the API of each::labs, and register it
    #[command(after_long_help = cli::examples::TRIGGER)]
    Trigger(cli::trigger::Trigger),
    /// Trigger several executions through the API of each::labs, and register the bulk
    #[command(after_long_help = cli::examples::BULK_TRIGGER)]
    BulkTrigger(cli::trigger::BulkTrigger),
    /// Write all executions, predictions, results or bulks as JSON Lines or CSV, or the URLs of results
    #[command(after_long_help = cli::examples::EXPORT)]
    Export(cli::export::ExportArgs),
    /// Print changes of executions and bulks as they are recorded
    #[command(after_long_help = cli::examples::FOLLOW)]
    Follow(cli::follow::Follow),
    /// Count failures by cause, step or model
    #[command(after_long_help = cli::examples::FAILURES)]
    Failures(cli::failures::Failures),
    /// List workflows by cost, failures or executions
    #[command(after_long_help = cli::examples::WORKFLOWS)]
    Workflows(cli::workflows::Workflows),
    /// List webhooks that contradict a recorded execution, newest first
    #[command(after_long_help = cli::examples::CONFLICTS)]
    Conflicts(cli::conflicts::Conflicts),
    /// List, show, record or delete webhooks that could not be recorded, or undo a retry
    #[command(subcommand, after_long_help = cli::examples::QUARANTINE)]
    Quarantine(cli::quarantine::Quarantine),
    /// Fill in columns that PostgreSQL refused earlier, from payload_bytes
    Repair(cli::repair::Repair),
    /// Fetch executions whose webhook did not arrive. Needs eachlabs.api_key and a running receiver
    #[command(after_long_help = cli::examples::RECONCILE)]
    Reconcile(cli::reconcile::Reconcile),
    /// List or show deliveries in the spool that are not in PostgreSQL yet
    #[command(subcommand)]
    Spool(cli::spool::Spool),
    /// Remove rows that are older than the retention.* settings
    Prune(cli::prune::Prune),
    /// Send a test webhook to the running receiver, authenticated with the first secret or token
    #[command(after_long_help = cli::examples::SEND_TEST)]
    SendTest(cli::send_test::SendTest),
    /// Show the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a new token for auth.url_tokens or admin.token. Instructions go to standard error
    NewToken,
    /// Print the token of the admin port (admin.token or admin.token_file)
    AdminToken,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages
    Man {
        /// Directory for the pages, such as /usr/local/share/man/man1
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print the settings in force as TOML, without secrets
    Show,
}

/// Runs the command that the arguments of the process name.
#[must_use]
pub fn main() -> ExitCode {
    logging::log_panics();
    let arguments = Arguments::parse();
    // Flush the log even if this thread panics.
    let code = match catch_unwind(|| start(&arguments)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => exit_code(&error),
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
    let result = runtime.block_on(run(arguments, &shutdown));
    // Do not wait for blocking tasks after an immediate stop.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

fn exit_code(error: &CommandError) -> ExitCode {
    // The reader of standard output closed the pipe (`| head`): not an error.
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    logging::print(&format!("workflow-receiver: {error}"));
    ExitCode::FAILURE
}

async fn run(arguments: &Arguments, shutdown: &Shutdown) -> Result<(), CommandError> {
    let settings = || Settings::load(arguments.config.as_deref());
    match arguments.command.as_ref().unwrap_or(&Command::Serve) {
        Command::NewToken => {
            cli::new_token::new_token();
            Ok(())
        }
        Command::AdminToken => {
            print_line(cli::admin_token::admin_token(&settings()?.admin)?);
            Ok(())
        }
        Command::Healthcheck => {
            print_line(cli::healthcheck::healthcheck(&settings()?.admin).await?);
            Ok(())
        }
        Command::Status(status) => status.run(&settings()?).await,
        Command::Executions(executions) => executions.run(&settings()?).await,
        Command::Bulks(bulks) => bulks.run(&settings()?).await,
        Command::Results(results) => results.run(&settings()?).await,
        Command::Predictions(predictions) => predictions.run(&settings()?).await,
        Command::Expected(expected) => expected.run(&settings()?).await,
        Command::Register(register) => register.run(&settings()?).await,
        Command::Trigger(trigger) => trigger.run(&settings()?).await,
        Command::BulkTrigger(trigger) => trigger.run(&settings()?).await,
        Command::Export(export) => export.run(&settings()?).await,
        Command::Follow(follow) => follow.run(&settings()?).await,
        Command::Conflicts(conflicts) => conflicts.run(&settings()?).await,
        Command::Failures(failures) => failures.run(&settings()?).await,
        Command::Workflows(workflows) => workflows.run(&settings()?).await,
        Command::Completions { shell } => cli::packaging::completions(*shell, Arguments::command()),
        Command::Man { directory } => cli::packaging::manual(directory, Arguments::command()),
        Command::Quarantine(quarantine) => quarantine.run(&settings()?).await,
        Command::SendTest(send) => send.run(&settings()?).await,
        Command::Config(ConfigCommand::Show) => {
            print_line(Settings::load_as_toml(arguments.config.as_deref())?.trim_end());
            Ok(())
        }
        Command::Repair(repair) => repair.run(&cli::database(&settings()?)?).await,
        Command::Reconcile(reconcile) => reconcile.run(&settings()?).await,
        Command::Spool(spool) => spool.run(&settings()?),
        Command::Prune(prune) => {
            let settings = settings()?;
            prune.run(&cli::database(&settings)?, &settings.retention).await
        }
        Command::Migrate => {
            let settings = settings()?;
            logging::init(&settings.log)?;
            let servers = settings.database.servers()?.ok_or(cli::NO_DATABASE)?;
            db::migrate(&db::Database::new(servers, settings.database.connect_timeout)).await?;
            print_line("the schema is up to date");
            Ok(())
        }
        Command::Serve => {
            let settings = Settings::load_to_serve(arguments.config.as_deref())?;
            logging::init(&settings.log)?;
            if settings.admin.token_created {
                let file = settings.admin.token_file.display();
                tracing::info!(%file, "created admin.token_file; `workflow-receiver admin-token` prints the token");
            }
            settings.require_auth_off_loopback()?;
            serve(&settings, shutdown).await
        }
    }
}

async fn serve(settings: &Settings, shutdown: &Shutdown) -> Result<(), CommandError> {
    match settings.database.servers()? {
        Some(database) => receive(settings, database, None, shutdown).await,
        #[cfg(feature = "private-postgres")]
        None => private_database::serve(settings, shutdown).await,
        #[cfg(not(feature = "private-postgres"))]
        None => Err(cli::NO_DATABASE.into()),
    }
}
