//! Who asks: bearer tokens, and how often an address may show wrong ones.
//!
//! Stays true: identity comes from the token alone, never from another header; a token is checked at every request; a
//! good token is let in from an address that is shut out for wrong ones, also one that was never shown before: behind one
//! address are many. Not here: what a token allows (`rest`).

use http::{HeaderMap, header};
use muster_core::Timestamp;
use muster_engine::Engine;
use muster_engine::access::{Freshness, Principal};
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

/// Tokens never shown before that are still checked a second for an address that is shut out. Who guesses gets no further
/// with so many, and who is let in by right does not wait behind a program that shows a wrong one again and again.
const TRIES_PER_SECOND: u32 = 20;

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
    /// Hashes of tokens that were wrong, and when: from an address that is shut out they are not checked again.
    bad: Mutex<HashMap<[u8; 32], Timestamp>>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    since: Timestamp,
    wrong: u32,
    /// The second in which tokens were checked although the address is shut out, and how many.
    second: i64,
    tries: u32,
}

impl Count {
    fn new(since: Timestamp) -> Self {
        Self { since, wrong: 0, second: 0, tries: 0 }
    }
}

impl Gate {
    pub(crate) fn new(wrong_per_minute: u32) -> Self {
        Self { wrong_per_minute, wrong: Mutex::default(), good: Mutex::default(), bad: Mutex::default() }
    }

    /// Finds out who asks from `address` at `now`.
    pub(crate) async fn check(
        &self,
        engine: &Engine,
        headers: &HeaderMap,
        (address, now): (IpAddr, Timestamp),
        freshness: Freshness,
    ) -> Result<Principal, Denied> {
        let token = bearer(headers)?;
        self.may_try(token, address, now).map_err(Denied::TooMany)?;
        let principal = engine.token_check(token, freshness).await.map_err(Denied::Store)?;
        let shut_out = self.tried(token, address, principal.is_some(), now);
        principal.ok_or_else(|| shut_out.map_or(Denied::Wrong, Denied::TooMany))
    }

    /// Says whether `secret` may be tried from `address`, or how long that address is shut out still.
    pub(crate) fn may_try(&self, secret: &str, address: IpAddr, now: Timestamp) -> Result<(), Duration> {
        let hash: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        if lock(&self.good).contains(&hash) {
            return Ok(());
        }
        let network = network(address);
        let Some(left) = self.shut_out(network, now) else { return Ok(()) };
        let is_known = lock(&self.bad).get(&hash).is_some_and(|at| now.since(*at) < WINDOW);
        if !is_known && self.may_try_once_more(network, now) { Ok(()) } else { Err(left) }
    }

    /// Notes what came of trying `secret` from `address`; returns how long that address was shut out already.
    pub(crate) fn tried(&self, secret: &str, address: IpAddr, is_good: bool, now: Timestamp) -> Option<Duration> {
        let network = network(address);
        let shut_out = self.shut_out(network, now).filter(|_| !is_good);
        self.note(Sha256::digest(secret.as_bytes()).into(), network, is_good, now);
        shut_out
    }

    /// Counts a token that is checked although the address is shut out; `false` when there were enough in this second.
    fn may_try_once_more(&self, network: IpAddr, now: Timestamp) -> bool {
        let (second, _) = now.to_parts();
        let mut wrong = lock(&self.wrong);
        let Some(count) = wrong.get_mut(&network) else { return true };
        if count.second != second {
            (count.second, count.tries) = (second, 0);
        }
        count.tries = count.tries.saturating_add(1);
        count.tries <= TRIES_PER_SECOND
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
        drop(good);
        self.remember_bad(hash, now);
        metrics::counter!("muster_rest_tokens_refused_total").increment(1);
        let mut wrong = lock(&self.wrong);
        if wrong.len() >= REMEMBERED_MAX {
            wrong.retain(|_, count| now.since(count.since) < WINDOW);
        }
        if wrong.len() >= REMEMBERED_MAX {
            return;
        }
        let count = wrong.entry(network).or_insert(Count::new(now));
        if now.since(count.since) >= WINDOW {
            *count = Count::new(now);
        }
        count.wrong = count.wrong.saturating_add(1);
    }

    fn remember_bad(&self, hash: [u8; 32], now: Timestamp) {
        let mut bad = lock(&self.bad);
        if bad.len() >= REMEMBERED_MAX {
            bad.retain(|_, at| now.since(*at) < WINDOW);
        }
        if bad.len() >= REMEMBERED_MAX {
            bad.clear();
        }
        bad.insert(hash, now);
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
    fn wrong_tokens_of_one_do_not_lock_others_behind_the_same_address_out() {
        let gate = Gate::new(2);
        let here: IpAddr = "10.0.0.1".parse().unwrap();
        let at = Timestamp::from_secs;
        for (n, wrong) in ["a", "b", "a"].into_iter().enumerate() {
            let second = i64::try_from(n).unwrap();
            let shut_out = gate.tried(wrong, here, false, at(second));
            assert_eq!(shut_out.is_some(), n == 2, "{wrong} is told when the address is shut out");
        }
        assert_eq!(gate.may_try("a", here, at(5)), Err(Duration::from_secs(55)), "what was wrong is not checked again");
        assert_eq!(gate.may_try("never shown before", here, at(5)), Ok(()), "it may be somebody else's");
        assert_eq!(gate.tried("never shown before", here, true, at(5)), None);
        assert_eq!(gate.may_try("never shown before", here, at(6)), Ok(()));
        let checked = (0..100).filter(|n| gate.may_try(&format!("guess {n}"), here, at(7)).is_ok()).count();
        assert_eq!(checked, 20, "guessing has a ceiling");
        assert_eq!(gate.may_try("guess", here, at(8)), Ok(()), "and the next second is another");
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
