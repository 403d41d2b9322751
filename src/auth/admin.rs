//! Tokens and browser sessions of the admin port.
//!
//! A session is a signed cookie with an expiry, so the receiver stores nothing while the session lasts. The key of the
//! signature is derived from the token that began the session: removing or changing the token ends the session. A log-out
//! stores the [`SessionId`] as ended.

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{KeyInit, Mac};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use time::{Duration, OffsetDateTime};

use super::fingerprint::{Fingerprint, fingerprint};
use super::signature::{Key, key};
use crate::config::{NamedToken, Role, random_token};

/// The cookie of a session.
pub(crate) const SESSION_COOKIE: &str = "workflow_receiver_session";
pub(crate) const SESSION_DURATION: Duration = Duration::hours(12);
/// The text that a token signs to derive its session key.
const SESSION_KEY: &[u8] = b"workflow-receiver session 1";
// The kinds of values that a session key signs. The kind is signed, too, so that no value counts as one of another kind.
const COOKIE: &str = "cookie";
const FORM: &str = "form";
/// The name of the operator of an admin port without tokens.
pub(crate) const ANYONE: &str = "anyone";

/// Signs the forms of an admin port without tokens.
static OPEN_KEY: LazyLock<Key> = LazyLock::new(|| key(&random_token().into()));

/// The tokens of the admin port.
#[derive(Clone)]
pub(crate) struct AdminTokens(Vec<AdminToken>);

#[derive(Clone)]
struct AdminToken {
    name: String,
    role: Role,
    fingerprint: Fingerprint,
    session_key: Key,
}

/// The client of a request to the admin port.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    /// The name of the token.
    pub(crate) name: String,
    pub(crate) role: Role,
    /// A value that forms repeat. Other web pages do not know it (protection against cross-site request forgery).
    pub(crate) form_key: String,
    /// The session of the request; `None` if the request has a token.
    pub(crate) session: Option<SessionId>,
}

/// Identifies a session. Not a secret: a cookie cannot be made from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SessionId {
    pub(crate) sha256: [u8; 32],
    pub(crate) expires_at: OffsetDateTime,
}

impl Operator {
    pub(crate) fn may_operate(&self) -> bool {
        self.role == Role::Operate
    }

    /// Compares in constant time.
    pub(crate) fn owns_form(&self, presented: &str) -> bool {
        self.form_key.as_bytes().ct_eq(presented.as_bytes()).into()
    }
}

impl AdminTokens {
    pub(crate) fn new(tokens: &[NamedToken]) -> Self {
        let admin_token = |named: &NamedToken| AdminToken {
            name: named.name.clone(),
            role: named.role,
            fingerprint: fingerprint(&named.token),
            session_key: session_key(&named.token),
        };
        Self(tokens.iter().map(admin_token).collect())
    }

    /// Whether requests must have a token or a session.
    pub(crate) fn are_required(&self) -> bool {
        !self.0.is_empty()
    }

    /// The operator of every request, if no token is required.
    pub(crate) fn anyone(&self) -> Option<Operator> {
        (!self.are_required()).then(|| Operator {
            name: ANYONE.to_owned(),
            role: Role::Operate,
            form_key: signed(&OPEN_KEY, FORM, ""),
            session: None,
        })
    }

    pub(crate) fn by_token(&self, presented: &[u8]) -> Option<Operator> {
        self.matching(presented).map(|token| token.operator("", None))
    }

    /// Compares with all tokens, so that the time does not depend on which one matches.
    fn matching(&self, presented: &[u8]) -> Option<&AdminToken> {
        let presented: Fingerprint = Sha256::digest(presented).into();
        let (mut found, mut at) = (Choice::from(0), 0_u32);
        for (index, token) in (0..).zip(&self.0) {
            let matches = presented.ct_eq(&token.fingerprint);
            at.conditional_assign(&index, matches);
            found |= matches;
        }
        if found.into() { self.0.get(usize::try_from(at).unwrap_or(usize::MAX)) } else { None }
    }

    /// Begins a session with a token. Returns the value of its cookie.
    pub(crate) fn begin_session(&self, presented: &[u8], now: OffsetDateTime) -> Option<String> {
        let token = self.matching(presented)?;
        let expires = (now + SESSION_DURATION).unix_timestamp();
        let session = format!("{}:{expires}:{}", token.name, random_token());
        let signature = signed(&token.session_key, COOKIE, &session);
        Some(format!("{session}:{signature}"))
    }

    /// Checks the value of a cookie.
    pub(crate) fn by_session(&self, cookie: &str, now: OffsetDateTime) -> Option<Operator> {
        let (session, signature) = cookie.rsplit_once(':')?;
        let mut parts = session.split(':');
        let (name, expires, nonce) = (parts.next()?, parts.next()?, parts.next()?);
        let token = self.0.iter().find(|token| token.name == name)?;
        let expected = signed(&token.session_key, COOKIE, session);
        let is_signed: bool = expected.as_bytes().ct_eq(signature.as_bytes()).into();
        let expires_at = OffsetDateTime::from_unix_timestamp(expires.parse().ok()?).ok()?;
        let id = SessionId { sha256: Sha256::digest(session).into(), expires_at };
        (is_signed && now < expires_at).then(|| token.operator(nonce, Some(id)))
    }
}

impl AdminToken {
    fn operator(&self, nonce: &str, session: Option<SessionId>) -> Operator {
        let form_key = signed(&self.session_key, FORM, nonce);
        Operator { name: self.name.clone(), role: self.role, form_key, session }
    }
}

fn session_key(token: &SecretString) -> Key {
    let mut mac = key(token);
    mac.update(SESSION_KEY);
    Key::new_from_slice(&mac.finalize().into_bytes()).expect("HMAC keys have any length")
}

fn signed(key: &Key, kind: &str, value: &str) -> String {
    let mut mac = key.clone();
    mac.update(kind.as_bytes());
    mac.update(b":");
    mac.update(value.as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn tokens(list: &[(&str, Role, &str)]) -> AdminTokens {
        let named = |(name, role, token): &(&str, Role, &str)| NamedToken {
            name: (*name).to_owned(),
            role: *role,
            token: (*token).into(),
        };
        AdminTokens::new(&list.iter().map(named).collect::<Vec<_>>())
    }

    #[test]
    fn a_session_is_valid_until_it_expires_and_is_not_transferable() {
        let both = tokens(&[("anna", Role::Operate, "token of anna"), ("ben", Role::Read, "token of ben")]);
        assert!(both.begin_session(b"an unknown token", NOW).is_none());
        let cookie = both.begin_session(b"token of ben", NOW).unwrap();
        assert!(!cookie.contains("token of"), "{cookie}");
        let ben = both.by_session(&cookie, NOW + SESSION_DURATION - Duration::SECOND).unwrap();
        assert_eq!((&*ben.name, ben.role, ben.session.is_some()), ("ben", Role::Read, true));
        assert!(both.by_session(&cookie, NOW + SESSION_DURATION).is_none(), "it has expired");

        for altered in [
            cookie.replace("ben", "anna"),
            cookie.replacen(':', ":9", 1),
            format!("{cookie}x"),
            cookie.replace(':', ""),
            String::new(),
        ] {
            assert!(both.by_session(&altered, NOW).is_none(), "{altered}");
        }
        assert!(ben.owns_form(&ben.form_key));
        let other = both.by_session(&both.begin_session(b"token of ben", NOW).unwrap(), NOW).unwrap();
        assert!(!ben.owns_form(&other.form_key), "each session has its own form key");
        assert!(!ben.owns_form(""));
    }

    #[test]
    fn changing_a_token_ends_its_sessions_and_no_others() {
        let before = tokens(&[("anna", Role::Operate, "token of anna"), ("ben", Role::Read, "token of ben")]);
        let [anna, ben] =
            [&b"token of anna"[..], b"token of ben"].map(|token| before.begin_session(token, NOW).unwrap());
        let after = tokens(&[("anna", Role::Operate, "new token"), ("ben", Role::Operate, "token of ben")]);
        assert!(after.by_session(&anna, NOW).is_none());
        assert_eq!(after.by_session(&ben, NOW).unwrap().role, Role::Operate, "the role is the current one");
    }

    #[test]
    fn a_token_identifies_its_operator() {
        let none = tokens(&[]);
        assert!(none.anyone().unwrap().may_operate() && none.by_token(b"").is_none());
        let both = tokens(&[("anna", Role::Operate, "a"), ("ben", Role::Read, "b")]);
        assert!(both.anyone().is_none() && both.by_token(b"c").is_none());
        let names = [b"a", b"b"].map(|token| both.by_token(token).unwrap().name);
        assert_eq!(names, ["anna", "ben"]);
    }
}
