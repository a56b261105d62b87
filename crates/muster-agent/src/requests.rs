//! What the server asked of this machine without a signature, and what became of it.
//!
//! Stays true: what [`ServerMay`] does not allow is not done; rates count over restarts of the agent, because what is
//! done is on the disk before it is done; what is kept is bounded, however much is asked. Not here: doing it.

use crate::durable::{self, Sync};
use crate::server_may::{Absence, Allowance, ServerMay};
use muster_core::{Clock, Timestamp, limits, text};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The file in the state directory.
const FILE: &str = "requests.json";
/// Requests kept for whoever looks at the machine.
const LATEST_MAX: usize = 50;

/// What a server asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// Stop and start a service of this machine.
    Restart(String),
    /// Make a new key. With the id of the message: one that comes again because the agent ended before it was done is no
    /// other demand.
    Rekey(Vec<u8>),
    /// End the agent.
    Die,
}

impl Request {
    fn words(&self) -> String {
        match self {
            Self::Restart(service) => format!("restart service {service}"),
            Self::Rekey(_) => "make a new key".to_owned(),
            Self::Die => "end the agent".to_owned(),
        }
    }
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

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Content {
    /// When what was done, for the rates.
    done: BTreeMap<String, Vec<Timestamp>>,
    /// The message of the latest new key, in hexadecimal.
    rekey: String,
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

    /// Decides about a request. When this returns `Ok`, it is on the disk, and to be done. The error says why not.
    pub(crate) fn decide(&self, request: &Request) -> Result<(), String> {
        let now = self.clock.now();
        let mut content = self.content();
        let (key, allowance) = match request {
            Request::Restart(service) => (format!("restart {service}"), &self.may.restart_services),
            Request::Rekey(demand) if !demand.is_empty() && content.rekey == hex::encode(demand) => return Ok(()),
            Request::Rekey(_) => ("rekey".to_owned(), &self.may.rekey),
            Request::Die if self.may.die == Absence::None => ("die".to_owned(), &Allowance::Never),
            Request::Die => ("die".to_owned(), &Allowance::Always),
        };
        let done = content.done.get(&key).map_or(&[][..], Vec::as_slice);
        let decided = decide(allowance, done, now);
        if decided.is_ok() {
            content.done(key.clone(), now);
            if let Request::Rekey(demand) = request {
                content.rekey = hex::encode(demand);
            }
            content.note(request, now, None);
            if let Err(error) = self.write(&content, Sync::Power) {
                content.done.entry(key).and_modify(|times| _ = times.pop());
                content.rekey.clear();
                let reason = format!("it cannot be written that this was done ({error}), so it is not done");
                tracing::error!("the server asks to {}: {reason}", request.words());
                return Err(reason);
            }
            tracing::warn!("the server asks to {} without a signature; it is done", request.words());
            return Ok(());
        }
        let refused = decided.as_ref().err().cloned();
        let times = content.note(request, now, refused.clone());
        // However often it is asked, it is written and logged now and then only.
        if times.is_power_of_two() {
            let reason = refused.unwrap_or_default();
            tracing::warn!(
                times,
                "the server asks to {} without a signature; it is refused: {reason}",
                request.words()
            );
            if let Err(error) = self.write(&content, Sync::Process) {
                tracing::warn!(%error, path = %self.path.display(), "cannot write what the server asked");
            }
        }
        decided
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

impl Content {
    /// Keeps that something was done.
    fn done(&mut self, key: String, now: Timestamp) {
        let times = self.done.entry(key).or_default();
        times.push(now);
        // More than the largest rate allows are not needed.
        times.drain(..times.len().saturating_sub(1000));
        while self.done.len() > limits::CONTACT_SERVICES_MAX {
            let oldest = self.done.iter().min_by_key(|(_, times)| times.last().copied()).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { return };
            self.done.remove(&oldest);
        }
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

/// Decides whether something may be done once more. `done` are the times when it was.
fn decide(allowance: &Allowance, done: &[Timestamp], now: Timestamp) -> Result<(), String> {
    let rates = match allowance {
        Allowance::Always => return Ok(()),
        Allowance::Never => return Err("this machine's configuration forbids it (server_may)".to_owned()),
        Allowance::Rates(rates) => rates,
    };
    for rate in rates {
        // Times in the future come from a clock that was wrong, now or then: near ones count, far ones would for ever.
        let apart = |at: &Timestamp| now.since(*at).max(at.since(now));
        let recent: Vec<_> = done.iter().filter(|at| apart(at) < rate.within.0).collect();
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

    #[test]
    fn rates_count_over_restarts_of_the_agent_and_each_service_has_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let clock = SetClock::at(START);
        let open = || RequestBook::open(directory.path(), ServerMay::default(), clock.clone());
        let restart = |book: &RequestBook, service: &str| book.decide(&Request::Restart(service.into()));
        let book = open();
        assert_eq!(restart(&book, "a"), Ok(()));
        for _ in 0..100 {
            assert!(restart(&book, "a").unwrap_err().contains("1 per 1m"));
        }
        assert_eq!(restart(&book, "b"), Ok(()));
        let book = open();
        assert!(restart(&book, "a").is_err() && restart(&book, "b").is_err());
        let done = (1..600).filter(|second| {
            clock.set(START + second * 6);
            restart(&book, "a").is_ok()
        });
        assert_eq!(done.count(), 5, "six in an hour, of which one was before");
        assert_eq!(book.decide(&Request::Rekey(vec![1])), Ok(()));
        assert!(book.decide(&Request::Rekey(vec![2])).unwrap_err().contains("1 per 24h"));
        // Without a name nobody knows whether it is another one.
        assert!(book.decide(&Request::Rekey(vec![])).is_err());
        // The agent ended before it was done, and the demand comes again.
        assert_eq!(open().decide(&Request::Rekey(vec![1])), Ok(()));
        clock.set(START + 3600 + 86_400);
        assert_eq!(book.decide(&Request::Rekey(vec![3])), Ok(()));
        let kept = read(directory.path());
        assert!(kept.len() <= LATEST_MAX && kept[0].request == "make a new key" && kept[0].refused.is_none());
        // A clock that was set back by years makes nothing wait for years.
        clock.set(START - 400_000_000);
        assert_eq!(book.decide(&Request::Rekey(vec![4])), Ok(()));
    }

    #[test]
    fn what_is_forbidden_is_never_done_and_however_much_is_asked_little_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let may = ServerMay { restart_services: Allowance::Never, rekey: Allowance::Never, die: Absence::None };
        let book = RequestBook::open(directory.path(), may, SetClock::at(START));
        for number in 0..2000 {
            let service = format!("s{}\u{1b}", number % 300);
            for request in [Request::Restart(service), Request::Rekey(vec![7; 32]), Request::Die] {
                assert!(book.decide(&request).unwrap_err().contains("forbids"), "{request:?}");
            }
        }
        let kept = read(directory.path());
        assert_eq!(kept.len(), LATEST_MAX);
        assert!(kept.iter().all(|asked| asked.refused.is_some() && !asked.request.contains('\u{1b}')));
        let may = ServerMay { restart_services: Allowance::Always, ..ServerMay::default() };
        let book = RequestBook::open(directory.path(), may, SetClock::at(START));
        for number in 0..1000 {
            book.decide(&Request::Restart(format!("s{number}"))).unwrap();
        }
        assert!(book.content().done.len() <= limits::CONTACT_SERVICES_MAX);
    }

    #[test]
    fn what_cannot_be_written_is_not_done() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join(FILE)).unwrap();
        let book = RequestBook::open(directory.path(), ServerMay::default(), SetClock::at(START));
        for _ in 0..2 {
            assert!(book.decide(&Request::Rekey(vec![1])).unwrap_err().contains("cannot be written"));
        }
    }
}
