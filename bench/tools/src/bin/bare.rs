//! The upper bound: an axum handler that only reads the body and sends the same response as the receiver.

use axum::{Router, body::Bytes, http::header, routing::post};

fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).expect("usage: bare ADDRESS");
    let answer =
        |_body: Bytes| async { ([(header::CONTENT_TYPE, "application/json")], r#"{"received":true}"#) };
    // The receiver's limit, since axum's default is smaller than some webhooks.
    let limit = axum::extract::DefaultBodyLimit::max(16 << 20);
    let routes = Router::new().route("/webhooks/workflow-completed", post(answer)).layer(limit);
    tokio::runtime::Runtime::new()?
        .block_on(async { axum::serve(tokio::net::TcpListener::bind(address).await?, routes).await })
}
