//! `workflow-receiver admin-token`

use secrecy::ExposeSecret;

use crate::config;

/// # Errors
/// If no token is set.
pub(crate) fn admin_token(admin: &config::Admin) -> Result<String, &'static str> {
    match admin.token.expose_secret() {
        "" if admin.tokens.0.is_empty() => Err("admin.token is not set: the admin port requires no token"),
        "" => Err("admin.token is not set: the admin port requires one of admin.tokens"),
        token => Ok(token.to_owned()),
    }
}
