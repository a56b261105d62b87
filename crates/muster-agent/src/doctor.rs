//! `muster-agent doctor`: looks at everything that must be right for this agent to work, and says what to do where it is
//! not. `config check` and `status` say the same of what they see.

mod investigators;
mod orders;
mod revoked;
mod running;
mod servers;

pub(crate) use investigators::without_weights;
pub(crate) use running::is_running;

use crate::actions::status::documents_path;
use crate::chain::Chain;
use crate::config::Config;
use crate::keys::{self, Identity};
use crate::module_doctor::look_at_modules;
use crate::pins::read_pins;
use crate::places;
use crate::private;
use crate::rest::Rest;
use crate::services::{Found, read_definitions};
use crate::standing::{Outcome as Contact, Standing};
use muster_core::{Clock, Timestamp, text};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Below this the disk is called full.
const FREE_BYTES_MIN: u64 = 100 * 1024 * 1024;
/// How soon a certificate's end is worth a word.
const EXPIRY_NEAR: Duration = Duration::from_hours(720);
/// A clock before this was never set (2025-01-01).
const CLOCK_MIN: Timestamp = Timestamp::from_secs(1_735_689_600);
/// A contact that is older than this, and than two of the longest pauses, was not the latest that should have been.
const CONTACT_OLD: Duration = Duration::from_mins(30);

/// How something is, in the words of the server's doctor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// As it should be.
    Ok,
    /// Worth looking at.
    Warning,
    /// Must be changed for the agent to work.
    Failed,
}

impl Outcome {
    /// The word for people.
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// Something that was looked at, in the form of the server's doctor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What was looked at.
    pub(crate) name: &'static str,
    /// How it is.
    pub(crate) outcome: Outcome,
    /// What was found.
    pub(crate) found: String,
    /// What to do about it.
    pub(crate) advice: Option<String>,
}

/// Something that is as it should be.
pub(crate) fn ok(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, outcome: Outcome::Ok, found: found.into(), advice: None }
}

/// Something that is worth looking at.
pub(crate) fn warning(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check { name, outcome: Outcome::Warning, found: found.into(), advice: Some(advice.into()) }
}

/// Something that must be changed.
pub(crate) fn failed(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check { name, outcome: Outcome::Failed, found: found.into(), advice: Some(advice.into()) }
}

/// Whether something must be changed.
pub(crate) fn has_failed(checks: &[Check]) -> bool {
    checks.iter().any(|check| check.outcome == Outcome::Failed)
}

/// Writes checks for a terminal: one line each, and one with what to do below each that is not ok.
pub(crate) fn shown(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
    let mut shown = String::new();
    for check in checks {
        // Writing into a string cannot fail.
        let _ =
            writeln!(shown, "{:7}  {:width$}  {}", check.outcome.word(), check.name, check.found.replace('\n', " "));
        if let Some(advice) = &check.advice {
            let _ = writeln!(shown, "{:7}  {:width$}  -> {}", "", "", advice.replace('\n', " "));
        }
    }
    text::plain(&shown)
}

/// Writes checks as JSON that can be shown on a terminal.
pub(crate) fn json(checks: &[Check]) -> String {
    text::json_escaped(&serde_json::to_string_pretty(checks).expect("text is JSON")) + "\n"
}

/// Looks at everything. Without a configuration there is nothing else to look at.
pub(crate) async fn examine(config: anyhow::Result<Config>, clock: Arc<dyn Clock>) -> Vec<Check> {
    let now = clock.now();
    let mut checks: Vec<Check> = clock_never_set(now).into_iter().collect();
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            let advice = "name the file with --config or MUSTER_AGENT_CONFIG";
            checks.push(failed("config", format!("{error:#}"), advice));
            return checks;
        }
    };
    let valid = config.check();
    checks.push(match &valid {
        Ok(()) => ok("config", "readable and complete"),
        Err(error) => {
            failed("config", Chain(&error).to_string(), "`muster-agent config show --defaults` has every key")
        }
    });
    checks.extend(places(&config));
    checks.extend(state(&config.state_dir));
    checks.extend(services(&config.services_dir));
    checks.extend(investigators::look(&config, &documents_path(&config), now));
    checks.extend(orders::look(&config, now));
    checks.extend(look_at_modules(&config));
    checks.extend(agent(&config, now));
    let (identity, found) = key(&config.state_dir);
    checks.push(found);
    let (pins, found) = pins(&config, now);
    checks.extend(found);
    checks.extend(revoked::look(&config, pins.as_deref().unwrap_or_default()));
    if let (Ok(()), Some(pins), Some(identity)) = (valid, pins, identity) {
        checks.extend(servers::look(&config, pins, &identity, clock).await);
    }
    checks
}

/// Looks at what is configured, whatever the state of this machine: certificates, services, investigators.
pub(crate) fn configured(config: &Config, now: Timestamp) -> Vec<Check> {
    let mut checks = places(config);
    checks.extend(services(&config.services_dir));
    // Documents that were accepted are the state of this machine.
    checks.extend(investigators::look(config, Path::new(""), now));
    checks.extend(pins(config, now).1);
    checks
}

/// Whether others could change what decides whom this machine obeys.
fn places(config: &Config) -> Vec<Check> {
    const NAME: &str = "places";
    let found = places::look(config);
    if found.is_empty() {
        return vec![ok(NAME, "nobody but root and this user can change what decides whom this machine obeys")];
    }
    let advice = "put it right: the agent does not start before";
    found.iter().map(|problem| failed(NAME, problem.to_string(), advice)).collect()
}

fn clock_never_set(now: Timestamp) -> Option<Check> {
    let found = format!("the clock says {now}, so no certificate can be valid");
    (now < CLOCK_MIN).then(|| failed("clock", found, "set the time, best by NTP"))
}

fn state(directory: &Path) -> Vec<Check> {
    let shown = directory.display();
    // The nearest directory that is there tells about the disk.
    let there = directory.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"));
    let disk = match rustix::fs::statvfs(there) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let says = format!("{} MiB free below {}", free / (1024 * 1024), there.display());
            if free < FREE_BYTES_MIN {
                warning("disk", says, "make room: unsent messages are kept there")
            } else {
                ok("disk", says)
            }
        }
        Err(error) => warning("disk", format!("cannot be asked: {error}"), "look at the mount of state_dir"),
    };
    if !directory.exists() {
        let advice = "the agent makes it when it starts";
        return vec![warning("state", format!("{shown} is not there yet"), advice), disk];
    }
    let mut checks = Vec::new();
    if let Err(problem) = private::check(directory) {
        checks.push(if private::is_made_right(directory) {
            warning("state", problem, "the agent makes it private when it starts")
        } else {
            failed("state", problem, "put it right: the agent does not start before")
        });
    }
    let probe = directory.join(".doctor");
    let written = std::fs::File::create(&probe).and_then(|mut file| file.write_all(b"x").and(file.sync_all()));
    let _ = std::fs::remove_file(&probe);
    checks.push(match written {
        Ok(()) => ok("state", format!("{shown} can be written")),
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            failed("state", format!("{shown} cannot be written: {error}"), "make room on that disk")
        }
        Err(error) => {
            let advice = "give the agent's user the right to, or change state_dir";
            failed("state", format!("{shown} cannot be written: {error}"), advice)
        }
    });
    checks.push(disk);
    checks
}

fn services(directory: &Path) -> Vec<Check> {
    if directory.as_os_str().is_empty() {
        return Vec::new();
    }
    let Found { definitions, broken, left_out } = read_definitions(directory);
    let defined = definitions.iter().map(|definition| match definition.warning() {
        None => ok("service", definition.name.clone()),
        Some(found) => warning("service", found, "take it away where signed actions can do the work"),
    });
    let broken = broken
        .iter()
        .map(|error| failed("service", Chain(error).to_string(), "put the file right, or take it out of services_dir"));
    let left_out = left_out.iter().map(|path| {
        let found = format!("{} is left out: it looks like what an editor left behind", path.display());
        warning("service", found, "remove it, or give it another name")
    });
    defined.chain(broken).chain(left_out).collect()
}

/// Whether an agent runs, and what came of its latest contact.
fn agent(config: &Config, now: Timestamp) -> Vec<Check> {
    let directory = config.state_dir.as_path();
    let mut checks = Vec::new();
    let is_running = is_running(directory);
    match (Rest::left(directory, now), is_running) {
        (Some(left), _) => {
            let advice = "`systemctl reload muster-agent` (SIGHUP) has it begin now; `server_may.die` says how long";
            checks.push(warning("agent", left.says(), advice));
        }
        (None, Some(true)) => checks.push(ok("agent", "runs")),
        (None, Some(false)) => {
            checks.push(warning("agent", "does not run", "start it: `systemctl start muster-agent`"));
        }
        (None, None) => {}
    }
    let Some(standing) = Standing::read(directory) else {
        if is_running == Some(true) {
            checks.push(warning("contact", "there was none yet", "look at the lines about the server"));
        }
        return checks;
    };
    let found = standing.says();
    let advice = standing.advice().unwrap_or_default();
    let found = if is_running == Some(false) { standing.says_of_stopped() } else { found };
    checks.push(match standing.outcome {
        // That it does not run stands in the line before.
        Contact::Good if is_running == Some(false) => ok("contact", found),
        Contact::Good if is_old(&standing, config, now) => {
            warning("contact", format!("{found}: that is long ago"), "is the agent running, and does it hang?")
        }
        Contact::Good => ok("contact", found),
        Contact::Waiting => warning("contact", found, advice),
        Contact::Refused | Contact::Failed => failed("contact", found, advice),
    });
    if let Some(why) = standing.list_ignored {
        let found = format!("the server's list of revoked certificates is ignored: {why}");
        checks.push(warning(
            "revoked",
            found,
            "store a right one: `muster file put system LIST --name RevokedCertificates`",
        ));
    }
    checks
}

/// Whether the latest contact is so long ago that an agent which runs should have had another.
pub(crate) fn is_old(standing: &Standing, config: &Config, now: Timestamp) -> bool {
    now.since(standing.at) > CONTACT_OLD.max(config.poll_max.0 * 3)
}

/// Without a key a throw-away one is used, so that the servers can be looked at all the same.
fn key(directory: &Path) -> (Option<Identity>, Check) {
    match keys::look(directory) {
        Ok(Some(identity)) => {
            let found = ok("key", format!("this machine is {}", identity.id));
            (Some(identity), found)
        }
        Ok(None) => {
            let advice = "the agent makes one at its first start";
            (Identity::temporary().ok(), warning("key", "there is none yet", advice))
        }
        Err(error) => (None, failed("key", Chain(&error).to_string(), "look at the file named here")),
    }
}

fn pins(config: &Config, now: Timestamp) -> (Option<Vec<CertificateDer<'static>>>, Vec<Check>) {
    let advice = "give the certificate of the server's authority: on the server, ca.pem in its data directory";
    let pem = match config.trusted_pem() {
        Ok(pem) => pem,
        Err(error) => return (None, vec![failed("trusted", Chain(&error).to_string(), advice)]),
    };
    match read_pins(&pem) {
        Ok(pins) => {
            let checks = pins.iter().map(|pin| certificate("trusted", pin, now)).collect();
            (Some(pins), checks)
        }
        Err(error) => (None, vec![failed("trusted", error.to_string(), advice)]),
    }
}

fn certificate(name: &'static str, certificate: &CertificateDer<'_>, now: Timestamp) -> Check {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return failed(name, "holds something that is no certificate", "get the right one from the server");
    };
    let from = Timestamp::from_secs(parsed.validity().not_before.timestamp());
    let until = Timestamp::from_secs(parsed.validity().not_after.timestamp());
    let found = format!("{}, valid {from} to {until}", parsed.subject());
    match () {
        () if now < from => {
            failed(name, format!("{found}: not yet, by this machine's clock"), "set the clock, best by NTP")
        }
        () if now > until => {
            let advice = "get the new one from the server; where it is not over yet, this machine's clock is ahead: set it, best by NTP";
            failed(name, format!("{found}: expired"), advice)
        }
        () if now.plus(EXPIRY_NEAR) > until => warning(name, format!("{found}: expires soon"), "renew it in time"),
        () => ok(name, found),
    }
}

#[cfg(test)]
#[path = "doctor/tests.rs"]
mod tests;
