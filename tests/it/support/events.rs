//! The change feed as tests read it: page by page, and as server-sent events.

use reqwest::Response;
use serde_json::Value;

use super::http::get_json;
use super::receiver::TestReceiver;
use super::wait::within;

/// Reads server-sent events, one by one.
pub(crate) struct Listener {
    answer: Response,
    text: String,
    /// The `id` of the last event or comment.
    pub(crate) id: String,
}

impl Listener {
    /// Returns once the listener is subscribed.
    pub(crate) async fn start(receiver: &TestReceiver, query: &str) -> Self {
        Self::follow(receiver.get(&format!("/api/v1/events{query}")).await).await
    }

    /// Continues after the last event of an earlier listener.
    pub(crate) async fn resume(receiver: &TestReceiver, id: &str) -> Self {
        let url = format!("{}/api/v1/events", receiver.admin);
        Self::follow(receiver.client.get(url).header("Last-Event-ID", id).send().await.unwrap()).await
    }

    async fn follow(answer: Response) -> Self {
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let mut listener = Self { answer, text: String::new(), id: String::new() };
        assert_eq!(listener.next().await.unwrap(), ": subscribed");
        listener
    }

    /// The next event or comment without its `id`; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (id, event) = event.split_once('\n').unwrap();
                let [id, event, rest] = [id.strip_prefix("id: ").unwrap(), event, rest].map(str::to_owned);
                (self.id, self.text) = (id, rest);
                return Some(event);
            }
            let chunk = within(self.answer.chunk()).await.unwrap()?;
            self.text += std::str::from_utf8(&chunk).unwrap();
        }
    }

    /// The data of the next event.
    pub(crate) async fn change(&mut self) -> Value {
        loop {
            let event = self.next().await.expect("the stream ended");
            if let Some(data) = event.strip_prefix("data: ") {
                let change: Value = serde_json::from_str(data).unwrap();
                assert_eq!(change["change"].to_string(), self.id);
                return change;
            }
        }
    }
}

/// A reader that polls `/api/v1/changes`.
#[derive(Default)]
pub(crate) struct Poller {
    pub(crate) after: i64,
    pub(crate) changes: Vec<Value>,
}

impl Poller {
    /// Reads one page, and checks that its numbers continue those of the page before.
    pub(crate) async fn poll(&mut self, receiver: &TestReceiver) {
        let page = get_json(receiver, &format!("/api/v1/changes?after={}&limit=1000", self.after)).await;
        for change in page["items"].as_array().unwrap() {
            self.after += 1;
            assert_eq!(change["change"], self.after, "{page}");
            self.changes.push(change.clone());
        }
        assert_eq!(page["next_after"], self.after, "{page}");
    }

    /// Polls until `count` changes were read.
    pub(crate) async fn until(&mut self, receiver: &TestReceiver, count: usize) {
        within(async {
            while self.changes.len() < count {
                self.poll(receiver).await;
            }
        })
        .await;
    }
}
