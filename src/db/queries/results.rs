//! Results: a row for each output of an execution.

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use time::serde::rfc3339;
use tokio::time::{Duration, Instant};
use utoipa::{IntoParams, ToSchema};

use super::page::{List, Position};
use super::{ListQuery, MAX_TEXT, Page, PageRequest, Query, SCAN_LIMIT, TimeRange};
use crate::execution::identifier::Identifier;

/// How many bytes of outputs a page shows, as text, before it ends; and how many PostgreSQL expands at once.
const OUTPUTS: i64 = 4 << 20;
/// A page that took so long ends where it is, and the next one goes on there.
const PAGE_TIME: Duration = Duration::from_secs(1);
/// How many results a page of an export has: more than other pages, as PostgreSQL reads an output anew for each page.
pub(crate) const EXPORT_LIMIT: i64 = 5_000;
/// More than any output has elements.
const MAX_POSITION: i64 = 1 << 30;

/// One output of an execution: an element of an array, a field of an object, or the one value.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ResultItem {
    /// The execution that made it.
    pub(crate) execution_id: String,
    /// The workflow that ran.
    pub(crate) workflow_id: String,
    /// The bulk that the execution was triggered in; null when it was triggered alone.
    pub(crate) bulk_id: Option<String>,
    /// Its place in the execution's output, from 1.
    pub(crate) position: i64,
    /// Its field's name where the output is an object; null otherwise.
    pub(crate) name: Option<String>,
    /// url: an address, such as https://…; text: any other string; json: anything else.
    pub(crate) kind: String,
    /// The address, the text, or the JSON as text; null for JSON's null.
    pub(crate) value: Option<String>,
    /// Whether `value` is only its beginning, as it is larger than 16 MiB: psql shows all of it.
    pub(crate) truncated: bool,
    /// When the first delivery of the execution came, by the receiver's clock.
    #[serde(with = "rfc3339")]
    pub(crate) first_received_at: OffsetDateTime,
}

/// Whose results. All that is given has to be so.
#[derive(Debug, Clone, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only those of this execution.
    #[param(inline, value_type = Option<Identifier>)]
    pub(crate) execution: Option<String>,
    /// Only those of this workflow.
    #[param(inline, value_type = Option<Identifier>)]
    pub(crate) workflow: Option<String>,
    /// Only those of this bulk.
    #[param(inline, value_type = Option<Identifier>)]
    pub(crate) bulk: Option<String>,
}

/// An execution whose output a page looks at.
struct Source {
    execution_id: String,
    workflow_id: String,
    bulk_id: Option<String>,
    first_received_at: OffsetDateTime,
    /// It is one of those asked for, and has an output.
    matches: bool,
    /// The size of its output in memory at most. What is compressed is not expanded to find out.
    bytes: i64,
}

/// The executions that an index leads to, as in `executions`; so many at most.
macro_rules! sources {
    (led_by: $columns:literal, $values:literal, in_order: $order:literal, $($parameter:expr),+) => {
        sqlx::query_as!(
            Source,
            r#"SELECT
                   execution_id, workflow_id, bulk_id, first_received_at,
                   output IS NOT NULL AND ($7::text IS NULL OR workflow_id = $7) AS "matches!",
                   -- The most that each method can compress.
                   coalesce(pg_column_size(output)::bigint * CASE pg_column_compression(output)
                       WHEN 'pglz' THEN 90 WHEN 'lz4' THEN 256 ELSE 1 END, 0) AS "bytes!"
               FROM executions
               WHERE
                   ("# + $columns + r#"first_received_at) >= ("# + $values + r#"$1)
                   AND ("# + $columns + r#"first_received_at, execution_id) <= ("# + $values + r#"$2, $3::text)
                   -- After all of an execution's results is the next execution.
                   AND ((first_received_at, execution_id) <> ($2, $3) OR $4::bigint < 9223372036854775807)
                   AND ($5::text IS NULL OR execution_id = $5)
                   AND ($6::text IS NULL OR bulk_id = $6)
               ORDER BY "# + $order + r#"first_received_at DESC, execution_id DESC
               LIMIT $8::bigint"#,
            $($parameter),+
        )
    };
}

/// What was made: of the newest executions first, each's in its own order.
#[derive(Debug, Clone, Default)]
pub(crate) struct ResultsQuery {
    pub(crate) filter: Filter,
    pub(crate) period: TimeRange,
    pub(crate) page: PageRequest,
}

impl ResultsQuery {
    /// The first page of what one execution made.
    pub(super) fn of_execution(execution_id: &str) -> Self {
        let filter = Filter { execution: Some(execution_id.to_owned()), ..Filter::default() };
        Self { filter, ..Self::default() }
    }

    /// The first page of what was made in one bulk.
    pub(super) fn of_bulk(bulk_id: &str) -> Self {
        let filter = Filter { bulk: Some(bulk_id.to_owned()), ..Filter::default() };
        Self { filter, ..Self::default() }
    }
}

impl ListQuery for ResultsQuery {
    const LIST: List = List::Results;

    fn page(&mut self) -> &mut PageRequest {
        &mut self.page
    }
}

impl Query for ResultsQuery {
    type Answer = Page<ResultItem>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Page<ResultItem>, sqlx::Error> {
        let begun = Instant::now();
        let limit = usize::try_from(self.page.limit).unwrap_or(usize::MAX);
        let mut reached = self.page.position(&self.period);
        let (mut items, mut bytes, mut look_at) = (Vec::new(), 0, SCAN_LIMIT);
        // One more than may be needed: whether there is a next page is known then.
        let mut batch = (self.page.limit + 1).min(SCAN_LIMIT);
        loop {
            let sources = self.sources(&mut *connection, &reached, batch).await?;
            let last = i64::try_from(sources.len()).is_ok_and(|length| length < batch);
            let mut rest = &sources[..];
            while !rest.is_empty() {
                let (group, after) = rest.split_at(at_once(rest));
                rest = after;
                let wanted = (limit + 1).saturating_sub(items.len());
                let found = outputs(&mut *connection, group, &reached, wanted, OUTPUTS - bytes).await?;
                bytes += found.iter().map(ResultItem::bytes).sum::<i64>();
                items.extend(found);
                if items.len() > limit {
                    items.truncate(limit);
                    return Ok(page(items, None));
                }
                if bytes >= OUTPUTS {
                    return Ok(page(items, None));
                }
                if let Some(Source { first_received_at, execution_id, .. }) = group.last() {
                    reached = Position { at: *first_received_at, id: execution_id.clone(), place: i64::MAX };
                }
                if begun.elapsed() > PAGE_TIME && !(last && rest.is_empty()) {
                    return Ok(page(items, Some(&reached)));
                }
            }
            if last {
                return Ok(Page { items, next: None });
            }
            look_at -= batch;
            if look_at <= 0 {
                return Ok(page(items, Some(&reached)));
            }
            batch = look_at;
        }
    }
}

/// A page with another one after `reached`, or after its last item.
fn page(items: Vec<ResultItem>, reached: Option<&Position>) -> Page<ResultItem> {
    let last = || items.last().map(|last| last.position().cursor(List::Results));
    let next = reached.map_or_else(last, |reached| Some(reached.cursor(List::Results)));
    Page { items, next }
}

/// How many of these may be expanded at once.
fn at_once(sources: &[Source]) -> usize {
    let mut bytes = 0_i64;
    let fits = |source: &&Source| {
        bytes = bytes.saturating_add(source.bytes);
        bytes <= OUTPUTS
    };
    sources.iter().take_while(fits).count().max(1)
}

/// The outputs of `sources`, as far as they stand after `reached`.
async fn outputs(
    connection: &mut PgConnection,
    sources: &[Source],
    reached: &Position,
    limit: usize,
    bytes: i64,
) -> Result<Vec<ResultItem>, sqlx::Error> {
    let matching: Vec<_> = sources.iter().filter(|source| source.matches).collect();
    let Some(first) = matching.first() else { return Ok(Vec::new()) };
    let is_reached = (first.first_received_at, &*first.execution_id) == (reached.at, &*reached.id);
    let after = if is_reached { reached.place.clamp(0, MAX_POSITION) } else { 0 };
    let ids: Vec<_> = matching.iter().map(|source| source.execution_id.clone()).collect();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = sqlx::query_file!("src/db/queries/results.sql", &ids, after, limit, bytes, MAX_TEXT);
    let rows = rows.fetch_all(connection).await?.into_iter();
    let output = rows.filter_map(|row| {
        let source = usize::try_from(row.n).ok().and_then(|n| matching.get(n.checked_sub(1)?))?;
        Some(ResultItem {
            execution_id: source.execution_id.clone(),
            workflow_id: source.workflow_id.clone(),
            bulk_id: source.bulk_id.clone(),
            position: row.position,
            name: row.name,
            kind: row.kind,
            value: row.value,
            truncated: row.truncated,
            first_received_at: source.first_received_at,
        })
    });
    Ok(output.collect())
}

impl ResultItem {
    fn position(&self) -> Position {
        Position { at: self.first_received_at, id: self.execution_id.clone(), place: self.position }
    }

    fn bytes(&self) -> i64 {
        self.value.as_ref().map_or(0, |value| i64::try_from(value.len()).unwrap_or(i64::MAX))
    }
}

impl ResultsQuery {
    /// The next executions after `reached`, or the one that is reached.
    async fn sources(
        &self,
        connection: &mut PgConnection,
        reached: &Position,
        limit: i64,
    ) -> Result<Vec<Source>, sqlx::Error> {
        let Filter { execution, workflow, bulk } = &self.filter;
        /// Both have the same parameters.
        macro_rules! fetched {
            ($($led:tt)+) => {
                sources!(
                    $($led)+, self.period.start(), reached.at, reached.id, reached.place, execution.as_deref(),
                    bulk.as_deref(), workflow.as_deref(), limit
                )
                .fetch_all(connection)
                .await
            };
        }
        if workflow.is_some() && bulk.is_none() && execution.is_none() {
            fetched!(led_by: "workflow_id, ", "$7, ", in_order: "workflow_id DESC, ")
        } else {
            fetched!(led_by: "", "", in_order: "")
        }
    }
}
