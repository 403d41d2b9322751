//! Any head, body and time: the authenticator agrees with a second implementation of its rules.
#![no_main]

use std::fmt::Write as _;
use std::sync::LazyLock;

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use sha2::Sha256;
use time::OffsetDateTime;
use workflow_receiver::auth::{AuthMethod, Authenticator};
use workflow_receiver::config::{Secrets, Settings};

const SECRETS: [&str; 2] = ["the_one_before", "whsec_your_secret_key"];
const TOKENS: [&str; 2] = ["kMzTgn5Yp0OQx3vB7wEa", "another-token-of-some-length"];
const TOLERANCE: u64 = 300;
const SIGNATURE: &str = "x-webhook-signature";
const TIMESTAMP: &str = "x-webhook-timestamp";
const SECRET: &str = "x-webhook-secret";
/// The time of the seeds' signatures.
const SIGNED: i64 = 1_789_994_667;

#[expect(clippy::struct_excessive_bools, reason = "as the settings")]
#[derive(Debug, Clone, Copy, Arbitrary)]
struct Configured {
    secrets: bool,
    secret_header: bool,
    tokens: bool,
    open: bool,
}

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    configured: Configured,
    /// The receiver's clock, in seconds since the seeds were signed.
    now: i64,
    /// The sender's clock, in seconds since the receiver's.
    ahead: i16,
    /// Changes one byte of a correctly signed request: its position, and the bits to flip.
    at: u16,
    change: u8,
    /// Lines with headers (`name: value`) and tokens (`?token`), an empty line, the body.
    request: &'a [u8],
}

/// Indexed by the bits of [`Configured`].
static AUTHENTICATORS: LazyLock<Vec<Authenticator>> = LazyLock::new(|| {
    let authenticator = |bits: u8| {
        let of =
            |bit: u8, list: &[&str]| if bits & bit == 0 { Secrets::default() } else { Secrets::of(list) };
        let mut settings = Settings::load(None).expect("the defaults are right").auth;
        settings.webhook_secrets = of(1, &SECRETS);
        settings.secret_header = bits & 2 != 0;
        settings.url_tokens = of(4, &TOKENS);
        settings.allow_unauthenticated = bits & 8 != 0;
        settings.timestamp_tolerance = std::time::Duration::from_secs(TOLERANCE);
        Authenticator::new(&settings)
    };
    (0..16).map(authenticator).collect()
});

impl Configured {
    fn authenticator(self) -> &'static Authenticator {
        let bits = [self.secrets, self.secret_header, self.tokens, self.open];
        &AUTHENTICATORS[bits.iter().rev().fold(0, |number, bit| number << 1 | usize::from(*bit))]
    }
}

struct Request<'a> {
    headers: HeaderMap,
    tokens: Vec<&'a str>,
    body: Vec<u8>,
}

impl<'a> Request<'a> {
    fn read(mut rest: &'a [u8]) -> Self {
        let mut request = Self { headers: HeaderMap::new(), tokens: Vec::new(), body: Vec::new() };
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let line = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or_default();
            if line.is_empty() {
                request.body = rest.to_vec();
                break;
            }
            if let [b'?', token @ ..] = line {
                request.tokens.extend(std::str::from_utf8(token));
            } else if let Some(colon) = line.iter().position(|byte| *byte == b':') {
                let value = line[colon + 1..].trim_ascii();
                if let (Ok(name), Ok(value)) =
                    (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(value))
                {
                    request.headers.append(name, value);
                }
            }
        }
        request
    }

    fn first(&self, name: &str) -> Option<&[u8]> {
        self.headers.get(name).map(HeaderValue::as_bytes)
    }

    fn sign(&mut self, secret: &str, timestamp: i64) {
        let signature = signature(secret, timestamp.to_string().as_bytes(), &self.body);
        self.headers.insert(SIGNATURE, HeaderValue::try_from(signature).unwrap());
        self.headers.insert(TIMESTAMP, HeaderValue::from(timestamp));
    }

    /// Changes one byte of signature, timestamp or body.
    fn change(&mut self, at: usize, change: u8) {
        let signed = [SIGNATURE, TIMESTAMP].map(|name| self.first(name).unwrap_or_default().to_vec());
        let mut parts = [signed.as_slice(), std::slice::from_ref(&self.body)].concat();
        let length: usize = parts.iter().map(Vec::len).sum();
        *parts.iter_mut().flatten().nth(at % length).unwrap() ^= change;
        self.body = parts.pop().unwrap();
        for (name, value) in [SIGNATURE, TIMESTAMP].into_iter().zip(parts) {
            match HeaderValue::try_from(value) {
                Ok(value) => drop(self.headers.insert(name, value)),
                Err(_) => drop(self.headers.remove(name)),
            }
        }
    }

    fn attempt(&self, configured: Configured, now: OffsetDateTime) -> Option<AuthMethod> {
        let tokens = self.tokens.iter().copied();
        let authenticator = configured.authenticator();
        authenticator.check_head(&self.headers, tokens, now).ok()?.check_body(authenticator, &self.body).ok()
    }

    /// The second implementation.
    fn expected(&self, configured: Configured, now: OffsetDateTime) -> Option<AuthMethod> {
        let Configured { secrets, secret_header, tokens, open: _ } = configured;
        if secrets && self.is_signed(now) {
            return Some(AuthMethod::Signature);
        }
        let secret = self.first(SECRET);
        if secrets && secret_header && SECRETS.iter().any(|known| secret == Some(known.as_bytes())) {
            return Some(AuthMethod::SecretHeader);
        }
        if tokens && self.tokens.iter().any(|token| TOKENS.contains(token)) {
            return Some(AuthMethod::UrlToken);
        }
        (!secrets && !tokens).then_some(AuthMethod::None)
    }

    fn is_signed(&self, now: OffsetDateTime) -> bool {
        let (Some(signed), Some(timestamp)) = (self.first(SIGNATURE), self.first(TIMESTAMP)) else {
            return false;
        };
        let now = u64::try_from(now.unix_timestamp()).unwrap_or(0);
        let seconds = std::str::from_utf8(timestamp).ok().and_then(|t| t.parse::<u64>().ok());
        let in_time = !timestamp.starts_with(b"+") && seconds.is_some_and(|s| s.abs_diff(now) <= TOLERANCE);
        in_time
            && SECRETS.iter().any(|secret| {
                let right = signature(secret, timestamp, &self.body);
                // Uppercase digits are accepted.
                signed.starts_with(b"sha256=") && signed.eq_ignore_ascii_case(right.as_bytes())
            })
    }
}

fn signature(secret: &str, timestamp: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(&[timestamp, b".", body].concat());
    let mut signature = "sha256=".to_owned();
    for byte in mac.finalize().into_bytes() {
        let _ = write!(signature, "{byte:02x}");
    }
    signature
}

fuzz_target!(|input: Input| {
    let Input { configured, at, change, .. } = input;
    let Some(seconds) = SIGNED.checked_add(input.now) else { return };
    let Ok(now) = OffsetDateTime::from_unix_timestamp(seconds) else { return };
    let mut request = Request::read(input.request);
    assert_eq!(request.attempt(configured, now), request.expected(configured, now), "unchanged");

    let timestamp = seconds + i64::from(input.ahead);
    request.sign(SECRETS[usize::from(at) % SECRETS.len()], timestamp);
    let method = request.attempt(configured, now);
    assert_eq!(method, request.expected(configured, now), "signed");
    let in_time = timestamp >= 0 && seconds >= 0 && input.ahead.unsigned_abs() <= 300;
    if configured.secrets && in_time {
        assert_eq!(method, Some(AuthMethod::Signature));
    }

    request.change(usize::from(at), change);
    assert_eq!(request.attempt(configured, now), request.expected(configured, now), "changed");
});
