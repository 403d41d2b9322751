//! Example values for the schemas of `/openapi.json`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::openapi::schema::{ArrayItems, Object, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};

pub(super) struct Examples<'d> {
    schemas: &'d BTreeMap<String, RefOr<Schema>>,
}

impl<'d> Examples<'d> {
    pub(super) fn new(schemas: &'d BTreeMap<String, RefOr<Schema>>) -> Self {
        Self { schemas }
    }

    pub(super) fn of_parameter(&self, name: &str, schema: &RefOr<Schema>) -> Value {
        match name {
            "from" => json!("7d"),
            "since" => json!("2h"),
            "cause" => json!("timeout"),
            "limit" => json!(100),
            "days" => json!(7),
            "to" => json!("today"),
            "reference" => json!("order=1234"),
            "after" => json!("0"),
            "wait" => json!(1),
            _ => self.of(name, schema),
        }
    }

    /// An example for a field with this name and schema.
    pub(super) fn of(&self, name: &str, schema: &RefOr<Schema>) -> Value {
        let schema = match schema {
            RefOr::T(schema) => schema,
            RefOr::Ref(reference) => {
                let component =
                    reference.ref_location.rsplit('/').next().and_then(|name| self.schemas.get(name));
                return component.map_or(Value::Null, |schema| self.of(name, schema));
            }
        };
        match schema {
            Schema::AllOf(parts) => {
                let parts = parts.items.iter().map(|part| self.of(name, part));
                let fields = parts
                    .filter_map(|part| if let Value::Object(fields) = part { Some(fields) } else { None });
                Value::Object(fields.flatten().collect())
            }
            Schema::Array(array) => match &array.items {
                ArrayItems::RefOrSchema(_) if matches!(name, "omitted" | "problems") => json!([]),
                ArrayItems::RefOrSchema(item) => json!([self.of(name, item)]),
                ArrayItems::False => json!([]),
            },
            Schema::Object(object) => self.of_object(name, object),
            _ => Value::Null,
        }
    }

    fn of_object(&self, name: &str, object: &Object) -> Value {
        if let Some(example) = &object.example {
            return example.clone();
        }
        if let Some(first) = object.enum_values.iter().flatten().next() {
            return first.clone();
        }
        if !object.properties.is_empty() {
            let fields = object.properties.iter().map(|(name, schema)| (name.clone(), self.of(name, schema)));
            return Value::Object(fields.collect::<Map<_, _>>());
        }
        if let Some(example) = of_name(name) {
            return example;
        }
        let types = match &object.schema_type {
            SchemaType::Type(one) => std::slice::from_ref(one),
            SchemaType::Array(types) => types,
            // Any JSON.
            SchemaType::AnyValue => return json!(["https://storage.example.com/garden.png"]),
        };
        match types.iter().find(|one| **one != Type::Null) {
            Some(Type::Boolean) => json!(false),
            Some(Type::Integer) => json!(1),
            Some(Type::Number) => json!(0.25),
            _ if types.contains(&Type::Null) => Value::Null,
            _ => json!("text"),
        }
    }
}

fn of_name(name: &str) -> Option<Value> {
    Some(match name {
        "position" => json!(1),
        "message" => json!("The input has no prompt."),
        "due_at" => json!("2026-03-02T09:20:00Z"),
        "execution" | "execution_id" | "latest_execution_id" => json!("exec-104"),
        "prediction_id" => json!("pred-7"),
        "workflow" | "workflow_id" => json!("product-photos"),
        "bulk" | "bulk_id" => json!("spring-catalogue"),
        "status" | "delivered_status" => json!("failed"),
        "fetched_from" => json!(null),
        "differs_in" => json!("status"),
        "recorded_status" => json!("completed"),
        "error" => json!("ExecutionFailed"),
        "error_cause" | "delivered_error_cause" => json!("Step 'animate' failed: Model timeout after 300s"),
        "reason" => json!("`workflow_id` is missing or null"),
        "authenticated_by" | "recorded_authenticated_by" | "delivered_authenticated_by" => json!("signature"),
        "step_id" | "key" => json!("animate"),
        "model" => json!("kling-v2"),
        "model_version" => json!("1.6"),
        "failure_class" => json!("execution_timeout"),
        "reference" => json!({ "order": "1234", "user": "42" }),
        "change" | "next_after" => json!(4711),
        "type" => json!("execution.ended"),
        "path" => json!("output[0]"),
        "media_type" => json!("image/png"),
        "url" => json!("https://storage.example.com/garden.png"),
        "cursor" => json!("ZTE3NzI0NDU0ODIwMDAwMDAuMC5hYjEyLmV4ZWMtMTA5"),
        "payload" => {
            json!({ "execution_id": "exec-104", "workflow_id": "product-photos", "status": "failed" })
        }
        "body_text" => json!(r#"{"execution_id":"exec-104"}"#),
        "body_bytes" => json!(27),
        "executions" | "received" | "expected" => json!(4),
        "complete" | "intact" | "is_final" | "is_new" => json!(true),
        "completed" => json!(3),
        "cancelled" | "missing" | "other" | "rejected" | "spooled" => json!(0),
        "duration_seconds" => json!(12.5),
        "started_at" => json!("2026-03-02T09:57:49Z"),
        "completed_at" => json!("2026-03-02T09:58:01.5Z"),
        "at" | "since" | "from" | "earliest_received_at" | "registered_at" => json!("2026-03-02T09:00:00Z"),
        "first_received_at" | "last_received_at" | "latest_received_at" | "received_at" | "recorded_at" => {
            json!("2026-03-02T09:58:02Z")
        }
        "to" => json!("2026-03-02T10:00:00Z"),
        _ => return None,
    })
}
