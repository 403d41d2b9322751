//! Serves results at `/media/NAME`: a PNG, a WAV or an MP4 file, by the extension of the name. Pictures and sounds are
//! generated; the same name gives the same content.
//!
//! `media/spiral.mp4` was made with `ffmpeg -f lavfi -i "gradients=s=320x180:r=24:d=5:c0=0x0b3954:c1=0xff6b35:c2=0xf7c59f:
//! c3=0x087e8b:n=4:seed=7:speed=0.02:type=spiral" -c:v libx264 -profile:v baseline -pix_fmt yuv420p -crf 30
//! -movflags +faststart spiral.mp4`.

use std::io::Write as _;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, RANGE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha2::{Digest, Sha256};

const VIDEO: &[u8] = include_bytes!("../media/spiral.mp4");
/// Width and height of a picture.
const SIZE: u16 = 256;
/// Samples per second of a sound.
const RATE: u32 = 16_000;

pub(crate) fn router() -> Router {
    Router::new().route("/media/{name}", get(file))
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let digest: [u8; 32] = Sha256::digest(&name).into();
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("png") => ([(CONTENT_TYPE, "image/png")], png(&digest)).into_response(),
        Some("wav") => part(&headers, "audio/wav", &wav(&digest)),
        Some("mp4") => part(&headers, "video/mp4", VIDEO),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The requested range of `content`, or all of it. Safari plays no media without ranges.
fn part(headers: &HeaderMap, kind: &'static str, content: &[u8]) -> Response {
    let range = headers.get(RANGE).and_then(|range| range.to_str().ok()).and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let end = if last.is_empty() { content.len() } else { last.parse::<usize>().ok()?.checked_add(1)? };
        let (first, end) = (first.parse::<usize>().ok()?, end.min(content.len()));
        (first < end).then_some(first..end)
    });
    let headers = [(CONTENT_TYPE, kind), (ACCEPT_RANGES, "bytes")];
    match range {
        None => (headers, content.to_vec()).into_response(),
        Some(range) => {
            let place = format!("bytes {}-{}/{}", range.start, range.end - 1, content.len());
            let content = content[range].to_vec();
            (StatusCode::PARTIAL_CONTENT, headers, [(CONTENT_RANGE, place)], content).into_response()
        }
    }
}

/// A round object with a shadow in front of a wall, in colours of `digest`.
fn png(digest: &[u8; 32]) -> Vec<u8> {
    let share = |n: usize| f32::from(digest[n]) / 255.0;
    let hue = share(0);
    let (wall, table) = (colour(hue, 0.22, 0.96), colour(hue + 0.04, 0.3, 0.86));
    let object = colour(hue + 0.33 + share(1) * 0.34, 0.55 + share(2) * 0.3, 0.9);
    let (width, height) = (0.16 + share(3) * 0.14, 0.18 + share(4) * 0.16);
    // 2 is an ellipse; larger exponents have corners.
    let exponent = [1.4, 2.0, 2.6, 6.0][usize::from(digest[5] % 4)];
    let ring = digest[6].is_multiple_of(3);
    let centre = 0.76 - height;

    let mut pixels = Vec::new();
    for row in 0..SIZE {
        // Every row begins with its filter: 0 is none.
        pixels.push(0);
        for column in 0..SIZE {
            let (x, y) = (f32::from(column) / f32::from(SIZE), f32::from(row) / f32::from(SIZE));
            let (dx, dy) = ((x - 0.5) / width, (y - centre) / height);
            let distance = dx.abs().powf(exponent) + dy.abs().powf(exponent);
            let shadow = ((x - 0.56) / (width * 1.3)).powi(2) + ((y - 0.76) / 0.05).powi(2);
            let is_hole = ring && distance < 0.22;
            let pixel = if distance < 1.0 && !is_hole {
                // Light from the left and above.
                let light = (1.05 - 0.28 * (dx + dy) - 0.25 * distance).clamp(0.45, 1.2);
                let gloss = (1.0 - ((dx + 0.4).powi(2) + (dy + 0.45).powi(2)) * 9.0).max(0.0) * 0.5;
                object.map(|part| part * light + gloss)
            } else if shadow < 1.0 {
                table.map(|part| part * (0.7 + 0.3 * shadow))
            } else if y > 0.68 {
                table.map(|part| part * (1.0 - 0.15 * (y - 0.68)))
            } else {
                wall.map(|part| part * (1.0 - 0.18 * (x - 0.3).hypot(y - 0.2)))
            };
            pixels.extend(pixel.map(byte));
        }
    }
    encode(&pixels)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
fn byte(part: f32) -> u8 {
    (part * 255.0).clamp(0.0, 255.0) as u8
}

/// Red, green and blue of a hue; 0 and 1 are red.
fn colour(hue: f32, saturation: f32, value: f32) -> [f32; 3] {
    [0.0, 2.0 / 3.0, 1.0 / 3.0].map(|shift| {
        let ramp = (((hue + shift).fract() * 6.0 - 3.0).abs() - 1.0).clamp(0.0, 1.0);
        value * (1.0 - saturation + saturation * ramp)
    })
}

/// A PNG file of [`SIZE`] rows.
fn encode(pixels: &[u8]) -> Vec<u8> {
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory does not fail.
    let _ = deflate.write_all(pixels);
    let side = u32::from(SIZE).to_be_bytes();
    // Eight bits each of red, green and blue.
    let header = [&side[..], &side, &[8, 2, 0, 0, 0]].concat();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in
        [(b"IHDR", header), (b"IDAT", deflate.finish().unwrap_or_default()), (b"IEND", Vec::new())]
    {
        let chunk = [&kind[..], &data].concat();
        file.extend(length(&data).to_be_bytes());
        file.extend(&chunk);
        file.extend(crc32fast::hash(&chunk).to_be_bytes());
    }
    file
}

fn length(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(u32::MAX)
}

/// Eight notes of a pentatonic scale, two seconds in total: 16 bits, one channel.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "the rate and the samples are small"
)]
fn wav(digest: &[u8; 32]) -> Vec<u8> {
    const NOTES: [f32; 6] = [220.0, 261.6, 293.7, 329.6, 392.0, 440.0];
    let mut samples = Vec::new();
    for note in &digest[..8] {
        let frequency = NOTES[usize::from(*note) % NOTES.len()];
        for n in 0..RATE as u16 / 4 {
            let second = f32::from(n) / RATE as f32;
            let fading = (1.0 - second * 4.0) * (second * 200.0).min(1.0);
            let sample = (second * frequency * std::f32::consts::TAU).sin() * fading * 12_000.0;
            samples.extend((sample as i16).to_le_bytes());
        }
    }
    let mut file = b"RIFF".to_vec();
    file.extend((36 + length(&samples)).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(RATE.to_le_bytes());
    file.extend((RATE * 2).to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend(length(&samples).to_le_bytes());
    file.extend(samples);
    file
}
