//! Shows results. Only images, video and audio of the hosts in `console.result_hosts` are loaded; everything else is a link.

use axum::http::Uri;
use maud::{Markup, html};

use super::hosts::ResultHosts;
use super::text::{visible, visible_attribute};

/// What a result is shown as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    Image,
    Video,
    Audio,
    /// Any other URL.
    Link,
}

/// Extensions of images that browsers show. SVG and HTML are documents with scripts: they are links.
const IMAGES: &[&str] = &["avif", "bmp", "gif", "jpeg", "jpg", "png", "webp"];
const VIDEOS: &[&str] = &["m4v", "mov", "mp4", "webm"];
const SOUNDS: &[&str] = &["aac", "flac", "m4a", "mp3", "oga", "ogg", "opus", "wav"];

/// How `url` is shown. `kind` is the kind of the result, if it is known. It decides if the URL has no extension.
pub(super) fn media(hosts: &ResultHosts, url: &str, kind: Option<&str>) -> Media {
    let Some(uri) = web_url(url).filter(|_| hosts.allow(url)) else { return Media::Link };
    media_of_path(uri.path()).unwrap_or(match kind {
        Some("image") => Media::Image,
        Some("video") => Media::Video,
        Some("audio") => Media::Audio,
        _ => Media::Link,
    })
}

/// `None` if `url` is not an absolute `http` or `https` URL.
fn web_url(url: &str) -> Option<Uri> {
    let uri: Uri = url.parse().ok()?;
    matches!(uri.scheme_str(), Some("http" | "https")).then_some(uri)
}

fn media_of_path(path: &str) -> Option<Media> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let extension = name.rsplit_once('.')?.1.to_ascii_lowercase();
    let is_one_of = |known: &[&str]| known.contains(&&*extension);
    match () {
        () if is_one_of(IMAGES) => Some(Media::Image),
        () if is_one_of(VIDEOS) => Some(Media::Video),
        () if is_one_of(SOUNDS) => Some(Media::Audio),
        // A longer text after a dot is a part of the name.
        () if extension.len() <= 5 => Some(Media::Link),
        () => None,
    }
}

/// A link to a URL of a webhook. Other URLs than `http` and `https`, such as `javascript:`, are only text.
pub(super) fn link(url: &str) -> Markup {
    html! {
        @if web_url(url).is_some() {
            a.result-link href=(url) rel="noopener noreferrer nofollow" target="_blank" { (visible(url)) }
        } @else {
            span.result-link { (visible(url)) }
        }
    }
}

/// A small picture for a row of a list: the image, or a symbol. `href` is the page of the execution.
pub(super) fn thumbnail(hosts: &ResultHosts, url: &str, href: &str) -> Markup {
    html! {
        a.thumb href=(href) tabindex="-1" aria-hidden="true" {
            @match media(hosts, url, None) {
                Media::Image => img src=(url) alt="" loading="lazy" decoding="async" referrerpolicy="no-referrer";,
                Media::Video => span.thumb-symbol { "\u{25b6}" },
                Media::Audio => span.thumb-symbol { "\u{266a}" },
                Media::Link => span.thumb-symbol { "\u{1f5ce}" },
            }
        }
    }
}

/// The media of a result, in the size of its container. `label` describes it to screen readers. `None` for a link.
pub(super) fn player(media: Media, url: &str, label: &str) -> Option<Markup> {
    let label = visible_attribute(label);
    match media {
        Media::Image => Some(html! {
            a.media href=(url) rel="noopener noreferrer nofollow" target="_blank" {
                img src=(url) alt=(label) loading="lazy" decoding="async" referrerpolicy="no-referrer";
            }
        }),
        Media::Video => Some(html! {
            video.media src=(url) controls preload="metadata" playsinline aria-label=(label) {}
        }),
        Media::Audio => Some(html! { audio.media src=(url) controls preload="none" aria-label=(label) {} }),
        Media::Link => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Hosts;

    #[test]
    fn only_media_of_allowed_hosts_are_loaded() {
        let names = ["cdn.example.com", "http://127.0.0.1:9000"];
        let hosts = ResultHosts::new(&Hosts(names.map(str::to_owned).to_vec()));
        for (url, expected) in [
            ("https://cdn.example.com/a.PNG?x=.svg", Media::Image),
            ("https://CDN.example.com/a.webp#x", Media::Image),
            ("http://127.0.0.1:9000/v.mp4", Media::Video),
            ("https://cdn.example.com/a.b/s.mp3", Media::Audio),
            ("https://cdn.example.com/a.svg", Media::Link),
            ("https://cdn.example.com/a.html", Media::Link),
            ("https://cdn.example.com/a", Media::Link),
            ("https://evil.example/a.png", Media::Link),
            ("https://cdn.example.com@evil.example/a.png", Media::Link),
            ("https://cdn.example.com:8443/a.png", Media::Link),
            ("https://x.cdn.example.com/a.png", Media::Link),
            ("javascript:alert(1)//a.png", Media::Link),
            ("data:image/png;base64,AAAA", Media::Link),
            ("//cdn.example.com/a.png", Media::Link),
        ] {
            assert_eq!(media(&hosts, url, None), expected, "{url}");
        }
        assert_eq!(media(&hosts, "https://cdn.example.com/a", Some("image")), Media::Image);
        assert_eq!(media(&hosts, "https://cdn.example.com/a.svg", Some("image")), Media::Link);
    }

    #[test]
    fn only_web_urls_are_links() {
        assert!(link("https://example.com/").into_string().contains("href="));
        for url in
            ["javascript:alert(1)", "data:text/html,x", "ftp://example.com/", "/relative", "java\nscript:x"]
        {
            assert!(!link(url).into_string().contains("href"), "{url}");
        }
    }
}
