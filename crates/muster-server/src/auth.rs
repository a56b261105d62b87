//! Who asks: bearer tokens, and how often an address may show wrong ones.
//!
//! Stays true: identity comes from the token alone, never from another header; a token is checked at every request; a
//! good token is let in from an address that is shut out for wrong ones. Not here: what a token allows (`rest`).

use http::{HeaderMap, header};
use muster_core::Timestamp;
use muster_engine::Engine;
use muster_engine::access::Principal;
use muster_store::StoreError;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes of a token, at most.
const TOKEN_BYTES_MAX: usize = 512;
/// Addresses and tokens that are remembered, at most.
const REMEMBERED_MAX: usize = 10_000;
/// The time over which wrong tokens are counted.
const WINDOW: Duration = Duration::from_mins(1);

/// Why somebody is not let in.
#[derive(Debug)]
pub(crate) enum Denied {
    /// There is no token, or it is not written as one.
    Missing(&'static str),
    /// The token is not known, or has lapsed.
    Wrong,
    /// The address has shown too many wrong ones.
    TooMany(Duration),
    /// The database could not be asked.
    Store(StoreError),
}

/// Checks tokens and counts wrong ones.
#[derive(Debug)]
pub(crate) struct Gate {
    wrong_per_minute: u32,
    wrong: Mutex<HashMap<IpAddr, Count>>,
    /// Hashes of tokens that were good once. They are checked again all the same, but are not shut out.
    good: Mutex<HashSet<[u8; 32]>>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    since: Timestamp,
    wrong: u32,
}

impl Gate {
    pub(crate) fn new(wrong_per_minute: u32) -> Self {
        Self { wrong_per_minute, wrong: Mutex::default(), good: Mutex::default() }
    }

    /// Finds out who asks from `address`.
    pub(crate) async fn check(
        &self,
        engine: &Engine,
        headers: &HeaderMap,
        address: IpAddr,
        now: Timestamp,
    ) -> Result<Principal, Denied> {
        let token = bearer(headers)?;
        self.may_try(token, address, now).map_err(Denied::TooMany)?;
        let principal = engine.token_check(token).await.map_err(Denied::Store)?;
        self.tried(token, address, principal.is_some(), now);
        principal.ok_or(Denied::Wrong)
    }

    /// Says whether `secret` may be tried from `address`, or how long that address is shut out still.
    pub(crate) fn may_try(&self, secret: &str, address: IpAddr, now: Timestamp) -> Result<(), Duration> {
        let hash: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        if lock(&self.good).contains(&hash) {
            return Ok(());
        }
        self.shut_out(network(address), now).map_or(Ok(()), Err)
    }

    /// Notes what came of trying `secret` from `address`.
    pub(crate) fn tried(&self, secret: &str, address: IpAddr, is_good: bool, now: Timestamp) {
        self.note(Sha256::digest(secret.as_bytes()).into(), network(address), is_good, now);
    }

    /// Returns how long `network` is shut out still.
    fn shut_out(&self, network: IpAddr, now: Timestamp) -> Option<Duration> {
        let count = lock(&self.wrong).get(&network).copied()?;
        let left = WINDOW.checked_sub(now.since(count.since)).filter(|left| !left.is_zero())?;
        (count.wrong >= self.wrong_per_minute).then_some(left)
    }

    fn note(&self, hash: [u8; 32], network: IpAddr, is_good: bool, now: Timestamp) {
        let mut good = lock(&self.good);
        if is_good {
            if good.len() >= REMEMBERED_MAX {
                good.clear();
            }
            good.insert(hash);
            return;
        }
        good.remove(&hash);
        metrics::counter!("muster_rest_tokens_refused_total").increment(1);
        let mut wrong = lock(&self.wrong);
        if wrong.len() >= REMEMBERED_MAX {
            wrong.retain(|_, count| now.since(count.since) < WINDOW);
        }
        if wrong.len() >= REMEMBERED_MAX {
            return;
        }
        let count = wrong.entry(network).or_insert(Count { since: now, wrong: 0 });
        if now.since(count.since) >= WINDOW {
            *count = Count { since: now, wrong: 0 };
        }
        count.wrong = count.wrong.saturating_add(1);
    }
}

/// What counts as one address: an IPv4 address, or an IPv6 /64, which one machine has as a whole.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Takes the token from the one header that may carry it.
fn bearer(headers: &HeaderMap) -> Result<&str, Denied> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value,
        (None, _) => return Err(Denied::Missing("a token is needed: send the header `authorization: Bearer TOKEN`")),
        _ => return Err(Denied::Missing("the header `authorization` came twice, send one")),
    };
    let malformed = Denied::Missing("the header `authorization` must be `Bearer TOKEN`");
    let Some((scheme, token)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else {
        return Err(malformed);
    };
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > TOKEN_BYTES_MAX {
        return Err(malformed);
    }
    Ok(token)
}

/// Locks, whatever became of the last holder: what is guarded here is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (header::AUTHORIZATION, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_token_comes_in_one_header_only() {
        assert_eq!(bearer(&headers(&["Bearer abc"])).unwrap(), "abc");
        assert_eq!(bearer(&headers(&["bearer abc"])).unwrap(), "abc");
        for values in [&[][..], &["Bearer a", "Bearer b"], &["Basic YTpi"], &["Bearer"], &["Bearer "]] {
            assert!(matches!(bearer(&headers(values)), Err(Denied::Missing(_))), "{values:?}");
        }
    }

    #[test]
    fn wrong_tokens_shut_an_address_out_for_the_rest_of_the_minute() {
        let gate = Gate::new(2);
        let (here, there): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let at = Timestamp::from_secs;
        gate.note([1; 32], here, false, at(0));
        assert_eq!(gate.shut_out(here, at(1)), None);
        gate.note([2; 32], here, false, at(10));
        assert_eq!(gate.shut_out(here, at(20)), Some(Duration::from_secs(40)));
        assert_eq!(gate.shut_out(there, at(20)), None);
        assert_eq!(gate.shut_out(here, at(60)), None);
        gate.note([3; 32], here, false, at(61));
        assert_eq!(gate.shut_out(here, at(62)), None);
    }

    #[test]
    fn one_machine_is_one_address() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let gate = Gate::new(1);
        for index in 0..u32::try_from(REMEMBERED_MAX).unwrap() + 5 {
            gate.note([0; 32], IpAddr::V4(index.into()), false, Timestamp::EPOCH);
        }
        assert_eq!(lock(&gate.wrong).len(), REMEMBERED_MAX);
    }
}
