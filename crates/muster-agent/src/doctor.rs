//! `muster-agent doctor`: looks at everything that must be right for this agent to work.

use crate::actions::status::documents_path;
use crate::actions::{Believed, Problem};
use crate::chain::Chain;
use crate::comms::Dialer;
use crate::config::Config;
use crate::keys::{self, Identity};
use crate::module_doctor::look_at_modules;
use crate::pinned::{PinnedVerifier, Revoked, read_pins};
use crate::services::read_definitions;
use crate::state::StateFile;
use muster_core::{Clock, Timestamp};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::Duration;

/// Below this the disk is called full.
const FREE_BYTES_MIN: u64 = 100 * 1024 * 1024;
/// How soon a certificate's end is worth a word.
const EXPIRY_NEAR: Duration = Duration::from_hours(720);
/// A clock before this was never set (2025-01-01).
const CLOCK_MIN: Timestamp = Timestamp::from_secs(1_735_689_600);

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it should be.
    Good,
    /// Worth looking at.
    Warn,
    /// Must be changed for the agent to work.
    Bad,
}

impl Verdict {
    /// The word for people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "BAD",
        }
    }
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) what: &'static str,
    /// How it is.
    pub(crate) verdict: Verdict,
    /// In words, with what to do when it is not good.
    pub(crate) says: String,
}

pub(crate) fn finding(what: &'static str, verdict: Verdict, says: impl Into<String>) -> Finding {
    Finding { what, verdict, says: says.into() }
}

/// Looks at everything. Without a configuration there is nothing else to look at.
pub(crate) async fn examine(config: anyhow::Result<Config>, clock: Arc<dyn Clock>) -> Vec<Finding> {
    let mut findings = vec![look_at_clock(clock.now())];
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            findings.push(finding("config", Verdict::Bad, format!("{error:#}")));
            return findings;
        }
    };
    let checked = config.check();
    findings.push(match &checked {
        Ok(()) => finding("config", Verdict::Good, "readable and complete"),
        Err(error) => finding("config", Verdict::Bad, Chain(&error).to_string()),
    });
    findings.extend(look_at_state(&config.state_dir));
    findings.extend(look_at_services(&config.services_dir));
    findings.extend(look_at_investigators(&config));
    findings.extend(look_at_modules(&config));
    let (identity, found) = look_at_key(&config.state_dir);
    findings.push(found);
    let (pins, found) = look_at_pins(&config, clock.now());
    findings.extend(found);
    if let (Ok(()), Some(pins), Some(identity)) = (checked, pins, identity) {
        findings.extend(look_at_servers(&config, pins, &identity, clock).await);
    }
    findings
}

fn look_at_clock(now: Timestamp) -> Finding {
    if now < CLOCK_MIN {
        let says = format!("the clock says {now}, so no certificate can be valid; set the time");
        return finding("clock", Verdict::Bad, says);
    }
    finding("clock", Verdict::Good, format!("{now}"))
}

fn look_at_state(directory: &Path) -> Vec<Finding> {
    let shown = directory.display();
    let probe = directory.join(".doctor");
    let written = std::fs::File::create(&probe).and_then(|mut file| file.write_all(b"x").and(file.sync_all()));
    let _ = std::fs::remove_file(&probe);
    let state = match written {
        Ok(()) => finding("state", Verdict::Good, format!("{shown} can be written")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            finding("state", Verdict::Warn, format!("{shown} is not there; the agent makes it when it starts"))
        }
        Err(error) => {
            let says =
                format!("{shown} cannot be written: {error}; give the agent's user the right to, or change state_dir");
            finding("state", Verdict::Bad, says)
        }
    };
    // The nearest directory that is there tells about the disk.
    let there = directory.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"));
    let disk = match rustix::fs::statvfs(there) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let says = format!("{} MiB free below {}", free / (1024 * 1024), there.display());
            let verdict = if free < FREE_BYTES_MIN { Verdict::Warn } else { Verdict::Good };
            finding("disk", verdict, says)
        }
        Err(error) => finding("disk", Verdict::Warn, format!("cannot be asked: {error}")),
    };
    vec![state, disk]
}

fn look_at_services(directory: &Path) -> Vec<Finding> {
    if directory.as_os_str().is_empty() {
        return Vec::new();
    }
    let look = |definition| match definition {
        Ok(crate::services::Definition { name, .. }) => finding("service", Verdict::Good, name),
        Err(error) => finding("service", Verdict::Bad, Chain(&error).to_string()),
    };
    read_definitions(directory).into_iter().map(look).collect()
}

/// Whose orders count, and what is wrong with what says so.
fn look_at_investigators(config: &Config) -> Vec<Finding> {
    const WHAT: &str = "investigators";
    let believed = Believed::load(config, &documents_path(config));
    if believed.problems.is_empty() {
        let says = match believed.keyring.certificates().len() {
            0 => "no key of an investigator is here, so nothing is run for anybody".to_owned(),
            1 => "acts for 1 key".to_owned(),
            keys => format!("acts for {keys} keys"),
        };
        return vec![finding(WHAT, Verdict::Good, says)];
    }
    let look = |problem: Problem| {
        let verdict = if problem.is_grave { Verdict::Bad } else { Verdict::Warn };
        finding(WHAT, verdict, problem.text)
    };
    believed.problems.into_iter().map(look).collect()
}

/// Without a key a throw-away one is used, so that the servers can be looked at all the same.
fn look_at_key(directory: &Path) -> (Option<Identity>, Finding) {
    match keys::look(directory) {
        Ok(Some(identity)) => {
            let says = format!("this machine is {}", identity.id);
            (Some(identity), finding("key", Verdict::Good, says))
        }
        Ok(None) => {
            let says = "there is none yet; the agent makes one at its first start";
            (Identity::temporary().ok(), finding("key", Verdict::Warn, says))
        }
        Err(error) => (None, finding("key", Verdict::Bad, Chain(&error).to_string())),
    }
}

fn look_at_pins(config: &Config, now: Timestamp) -> (Option<Vec<CertificateDer<'static>>>, Vec<Finding>) {
    let pem = match config.trusted_pem() {
        Ok(pem) => pem,
        Err(error) => return (None, vec![finding("trusted", Verdict::Bad, Chain(&error).to_string())]),
    };
    match read_pins(&pem) {
        Ok(pins) => {
            let findings = pins.iter().map(|pin| look_at_certificate("trusted", pin, now)).collect();
            (Some(pins), findings)
        }
        Err(error) => (None, vec![finding("trusted", Verdict::Bad, Chain(&error).to_string())]),
    }
}

fn look_at_certificate(what: &'static str, certificate: &CertificateDer<'_>, now: Timestamp) -> Finding {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return finding(what, Verdict::Bad, "holds something that is no certificate");
    };
    let from = Timestamp::from_secs(parsed.validity().not_before.timestamp());
    let until = Timestamp::from_secs(parsed.validity().not_after.timestamp());
    let says = format!("{}, valid {from} to {until}", parsed.subject());
    match () {
        () if now < from => finding(what, Verdict::Bad, format!("{says}: not yet; is the clock right?")),
        () if now > until => finding(what, Verdict::Bad, format!("{says}: expired; get the new one from the server")),
        () if now.plus(EXPIRY_NEAR) > until => finding(what, Verdict::Warn, format!("{says}: expires soon")),
        () => finding(what, Verdict::Good, says),
    }
}

/// What servers named as revoked so far.
fn revoked(directory: &Path) -> Revoked {
    let state = StateFile::open(&directory.join("state.json"));
    Arc::new(RwLock::new(state.map(|state| state.revoked()).unwrap_or_default()))
}

async fn look_at_servers(
    config: &Config,
    pins: Vec<CertificateDer<'static>>,
    identity: &Identity,
    clock: Arc<dyn Clock>,
) -> Vec<Finding> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let verifier = match PinnedVerifier::new(pins, &provider, revoked(&config.state_dir)) {
        Ok(verifier) => verifier,
        Err(error) => return vec![finding("trusted", Verdict::Bad, Chain(&error).to_string())],
    };
    let now = clock.now();
    let dialer = Dialer::new(config, verifier, clock);
    let mut findings = Vec::new();
    for server in &config.servers {
        let stream = match dialer.dial_tls(server, identity).await {
            Ok(stream) => stream,
            Err(error) => {
                findings.push(finding("server", Verdict::Bad, Chain(&error).to_string()));
                continue;
            }
        };
        let (_, session) = stream.get_ref();
        let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS");
        findings.push(finding("server", Verdict::Good, format!("{server} answers with {version}")));
        let shown = session.peer_certificates().and_then(<[_]>::first);
        findings.extend(shown.map(|certificate| look_at_certificate("certificate", certificate, now)));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::SystemClock;

    fn verdict_of(findings: &[Finding], what: &str) -> Verdict {
        findings.iter().find(|finding| finding.what == what).unwrap_or_else(|| panic!("nothing about {what}")).verdict
    }

    #[tokio::test]
    async fn every_trouble_has_its_line() {
        let directory = tempfile::tempdir().unwrap();
        // A port on which nobody listens: bound and given up at once.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let authority = rcgen::generate_simple_self_signed(vec!["x".into()]).unwrap();
        let config = Config {
            servers: vec![format!("127.0.0.1:{port}")],
            trusted_certs: authority.cert.pem(),
            state_dir: directory.path().into(),
            ..Config::default()
        };
        let findings = examine(Ok(config.clone()), Arc::new(SystemClock)).await;
        assert_eq!(verdict_of(&findings, "config"), Verdict::Good);
        assert_eq!(verdict_of(&findings, "state"), Verdict::Good);
        assert_eq!(verdict_of(&findings, "key"), Verdict::Warn);
        assert_eq!(verdict_of(&findings, "trusted"), Verdict::Good);
        assert_eq!(verdict_of(&findings, "server"), Verdict::Bad);

        std::fs::write(directory.path().join("agent.key"), "x").unwrap();
        let acl_file = directory.path().join("acl.cfg");
        std::fs::write(&acl_file, "xx").unwrap();
        let broken = Config { trusted_certs: "-----BEGIN nothing".into(), servers: vec![], acl_file, ..config };
        let findings = examine(Ok(broken), Arc::new(SystemClock)).await;
        for what in ["config", "key", "trusted", "investigators"] {
            assert_eq!(verdict_of(&findings, what), Verdict::Bad, "{what}");
        }
    }

    #[test]
    fn a_clock_that_was_never_set_is_bad() {
        assert_eq!(look_at_clock(Timestamp::EPOCH).verdict, Verdict::Bad);
    }
}
