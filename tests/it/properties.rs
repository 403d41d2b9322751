//! Properties of any request: a documented status, and an accepted body is stored as sent.

use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Map, Number, Value, json};
use tokio::runtime::Runtime;

use crate::support::fixtures::{execution, with};
use crate::support::property::runner;
use crate::support::receiver::TestReceiver;

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Numbers that survive a round trip exactly.
        any::<i32>().prop_map(|n| Number::from_f64(f64::from(n) / 64.0).into()),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

#[test]
fn any_bytes_get_a_documented_status() {
    let runtime = Runtime::new().unwrap();
    let receiver = runtime.block_on(TestReceiver::start());
    let nearly = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        json_value().prop_map(|value| value.to_string().into_bytes()),
        // An execution with one byte changed.
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| {
            let mut body = execution("e", "completed").to_string().into_bytes();
            let at = at.index(body.len());
            body[at] = byte;
            body
        }),
    ];
    let headers = prop::collection::vec((0..6_usize, "[ -~]{0,80}"), 0..4);
    runner(Config::with_cases(256))
        .run(&(nearly, headers), |(body, headers)| {
            let mut request = receiver.client.post(&receiver.url).body(body);
            for (name, value) in headers {
                let name = [
                    "x-webhook-signature",
                    "x-webhook-timestamp",
                    "x-webhook-secret",
                    "content-type",
                    "x-a",
                    "accept",
                ][name];
                request = request.header(name, value);
            }
            let answer = runtime.block_on(request.send()).unwrap();
            prop_assert!([200, 400, 422].contains(&answer.status().as_u16()), "{}", answer.status());
            Ok(())
        })
        .unwrap();
    runtime.block_on(async {
        assert_eq!(receiver.metric("panics_total").await, 0.0);
        receiver.accept(execution("honest", "completed")).await;
    });
}

#[test]
fn any_execution_is_stored_as_sent() {
    let runtime = Runtime::new().unwrap();
    let receiver = runtime.block_on(TestReceiver::start());
    let id = "[^\\x00]{1,60}";
    let fields = (id, id, id, json_value(), json_value(), any::<Option<String>>(), json_value());
    let cases = std::cell::RefCell::new(Vec::new());
    runner(Config::with_cases(128))
        .run(&fields, |(id, workflow, status, output, extra, cause, bulk)| {
            let id = format!("{}-{id}", cases.borrow().len());
            let body = with(
                json!({ "execution_id": id, "workflow_id": workflow, "status": status }),
                json!({ "output": output, "inputs": { "x": extra }, "error_cause": cause, "bulk_id": bulk }),
            );
            runtime.block_on(receiver.accept(&body));
            cases.borrow_mut().push(body);
            Ok(())
        })
        .unwrap();
    let query = "SELECT execution_id, workflow_id, status, output, error_cause,
                        coalesce(convert_from(payload_bytes, 'UTF8'), payload::text) AS sent, payload IS NULL AS odd
                 FROM executions";
    let rows = runtime.block_on(receiver.rows(query));
    assert_eq!(rows.len(), cases.borrow().len());
    for body in &*cases.borrow() {
        let row = rows.iter().find(|row| row["execution_id"] == body["execution_id"]).unwrap();
        for field in ["workflow_id", "status"] {
            assert_eq!(row[field], body[field], "{field} of {body}");
        }
        let sent: Value = serde_json::from_str(row["sent"].as_str().unwrap()).unwrap();
        assert_eq!(sent, *body);
        if row["odd"] == false {
            assert_eq!(row["output"], body["output"]);
        }
        let cause = body["error_cause"].as_str().map(|cause| cause.replace('\0', "\u{fffd}"));
        assert_eq!(row["error_cause"].as_str(), cause.as_deref());
    }
}
