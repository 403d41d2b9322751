//! One request to a neighbour over HTTP: on a connection of its own, without TLS.

use std::error::Error;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The largest answer taken, in bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Sends `request`, whose URI is a path, to `address`, a host and a port. What is answered. Without a time limit.
///
/// # Errors
/// When it cannot be reached, or does not answer in full. The text quotes nothing of the request.
pub(crate) async fn send(
    address: &str,
    mut request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Box<dyn Error + Send + Sync>> {
    request.headers_mut().insert(HOST, HeaderValue::try_from(address)?);
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let ask = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        Ok((status, Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await?.to_bytes()))
    };
    tokio::select! {
        answer = ask => answer,
        Err(error) = connection => Err(error.into()),
    }
}
