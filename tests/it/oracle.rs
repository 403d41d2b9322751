//! What was acknowledged, against what is recorded.

use std::collections::HashMap;

use serde_json::Value;

fn is_terminal(status: &Value) -> bool {
    ["completed", "failed", "cancelled"].contains(&status.as_str().unwrap())
}

/// What is wrong with what PostgreSQL holds, given what was acknowledged.
pub(crate) fn compare(acknowledged: &[Value], executions: &[Value], conflicts: &[Value]) -> Vec<String> {
    let recorded: HashMap<_, _> =
        executions.iter().map(|row| (row["execution_id"].as_str().unwrap(), row)).collect();
    let aside: HashMap<_, _> = conflicts
        .iter()
        .map(|row| ((row["execution_id"].as_str().unwrap(), row["status"].as_str().unwrap()), row))
        .collect();
    let mut deliveries: HashMap<&str, i64> = HashMap::new();
    let mut wrong = Vec::new();
    for body in acknowledged {
        let (id, status) = (body["execution_id"].as_str().unwrap(), &body["status"]);
        let Some(row) = recorded.get(id) else {
            wrong.push(format!("lost: {body}"));
            continue;
        };
        *deliveries.entry(id).or_default() += 1;
        if is_terminal(status) && &row["status"] != status {
            if !is_terminal(&row["status"]) {
                wrong.push(format!("the outcome is lost: {body}, recorded {row}"));
            } else if !aside.contains_key(&(id, status.as_str().unwrap())) {
                wrong.push(format!("the contradiction is lost: {body}, recorded {row}"));
            }
        }
        if row["bulk_id"] != body["bulk_id"] {
            wrong.push(format!("another bulk: {body}, recorded {row}"));
        }
    }
    for (id, count) in deliveries {
        if recorded[id]["deliveries"].as_i64().unwrap() < count {
            wrong.push(format!("{id}: {count} deliveries were acknowledged, recorded {}", recorded[id]));
        }
    }
    wrong
}
