//! Sends webhooks without end, as several workflows of an organisation would: bulks of product photos that fill up,
//! videos that first send `running`, speech, captions and predictions. Some fail. Some webhooks are duplicates, conflicts,
//! of unknown shape, or lost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::sleep;

use super::{StandIn, Trigger};

/// The receiver, and how fast the webhooks are sent.
#[derive(Debug, Clone)]
pub struct Demo {
    /// The URL of the receiver's webhooks.
    pub webhook_url: String,
    /// The base address of the receiver's admin port, where bulks are registered.
    pub admin_url: String,
    /// The token of the admin port, if it requires one.
    pub admin_token: Option<String>,
    /// The number of the first order. Orders of another run on the same data have other numbers.
    pub first_order: usize,
    /// Signs the webhooks.
    pub webhook_secret: String,
    /// The unit of all pauses: one second in `make demo`, shorter in tests.
    pub second: Duration,
}

/// The number of inputs in a bulk.
const BULK: usize = 12;
const PRODUCTS: [&str; BULK] = [
    "glass paperweight",
    "soap",
    "wooden bead",
    "polished pebble",
    "paper lantern",
    "ceramic tile",
    "photo frame",
    "vase",
    "balloon",
    "candle",
    "glass ornament",
    "button",
];
const SCENES: [&str; 5] = [
    "A sailing boat passes a lighthouse at dusk",
    "Clouds move over a mountain lake",
    "A tram drives through a city in the rain",
    "Ink spreads in clear water",
    "A paper plane flies through an office",
];
const SENTENCES: [&str; 4] = [
    "Welcome back! Your order has been shipped.",
    "The museum closes in fifteen minutes.",
    "Turn left after the bridge, then keep right.",
    "Your appointment is on Monday at nine.",
];
/// Causes of failures, each of another class.
const POLICY: &str = "the prompt violates the content policy of the model";
const TIMEOUT: &str = "Model timeout after 30s";
const PROVIDER: &str = "PROVIDER_SERVER_ERROR: the provider answered with an error";
const NO_IMAGE: &str = "invalid image: inputs.image has 0 bytes";
const RATE_LIMIT: &str = "too many requests: the rate limit of the provider is reached";
/// How long a step runs before it fails with [`TIMEOUT`], in seconds of the demo.
const TIMEOUT_SECONDS: u32 = 30;
/// The models of the predictions.
const PREDICTED: [&str; 3] = ["flux-1-1-pro", "recraft-v3", "flux-1-1-pro"];

/// Sends webhooks until it is dropped.
pub async fn run(stand_in: &StandIn, demo: &Demo) {
    let script = Script { stand_in, demo, orders: AtomicUsize::new(demo.first_order) };
    tokio::join!(
        script.history(),
        script.photos(),
        script.videos(),
        script.speech(),
        script.captions(),
        script.predictions(),
        script.irregular(),
    );
}

struct Script<'a> {
    stand_in: &'a StandIn,
    demo: &'a Demo,
    /// The number of the next order.
    orders: AtomicUsize,
}

/// An execution that runs.
struct Running {
    id: String,
    order: usize,
    url: String,
    started: OffsetDateTime,
}

/// A workflow. Its last step makes the output of the execution.
struct Workflow {
    steps: &'static [Step],
    /// The causes of its failures.
    causes: &'static [&'static str],
}

struct Step {
    name: &'static str,
    model: &'static str,
    /// In units of 0.0001.
    cost: u32,
}

const PHOTO: Workflow = Workflow {
    steps: &[
        Step { name: "describe", model: "openai-chatgpt-5", cost: 21 },
        Step { name: "draw", model: "flux-1-1-pro", cost: 400 },
    ],
    causes: &[POLICY, PROVIDER, RATE_LIMIT],
};
const VIDEO: Workflow = Workflow {
    steps: &[
        Step { name: "storyboard", model: "openai-chatgpt-5", cost: 64 },
        Step { name: "render", model: "kling-v2", cost: 2_800 },
    ],
    causes: &[TIMEOUT, POLICY, PROVIDER],
};
const SPEECH: Workflow = Workflow {
    steps: &[Step { name: "speak", model: "elevenlabs-text-to-speech", cost: 150 }],
    causes: &[RATE_LIMIT, PROVIDER],
};
const CAPTION: Workflow = Workflow {
    steps: &[Step { name: "caption", model: "openai-chatgpt-5", cost: 12 }],
    causes: &[NO_IMAGE, RATE_LIMIT],
};

impl Workflow {
    /// The cause of the failure of execution `number`; `None` if it completes.
    fn cause(&self, number: usize) -> Option<&'static str> {
        (number % 7 == 3).then(|| self.causes[number / 7 % self.causes.len()])
    }
}

fn text(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}

impl Script<'_> {
    async fn seconds(&self, seconds: u32) {
        sleep(self.demo.second * seconds).await;
    }

    /// Starts an execution for the next order.
    fn begin(&self, workflow: &str, bulk: Option<&str>, inputs: Value) -> Running {
        let order = self.orders.fetch_add(1, Ordering::Relaxed);
        let url = format!("{}?order={order}&user={}", self.demo.webhook_url, 40 + order % 9);
        let id = self.stand_in.begin(&Trigger {
            workflow: workflow.to_owned(),
            bulk: bulk.map(str::to_owned),
            inputs,
            webhook_url: Some(url.clone()),
            webhook_secret: Some(self.demo.webhook_secret.clone()),
        });
        Running { id, order, url, started: OffsetDateTime::now_utc() }
    }

    /// Ends an execution with `output`, or fails its last step with `cause`. Sends no webhook. A failed step costs nothing.
    fn end(&self, run: &Running, workflow: &Workflow, output: &Value, cause: Option<&str>, fallback: bool) {
        let steps = workflow.steps;
        let now = OffsetDateTime::now_utc();
        let count = u32::try_from(steps.len()).unwrap_or(1);
        let last_started = if cause == Some(TIMEOUT) {
            now - self.demo.second * TIMEOUT_SECONDS
        } else {
            now - (now - run.started) / count
        };
        let part = (last_started - run.started) / (count - 1).max(1);
        let (mut outputs, mut cost, mut started) = (json!({}), 0, run.started);
        for (n, Step { name, model, cost: step_cost }) in steps.iter().enumerate() {
            let is_last = n + 1 == steps.len();
            let completed = if is_last { now } else { started + part };
            let cause = cause.filter(|_| is_last);
            let mut step = json!({
                "step_id": name, "started_at": text(started), "completed_at": text(completed),
                "metadata": { "model": model, "version": "0.0.1" }
            });
            if cause.is_none() {
                step["metadata"]["cost"] = json!(f64::from(*step_cost) / 10_000.0);
                cost += step_cost;
            }
            if let Some(cause) = cause {
                step["status"] = json!("failed");
                step["error"] = json!("ExecutionFailed");
                step["error_cause"] = json!(cause);
            } else {
                step["status"] = json!("completed");
                step["output"] = if is_last { output.clone() } else { intermediate() };
            }
            if is_last && fallback {
                step["metadata"]["model"] = json!("kling-v1-6");
                step["metadata"]["fallback_used"] = json!(true);
                step["metadata"]["primary_error"] = json!("provider unavailable (503)");
            }
            outputs[name] = step;
            started = completed;
        }
        let mut fields = json!({ "started_at": text(run.started), "step_outputs": outputs });
        if cost > 0 {
            fields["total_cost"] = json!(f64::from(cost) / 10_000.0);
        }
        if let (Some(cause), Some(last)) = (cause, steps.last()) {
            fields["status"] = json!("failed");
            fields["error"] = json!("ExecutionFailed");
            fields["error_cause"] = json!(format!("Step '{}' failed: {cause}", last.name));
        } else {
            fields["status"] = json!("completed");
            fields["output"] = output.clone();
        }
        self.stand_in.end_with(&run.id, fields);
    }

    /// The URL of a result of the execution.
    fn media(&self, run: &Running, extension: &str) -> String {
        format!("{}/media/{}.{extension}", self.stand_in.base_url(), run.id)
    }

    fn caption_inputs(&self) -> Value {
        let image = format!("{}/media/{}.png", self.stand_in.base_url(), self.stand_in.new_id());
        json!({ "prompt": "Describe this picture in one sentence", "image": image })
    }

    fn end_photo(&self, run: &Running, cause: Option<&str>) {
        self.end(run, &PHOTO, &json!([self.media(run, "png")]), cause, false);
    }

    fn deliver(&self, run: &Running) {
        self.stand_in.deliver(&run.id);
    }

    /// Sends the webhook of an execution in its current state, and waits for the response.
    async fn post(&self, run: &Running) {
        if let Some(body) = self.stand_in.body(&run.id) {
            self.post_body(&run.url, &body).await;
        }
    }

    async fn post_body(&self, url: &str, body: &Value) {
        self.stand_in.post(url, Some(&self.demo.webhook_secret), body).await;
    }

    /// Executions that end when the demo starts, so that the pages are not empty.
    async fn history(&self) {
        let bulk = self.stand_in.new_id();
        let runs = self.begin_bulk(&bulk);
        self.register(&bulk, &runs, false).await;
        for (number, mut run) in runs.into_iter().enumerate() {
            run.started -= Duration::from_secs(9);
            self.end_photo(&run, PHOTO.cause(number));
            self.deliver(&run);
        }
        for number in 1..4 {
            let mut run = self.begin_video(number);
            let cause = VIDEO.cause(number);
            run.started -= if cause == Some(TIMEOUT) { TIMEOUT_SECONDS + 2 } else { 8 } * self.demo.second;
            self.end_video(&run, number, cause);
            self.deliver(&run);
        }
        for number in 0..48 {
            let mut run = match number % 3 {
                0 => self.begin_photo(number, None),
                1 => self.begin("voice-messages", None, speech_inputs(number)),
                _ => self.begin("alt-texts", None, self.caption_inputs()),
            };
            run.started -= Duration::from_millis(2_000 + 731 * (number as u64 % 11));
            match number % 3 {
                0 => self.end_photo(&run, PHOTO.cause(number / 3)),
                1 => self.end_speech(&run, number / 3),
                _ => self.end_caption(&run, number / 3),
            }
            self.deliver(&run);
            sleep(self.demo.second / 4).await;
        }
    }

    fn begin_video(&self, number: usize) -> Running {
        let inputs = json!({ "prompt": SCENES[number % SCENES.len()], "duration": 5, "resolution": "720p" });
        self.begin("short-videos", None, inputs)
    }

    /// One of three videos uses a fallback, because its first model failed.
    fn end_video(&self, run: &Running, number: usize, cause: Option<&str>) {
        self.end(run, &VIDEO, &json!(self.media(run, "mp4")), cause, number % 3 == 1);
    }

    fn end_speech(&self, run: &Running, number: usize) {
        self.end(run, &SPEECH, &json!(self.media(run, "wav")), SPEECH.cause(number), false);
    }

    fn end_caption(&self, run: &Running, number: usize) {
        self.end(run, &CAPTION, &caption(number), CAPTION.cause(number), false);
    }

    fn begin_photo(&self, number: usize, bulk: Option<&str>) -> Running {
        let product = PRODUCTS[number % PRODUCTS.len()];
        let prompt = format!("Product photo of a {product} on a table, soft morning light");
        let inputs = json!({ "prompt": prompt, "size": "1024x1024", "seed": 7 * number });
        self.begin("product-photos", bulk, inputs)
    }

    fn begin_bulk(&self, bulk: &str) -> Vec<Running> {
        (0..BULK).map(|number| self.begin_photo(number, Some(bulk))).collect()
    }

    /// Registers the response of bulk-trigger, with a reference for each input.
    async fn register(&self, bulk: &str, runs: &[Running], with_rejected: bool) {
        let mut executions: Vec<_> =
            runs.iter().map(|run| json!({ "execution_id": run.id, "status": "queued" })).collect();
        if with_rejected {
            executions.push(json!({ "status": "failed", "message": "inputs.prompt is empty" }));
        }
        let first = runs.first().map_or(0, |run| run.order);
        let references: Vec<_> =
            (0..executions.len()).map(|n| json!({ "sku": format!("SKU-{}", first + n) })).collect();
        let body = json!({
            "bulk_id": bulk, "workflow_id": "product-photos", "executions": executions, "references": references
        });
        let url = format!("{}/api/v1/expected", self.demo.admin_url);
        let token = self.demo.admin_token.as_deref();
        if self.stand_in.post_with_token(&url, token, &body).await != Some(200) {
            eprintln!("{url} did not register the bulk {bulk}.");
        }
    }

    /// Bulks, each filling up within half a minute. One of three has a rejected input, and one a lost webhook.
    async fn photos(&self) {
        for round in 0_usize.. {
            let bulk = self.stand_in.new_id();
            let runs = self.begin_bulk(&bulk);
            self.register(&bulk, &runs, round % 3 == 0).await;
            for (number, run) in runs.iter().enumerate() {
                let is_lost = round % 3 == 1 && number == 5;
                if is_lost {
                    self.post(run).await;
                }
                sleep(self.demo.second * 5 / 2).await;
                self.end_photo(run, PHOTO.cause(round + number).filter(|_| !is_lost));
                if !is_lost {
                    self.deliver(run);
                }
            }
            self.seconds(10).await;
        }
    }

    /// Videos that send `running` first.
    async fn videos(&self) {
        for number in 0_usize.. {
            let run = self.begin_video(number);
            let cause = VIDEO.cause(number);
            self.post(&run).await;
            self.seconds(if cause == Some(TIMEOUT) { TIMEOUT_SECONDS + 2 } else { 8 }).await;
            self.end_video(&run, number, cause);
            self.deliver(&run);
            self.seconds(2).await;
        }
    }

    async fn speech(&self) {
        for number in 0_usize.. {
            let run = self.begin("voice-messages", None, speech_inputs(number));
            self.seconds(3).await;
            self.end_speech(&run, number + 1);
            self.deliver(&run);
            self.seconds(4).await;
        }
    }

    async fn captions(&self) {
        for number in 0_usize.. {
            let run = self.begin("alt-texts", None, self.caption_inputs());
            self.seconds(2).await;
            self.end_caption(&run, number);
            self.deliver(&run);
            self.seconds(3).await;
        }
    }

    /// Predictions. One of four fails. The webhook does not name the model, so the URL does.
    async fn predictions(&self) {
        for number in 0_usize.. {
            let id = self.stand_in.new_id();
            let model = PREDICTED[number % PREDICTED.len()];
            let url = format!("{}?user={}&model={model}", self.demo.webhook_url, 40 + number % 9);
            let body = if number % 4 == 3 {
                json!({
                    "exec_id": id, "flow_id": null, "status": "failed", "error": "",
                    "output": [{ "id": "", "status": "", "output": "", "error": {
                        "error_code": "PROVIDER_REJECTED", "error_message": "Prompt refused by the provider"
                    } }]
                })
            } else {
                let output = format!("{}/media/{id}.png", self.stand_in.base_url());
                json!({
                    "exec_id": id, "flow_id": null, "status": "succeeded", "error": "", "output": output,
                    "metrics": { "predict_time": 2.4, "cost": 0.012 }
                })
            };
            self.post_body(&url, &body).await;
            self.seconds(6).await;
        }
    }

    /// In turn, without end: a lost webhook, a body of unknown shape, a duplicate, a conflict.
    async fn irregular(&self) {
        for number in 0_usize.. {
            let run = self.begin_photo(number, None);
            match number % 4 {
                0 => {
                    self.post(&run).await;
                    self.seconds(2).await;
                    self.end_photo(&run, None);
                }
                1 => {
                    let media = self.media(&run, "png");
                    let data =
                        json!({ "run": run.id, "flow": "banner-ads", "state": "done", "result": media });
                    self.post_body(&run.url, &json!({ "event": "run.finished", "data": data })).await;
                }
                2 => {
                    self.seconds(2).await;
                    self.end_photo(&run, None);
                    self.post(&run).await;
                    self.post(&run).await;
                }
                _ => {
                    self.seconds(2).await;
                    self.end_photo(&run, None);
                    self.post(&run).await;
                    self.end_photo(&run, Some(PROVIDER));
                    self.post(&run).await;
                }
            }
            self.seconds(if number < 4 { 3 } else { 25 }).await;
        }
    }
}

/// The output of a step that writes a text.
fn intermediate() -> Value {
    json!("A quiet scene with soft light from the left, and a shallow depth of field.")
}

fn speech_inputs(number: usize) -> Value {
    json!({ "prompt": SENTENCES[number % SENTENCES.len()], "voice": "Aria" })
}

fn caption(number: usize) -> Value {
    json!(format!("A {} on a table in front of a plain wall", PRODUCTS[number % PRODUCTS.len()]))
}
