//! What the server asked of this machine without a signature, and what became of it.
//!
//! Stays true: what [`ServerMay`] does not allow is not done; rates count over restarts of the agent, because what is
//! done is on the disk before it is done; a demand for a new key that comes again makes no second one, however many
//! messages came between; what is kept is bounded, however much is asked, and what a rate needs is never dropped for it.
//! Not here: doing it.

use crate::durable::{self, Sync};
use crate::server_may::{Absence, Allowance, COUNT_MAX, ServerMay};
use muster_core::{AgentId, Clock, Timestamp, limits, text};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The file in the state directory.
const FILE: &str = "requests.json";
/// What the rate of a service's restarts is kept under, before the service's name.
const RESTART: &str = "restart ";
/// Requests kept for whoever looks at the machine.
const LATEST_MAX: usize = 50;
/// Demands for a new key of which is remembered what came of them. One that is older is another demand, and counts as such.
const DEMANDS_MAX: usize = 16;

/// What a server asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// Stop and start a service of this machine.
    Restart(String),
    /// Make a new key.
    Rekey {
        /// The id of the message: one that comes again is no other demand.
        demand: Vec<u8>,
        /// The machine's present id.
        from: AgentId,
    },
    /// End the agent.
    Die,
}

impl Request {
    fn words(&self) -> String {
        match self {
            Self::Restart(service) => format!("restart service {service}"),
            Self::Rekey { .. } => "make a new key".to_owned(),
            Self::Die => "end the agent".to_owned(),
        }
    }
}

/// What is to be done about a request that is not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decided {
    /// It is to be done.
    Do,
    /// It was done before, and there is nothing more to do.
    DoneBefore,
}

/// A demand for a new key, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Demand {
    /// The message, in hexadecimal.
    message: String,
    /// The machine's id when it was allowed.
    from: String,
    /// The id of the new key; `None` until there is one.
    to: Option<String>,
}

/// A request that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// When, the last time of several.
    pub(crate) at: Timestamp,
    /// What was asked.
    pub(crate) request: String,
    /// Why it was not done; `None` when it was.
    pub(crate) refused: Option<String>,
    /// How often in a row.
    pub(crate) times: u64,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
struct Content {
    /// When what was done, for the rates.
    done: BTreeMap<String, Vec<Timestamp>>,
    /// The latest demands for a new key that were allowed, the oldest first.
    demands: VecDeque<Demand>,
    latest: VecDeque<Asked>,
}

/// Reads the requests that are kept in `directory`, newest first.
pub(crate) fn read(directory: &Path) -> Vec<Asked> {
    content(&directory.join(FILE)).map(|content| content.latest.into_iter().rev().collect()).unwrap_or_default()
}

fn content(path: &Path) -> Option<Content> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Decides about requests, and keeps them.
#[derive(Debug)]
pub(crate) struct RequestBook {
    path: PathBuf,
    may: ServerMay,
    clock: Arc<dyn Clock>,
    content: Mutex<Content>,
}

impl RequestBook {
    /// Goes on with what an earlier life wrote. A damaged file is as none: what was done before does not count then.
    pub(crate) fn open(directory: &Path, may: ServerMay, clock: Arc<dyn Clock>) -> Self {
        let path = directory.join(FILE);
        let content = Mutex::new(content(&path).unwrap_or_default());
        Self { path, may, clock, content }
    }

    /// Decides about a request. When this returns [`Decided::Do`], it is on the disk, and to be done. The error says why not.
    pub(crate) fn decide(&self, request: &Request) -> Result<Decided, String> {
        let now = self.clock.now();
        let mut content = self.content();
        if let Request::Rekey { demand, from } = request
            && let Some(known) = content.demand(demand)
        {
            return Ok(if known.is_unfinished(*from) { Decided::Do } else { Decided::DoneBefore });
        }
        let (key, allowance) = match request {
            Request::Restart(service) => (format!("{RESTART}{service}"), &self.may.restart_services),
            Request::Rekey { .. } => ("rekey".to_owned(), &self.may.rekey),
            Request::Die if self.may.die == Absence::None => ("die".to_owned(), &Allowance::Never),
            Request::Die => ("die".to_owned(), &Allowance::Always),
        };
        let done = content.done.get(&key).map_or(&[][..], Vec::as_slice);
        let decided = decide(allowance, done, now).and_then(|()| content.make_room(&key, allowance, now));
        if let Err(reason) = decided {
            self.refuse(&mut content, request, now, &reason);
            return Err(reason);
        }
        let before = content.clone();
        content.done(key, now);
        if let Request::Rekey { demand, from } = request {
            content.allow(demand, *from);
        }
        content.note(request, now, None);
        if let Err(error) = self.write(&content, Sync::Power) {
            *content = before;
            let reason = format!("it cannot be written that this was done ({error}), so it is not done");
            tracing::error!("the server asks to {}: {reason}", request.words());
            return Err(reason);
        }
        tracing::warn!("the server asks to {} without a signature; it is done", request.words());
        Ok(Decided::Do)
    }

    /// Keeps that a request is refused. However often it is asked, it is written and logged now and then only.
    fn refuse(&self, content: &mut Content, request: &Request, now: Timestamp, reason: &str) {
        let times = content.note(request, now, Some(reason.to_owned()));
        if !times.is_power_of_two() {
            return;
        }
        let words = request.words();
        tracing::warn!(times, "the server asks to {words} without a signature; it is refused: {reason}");
        if let Err(error) = self.write(content, Sync::Process) {
            tracing::warn!(%error, path = %self.path.display(), "cannot write what the server asked");
        }
    }

    /// Whether a demand that was allowed, by a machine that is `from` now, has led to no new key yet.
    pub(crate) fn is_unfinished(&self, demand: &[u8], from: AgentId) -> bool {
        self.content().demand(demand).is_none_or(|known| known.is_unfinished(from))
    }

    /// Keeps that a demand led to the key of `to`, so that it leads to no other.
    pub(crate) fn rekeyed(&self, demand: &[u8], to: AgentId) {
        let mut content = self.content();
        if let Some(known) = content.demands.iter_mut().find(|known| known.message == hex::encode(demand)) {
            known.to = Some(to.to_string());
        }
        self.write_demands(&content);
    }

    /// Ends what a crash left open: a machine that is not any more what it was when a demand was allowed has made the key.
    pub(crate) fn recover(&self, present: AgentId) {
        let mut content = self.content();
        let mut is_changed = false;
        for known in &mut content.demands {
            if known.to.is_none() && known.from != present.to_string() {
                (known.to, is_changed) = (Some(present.to_string()), true);
            }
        }
        if is_changed {
            self.write_demands(&content);
        }
    }

    fn write_demands(&self, content: &Content) {
        if let Err(error) = self.write(content, Sync::Power) {
            tracing::error!(%error, path = %self.path.display(), "cannot write what came of the demand for a new key");
        }
    }

    /// How long the agent stays away when it ends at the server's word.
    pub(crate) fn absence(&self) -> Absence {
        self.may.die
    }

    fn write(&self, content: &Content, sync: Sync) -> io::Result<()> {
        durable::replace(&self.path, &serde_json::to_vec(content).expect("text and numbers are JSON"), sync)
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Demand {
    /// Whether a machine that is `from` now has made no key for it: it is the one that it was, and of no key is known.
    fn is_unfinished(&self, from: AgentId) -> bool {
        self.to.is_none() && self.from == from.to_string()
    }
}

impl Content {
    /// Returns what is remembered of a demand. Of one without a name nobody knows whether it is another.
    fn demand(&self, demand: &[u8]) -> Option<&Demand> {
        let message = hex::encode(demand);
        self.demands.iter().find(|known| !demand.is_empty() && known.message == message)
    }

    /// Keeps that a demand is allowed.
    fn allow(&mut self, demand: &[u8], from: AgentId) {
        if demand.is_empty() {
            return;
        }
        self.demands.push_back(Demand { message: hex::encode(demand), from: from.to_string(), to: None });
        if self.demands.len() > DEMANDS_MAX {
            self.demands.pop_front();
        }
    }

    /// Makes room for one more thing that is done. Only what no rate needs any more is dropped for it.
    fn make_room(&mut self, key: &str, allowance: &Allowance, now: Timestamp) -> Result<(), String> {
        if self.done.len() < limits::CONTACT_SERVICES_MAX || self.done.contains_key(key) {
            return Ok(());
        }
        let longest = match allowance {
            Allowance::Rates(rates) => rates.iter().map(|rate| rate.within.0).max().unwrap_or_default(),
            Allowance::Always | Allowance::Never => std::time::Duration::ZERO,
        };
        let counts = |at: &Timestamp| apart(*at, now) < longest;
        self.done.retain(|key, times| !key.starts_with(RESTART) || times.iter().any(counts));
        if self.done.len() < limits::CONTACT_SERVICES_MAX {
            return Ok(());
        }
        Err("so many services were restarted lately that no more can be counted".to_owned())
    }

    /// Keeps that something was done.
    fn done(&mut self, key: String, now: Timestamp) {
        let times = self.done.entry(key).or_default();
        times.push(now);
        // More than the largest rate allows are not needed.
        times.drain(..times.len().saturating_sub(COUNT_MAX));
    }

    /// Keeps a request for whoever looks. Returns how often it was made in a row.
    fn note(&mut self, request: &Request, at: Timestamp, refused: Option<String>) -> u64 {
        let request = text::cut(&text::plain(&request.words()), 200);
        if let Some(last) = self.latest.back_mut()
            && last.request == request
            && last.refused.is_some() == refused.is_some()
        {
            (last.at, last.refused, last.times) = (at, refused, last.times.saturating_add(1));
            return last.times;
        }
        self.latest.push_back(Asked { at, request, refused, times: 1 });
        if self.latest.len() > LATEST_MAX {
            self.latest.pop_front();
        }
        1
    }
}

/// How far two moments are from each other.
fn apart(one: Timestamp, other: Timestamp) -> std::time::Duration {
    one.since(other).max(other.since(one))
}

/// Decides whether something may be done once more. `done` are the times when it was.
fn decide(allowance: &Allowance, done: &[Timestamp], now: Timestamp) -> Result<(), String> {
    let rates = match allowance {
        Allowance::Always => return Ok(()),
        Allowance::Never => return Err("this machine's configuration forbids it (server_may)".to_owned()),
        Allowance::Rates(rates) => rates,
    };
    for rate in rates {
        // Times in the future come from a clock that was wrong, now or then: near ones count, far ones would for ever.
        let recent: Vec<_> = done.iter().filter(|at| apart(**at, now) < rate.within.0).collect();
        if recent.len() >= rate.count {
            return Err(format!(
                "this machine's configuration allows {} (server_may), and it was done {} times in that time",
                Allowance::Rates(vec![*rate]),
                recent.len()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::tests::SetClock;

    const START: i64 = 1_800_000_000;
    const X: AgentId = AgentId::from_bytes([1; 8]);
    const Y: AgentId = AgentId::from_bytes([2; 8]);

    fn rekey(demand: &[u8], from: AgentId) -> Request {
        Request::Rekey { demand: demand.to_vec(), from }
    }

    #[test]
    fn rates_count_over_restarts_of_the_agent_and_each_service_has_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let clock = SetClock::at(START);
        let open = || RequestBook::open(directory.path(), ServerMay::default(), clock.clone());
        let restart = |book: &RequestBook, service: &str| book.decide(&Request::Restart(service.into()));
        let book = open();
        assert_eq!(restart(&book, "a"), Ok(Decided::Do));
        for _ in 0..100 {
            assert!(restart(&book, "a").unwrap_err().contains("1 per 1m"));
        }
        assert_eq!(restart(&book, "b"), Ok(Decided::Do));
        let book = open();
        assert!(restart(&book, "a").is_err() && restart(&book, "b").is_err());
        let done = (1..600).filter(|second| {
            clock.set(START + second * 6);
            restart(&book, "a").is_ok()
        });
        assert_eq!(done.count(), 5, "six in an hour, of which one was before");
        assert_eq!(book.decide(&rekey(&[1], X)), Ok(Decided::Do));
        assert!(book.decide(&rekey(&[2], X)).unwrap_err().contains("1 per 24h"));
        // Without a name nobody knows whether it is another one.
        assert!(book.decide(&rekey(&[], X)).is_err());
        // The agent ended before it was done, and the demand comes again.
        assert_eq!(open().decide(&rekey(&[1], X)), Ok(Decided::Do));
        clock.set(START + 3600 + 86_400);
        assert_eq!(book.decide(&rekey(&[3], X)), Ok(Decided::Do));
        let kept = read(directory.path());
        assert!(kept.len() <= LATEST_MAX && kept[0].request == "make a new key" && kept[0].refused.is_none());
        // A clock that was set back by years makes nothing wait for years.
        clock.set(START - 400_000_000);
        assert_eq!(book.decide(&rekey(&[4], X)), Ok(Decided::Do));
    }

    #[test]
    fn what_is_forbidden_is_never_done_and_however_much_is_asked_little_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let may = ServerMay { restart_services: Allowance::Never, rekey: Allowance::Never, die: Absence::None };
        let book = RequestBook::open(directory.path(), may, SetClock::at(START));
        for number in 0..2000 {
            let service = format!("s{}\u{1b}", number % 300);
            for request in [Request::Restart(service), rekey(&[7; 32], X), Request::Die] {
                assert!(book.decide(&request).unwrap_err().contains("forbids"), "{request:?}");
            }
        }
        let kept = read(directory.path());
        assert_eq!(kept.len(), LATEST_MAX);
        assert!(kept.iter().all(|asked| asked.refused.is_some() && !asked.request.contains('\u{1b}')));
        let may = ServerMay { restart_services: Allowance::Always, ..ServerMay::default() };
        let book = RequestBook::open(directory.path(), may, SetClock::at(START));
        for number in 0..3000 {
            book.decide(&Request::Restart(format!("s{number}"))).unwrap();
        }
        assert!(book.content().done.len() <= limits::CONTACT_SERVICES_MAX);
    }

    #[test]
    fn a_demand_that_comes_again_makes_no_second_key_whatever_came_between_and_a_cut_one_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let clock = SetClock::at(START);
        let open = || RequestBook::open(directory.path(), ServerMay::default(), clock.clone());
        let book = open();
        assert_eq!(book.decide(&rekey(&[1], X)), Ok(Decided::Do));
        // The agent ended before there was a key.
        let book = open();
        book.recover(X);
        assert!(book.is_unfinished(&[1], X));
        assert_eq!(book.decide(&rekey(&[1], X)), Ok(Decided::Do));
        book.rekeyed(&[1], Y);
        // The same demand after thousands of others, later, after a restart, and after the machine went back to its old key.
        for from in [Y, X] {
            for book in [&book, &open()] {
                for second in [0, 60, 2 * 86_400] {
                    clock.set(START + second);
                    assert_eq!(book.decide(&rekey(&[1], from)), Ok(Decided::DoneBefore));
                    assert!(!book.is_unfinished(&[1], from));
                }
            }
        }
        clock.set(START + 60);
        assert!(book.decide(&rekey(&[2], Y)).unwrap_err().contains("1 per 24h"));
        // The agent ended after the key was made, before that was written.
        clock.set(START + 86_460);
        assert_eq!(book.decide(&rekey(&[2], Y)), Ok(Decided::Do));
        let book = open();
        book.recover(X);
        assert_eq!(open().decide(&rekey(&[2], Y)), Ok(Decided::DoneBefore), "also when it goes back");
        let always = ServerMay { rekey: Allowance::Always, ..ServerMay::default() };
        let book = RequestBook::open(directory.path(), always, clock.clone());
        for demand in 0..100 {
            assert_eq!(book.decide(&rekey(&[9, demand], X)), Ok(Decided::Do));
        }
        assert_eq!(book.content().demands.len(), DEMANDS_MAX);
    }

    #[test]
    fn no_rate_is_forgotten_to_make_room_for_another() {
        let directory = tempfile::tempdir().unwrap();
        let clock = SetClock::at(START);
        let book = RequestBook::open(directory.path(), ServerMay::default(), clock.clone());
        let restart = |number: usize| book.decide(&Request::Restart(format!("s{number}")));
        assert_eq!(book.decide(&rekey(&[1], X)), Ok(Decided::Do));
        for number in 1..limits::CONTACT_SERVICES_MAX {
            restart(number).unwrap();
        }
        assert!(restart(0).unwrap_err().contains("so many services"));
        assert!(restart(1).unwrap_err().contains("1 per 1m"));
        clock.set(START + 3601);
        restart(0).unwrap();
        assert!(book.decide(&rekey(&[2], X)).unwrap_err().contains("1 per 24h"));
    }

    #[test]
    fn what_cannot_be_written_is_not_done() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join(FILE)).unwrap();
        let book = RequestBook::open(directory.path(), ServerMay::default(), SetClock::at(START));
        for _ in 0..2 {
            assert!(book.decide(&rekey(&[1], X)).unwrap_err().contains("cannot be written"));
        }
    }
}
