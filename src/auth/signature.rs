//! Signatures: `sha256=` and the lowercase hex of the HMAC-SHA256 of `<timestamp>.<raw body>`.

use std::fmt::Write;
use std::time::Duration;

use axum::http::HeaderMap;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};
use time::OffsetDateTime;

use super::AuthError;

pub(crate) const SIGNATURE: &str = "x-webhook-signature";
/// Unix seconds.
pub(crate) const TIMESTAMP: &str = "x-webhook-timestamp";
const MAX_TIMESTAMP_DIGITS: usize = 20;

pub(super) type Key = Hmac<Sha256>;

pub(super) fn key(secret: &SecretString) -> Key {
    Key::new_from_slice(secret.expose_secret().as_bytes()).expect("HMAC keys have any length")
}

/// The headers of a webhook signed with `secret`.
pub(crate) fn sign(secret: &SecretString, body: &[u8], now: OffsetDateTime) -> [(&'static str, String); 2] {
    let timestamp = now.unix_timestamp().to_string();
    let mut signature = "sha256=".to_owned();
    for byte in mac(&key(secret), &timestamp, body) {
        let _ = write!(signature, "{byte:02x}");
    }
    [(TIMESTAMP, timestamp), (SIGNATURE, signature)]
}

fn mac(key: &Key, timestamp: &str, body: &[u8]) -> [u8; 32] {
    let mut mac = key.clone();
    for part in [timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// A signature whose timestamp is valid.
pub(super) struct Signature {
    timestamp: String,
    mac: [u8; 32],
}

impl Signature {
    /// `None` if there is no signature.
    pub(super) fn of(
        headers: &HeaderMap,
        now: OffsetDateTime,
        tolerance: Duration,
    ) -> Option<Result<Self, AuthError>> {
        let signature = headers.get(SIGNATURE)?.as_bytes();
        let timestamp =
            headers.get(TIMESTAMP).and_then(|timestamp| timestamp.to_str().ok()).unwrap_or_default();
        let check = || {
            let mac = parse_mac(signature).ok_or(AuthError::Signature)?;
            let only_digits =
                timestamp.len() <= MAX_TIMESTAMP_DIGITS && timestamp.bytes().all(|b| b.is_ascii_digit());
            let seconds: Option<u64> = timestamp.parse().ok().filter(|_| only_digits);
            let now = u64::try_from(now.unix_timestamp()).unwrap_or(0);
            if seconds.is_none_or(|seconds| seconds.abs_diff(now) > tolerance.as_secs()) {
                return Err(AuthError::Timestamp);
            }
            Ok(Self { timestamp: timestamp.to_owned(), mac })
        };
        Some(check())
    }

    /// Whether one of `keys` has signed `body`. Tries all keys, so that the time does not depend on which one matches.
    pub(super) fn matches(&self, keys: &[Key], body: &[u8]) -> bool {
        let matches = |key| mac(key, &self.timestamp, body).ct_eq(&self.mac);
        keys.iter().fold(Choice::from(0), |any, key| any | matches(key)).into()
    }
}

fn parse_mac(header: &[u8]) -> Option<[u8; 32]> {
    let hex = header.strip_prefix(b"sha256=").filter(|hex| hex.len() == 64)?;
    let mut mac = [0; 32];
    for (byte, digits) in mac.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |n: usize| char::from(digits[n]).to_digit(16).and_then(|d| u8::try_from(d).ok());
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(mac)
}
