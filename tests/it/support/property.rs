//! Properties that generated cases check.

use proptest::test_runner::{Config, TestRunner};

/// Stores no failing cases in the source tree.
pub(crate) fn runner(config: Config) -> TestRunner {
    TestRunner::new(Config { failure_persistence: None, ..config })
}
