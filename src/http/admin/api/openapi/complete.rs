//! Adds to the document what the macros of utoipa leave out: references to schemas, required fields and examples.

use std::collections::BTreeMap;

use utoipa::openapi::path::{Operation, ParameterBuilder};
use utoipa::openapi::schema::ArrayItems;
use utoipa::openapi::{OpenApi as Document, RefOr, ResponseBuilder, Schema};

use super::example::Examples;

type Schemas = BTreeMap<String, RefOr<Schema>>;

pub(super) fn complete(document: &mut Document) {
    let schemas = &mut document.components.get_or_insert_default().schemas;
    refer_to_items(schemas);
    for (name, schema) in schemas.iter_mut() {
        // Bodies of requests have optional fields, and a problem may have a parameter.
        if !matches!(&**name, "Webhook" | "Problem" | "TriggerResponse" | "TriggeredInput") {
            require_all_fields(schema);
        }
    }
    let examples = Examples::new(schemas);
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            add_examples(operation, &examples);
            add_too_large_head(operation);
        }
    }
}

/// Replaces the items of pages by references. The macro copies the schema of a generic parameter, so a generated client
/// would have several types for the same schema.
fn refer_to_items(schemas: &mut Schemas) {
    let names: Vec<_> = schemas.keys().cloned().collect();
    for name in names {
        let Some(item) = name.strip_prefix("Page_") else { continue };
        let item = RefOr::Ref(utoipa::openapi::Ref::from_schema_name(item));
        if let Some(RefOr::T(Schema::Object(page))) = schemas.get_mut(&name)
            && let Some(RefOr::T(Schema::Array(items))) = page.properties.get_mut("items")
        {
            items.items = ArrayItems::RefOrSchema(Box::new(item));
        }
    }
}

/// A response has all fields of its schema. The macro makes nullable fields optional.
fn require_all_fields(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) => object.required = object.properties.keys().cloned().collect(),
        RefOr::T(Schema::AllOf(parts)) => parts.items.iter_mut().for_each(require_all_fields),
        _ => {}
    }
}

/// Adds an example to each parameter and to each JSON response.
fn add_examples(operation: &mut Operation, examples: &Examples<'_>) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter
            && let Some(schema) = &parameter.schema
        {
            let example = examples.of_parameter(&parameter.name, schema);
            *parameter = ParameterBuilder::from(parameter.clone()).example(Some(example)).build();
        }
    }
    for response in operation.responses.responses.values_mut() {
        let RefOr::T(response) = response else { continue };
        for content in response.content.values_mut() {
            if let RefOr::T(content) = content
                && content.example.is_none()
                && let Some(schema) = &content.schema
            {
                content.example = Some(examples.of("", schema));
            }
        }
    }
}

/// The HTTP library sends this response before a handler runs.
fn add_too_large_head(operation: &mut Operation) {
    let response = ResponseBuilder::new()
        .description("The URL and the headers are larger than 16 KiB. The response has no body.");
    operation.responses.responses.insert("431".to_owned(), response.build().into());
}
