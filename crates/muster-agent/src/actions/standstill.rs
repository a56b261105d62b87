//! Why this machine runs nothing, or nothing of some people, until when, and what to do: for `doctor` and `status`.
//!
//! Stays true: it is read from the files of the agent, so it can be seen whether the agent runs or not. Not here: the
//! refusal of one order (gate, objections).

use super::Believed;
use super::ledger::Content;
use super::objections::who;
use muster_core::action::Fingerprint;
use muster_core::{Timestamp, limits};

/// What keeps orders from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standstill {
    /// Whether no order runs at all.
    pub(crate) is_whole: bool,
    /// What does not run, until when, and why.
    pub(crate) found: String,
    /// What to do about it.
    pub(crate) advice: String,
}

/// Returns all that keeps orders from running here, when the clock says `now`. `content`: what is in the ledger of orders.
pub(crate) fn standstills(content: Option<&Content>, believed: &Believed, now: Timestamp) -> Vec<Standstill> {
    let mut all: Vec<Standstill> = expired(believed, now).into_iter().collect();
    let Some(content) = content else { return all };
    all.extend(behind(content.floor(), now));
    let now = now.max(content.floor());
    all.extend(forgotten(content.forgotten_until(), now));
    all.extend(content.without_room(now).filter_map(|(signer, until)| without_room(believed, signer, until)));
    all
}

fn expired(believed: &Believed, now: Timestamp) -> Option<Standstill> {
    // What was closed because it cannot be read is a problem of its own.
    let end = believed.expires.filter(|end| *end > Timestamp::EPOCH && now > *end)?;
    Some(Standstill {
        is_whole: true,
        found: format!("nothing runs: the documents that say whose orders count expired at {end}"),
        advice: "let administrators sign a newer document of investigators and send it: `muster trust new`".to_owned(),
    })
}

fn behind(floor: Timestamp, now: Timestamp) -> Option<Standstill> {
    (now.plus(limits::TIME_FLOOR_SLACK) < floor).then(|| Standstill {
        is_whole: true,
        found: format!("nothing runs until {floor}: the clock says {now}, and that moment is known to be past"),
        advice: "set the clock; if it is right and was ahead before, stop the agent and run `muster-agent clock reset`"
            .to_owned(),
    })
}

/// After the clock was reset: what was forgotten under the clock that was ahead.
fn forgotten(until: Timestamp, now: Timestamp) -> Option<Standstill> {
    (now <= until).then(|| Standstill {
        is_whole: false,
        found: format!("no order runs whose window ends until {until}: what ran with such an end was forgotten"),
        advice: "sign orders with windows that end later".to_owned(),
    })
}

/// What a signer's cancellations keep from running that found no room. `None` where the signer does not count any more.
fn without_room(believed: &Believed, signer: &str, until: Timestamp) -> Option<Standstill> {
    let most = limits::CANCELS_PER_SIGNER_MAX;
    if signer.is_empty() {
        let found = format!("nothing runs until {until}: more was called back than an agent of before could remember");
        let advice = "wait until then; that agent did not write down who called back so much".to_owned();
        return Some(Standstill { is_whole: true, found, advice });
    }
    let key: Fingerprint = signer.parse().ok()?;
    let weight = believed.acl.heaviest(&key);
    if weight == 0 || believed.keyring.get(&key).is_none() {
        return None;
    }
    let is_whole = weighs_most(believed, &key);
    let what = if is_whole { "nothing runs" } else { "no order runs that this signer may call back" };
    let who = who(believed, signer);
    Some(Standstill {
        is_whole,
        found: format!("{what} until {until}: {who} called back more orders than the {most} that are remembered of one signer"),
        advice: "was it that person? Else take the key or its weight away, by a document of administrators or in keyring_dir \
                 and acl_file with a reload (SIGHUP): then it ends at once, and what was called back by name stays so"
            .to_owned(),
    })
}

/// Whether nobody weighs more than this key, in any module: then every order is one that its owner may call back.
fn weighs_most(believed: &Believed, key: &Fingerprint) -> bool {
    believed.acl.modules().values().all(|permission| {
        let weights = permission.investigators.values();
        let own = weights.clone().filter(|one| one.fingerprints.contains(key)).map(|one| one.weight).max();
        own >= weights.map(|one| one.weight).max()
    })
}
