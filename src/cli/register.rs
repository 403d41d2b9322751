//! `workflow-receiver register`

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::{Deserializer, Map, Value};

use super::output::Output;
use super::{CommandError, database};
use crate::config::Settings;
use crate::db::{DbConnection, Registered};
use crate::logging::printable;
use crate::trigger::Triggered;

/// Arguments of `register`.
#[derive(Debug, Args)]
pub(crate) struct Register {
    /// File with responses of trigger or bulk-trigger, one after the other; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    caller: CallerArgs,
    /// The workflow that was triggered
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    workflow: Option<String>,
    /// Print one JSON object for each response
    #[arg(long)]
    json: bool,
}

/// The caller's reference.
#[derive(Debug, Args)]
pub(super) struct CallerArgs {
    /// Reference for every input without one, such as order=1234. Repeatable
    #[arg(long = "reference", value_name = "NAME=VALUE", value_parser = parse_pair)]
    references: Vec<(String, String)>,
}

fn parse_pair(argument: &str) -> Result<(String, String), &'static str> {
    let pair = argument.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or("must be NAME=VALUE")
}

impl CallerArgs {
    pub(super) fn apply(&self, triggered: &mut Triggered) {
        if !self.references.is_empty() {
            let pairs = self.references.iter().map(|(name, value)| (name.clone(), Value::from(&**value)));
            triggered.set_missing_references(&Value::Object(pairs.collect::<Map<_, _>>()).to_string());
        }
    }
}

impl Register {
    /// Registers the responses in their order. It also works while the receiver is stopped.
    ///
    /// # Errors
    /// If a response cannot be parsed, contradicts a registered one, or PostgreSQL does not answer. Earlier responses of
    /// the file stay registered; running the command again is safe.
    pub(crate) async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let text = read(&self.file)?;
        let mut connection = DbConnection::for_command(&database(settings)?).await?;
        let mut output = Output::new();
        for (n, response) in Deserializer::from_slice(&text).into_iter::<Value>().enumerate() {
            let number = n + 1;
            let response = response.map_err(|error| {
                format!("response {number} is not JSON (line {}, column {})", error.line(), error.column())
            })?;
            let mut triggered =
                Triggered::of(&response).map_err(|error| format!("response {number}: {error}"))?;
            self.caller.apply(&mut triggered);
            triggered.workflow_id = triggered.workflow_id.or_else(|| self.workflow.clone());
            let registered = connection.register(&triggered, settings.expected.overdue_after).await?;
            let registered = registered.map_err(|error| format!("response {number}: {error}"))?;
            if self.json {
                output.json(&registered)?;
            } else {
                output.key_values(&[("registered", sentence(&registered))])?;
            }
            output.flush()?;
        }
        Ok(())
    }
}

/// Reads a file, or standard input for `-`.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, CommandError> {
    let mut text = Vec::new();
    if file == Path::new("-") {
        io::stdin().read_to_end(&mut text)?;
    } else {
        text = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    if text.trim_ascii().is_empty() {
        return Err(format!("{}: the file is empty", file.display()).into());
    }
    Ok(text)
}

pub(super) fn sentence(registered: &Registered) -> String {
    let Registered { bulk_id, expected, rejected, is_new } = registered;
    let mut text = match bulk_id {
        Some(bulk_id) => format!("bulk {}: {expected} expected, {rejected} rejected", printable(bulk_id)),
        None => format!("{expected} expected"),
    };
    if !is_new {
        text += " (already registered)";
    }
    text
}
