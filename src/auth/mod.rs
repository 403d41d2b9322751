//! Authentication of webhooks and of the admin port.
//!
//! A webhook is accepted if it passes one of the configured methods. Everything but the signature is checked before the
//! body is read ([`Authenticator::check_head`]). The signature is checked after that ([`PendingAuth::check_body`]), over the
//! bytes as sent.
//!
//! A repeated signature is accepted within the tolerance of its timestamp: retries of the sender keep the signature of
//! the first attempt, and recording deduplicates.

mod admin;
mod authenticator;
mod fingerprint;
mod signature;

use strum::{EnumString, IntoStaticStr, VariantArray};

pub(crate) use admin::{ANYONE, AdminTokens, Operator, SESSION_COOKIE, SESSION_DURATION, SessionId};
pub use authenticator::{Authenticator, PendingAuth};
pub(crate) use signature::sign;

/// How a delivery was authenticated. The database stores the name. The spool stores the position in this list, so variants
/// are only added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum AuthMethod {
    /// A signature with one of the secrets.
    Signature,
    /// One of the secrets in a header.
    SecretHeader,
    /// One of the tokens in the URL.
    UrlToken,
    /// Not authenticated: no method is configured.
    None,
    /// Not authenticated: the sender's API must confirm it before it is recorded (`auth.verify_unsigned`).
    Unverified,
    /// Confirmed by the sender's API.
    Callback,
}

impl AuthMethod {
    /// The name in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Why a webhook was not authenticated. For metrics and logs only: the response is the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum AuthError {
    /// The request contains nothing that a configured method checks.
    NoCredentials,
    /// The timestamp is not a number, or too far from this machine's clock.
    Timestamp,
    /// The signature is malformed, or no secret gives this signature of the body.
    Signature,
    /// An unknown secret.
    Secret,
    /// An unknown token.
    Token,
}

impl AuthError {
    /// The name in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
