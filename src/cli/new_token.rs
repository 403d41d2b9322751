//! `workflow-receiver new-token`

use super::output::{note, print_line};
use crate::config::random_token;
use crate::http::WEBHOOK_PATH;

/// Prints a token to standard output, and its use to standard error.
pub(crate) fn new_token() {
    let token = random_token();
    print_line(&token);
    for line in [
        "",
        "A random token. To accept webhooks with it in their URL:",
        &format!("  RECEIVER__AUTH__URL_TOKENS={token}"),
        "The webhook_url for the sender:",
        &format!("  https://YOUR-HOST{WEBHOOK_PATH}/{token}"),
        "Keep the token and the URL secret: they allow posting webhooks. For admin.token, generate another token.",
    ] {
        note(line);
    }
}
