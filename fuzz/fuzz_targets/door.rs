//! Sends arbitrary bytes to the public port. Every connection must end, every status must be in `TABLE`, and a body is
//! answered 200 only if it was stored. The routes catch panics, but libFuzzer aborts at the panic itself.
#![no_main]

use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, join};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};
use workflow_receiver::auth::Method;
use workflow_receiver::config::{Secrets, Settings};
use workflow_receiver::fuzzing::{Door, Kept};
use workflow_receiver::execution::{Execution, Unusable};

const SECRET: &str = "whsec_your_secret_key";
const TOKEN: &str = "kMzTgn5Yp0OQx3vB7wEa";
/// Small enough that a few compressed kilobytes exceed it.
const MAX_BODY_BYTES: usize = 200_000;
/// The receiver's statuses, and hyper's for invalid heads.
const TABLE: [u16; 12] = [200, 400, 401, 404, 405, 408, 413, 414, 415, 422, 431, 503];
/// Time limit for a connection.
const FOR_EVER: Duration = Duration::from_mins(10);
const HTTP_2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

static DOOR: LazyLock<Mutex<(Runtime, Door)>> = LazyLock::new(|| {
    let mut settings = Settings::load(None).expect("the defaults are right");
    settings.http.max_body_bytes = MAX_BODY_BYTES;
    settings.http.max_bytes_in_flight = MAX_BODY_BYTES;
    settings.auth.webhook_secrets = Secrets::of(&[SECRET]);
    settings.auth.secret_header = true;
    settings.auth.url_tokens = Secrets::of(&[TOKEN]);
    // Signatures in the seeds do not expire.
    settings.auth.timestamp_tolerance = Duration::MAX;
    // The paused clock advances when all tasks wait: timeouts take no real time, and a task that never ends is detected.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    Mutex::new((runtime, Door::new(&settings)))
});

fuzz_target!(|bytes: &[u8]| {
    let (runtime, door) = &mut *DOOR.lock().unwrap();
    runtime.block_on(async {
        let closed = statuses(bytes, 64 << 10, true, door).await;
        let left_open = statuses(bytes, 7, false, door).await;
        // After a response sent before the end of a request, a further response depends on how much has been received.
        let same = |(one, other): (&u16, &u16)| one == other || (*one, *other) == (400, 408);
        if !bytes.starts_with(HTTP_2) {
            assert!(closed.iter().zip(&left_open).all(same), "{closed:?} {left_open:?}");
        }
    });
});

/// Sends all bytes in pieces of this size, closes its side if `close`, checks the responses, and returns their statuses.
async fn statuses(bytes: &[u8], piece: usize, close: bool, door: &mut Door) -> Vec<u16> {
    let (mut writing, requests) = duplex(piece);
    // Large enough for all responses: after an invalid head, hyper does not wait for a slow reader.
    let (mut reading, responses) = duplex(64 << 10);
    let mut answers = Vec::new();
    let conversation = async {
        tokio::join!(
            door.serve(join(requests, responses)),
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

    let (kept, ..) = timeout(FOR_EVER, conversation).await.expect("it ends");
    let http_2 = bytes.starts_with(HTTP_2);
    let statuses = if http_2 { of_frames(&answers) } else { of_text(&answers) };
    for status in &statuses {
        assert!(TABLE.contains(status), "{statuses:?}");
    }
    let said = |status: u16| statuses.iter().filter(|said| **said == status).count();
    let acknowledged = kept.iter().filter(|kept| kept.acknowledged).count();
    assert!(said(200) <= acknowledged, "{statuses:?} {kept:?}");
    assert!(said(422) <= kept.len() - acknowledged, "{statuses:?} {kept:?}");
    for kept in kept {
        check(&kept, (!http_2).then_some(bytes));
    }
    statuses
}

/// `sent`: bytes that contain the credentials in clear. `None` with HTTP/2, which compresses headers.
fn check(kept: &Kept, sent: Option<&[u8]>) {
    assert!(kept.body.len() <= MAX_BODY_BYTES);
    match Execution::parse(&kept.body) {
        Ok(_) => assert!(kept.acknowledged),
        Err(why) => assert!(!kept.acknowledged && matches!(why, Unusable::Field { .. }), "{why}"),
    }
    let credential = match kept.authenticated_by {
        Some(Method::UrlToken) => TOKEN,
        Some(Method::SecretHeader) => SECRET,
        Some(Method::Signature) => "sha256=",
        how => panic!("let in by {how:?}"),
    };
    let holds = |sent: &[u8]| sent.windows(credential.len()).any(|part| part == credential.as_bytes());
    assert!(sent.is_none_or(holds), "let in without {credential}");
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
        // The response to a HEAD request has a length but no body.
        if answers.starts_with(b"{") {
            answers = &answers[size.expect("a length").parse().expect("a number")..];
        }
    }
    // Whether `100 Continue` is sent depends on how much has been received.
    statuses.retain(|status| *status != 100);
    statuses
}

fn of_frames(mut answers: &[u8]) -> Vec<u16> {
    let mut statuses = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = answers {
        let (frame, next) = rest.split_at(u32::from_be_bytes([0, *a, *b, *c]) as usize);
        // Indexes of common statuses in HPACK's static table.
        if let (1, [field @ 0x88..=0x8e, ..]) = (kind, frame) {
            statuses.push([200, 204, 206, 304, 400, 404, 500][usize::from(field - 0x88)]);
        }
        answers = next;
    }
    assert!(answers.is_empty(), "half a frame");
    statuses
}
