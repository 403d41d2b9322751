//! `workflow-receiver new-token`: a token that nobody guesses.

use rand::RngExt;
use rand::distr::Alphanumeric;

use crate::http::WEBHOOK_PATH;

/// 43 of 62 characters: 256 bits.
const LENGTH: usize = 43;

/// A token, and what to do with it: the token alone is on the first line.
#[must_use]
pub fn new_token() -> String {
    let token: String = rand::rng().sample_iter(Alphanumeric).take(LENGTH).map(char::from).collect();
    format!(
        "{token}\n\n\
         To let in deliveries that carry it in their URL:\n  \
         RECEIVER__AUTH__URL_TOKENS={token}\n\
         The webhook_url to give to the sender:\n  \
         https://YOUR-HOST{WEBHOOK_PATH}/{token}\n\
         Keep both secret: whoever has the URL can post webhooks. As admin.token it serves as well."
    )
}
