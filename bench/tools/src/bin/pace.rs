//! Sends webhooks at a constant rate over keep-alive connections. The latency of a webhook is measured from the time at
//! which it is due, so it includes the wait for a late earlier response (no coordinated omission). Prints one line of JSON.
//!
//! usage: pace ADDRESS RATE SECONDS CONNECTIONS BULK, with bulks of BULK executions

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use polling::{Event, Events, PollMode, Poller};

/// The body size of load.lua.
const BODY_BYTES: usize = 672;
/// Time limit for responses after the last webhook was due.
const PATIENCE: Duration = Duration::from_secs(20);

struct Connection {
    stream: TcpStream,
    due: Instant,
    answer: Vec<u8>,
}

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, address, rate, seconds, connections, bulk] = args.as_slice() else {
        panic!("usage: pace ADDRESS RATE SECONDS CONNECTIONS BULK");
    };
    let number = |text: &String| text.parse::<f64>().expect("a number");
    let (rate, seconds, bulk) = (number(rate), number(seconds), number(bulk) as u64);
    let total = (rate * seconds) as u64;

    let poller = Poller::new()?;
    let mut all = Vec::new();
    for key in 0..number(connections) as usize {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        // SAFETY: `all` keeps the stream until the process ends.
        unsafe { poller.add_with_mode(&stream, Event::readable(key), PollMode::Level)? };
        all.push(Connection { stream, due: Instant::now(), answer: Vec::with_capacity(1024) });
    }
    let mut idle: Vec<usize> = (0..all.len()).collect();

    let run = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let mut request = Vec::with_capacity(1024);
    let mut micros: Vec<u32> = Vec::with_capacity(total as usize);
    let (mut sent, mut answered, mut refused) = (0, 0, 0);
    let mut events = Events::new();
    let begun = Instant::now();
    let due = |n: u64| begun + Duration::from_secs_f64(n as f64 / rate);
    let give_up = due(total) + PATIENCE;

    while answered < total && Instant::now() < give_up {
        while sent < total && due(sent) <= Instant::now() {
            let Some(key) = idle.pop() else { break };
            write_request(&mut request, run, sent, bulk);
            all[key].due = due(sent);
            all[key].stream.write_all(&request)?;
            sent += 1;
        }
        let next = if sent < total && !idle.is_empty() { due(sent) } else { give_up };
        events.clear();
        poller.wait(&mut events, Some(next.saturating_duration_since(Instant::now())))?;
        for event in events.iter() {
            let connection = &mut all[event.key];
            if let Some(status) = read_answer(connection)? {
                micros.push(connection.due.elapsed().as_micros() as u32);
                answered += 1;
                refused += u64::from(status != 200);
                idle.push(event.key);
            }
        }
    }

    let took = begun.elapsed().as_secs_f64();
    // Webhooks that were due and got no response count as the slowest.
    micros.resize(total as usize, u32::MAX);
    micros.sort_unstable();
    let at = |share: f64| f64::from(micros[((total as f64 * share) as usize).min(micros.len() - 1)]) / 1000.0;
    println!(
        r#"{{"requests":{answered},"seconds":{took:.3},"errors":{},"p50":{},"p99":{},"p999":{}}}"#,
        refused + total - answered,
        at(0.5),
        at(0.99),
        at(0.999)
    );
    Ok(())
}

fn write_request(request: &mut Vec<u8>, run: u64, n: u64, bulk: u64) {
    let (id, bulk_id) = (uuid(run, n), uuid(run ^ 0xb, n / bulk));
    let head = format!(
        r#"{{"execution_id":"{id}","workflow_id":"50741f40-8621-4d46-8a91-dff4d873be98","bulk_id":"{bulk_id}","status":"completed","output":["https://storage.googleapis.com/uploads/image.png"],"inputs":{{"prompt":""#
    );
    let fill = "x".repeat(BODY_BYTES - head.len() - 3);
    request.clear();
    write!(
        request,
        "POST /webhooks/workflow-completed HTTP/1.1\r\nHost: bench\r\nContent-Length: {BODY_BYTES}\r\n\r\n{head}{fill}\"}}}}"
    )
    .expect("writing to memory");
}

/// Unique for every `n`, and random, as the sender's ids are. Random ids make index updates expensive.
fn uuid(run: u64, n: u64) -> String {
    let mixed = n.wrapping_add(run).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{n:012x}",
        mixed >> 32,
        run >> 48,
        (run >> 36) & 0xfff,
        (run >> 24) & 0xfff
    )
}

/// The status, once the response is complete.
fn read_answer(connection: &mut Connection) -> std::io::Result<Option<u16>> {
    let mut chunk = [0; 4096];
    match connection.stream.read(&mut chunk) {
        Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
        Ok(read) => connection.answer.extend_from_slice(&chunk[..read]),
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    }
    let text = String::from_utf8_lossy(&connection.answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if body.len() < length.unwrap_or(0) {
        return Ok(None);
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    connection.answer.clear();
    Ok(Some(status))
}
