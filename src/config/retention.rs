//! `[retention]`

use std::time::Duration;

use humantime_serde::re::humantime::{format_duration, parse_duration};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{SettingsError, not_allowed};

const DAY: Duration = Duration::from_hours(24);
/// Longer durations are probably typing errors.
const MAX: Duration = Duration::from_hours(24 * 36_525);

/// How long rows stay in PostgreSQL; `None` is forever.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    #[serde(deserialize_with = "duration_or_forever", serialize_with = "or_forever")]
    pub payloads: Option<Duration>,
    #[serde(deserialize_with = "duration_or_forever", serialize_with = "or_forever")]
    pub executions: Option<Duration>,
    #[serde(deserialize_with = "duration_or_forever", serialize_with = "or_forever")]
    pub conflicts: Option<Duration>,
    #[serde(deserialize_with = "duration_or_forever", serialize_with = "or_forever")]
    pub quarantine: Option<Duration>,
    #[serde(deserialize_with = "duration_or_forever", serialize_with = "or_forever")]
    pub changes: Option<Duration>,
}

fn duration_or_forever<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "forever" {
        return Ok(None);
    }
    let duration = parse_duration(&text);
    duration.map(Some).map_err(|_| D::Error::custom("must be \"forever\" or a duration in days, like 90d"))
}

#[expect(clippy::ref_option, reason = "serde's signature")]
fn or_forever<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.collect_str(&format_duration(*duration)),
        None => serializer.serialize_str("forever"),
    }
}

impl Retention {
    #[must_use]
    pub fn removes_something(&self) -> bool {
        let Self { payloads, executions, conflicts, quarantine, changes } = self;
        [payloads, executions, conflicts, quarantine, changes].into_iter().any(Option::is_some)
    }

    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let bounds = "must be from 1d to 100y, or \"forever\" (m: minutes, M: months)";
        let bounds_of_executions = format!(
            "{bounds}. The sender retries for minutes: a retry after the removal of its execution would be recorded as \
             new"
        );
        for (key, duration, allowed) in [
            ("retention.payloads", self.payloads, bounds),
            ("retention.executions", self.executions, &bounds_of_executions),
            ("retention.conflicts", self.conflicts, bounds),
            ("retention.quarantine", self.quarantine, bounds),
            ("retention.changes", self.changes, bounds),
        ] {
            match duration {
                Some(duration) if !(DAY..=MAX).contains(&duration) => {
                    return not_allowed(key, format_duration(duration), allowed);
                }
                _ => {}
            }
        }
        Ok(())
    }
}
