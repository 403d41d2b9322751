//! Excerpts of executions for a list: the prompt and the first results.

use super::Query;
use crate::db::Transaction;

/// Maximum characters of a prompt.
const PROMPT_CHARS: i32 = 300;
/// Maximum URLs of an execution.
const MAX_URLS: i64 = 4;
/// A larger payload or output (compressed size) is not read.
const MAX_READ: i32 = 64 << 10;

/// Excerpts of one execution.
#[derive(Debug, Clone)]
pub(crate) struct Preview {
    pub(crate) execution_id: String,
    /// `inputs.prompt`, or else all inputs as JSON; `None` without inputs.
    pub(crate) prompt: Option<String>,
    /// The first URLs in the output; a URL can be repeated.
    pub(crate) urls: Vec<String>,
    /// The source, if the execution was fetched with the API (`executions.fetched_from`).
    pub(crate) fetched_from: Option<String>,
}

/// Reads the previews of the executions of a page.
#[derive(Debug, Clone)]
pub(crate) struct Previews {
    pub(crate) execution_ids: Vec<String>,
}

impl Query for Previews {
    type Answer = Vec<Preview>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<Preview>, sqlx::Error> {
        let previews = sqlx::query_as!(
            Preview,
            r#"SELECT
                   execution_id,
                   CASE WHEN pg_column_size(payload) <= $2
                       THEN left(coalesce(payload -> 'inputs' ->> 'prompt', payload ->> 'inputs'), $3) END AS prompt,
                   ARRAY(
                       SELECT left(url #>> '{}', 2048)
                       FROM jsonb_path_query(
                           CASE WHEN pg_column_size(output) <= $2 THEN output END,
                           'strict $.** ? (@.type() == "string") ? (@ like_regex "^https?://")'
                       ) AS url
                       LIMIT $4
                   ) AS "urls!",
                   fetched_from
               FROM executions
               WHERE execution_id = ANY ($1)"#,
            &self.execution_ids,
            MAX_READ,
            PROMPT_CHARS,
            MAX_URLS
        );
        previews.fetch_all(transaction).await
    }
}
