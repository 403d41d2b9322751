//! Sends one HTTP request on a new connection, without TLS.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The largest accepted response body, in bytes.
const MAX_RESPONSE_BYTES: usize = 1 << 20;

/// Sends `request`, whose URI is a path, to `address` (host and port). Returns status and body. Has no time limit.
///
/// # Errors
/// If there is no complete response, or its body is too large. The text contains nothing of the request.
pub(crate) async fn send(
    address: &str,
    mut request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Box<dyn Error + Send + Sync>> {
    request.headers_mut().insert(HOST, HeaderValue::try_from(address)?);
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok((status, Limited::new(response.into_body(), MAX_RESPONSE_BYTES).collect().await?.to_bytes()))
    };
    tokio::select! {
        result = exchange => result,
        Err(error) = connection => Err(error.into()),
    }
}

/// The address at which a server on this machine is reached: replaces "all addresses" with loopback.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}
