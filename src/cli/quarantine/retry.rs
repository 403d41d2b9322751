//! `workflow-receiver quarantine retry`

use std::collections::BTreeSet;

use clap::Args;
use parking_lot::Mutex;

use super::{ACTOR, absent, list};
use crate::cli::CommandError;
use crate::cli::output::print_line;
use crate::db::{DbConnection, Retried, RetryMode};
use crate::execution::mapping::{Extracted, FIELDS, Mapping, parse_pair};
use crate::logging::printable;

/// Arguments of `quarantine retry`.
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "help texts are plain text")]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command")]
pub(crate) struct Retry {
    /// The numbers of the entries
    #[arg(required_unless_present_any = ["all", "acknowledged"], value_name = "NUMBER")]
    ids: Vec<i64>,
    /// Retry all entries, except those damaged on the spool's disk and unsigned webhooks that were not confirmed
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Show what would be recorded, but change nothing
    #[arg(long)]
    dry_run: bool,
    /// Also record executions whose bulk_id or output the mapping does not read
    #[arg(long)]
    force: bool,
    /// Retry all entries answered 200 (PostgreSQL refused them), except damaged ones and unsigned webhooks that were not
    /// confirmed
    #[arg(long, conflicts_with = "ids")]
    acknowledged: bool,
    #[arg(long = "map", value_name = "FIELD=SOURCE", value_parser = parse_pair, help = help_of_map())]
    maps: Vec<(String, String)>,
    /// Set FIELD to the string VALUE if the body and the mappings have no value. Repeatable
    #[arg(long = "set", value_name = "FIELD=VALUE", value_parser = parse_pair)]
    sets: Vec<(String, String)>,
}

fn help_of_map() -> String {
    let fields = FIELDS.join(", ");
    format!(
        "Read FIELD from SOURCE: a key of the body, or a JSON pointer like /data/0/id. Repeatable. Fields: {fields}"
    )
}

#[derive(Default)]
struct Tally {
    recorded: u64,
    /// Unsigned deliveries that wait for their verification again.
    unverified: u64,
    not_recorded: u64,
}

impl Retry {
    pub(super) async fn run(&self, connection: &mut DbConnection) -> Result<(), CommandError> {
        let mapping = Mapping { maps: &self.maps, sets: &self.sets };
        let mut tally = Tally::default();
        let entries = match (self.all, self.acknowledged) {
            (true, _) => "--all".to_owned(),
            (_, true) => "--acknowledged".to_owned(),
            _ => list(&self.ids),
        };
        let audit_id = if self.dry_run {
            None
        } else {
            Some(connection.begin_audit(ACTOR, "quarantine.retry", &mapping.describe(&entries)).await?)
        };
        let is_selected = self.all || self.acknowledged;
        let ids = if is_selected { connection.retriable(self.acknowledged).await? } else { self.ids.clone() };
        for id in ids {
            self.retry(connection, id, &mapping, &mut tally).await?;
        }
        let Tally { recorded, unverified, not_recorded } = tally;
        if unverified > 0 {
            let verb = if self.dry_run { "would wait" } else { "wait" };
            print_line(format_args!("{unverified} unsigned webhooks {verb} until each::labs confirms them"));
        }
        if let Some(audit_id) = audit_id {
            let is_success = recorded + unverified > 0 || not_recorded == 0;
            let result = format!("recorded {recorded}, not recorded {not_recorded}");
            connection.end_audit(audit_id, is_success, &result).await?;
            print_line(result);
        } else {
            print_line(format_args!(
                "would record {recorded}, would not record {not_recorded}. Nothing is changed"
            ));
        }
        if not_recorded == 0 { Ok(()) } else { Err(format!("{not_recorded} could not be recorded").into()) }
    }

    /// The executions in a body. Adds the keys that the mapping does not read to `ignored`.
    fn extract(
        &self,
        mapping: &Mapping<'_>,
        body: &[u8],
        ignored: &Mutex<BTreeSet<String>>,
    ) -> Result<Vec<Extracted>, String> {
        let extracted = mapping.extract(body, self.force).map_err(|why| why.to_string())?;
        // Without a mapping, the body is recorded as it was received.
        for part in extracted.iter().filter(|_| !mapping.is_empty()) {
            ignored.lock().extend(part.ignored.iter().cloned());
        }
        Ok(extracted)
    }

    async fn retry(
        &self,
        connection: &mut DbConnection,
        id: i64,
        mapping: &Mapping<'_>,
        tally: &mut Tally,
    ) -> Result<(), CommandError> {
        let ignored = Mutex::default();
        let extract = |body: &[u8]| self.extract(mapping, body, &ignored);
        let mode = if self.dry_run { RetryMode::Preview } else { RetryMode::Record { by: ACTOR } };
        match connection.retry_quarantined(id, mode, extract).await? {
            Retried::Recorded(executions) => {
                tally.recorded += 1;
                let verb = if self.dry_run { "would be recorded" } else { "recorded" };
                for (execution_id, disposition) in executions {
                    let (execution, disposition) = (printable(&execution_id), disposition.as_str());
                    print_line(format_args!("{id}: {verb} as {execution} ({disposition})"));
                }
                let ignored: Vec<_> = ignored.into_inner().into_iter().collect();
                if !ignored.is_empty() {
                    let keys = ignored.join(", ");
                    print_line(format_args!("{id}: not read, only in the payload: {}", printable(&keys)));
                }
            }
            Retried::Unverified => tally.unverified += 1,
            Retried::Retained(why) => {
                tally.not_recorded += 1;
                print_line(format_args!("{id}: stays in quarantine: {}", printable(&why)));
            }
            Retried::Absent => {
                tally.not_recorded += 1;
                print_line(absent(id));
            }
        }
        Ok(())
    }
}
