//! `workflow-receiver new-token`

use crate::config::random_token;
use crate::http::WEBHOOK_PATH;

/// A token on the first line, followed by its use.
#[must_use]
pub fn new_token() -> String {
    let token = random_token();
    format!(
        "{token}\n\n\
         To accept webhooks with this token in their URL:\n  \
         RECEIVER__AUTH__URL_TOKENS={token}\n\
         The webhook_url for the sender:\n  \
         https://YOUR-HOST{WEBHOOK_PATH}/{token}\n\
         Keep the token and the URL secret: they allow posting webhooks. For admin.token, generate another token."
    )
}
