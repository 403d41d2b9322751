//! `/openapi.json` and `/docs`. `scripts/check-api` compares responses with the document.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::fixtures::example;
use crate::support::http::get_json;
use crate::support::receiver::TestReceiver;

#[tokio::test(flavor = "multi_thread")]
async fn the_docs_page_loads_nothing_from_other_machines() {
    let receiver = TestReceiver::start().await;
    let page = receiver.get("/docs").await;
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && policy.contains("connect-src 'self'"), "{policy}");
    let text = page.text().await.unwrap();
    assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("<script>"), "{text}");
    let linked: Vec<_> = text.split('"').filter(|part| part.starts_with("/console/")).collect();
    assert!(linked.iter().any(|path| path.starts_with("/console/docs-")), "{text}");
    for linked in linked {
        assert_eq!(receiver.get(linked).await.status(), 200, "{linked}");
    }
    assert_eq!(receiver.get("/openapi.json").await.headers()["cache-control"], "no-store");
    let document = get_json(&receiver, "/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    let webhook = &document["paths"]["/webhooks/workflow-completed"];
    assert!(
        receiver
            .url
            .starts_with(&webhook["servers"][0]["url"].as_str().unwrap().replace("localhost", "127.0.0.1"))
    );
    let required = &document["components"]["schemas"]["Webhook"]["required"];
    assert_eq!(*required, json!(["execution_id", "workflow_id", "status"]));
    receiver.accept(example("completed.json")).await;
}

/// Paths and schemas of the document, one per line.
fn outline(document: &Value) -> String {
    let names =
        |object: &Value| object.as_object().into_iter().flat_map(|o| o.keys().cloned()).collect::<Vec<_>>();
    let mut lines = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(method, _)| *method != "servers")
        {
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let parameters: Vec<_> = parameters.iter().map(|p| p["name"].as_str().unwrap()).collect();
            let answers = operation["responses"].as_object().unwrap().iter().map(|(status, answer)| {
                let kinds = answer["content"].as_object().into_iter().flatten().map(|(kind, content)| {
                    let schema = &content["schema"];
                    let referred = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next());
                    format!("{kind} {}", referred.or(schema["type"].as_str()).unwrap())
                });
                format!("  {status} {}", kinds.collect::<Vec<_>>().join(", ")).trim_end().to_owned()
            });
            lines.push(format!("{} {path} ({})", method.to_uppercase(), parameters.join(", ")));
            lines.extend(answers.filter(|answer| !answer.ends_with(" Problem")));
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let parts = schema["allOf"].as_array().cloned().unwrap_or_else(|| vec![schema.clone()]);
        let fields = parts.iter().flat_map(|part| match part["$ref"].as_str() {
            Some(other) => vec![format!("all of {}", other.rsplit('/').next().unwrap())],
            None => names(&part["properties"]),
        });
        lines.push(format!("{name}: {}", fields.collect::<Vec<_>>().join(", ")).trim_end().to_owned());
    }
    lines.join("\n") + "\n"
}

/// Within `v1`, paths and fields are added, never renamed or removed. `BLESS=1` updates the file.
#[tokio::test(flavor = "multi_thread")]
async fn the_document_keeps_its_paths_and_fields() {
    let receiver = TestReceiver::start().await;
    let outline = outline(&get_json(&receiver, "/openapi.json").await);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi.txt");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&file, &outline).unwrap();
    }
    assert_eq!(fs::read_to_string(&file).unwrap_or_default(), outline, "BLESS=1 updates the file");
}

/// `scripts/check-api` also generates clients and calls each operation.
#[tokio::test(flavor = "multi_thread")]
async fn every_operation_has_its_own_id_and_an_example_of_each_parameter_and_response() {
    let receiver = TestReceiver::start().await;
    let document = get_json(&receiver, "/openapi.json").await;
    let license = &document["info"]["license"]["identifier"];
    assert_eq!((license, &document["info"]["version"]), (&json!("MIT OR Apache-2.0"), &json!("0.1.0")));
    let tags: Vec<_> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let (mut ids, mut count) = (HashSet::new(), 0);
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in ["get", "post"].into_iter().filter_map(|method| item.get(method)) {
            count += 1;
            ids.insert(operation["operationId"].as_str().unwrap());
            assert!(tags.contains(&&operation["tags"][0]), "{path}");
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(!parameter["example"].is_null(), "{path}: {parameter}");
            }
            for response in operation["responses"].as_object().unwrap().values() {
                assert!(
                    response["description"].as_str().is_some_and(|text| !text.is_empty()),
                    "{path}: {response}"
                );
                for (_, content) in response["content"].as_object().into_iter().flatten() {
                    assert!(!content["example"].is_null(), "{path}: {content}");
                }
            }
        }
    }
    assert_eq!(ids.len(), count, "{ids:?}");
    let page = &document["components"]["schemas"]["Page_Execution"];
    assert_eq!(page["required"], json!(["items", "next"]));
    assert_eq!(page["properties"]["items"]["items"]["$ref"], "#/components/schemas/Execution");
}

/// The handlers under `/api` in the source, one path for each.
fn handled_paths(dir: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            paths.extend(handled_paths(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(entry).unwrap();
            paths.extend(source.split('"').filter(|text| text.starts_with("/api")).map(str::to_owned));
        }
    }
    paths.sort();
    paths
}

/// `routes!` registers a handler with its documentation; `Router::route` would register it without.
#[tokio::test(flavor = "multi_thread")]
async fn every_route_of_the_read_api_is_in_the_document_and_answers() {
    let receiver = TestReceiver::start().await;
    let document = get_json(&receiver, "/openapi.json").await;
    let mut documented = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        if path.starts_with("/api") {
            documented.extend(item.as_object().unwrap().keys().map(|method| (path.clone(), method.clone())));
        }
    }
    documented.sort();
    assert!(documented.len() >= 15, "{documented:?}");
    let paths: Vec<_> = documented.iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(handled_paths(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/admin/api")), paths);
    let detail = async |answer: Response| answer.json::<Value>().await.unwrap()["detail"].to_string();
    assert!(detail(receiver.get("/api/v1/absent").await).await.contains("See /docs."));
    for (path, method) in &documented {
        let accepts_post = ["/api/v1/expected", "/api/v1/reconcile"].contains(&&**path);
        assert!(method == "get" || accepts_post, "{path}");
        if method == "post" {
            continue;
        }
        let url = path.split('/').map(|part| if part.starts_with('{') { "1" } else { part });
        let url = format!("{}{}", receiver.admin, url.collect::<Vec<_>>().join("/"));
        let answer = receiver.client.get(&url).send().await.unwrap();
        match answer.status().as_u16() {
            200 => {}
            404 => {
                let detail = detail(answer).await;
                assert!(path.contains('{') && !detail.contains("See /docs."), "{path}: {detail}");
            }
            other => panic!("{path}: {other}"),
        }
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            if accepts_post && method == Method::POST {
                continue;
            }
            let answer = receiver.client.request(method, &url).send().await.unwrap();
            assert_eq!(answer.status(), 405, "{path}");
        }
    }
}
