//! `workflow-receiver new-token`

use rand::RngExt;
use rand::distr::Alphanumeric;

use crate::http::WEBHOOK_PATH;

/// 43 of 62 characters: 256 bits.
const LENGTH: usize = 43;

/// A token on the first line, followed by its use.
#[must_use]
pub fn new_token() -> String {
    let token: String = rand::rng().sample_iter(Alphanumeric).take(LENGTH).map(char::from).collect();
    format!(
        "{token}\n\n\
         To accept webhooks with this token in their URL:\n  \
         RECEIVER__AUTH__URL_TOKENS={token}\n\
         The webhook_url for the sender:\n  \
         https://YOUR-HOST{WEBHOOK_PATH}/{token}\n\
         Keep the token and the URL secret: they allow posting webhooks. For admin.token, generate another token."
    )
}
