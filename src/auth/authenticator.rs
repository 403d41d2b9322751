//! Checks webhooks against the configured methods.

use std::time::Duration;

use axum::http::HeaderMap;
use time::OffsetDateTime;

use super::fingerprint::{Fingerprint, fingerprint, is_one_of};
use super::signature::{Key, Signature, key};
use super::{AuthError, AuthMethod};
use crate::config;

/// The header with the secret itself.
const SECRET: &str = "x-webhook-secret";

/// The configured methods. Contains no secret in plain text.
#[derive(Clone)]
pub struct Authenticator {
    keys: Vec<Key>,
    /// Empty unless `auth.secret_header` is set.
    secrets: Vec<Fingerprint>,
    tokens: Vec<Fingerprint>,
    tolerance: Duration,
    /// No method is configured: accepts every request.
    open: bool,
    /// [`Self::open`] without `auth.allow_unauthenticated`: the port listens on loopback only.
    local_only: bool,
    /// Accepts requests without any credentials as [`AuthMethod::Unverified`].
    verify_unsigned: bool,
}

/// The result of checking a request's head.
pub struct PendingAuth {
    /// Still to be checked with the body.
    signature: Option<Signature>,
    /// The result if there is no valid signature.
    without_signature: Result<AuthMethod, AuthError>,
}

impl Authenticator {
    /// Accepts every request if no method is configured. The check of the settings allows that on loopback only, unless
    /// `auth.allow_unauthenticated` is set.
    #[must_use]
    pub fn new(settings: &config::Auth) -> Self {
        let secrets = &settings.webhook_secrets.0;
        let in_header = if settings.secret_header { secrets.as_slice() } else { &[] };
        Self {
            keys: secrets.iter().map(key).collect(),
            secrets: in_header.iter().map(fingerprint).collect(),
            tokens: settings.url_tokens.0.iter().map(fingerprint).collect(),
            tolerance: settings.timestamp_tolerance,
            open: !settings.is_configured(),
            local_only: !settings.is_configured() && !settings.allow_unauthenticated,
            verify_unsigned: settings.verify_unsigned,
        }
    }

    /// Whether every request is accepted, and the port listens on loopback only.
    #[must_use]
    pub fn is_local_only(&self) -> bool {
        self.local_only
    }

    /// Checks a request's head and the tokens in its URL.
    ///
    /// # Errors
    /// [`AuthError`] if no body could make the request valid.
    pub fn check_head<'t>(
        &self,
        headers: &HeaderMap,
        tokens: impl Iterator<Item = &'t str>,
        now: OffsetDateTime,
    ) -> Result<PendingAuth, AuthError> {
        let signature = Signature::of(headers, now, self.tolerance).filter(|_| !self.keys.is_empty());
        let without_signature = self.check_without_signature(headers, tokens);
        match (signature, without_signature) {
            (Some(Ok(signature)), without_signature) => {
                Ok(PendingAuth { signature: Some(signature), without_signature })
            }
            (_, Ok(method)) => Ok(PendingAuth { signature: None, without_signature: Ok(method) }),
            // Only for a request without credentials: a wrong signature, secret or token stays an error.
            (None, Err(AuthError::NoCredentials)) if self.verify_unsigned => {
                Ok(PendingAuth { signature: None, without_signature: Ok(AuthMethod::Unverified) })
            }
            (Some(Err(error)), Err(_)) | (None, Err(error)) => Err(error),
        }
    }

    fn check_without_signature<'t>(
        &self,
        headers: &HeaderMap,
        tokens: impl Iterator<Item = &'t str>,
    ) -> Result<AuthMethod, AuthError> {
        let mut error = AuthError::NoCredentials;
        if let Some(secret) = headers.get(SECRET).filter(|_| !self.secrets.is_empty()) {
            if is_one_of(secret.as_bytes(), &self.secrets) {
                return Ok(AuthMethod::SecretHeader);
            }
            error = AuthError::Secret;
        }
        if !self.tokens.is_empty() {
            for token in tokens {
                if is_one_of(token.as_bytes(), &self.tokens) {
                    return Ok(AuthMethod::UrlToken);
                }
                error = AuthError::Token;
            }
        }
        if self.open { Ok(AuthMethod::None) } else { Err(error) }
    }
}

impl PendingAuth {
    /// Whether the head alone decides: the request is accepted with any body, and no later verification is needed.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.without_signature.is_ok_and(|method| method != AuthMethod::Unverified)
    }

    /// Whether the request is accepted without credentials. Such a request has no signature to check.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        matches!(self.without_signature, Ok(AuthMethod::None | AuthMethod::Unverified))
    }

    /// Checks the signature over the body as sent, with the secrets of `authenticator`.
    ///
    /// # Errors
    /// [`AuthError::Signature`] if the signature does not match and no other method accepts the request.
    pub fn check_body(&self, authenticator: &Authenticator, body: &[u8]) -> Result<AuthMethod, AuthError> {
        match &self.signature {
            Some(signature) if signature.matches(&authenticator.keys, body) => Ok(AuthMethod::Signature),
            Some(_) => self.without_signature.map_err(|_| AuthError::Signature),
            None => self.without_signature,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::signature::{SIGNATURE, TIMESTAMP};

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
        authenticator.check_head(&map, std::iter::empty(), now)?.check_body(authenticator, body)
    }

    #[test]
    fn a_valid_signature_is_accepted_and_every_invalid_one_rejected() {
        let a = authenticator(|_| {});
        let stamp = NOW.to_string();
        let with = |signature: &str, stamp: &str, body: &[u8], now| {
            attempt(&a, &[(SIGNATURE, signature), (TIMESTAMP, stamp)], body, now)
        };
        assert_eq!(with(VECTOR, &stamp, BODY, NOW), Ok(AuthMethod::Signature));
        for at in [NOW - 300, NOW + 300] {
            assert_eq!(
                with(VECTOR, &stamp, BODY, at),
                Ok(AuthMethod::Signature),
                "at the limit of the tolerance"
            );
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
    fn allow_unauthenticated_is_ignored_if_a_secret_or_a_token_is_configured() {
        let mut open = config::Settings::defaults().auth;
        open.allow_unauthenticated = true;
        assert_eq!(attempt(&Authenticator::new(&open), &[], BODY, NOW), Ok(AuthMethod::None));
        let with_secret = authenticator(|s| s.allow_unauthenticated = true);
        assert_eq!(attempt(&with_secret, &[], BODY, NOW), Err(AuthError::NoCredentials));
        open.url_tokens = config::Secrets::of(&["kMzTgn5Yp0OQx3vB7wEa"]);
        assert_eq!(attempt(&Authenticator::new(&open), &[], BODY, NOW), Err(AuthError::NoCredentials));
    }
}
