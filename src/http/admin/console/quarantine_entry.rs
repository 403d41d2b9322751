//! `/quarantine/{quarantine_id}`: one entry with its body, and a mapping with its preview.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::components::{ago, badge, bytes, count, notice, plural};
use super::form::{self, FormData, done};
use super::json_view::indented;
use super::layout::{self, PageError, Tab};
use super::mapping_form::MappingForm;
use super::params::{Params, path, url};
use super::quarantine::{MAX_ENTRIES, answered, finish};
use super::state::{Console, ConsoleState};
use super::text::{excerpt, visible, with_code};
use super::view::View;
use crate::db::queries::QueryError;
use crate::db::queries::quarantine::{GetQuarantined, QuarantineDetail, QuarantineReasons, Quarantined};
use crate::db::{DbConnection, DbError, Retried, RetryMode};
use crate::delivery::Disposition;
use crate::execution::Execution;
use crate::execution::mapping::Extracted;
use crate::execution::status::{TERMINAL, is_terminal};
use crate::http::admin::api::query::{PathId, path_number};
use crate::logging::escape_json;

/// Characters of the body on the page.
const MAX_BODY: usize = 100_000;
/// Executions of an array that the preview shows.
const MAX_PREVIEWED: usize = 10;
/// Characters of a value in the preview.
const MAX_VALUE: usize = 500;

pub(super) async fn page(State(console): ConsoleState, view: View, id: PathId<i64>) -> Response {
    let params = Params::of(&view.uri);
    layout::page(&view, Tab::Quarantine, "Quarantine entry", content(&console, &view, &params, id).await)
}

async fn content(
    console: &Console,
    view: &View,
    params: &Params,
    id: PathId<i64>,
) -> Result<Markup, PageError> {
    let quarantine_id = path_number(id, "quarantine_id")?;
    let detail = console.run(&GetQuarantined { quarantine_id }).await?;
    let detail = detail
        .ok_or_else(|| PageError::NotFound { kind: "quarantine entry", id: quarantine_id.to_string() })?;
    let mapping = MappingForm::of(|name| params.get(name));
    let preview = match &detail.body_text {
        Some(body) if params.get("preview").is_some() => {
            Some(Preview::read(console, &detail.entry, body, &mapping).await?)
        }
        _ => None,
    };
    Ok(html! {
        (head(&detail))
        div.cards.beside {
            (body(&detail))
            div.stack {
                @if let Some(text) = &detail.api_text { (api_body(text)) }
                @if let Some(preview) = &preview { (preview.render(view, &detail, &mapping)) }
                @if let Some(text) = &detail.body_text {
                    section.card aria-labelledby="mapping" {
                        h2 #mapping { "Mapping" }
                        p.soft { "Enter where the body has each field of an execution. A field that you leave empty is read from the \
                            key with the same name. The stored body is not changed." }
                        form method="get" action="#preview" {
                            (mapping.inputs(text))
                            div.actions { button.primary name="preview" value="1" { "Preview" } }
                        }
                    }
                }
                section.card aria-labelledby="drop" {
                    h2 #drop { "Drop" }
                    p.soft {
                        "The entry and its body are deleted. This cannot be undone. "
                        @if detail.entry.acknowledged { "The webhook was answered 200, so each::labs does not send it again." }
                        @else if detail.entry.answered() == "unsigned" { "The webhook is unsigned, and each::labs did not confirm it." }
                        @else { "The webhook was answered 422, so each::labs knows that it was not accepted." }
                    }
                    (form::action(
                        &view.operator, &format!("/quarantine/{quarantine_id}/drop"), "Delete this entry permanently?",
                        html! { button.danger { "Drop this entry" } },
                    ))
                }
            }
        }
    })
}

fn head(detail: &QuarantineDetail) -> Markup {
    let entry = &detail.entry;
    html! {
        div.page-head {
            p.crumbs {
                a href="/quarantine" { "Quarantine" } " / "
                a href=(url("/quarantine", "reason", &entry.reason)) { "same reason" } " / " (entry.quarantine_id)
            }
            h1 { (with_code(&entry.reason)) }
            ul.facts {
                li { "answered " (answered(entry)) }
                @if !entry.intact { li { (badge("bad", html! { "damaged" })) } }
                li { (plural(entry.deliveries.into(), "delivery", "deliveries")) }
                li { (bytes(u64::try_from(entry.body_bytes).unwrap_or_default())) }
                li { "received " (ago(entry.first_received_at)) }
                @if let Some(reference) = &entry.reference { li { span.id { (visible(&reference.to_line())) } } }
            }
        }
    }
}

fn body(detail: &QuarantineDetail) -> Markup {
    html! {
        section.card aria-labelledby="body" {
            @match &detail.body_text {
                Some(text) => {
                    @let text = indented(&escape_json(text));
                    @let (shown, more) = excerpt(&text, MAX_BODY);
                    div.head {
                        h2 #body { "Body" }
                        button type="button" data-copy-from="entry-body" hidden { "Copy" }
                    }
                    pre.block #entry-body tabindex="0" { (visible(shown)) }
                    @if more { p.soft { "The rest is not shown." } }
                }
                None => {
                    h2 #body { "Body" }
                    p { "The body is not text, or is larger than 16 MiB. "
                        code { "workflow-receiver quarantine show " (detail.entry.quarantine_id) } " prints it." }
                }
            }
        }
    }
}

/// The execution as `each::labs` has it.
fn api_body(text: &str) -> Markup {
    let text = indented(&escape_json(text));
    let (shown, more) = excerpt(&text, MAX_BODY);
    html! {
        section.card aria-labelledby="api-body" {
            h2 #api-body { "Version at each::labs" }
            pre.block tabindex="0" { (visible(shown)) }
            @if more { p.soft { "The rest is not shown." } }
        }
    }
}

/// What a retry with a mapping would record.
struct Preview {
    extracted: Result<Vec<Extracted>, String>,
    retried: Retried,
    /// Why the entry would stay in quarantine.
    problems: Vec<String>,
    /// Entries with the same reason.
    entries: i64,
}

impl Preview {
    async fn read(
        console: &Console,
        entry: &Quarantined,
        body: &str,
        mapping: &MappingForm,
    ) -> Result<Self, PageError> {
        let retry = async {
            let mut connection = DbConnection::for_command(&console.admin.credentials.database).await?;
            connection
                .retry_quarantined(entry.quarantine_id, RetryMode::Preview, |body| mapping.extract(body))
                .await
        };
        let retried = tokio::time::timeout(console.admin.settings.admin.statement_timeout, retry).await;
        let retried = retried.unwrap_or(Err(DbError::TimedOut)).map_err(QueryError::from)?;
        let groups = console.run(&QuarantineReasons::PAGE).await?;
        let group = groups.iter().find(|group| group.reason == entry.reason);
        let entries = group.map_or(1, |group| group.entries);
        let extracted = mapping.extract(body.as_bytes());
        // An error of the mapping itself is in `retried`.
        let problems = if extracted.is_ok() { mapping.problems(body) } else { Vec::new() };
        Ok(Self { extracted, retried, problems, entries })
    }

    fn render(&self, view: &View, detail: &QuarantineDetail, mapping: &MappingForm) -> Markup {
        let extracted = self.extracted.as_deref().unwrap_or_default();
        let dispositions = match &self.retried {
            Retried::Recorded(executions) => &executions[..],
            Retried::Unverified | Retried::Retained(_) | Retried::Absent => &[],
        };
        html! {
            section.card aria-labelledby="preview" {
                h2 #preview { "Preview" }
                @match &self.retried {
                    Retried::Recorded(_) => {
                        p { "This would be recorded: " (plural(i64::try_from(extracted.len()).unwrap_or_default(), "execution", "executions")) "." }
                    }
                    Retried::Unverified => {
                        p { "The webhook is unsigned. Its execution would be requested from each::labs again." }
                        div.actions {
                            (form::action(
                                &view.operator, &format!("/quarantine/{}/retry", detail.entry.quarantine_id), "",
                                html! { button.primary { "Verify again" } },
                            ))
                        }
                    }
                    Retried::Retained(why) => (notice("bad", html! {
                        @match &self.problems[..] {
                            [] => { "The entry would stay in quarantine: " (with_code(why)) "." }
                            [problem] => { "The entry would stay in quarantine: " (with_code(problem)) "." }
                            problems => {
                                "The entry would stay in quarantine:"
                                ul { @for problem in problems { li { (with_code(problem)) } } }
                            }
                        }
                    })),
                    Retried::Absent => (notice("bad", html! { "The entry no longer exists." })),
                }
                @for (n, extracted) in extracted.iter().take(MAX_PREVIEWED).enumerate() {
                    (previewed(extracted, dispositions.get(n).map(|(_, disposition)| *disposition)))
                }
                @if extracted.len() > MAX_PREVIEWED { p.soft { "\u{2026} " (extracted.len() - MAX_PREVIEWED) " more" } }
                @if !dispositions.is_empty() {
                    div.actions {
                        (form::action(
                            &view.operator, &format!("/quarantine/{}/retry", detail.entry.quarantine_id), "",
                            html! { (mapping.hidden()) button.primary { "Record this entry" } },
                        ))
                    }
                    @if self.entries > 1 { (record_all(view, &detail.entry.reason, self.entries, mapping)) }
                }
            }
        }
    }
}

/// The action for all entries with the reason. Its button is in a closed element, so it needs two clicks, also without
/// JavaScript.
fn record_all(view: &View, reason: &str, entries: i64, mapping: &MappingForm) -> Markup {
    let number = plural(entries.min(MAX_ENTRIES), "entry", "entries");
    html! {
        @if mapping.sets_execution_id() {
            p.soft { "An " code { "execution_id" } " that you set is for this entry only. To record all entries with this reason, read the " code { "execution_id" } " from a key." }
        } @else {
            details.confirm {
                summary.button { "Record all with this reason (" (number) ")\u{2026}" }
                p {
                    "The mapping is applied to "
                    @if entries > MAX_ENTRIES { "the newest " (number) " of " (count(entries)) } @else { (number) }
                    " with this reason. Check the preview first. Entries without a usable value stay in quarantine."
                }
                (form::action(&view.operator, "/quarantine/retry", "", html! {
                    (mapping.hidden())
                    input type="hidden" name="reason" value=(reason);
                    button.primary { "Record " (number) }
                }))
            }
        }
    }
}

fn previewed(extracted: &Extracted, disposition: Option<Disposition>) -> Markup {
    let Ok(execution) = Execution::parse(&extracted.mapped) else {
        return html! { (ignored(extracted)) };
    };
    let time = |at: Option<time::OffsetDateTime>| at.map(|at| at.to_string());
    let rows = [
        ("execution_id", Some(execution.execution_id.to_string())),
        ("workflow_id", execution.workflow_id.as_ref().map(ToString::to_string)),
        ("status", Some(execution.status.to_string())),
        ("bulk_id", execution.bulk_id.as_ref().map(ToString::to_string)),
        ("output", execution.output.map(str::to_owned)),
        ("error", execution.error.as_ref().map(ToString::to_string)),
        ("error_cause", execution.error_cause.as_ref().map(ToString::to_string)),
        ("started_at", time(execution.started_at)),
        ("completed_at", time(execution.completed_at)),
        ("total_cost", execution.total_cost.map(str::to_owned)),
    ];
    html! {
        article.previewed {
            @if let Some(disposition) = disposition { p { (disposition_badge(disposition, &execution.execution_id)) } }
            @if !is_terminal(&execution.status) {
                (notice("warn", html! {
                    "The status \u{201c}" (visible(&execution.status)) "\u{201d} is not a known terminal status, so the execution \
                    would count as running. Terminal statuses: " (TERMINAL.join(", ")) "."
                }))
            }
            dl.pairs {
                @for (name, value) in &rows {
                    dt { code { (name) } }
                    dd {
                        @match value {
                            Some(value) => (visible(excerpt(value, MAX_VALUE).0)),
                            None => span.soft { "none" },
                        }
                    }
                }
            }
            (ignored(extracted))
        }
    }
}

fn disposition_badge(disposition: Disposition, execution_id: &str) -> Markup {
    let (kind, text) = match disposition {
        Disposition::New => ("ok", "new execution"),
        Disposition::Replacement => ("ok", "replaces a status that is not terminal"),
        Disposition::Duplicate => ("muted", "duplicate of a recorded execution"),
        Disposition::Conflict | Disposition::ConflictDropped => {
            ("warn", "conflict with a recorded execution")
        }
        Disposition::Quarantined { .. } | Disposition::Unverified | Disposition::Dropped => {
            ("bad", "not recorded")
        }
    };
    html! {
        (badge(kind, html! { (text) }))
        @if disposition != Disposition::New { " " a href=(path("executions", execution_id)) { "Show the execution" } }
    }
}

fn ignored(extracted: &Extracted) -> Markup {
    html! {
        @if !extracted.ignored.is_empty() {
            (notice("warn", html! {
                "These keys are not read: "
                @for (n, key) in extracted.ignored.iter().take(50).enumerate() {
                    @if n > 0 { ", " } code { (visible(key)) }
                }
                ". They stay in the payload."
            }))
        }
    }
}

/// `POST /quarantine/{quarantine_id}/retry`
pub(super) async fn retry(
    State(console): ConsoleState,
    view: View,
    id: PathId<i64>,
    form: FormData,
) -> Response {
    let mapping = MappingForm::of(|name| Some(form.get(name)));
    let action = async {
        let id = path_number(id, "quarantine_id")?;
        let mode = RetryMode::Record { by: &view.operator.name };
        let run = async |connection: &mut DbConnection| {
            let retried = connection.retry_quarantined(id, mode, |body| mapping.extract(body)).await;
            match retried.map_err(|error| error.to_string())? {
                Retried::Recorded(executions) => {
                    let recorded = |(id, disposition): &(String, Disposition)| {
                        format!("{id} ({})", disposition.as_str())
                    };
                    let executions: Vec<_> = executions.iter().take(MAX_PREVIEWED).map(recorded).collect();
                    Ok(format!("Recorded {}", executions.join(", ")))
                }
                Retried::Unverified => Ok("The entry waits for its verification again".to_owned()),
                Retried::Retained(why) => Err(format!("The entry stays in quarantine: {why}")),
                Retried::Absent => Err("The entry does not exist".to_owned()),
            }
        };
        let action =
            console.act(&view.operator, "quarantine.retry", &mapping.describe(&id.to_string()), run).await;
        done("/quarantine", action)
    };
    finish(&view, action.await)
}

/// `POST /quarantine/{quarantine_id}/drop`
pub(super) async fn drop_entry(State(console): ConsoleState, view: View, id: PathId<i64>) -> Response {
    let action = async {
        let id = path_number(id, "quarantine_id")?;
        let run = async |connection: &mut DbConnection| {
            let dropped = connection.drop_quarantined(&[id]).await.map_err(|error| error.to_string())?;
            if dropped.is_empty() {
                Err("The entry does not exist".to_owned())
            } else {
                Ok("Dropped 1".to_owned())
            }
        };
        done("/quarantine", console.act(&view.operator, "quarantine.drop", &id.to_string(), run).await)
    };
    finish(&view, action.await)
}
