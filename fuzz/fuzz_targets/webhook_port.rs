//! Any bytes on a connection of the public port: the connection ends, every status is in the table, and only stored
//! deliveries are answered 200. The routes catch panics, but libFuzzer aborts at the panic itself.
#![no_main]

use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, join};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};
use workflow_receiver::auth::AuthMethod;
use workflow_receiver::config::{Secrets, Settings};
use workflow_receiver::execution::{Execution, InvalidPayload};
use workflow_receiver::fuzzing::{FuzzServer, Stored};

const SECRET: &str = "whsec_your_secret_key";
const TOKEN: &str = "kMzTgn5Yp0OQx3vB7wEa";
/// Small enough that a few compressed kilobytes reach it.
const MAX_BODY_BYTES: usize = 200_000;
/// The statuses of the receiver, and of hyper for an invalid head.
const TABLE: [u16; 12] = [200, 400, 401, 404, 405, 408, 413, 414, 415, 422, 431, 503];
/// In simulated time: longer than any time limit.
const FOREVER: Duration = Duration::from_mins(10);
const HTTP_2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

static SERVER: LazyLock<Mutex<(Runtime, FuzzServer)>> = LazyLock::new(|| {
    let mut settings = Settings::load(None).expect("the defaults are right");
    settings.http.max_body_bytes = MAX_BODY_BYTES;
    settings.http.max_bytes_in_flight = MAX_BODY_BYTES;
    settings.auth.webhook_secrets = Secrets::of(&[SECRET]);
    settings.auth.secret_header = true;
    settings.auth.url_tokens = Secrets::of(&[TOKEN]);
    // The signatures of the seeds stay valid.
    settings.auth.timestamp_tolerance = Duration::MAX;
    // A paused clock advances when all tasks wait: runs are fast, and endless waiting is detected.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    Mutex::new((runtime, FuzzServer::new(&settings)))
});

fuzz_target!(|bytes: &[u8]| {
    let (runtime, server) = &mut *SERVER.lock().unwrap();
    runtime.block_on(async {
        let closed = statuses(bytes, 64 << 10, true, server).await;
        let left_open = statuses(bytes, 7, false, server).await;
        // After a response to an incomplete request, a further one depends on timing.
        let same = |(one, other): (&u16, &u16)| one == other || (*one, *other) == (400, 408);
        if !bytes.starts_with(HTTP_2) {
            assert!(closed.iter().zip(&left_open).all(same), "{closed:?} {left_open:?}");
        }
    });
});

/// Sends `bytes` in pieces, closes the connection if `close`, and returns the statuses of the responses.
async fn statuses(bytes: &[u8], piece: usize, close: bool, server: &mut FuzzServer) -> Vec<u16> {
    let (mut writing, requests) = duplex(piece);
    // Room for all responses: hyper does not wait for a reader when it rejects a head.
    let (mut reading, responses) = duplex(64 << 10);
    let mut answers = Vec::new();
    let conversation = async {
        tokio::join!(
            server.serve(join(requests, responses)),
            async {
                // The receiver may have closed the connection.
                let _ = writing.write_all(bytes).await;
                if close {
                    sleep(Duration::from_millis(1)).await;
                    let _ = writing.shutdown().await;
                }
            },
            async { reading.read_to_end(&mut answers).await.unwrap() },
        )
    };

    let (stored, ..) = timeout(FOREVER, conversation).await.expect("it ends");
    let http_2 = bytes.starts_with(HTTP_2);
    let statuses = if http_2 { of_frames(&answers) } else { of_text(&answers) };
    for status in &statuses {
        assert!(TABLE.contains(status), "{statuses:?}");
    }
    let count = |status: u16| statuses.iter().filter(|found| **found == status).count();
    let acknowledged = stored.iter().filter(|stored| stored.acknowledged).count();
    assert!(count(200) <= acknowledged, "{statuses:?} {stored:?}");
    assert!(count(422) <= stored.len() - acknowledged, "{statuses:?} {stored:?}");
    for stored in stored {
        check(&stored, (!http_2).then_some(bytes));
    }
    statuses
}

/// `sent` contains the credentials in plain text; `None` for HTTP/2, which compresses them.
fn check(stored: &Stored, sent: Option<&[u8]>) {
    assert!(stored.body.len() <= MAX_BODY_BYTES);
    match Execution::parse(&stored.body) {
        Ok(_) => assert!(stored.acknowledged),
        Err(why) => assert!(!stored.acknowledged && matches!(why, InvalidPayload::Field { .. }), "{why}"),
    }
    let credential = match stored.authenticated_by {
        Some(AuthMethod::UrlToken) => TOKEN,
        Some(AuthMethod::SecretHeader) => SECRET,
        Some(AuthMethod::Signature) => "sha256=",
        method => panic!("authenticated by {method:?}"),
    };
    let holds = |sent: &[u8]| sent.windows(credential.len()).any(|part| part == credential.as_bytes());
    assert!(sent.is_none_or(holds), "authenticated without {credential}");
}

fn of_text(mut answers: &[u8]) -> Vec<u16> {
    let mut statuses = Vec::new();
    while !answers.is_empty() {
        let end = answers.windows(4).position(|end| end == b"\r\n\r\n").expect("a whole head");
        let head = str::from_utf8(&answers[..end]).expect("text");
        answers = &answers[end + 4..];
        let status =
            head.strip_prefix("HTTP/1.1 ").or(head.strip_prefix("HTTP/1.0 ")).expect("a status line");
        statuses.push(status[..3].parse().expect("a status"));
        let size = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        // A response to HEAD has a length and no body.
        if answers.starts_with(b"{") {
            answers = &answers[size.expect("a length").parse().expect("a number")..];
        }
    }
    // A 100 depends on timing.
    statuses.retain(|status| *status != 100);
    statuses
}

fn of_frames(mut answers: &[u8]) -> Vec<u16> {
    let mut statuses = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = answers {
        let (frame, next) = rest.split_at(u32::from_be_bytes([0, *a, *b, *c]) as usize);
        // HPACK's static table contains the common statuses.
        if let (1, [field @ 0x88..=0x8e, ..]) = (kind, frame) {
            statuses.push([200, 204, 206, 304, 400, 404, 500][usize::from(field - 0x88)]);
        }
        answers = next;
    }
    assert!(answers.is_empty(), "half a frame");
    statuses
}
