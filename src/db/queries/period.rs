//! The period of a query. The API and the command line accept the same times.

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime, PrimitiveDateTime, UtcOffset};
use utoipa::openapi::schema::{AnyOf, KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

/// A range of the time of the first delivery, by the receiver's clock.
#[derive(Debug, Clone, Copy, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TimeRange {
    /// Only rows first received at this time or later: an RFC 3339 time, how long ago (30m, 1h, 7d), today or
    /// yesterday (UTC).
    #[param(inline, value_type = Option<Time>)]
    pub(crate) from: Option<OffsetDateTime>,
    /// Only rows first received before this time, in the forms of `from`.
    #[param(inline, value_type = Option<Time>)]
    pub(crate) to: Option<OffsetDateTime>,
}

impl TimeRange {
    /// No row is older than the Unix epoch.
    pub(super) fn start(&self) -> OffsetDateTime {
        self.from.unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    pub(super) fn end(&self) -> OffsetDateTime {
        self.to.unwrap_or(PrimitiveDateTime::MAX.assume_utc())
    }
}

/// The forms of a time. Completes a sentence that begins with the parameter's name.
pub(crate) const TIME_FORMS: &str = "must be a time like 2026-03-02T10:00:00Z (RFC 3339), how long ago (30m, 1h, 7d), today or yesterday (UTC)";

/// Parses a limit of a range, in UTC as queries need it. A time before 1970 becomes 1970: no row is older.
///
/// # Errors
/// [`TIME_FORMS`]
pub(crate) fn parse_time(text: &str) -> Result<OffsetDateTime, &'static str> {
    time_at(text, OffsetDateTime::now_utc()).map(|at| at.max(OffsetDateTime::UNIX_EPOCH)).ok_or(TIME_FORMS)
}

fn time_at(text: &str, now: OffsetDateTime) -> Option<OffsetDateTime> {
    let today = now.replace_time(time::Time::MIDNIGHT);
    let text = text.trim();
    match text {
        "today" => return Some(today),
        "yesterday" => return Some(today - Duration::DAY),
        _ => {}
    }
    // humantime also accepts 0 without a unit.
    if text != "0"
        && let Ok(ago) = humantime::parse_duration(text)
    {
        let ago = Duration::try_from(ago).unwrap_or(Duration::MAX);
        return Some(now.checked_sub(ago).unwrap_or(OffsetDateTime::UNIX_EPOCH));
    }
    // Times near the limits of the calendar have no UTC equivalent.
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?.checked_to_offset(UtcOffset::UTC)?;
    // RFC 3339 has no other years: such a time could not be written in a response.
    (0..=9999).contains(&time.year()).then_some(time)
}

/// The schema of a time in `/openapi.json`.
pub(crate) struct Time;

impl PartialSchema for Time {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let time = text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
        let ago = text().pattern(Some("^([0-9]{1,5}[smhd]|today|yesterday)$"));
        RefOr::T(Schema::AnyOf(AnyOf { items: vec![time.into(), ago.into()], ..AnyOf::new() }))
    }
}

impl ToSchema for Time {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rfc_3339_or_how_long_ago_or_a_day() {
        let time = |text| OffsetDateTime::parse(text, &Rfc3339).unwrap();
        let now = time("2026-03-02T10:00:00Z");
        for (text, expected) in [
            ("2026-03-02T11:00:00+01:00", "2026-03-02T10:00:00Z"),
            ("1h", "2026-03-02T09:00:00Z"),
            ("1h 30m", "2026-03-02T08:30:00Z"),
            ("7d", "2026-02-23T10:00:00Z"),
            ("today", "2026-03-02T00:00:00Z"),
            (" yesterday ", "2026-03-01T00:00:00Z"),
        ] {
            assert_eq!(time_at(text, now), Some(time(expected)), "{text}");
        }
        for long_ago in ["9999y", "580000000000y", "0001-01-01T00:00:00Z"] {
            assert_eq!(parse_time(long_ago), Ok(OffsetDateTime::UNIX_EPOCH), "{long_ago}");
        }
        for invalid in ["", "tomorrow", "0", "1", "-1h", "2026-03-02"] {
            assert_eq!(parse_time(invalid), Err(TIME_FORMS), "{invalid}");
        }
    }
}
