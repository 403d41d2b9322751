//! Who may speak: whether a delivery comes from the sender.
//!
//! The sender signs when a workflow was triggered with a `webhook_secret`; otherwise the URL is all
//! that can tell it from others. A delivery gets
//! in by any one method that is configured. What its head alone decides is decided before the body
//! is read ([`Authenticator::check_head`]), a signature once it is there ([`PendingAuth::check_body`]), on the bytes as
//! they came.
//!
//! A repeated signature is no attack: the sender's retries carry the first attempt's, and what is
//! recorded twice is a duplicate.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use time::OffsetDateTime;

use crate::config;

/// `sha256=` and the lowercase hex of the HMAC-SHA256 of `<timestamp>.<raw body>`.
const SIGNATURE: &str = "x-webhook-signature";
/// Unix seconds.
const TIMESTAMP: &str = "x-webhook-timestamp";
/// In digits.
const LONGEST_TIMESTAMP: usize = 20;
/// The secret itself, in plain text.
const SECRET: &str = "x-webhook-secret";

/// How a delivery got in. Recorded with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// It is signed with a secret that the receiver knows.
    Signature,
    /// It carries such a secret.
    SecretHeader,
    /// Its URL carries a token.
    UrlToken,
    /// Nobody asked: `auth.allow_unauthenticated`, or nothing configured on loopback.
    None,
}

impl AuthMethod {
    /// Its name in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::SecretHeader => "secret_header",
            Self::UrlToken => "url_token",
            Self::None => "none",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Signature, Self::SecretHeader, Self::UrlToken, Self::None]
            .into_iter()
            .find(|m| m.as_str() == name)
    }
}

/// Why a delivery did not get in. For metrics and logs; the answer says nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthError {
    /// It carries nothing that could let it in.
    NoCredentials,
    /// Its timestamp is no number, or too far from this machine's clock.
    Timestamp,
    /// Its signature is not one of this body with a known secret.
    Signature,
    /// Its secret is none of those known.
    Secret,
    /// Its token is none of those known.
    Token,
}

impl AuthError {
    /// All there are.
    pub const ALL: [Self; 5] =
        [Self::NoCredentials, Self::Timestamp, Self::Signature, Self::Secret, Self::Token];

    /// Its name in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoCredentials => "no_credentials",
            Self::Timestamp => "timestamp",
            Self::Signature => "signature",
            Self::Secret => "secret",
            Self::Token => "token",
        }
    }
}

/// Knows the secrets and tokens, none of them in plain text.
#[derive(Clone)]
pub struct Authenticator {
    keys: Arc<[Hmac<Sha256>]>,
    /// Of the secrets, when `auth.secret_header` is set.
    secrets: Vec<Fingerprint>,
    tokens: Vec<Fingerprint>,
    tolerance: Duration,
    open: bool,
    /// It is open because nothing is configured, and not by `auth.allow_unauthenticated`.
    local_only: bool,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

/// What a delivery's head says of who sent it.
#[derive(Debug)]
pub struct PendingAuth {
    signed: Option<Signed>,
    otherwise: Result<AuthMethod, AuthError>,
}

/// A signature that the body has to bear out.
#[derive(Clone)]
struct Signed {
    keys: Arc<[Hmac<Sha256>]>,
    timestamp: String,
    mac: [u8; 32],
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signed")
    }
}

impl Authenticator {
    /// Lets in whom `settings` name, and everyone when they name nobody (`config` sees to it that
    /// this happens on loopback only).
    #[must_use]
    pub fn new(settings: &config::Auth) -> Self {
        let secrets = &settings.webhook_secrets.0;
        let header = if settings.secret_header { secrets.as_slice() } else { &[] };
        Self {
            keys: secrets.iter().map(key).collect(),
            secrets: header.iter().map(|secret| fingerprint(secret.expose_secret().as_bytes())).collect(),
            tokens: settings.url_tokens.0.iter().map(|t| fingerprint(t.expose_secret().as_bytes())).collect(),
            tolerance: settings.timestamp_tolerance,
            open: settings.allow_unauthenticated || !settings.is_configured(),
            local_only: !settings.allow_unauthenticated && !settings.is_configured(),
        }
    }

    /// Whether all deliveries are let in because nothing is configured, which is allowed on loopback only.
    #[must_use]
    pub fn is_local_only(&self) -> bool {
        self.local_only
    }

    /// Looks at a request's head, and at the tokens in its URL.
    ///
    /// # Errors
    /// [`AuthError`] when no body could let it in.
    pub fn check_head<'t>(
        &self,
        headers: &HeaderMap,
        tokens: impl Iterator<Item = &'t str>,
        now: OffsetDateTime,
    ) -> Result<PendingAuth, AuthError> {
        let signed = self.signed(headers, now);
        let otherwise = self.without_signature(headers, tokens);
        match (signed, otherwise) {
            (Some(Ok(signed)), otherwise) => Ok(PendingAuth { signed: Some(signed), otherwise }),
            (_, Ok(method)) => Ok(PendingAuth { signed: None, otherwise: Ok(method) }),
            (Some(Err(refusal)), Err(_)) | (None, Err(refusal)) => Err(refusal),
        }
    }

    /// `None` when the delivery is not signed, or nobody asks for signatures.
    fn signed(&self, headers: &HeaderMap, now: OffsetDateTime) -> Option<Result<Signed, AuthError>> {
        let signature = headers.get(SIGNATURE).filter(|_| !self.keys.is_empty())?.as_bytes();
        let timestamp =
            headers.get(TIMESTAMP).and_then(|timestamp| timestamp.to_str().ok()).unwrap_or_default();
        let signed = || {
            let mac = mac(signature).ok_or(AuthError::Signature)?;
            let digits =
                timestamp.len() <= LONGEST_TIMESTAMP && timestamp.bytes().all(|b| b.is_ascii_digit());
            let seconds: Option<u64> = timestamp.parse().ok().filter(|_| digits);
            let now = u64::try_from(now.unix_timestamp()).unwrap_or(0);
            if seconds.is_none_or(|seconds| seconds.abs_diff(now) > self.tolerance.as_secs()) {
                return Err(AuthError::Timestamp);
            }
            Ok(Signed { keys: self.keys.clone(), timestamp: timestamp.to_owned(), mac })
        };
        Some(signed())
    }

    fn without_signature<'t>(
        &self,
        headers: &HeaderMap,
        tokens: impl Iterator<Item = &'t str>,
    ) -> Result<AuthMethod, AuthError> {
        let mut refusal = AuthError::NoCredentials;
        if let Some(secret) = headers.get(SECRET).filter(|_| !self.secrets.is_empty()) {
            if is_one_of(secret.as_bytes(), &self.secrets) {
                return Ok(AuthMethod::SecretHeader);
            }
            refusal = AuthError::Secret;
        }
        if !self.tokens.is_empty() {
            for token in tokens {
                if is_one_of(token.as_bytes(), &self.tokens) {
                    return Ok(AuthMethod::UrlToken);
                }
                refusal = AuthError::Token;
            }
        }
        if self.open { Ok(AuthMethod::None) } else { Err(refusal) }
    }
}

impl PendingAuth {
    /// Whether the head alone lets the delivery in, whatever its body is.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.otherwise.is_ok()
    }

    /// Whether the delivery is let in without any proof of who sent it.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        matches!(self.otherwise, Ok(AuthMethod::None))
    }

    /// Whether the body as it came bears the claim out.
    ///
    /// # Errors
    /// [`AuthError::Signature`] when nothing but a signature could let it in, and that is none of
    /// this body's.
    pub fn check_body(&self, body: &[u8]) -> Result<AuthMethod, AuthError> {
        let Some(signed) = &self.signed else { return self.otherwise };
        let mut right = Choice::from(0);
        for key in signed.keys.iter() {
            let mut mac = key.clone();
            mac.update(signed.timestamp.as_bytes());
            mac.update(b".");
            mac.update(body);
            right |= mac.finalize().into_bytes().as_slice().ct_eq(&signed.mac);
        }
        if right.into() {
            Ok(AuthMethod::Signature)
        } else {
            self.otherwise.map_err(|_| AuthError::Signature)
        }
    }

    /// The same claim, with the signature to be checked by the secrets of `authenticator`.
    pub(crate) fn signed_for(&self, authenticator: &Authenticator) -> Self {
        let signed = self.signed.clone().map(|signed| Signed { keys: authenticator.keys.clone(), ..signed });
        Self { signed, otherwise: self.otherwise }
    }
}

fn key(secret: &SecretString) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret.expose_secret().as_bytes()).expect("HMAC takes keys of any length")
}

/// Reads the signature's header.
fn mac(header: &[u8]) -> Option<[u8; 32]> {
    let hex = header.strip_prefix(b"sha256=").filter(|hex| hex.len() == 64)?;
    let mut mac = [0; 32];
    for (byte, digits) in mac.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |n: usize| char::from(digits[n]).to_digit(16).and_then(|d| u8::try_from(d).ok());
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(mac)
}

/// A hash in place of a secret: comparing takes the same time whatever the length, and the secret
/// itself need not be kept.
type Fingerprint = [u8; 32];

/// The token that those have to show who ask on the admin port.
#[derive(Clone, Copy)]
pub(crate) struct AdminToken(Fingerprint);

impl AdminToken {
    /// `None` when there is none.
    pub(crate) fn new(token: &SecretString) -> Option<Self> {
        let token = token.expose_secret();
        (!token.is_empty()).then(|| Self(fingerprint(token.as_bytes())))
    }

    /// Whether `shown` is it.
    pub(crate) fn matches(&self, shown: &[u8]) -> bool {
        is_one_of(shown, &[self.0])
    }
}

fn fingerprint(secret: &[u8]) -> Fingerprint {
    Sha256::digest(secret).into()
}

/// Compares with all, so that the time tells nothing.
fn is_one_of(candidate: &[u8], known: &[Fingerprint]) -> bool {
    let candidate = fingerprint(candidate);
    known.iter().fold(Choice::from(0), |found, known| found | candidate.ct_eq(known)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_789_994_667;
    const BODY: &[u8] = br#"{"execution_id":"x","n":1}"#;
    /// The test vector for the secret `whsec_your_secret_key`.
    const VECTOR: &str = "sha256=ad606773268bc8a3cfdf9903b2e9cccffab6999b163a4abd60c30f7767edfc84";

    fn authenticator(change: impl FnOnce(&mut config::Auth)) -> Authenticator {
        let mut settings = config::Settings::defaults().auth;
        settings.webhook_secrets = config::Secrets::of(&["the_one_before", "whsec_your_secret_key"]);
        change(&mut settings);
        Authenticator::new(&settings)
    }

    fn attempt(
        authenticator: &Authenticator,
        headers: &[(&'static str, &str)],
        body: &[u8],
        now: i64,
    ) -> Result<AuthMethod, AuthError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let now = OffsetDateTime::from_unix_timestamp(now).unwrap();
        authenticator.check_head(&map, std::iter::empty(), now)?.check_body(body)
    }

    #[test]
    fn the_senders_signature_lets_in_and_every_way_to_get_it_wrong_does_not() {
        let a = authenticator(|_| {});
        let stamp = NOW.to_string();
        let with = |signature: &str, stamp: &str, body: &[u8], now| {
            attempt(&a, &[(SIGNATURE, signature), (TIMESTAMP, stamp)], body, now)
        };
        assert_eq!(with(VECTOR, &stamp, BODY, NOW), Ok(AuthMethod::Signature));
        for at in [NOW - 300, NOW + 300] {
            assert_eq!(with(VECTOR, &stamp, BODY, at), Ok(AuthMethod::Signature), "at the tolerance's end");
        }
        for at in [NOW - 301, NOW + 301, 0] {
            assert_eq!(with(VECTOR, &stamp, BODY, at), Err(AuthError::Timestamp));
        }
        for wrong in ["", "x", "-1", "+1789994667", " ", "1789994667.0", "99999999999999999999999"] {
            assert_eq!(with(VECTOR, wrong, BODY, NOW), Err(AuthError::Timestamp), "{wrong}");
        }
        let (later, padded) = ((NOW + 1).to_string(), format!("0{NOW}"));
        for wrong in [&later, &padded] {
            assert_eq!(
                with(VECTOR, wrong, BODY, NOW),
                Err(AuthError::Signature),
                "another timestamp was signed"
            );
        }
        for body in [&BODY[..BODY.len() - 1], b"", b"{\"execution_id\":\"x\",\"n\":2}"] {
            assert_eq!(with(VECTOR, &stamp, body, NOW), Err(AuthError::Signature), "another body was signed");
        }
        let digits = &VECTOR["sha256=".len()..];
        let (short, long, other) =
            (&VECTOR[..VECTOR.len() - 1], format!("{VECTOR}0"), VECTOR.replace("ad6", "ad7"));
        let (no_hex, of_other_kind) = (VECTOR.replace('a', "g"), format!("sha512={digits}"));
        for wrong in ["", "sha256=", digits, short, &long, &other, &no_hex, &of_other_kind] {
            assert_eq!(with(wrong, &stamp, BODY, NOW), Err(AuthError::Signature), "{wrong}");
        }
        assert_eq!(attempt(&a, &[(SIGNATURE, VECTOR)], BODY, NOW), Err(AuthError::Timestamp));
        assert_eq!(attempt(&a, &[(TIMESTAMP, &stamp)], BODY, NOW), Err(AuthError::NoCredentials));
        assert_eq!(attempt(&a, &[], BODY, NOW), Err(AuthError::NoCredentials));
        let by_another = authenticator(|s| s.webhook_secrets = config::Secrets::of(&["whsec_another"]));
        let headers = [(SIGNATURE, VECTOR), (TIMESTAMP, stamp.as_str())];
        assert_eq!(attempt(&by_another, &headers, BODY, NOW), Err(AuthError::Signature));
    }

    #[test]
    fn a_method_that_is_not_configured_lets_nobody_in() {
        let secret = [(SECRET, "whsec_your_secret_key")];
        assert_eq!(attempt(&authenticator(|_| {}), &secret, BODY, NOW), Err(AuthError::NoCredentials));
        let by_header = authenticator(|s| s.secret_header = true);
        assert_eq!(attempt(&by_header, &secret, BODY, NOW), Ok(AuthMethod::SecretHeader));
        for wrong in ["", "whsec_your_secret_ke", "whsec_your_secret_key2"] {
            assert_eq!(attempt(&by_header, &[(SECRET, wrong)], BODY, NOW), Err(AuthError::Secret));
        }
        // A wrong signature beside a right secret: any one method is enough.
        let both = [(SIGNATURE, VECTOR), (TIMESTAMP, "1"), secret[0]];
        assert_eq!(attempt(&by_header, &both, BODY, NOW), Ok(AuthMethod::SecretHeader));
        let open = authenticator(|s| s.allow_unauthenticated = true);
        assert_eq!(attempt(&open, &[], BODY, NOW), Ok(AuthMethod::None));
        let stamp = NOW.to_string();
        let signed = [(SIGNATURE, VECTOR), (TIMESTAMP, stamp.as_str())];
        assert_eq!(
            attempt(&open, &signed, BODY, NOW),
            Ok(AuthMethod::Signature),
            "the best proof is recorded"
        );
    }
}
