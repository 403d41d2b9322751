//! A headless Chromium, driven over the `WebDriver` protocol. `scripts/install-tools browser` installs it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder};
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Handle;
use url::{ParseError, Url};

/// The version is in `scripts/install-tools`.
const AXE: &str = "target/tools/axe-core/node_modules/axe-core/axe.min.js";

/// A browser with one window. It stops when dropped.
pub(crate) struct Chromium {
    pub(crate) client: Client,
    driver: Child,
    _profile: TempDir,
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // The driver ends Chromium, which would write to its profile after the removal.
        let close = self.client.clone().close();
        let _ = tokio::task::block_in_place(|| Handle::current().block_on(close));
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// A command that only Chromium knows: `POST /session/ID/PATH`.
#[derive(Debug)]
struct ChromiumCommand(&'static str, Value);

impl WebDriverCompatibleCommand for ChromiumCommand {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.1.to_string()))
    }
}

impl Chromium {
    pub(crate) async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is missing: run scripts/install-tools browser");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let started = lines.find(|line| line.contains("started successfully on port")).unwrap();
        let port = started.trim_end_matches('.').rsplit(' ').next().unwrap().to_owned();
        // The driver would block when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        let profile = TempDir::new().unwrap();
        let capabilities = json!({
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": [
                "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars",
                format!("--user-data-dir={}", profile.path().display()),
            ] },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!() };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        Self { client, driver, _profile: profile }
    }

    async fn devtools(&self, command: &str, parameters: Value) {
        let body = json!({ "cmd": command, "params": parameters });
        self.client.issue_cmd(ChromiumCommand("goog/cdp/execute", body)).await.unwrap();
    }

    /// Sets the size of the window, and the colour scheme: `light` or `dark`.
    pub(crate) async fn emulate(&self, width: u32, height: u32, scheme: &str) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// The messages of the console since the last call: errors of scripts, violations of the policy, failed requests.
    pub(crate) async fn console_messages(&self) -> Vec<String> {
        let log =
            self.client.issue_cmd(ChromiumCommand("se/log", json!({ "type": "browser" }))).await.unwrap();
        log.as_array().into_iter().flatten().map(|entry| entry["message"].to_string()).collect()
    }

    /// Opens a page and checks that it has no error and is not wider than the window.
    pub(crate) async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
        let messages = self.console_messages().await;
        assert!(messages.is_empty(), "{url}: {messages:#?}");
        let overflow = "const width = document.documentElement.clientWidth;
            return [...document.querySelectorAll('body *')]
                .filter((one) => one.getBoundingClientRect().right > width + 1 && !one.closest('pre, nav, .scroll, .visually-hidden'))
                .map((one) => one.outerHTML.slice(0, 120))
                .concat(document.documentElement.scrollWidth > width ? ['the page is ' + document.documentElement.scrollWidth] : []);";
        let wide = self.client.execute(overflow, Vec::new()).await.unwrap();
        assert_eq!(wide, json!([]), "{url} is wider than the window");
    }

    /// The serious and critical violations that axe finds on the open page.
    pub(crate) async fn violations(&self, page: &str) -> Vec<String> {
        let axe = std::fs::read_to_string(AXE).expect("axe is missing: run scripts/install-tools browser");
        let run = "const done = arguments[arguments.length - 1];
            axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => done(violations
                .filter((one) => ['serious', 'critical'].includes(one.impact))
                .flatMap((one) => one.nodes.slice(0, 3).map((node) => `${one.id}: ${node.html.slice(0, 160)} ${node.failureSummary}`))),
                (error) => done([String(error)]))";
        let found = self.client.execute_async(&format!("{axe}\n;{run}"), Vec::new()).await.unwrap();
        found.as_array().unwrap().iter().map(|one| format!("{page}: {}", one.as_str().unwrap())).collect()
    }

    /// Writes a PNG of the whole page into the directory `SCREENSHOTS` of the environment, if it is set.
    pub(crate) async fn screenshot(&self, name: &str) {
        let Some(directory) = std::env::var_os("SCREENSHOTS") else { return };
        let png = self.client.screenshot().await.unwrap();
        std::fs::write(std::path::Path::new(&directory).join(format!("{name}.png")), png).unwrap();
    }
}
