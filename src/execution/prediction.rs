//! Parses the fields that have another form in predictions: the failure and the metrics.

use std::borrow::Cow;

use super::status;
use super::values::{Values, each_field, lossy_text, number};

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Failure<'a> {
    /// Such as `PROVIDER_REJECTED`.
    pub(super) code: Option<Cow<'a, str>>,
    pub(super) message: Option<Cow<'a, str>>,
}

#[derive(Debug, Default)]
pub(super) struct Metrics<'a> {
    pub(super) cost: Option<&'a str>,
    pub(super) predict_seconds: Option<f64>,
}

/// Reads why a prediction failed: from `error`, or from `output`. The output is the text itself, or an object with an `error`,
/// or an array of such objects. The output of a successful prediction can be any JSON, so it is not searched.
pub(super) fn failure<'a>(error: Option<&'a str>, output: Option<&'a str>, status: &str) -> Failure<'a> {
    let in_output = || {
        let output = output.filter(|_| !status::is_successful(status))?;
        match output.as_bytes() {
            // With another status, a text can be a part of the output.
            [b'"', ..] if status == "failed" => Failure::of(output),
            [b'{', ..] => Failure::in_object(output),
            [b'[', ..] => Values::of(output).find_map(Failure::in_object),
            _ => None,
        }
    };
    error.and_then(Failure::of).or_else(in_output).unwrap_or_default()
}

impl<'a> Failure<'a> {
    /// Reads the field `error`.
    fn in_object(object: &'a str) -> Option<Self> {
        let mut error = None;
        each_field(object, |key, value| {
            if key == b"error" {
                error = Some(value);
            }
        });
        Self::of(error?)
    }

    /// Reads `error_code` and `error_message` of an object, or takes any other value as the message. `None` for null and an
    /// empty text.
    fn of(error: &'a str) -> Option<Self> {
        let text = |raw: &'a str| Some(lossy_text(raw)).filter(|text| raw != "null" && !text.is_empty());
        let mut failure = Self::default();
        each_field(error, |key, value| match key {
            b"error_code" => failure.code = text(value),
            b"error_message" => failure.message = text(value),
            _ => {}
        });
        if failure == Self::default() {
            failure.message = text(error);
        }
        (failure != Self::default()).then_some(failure)
    }
}

/// Reads `metrics`. Values that are not numbers are ignored.
pub(super) fn metrics(metrics: &str) -> Metrics<'_> {
    let mut found = Metrics::default();
    each_field(metrics, |key, value| match key {
        b"cost" => found.cost = number(value),
        b"predict_time" => found.predict_seconds = number(value).and_then(|seconds| seconds.parse().ok()),
        _ => {}
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_is_read_from_error_or_from_output() {
        const OBJECT: &str = r#"{"error_code":"NETWORK_ERROR","error_message":"reset"}"#;
        const OUTPUT: &str =
            r#"[1,{"id":""},{"error":""},{"error":{"error_code":"WORKER_LOST"}},{"error":"later"}]"#;
        let read = |error: Option<&'static str>, output| {
            let Failure { code, message } = failure(error, output, "failed");
            (code.unwrap_or_default(), message.unwrap_or_default())
        };
        for (error, output, expected) in [
            (Some(r#""text""#), Some(OUTPUT), ("", "text")),
            (Some(OBJECT), None, ("NETWORK_ERROR", "reset")),
            (Some(r#""""#), Some(OUTPUT), ("WORKER_LOST", "")),
            (Some(r#"{"error_code":null}"#), None, ("", r#"{"error_code":null}"#)),
            (None, Some(r#"[{"error":"text"}]"#), ("", "text")),
            (None, Some(r#"{"error":"text"}"#), ("", "text")),
            (None, Some(r#"{"message":"text"}"#), ("", "")),
            (Some(r#""""#), Some(r#""NSFW content detected""#), ("", "NSFW content detected")),
            (None, Some(r#""""#), ("", "")),
            (None, Some("7"), ("", "")),
            (None, None, ("", "")),
        ] {
            assert_eq!(read(error, output), (expected.0.into(), expected.1.into()), "{error:?} {output:?}");
        }
        assert_eq!(failure(None, Some(OUTPUT), "succeeded"), Failure::default());
        assert_eq!(failure(None, Some(r#""half of the output""#), "running"), Failure::default());
    }

    #[test]
    fn metrics_of_another_type_are_ignored() {
        let read = |text| {
            let Metrics { cost, predict_seconds } = metrics(text);
            (cost, predict_seconds)
        };
        assert_eq!(read(r#"{"predict_time":6.2,"cost":0.012}"#), (Some("0.012"), Some(6.2)));
        for other in ["1", "null", r#"{"predict_time":"6","cost":1e400}"#, r#"[{"cost":1}]"#] {
            assert_eq!(read(other), (None, None), "{other}");
        }
    }
}
