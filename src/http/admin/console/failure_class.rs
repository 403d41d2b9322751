//! The sender's classes of failures in words, and who is at fault for each class.

use maud::{Markup, html};

use super::components::badge;
use super::params::Params;
use super::text::visible;

/// Who is at fault, and so can prevent the failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Input,
    Limits,
    Workflow,
    Provider,
    Sender,
    Unknown,
}

impl Fault {
    pub(super) const ALL: [Self; 6] =
        [Self::Input, Self::Limits, Self::Workflow, Self::Provider, Self::Sender, Self::Unknown];

    /// The value of the parameter `fault`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Limits => "limits",
            Self::Workflow => "workflow",
            Self::Provider => "provider",
            Self::Sender => "sender",
            Self::Unknown => "unknown",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Input => "our input",
            Self::Limits => "our account or limits",
            Self::Workflow => "our workflow",
            Self::Provider => "provider",
            Self::Sender => "each::labs",
            Self::Unknown => "unknown",
        }
    }

    /// [`Self::Unknown`] for a class that the sender adds later.
    pub(super) fn of(class: &str) -> Self {
        CLASSES.iter().find(|(known, ..)| *known == class).map_or(Self::Unknown, |(_, fault, _)| *fault)
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.as_str() == name)
    }
}

/// The results of the SQL function `failure_class`.
const CLASSES: [(&str, Fault, &str); 10] = [
    ("content_moderation", Fault::Input, "the prompt was rejected"),
    ("invalid_user_input", Fault::Input, "the input was invalid"),
    ("provider_rate_limit", Fault::Limits, "the rate limit of the provider was reached"),
    ("provider_auth", Fault::Limits, "the provider rejected the credentials"),
    ("invalid_model_config", Fault::Workflow, "the configuration of the model is wrong"),
    ("execution_timeout", Fault::Provider, "the provider was too slow"),
    ("provider_error", Fault::Provider, "the provider failed"),
    ("provider_unavailable", Fault::Provider, "the provider was unavailable"),
    ("internal_error", Fault::Sender, "each::labs had an internal error"),
    ("unknown", Fault::Unknown, "the cause is of no known class"),
];

/// Who is at fault, and the class in words with its name. `href` is the list of failures of this class.
pub(super) fn failure_class(class: &str, href: &str) -> Markup {
    let words = CLASSES.iter().find(|(known, ..)| *known == class).map(|(.., words)| *words);
    let fault = Fault::of(class);
    html! {
        span.class {
            span title="At fault" { (badge("muted", html! { (fault.name()) })) }
            " "
            a href=(href) {
                @if let Some(words) = words { (words) " " }
                @if class != "unknown" { code.name[words.is_some()] { (visible(class)) } }
            }
        }
    }
}

/// The classes of the parameters `class` and `fault`.
pub(super) fn filter(params: &Params) -> Option<Vec<String>> {
    if let Some(class) = params.identifier("class") {
        return Some(vec![class]);
    }
    let fault = Fault::named(params.get("fault")?)?;
    let classes = CLASSES.iter().filter(|(_, of, _)| *of == fault);
    Some(classes.map(|(class, ..)| (*class).to_owned()).collect())
}

/// Whether `text` is the name of a class.
pub(super) fn is_class(text: &str) -> bool {
    CLASSES.iter().any(|(class, ..)| *class == text)
}

/// The classes that a search describes: `rate_limit`, `too slow`. Short words alone describe none.
pub(super) fn described_by(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words: Vec<_> = text.split_whitespace().collect();
    if words.iter().all(|word| word.len() < 4) {
        return Vec::new();
    }
    let is_in = |(class, fault, description): &&(&str, Fault, &str)| {
        let known = || class.split('_').chain(description.split(' ')).chain(fault.name().split(' '));
        words
            .iter()
            .all(|word| known().any(|known| known == *word) || word.contains('_') && class.contains(word))
    };
    CLASSES.iter().filter(is_in).map(|(class, ..)| (*class).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_the_sql_function_has_words() {
        let function = include_str!("../../../../migrations/0006_views.sql");
        let comment = function.split("COMMENT ON FUNCTION failure_class(text[]) IS").nth(1).unwrap();
        let names = comment.split("shows it: ").nth(1).unwrap().split(", or unknown").next().unwrap();
        let mut names: Vec<_> = names.split(", ").chain(["unknown"]).collect();
        let mut known = CLASSES.map(|(class, ..)| class);
        names.sort_unstable();
        known.sort_unstable();
        assert_eq!(names, known);
    }

    #[test]
    fn a_search_describes_classes_by_their_words_and_names() {
        for (text, classes) in [
            ("Rate_Limit", &["provider_rate_limit"][..]),
            ("too slow", &["execution_timeout"]),
            ("timeout", &["execution_timeout"]),
            ("our input", &["content_moderation", "invalid_user_input"]),
            ("the", &[]),
            ("time", &[]),
            ("a fox", &[]),
        ] {
            assert_eq!(described_by(text), classes, "{text}");
        }
    }

    #[test]
    fn a_side_is_a_filter_for_its_classes() {
        let filter = |query: &str| filter(&Params::of(&query.parse().unwrap()));
        assert_eq!(
            filter("/?fault=limits"),
            Some(vec!["provider_rate_limit".to_owned(), "provider_auth".to_owned()])
        );
        assert_eq!(filter("/?class=provider_auth&fault=sender"), Some(vec!["provider_auth".to_owned()]));
        assert_eq!(filter("/?fault=unlisted"), None);
        assert_eq!(Fault::of("a_new_class"), Fault::Unknown);
    }
}
