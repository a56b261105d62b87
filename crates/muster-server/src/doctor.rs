//! What commonly goes wrong, looked at on purpose: `muster doctor`, with a running server or without.
//!
//! Stays true: looking changes nothing; every finding that is not `ok` says what to do.

use crate::config::Config;
use crate::rest::Rest;
use muster_api::server::Check;
use muster_core::Timestamp;
use muster_store::cluster::ServerRow;
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Files that a server should be able to hold open: an agent's stream is one.
const FILES_WANTED: u64 = 4096;
/// Bytes that should be free on the disk.
const DISK_WANTED: u64 = 512 * 1024 * 1024;
/// How much servers' clocks may differ.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);
/// How long before its end a certificate is worth a warning. It is renewed when a third of its life is left.
const CERTIFICATE_WARNING: Duration = Duration::from_hours(14 * 24);

/// What the checks of a running server need besides the parts of its REST door.
#[derive(Clone)]
pub struct Doctor {
    /// Names in the certificate of the agents' door.
    pub certificate_names: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
}

impl std::fmt::Debug for Doctor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Doctor")
    }
}

impl Doctor {
    /// Looks at a running server.
    pub(crate) async fn online(&self, rest: &Rest, servers: &[ServerRow]) -> Vec<Check> {
        let (config, now) = (&rest.config, rest.clock.now());
        let mut checks: Vec<_> = crate::rest::health_parts(rest)
            .await
            .into_iter()
            .map(|(name, failure)| match failure {
                None => ok(name, "ready"),
                Some(failure) => failed(name, failure, "Look at the server's log."),
            })
            .collect();
        if let Some(dates) = (rest.health.certificate)() {
            checks.push(certificate_dates(dates, now));
            checks.push(certificate_names(&config.agents.names, &(self.certificate_names)()));
        }
        checks.push(clocks(now, servers));
        checks.extend(machine(&config.data.0));
        checks
    }
}

/// Looks at what can be seen without a server: directory, disk, files, ports, and the file of an embedded database.
pub fn offline(config: &Config) -> Vec<Check> {
    let mut checks = machine(&config.data.0);
    let own = own_addresses(&config.data.0);
    let doors = [
        ("agents' door", config.agents.address),
        ("operators' door", config.operators.address),
        ("admin door", config.admin.address),
        ("cluster door", config.cluster_listen()),
    ];
    checks.extend(doors.into_iter().filter_map(|(name, listen)| Some(port(name, listen.address()?, &own))));
    checks
}

fn check(name: &str, outcome: &str, found: impl Into<String>, advice: Option<&str>) -> Check {
    Check { name: name.into(), outcome: outcome.into(), found: found.into(), advice: advice.map(str::to_owned) }
}

fn ok(name: &str, found: impl Into<String>) -> Check {
    check(name, "ok", found, None)
}

fn warning(name: &str, found: impl Into<String>, advice: &str) -> Check {
    check(name, "warning", found, Some(advice))
}

fn failed(name: &str, found: impl Into<String>, advice: &str) -> Check {
    check(name, "failed", found, Some(advice))
}

/// What the machine gives: the data directory, its disk, and open files.
fn machine(data: &Path) -> Vec<Check> {
    vec![directory(data), disk(data), files()]
}

fn directory(data: &Path) -> Check {
    let name = "data directory";
    match std::fs::metadata(data) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            warning(name, format!("{} does not exist yet", data.display()), "The first `muster serve` makes it.")
        }
        Err(error) => failed(name, format!("{}: {error}", data.display()), "Run as the user of the server."),
        Ok(found) if !found.is_dir() => failed(name, format!("{} is no directory", data.display()), "Set `data`."),
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            let mode = found.permissions().mode() & 0o777;
            let advice = "It holds keys: run `chmod 700` on it.";
            failed(name, format!("{} has mode {mode:o}", data.display()), advice)
        }
        Ok(_) => ok(name, format!("{} is its owner's alone", data.display())),
    }
}

fn disk(data: &Path) -> Check {
    let name = "disk";
    // A directory that is not there yet will lie on the disk of the nearest one that is.
    let Some(there) = data.ancestors().find(|path| path.exists()) else {
        return failed(name, format!("{} has no place", data.display()), "Set `data`.");
    };
    match rustix::fs::statvfs(there) {
        Err(error) => warning(name, format!("{}: {error}", there.display()), "Look at the disk."),
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let found = format!("{} MiB free", free / (1024 * 1024));
            if free < DISK_WANTED {
                warning(name, found, "Make room: a full disk stops every contact.")
            } else {
                ok(name, found)
            }
        }
    }
}

fn files() -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = limit.maximum.map_or_else(|| "without limit".to_owned(), |most| most.to_string());
    let found = format!("{most} open files");
    if limit.maximum.is_some_and(|most| most < FILES_WANTED) {
        return warning("file limit", found, "Each stream is one: raise the hard limit (LimitNOFILE of the unit).");
    }
    ok("file limit", found)
}

fn port(name: &str, address: SocketAddr, own: &BTreeSet<SocketAddr>) -> Check {
    if address.port() == 0 {
        return ok(name, format!("{address}: any free port"));
    }
    match TcpListener::bind(address) {
        Ok(_) => ok(name, format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && own.contains(&address) => {
            ok(name, format!("{address} is held by the server of this data directory"))
        }
        Err(error) => failed(name, format!("{address}: {error}"), "Stop what holds it, or choose another address."),
    }
}

/// Returns where the server of this data directory listens, if one runs.
fn own_addresses(data: &Path) -> BTreeSet<SocketAddr> {
    let text = std::fs::read_to_string(data.join(crate::serve::ADDRESSES)).unwrap_or_default();
    let addresses: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let addresses = addresses.as_object().into_iter().flatten();
    addresses.filter_map(|(_, address)| address.as_str()?.parse().ok()).collect()
}

fn certificate_dates((from, until): (Timestamp, Timestamp), now: Timestamp) -> Check {
    let name = "certificate dates";
    if now < from {
        return failed(name, format!("valid from {from}, and now is {now}"), "Set the clock of this machine.");
    }
    if now >= until {
        return failed(name, format!("ended {until}"), "Restart the server, which makes a new one.");
    }
    if until.since(now) < CERTIFICATE_WARNING {
        return warning(
            name,
            format!("ends {until}"),
            "It should have been renewed: look at the log, or put new files.",
        );
    }
    ok(name, format!("valid until {until}"))
}

fn certificate_names(wanted: &[String], have: &[String]) -> Check {
    let name = "certificate names";
    let missing: Vec<_> = wanted.iter().filter(|name| !covers(have, name)).map(String::as_str).collect();
    if missing.is_empty() {
        return ok(name, have.join(", "));
    }
    let advice = "Agents refuse a server under a name that is not in its certificate: restart it, or put a certificate \
                  with these names.";
    failed(name, format!("{} missing; there are {}", missing.join(", "), have.join(", ")), advice)
}

/// Whether a certificate for `have` is good for `wanted`, wildcards included.
fn covers(have: &[String], wanted: &str) -> bool {
    have.iter().any(|name| {
        name.eq_ignore_ascii_case(wanted)
            || name.strip_prefix("*.").is_some_and(|domain| {
                wanted.split_once('.').is_some_and(|(host, rest)| !host.is_empty() && rest.eq_ignore_ascii_case(domain))
            })
    })
}

/// Compares the clocks of living servers: a beat from the future comes from a clock that is ahead of ours.
fn clocks(now: Timestamp, servers: &[ServerRow]) -> Check {
    let ahead = servers.iter().map(|server| server.beat.since(now)).max().unwrap_or_default();
    if ahead > CLOCK_TOLERANCE {
        let found = format!("another server's clock is {} s ahead of this one's", ahead.as_secs());
        return failed("clock", found, "Let both machines keep time (NTP).");
    }
    ok("clock", now.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_can_read_fails() {
        let data = tempfile::tempdir().unwrap();
        std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(directory(data.path()).outcome, "failed");
        std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(directory(data.path()).outcome, "ok");
        assert_eq!(directory(&data.path().join("none")).outcome, "warning");
        assert!(disk(&data.path().join("none")).found.ends_with("MiB free"));
    }

    #[test]
    fn a_port_is_free_or_ours_or_somebody_elses() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        assert_eq!(port("door", address, &BTreeSet::new()).outcome, "failed");
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("addresses.json"), format!("{{\"agents\": \"{address}\"}}")).unwrap();
        let own = own_addresses(data.path());
        assert_eq!(port("door", address, &own).outcome, "ok");
        drop(held);
        assert!(port("door", address, &BTreeSet::new()).found.ends_with("is free"));
    }

    #[test]
    fn a_certificate_needs_every_name_and_the_present() {
        let have = ["Fleet.example".to_owned(), "*.b.example".to_owned(), "10.0.0.1".to_owned()];
        let outcome = |wanted: &[&str]| {
            certificate_names(&wanted.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &have).outcome
        };
        assert_eq!(outcome(&["fleet.example", "a.b.example", "10.0.0.1"]), "ok");
        assert_eq!(outcome(&["b.example"]), "failed");
        assert_eq!(outcome(&["a.a.b.example"]), "failed");
        let day = |day: i64| Timestamp::from_secs(day * 86_400);
        let at = |now| certificate_dates((day(10), day(100)), day(now)).outcome;
        assert_eq!([at(9), at(10), at(90), at(100)], ["failed", "ok", "warning", "failed"]);
    }

    #[test]
    fn a_clock_that_is_ahead_is_noticed() {
        let server = |beat| ServerRow {
            id: muster_core::ServerId::from_bytes([0; 8]),
            wake_url: String::new(),
            started: Timestamp::EPOCH,
            beat: Timestamp::from_secs(beat),
        };
        let now = Timestamp::from_secs(100);
        assert_eq!(clocks(now, &[server(90), server(104)]).outcome, "ok");
        assert_eq!(clocks(now, &[server(106)]).outcome, "failed");
        assert_eq!(clocks(now, &[]).outcome, "ok");
    }
}
