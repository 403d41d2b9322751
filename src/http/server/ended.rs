//! How connections end: counts those that end without a response, and logs causes that have a remedy.

use std::error::Error;
use std::io;
use std::sync::Arc;

use super::limiter::{Received, Slot};
use crate::logging::LineLimit;
use crate::metrics::{Metrics, Port, Unanswered};

/// A protocol that a connection begins with instead of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum OtherProtocol {
    #[error("a TLS handshake")]
    Tls,
    #[error("a PROXY protocol header")]
    Proxy,
}

impl OtherProtocol {
    /// Recognizes the first bytes of a connection. No HTTP request begins with them.
    pub(super) fn of(first: &[u8]) -> Option<Self> {
        match first {
            [0x16, ..] => Some(Self::Tls),
            _ if first.starts_with(b"PROXY ") || first.starts_with(b"\r\n\r\n\0\r\nQUIT\n") => {
                Some(Self::Proxy)
            }
            _ => None,
        }
    }

    fn of_error(error: &(dyn Error + 'static)) -> Option<Self> {
        error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref().copied()
    }
}

impl From<OtherProtocol> for io::Error {
    fn from(protocol: OtherProtocol) -> Self {
        Self::new(io::ErrorKind::InvalidData, protocol)
    }
}

pub(super) type ConnectionResult = Result<(), Box<dyn Error + Send + Sync>>;

/// How a connection ended. `Evicted` includes timeouts.
pub(super) enum Ended {
    Closed(ConnectionResult),
    Evicted,
}

/// Counts the connections of a port that end without a response.
pub(super) struct Endings {
    port: Port,
    metrics: Arc<Metrics>,
    tls: LineLimit,
    proxy: LineLimit,
    malformed: LineLimit,
    large: LineLimit,
}

/// Logs a warning about connections of `port`, if `limit` allows it.
fn warn(limit: &LineLimit, port: &str, message: &str) {
    if let Some(count) = limit.count(1) {
        tracing::warn!(port, count, "{message}");
    }
}

impl Endings {
    pub(super) fn new(port: Port, metrics: Arc<Metrics>) -> Self {
        let [tls, proxy, malformed, large] = <[LineLimit; 4]>::default();
        Self { port, metrics, tls, proxy, malformed, large }
    }

    pub(super) fn count(&self, slot: &Slot, ended: &Ended) {
        let port: &str = self.port.into();
        let error = match ended {
            Ended::Closed(Err(error)) => Some(&**error as &(dyn Error + 'static)),
            Ended::Closed(Ok(())) | Ended::Evicted => None,
        };
        let http_error = error.and_then(|error| error.downcast_ref::<hyper::Error>());
        match error.and_then(OtherProtocol::of_error) {
            Some(OtherProtocol::Tls) => {
                self.metrics.unanswered(self.port, Unanswered::TlsOnPlainPort);
                warn(
                    &self.tls,
                    port,
                    "a TLS handshake arrived on a port without TLS: use https only through a proxy that \
                     terminates TLS (docs/public.md), or use an http:// URL",
                );
            }
            Some(OtherProtocol::Proxy) => {
                self.metrics.unanswered(self.port, Unanswered::ProxyProtocol);
                warn(
                    &self.proxy,
                    port,
                    "a connection began with a PROXY protocol header, which the receiver does not read: turn \
                     the PROXY protocol off for this port in the load balancer",
                );
            }
            // hyper has answered the requests of this case and the next one.
            None if http_error.is_some_and(hyper::Error::is_parse_too_large) => {
                self.answered(431);
                warn(
                    &self.large,
                    port,
                    "the head of a request is larger than 16 KiB and was answered 431: shorten the URL, or \
                     remove headers that a proxy adds",
                );
            }
            None if http_error.is_some_and(hyper::Error::is_parse) => {
                self.answered(400);
                warn(
                    &self.malformed,
                    port,
                    "a connection sent a request that is not HTTP and was answered 400: find out which client \
                     connects to this port",
                );
            }
            None => match (slot.received(), ended) {
                (Received::Nothing, _) => self.metrics.unanswered(self.port, Unanswered::NoRequest),
                (Received::PartOfHead(_), Ended::Evicted) => {
                    self.metrics.unanswered(self.port, Unanswered::HeadTimeout);
                }
                (Received::PartOfHead(_), Ended::Closed(_)) => {
                    self.metrics.unanswered(self.port, Unanswered::HeadInterrupted);
                }
                // The handler counts a request that is dropped before its response.
                (Received::Head | Received::Requests | Received::Multiplexed, _) => {}
            },
        }
    }

    fn answered(&self, status: u16) {
        if self.port == Port::Webhooks {
            self.metrics.answered(status);
        }
    }
}
