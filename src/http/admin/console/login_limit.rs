//! Limits failed attempts to log in, for each client address and in total.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use axum::http::HeaderMap;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Failures are counted in periods of this length. A period begins with its first failure.
const PERIOD: Duration = Duration::from_mins(1);
/// Failures of one address. An IPv6 address counts with its whole /64 network.
const MAX_OF_ADDRESS: u32 = 10;
/// Failures of all addresses together.
const MAX_IN_TOTAL: u32 = 200;
/// Addresses in memory.
const MAX_ADDRESSES: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct LoginLimit(Mutex<Failures>);

#[derive(Debug, Default)]
struct Failures {
    /// By address, or by the network of an IPv6 address.
    by_network: HashMap<IpAddr, Window>,
    in_total: Option<Window>,
}

/// The failures since `start`.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: Instant,
    failures: u32,
}

impl Window {
    fn is_over(self, now: Instant) -> bool {
        now >= self.start + PERIOD
    }

    fn add(window: Option<Self>, now: Instant) -> Self {
        match window.filter(|window| !window.is_over(now)) {
            Some(window) => Self { failures: window.failures + 1, ..window },
            None => Self { start: now, failures: 1 },
        }
    }

    /// The time until the limit allows another attempt.
    fn left(self, max: u32, now: Instant) -> Option<Duration> {
        let left = (self.start + PERIOD).saturating_duration_since(now);
        (self.failures >= max && !left.is_zero()).then_some(left)
    }
}

impl LoginLimit {
    /// How long the address has to wait before its next attempt; `None` if it may try now.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let failures = self.0.lock();
        let of_address =
            failures.by_network.get(&network(address)).and_then(|window| window.left(MAX_OF_ADDRESS, now));
        of_address.max(failures.in_total.and_then(|window| window.left(MAX_IN_TOTAL, now)))
    }

    pub(super) fn failed(&self, address: IpAddr, now: Instant) {
        let mut failures = self.0.lock();
        let Failures { by_network, in_total } = &mut *failures;
        *in_total = Some(Window::add(*in_total, now));
        let network = network(address);
        if by_network.len() >= MAX_ADDRESSES && !by_network.contains_key(&network) {
            by_network.retain(|_, window| !window.is_over(now));
            let oldest =
                by_network.iter().min_by_key(|(_, window)| window.start).map(|(address, _)| *address);
            if let Some(oldest) = oldest.filter(|_| by_network.len() >= MAX_ADDRESSES) {
                by_network.remove(&oldest);
            }
        }
        let window = Window::add(by_network.get(&network).copied(), now);
        by_network.insert(network, window);
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// The address of a client. If `peer` is on this machine or in a private network, it may be a proxy: then the last address of
/// `X-Forwarded-For` counts, which the proxy has added.
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let may_be_proxy = match peer.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_private(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    };
    let forwarded = headers.get_all("x-forwarded-for").into_iter().next_back();
    let forwarded = forwarded.and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
    forwarded.filter(|_| may_be_proxy).unwrap_or(peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_waits_after_ten_failures_and_others_do_not() {
        let (limit, start) = (LoginLimit::default(), Instant::now());
        let [one, other]: [IpAddr; 2] = ["2001:db8::1", "192.0.2.1"].map(|address| address.parse().unwrap());
        for _ in 0..MAX_OF_ADDRESS {
            assert_eq!(limit.wait(one, start), None);
            limit.failed(one, start);
        }
        let later = start + Duration::from_secs(20);
        assert_eq!(limit.wait(one, later), Some(Duration::from_secs(40)));
        assert!(limit.wait("2001:db8::ffff".parse().unwrap(), later).is_some(), "the same network");
        assert_eq!(limit.wait(other, later), None);
        assert_eq!(limit.wait(one, start + PERIOD), None);
    }

    #[test]
    fn the_total_is_limited_and_memory_is_bounded() {
        let (limit, start) = (LoginLimit::default(), Instant::now());
        let address = |n: usize| IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
        for n in 0..3 * MAX_ADDRESSES {
            limit.failed(address(n), start + Duration::from_millis(u64::try_from(n).unwrap()));
        }
        assert_eq!(limit.0.lock().by_network.len(), MAX_ADDRESSES);
        assert!(
            limit.wait(address(999_999), start + Duration::from_secs(5)).is_some(),
            "the total is reached"
        );
        assert_eq!(limit.wait(address(999_999), start + PERIOD), None);
    }

    #[test]
    fn the_address_behind_a_proxy_is_the_one_that_the_proxy_has_added() {
        let address = |peer: &str, forwarded: &'static str| {
            let headers =
                HeaderMap::from_iter([("x-forwarded-for".parse().unwrap(), forwarded.parse().unwrap())]);
            client_address(peer.parse().unwrap(), &headers).to_string()
        };
        assert_eq!(address("127.0.0.1", "203.0.113.9, 192.0.2.1"), "192.0.2.1");
        assert_eq!(address("::ffff:10.0.0.2", "192.0.2.1"), "192.0.2.1");
        assert_eq!(address("10.0.0.2", "unknown"), "10.0.0.2");
        assert_eq!(address("198.51.100.7", "192.0.2.1"), "198.51.100.7");
    }
}
