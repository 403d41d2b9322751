//! The stylesheet, the script and the icon, compiled in. Their URLs contain a hash of their content, so browsers cache them
//! for a year.

use std::sync::LazyLock;

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

pub(super) struct Asset {
    /// `/console/NAME-HASH.EXTENSION`
    pub(super) path: String,
    kind: &'static str,
    text: &'static str,
}

impl Asset {
    fn new(name: &str, extension: &str, kind: &'static str, text: &'static str) -> Self {
        let hash = crc32fast::hash(text.as_bytes());
        Self { path: format!("/console/{name}-{hash:08x}.{extension}"), kind, text }
    }

    fn route<S: Clone + Send + Sync + 'static>(&'static self, router: Router<S>) -> Router<S> {
        let headers = [
            (header::CONTENT_TYPE, self.kind),
            (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        router.route(&self.path, get(async move || (headers, self.text).into_response()))
    }
}

pub(super) static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new(
        "console",
        "css",
        "text/css; charset=utf-8",
        concat!(include_str!("assets/console.css"), include_str!("assets/pages.css")),
    )
});
pub(super) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new(
        "console",
        "js",
        "text/javascript; charset=utf-8",
        concat!(include_str!("assets/console.js"), include_str!("assets/pages.js")),
    )
});
/// The script of `/docs`.
pub(super) static DOCS: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("docs", "js", "text/javascript; charset=utf-8", include_str!("assets/docs.js"))
});
pub(super) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", "image/svg+xml", include_str!("assets/icon.svg")));

pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    [&*STYLE, &*SCRIPT, &*DOCS, &*ICON].into_iter().fold(Router::new(), |router, asset| asset.route(router))
}
