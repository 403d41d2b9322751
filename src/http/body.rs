//! Reading bodies: to their end, within the limits, and what was compressed.

use std::io::Read as _;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;

use super::problem::Problem;
use crate::intake::{Memory, Share};

/// A body that has come in whole, as it came.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) bytes: Bytes,
    pub(super) share: Share,
}

/// Reads a body to its end.
///
/// # Errors
/// [`Problem::TooLarge`], [`Problem::Interrupted`], or [`Problem::Refused`] when memory is used up.
pub(super) async fn read(body: &mut Body, max_body_bytes: usize, memory: &Memory) -> Result<Read, Problem> {
    let mut share = memory.share();
    // Nearly always the body is one piece, which needs no copy.
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Problem::Interrupted)?.into_data() else { continue };
        if share.size() + data.len() > max_body_bytes {
            return Err(Problem::TooLarge { max_body_bytes });
        }
        share.grow(data.len())?;
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&data);
        }
    }
    Ok(Read { bytes: if all.is_empty() { first } else { all.freeze() }, share })
}

/// Reads on, but not more than `at_most`, and keeps nothing: a sender that is cut off while it still
/// sends may never see the answer.
pub(super) async fn discard(mut body: Body, at_most: usize) {
    let mut size = 0;
    while size < at_most
        && let Some(Ok(frame)) = body.frame().await
    {
        size += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Gzip,
}

/// What `Content-Encoding` says.
///
/// # Errors
/// [`Problem::UnknownEncoding`]
pub(super) fn encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let mut encoding = Encoding::Plain;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let value = value.to_str().map_err(|_| Problem::UnknownEncoding)?;
        for name in value.split(',').map(|name| name.trim().to_ascii_lowercase()) {
            encoding = match (&*name, encoding) {
                ("" | "identity", encoding) => encoding,
                ("gzip" | "x-gzip", Encoding::Plain) => Encoding::Gzip,
                _ => return Err(Problem::UnknownEncoding),
            };
        }
    }
    Ok(encoding)
}

/// Unpacks a body, if it is packed. What comes out is limited as what comes in.
///
/// # Errors
/// [`Problem::NotGzip`], [`Problem::TooLarge`], or [`Problem::Refused`] when memory is used up.
pub(super) async fn unpack(packed: Read, encoding: Encoding, max_body_bytes: usize) -> Result<Read, Problem> {
    if encoding == Encoding::Plain {
        return Ok(packed);
    }
    // It may take a while, and there are few threads for requests.
    let unpacked = tokio::task::spawn_blocking(move || {
        let mut share = packed.share.memory().share();
        let mut gzip = MultiGzDecoder::new(&*packed.bytes);
        let mut all = BytesMut::new();
        let mut piece = vec![0; 16 << 10];
        loop {
            let size = gzip.read(&mut piece).map_err(|_| Problem::NotGzip)?;
            if size == 0 {
                return Ok(Read { bytes: all.freeze(), share });
            }
            if share.size() + size > max_body_bytes {
                return Err(Problem::TooLarge { max_body_bytes });
            }
            share.grow(size)?;
            all.extend_from_slice(&piece[..size]);
        }
    });
    unpacked.await.unwrap_or(Err(Problem::Panicked))
}
