//! The list of results: the files, texts and other values that executions and predictions produced.
//!
//! The SQL function `execution_results` finds the results in an output and a payload.

use std::fmt::Debug;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};
use time::OffsetDateTime;
use time::serde::rfc3339;
use tokio::time::{Duration, Instant};
use utoipa::{IntoParams, ToSchema};

use super::columns::columns;
use super::page::{List, ListRow, Position};
use super::reference::{Reference, ReferenceFilter, ReferenceText};
use super::{Choice, ListFilter, Listing, MAX_TEXT, Page, Query, SCAN_LIMIT, Scope};
use crate::db::Transaction;
use crate::execution::identifier::Identifier;

/// A page ends once its results have this many bytes. One statement also decompresses at most this much, unless a single
/// source is larger.
const PAGE_BYTES: i64 = 4 << 20;
/// Maximum executions of a statement, so that it ends long before the statement timeout.
const GROUP_ROWS: usize = 200;
/// A page ends early after this time; the next page continues there.
const PAGE_TIME: Duration = Duration::from_secs(1);
/// More than the results of any execution.
const MAX_POSITION: i64 = 1 << 30;

/// What a result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema, IntoStaticStr, VariantArray)]
#[schema(rename_all = "lowercase", as = ResultKind)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum Kind {
    Image,
    Video,
    Audio,
    Text,
    /// A PDF, an office document, a web page, or a file of unknown type.
    Document,
    /// JSON, CSV, an archive, a 3D model.
    Data,
}

columns! {
    /// A result of an execution or a prediction: a file, a text, or an output without any of them. Each value is listed
    /// once.
    #[derive(Debug, Clone, Serialize, ToSchema)]
    pub(crate) struct ResultItem {
        /// The execution that produced it; null if a prediction did.
        pub(crate) execution_id: Option<String>,
        /// The prediction that produced it; null if an execution did.
        #[schema(example = json!(null))]
        pub(crate) prediction_id: Option<String>,
        /// The workflow that ran; null for a prediction outside of a workflow.
        pub(crate) workflow_id: Option<String>,
        /// The bulk of the execution; null outside of a bulk.
        pub(crate) bulk_id: Option<String>,
        /// The position among the results of the execution or prediction, from 1.
        pub(crate) position: i64,
        /// Where the payload contains it, such as `workflow_output.clip` or `step_outputs.stills.output.images[0]`.
        pub(crate) path: String,
        /// The first step whose output contains it; null if there is none.
        pub(crate) step_id: Option<String>,
        /// Whether `workflow_output` or `output` contains it; false if only a step does, and for a prediction of a
        /// workflow, because it is a step.
        pub(crate) is_final: bool,
        /// For a URL, derived from its media type, or else from a word in its `path`. Any other value is text, or data if it
        /// is JSON.
        #[schema(value_type = Kind)]
        pub(crate) kind: String,
        /// The media type of the URL; null if unknown. URLs are never fetched.
        pub(crate) media_type: Option<String>,
        /// The URL; null for a value that is not a URL. For a data URL, only the part before the data.
        pub(crate) url: Option<String>,
        /// The text, or the JSON as text; null for a URL.
        pub(crate) text: Option<String>,
        /// Whether a part is missing: the data of a data URL, or the end of a `text` of more than 16 MiB. The payload
        /// contains all of it.
        pub(crate) truncated: bool,
        /// Whether the payload has more values than are searched for results: the execution or prediction can have more
        /// results than are listed.
        pub(crate) is_partial: bool,
        /// When the first delivery of the execution or prediction was received, by the receiver's clock.
        #[serde(with = "rfc3339")]
        pub(crate) first_received_at: OffsetDateTime,
        /// The query parameters of the webhook's URL, as a JSON object of strings; null without any. Not signed.
        #[schema(value_type = Option<HashMap<String, String>>)]
        pub(crate) reference: Option<Reference>,
    }
    hidden {}
}

// Parameters of the API and of the command line. All given filters must match.
#[derive(Debug, Clone, Default, IntoParams, Args)]
#[into_params(parameter_in = Query)]
#[group(id = "filter", multiple = true)]
pub(crate) struct Filter {
    #[param(ignore)]
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// Only results of this kind.
    #[param(inline)]
    #[arg(skip)]
    pub(crate) kind: Option<Kind>,
    /// Only results of `workflow_output` and `output`, without those that only a step or a prediction of a workflow has.
    #[param(rename = "final", value_type = Option<bool>)]
    #[arg(long = "final")]
    pub(crate) is_final: bool,
    /// Only results of this execution.
    #[param(inline, value_type = Option<Identifier>)]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) execution: Option<String>,
    /// Only results of this prediction.
    #[param(inline, value_type = Option<Identifier>)]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) prediction: Option<String>,
    /// Only results of executions and predictions whose webhook URL has this query parameter, such as `order=1234`.
    #[param(inline, value_type = Option<ReferenceText>, example = "order=1234")]
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) reference: Option<ReferenceFilter>,
}

/// An execution or a prediction that a page scans.
struct Source {
    id: String,
    is_prediction: bool,
    /// Orders the sources with the same time: `e` or `p`, and the identifier. Both tables can have the same identifier.
    key: String,
    workflow_id: Option<String>,
    bulk_id: Option<String>,
    first_received_at: OffsetDateTime,
    reference: Option<Reference>,
    /// Whether the source matches the filter, and has an output or a payload.
    matches: bool,
    /// An upper bound for the size of its decompressed payload and output, from the size of the compressed ones.
    bytes: i64,
}

/// The next sources by an index of each table, as in `executions.rs`; at most `$8`.
macro_rules! sources {
    (prefix: $columns:literal, $values:literal, order: $order:literal, filter: $filter:literal, $($parameter:expr),+) => {
        sources!(
            @of ("" "executions" "execution_id" "'e' || execution_id" "bulk_id"
                 "($5::text IS NULL OR execution_id = $5) AND ($6::text IS NULL OR bulk_id = $6) AND $10::text IS NULL")
                (" UNION ALL " "predictions" "prediction_id" "'p' || prediction_id" "NULL"
                 "($10::text IS NULL OR prediction_id = $10) AND $5::text IS NULL AND $6::text IS NULL");
            $columns, $values, $order, $filter, $($parameter),+
        )
    };
    (@of $(($union:literal $table:literal $id:literal $key:literal $bulk:literal $condition:literal))+;
     $columns:literal, $values:literal, $order:literal, $filter:literal, $($parameter:expr),+) => {
        sqlx::query_as!(
            Source,
            r#"SELECT
                   id AS "id!", key LIKE 'p%' AS "is_prediction!", key AS "key!", workflow_id, bulk_id,
                   first_received_at AS "first_received_at!", reference::text AS "reference: Reference",
                   matches AS "matches!", bytes AS "bytes!"
               FROM ("#
            $(+ $union + "(SELECT " + $id + " AS id, " + $key + " AS key, " + $bulk + r#" AS bulk_id,
                   workflow_id, first_received_at, reference,
                   num_nonnulls(output, payload) > 0 AND ($7::text IS NULL OR workflow_id = $7) AS matches,
                   -- The maximum compression ratio of each method. Values that are not compressed count several times,
                   -- because many small ones take longer than a large one.
                   coalesce(pg_column_size(output)::bigint * CASE pg_column_compression(output)
                       WHEN 'pglz' THEN 90 WHEN 'lz4' THEN 256 ELSE 4 END, 0)
                   + coalesce(pg_column_size(payload)::bigint * CASE pg_column_compression(payload)
                       WHEN 'pglz' THEN 90 WHEN 'lz4' THEN 256 ELSE 4 END, 0) AS bytes
               FROM "# + $table + r#"
               WHERE
                   ("# + $columns + r#"first_received_at) >= ("# + $values + r#"$1)
                   AND ("# + $columns + "first_received_at, " + $key + ") <= (" + $values + r#"$2, $3::text)
                   -- After the last result of an execution, the next one follows.
                   AND ((first_received_at, "# + $key + r#") <> ($2, $3) OR $4::bigint < 9223372036854775807)
                   AND ($9::text::jsonb IS NULL OR reference @> $9::text::jsonb)
                   AND "# + $condition + $filter + r#"
               ORDER BY "# + $order + r#"first_received_at DESC, key DESC
               LIMIT $8::bigint)"#)+
            + r#") AS s
               ORDER BY "# + $order + r#"first_received_at DESC, key DESC
               LIMIT $8"#,
            $($parameter),+
        )
    };
}

/// Lists results: the newest executions and predictions first, and the results of each in their order.
pub(crate) type ResultsQuery = Listing<Filter>;

impl ResultsQuery {
    /// The first page of the results of an execution.
    pub(crate) fn of_execution(execution_id: &str) -> Self {
        let filter = Filter { execution: Some(execution_id.to_owned()), ..Filter::default() };
        Self { filter, ..Self::default() }
    }

    /// The first page of the results of a prediction.
    pub(crate) fn of_prediction(prediction_id: &str) -> Self {
        let filter = Filter { prediction: Some(prediction_id.to_owned()), ..Filter::default() };
        Self { filter, ..Self::default() }
    }

    /// The first page of the results of a bulk.
    pub(crate) fn of_bulk(bulk_id: &str) -> Self {
        let filter = Filter { scope: Scope::of_bulk(bulk_id), ..Filter::default() };
        Self { filter, ..Self::default() }
    }
}

impl ListFilter for Filter {
    type Row = ResultItem;
    /// Larger than for other lists, because PostgreSQL reads a payload again for each page.
    const EXPORT_LIMIT: i64 = 5_000;
}

impl Query for ResultsQuery {
    type Answer = Page<ResultItem>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Page<ResultItem>, sqlx::Error> {
        let begun = Instant::now();
        let limit = usize::try_from(self.page.limit).unwrap_or(usize::MAX);
        let mut reached = self.page.position(&self.period);
        let (mut items, mut bytes, mut scan_left) = (Vec::new(), 0, SCAN_LIMIT);
        // One more than needed: the additional row shows whether there is a next page.
        let mut batch = (self.page.limit + 1).min(SCAN_LIMIT);
        loop {
            let sources = self.sources(&mut *transaction, &reached, batch).await?;
            let is_last = i64::try_from(sources.len()).is_ok_and(|length| length < batch);
            let mut rest = &sources[..];
            while !rest.is_empty() {
                let (group, after) = rest.split_at(fitting(rest));
                rest = after;
                let wanted = (limit + 1).saturating_sub(items.len());
                let found =
                    self.results_of(&mut *transaction, group, &reached, wanted, PAGE_BYTES - bytes).await?;
                bytes += found.iter().map(ResultItem::bytes).sum::<i64>();
                items.extend(found);
                if items.len() > limit || bytes >= PAGE_BYTES {
                    items.truncate(limit);
                    return Ok(self.page_with_next(items, None));
                }
                if let Some(Source { first_received_at, key, .. }) = group.last() {
                    reached = Position { at: *first_received_at, id: key.clone(), place: i64::MAX };
                }
                if begun.elapsed() > PAGE_TIME && !(is_last && rest.is_empty()) {
                    return Ok(self.page_with_next(items, Some(reached)));
                }
            }
            if is_last {
                return Ok(Page { items, next: None });
            }
            scan_left -= batch;
            if scan_left <= 0 {
                return Ok(self.page_with_next(items, Some(reached)));
            }
            batch = scan_left;
        }
    }
}

/// How many sources may be decompressed at once.
fn fitting(sources: &[Source]) -> usize {
    let mut bytes = 0_i64;
    let fits = |source: &&Source| {
        bytes = bytes.saturating_add(source.bytes);
        bytes <= PAGE_BYTES
    };
    sources.iter().take(GROUP_ROWS).take_while(fits).count().max(1)
}

impl ListRow for ResultItem {
    const LIST: List = List::Results;

    fn position(&self) -> Position {
        let key = match (&self.execution_id, &self.prediction_id) {
            (Some(id), _) => format!("e{id}"),
            (None, id) => format!("p{}", id.as_deref().unwrap_or_default()),
        };
        Position { at: self.first_received_at, id: key, place: self.position }
    }

    fn is_partial(&self) -> bool {
        self.is_partial
    }
}

impl ResultItem {
    /// The URL; `None` for a data URL, because only its beginning is known.
    pub(crate) fn whole_url(&self) -> Option<&str> {
        self.url.as_deref().filter(|_| !self.truncated)
    }

    fn bytes(&self) -> i64 {
        let value = self.url.as_ref().or(self.text.as_ref());
        value.map_or(0, |value| i64::try_from(value.len()).unwrap_or(i64::MAX))
    }
}

impl ResultsQuery {
    /// A page with another one after `reached`, or after its last item.
    fn page_with_next(&self, items: Vec<ResultItem>, reached: Option<Position>) -> Page<ResultItem> {
        let reached = reached.or_else(|| items.last().map(ResultItem::position));
        let next = reached.map(|reached| reached.cursor(ResultItem::LIST, &self.filter));
        Page { items, next }
    }

    /// The results of `sources` after `reached`.
    async fn results_of(
        &self,
        transaction: &mut Transaction<'_>,
        sources: &[Source],
        reached: &Position,
        limit: usize,
        bytes: i64,
    ) -> Result<Vec<ResultItem>, sqlx::Error> {
        let matching: Vec<_> = sources.iter().filter(|source| source.matches).collect();
        let Some(first) = matching.first() else { return Ok(Vec::new()) };
        let is_reached = (first.first_received_at, &*first.key) == (reached.at, &*reached.id);
        let after = if is_reached { reached.place.clamp(0, MAX_POSITION) } else { 0 };
        let (ids, are_predictions): (Vec<_>, Vec<_>) =
            matching.iter().map(|source| (source.id.clone(), source.is_prediction)).unzip();
        let rows = sqlx::query_file!(
            "src/db/queries/results.sql",
            &ids,
            after,
            i64::try_from(limit).unwrap_or(i64::MAX),
            bytes,
            MAX_TEXT,
            self.filter.kind.map(Choice::as_str),
            self.filter.is_final,
            &are_predictions
        );
        let rows = rows.fetch_all(transaction).await?.into_iter();
        let results = rows.filter_map(|row| {
            let source = usize::try_from(row.n).ok().and_then(|n| matching.get(n.checked_sub(1)?))?;
            let id = Some(source.id.clone());
            let (execution_id, prediction_id) = if source.is_prediction { (None, id) } else { (id, None) };
            Some(ResultItem {
                execution_id,
                prediction_id,
                workflow_id: source.workflow_id.clone(),
                bulk_id: source.bulk_id.clone(),
                position: row.position,
                path: row.path,
                step_id: row.step_id,
                is_final: row.is_final,
                kind: row.kind,
                media_type: row.media_type,
                url: row.url,
                text: row.text,
                truncated: row.truncated,
                is_partial: row.is_partial,
                first_received_at: source.first_received_at,
                reference: source.reference.clone(),
            })
        });
        Ok(results.collect())
    }

    /// The next sources, beginning with the one at `reached` if it has further results.
    async fn sources(
        &self,
        transaction: &mut Transaction<'_>,
        reached: &Position,
        limit: i64,
    ) -> Result<Vec<Source>, sqlx::Error> {
        let Filter { execution, prediction, scope: Scope { workflow, bulk }, reference, .. } = &self.filter;
        /// Both statements have the same parameters.
        macro_rules! fetch {
            ($($variant:tt)+) => {
                sources!(
                    $($variant)+, self.period.start(), reached.at, reached.id, reached.place, execution.as_deref(),
                    bulk.as_deref(), workflow.as_deref(), limit,
                    reference.as_ref().map(ReferenceFilter::as_json), prediction.as_deref()
                )
                .fetch_all(transaction)
                .await
            };
        }
        let other_index =
            execution.is_some() || prediction.is_some() || bulk.is_some() || reference.is_some();
        if workflow.is_some() && !other_index {
            fetch!(prefix: "workflow_id, ", "$7, ", order: "workflow_id DESC, ", filter: " AND workflow_id IS NOT NULL")
        } else {
            fetch!(prefix: "", "", order: "", filter: "")
        }
    }
}
