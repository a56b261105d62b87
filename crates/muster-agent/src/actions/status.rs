//! What this machine ran, when, by whose order and with what result, for the machine's owner: in a terminal and on a page
//! of this machine.
//!
//! Stays true: it is read from the ledger's file, so it can be seen whether the agent runs or not; nothing can be changed
//! here. What a stranger wrote is shown as text and never as anything else. Not here: how the page looks (html).

use super::ledger::{self, Order, RefusedOrder};
use super::{Believed, standstills};
use crate::config::Config;
use crate::doctor::{is_old, is_running, without_weights};
use crate::keys;
use crate::requests::{self, Asked};
use crate::rest::{Left, Rest};
use crate::standing::{Clocks, Standing};
use crate::world::SystemClock;
use muster_core::{Clock, Timestamp, limits, text};
use muster_trust::document::Kind;
use serde::Serialize;
use std::path::PathBuf;

/// Orders and refusals shown unless all are asked for.
const SHOWN: usize = 20;

/// Where the ledger of orders is.
pub(crate) fn ledger_path(config: &Config) -> PathBuf {
    config.state_dir.join("orders")
}

/// Where accepted documents are.
pub(crate) fn documents_path(config: &Config) -> PathBuf {
    config.state_dir.join("documents.json")
}

/// All that is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The machine's id; `None` before its first start.
    pub(super) agent: Option<String>,
    /// The agent's version.
    pub(super) version: &'static str,
    /// Whether a process of it runs; `None` when the kernel does not say.
    pub(super) running: Option<bool>,
    /// Whose orders count.
    pub(super) keyring: Vec<Key>,
    /// The version of the keyring's document, 0 when files count.
    pub(super) keyring_version: u64,
    /// The version of the weights' document, 0 when a file counts.
    pub(super) acl_version: u64,
    /// When the first of these documents expires.
    pub(super) documents_expire: Option<String>,
    /// What administrators revoked for good; `None` when no document says anything of it.
    pub(super) revocations: Option<Revoked>,
    /// What is wrong with keys, weights and documents.
    pub(super) problems: Vec<String>,
    /// How this machine stands with its server; `None` before the first contact.
    pub(super) server: Option<String>,
    /// What to do about that; `None` when all is well.
    pub(super) advice: Option<&'static str>,
    /// How this machine's clock and the server's compare, when that is known.
    pub(super) clock: Option<String>,
    /// Why the agent stays away; `None` when it does not.
    pub(super) away: Option<String>,
    /// What the server asked without a signature, newest first.
    pub(super) requests: Vec<Requested>,
    /// Since when orders are remembered.
    pub(super) remembered_since: Option<String>,
    /// Orders that were run, newest first.
    pub(super) orders: Vec<Ran>,
    /// Orders that were refused, newest first.
    pub(super) refused: Vec<Refused>,
}

/// Certificates that administrators revoked.
#[derive(Debug, Serialize)]
pub(super) struct Revoked {
    pub(super) version: u64,
    /// In hexadecimal.
    pub(super) serials: Vec<String>,
    /// SHA-256 of each, in hexadecimal.
    pub(super) fingerprints: Vec<String>,
}

impl Revoked {
    fn of(believed: &Believed) -> Option<Self> {
        let in_force = believed.in_force.get(&Kind::Revocations)?;
        let (serials, fingerprints) = (believed.revocations.serials(), believed.revocations.fingerprints());
        Some(Self { version: in_force.version, serials: serials.collect(), fingerprints: fingerprints.collect() })
    }

    /// Returns it as lines, of which there are at most [`SHOWN`] and one.
    fn lines(&self) -> Vec<String> {
        let count = self.serials.len() + self.fingerprints.len();
        let serials = self.serials.iter().map(|serial| format!("            serial {serial}"));
        let named = serials.chain(self.fingerprints.iter().map(|print| format!("            SHA-256 {print}")));
        let head =
            format!("revoked     {count} certificates, by version {} of the administrators' document", self.version);
        std::iter::once(head).chain(named.take(SHOWN)).collect()
    }
}

/// What a server asked without a signature.
#[derive(Debug, Serialize)]
pub(super) struct Requested {
    pub(super) at: String,
    pub(super) request: String,
    /// Why it was not done; `None` when it was.
    pub(super) refused: Option<String>,
    /// How often in a row.
    pub(super) times: u64,
}

impl Requested {
    /// Returns what became of it, in a few words.
    pub(super) fn outcome(&self) -> String {
        let times = if self.times > 1 { format!(", {} times", self.times) } else { String::new() };
        match &self.refused {
            None => format!("done{times}"),
            Some(why) => format!("refused{times}: {why}"),
        }
    }
}

/// A key, and whose it is.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Key {
    pub(super) fingerprint: String,
    /// Empty for a key that does not count here any more.
    pub(super) names: Vec<String>,
}

impl Key {
    /// Returns how to call its owner.
    pub(super) fn owner(&self) -> String {
        let short: String = self.fingerprint.chars().take(16).collect();
        let name = self.names.first().map_or("a key that no longer counts here", String::as_str);
        format!("{name} ({short}…)")
    }
}

/// One part of an order: a module, and what it is for.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Part {
    pub(super) module: String,
    pub(super) summary: &'static str,
    /// Whether it may change the machine; assumed of programs that are not this agent's own.
    pub(super) changes: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Ran {
    pub(super) at: String,
    pub(super) finished: Option<String>,
    pub(super) status: String,
    /// How many of its parts found something.
    pub(super) found: usize,
    pub(super) action: i64,
    pub(super) name: String,
    pub(super) target: String,
    pub(super) parts: Vec<Part>,
    pub(super) signers: Vec<Key>,
    pub(super) signed_sha256: String,
}

impl Ran {
    /// Returns what came of it, in a few words.
    pub(super) fn outcome(&self) -> String {
        let all = self.parts.len();
        let found = match (self.found, all) {
            (0, _) => "found nothing".to_owned(),
            (1, 1) => "found something".to_owned(),
            (found, all) => format!("found something in {found} of {all} parts"),
        };
        match self.status.as_str() {
            "running" => "running now".to_owned(),
            "success" => found,
            "interrupted" => "interrupted: the agent ended while it ran".to_owned(),
            status => format!("{status}; {found}"),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Refused {
    pub(super) at: String,
    pub(super) action: i64,
    pub(super) name: String,
    pub(super) code: String,
    pub(super) reason: String,
}

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// The latest.
    Latest,
    /// Whatever is remembered.
    All,
}

impl Report {
    /// Reads everything.
    pub(crate) fn read(config: &Config, show: Show) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let path = ledger_path(config);
        let content = ledger::look(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let believed = Believed::load(config, &documents_path(config));
        let most = if show == Show::All { usize::MAX } else { SHOWN };
        let content = content.as_ref();
        let keys = believed.keyring.certificates().iter();
        let keyring: Vec<Key> =
            keys.map(|key| Key { fingerprint: key.fingerprint().to_string(), names: key.user_ids() }).collect();
        let orders =
            content.map(|content| content.orders().rev().take(most).map(|order| ran(order, &keyring)).collect());
        let standing = Standing::read(&config.state_dir);
        let (running, now) = (is_running(&config.state_dir), SystemClock.now());
        let missing = without_weights(config, &believed).map(|check| check.found);
        let problems = missing.into_iter().chain(believed.problems.iter().map(|problem| problem.text.clone()));
        let halted = standstills(content, &believed, SystemClock.now());
        let problems = problems.chain(halted.into_iter().map(|halted| format!("{} ({})", halted.found, halted.advice)));
        Ok(Self {
            server: standing.as_ref().map(|standing| said(standing, (config, running), now)),
            running,
            advice: standing.as_ref().and_then(Standing::advice),
            clock: standing.as_ref().and_then(Standing::clocks).map(Clocks::says),
            away: Rest::left(&config.state_dir, SystemClock.now()).map(Left::says),
            requests: requests::read(&config.state_dir).into_iter().take(most).map(requested).collect(),
            agent: keys::look(&config.state_dir)?.map(|identity| identity.id.to_string()),
            version: env!("CARGO_PKG_VERSION"),
            keyring_version: believed.keyring_version(),
            acl_version: believed.acl_version(),
            documents_expire: believed.expires.filter(|end| *end > Timestamp::EPOCH).map(second),
            revocations: Revoked::of(&believed),
            problems: problems.collect(),
            remembered_since: content.map(|content| second(content.since().0)),
            orders: orders.unwrap_or_default(),
            refused: content.map_or_else(Vec::new, |content| content.refused().rev().take(most).map(refused).collect()),
            keyring,
        })
    }

    /// Says where keys and weights come from.
    pub(super) fn sources(&self) -> (String, String) {
        let source = |version: u64| match version {
            0 => "from files of this machine".to_owned(),
            version => format!("from version {version} of the administrators' document"),
        };
        (source(self.keyring_version), source(self.acl_version))
    }

    /// Writes it for a terminal.
    pub(crate) fn text(&self) -> String {
        let mut shown = String::new();
        let mut line = |line: String| {
            shown.push_str(&text::plain(&line));
            shown.push('\n');
        };
        let (keys, weights) = self.sources();
        line(format!("machine     {}", self.agent.as_deref().unwrap_or("has no id yet: the agent was never started")));
        let runs = match self.running {
            Some(true) => ", runs",
            Some(false) => ", does not run",
            None => "",
        };
        line(format!("agent       version {}{runs}", self.version));
        line(format!("server      {}", self.server.as_deref().unwrap_or("there was no contact yet")));
        let advice = self.advice.map(|advice| format!("-> {advice}"));
        for more in [advice, self.clock.clone(), self.away.clone()].into_iter().flatten() {
            line(format!("            {more}"));
        }
        let count = self.keyring.len();
        line(format!("acts for    {count} key{}, {keys}", if count == 1 { "" } else { "s" }));
        for key in &self.keyring {
            line(format!("            {}  {}", key.fingerprint, key.names.join(", ")));
        }
        line(format!("weights     {weights}"));
        if let Some(expire) = &self.documents_expire {
            line(format!("until       {expire}, when these documents expire"));
        }
        self.revocations.iter().flat_map(Revoked::lines).for_each(&mut line);
        for problem in &self.problems {
            line(format!("PROBLEM     {problem}"));
        }
        let since = self.remembered_since.as_deref().unwrap_or("nothing is remembered yet");
        line(format!("remembers   {}{since}", if self.remembered_since.is_some() { "since " } else { "" }));
        line(format!("\norders that ran: {}", if self.orders.is_empty() { "none" } else { "" }));
        for order in &self.orders {
            line(format!("  {}  {:?}: {}", order.at, order.name, order.outcome()));
            for part in &order.parts {
                let changes = if part.changes { "  [may change the machine]" } else { "" };
                line(format!("      {}: {}{changes}", part.module, part.summary));
            }
            let signers: Vec<_> = order.signers.iter().map(Key::owner).collect();
            line(format!("      signed by {}", signers.join(", ")));
            line(format!("      for {} (action {})", order.target, order.action));
        }
        line(format!("\norders that were refused: {}", if self.refused.is_empty() { "none" } else { "" }));
        for refused in &self.refused {
            line(format!("  {}  {:?}: {}", refused.at, refused.name, refused.code));
            line(format!("      {}", refused.reason));
        }
        if !self.requests.is_empty() {
            line("\nwhat the server asked without a signature (server_may says what it may):".to_owned());
        }
        for requested in &self.requests {
            line(format!("  {}  {}: {}", requested.at, requested.request, requested.outcome()));
        }
        shown
    }

    /// Writes it as JSON that can be shown on a terminal.
    pub(crate) fn json(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("text and numbers are JSON");
        text::json_escaped(&json) + "\n"
    }
}

/// Says how this machine stands with its server. What is written there holds only while an agent runs, and only for a while.
fn said(standing: &Standing, (config, running): (&Config, Option<bool>), now: Timestamp) -> String {
    if running == Some(false) {
        return standing.says_of_stopped();
    }
    let says = standing.says();
    if is_old(standing, config, now) { format!("{says}: that is long ago, so it need not hold any more") } else { says }
}

/// What this machine remembers of the time.
#[derive(Debug, Serialize)]
pub(crate) struct Remembered {
    /// What its clock says.
    clock: String,
    /// What is known to be past: a clock that stands more than ten minutes before it is not believed.
    floor: Option<String>,
    /// Since when the ledger of orders tells everything.
    remembers_since: Option<String>,
    /// How many seconds the clock stands before the later of both.
    behind_s: u64,
}

impl Remembered {
    /// Reads it, when the clock says `now`.
    pub(crate) fn read(config: &Config, now: Timestamp) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let path = ledger_path(config);
        let content = ledger::look(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let floor = content.as_ref().map(ledger::Content::floor).filter(|floor| *floor > Timestamp::EPOCH);
        let since = content.map(|content| content.since().0);
        let latest = floor.max(since).unwrap_or(Timestamp::EPOCH);
        let behind_s = latest.since(now).as_secs();
        Ok(Self { clock: second(now), floor: floor.map(second), remembers_since: since.map(second), behind_s })
    }

    /// Writes it for a terminal.
    pub(crate) fn text(&self) -> String {
        let nothing = "nothing yet".to_owned();
        let (floor, since) =
            (self.floor.as_ref().unwrap_or(&nothing), self.remembers_since.as_ref().unwrap_or(&nothing));
        let mut problem = String::new();
        if self.behind_s > limits::TIME_FLOOR_SLACK.as_secs() {
            let minutes = self.behind_s / 60;
            problem = format!(
                "PROBLEM     the clock stands {minutes} min before what is remembered, so orders are refused. Set it; if it \
                 is right and was ahead before, stop the agent and run `muster-agent clock reset`\n"
            );
        }
        format!("clock       {}\npast        {floor}\nremembers   since {since}\n{problem}", self.clock)
    }
}

fn ran(order: &Order, keyring: &[Key]) -> Ran {
    let outcome = order.outcome.as_ref();
    let signer = |fingerprint: &String| {
        let known = keyring.iter().find(|key| key.fingerprint == *fingerprint).cloned();
        known.unwrap_or_else(|| Key { fingerprint: fingerprint.clone(), names: Vec::new() })
    };
    Ran {
        at: second(order.at),
        finished: outcome.map(|outcome| second(outcome.at)),
        status: outcome.map_or_else(|| "running".to_owned(), |outcome| outcome.status.clone()),
        found: outcome.map_or(0, |outcome| outcome.found),
        action: order.action_id,
        name: order.name.clone(),
        target: order.target.clone(),
        parts: order.modules.iter().map(|module| part(module)).collect(),
        signers: order.signers.iter().map(signer).collect(),
        signed_sha256: hex::encode(order.key),
    }
}

fn part(module: &str) -> Part {
    let known = muster_modules::registry::find(module).map(muster_modules::Module::info);
    Part {
        module: module.to_owned(),
        summary: known.map_or("a program that this agent's configuration names", |info| info.summary),
        changes: known.is_none_or(|info| info.effect == muster_modules::Effect::Changes),
    }
}

fn requested(asked: Asked) -> Requested {
    let Asked { at, request, refused, times } = asked;
    Requested { at: second(at), request, refused, times }
}

fn refused(refused: &RefusedOrder) -> Refused {
    Refused {
        at: second(refused.at),
        action: refused.action_id,
        name: refused.name.clone(),
        code: refused.code.clone(),
        reason: refused.reason.clone(),
    }
}

/// A moment without its fraction.
fn second(moment: Timestamp) -> String {
    Timestamp::from_secs(moment.to_parts().0).to_string()
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
