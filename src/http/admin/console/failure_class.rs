//! The sender's classes of failures in words that say who is at fault.

use maud::{Markup, html};

use super::text::visible;

/// The results of the SQL function `failure_class`, except `unknown`.
const CLASSES: [(&str, &str); 9] = [
    ("content_moderation", "the prompt was rejected"),
    ("invalid_user_input", "your input was invalid"),
    ("execution_timeout", "the provider was too slow"),
    ("provider_error", "the provider failed"),
    ("provider_unavailable", "the provider was unavailable"),
    ("provider_rate_limit", "the rate limit of the provider was reached"),
    ("provider_auth", "the provider rejected the credentials"),
    ("invalid_model_config", "the configuration of the model is wrong"),
    ("internal_error", "each::labs had an internal error"),
];

/// The class in words, followed by its name. `None` if the class is unknown.
pub(super) fn failure_class(class: &str) -> Option<Markup> {
    let words = CLASSES.iter().find(|(known, _)| *known == class).map(|(_, words)| *words);
    let name = html! { code { (visible(class)) } };
    match (words, class) {
        (Some(words), _) => Some(html! { (words) " " (name) }),
        (None, "unknown") => None,
        (None, _) => Some(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_the_sql_function_has_words() {
        let function = include_str!("../../../../migrations/0006_views.sql");
        let comment = function.split("COMMENT ON FUNCTION failure_class(text[]) IS").nth(1).unwrap();
        let names = comment.split("shows it: ").nth(1).unwrap().split(", or unknown").next().unwrap();
        let mut names: Vec<_> = names.split(", ").collect();
        let mut known = CLASSES.map(|(class, _)| class);
        names.sort_unstable();
        known.sort_unstable();
        assert_eq!(names, known);
        assert!(failure_class("unknown").is_none());
    }
}
