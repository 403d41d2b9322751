//! The words of a search in the console.

/// Maximum words of a search.
const MAX_WORDS: usize = 8;

/// Maximum rows that a page of a search scans. It is lower than [`super::SCAN_LIMIT`], because payloads are decompressed.
const SEARCH_SCAN_LIMIT: i64 = 1_000;

/// Maximum rows that a page scans if it classifies failures: each row takes 0.2 ms.
pub(super) const CLASS_SCAN_LIMIT: i64 = 200;

/// Maximum executions that a query scans for steps: each payload is decompressed.
pub(super) const STEP_SCAN_LIMIT: i64 = 500;

/// A search does not read the inputs in a larger payload (compressed size).
pub(super) const MAX_SEARCHED_PAYLOAD: i32 = 64 << 10;

/// Words in any case: a row matches if its texts contain all of them, or if it failed with one of the classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Words {
    /// Patterns of LIKE, in lower case.
    pub(super) patterns: Vec<String>,
    /// Classes of failures that the words describe.
    pub(super) failure_classes: Vec<String>,
}

impl Words {
    /// `None` without a word.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let pattern = |word: &str| {
            let escaped = word.to_lowercase().replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
            format!("%{escaped}%")
        };
        let patterns: Vec<_> = text.split_whitespace().take(MAX_WORDS).map(pattern).collect();
        (!patterns.is_empty()).then_some(Self { patterns, failure_classes: Vec::new() })
    }

    /// Also finds failures of these classes.
    #[must_use]
    pub(crate) fn or_classes(self, failure_classes: Vec<String>) -> Self {
        Self { failure_classes, ..self }
    }

    pub(crate) fn scan_limit(&self) -> i64 {
        if self.failure_classes.is_empty() { SEARCH_SCAN_LIMIT } else { CLASS_SCAN_LIMIT }
    }
}
