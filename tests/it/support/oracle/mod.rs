//! Compares the deliveries and their answers with the rows in PostgreSQL, column by column.

pub(crate) mod generate;
pub(crate) mod model;

use std::collections::{BTreeMap, HashMap};

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use generate::Fit;
pub(crate) use model::Sent;
use model::{Expected, Model, columns};

/// A row that is missing, differs, or should not exist.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    /// The `execution_id`, or the text of a quarantined body. A lost delivery may be the cause of several findings with
    /// the same subject: if the first delivery of an execution is lost, the second one is recorded as the execution
    /// instead of as a conflict.
    pub(crate) subject: String,
    /// The start of the last request of the subject that was answered, in microseconds since 1970.
    pub(crate) answered: i64,
    /// Read by `Debug`.
    #[expect(dead_code, reason = "shown when a test fails")]
    pub(crate) what: String,
}

#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Acknowledged and not recorded.
    pub(crate) lost: Vec<Finding>,
    /// Recorded with another value than was sent.
    pub(crate) different: Vec<Finding>,
    /// Rows that the answered deliveries do not explain.
    pub(crate) unexplained: Vec<Finding>,
    /// The sum of `deliveries` of executions and quarantine minus the number of deliveries answered 200 or 422.
    pub(crate) counted_again: i64,
}

impl Verdict {
    /// # Panics
    /// When anything is wrong.
    pub(crate) fn assert_good(&self) {
        let few = |findings: &[Finding]| findings.iter().take(20).cloned().collect::<Vec<_>>();
        let wrong = (few(&self.lost), few(&self.different), few(&self.unexplained));
        assert!(
            self.lost.is_empty() && self.different.is_empty() && self.unexplained.is_empty(),
            "{} lost, {} different, {} unexplained: {wrong:#?}",
            self.lost.len(),
            self.different.len(),
            self.unexplained.len()
        );
    }
}

/// The columns that are compared. Add a new column here and to `COUNTS`, `RESULT` or `EXECUTION`.
const COLUMNS: [(&str, &str); 3] = [
    (
        "executions",
        "authenticated_by bulk_id completed_at conflict_bytes conflicts conflicts_dropped deliveries error error_cause \
         execution_id fetched_from first_received_at last_received_at output output_sha256 payload payload_bytes \
         payload_removed_at payload_sha256 recorded_at redeliveries reference started_at status step_failed total_cost \
         workflow_id",
    ),
    (
        "execution_conflicts",
        "authenticated_by body_sha256 bulk_id conflict_id deliveries error error_cause execution_id first_received_at \
         last_received_at output payload payload_bytes recorded_at status workflow_id",
    ),
    (
        "quarantine",
        "acknowledged api_body authenticated_by body body_sha256 deliveries first_received_at intact last_received_at \
         quarantine_id reason recorded_at redeliveries reference",
    ),
];

const CREATE_EXPECTED: &str = "CREATE TEMPORARY TABLE expected (
    place int, alternative int, id text COLLATE \"C\", body bytea, fit text, workflow_id text, bulk_id text, status text,
    started_at timestamptz, completed_at timestamptz, output jsonb, error text, error_cause text, total_cost numeric,
    step_failed boolean, payload jsonb, payload_bytes bytea, body_sha256 bytea, methods text[], detail text,
    deliveries int8range, first_at int8range, last_at int8range, required boolean, conflict_bytes int8range)";

/// Each parameter is an array with an element per row.
const INSERT_EXPECTED: &str = "INSERT INTO expected
    SELECT place, alternative, id, body, fit, workflow_id, bulk_id, status, started_at::timestamptz,
        completed_at::timestamptz, output::jsonb, error, error_cause, total_cost::numeric, step_failed,
        CASE WHEN fit IN ('whole', 'partly') THEN ltrim(convert_from(body, 'UTF8'), U&'\\FEFF')::jsonb END,
        CASE WHEN fit <> 'whole' THEN body END,
        sha256(CASE WHEN fit = 'whole' THEN convert_to(ltrim(convert_from(body, 'UTF8'), U&'\\FEFF'), 'UTF8') ELSE body END),
        string_to_array(methods, ','), detail,
        int8range(least_deliveries, most_deliveries, '[]'), int8range(first_from, first_to, '[]'),
        int8range(last_from, last_to, '[]'), required,
        int8range(least_conflict_bytes, most_conflict_bytes, '[]')
    FROM unnest($1::int[], $2::int[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
        $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::boolean[], $16::text[], $17::text[],
        $18::int8[], $19::int8[], $20::int8[], $21::int8[], $22::int8[], $23::int8[], $24::boolean[],
        $25::int8[], $26::int8[])
        AS x (place, alternative, id, body, fit, workflow_id, bulk_id, status, started_at, completed_at, output, error,
        error_cause, total_cost, step_failed, methods, detail, least_deliveries, most_deliveries, first_from, first_to,
        last_from, last_to, required, least_conflict_bytes, most_conflict_bytes)";

/// SQL for the names of the columns in which a row `r` and its expected row `x` differ.
fn differing(values: &[&str]) -> String {
    let columns = values.iter().map(|column| {
        let (name, differs) = column.split_once(": ").map_or_else(
            || (*column, format!("r.{column} IS DISTINCT FROM x.{column}")),
            |(name, differs)| (name, differs.to_owned()),
        );
        format!("CASE WHEN {differs} THEN '{name}' END")
    });
    format!("array_to_string(ARRAY[{}], ', ')", columns.collect::<Vec<_>>().join(", "))
}

/// Columns of every table.
const COUNTS: [&str; 5] = [
    "authenticated_by: (r.authenticated_by = ANY (x.methods)) IS NOT TRUE",
    "deliveries: NOT r.deliveries::int8 <@ x.deliveries",
    "first_received_at: NOT (extract(epoch FROM r.first_received_at) * 1000000)::int8 <@ x.first_at",
    "last_received_at: NOT (extract(epoch FROM r.last_received_at) * 1000000)::int8 <@ x.last_at",
    // PostgreSQL and the receiver have the same clock here.
    "recorded_at: r.recorded_at NOT BETWEEN r.last_received_at AND now()",
];
const RESULT: [&str; 8] =
    ["workflow_id", "bulk_id", "status", "output", "error", "error_cause", "payload", "payload_bytes"];
const EXECUTION: [&str; 13] = [
    "conflicts: r.conflicts IS DISTINCT FROM nullif((SELECT count(*) FROM execution_conflicts AS c
        WHERE c.execution_id = r.execution_id), 0)",
    "conflict_bytes: (r.conflict_bytes IS NULL) <> (r.conflicts IS NULL)
        OR NOT coalesce(r.conflict_bytes, 0) <@ x.conflict_bytes",
    "conflicts_dropped: r.conflicts_dropped IS NOT NULL",
    // As in `load.rs`.
    "reference: r.reference IS DISTINCT FROM jsonb_build_object('execution', r.execution_id)",
    "redeliveries: r.redeliveries <> CASE WHEN r.execution_id LIKE '%7' THEN r.deliveries ELSE 0 END",
    "fetched_from: r.fetched_from IS NOT NULL",
    "started_at",
    "completed_at",
    "total_cost",
    "step_failed",
    "payload_removed_at: r.payload_removed_at IS NOT NULL",
    "output_sha256: r.output_sha256 IS NOT NULL",
    "payload_sha256: r.payload_sha256 IS NOT NULL",
];

/// Compares the sent deliveries with the recorded rows. `sent` has the deliveries of each sender in the order of
/// sending. `interruptions`: how often PostgreSQL may have committed an attempt to record whose result the receiver did
/// not receive.
pub(crate) async fn compare(database: &PgConnectOptions, sent: &[Sent], interruptions: u32) -> Verdict {
    let model = Model::of(sent, interruptions);
    let mut connection = PgConnection::connect_with(database).await.unwrap();
    all_columns_are_compared(&mut connection).await;
    let mut verdict = Verdict::default();
    let executions: Vec<(usize, &Expected)> =
        model.executions.values().flat_map(|rows| rows.iter().enumerate()).collect();
    let of_executions = [&RESULT[..], &EXECUTION, &COUNTS].concat();
    table(
        &mut connection,
        "executions",
        "r.execution_id = x.id",
        &of_executions,
        &executions,
        &model.executions,
        &mut verdict,
    )
    .await;
    let conflicts: Vec<_> = model.conflicts.iter().map(|row| (0, row)).collect();
    let same = "r.execution_id = x.id AND r.body_sha256 = x.body_sha256";
    let of_conflicts = [&RESULT[..], &COUNTS].concat();
    table(
        &mut connection,
        "execution_conflicts",
        same,
        &of_conflicts,
        &conflicts,
        &model.executions,
        &mut verdict,
    )
    .await;
    let quarantine: Vec<_> = model.quarantine.iter().map(|row| (0, row)).collect();
    let of_quarantine = [
        &[
            "body",
            "body_sha256: r.body_sha256 <> sha256(r.body)",
            "acknowledged: r.acknowledged",
            "intact: NOT r.intact",
            "api_body: r.api_body IS NOT NULL",
            "reference: r.reference IS NOT NULL",
            "redeliveries: r.redeliveries <> 0",
        ][..],
        &["reason: x.required AND NOT starts_with(x.detail, r.reason)"],
        &COUNTS,
    ]
    .concat();
    table(
        &mut connection,
        "quarantine",
        "r.body = x.body",
        &of_quarantine,
        &quarantine,
        &model.executions,
        &mut verdict,
    )
    .await;
    let sum = "SELECT (SELECT coalesce(sum(deliveries), 0) FROM executions)
        + (SELECT coalesce(sum(deliveries), 0) FROM quarantine)";
    let sum: i64 = sqlx::query_scalar(sum).fetch_one(&mut connection).await.unwrap();
    verdict.counted_again =
        sum - i64::try_from(sent.iter().filter(|sent| sent.answer.is_some()).count()).unwrap();
    verdict
}

async fn all_columns_are_compared(connection: &mut PgConnection) {
    for (table, expected) in COLUMNS {
        let query = "SELECT string_agg(column_name, ' ' ORDER BY column_name COLLATE \"C\") FROM
                     information_schema.columns WHERE table_schema = 'public' AND table_name = $1";
        let found: String = sqlx::query_scalar(query).bind(table).fetch_one(&mut *connection).await.unwrap();
        assert_eq!(found, expected, "{table}: the oracle compares every column");
    }
}

async fn table(
    connection: &mut PgConnection,
    table: &str,
    same: &str,
    values: &[&str],
    rows: &[(usize, &Expected)],
    executions: &BTreeMap<String, Vec<Expected>>,
    verdict: &mut Verdict,
) {
    fill(connection, rows).await;
    let differing = differing(values);
    let pairs = format!("SELECT x.place, {differing} AS differs, concat_ws(' ', r.deliveries,
            (extract(epoch FROM r.first_received_at) * 1000000)::int8, (extract(epoch FROM r.last_received_at) * 1000000)::int8)
            AS counted FROM expected AS x JOIN {table} AS r ON {same}");
    let mut found: HashMap<usize, (String, String)> = HashMap::new();
    for pair in sqlx::query(AssertSqlSafe(pairs)).fetch_all(&mut *connection).await.unwrap() {
        found.insert(usize::try_from(pair.get::<i32, _>(0)).unwrap(), (pair.get(1), pair.get(2)));
    }
    // One of the alternatives of an execution must be right.
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (place, (_, row)) in rows.iter().enumerate() {
        let name = match (&row.body.columns, table) {
            (Some(columns), "executions") => columns.id.clone(),
            _ => place.to_string(),
        };
        groups.entry(name).or_default().push(place);
    }
    for places in groups.values() {
        let differences: Vec<_> = places.iter().filter_map(|place| found.get(place)).collect();
        let (_, row) = rows[places[0]];
        let text: String = row.body.text.chars().take(400).collect();
        if differences.is_empty() && row.required {
            verdict.lost.push(row.finding(format!("{table}: {text}")));
        } else if !differences.is_empty() && !differences.iter().any(|(differs, _)| differs.is_empty()) {
            let what = format!("{table}: {differences:?} differ: {text} {:?}", row.bounds);
            verdict.different.push(row.finding(what));
        }
    }
    let subject = if table == "quarantine" { "encode(r.body, 'escape')" } else { "r.execution_id" };
    let unexplained = format!(
        "SELECT {subject}, row_to_json(r)::text FROM {table} AS r
         WHERE NOT EXISTS (SELECT FROM expected AS x WHERE {same}) LIMIT 100"
    );
    let unexplained: Vec<(String, String)> =
        sqlx::query_as(AssertSqlSafe(unexplained)).fetch_all(&mut *connection).await.unwrap();
    verdict.unexplained.extend(unexplained.into_iter().map(|(subject, row)| Finding {
        answered: executions.get(&subject).map_or(i64::MIN, |rows| rows[0].bounds.last.0),
        what: format!("{table}: {row}"),
        subject,
    }));
}

async fn fill(connection: &mut PgConnection, rows: &[(usize, &Expected)]) {
    sqlx::raw_sql("DROP TABLE IF EXISTS expected").execute(&mut *connection).await.unwrap();
    sqlx::raw_sql(CREATE_EXPECTED).execute(&mut *connection).await.unwrap();
    for (chunk, some) in rows.chunks(1_000).enumerate() {
        let some: Vec<_> = some
            .iter()
            .enumerate()
            .map(|(n, (alternative, row))| (chunk * 1_000 + n, *alternative, *row))
            .collect();
        macro_rules! each {
            ($f:expr) => {
                some.iter().map($f).collect::<Vec<_>>()
            };
        }
        macro_rules! text {
            ($field:ident) => {
                each!(|(_, _, row)| row.body.columns.as_ref().and_then(|columns| columns.$field.clone()))
            };
        }
        macro_rules! bound {
            ($field:ident, $end:tt) => {
                each!(|(_, _, row)| row.bounds.$field.$end.clamp(i64::MIN + 1, i64::MAX - 1))
            };
        }
        let number = |n: usize| i32::try_from(n).unwrap();
        let fit = |row: &Expected| {
            row.body.columns.is_some().then(|| match columns(&row.body).fit {
                Fit::Whole => "whole",
                Fit::Partly => "partly",
                Fit::Not => "not",
            })
        };
        sqlx::query(INSERT_EXPECTED)
            .bind(each!(|(place, _, _)| number(*place)))
            .bind(each!(|(_, alternative, _)| number(*alternative)))
            .bind(each!(|(_, _, row)| row.body.columns.as_ref().map(|columns| columns.id.clone())))
            .bind(each!(|(_, _, row)| row.body.text.as_bytes()))
            .bind(each!(|(_, _, row)| fit(row)))
            .bind(each!(|(_, _, row)| row.body.columns.as_ref().map(|columns| columns.workflow.clone())))
            .bind(text!(bulk))
            .bind(each!(|(_, _, row)| row.body.columns.as_ref().map(|columns| columns.status.clone())))
            .bind(text!(started))
            .bind(text!(completed))
            .bind(text!(output))
            .bind(text!(error))
            .bind(text!(error_cause))
            .bind(text!(cost))
            .bind(each!(|(_, _, row)| row.body.columns.as_ref().map(|columns| columns.step_failed)))
            .bind(each!(|(_, _, row)| row.methods.join(",")))
            .bind(each!(|(_, _, row)| row.detail.clone()))
            .bind(bound!(deliveries, 0))
            .bind(bound!(deliveries, 1))
            .bind(bound!(first, 0))
            .bind(bound!(first, 1))
            .bind(bound!(last, 0))
            .bind(bound!(last, 1))
            .bind(each!(|(_, _, row)| row.required))
            .bind(each!(|(_, _, row)| row.conflict_bytes.0))
            .bind(each!(|(_, _, row)| row.conflict_bytes.1))
            .execute(&mut *connection)
            .await
            .unwrap();
    }
    // Without `ANALYZE` the joins are nested loops.
    sqlx::raw_sql("CREATE INDEX ON expected (id); ANALYZE expected").execute(&mut *connection).await.unwrap();
}
