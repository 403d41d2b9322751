//! Computes the expected rows in PostgreSQL from the deliveries and their answers.
//!
//! Each execution has one sender, which sends one delivery at a time, so the order of the deliveries is known.

use std::collections::{BTreeMap, HashMap};

use super::Finding;
use super::generate::{Body, Columns, Fit};

/// A body that was sent until the answer was 200 or 422, or until the sender was stopped.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) body: Body,
    /// The expected `authenticated_by`.
    pub(crate) method: &'static str,
    /// Requests without an answer, or answered 503. They may have been recorded.
    pub(crate) unclear: u32,
    /// The status, and the `detail` of a 422.
    pub(crate) answer: Option<(u16, String)>,
    /// The start of the first request, the start of the answered one, and the time of the answer, in microseconds since
    /// 1970.
    pub(crate) first_began: i64,
    pub(crate) began: i64,
    pub(crate) ended: i64,
    /// The number of interruptions before the first request.
    pub(crate) interruptions: u32,
}

impl Sent {
    pub(crate) fn answered(&self, status: u16) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.0 == status)
    }
}

/// Bounds of a row's count and times.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    pub(crate) deliveries: (i64, i64),
    pub(crate) first: (i64, i64),
    pub(crate) last: (i64, i64),
}

const NEVER: (i64, i64) = (i64::MAX, i64::MAX);
const OPEN: i64 = i64::MAX;

impl Bounds {
    fn none() -> Self {
        Self { deliveries: (0, 0), first: NEVER, last: (i64::MIN, i64::MIN) }
    }

    /// Counts a delivery. Each of the `interruptions` since it was sent may have counted it again.
    pub(crate) fn count(&mut self, sent: &Sent, interruptions: u32) {
        let certain = i64::from(sent.answer.is_some());
        let tries = certain + i64::from(sent.unclear);
        let again = i64::from(interruptions - sent.interruptions);
        self.deliveries.0 += certain;
        self.deliveries.1 += tries * (1 + again);
        let sure = sent.unclear == 0 && certain == 1;
        self.first.0 = self.first.0.min(sent.first_began);
        self.first.1 = self.first.1.min(if certain == 1 { sent.ended } else { OPEN });
        self.last.0 = self.last.0.max(if certain == 1 { sent.began } else { i64::MIN });
        self.last.1 = self.last.1.max(if sure { sent.ended } else { OPEN });
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) body: Body,
    pub(crate) methods: Vec<&'static str>,
    /// For quarantine: the `detail` of the answer.
    pub(crate) detail: String,
    pub(crate) bounds: Bounds,
    /// Whether the row must exist: at least one delivery was answered.
    pub(crate) required: bool,
    /// Bounds of the sum of the lengths of its conflicts' bodies.
    pub(crate) conflict_bytes: (i64, i64),
}

impl Expected {
    fn new(sent: &Sent) -> Self {
        let detail = sent.answer.as_ref().map(|answer| answer.1.clone()).unwrap_or_default();
        Self {
            body: sent.body.clone(),
            methods: vec![sent.method],
            detail,
            bounds: Bounds::none(),
            required: false,
            conflict_bytes: (0, 0),
        }
    }

    pub(super) fn finding(&self, what: String) -> Finding {
        let subject = self.body.columns.as_ref().map_or(&self.body.text, |columns| &columns.id);
        Finding { subject: subject.clone(), answered: self.bounds.last.0, what }
    }

    fn count(&mut self, sent: &Sent, interruptions: u32) {
        self.bounds.count(sent, interruptions);
        self.required |= sent.answer.is_some();
        if !self.methods.contains(&sent.method) {
            self.methods.push(sent.method);
        }
    }
}

/// All expected rows. An execution has two alternatives when its last delivery was never answered.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) executions: BTreeMap<String, Vec<Expected>>,
    pub(crate) conflicts: Vec<Expected>,
    pub(crate) quarantine: Vec<Expected>,
}

fn is_terminal(status: &str) -> bool {
    ["completed", "succeeded", "failed", "cancelled"].contains(&status)
}

/// Whether a delivery repeats the recorded terminal result: the rule of `db/record/resolve_duplicates.rs`, implemented
/// again.
fn repeats(recorded: &Body, body: &Body) -> bool {
    let (was, is) = (columns(recorded), columns(body));
    let result = |c: &Columns| {
        (
            c.workflow.clone(),
            c.bulk.clone(),
            c.status.clone(),
            c.error.clone(),
            c.error_cause.clone(),
            c.output.clone(),
        )
    };
    result(was) == result(is) && (was.fit != Fit::Not || recorded.text == body.text)
}

pub(crate) fn columns(body: &Body) -> &Columns {
    body.columns.as_ref().unwrap()
}

impl Model {
    /// `sent` has the deliveries of each execution in the order of sending.
    pub(crate) fn of<'s>(sent: impl IntoIterator<Item = &'s Sent>, interruptions: u32) -> Self {
        let mut executions: BTreeMap<&str, Vec<&Sent>> = BTreeMap::new();
        let mut quarantine: HashMap<&str, Expected> = HashMap::new();
        for sent in sent {
            match &sent.body.columns {
                Some(columns) => executions.entry(&columns.id).or_default().push(sent),
                None => quarantine
                    .entry(&sent.body.text)
                    .or_insert_with(|| Expected::new(sent))
                    .count(sent, interruptions),
            }
        }
        let mut model = Self { quarantine: quarantine.into_values().collect(), ..Self::default() };
        for (id, sent) in executions {
            let rows = model.execution(&sent, interruptions);
            model.executions.insert(id.to_owned(), rows);
        }
        model
    }

    /// The alternatives for the row of one execution. Adds its conflicts.
    fn execution(&mut self, sent: &[&Sent], interruptions: u32) -> Vec<Expected> {
        let mut row: Option<Expected> = None;
        let mut alternatives = Vec::new();
        let mut conflicts: BTreeMap<&str, Expected> = BTreeMap::new();
        let count = sent.len();
        for (n, sent) in sent.iter().enumerate() {
            let unclear = sent.answer.is_none();
            assert!(!unclear || n + 1 == count, "only the last delivery of an execution may have no answer");
            if unclear {
                alternatives.extend(row.clone());
            }
            let Some(recorded) = &mut row else {
                let mut new = Expected::new(sent);
                new.count(sent, interruptions);
                row = Some(new);
                continue;
            };
            let (was, is) = (columns(&recorded.body).status.clone(), &columns(&sent.body).status);
            if is_terminal(&was) && is_terminal(is) && !repeats(&recorded.body, &sent.body) {
                conflicts
                    .entry(&sent.body.text)
                    .or_insert_with(|| Expected::new(sent))
                    .count(sent, interruptions);
                // The execution also counts it.
                recorded.bounds.count(sent, interruptions);
                continue;
            }
            if !is_terminal(&was) && was != *is {
                (recorded.body, recorded.methods) = (sent.body.clone(), vec![sent.method]);
            }
            let methods = recorded.methods.clone();
            recorded.count(sent, interruptions);
            recorded.methods = methods;
        }
        // A text that jsonb can hold is stored without its byte order mark.
        let bytes = |conflict: &Expected| {
            let text = match columns(&conflict.body).fit {
                Fit::Whole => conflict.body.text.trim_start_matches('\u{feff}'),
                _ => &conflict.body.text,
            };
            i64::try_from(text.len()).unwrap()
        };
        let least = conflicts.values().filter(|conflict| conflict.required).map(bytes).sum();
        let most = conflicts.values().map(bytes).sum();
        self.conflicts.extend(conflicts.into_values());
        alternatives.extend(row);
        for row in &mut alternatives {
            row.conflict_bytes = (least, most);
        }
        alternatives
    }
}
