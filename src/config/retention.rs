//! `[retention]`: how long what is recorded is kept.

use std::time::Duration;

use humantime_serde::re::humantime::{format_duration, parse_duration};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::error::{SettingsError, not_allowed};

const DAY: Duration = Duration::from_hours(24);
/// A typing error, more likely than a wish.
const LONGEST: Duration = Duration::from_hours(24 * 36_525);

/// `[retention]`: `None` is for ever.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    #[serde(deserialize_with = "kept_for")]
    pub payloads: Option<Duration>,
    #[serde(deserialize_with = "kept_for")]
    pub executions: Option<Duration>,
    #[serde(deserialize_with = "kept_for")]
    pub conflicts: Option<Duration>,
    #[serde(deserialize_with = "kept_for")]
    pub quarantine: Option<Duration>,
}

fn kept_for<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "forever" {
        return Ok(None);
    }
    let duration = parse_duration(&text);
    duration.map(Some).map_err(|_| D::Error::custom("must be \"forever\", or a duration in days, like 90d"))
}

impl Retention {
    /// Whether anything is ever to be removed.
    #[must_use]
    pub fn removes_something(&self) -> bool {
        let Self { payloads, executions, conflicts, quarantine } = self;
        [payloads, executions, conflicts, quarantine].into_iter().any(Option::is_some)
    }

    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let bounds = "must be from 1d to 100y, or \"forever\"; 90m are minutes, 3M months";
        let repeated = format!(
            "{bounds}. The sender repeats a delivery for minutes, and one that comes after its execution is \
             removed would be recorded as new"
        );
        for (key, kept, allowed) in [
            ("retention.payloads", self.payloads, bounds),
            ("retention.executions", self.executions, &repeated),
            ("retention.conflicts", self.conflicts, bounds),
            ("retention.quarantine", self.quarantine, bounds),
        ] {
            match kept {
                Some(kept) if !(DAY..=LONGEST).contains(&kept) => {
                    return not_allowed(key, &format_duration(kept).to_string(), allowed.to_owned());
                }
                _ => {}
            }
        }
        Ok(())
    }
}
