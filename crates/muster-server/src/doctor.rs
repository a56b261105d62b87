//! What commonly goes wrong, looked at on purpose: `muster doctor`, with a running server or without.
//!
//! Stays true: looking changes nothing; every finding that is not `ok` says what to do.

mod certificates;

use crate::config::Config;
use crate::ownership::{self, OwnershipError};
use crate::rest::Rest;
use muster_api::server::Check;
use muster_core::{Clock as _, Timestamp, limits};
use muster_engine::ServiceState;
use muster_engine::access::{Grant, Role};
use muster_modules::place::account_name;
use muster_store::agents::DeadLetterCount;
use muster_store::cluster::{ServerRow, Soundness, TokenRow};
use muster_store::sqlite_soundness;
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
/// How long before the last token of an administrator ends it is worth a warning.
const TOKENS_WARNING: Duration = Duration::from_hours(14 * 24);
/// How long the embedded database may be looked at.
const SOUNDNESS_PATIENCE: Duration = Duration::from_secs(5);

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
        if (rest.health.certificate)().is_some() {
            checks.push(certificate_names(&config.agents.names, &(self.certificate_names)()));
        }
        checks.extend(certificates::checks(config, now, &(rest.health.presented)()));
        checks.push(clocks(now, servers));
        checks.push(services(now, &rest.engine.service_states()));
        let since = now.minus(limits::DEAD_LETTERS_NEWS);
        // That the database does not answer is found elsewhere.
        checks.extend(rest.engine.store().dead_letter_counts(since).await.ok().map(|lost| lost_messages(&lost)));
        // That the database does not answer is found elsewhere.
        checks.extend(rest.engine.store().token_list().await.ok().map(|tokens| administrators(&tokens, now)));
        checks.extend(database(rest).await);
        let own = servers.iter().find(|server| server.id == rest.engine.server());
        checks.extend(own.filter(|_| config.database.is_shared()).map(|own| wake_ups(&own.wake_url)));
        checks.extend(machine(&config.data.0));
        checks
    }
}

/// Looks whether anybody can still give orders over REST, and for how long.
fn administrators(tokens: &[TokenRow], now: Timestamp) -> Check {
    let name = "administrators";
    let is_valid = |token: &&TokenRow| token.expires.is_none_or(|end| end > now);
    let is_admin = |token: &&TokenRow| {
        token.role.parse::<Grant>().is_ok_and(|grant| grant.permissions() == Role::Admin.permissions())
    };
    let admins: Vec<_> = tokens.iter().filter(is_valid).filter(is_admin).collect();
    let restart = "Make one that lasts: `muster token create NAME --role admin`. Where nobody has any, whoever is root or the \
                   server's user restarts the server: it leaves a new one in admin.token of its data directory.";
    let Some(first) = admins.first() else {
        return failed(name, "no token of an administrator is valid", restart);
    };
    let ends = admins.iter().map(|token| token.expires);
    match ends.reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten() {
        Some(end) if end.since(now) < TOKENS_WARNING => {
            warning(name, format!("the last token of an administrator ends {}", second(end)), restart)
        }
        _ if admins.len() == 1 => ok(name, format!("one token, {}", first.name)),
        _ => ok(name, format!("{} tokens", admins.len())),
    }
}

/// Looks at the database itself. That it does not answer is found elsewhere.
async fn database(rest: &Rest) -> Vec<Check> {
    let before = rest.clock.now();
    let Ok(look) = rest.engine.store().database_look(SOUNDNESS_PATIENCE).await else { return Vec::new() };
    let after = rest.clock.now();
    let clock = look.clock.map(|clock| database_clock(before, clock, after));
    let settings = look.clock.is_some().then(|| durability(&look.careless));
    clock.into_iter().chain(settings).chain(look.soundness.map(soundness)).collect()
}

fn database_clock(before: Timestamp, database: Timestamp, after: Timestamp) -> Check {
    let name = "database clock";
    // The answer was written at some moment in between.
    let apart = before.since(database).max(database.since(after));
    if apart > CLOCK_TOLERANCE {
        let found = format!("the database's clock and this machine's are {} s apart", apart.as_secs());
        return failed(name, found, "Let both machines keep time (NTP).");
    }
    ok(name, "agrees with this machine's")
}

fn durability(careless: &[String]) -> Check {
    let name = "database durability";
    if careless.is_empty() {
        return ok(name, "what is acknowledged outlives a crash of the database");
    }
    let advice = "A crash of the database's machine loses what was acknowledged, or damages it: switch these on.";
    warning(name, careless.join(", "), advice)
}

fn soundness(found: Soundness) -> Check {
    let name = "database soundness";
    match found {
        Soundness::Sound => ok(name, "SQLite finds nothing wrong"),
        Soundness::Unfinished => {
            let found =
                format!("SQLite found nothing wrong in {} s, and had not finished", SOUNDNESS_PATIENCE.as_secs());
            ok(name, found)
        }
        Soundness::Damaged(lines) => {
            let found = lines.into_iter().next().unwrap_or_default();
            failed(name, found, "Stop the server, keep a copy of the file, and restore the last backup.")
        }
    }
}

/// Looks whether the services outside of the server take what they are given.
fn services(now: Timestamp, states: &[ServiceState]) -> Check {
    let name = "services";
    let away: Vec<String> = states
        .iter()
        .filter_map(|state| {
            let (since, reason) = (state.since?, state.reason.as_deref().unwrap_or_default());
            let seconds = now.since(since).as_secs();
            Some(format!("{} is {} for {seconds} s: {reason}", state.service, state.condition.word()))
        })
        .collect();
    if away.is_empty() {
        return ok(name, "each took the last message that it was given");
    }
    let advice =
        "Their messages wait and are given to them when they are back: look at these programs and their addresses.";
    failed(name, away.join("; "), advice)
}

/// Looks whether messages of machines were lost lately.
fn lost_messages(lost: &[DeadLetterCount]) -> Check {
    let name = "lost messages";
    let Some(most) = lost.first() else { return ok(name, "none in the last day") };
    let letters: u64 = lost.iter().map(|row| row.letters).sum();
    let to = if most.service.is_empty() { "no service".to_owned() } else { format!("service {:?}", most.service) };
    let found = format!(
        "{letters} in the last day could not be accepted, most of them to {to} ({} of {} machines, the last {}): {}",
        most.letters,
        most.machines,
        second(most.last),
        most.reason
    );
    warning(
        name,
        found,
        "Whoever sent them takes them for delivered: see `muster agent dead-letters` and `muster event list`.",
    )
}

/// Looks whether servers on other machines can wake this one.
fn wake_ups(url: &str) -> Check {
    let name = "wake-ups";
    let late = "Messages that other servers store for this one's streams come seconds late: set cluster.address.";
    let url_parsed = url.parse::<http::Uri>().ok().filter(|url| url.scheme().is_some());
    match url_parsed.as_ref().and_then(http::Uri::host) {
        None => warning(name, "other servers cannot wake this one", late),
        Some(host) => {
            let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
            if host == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
                return warning(name, format!("{url} is reached from this machine only"), late);
            }
            ok(name, url)
        }
    }
}

/// Looks at what can be seen without a server: directory, disk, files, ports, and the file of an embedded database.
pub fn offline(config: &Config) -> Vec<Check> {
    let mut checks = machine(&config.data.0);
    checks.extend(certificates::checks(config, crate::world::SystemClock.now(), &[]));
    let own = own_addresses(&config.data.0);
    let doors = [
        ("agents' door", config.agents.address),
        ("operators' door", config.operators.address),
        ("admin door", config.admin.address),
        ("cluster door", config.cluster_listen()),
    ];
    checks.extend(doors.into_iter().filter_map(|(name, listen)| Some(port(name, listen.address()?, &own))));
    let file = config.database.sqlite_path(&config.data.0).filter(|path| path.exists());
    checks.extend(file.map(|path| match sqlite_soundness(&path, SOUNDNESS_PATIENCE) {
        Ok(found) => soundness(found),
        Err(error) => failed("database soundness", format!("{}: {error}", path.display()), "Run as the server's user."),
    }));
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
        Ok(_) => match looked_at(data) {
            Ok(found) => ok(name, found),
            Err(error) => {
                let advice = "Whoever can change it is the server: correct this before you start or go on.";
                failed(name, crate::observe::Chain(&error).to_string(), advice)
            }
        },
    }
}

/// Whose the data directory is, in words. Root looks at an account's, too.
fn looked_at(data: &Path) -> Result<String, OwnershipError> {
    let keeper = ownership::keeper_of(data);
    ownership::directory_check(&keeper, data)?;
    let whose = if keeper.is_other() { account_name(keeper.user()) } else { "this user".to_owned() };
    Ok(format!("{} is {whose}'s alone", data.display()))
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

/// A moment to the second, for people.
fn second(moment: Timestamp) -> Timestamp {
    Timestamp::from_secs(moment.to_parts().0)
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
        return failed("servers' clocks", found, "Let both machines keep time (NTP).");
    }
    ok("servers' clocks", format!("none is ahead of {}", second(now)))
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
    fn a_certificate_needs_every_name() {
        let have = ["Fleet.example".to_owned(), "*.b.example".to_owned(), "10.0.0.1".to_owned()];
        let outcome = |wanted: &[&str]| {
            certificate_names(&wanted.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &have).outcome
        };
        assert_eq!(outcome(&["fleet.example", "a.b.example", "10.0.0.1"]), "ok");
        assert_eq!(outcome(&["b.example"]), "failed");
        assert_eq!(outcome(&["a.a.b.example"]), "failed");
    }

    #[test]
    fn the_end_of_the_last_administrators_token_is_announced() {
        let day = |day: i64| Timestamp::from_secs(day * 86_400);
        let token = |role: &str, expires: Option<i64>| TokenRow {
            name: "ann".to_owned(),
            sha256: [0; 32],
            role: role.to_owned(),
            created: day(0),
            expires: expires.map(day),
        };
        let outcome = |tokens: &[TokenRow]| administrators(tokens, day(100)).outcome;
        assert_eq!(outcome(&[token("admin", None)]), "ok");
        assert_eq!(outcome(&[token("admin", None), token("admin", Some(101))]), "ok");
        assert_eq!(outcome(&[token("admin", Some(101)), token("admin", Some(200))]), "ok");
        assert_eq!(outcome(&[token("admin", Some(101)), token("admin", Some(110))]), "warning");
        let none = administrators(&[token("admin", Some(99)), token("reader", None)], day(100));
        assert_eq!(none.outcome, "failed");
        assert!(none.advice.unwrap().contains("restarts the server"));
    }

    #[test]
    fn the_databases_clock_may_be_anywhere_within_the_look() {
        let at = Timestamp::from_secs;
        let outcome = |database| database_clock(at(100), at(database), at(110)).outcome;
        assert_eq!([94, 95, 105, 115, 116].map(outcome), ["failed", "ok", "ok", "ok", "failed"]);
    }

    #[test]
    fn settings_that_lose_what_was_acknowledged_are_named() {
        assert_eq!(durability(&[]).outcome, "ok");
        let check = durability(&["fsync=off".to_owned(), "synchronous_commit=off".to_owned()]);
        assert_eq!((check.outcome.as_str(), check.found.as_str()), ("warning", "fsync=off, synchronous_commit=off"));
    }

    #[test]
    fn a_damaged_file_fails() {
        assert_eq!(soundness(Soundness::Sound).outcome, "ok");
        assert_eq!(soundness(Soundness::Unfinished).outcome, "ok");
        let check = soundness(Soundness::Damaged(vec!["row 7 missing from index x".to_owned()]));
        assert_eq!((check.outcome.as_str(), check.found.as_str()), ("failed", "row 7 missing from index x"));
    }

    #[test]
    fn a_server_that_only_its_own_machine_can_wake_is_worth_a_word() {
        for (url, outcome) in [
            ("https://10.0.0.7:4443/", "ok"),
            ("http://one.example:4444/", "ok"),
            ("https://[2001:db8::1]:4443/", "ok"),
            ("http://127.0.0.1:4444/", "warning"),
            ("https://[::1]:4443/", "warning"),
            ("http://localhost:1/", "warning"),
            ("local", "warning"),
            ("", "warning"),
        ] {
            assert_eq!(wake_ups(url).outcome, outcome, "{url}");
        }
    }

    #[test]
    fn services_that_take_nothing_and_messages_that_are_lost_are_named() {
        let state = |condition, since: Option<i64>| ServiceState {
            service: "GRR".to_owned(),
            condition,
            since: since.map(Timestamp::from_secs),
            reason: since.map(|_| "connection refused".to_owned()),
        };
        let now = Timestamp::from_secs(100);
        assert_eq!(services(now, &[state(muster_engine::Condition::Ok, None)]).outcome, "ok");
        let check = services(now, &[state(muster_engine::Condition::Refusing, Some(40))]);
        assert_eq!(
            (check.outcome.as_str(), check.found.as_str()),
            ("failed", "GRR is refusing for 60 s: connection refused")
        );
        assert_eq!(lost_messages(&[]).outcome, "ok");
        let lost = |service: &str, letters| DeadLetterCount {
            service: service.to_owned(),
            letters,
            machines: 2,
            last: now,
            reason: "too long".to_owned(),
        };
        let check = lost_messages(&[lost("GRR", 38), lost("", 1)]);
        assert_eq!(check.outcome, "warning");
        assert!(
            check.found.starts_with("39 in the last day") && check.found.contains("\"GRR\" (38 of 2 machines"),
            "{}",
            check.found
        );
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
