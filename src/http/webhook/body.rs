//! Receives request bodies within the limits of size and memory, and decompresses them.

use std::cell::Cell;
use std::io::{self, BufRead, Read, Write as _};
use std::num::NonZero;
use std::sync::LazyLock;
use std::thread::available_parallelism;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{BufMut, Bytes, BytesMut};
use flate2::bufread::{GzDecoder, MultiGzDecoder};
use http_body_util::BodyExt;
use memmap2::MmapMut;
use tokio::sync::Semaphore;

use crate::delivery::RejectReason;
use crate::http::problem::Problem;
use crate::memory::{FREE_BYTES_PER_BODY, MemoryPermit};

/// A complete body, as sent or decompressed.
#[derive(Debug)]
pub(super) struct CollectedBody {
    pub(super) bytes: Bytes,
    pub(super) memory: MemoryPermit,
}

/// Receives a complete body. A small body in one piece is not copied. A large body is copied into a buffer of its announced
/// size: growing a buffer would need up to three times the memory.
///
/// `progressed` is called each time the body has made progress ([`MemoryPermit::progress`]).
///
/// # Errors
/// [`Problem::TooLarge`], [`Problem::Interrupted`], or [`Problem::Rejected`] when there is no memory.
pub(super) async fn collect(
    body: &mut Body,
    announced: Option<u64>,
    max_body_bytes: usize,
    mut memory: MemoryPermit,
    progressed: impl Fn(),
) -> Result<CollectedBody, Problem> {
    let announced = announced.and_then(|size| usize::try_from(size).ok());
    let mut received = 0;
    // The body is in one of these: `first` for a single piece, `small` up to `FREE_BYTES_PER_BODY`, `large` beyond that.
    let mut first = Bytes::new();
    let mut small = BytesMut::new();
    let mut large: Option<LargeBuffer> = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Problem::Interrupted)?.into_data() else { continue };
        let before = received;
        received += data.len();
        if received > max_body_bytes {
            return Err(Problem::TooLarge { max_body_bytes });
        }
        // Reserves nothing until more than the free bytes have arrived: an announced size alone must not reserve memory.
        let expected = announced.unwrap_or(max_body_bytes).clamp(received, max_body_bytes);
        memory.reserve(received, expected).await?;
        if let Some(large) = &mut large {
            large.put(&data);
        } else if received > FREE_BYTES_PER_BODY {
            let mut buffer = LargeBuffer::new(expected)?;
            buffer.put(&first);
            buffer.put(&small);
            buffer.put(&data);
            (first, small) = (Bytes::new(), BytesMut::new());
            large = Some(buffer);
        } else if before == 0 {
            first = data;
        } else {
            if small.is_empty() {
                small.reserve(announced.unwrap_or(0).max(2 * received).min(FREE_BYTES_PER_BODY));
                small.put(&*std::mem::take(&mut first));
            }
            small.put(&*data);
        }
        if memory.progress(received - before) {
            progressed();
        }
    }
    memory.received(received);
    let bytes = match large {
        Some(large) => Bytes::from_owner(large),
        None if small.is_empty() => first,
        None => small.freeze(),
    };
    Ok(CollectedBody { bytes, memory })
}

/// The bytes of a large body, in mapped memory. Unwritten pages use no memory. Dropping the buffer returns its memory to
/// the system, which a heap allocator does not always do.
struct LargeBuffer {
    map: MmapMut,
    written: usize,
}

impl LargeBuffer {
    fn new(capacity: usize) -> Result<Self, RejectReason> {
        let map = MmapMut::map_anon(capacity).map_err(|_| RejectReason::Overloaded)?;
        // A huge page would use memory beyond the written bytes. Kernels without huge pages return an error.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::NoHugePage);
        Ok(Self { map, written: 0 })
    }

    /// # Panics
    /// If `bytes` exceed the remaining capacity.
    fn put(&mut self, bytes: &[u8]) {
        let end = self.written + bytes.len();
        self.map[self.written..end].copy_from_slice(bytes);
        self.written = end;
    }
}

impl AsRef<[u8]> for LargeBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.map[..self.written]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Gzip,
}

/// Reads `Content-Encoding`.
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

/// Decompresses a body. `max_body_bytes` also limits the decompressed size.
///
/// # Errors
/// [`Problem::NotGzip`], [`Problem::TooLarge`], or [`Problem::Rejected`] when there is no memory.
pub(super) async fn decompress(
    compressed: CollectedBody,
    encoding: Encoding,
    max_body_bytes: usize,
) -> Result<CollectedBody, Problem> {
    if encoding == Encoding::Plain {
        return Ok(compressed);
    }
    let CollectedBody { bytes: compressed, memory: compressed_memory } = compressed;
    let mut memory = compressed_memory.for_copy();
    let input = compressed.clone();
    let (small, size) = blocking(move || gunzip_small(&input, max_body_bytes)).await??;
    if size <= FREE_BYTES_PER_BODY {
        return Ok(CollectedBody { bytes: small, memory });
    }
    // The size is known now: decompress again, into memory reserved for it.
    memory.reserve_uninterrupted(size).await?;
    let bytes = blocking(move || {
        let mut all = LargeBuffer::new(size)?;
        let mut gzip = MultiGzDecoder::new(&*compressed);
        // Cannot fail: `gunzip_small` has already read this input to its end.
        gzip.read_exact(&mut all.map).map_err(|_| Problem::NotGzip)?;
        all.written = size;
        Ok::<_, Problem>(Bytes::from_owner(all))
    });
    Ok(CollectedBody { bytes: bytes.await??, memory })
}

/// Maximum compressed bytes in addition to the decompressed bytes: headers. A body with more consists of empty members or
/// blocks, which take seconds to decompress. A 64th of the decompressed bytes is added for the headers of uncompressed blocks.
const MAX_GZIP_OVERHEAD: usize = 64 << 10;

/// A compressed body. Reading fails when too few decompressed bytes were read for the compressed ones.
struct GzipInput<'b> {
    rest: &'b [u8],
    /// How many bytes may be read now.
    allowed: &'b Cell<usize>,
}

impl BufRead for GzipInput<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let piece = &self.rest[..self.rest.len().min(self.allowed.get())];
        if piece.is_empty() && !self.rest.is_empty() {
            return Err(io::Error::other("more compressed than decompressed bytes"));
        }
        Ok(piece)
    }

    fn consume(&mut self, read: usize) {
        self.rest = &self.rest[read..];
        self.allowed.set(self.allowed.get() - read);
    }
}

impl Read for GzipInput<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(to)?;
        self.consume(read);
        Ok(read)
    }
}

/// Maximum members of a gzip body. The begin of each one takes as long as some KiB of text.
const MAX_GZIP_MEMBERS: usize = 16;

/// The decompressed body and its size. The body is incomplete if it is larger than [`FREE_BYTES_PER_BODY`].
fn gunzip_small(compressed: &[u8], max_body_bytes: usize) -> Result<(Bytes, usize), Problem> {
    let allowed = Cell::new(MAX_GZIP_OVERHEAD);
    let mut input = GzipInput { rest: compressed, allowed: &allowed };
    let (mut small, mut size) = (Vec::new(), 0);
    let mut piece = vec![0; 16 << 10];
    for _ in 0..MAX_GZIP_MEMBERS {
        let mut gzip = GzDecoder::new(input);
        loop {
            let more = gzip.read(&mut piece).map_err(|_| Problem::NotGzip)?;
            if more == 0 {
                break;
            }
            size += more;
            allowed.set(allowed.get() + more + more / 64);
            if size > max_body_bytes {
                return Err(Problem::TooLarge { max_body_bytes });
            }
            if size <= FREE_BYTES_PER_BODY {
                let _ = small.write_all(&piece[..more]);
            }
        }
        input = gzip.into_inner();
        if input.rest.is_empty() {
            return Ok((small.into(), size));
        }
    }
    Err(Problem::NotGzip)
}

/// One computation for each core: more would take the cores from the threads that serve requests.
static COMPUTING: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, NonZero::get)));

/// Runs a long computation on another thread: few threads serve all requests, and must not be blocked.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let _permit = COMPUTING.acquire().await;
    tokio::task::spawn_blocking(work).await.map_err(|_| Problem::Panicked)
}
