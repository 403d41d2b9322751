//! Senders that post one request after the other, and record every answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::RngExt;
use rand::seq::IndexedRandom;
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::http::sign;
use super::oracle::Sent;
use super::oracle::generate::{self, Body, Fit};
use super::oracle::model::columns;
use super::wait::within;

const SECRET: &str = "whsec_of_the_senders";
const TOKEN: &str = "kMzTgn5Yp0OQx3vB7wEa";

/// The settings that the senders need.
pub(crate) const LOAD_SETTINGS: [(&str, &str); 3] = [
    ("RECEIVER__AUTH__WEBHOOK_SECRETS", SECRET),
    ("RECEIVER__AUTH__SECRET_HEADER", "true"),
    ("RECEIVER__AUTH__URL_TOKENS", TOKEN),
];

/// The number of answers so far.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) acknowledged: u64,
    /// Answered 503.
    pub(crate) refused: u64,
    /// Connected, but without an answer.
    pub(crate) unclear: u64,
}

/// Senders that post until they are stopped.
pub(crate) struct Load {
    url: watch::Sender<String>,
    counts: watch::Sender<Counts>,
    interruptions: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    senders: JoinSet<Vec<Sent>>,
    /// Shared by all senders: a client takes long to build.
    client: Client,
    generation: u32,
}

impl Load {
    pub(crate) fn start(senders: usize) -> Self {
        let mut load = Self {
            url: watch::Sender::default(),
            counts: watch::Sender::default(),
            interruptions: Arc::default(),
            stop: Arc::default(),
            senders: JoinSet::new(),
            client: Client::builder().timeout(Duration::from_secs(10)).build().unwrap(),
            generation: 0,
        };
        load.resume(senders);
        load
    }

    /// Starts senders after [`Self::stop`]. Their executions have new identifiers.
    pub(crate) fn resume(&mut self, senders: usize) {
        assert!(self.senders.is_empty(), "the load is not stopped");
        self.stop.store(false, Ordering::Relaxed);
        self.generation += 1;
        for sender in 0..senders {
            let sender = Sender {
                name: format!("{}-{sender}", self.generation),
                client: self.client.clone(),
                url: self.url.subscribe(),
                counts: self.counts.clone(),
                interruptions: self.interruptions.clone(),
                stop: self.stop.clone(),
            };
            self.senders.spawn(sender.run());
        }
    }

    /// Sets the URL that the senders post to.
    pub(crate) fn point_to(&self, url: &str) {
        self.url.send_replace(url.to_owned());
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Notes that PostgreSQL may have committed an attempt to record whose result the receiver did not receive.
    pub(crate) fn interrupted(&self, times: u32) {
        self.interruptions.fetch_add(times, Ordering::Relaxed);
    }

    pub(crate) fn interruptions(&self) -> u32 {
        self.interruptions.load(Ordering::Relaxed)
    }

    /// Waits until `more` further deliveries are acknowledged.
    pub(crate) async fn until_acknowledged(&self, more: u64) {
        let until = self.counts().acknowledged + more;
        self.wait_for(|counts| counts.acknowledged >= until).await;
    }

    pub(crate) async fn wait_for(&self, enough: impl FnMut(&Counts) -> bool) {
        within(self.counts.subscribe().wait_for(enough)).await.unwrap();
    }

    /// Stops the senders. Returns their deliveries, those of one sender in the order of sending.
    pub(crate) async fn stop(&mut self) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        within(std::mem::take(&mut self.senders).join_all()).await.into_iter().flatten().collect()
    }
}

/// Microseconds since 1970.
pub(crate) fn now_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros().try_into().unwrap()
}

struct Sender {
    name: String,
    client: Client,
    url: watch::Receiver<String>,
    counts: watch::Sender<Counts>,
    interruptions: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
}

impl Sender {
    async fn run(mut self) -> Vec<Sent> {
        let mut sent: Vec<Sent> = Vec::new();
        // Executions whose deliveries were all answered 200. Only these are sent again, because the order of their
        // deliveries is known.
        let mut clear: Vec<Body> = Vec::new();
        for n in 0_u64.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let (body, method) = self.next(n, &clear);
            let delivery = self.deliver(body, method).await;
            if delivery.unclear > 0 || !delivery.answered(200) {
                if let Some(unclear) = &delivery.body.columns {
                    clear.retain(|body| columns(body).id != unclear.id);
                }
            } else if delivery.body.columns.is_some() {
                clear.push(delivery.body.clone());
            }
            if delivery.unclear > 0 || delivery.answer.is_some() {
                sent.push(delivery);
            }
        }
        sent
    }

    fn next(&self, n: u64, clear: &[Body]) -> (Body, &'static str) {
        let rng = &mut rand::rng();
        let (id, bulk) = (format!("{}-{n}", self.name), format!("b{}", n / 20));
        let earlier = clear.choose(rng);
        let body = match (rng.random_range(0..20), earlier) {
            (0..3, Some(earlier)) => earlier.clone(),
            (3, Some(earlier)) if columns(earlier).fit == Fit::Whole => generate::rewritten(earlier),
            (4 | 5, Some(earlier)) => generate::execution(rng, &columns(earlier).id, &bulk, n),
            (6, _) => generate::no_execution(rng, &id),
            _ => generate::execution(rng, &id, &bulk, n),
        };
        (body, *["signature", "signature", "secret_header", "url_token"].choose(rng).unwrap())
    }

    fn request(&self, body: &Body, method: &str, url: &str) -> RequestBuilder {
        let text = body.text.clone();
        let post = |url: String| {
            // As the oracle expects.
            let Some(columns) = &body.columns else { return self.client.post(url) };
            let request = self.client.post(format!("{url}?execution={}", columns.id));
            if columns.id.ends_with('7') { request.header("X-Webhook-Redelivery", "true") } else { request }
        };
        match method {
            "signature" => {
                sign(post(url.to_owned()), SECRET, now_micros() / 1_000_000, text.as_bytes()).body(text)
            }
            "secret_header" => post(url.to_owned()).header("X-Webhook-Secret", SECRET).body(text),
            _ => post(format!("{url}/{TOKEN}")).body(text),
        }
    }

    /// Sends until the answer is 200 or 422, or until the senders are stopped.
    async fn deliver(&mut self, body: Body, method: &'static str) -> Sent {
        let began = now_micros();
        let mut sent = Sent {
            body,
            method,
            unclear: 0,
            answer: None,
            first_began: began,
            began,
            ended: began,
            interruptions: self.interruptions.load(Ordering::Relaxed),
        };
        loop {
            let url = self.url.borrow_and_update().clone();
            if url.is_empty() {
                let _ = timeout(Duration::from_secs(1), self.url.changed()).await;
            } else {
                sent.began = now_micros();
                let answer = self.request(&sent.body, method, &url).send().await;
                sent.ended = now_micros();
                match answer {
                    Ok(answer) => match answer.status().as_u16() {
                        200 => {
                            sent.answer = Some((200, String::new()));
                            self.counts.send_modify(|counts| counts.acknowledged += 1);
                        }
                        422 => match answer.json::<Value>().await {
                            Ok(problem) => {
                                sent.answer = Some((422, problem["detail"].as_str().unwrap().to_owned()));
                            }
                            Err(_) => sent.unclear += 1,
                        },
                        503 => {
                            sent.unclear += 1;
                            self.counts.send_modify(|counts| counts.refused += 1);
                        }
                        other => panic!("{other}: {}", sent.body.text),
                    },
                    // Without a connection, the request reached no receiver.
                    Err(error) if error.is_connect() => {
                        let _ = timeout(Duration::from_millis(5), self.url.changed()).await;
                    }
                    Err(_) => {
                        sent.unclear += 1;
                        self.counts.send_modify(|counts| counts.unclear += 1);
                    }
                }
            }
            if let Some((status, _)) = &sent.answer {
                assert_eq!(*status == 200, sent.body.columns.is_some(), "{}", sent.body.text);
                return sent;
            }
            if self.stop.load(Ordering::Relaxed) {
                return sent;
            }
        }
    }
}
