//! The rule for duplicates: applies deliveries of executions and predictions that are already recorded.
//!
//! Two deliveries have the same result if their bodies are equal, or if their workflow, bulk, status, output, error and
//! cause are equal. If jsonb cannot hold the recorded body, only an equal body has the same result.
//!
//! The sender's API may leave out fields. If one of the two deliveries was read from the API, a field that one of them lacks
//! is not compared. This also applies to an unsigned webhook that the API confirmed. It does not apply to a body from the
//! API's log of deliveries, because that is the webhook's body. If one of the two is a row of the API's list, only workflow
//! and status are compared: its other fields have another form.
//!
//! | recorded | delivered | disposition | |
//! |---|---|---|---|
//! | terminal | not terminal | duplicate | a late status: only counted |
//! | terminal | terminal, the same result | duplicate | only counted |
//! | terminal | terminal, another result | conflict | stored in the table of conflicts, never applied |
//! | | | `conflict_dropped` | a conflict after a limit of `conflicts.*` is reached: only counted |
//! | not terminal | terminal, or another status | replacement | every column is replaced |
//! | not terminal | the same status | duplicate | only counted |

use std::borrow::Cow;
use std::collections::HashMap;

use time::OffsetDateTime;

use super::columns::{ExecutionArrays, PredictionArrays, with_execution_columns, with_prediction_columns};
use super::rollups::{CountedExecution, Rollups};
use super::rounds::Group;
use crate::config;
use crate::db::{DbError, Transaction};
use crate::delivery::Disposition;
use crate::execution::Kind;

/// The disposition of a row, and what was recorded before.
struct Resolved {
    /// The position of the row in the arrays, from 1.
    n: i32,
    disposition: String,
    previous_workflow_id: Option<String>,
    previous_bulk_id: Option<String>,
    previous_status: String,
    previous_total_cost: Option<String>,
    previous_first_received_at: OffsetDateTime,
    /// The table in which a trigger suppressed a row of this statement.
    suppressed_in: Option<String>,
}

/// In the last round, an identifier can be in the arrays more than once (`rounds.rs`). Such an execution has ended.
macro_rules! resolve_duplicates {
    (
        ($arrays:expr, $limits:expr)
        $Arrays:ident $table:literal $id:literal $conflicts:literal $bulk:literal [$($compared:literal),*];
        $($column:ident $name:literal $sql:literal ($Element:ty) $element:expr;)*
        => $redeliveries:literal $reference:literal $max_conflicts:literal $max_bytes:literal
    ) => {
        sqlx::query_as!(
            Resolved,
            r#"WITH incoming AS (
    SELECT
        i.n, i.id, i.deliveries, i.redeliveries, i.reference, i.first_received_at, i.last_received_at,
        "# $(+ "i." + $name + ", ")* + r#"
        sha256(coalesce(i.payload_bytes, convert_to(i.payload_text, 'UTF8'))) AS body_sha256,
        coalesce(octet_length(i.payload_bytes), octet_length(i.payload_text)) AS body_size
    FROM (
        SELECT
            generate_series(1, cardinality($1::text[])) AS n,
            unnest($1::text[]) AS id,
            unnest($2::integer[]) AS deliveries,
            unnest($3::timestamptz[]) AS first_received_at,
            unnest($4::timestamptz[]) AS last_received_at,
            unnest("# + $redeliveries + r#"::integer[]) AS redeliveries,
            unnest("# + $reference + r#"::text[])::jsonb AS reference,
            unnest($5::text[]) AS payload_text"# $(+ ", " + $sql + " AS " + $name)* + r#"
    ) AS i
),
-- The rows are locked in the order of the key, as in the insert. So several receivers cannot deadlock.
resolved AS (
    SELECT
        i.n,
        i.body_sha256,
        i.body_size,
        coalesce(e.conflicts, 0) AS conflicts,
        coalesce(e.conflict_bytes, 0) AS conflict_bytes,
        i.id,
        e.workflow_id AS previous_workflow_id,
        "# + $bulk + r#" AS previous_bulk_id,
        e.status AS previous_status,
        e.total_cost::text AS previous_total_cost,
        e.first_received_at AS previous_first_received_at,
        CASE
            WHEN is_terminal_status(e.status) THEN
                CASE
                    WHEN NOT is_terminal_status(i.status) THEN 'duplicate'
                    -- The same bytes: a degraded row lacks columns (RecordItem::degrade).
                    WHEN sha256(e.payload_bytes) = i.body_sha256 OR e.payload_sha256 = i.body_sha256
                        THEN 'duplicate'
                    WHEN e.fetched_from IN ('list', 'execution') OR i.fetched_from IN ('list', 'execution')
                        OR 'callback' IN (e.authenticated_by, i.authenticated_by) THEN
                        CASE
                            WHEN (e.workflow_id, e.status) <> (i.workflow_id, i.status) THEN 'conflict'
                            WHEN e.fetched_from = 'list' OR i.fetched_from = 'list' THEN 'duplicate'
                            WHEN "# $(+ "e." + $compared + " <> i." + $compared + " OR ")* + r#"e.output <> i.output
                                THEN 'conflict'
                            ELSE 'duplicate'
                        END
                    WHEN (e.status"# $(+ ", e." + $compared)* + r#")
                        IS DISTINCT FROM
                        (i.status"# $(+ ", i." + $compared)* + r#")
                        THEN 'conflict'
                    -- Retention removed the payload and kept the hashes.
                    WHEN e.payload_removed_at IS NOT NULL THEN
                        CASE
                            WHEN e.output_sha256 IS DISTINCT FROM json_sha256(i.output) THEN 'conflict'
                            WHEN e.payload_sha256 IS DISTINCT FROM sha256(i.payload_bytes)
                                AND e.payload_sha256 IS NOT NULL THEN 'conflict'
                            ELSE 'duplicate'
                        END
                    WHEN e.output IS DISTINCT FROM i.output THEN 'conflict'
                    -- Without jsonb, only the bytes can be compared.
                    WHEN e.payload IS NULL AND e.payload_bytes IS DISTINCT FROM i.payload_bytes THEN 'conflict'
                    ELSE 'duplicate'
                END
            WHEN i.status = e.status THEN 'duplicate'
            ELSE 'replacement'
        END AS disposition
    FROM "# + $table + r#" AS e
    INNER JOIN incoming AS i ON e."# + $id + r#" = i.id
    ORDER BY e."# + $id + r#"
    FOR UPDATE OF e
),
-- Known conflicts are counted. New ones are stored in their order while the limits allow. A body that is larger than the
-- free space is skipped: smaller bodies after it can be stored.
conflicting AS (
    SELECT
        s.n, s.id, s.body_sha256, s.body_size, s.conflicts, s.conflict_bytes,
        EXISTS (
            SELECT FROM "# + $conflicts + r#" AS c
            WHERE c."# + $id + r#" = s.id AND c.body_sha256 = s.body_sha256
        ) AS is_known
    FROM resolved AS s
    WHERE s.disposition = 'conflict'
),
placed AS (
    SELECT
        c.n,
        c.conflicts + count(*) OVER earlier AS conflicts,
        c.conflict_bytes + sum(c.body_size) OVER earlier AS conflict_bytes
    FROM conflicting AS c
    WHERE NOT c.is_known AND c.conflict_bytes + c.body_size <= "# + $max_bytes + r#"::bigint
    WINDOW earlier AS (PARTITION BY c.id ORDER BY c.n)
),
accepted AS (
    SELECT k.n FROM conflicting AS k WHERE k.is_known
    UNION ALL
    SELECT p.n
    FROM placed AS p
    WHERE p.conflicts <= "# + $max_conflicts + r#"::bigint AND p.conflict_bytes <= "# + $max_bytes + r#"::bigint
),
stored AS (
    INSERT INTO "# + $conflicts + r#" AS c (
        "# + $id + r#", status"# $(+ ", " + $compared)* + r#", output, payload, payload_bytes, body_sha256,
        authenticated_by, deliveries, first_received_at, last_received_at
    )
    SELECT
        i.id, i.status"# $(+ ", i." + $compared)* + r#", i.output, i.payload, i.payload_bytes, i.body_sha256,
        i.authenticated_by, i.deliveries, i.first_received_at, i.last_received_at
    FROM incoming AS i
    WHERE i.n IN (SELECT a.n FROM accepted AS a)
    ON CONFLICT ("# + $id + r#", body_sha256) DO UPDATE SET
        deliveries = c.deliveries + excluded.deliveries,
        first_received_at = least(c.first_received_at, excluded.first_received_at),
        last_received_at = greatest(c.last_received_at, excluded.last_received_at),
        recorded_at = greatest(c.recorded_at, excluded.recorded_at)
    -- The xmax of an updated row is this transaction, and that of a new row is 0.
    RETURNING c."# + $id + r#" AS id, c.body_sha256, c.xmax = 0 AS is_new
),
not_replaced AS (
    SELECT
        s.n, s.id, i.deliveries, i.redeliveries, i.reference, i.first_received_at, i.last_received_at,
        CASE WHEN k.is_new THEN s.body_size END AS new_bytes,
        s.disposition = 'conflict' AND k.is_new IS NULL AS is_dropped
    FROM resolved AS s
    INNER JOIN incoming AS i ON s.n = i.n
    LEFT JOIN stored AS k ON s.id = k.id AND s.body_sha256 = k.body_sha256
        AND s.disposition = 'conflict'
    WHERE s.disposition <> 'replacement'
),
counted AS (
    UPDATE "# + $table + r#" AS e
    SET
        deliveries = e.deliveries + m.deliveries,
        redeliveries = e.redeliveries + m.redeliveries,
        -- The first one stays.
        reference = coalesce(e.reference, m.reference),
        first_received_at = least(e.first_received_at, m.first_received_at),
        last_received_at = greatest(e.last_received_at, m.last_received_at),
        recorded_at = greatest(e.recorded_at, now()),
        -- Null instead of 0 takes no space.
        conflicts = nullif(coalesce(e.conflicts, 0) + m.new_conflicts, 0),
        conflict_bytes = nullif(coalesce(e.conflict_bytes, 0) + m.new_bytes, 0),
        conflicts_dropped = nullif(coalesce(e.conflicts_dropped, 0) + m.dropped, 0)
    FROM (
        SELECT
            n.id,
            sum(n.deliveries)::integer AS deliveries,
            sum(n.redeliveries)::integer AS redeliveries,
            (array_agg(n.reference ORDER BY n.n) FILTER (WHERE n.reference IS NOT NULL))[1] AS reference,
            min(n.first_received_at) AS first_received_at,
            max(n.last_received_at) AS last_received_at,
            count(n.new_bytes)::integer AS new_conflicts,
            coalesce(sum(n.new_bytes), 0) AS new_bytes,
            coalesce(sum(n.deliveries) FILTER (WHERE n.is_dropped), 0)::integer AS dropped
        FROM not_replaced AS n
        GROUP BY n.id
    ) AS m
    WHERE e."# + $id + r#" = m.id
    RETURNING 1
),
replaced AS (
    UPDATE "# + $table + r#" AS e
    SET
        ("# $(+ $name + ", ")* + r#"payload_removed_at, output_sha256, payload_sha256)
            = ROW("# $(+ "i." + $name + ", ")* + r#"NULL, NULL, NULL),
        deliveries = e.deliveries + i.deliveries,
        redeliveries = e.redeliveries + i.redeliveries,
        reference = coalesce(e.reference, i.reference),
        first_received_at = least(e.first_received_at, i.first_received_at),
        last_received_at = greatest(e.last_received_at, i.last_received_at),
        recorded_at = greatest(e.recorded_at, now())
    FROM resolved AS s
    INNER JOIN incoming AS i ON s.n = i.n
    WHERE e."# + $id + r#" = s.id AND s.disposition = 'replacement'
    RETURNING 1
)
SELECT
    s.n AS "n!",
    CASE WHEN d.is_dropped THEN 'conflict_dropped' ELSE s.disposition END AS "disposition!",
    s.previous_workflow_id AS "previous_workflow_id?",
    s.previous_bulk_id AS "previous_bulk_id?",
    s.previous_status AS "previous_status!",
    s.previous_total_cost AS "previous_total_cost?",
    s.previous_first_received_at AS "previous_first_received_at!",
    CASE
        WHEN (SELECT count(*) FROM counted) + (SELECT count(*) FROM replaced)
            < (SELECT count(DISTINCT d.id) FROM resolved AS d) THEN '"# + $table + r#"'
        WHEN (SELECT count(*) FROM stored) < (SELECT count(*) FROM accepted) THEN '"# + $conflicts + r#"'
    END AS "suppressed_in?"
FROM resolved AS s
LEFT JOIN not_replaced AS d ON s.n = d.n AND d.is_dropped"#,
            &$arrays.id as _,
            &$arrays.deliveries,
            &$arrays.first_received_at,
            &$arrays.last_received_at,
            $(&$arrays.$column as _,)*
            &$arrays.redeliveries,
            &$arrays.reference as _,
            $limits.max_per_execution,
            $limits.max_bytes_per_execution
        )
    };
}

/// Applies `known`, whose rows are all of `kind`, and sets their dispositions.
pub(super) async fn resolve_duplicates<'r>(
    transaction: &mut Transaction<'_>,
    kind: Kind,
    known: &[Group<'r>],
    conflicts: config::Conflicts,
    rollups: &mut Rollups<'r>,
    dispositions: &mut [Disposition],
) -> Result<(), DbError> {
    // The best join depends on the number of rows.
    transaction.plan_for_values().await?;
    let resolved = match kind {
        Kind::Workflow => {
            let arrays = ExecutionArrays::new(known);
            with_execution_columns!(resolve_duplicates!(arrays, conflicts)).fetch_all(transaction).await?
        }
        Kind::Prediction => {
            let arrays = PredictionArrays::new(known);
            with_prediction_columns!(resolve_duplicates!(arrays, conflicts)).fetch_all(transaction).await?
        }
    };
    let mut resolved: HashMap<_, _> = resolved.into_iter().map(|row| (row.n, row)).collect();
    let mut earliest: HashMap<&str, OffsetDateTime> = HashMap::new();
    for (n, group) in (1..).zip(known) {
        // The row blocked the insert and was deleted since then. The batch fails and is retried.
        let previous = resolved.remove(&n).ok_or(sqlx::Error::RowNotFound)?;
        if let Some(table) = previous.suppressed_in {
            return Err(DbError::suppressed(&table));
        }
        let disposition = match &*previous.disposition {
            "replacement" => Disposition::Replacement,
            "conflict" => Disposition::Conflict,
            "conflict_dropped" => Disposition::ConflictDropped,
            _ => Disposition::Duplicate,
        };
        group.set_disposition(dispositions, disposition, Some(&previous.previous_status));
        if kind == Kind::Prediction {
            continue;
        }
        // Another group of the same execution may already have moved the time.
        let earliest = earliest.entry(&*group.row.execution.execution_id);
        let earliest = earliest.or_insert(previous.previous_first_received_at);
        let before = CountedExecution {
            workflow_id: Cow::Owned(previous.previous_workflow_id.unwrap_or_default()),
            bulk_id: previous.previous_bulk_id.map(Cow::Owned),
            status: Cow::Owned(previous.previous_status),
            total_cost: previous.previous_total_cost.map(Cow::Owned),
            first_received_at: *earliest,
        };
        let first_received_at = group.first_received_at.min(*earliest);
        *earliest = first_received_at;
        if disposition == Disposition::Replacement {
            let after = CountedExecution { first_received_at, ..CountedExecution::from(group) };
            rollups.replaced(before, after, group.row.delivery.received_at);
        } else if first_received_at < before.first_received_at {
            let after = CountedExecution { first_received_at, ..before.clone() };
            rollups.recounted(before, after);
        }
    }
    Ok(())
}
