//! `workflow-receiver quarantine`: looking at what is no execution, mending it, dropping it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

use bytes::Bytes;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::postgres::PgConnectOptions;
use time::format_description::well_known::Rfc3339;

use super::CommandError;
use crate::db::{DbConnection, Extracted, QuarantineEntry, Retried};
use crate::execution;

/// How many entries are read at once.
const PAGE: i64 = 1_000;

/// What to do with the quarantine.
#[derive(Debug, Subcommand)]
pub enum Quarantine {
    /// List what is in quarantine: number, when it first came, how it was answered, how often it came, size, and why
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Write the body of an entry to standard output, as it came
    Show {
        /// Its number
        id: i64,
    },
    /// Record entries that are executions now, by an upgrade or with a mapping, and take them out.
    /// Of an array, each element
    Retry(Retry),
    /// Delete entries, for good: not what was answered 200, nobody sends that again
    Drop {
        /// Their numbers
        #[arg(required = true)]
        ids: Vec<i64>,
    },
}

/// Which entries to try again, and how to read them.
#[derive(Debug, Args)]
pub struct Retry {
    /// Their numbers
    #[arg(required_unless_present_any = ["all", "acknowledged"])]
    ids: Vec<i64>,
    /// Try all that are in quarantine, but those whose bytes the spool's disk has altered
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Of these, try those that were answered 200: executions that PostgreSQL refused
    #[arg(long, conflicts_with = "ids")]
    acknowledged: bool,
    /// Read FIELD from where the body has it: a key, or a JSON pointer such as /data/0/id. Repeatable
    #[arg(long = "map", value_name = "FIELD=SOURCE", value_parser = pair)]
    maps: Vec<(String, String)>,
    /// Take VALUE, a text, for FIELD, where neither the body nor a mapping has any. Repeatable
    #[arg(long = "set", value_name = "FIELD=VALUE", value_parser = pair)]
    sets: Vec<(String, String)>,
}

fn pair(argument: &str) -> Result<(String, String), &'static str> {
    let (field, value) = argument.split_once('=').ok_or("must be like execution_id=executionId")?;
    if FIELDS.contains(&field) {
        Ok((field.to_owned(), value.to_owned()))
    } else {
        Err("the field must be one of execution_id, workflow_id, status, bulk_id, started_at, completed_at, \
             output, error, error_cause, total_cost")
    }
}

/// The fields of a body that become columns. Of `step_outputs` views read what came, so it cannot be mapped.
const FIELDS: [&str; 10] = [
    "execution_id",
    "workflow_id",
    "status",
    "bulk_id",
    "started_at",
    "completed_at",
    "output",
    "error",
    "error_cause",
    "total_cost",
];

impl Quarantine {
    /// Does it.
    ///
    /// # Errors
    /// What went wrong, in a sentence; for `retry`, also when an entry stays in quarantine.
    pub async fn run(&self, database: &PgConnectOptions) -> Result<(), CommandError> {
        let mut store = DbConnection::connect(database).await?;
        match self {
            Self::List { json } => list(&mut store, *json).await,
            Self::Show { id } => {
                let body = store.quarantined_body(*id).await?.ok_or_else(|| absent(*id))?;
                Ok(io::stdout().write_all(&body)?)
            }
            Self::Retry(retry) => retry.run(&mut store).await,
            Self::Drop { ids } => {
                let dropped = store.drop_quarantined(ids).await?;
                say(format_args!("dropped {}", dropped.len()));
                match ids.iter().find(|id| !dropped.contains(id)) {
                    Some(id) => Err(absent(*id).into()),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Prints a line; a closed standard output is ignored, since the work goes on.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn absent(id: i64) -> String {
    format!("there is no entry {id} in quarantine: `workflow-receiver quarantine list` shows those there are")
}

async fn list(store: &mut DbConnection, json: bool) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    let mut after = 0;
    if !json {
        writeln!(
            out,
            "{:>8}  {:<20}  {:>8}  {:>10}  {:>9}  reason",
            "id", "first received", "answered", "deliveries", "bytes"
        )?;
    }
    loop {
        let page = store.quarantined(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.quarantine_id;
        for entry in &page {
            let line = Line::of(entry)?;
            if json {
                writeln!(out, "{}", serde_json::to_string(&line)?)?;
            } else {
                let Line { quarantine_id, first_received_at, deliveries, bytes, reason, .. } = &line;
                let answered = if line.acknowledged { 200 } else { 422 };
                let first = first_received_at.get(..19).unwrap_or(first_received_at);
                writeln!(
                    out,
                    "{quarantine_id:>8}  {first:<19}Z  {answered:>8}  {deliveries:>10}  {bytes:>9}  {}",
                    reason.escape_debug()
                )?;
            }
        }
    }
}

/// An entry as `list --json` shows it: the columns of the table, but the size of the body.
#[derive(Serialize)]
struct Line<'a> {
    quarantine_id: i64,
    reason: &'a str,
    bytes: i32,
    authenticated_by: Option<&'a str>,
    acknowledged: bool,
    intact: bool,
    deliveries: i32,
    first_received_at: String,
    last_received_at: String,
}

impl<'a> Line<'a> {
    fn of(entry: &'a QuarantineEntry) -> Result<Self, time::error::Format> {
        Ok(Self {
            quarantine_id: entry.quarantine_id,
            reason: &entry.reason,
            bytes: entry.bytes,
            authenticated_by: entry.authenticated_by.as_deref(),
            acknowledged: entry.acknowledged,
            intact: entry.intact,
            deliveries: entry.deliveries,
            first_received_at: entry.first_received_at.format(&Rfc3339)?,
            last_received_at: entry.last_received_at.format(&Rfc3339)?,
        })
    }
}

impl Retry {
    async fn run(&self, store: &mut DbConnection) -> Result<(), CommandError> {
        store.limit_lock_waits().await?;
        let (mut recorded, mut stayed) = (0_u64, 0_u64);
        let (mut after, mut ids) = (0, self.ids.clone());
        loop {
            if self.all || self.acknowledged {
                let page = store.quarantined(after, PAGE).await?;
                let Some(last) = page.last() else { break };
                after = last.quarantine_id;
                ids = page
                    .iter()
                    .filter(|entry| entry.intact && (entry.acknowledged || !self.acknowledged))
                    .map(|entry| entry.quarantine_id)
                    .collect();
            }
            for id in &ids {
                match store.retry_quarantined(*id, |body| self.find(body)).await? {
                    Retried::Recorded(executions) => {
                        recorded += 1;
                        for (execution_id, outcome) in executions {
                            let outcome = outcome.as_str();
                            say(format_args!(
                                "{id}: recorded as {} ({outcome})",
                                execution_id.escape_debug()
                            ));
                        }
                    }
                    Retried::Retained(why) => {
                        stayed += 1;
                        say(format_args!("{id}: stays in quarantine: {}", why.escape_debug()));
                    }
                    Retried::Absent => {
                        stayed += 1;
                        say(format_args!("{}", absent(*id)));
                    }
                }
            }
            if !self.all && !self.acknowledged {
                break;
            }
        }
        say(format_args!("recorded {recorded}, not recorded {stayed}"));
        if stayed == 0 { Ok(()) } else { Err(format!("{stayed} could not be recorded").into()) }
    }

    /// The executions in a body: itself, or the elements of an array.
    fn find(&self, body: &[u8]) -> Result<Vec<Extracted>, String> {
        let text = execution::text(body).map_err(|why| why.to_string())?.trim();
        let parts = if text.starts_with('[') {
            let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(|e| e.to_string())?;
            elements.iter().map(|element| element.get()).collect()
        } else {
            vec![text]
        };
        let found = |part: &&str| {
            let repaired = self.mended(part)?;
            Ok(Extracted { repaired, original: Bytes::copy_from_slice(part.as_bytes()) })
        };
        parts.iter().map(found).collect()
    }

    /// The text to read in place of `text`: its own, with what was mapped and set.
    fn mended(&self, text: &str) -> Result<Bytes, String> {
        if self.maps.is_empty() && self.sets.is_empty() {
            return Ok(Bytes::copy_from_slice(text.as_bytes()));
        }
        let raw = |text: &str| RawValue::from_string(text.to_owned()).map_err(|e| e.to_string());
        let object = |e| format!("only a JSON object can be mapped: {e}");
        let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).map_err(object)?;
        for (field, source) in &self.maps {
            let pointer =
                if source.starts_with('/') { source.clone() } else { format!("/{}", escaped(source)) };
            if let Some(value) = at(text, &pointer) {
                fields.insert(field.clone(), raw(value)?);
            }
        }
        for (field, value) in &self.sets {
            let value = serde_json::to_string(value).map_err(|e| e.to_string())?;
            // What the sender said is never overruled.
            let said = fields.get(field).is_some_and(|value| value.get() != "null");
            if !said {
                fields.insert(field.clone(), raw(&value)?);
            }
        }
        serde_json::to_vec(&fields).map(Bytes::from).map_err(|e| e.to_string())
    }
}

/// A key as a JSON pointer (RFC 6901) has it.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The JSON text at a pointer, as it was written.
fn at<'t>(text: &'t str, pointer: &str) -> Option<&'t str> {
    let mut text = text.trim();
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        text = if text.starts_with('[') {
            serde_json::from_str::<Vec<&RawValue>>(text).ok()?.get(step.parse::<usize>().ok()?)?.get()
        } else {
            serde_json::from_str::<BTreeMap<String, &RawValue>>(text).ok()?.get(&step)?.get()
        };
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_finds_a_field_where_the_body_has_it_and_keeps_it_as_written() {
        let retry = |maps: &[&str], sets: &[&str]| Retry {
            ids: vec![1],
            all: false,
            acknowledged: false,
            maps: maps.iter().map(|m| pair(m).unwrap()).collect(),
            sets: sets.iter().map(|s| pair(s).unwrap()).collect(),
        };
        let body = r#"{"data":[{"a/b~c":{"id":"x"}}],"cost":1.10,"status":"failed"}"#;
        let sets = ["workflow_id=w", "status=completed", "execution_id=no"];
        let mended =
            retry(&["execution_id=/data/0/a~1b~0c/id", "total_cost=cost"], &sets).mended(body).unwrap();
        let execution = crate::execution::Execution::parse(&mended).unwrap();
        assert_eq!((&*execution.execution_id, &*execution.status), ("x", "failed"));
        assert_eq!(execution.total_cost, Some("1.10"));
        let each = retry(&["execution_id=id"], &["workflow_id=w", "status=completed"]);
        let found = each.find(br#" [{"id":"y"}, {"id":"z"}]"#).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(crate::execution::Execution::parse(&found[1].repaired).unwrap().execution_id, "z");
        assert_eq!(&*found[1].original, br#"{"id":"z"}"#);
        assert!(each.find(b"[1]").is_err() && each.find(b"7").is_err());
        assert!(pair("executionId=x").is_err() && pair("status").is_err());
    }
}
