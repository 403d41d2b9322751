//! `workflow-receiver quarantine retry`

use clap::Args;

use super::{PAGE, absent};
use crate::cli::CommandError;
use crate::cli::output::print_line;
use crate::db::{DbConnection, Retried, RetryMode};
use crate::execution::mapping::{FIELDS, Mapping, parse_pair};
use crate::logging::printable;

/// Arguments of `quarantine retry`.
#[derive(Debug, Args)]
pub struct Retry {
    /// The numbers of the entries
    #[arg(required_unless_present_any = ["all", "acknowledged"], value_name = "NUMBER")]
    ids: Vec<i64>,
    /// Retry all entries, except those damaged on the spool's disk
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Retry all entries answered 200 (executions that PostgreSQL refused), except damaged ones
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
    not_recorded: u64,
}

impl Retry {
    pub(super) async fn run(&self, connection: &mut DbConnection) -> Result<(), CommandError> {
        let mapping = Mapping { maps: &self.maps, sets: &self.sets };
        let mut tally = Tally::default();
        let (mut after, mut ids) = (0, self.ids.clone());
        loop {
            if self.all || self.acknowledged {
                let page = connection.quarantined(after, PAGE).await?;
                let Some(last) = page.last() else { break };
                after = last.quarantine_id;
                ids = page
                    .iter()
                    .filter(|entry| entry.intact && (entry.acknowledged || !self.acknowledged))
                    .map(|entry| entry.quarantine_id)
                    .collect();
            }
            for id in &ids {
                retry(connection, *id, &mapping, &mut tally).await?;
            }
            if !self.all && !self.acknowledged {
                break;
            }
        }
        let Tally { recorded, not_recorded } = tally;
        print_line(format_args!("recorded {recorded}, not recorded {not_recorded}"));
        if not_recorded == 0 { Ok(()) } else { Err(format!("{not_recorded} could not be recorded").into()) }
    }
}

async fn retry(
    connection: &mut DbConnection,
    id: i64,
    mapping: &Mapping<'_>,
    tally: &mut Tally,
) -> Result<(), CommandError> {
    match connection.retry_quarantined(id, RetryMode::Record, |body| mapping.extract(body)).await? {
        Retried::Recorded(executions) => {
            tally.recorded += 1;
            for (execution_id, disposition) in executions {
                let (execution, disposition) = (printable(&execution_id), disposition.as_str());
                print_line(format_args!("{id}: recorded as {execution} ({disposition})"));
            }
        }
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
