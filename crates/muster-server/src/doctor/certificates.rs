//! Every certificate that a server presents or that its configuration names: days left, keys that do not fit, and whether
//! what lies in the files is what is presented.

use super::{failed, ok, second, warning};
use crate::config::{Config, ConfigError, files};
use crate::listener_certificates::Presented;
use muster_api::server::Check;
use muster_core::Timestamp;
use std::time::Duration;

/// How long before its end a certificate is worth a warning. One that the server makes is renewed when a third of its life
/// is left.
const WARNING: Duration = Duration::from_hours(14 * 24);
const DAY: Duration = Duration::from_hours(24);

const RENEW: &str = "Put a new one there, and send the server SIGHUP.";

/// Looks at all of them, and at whatever else the configuration names. `presented`: by the server that runs, if one does.
pub(super) fn checks(config: &Config, now: Timestamp, presented: &[Presented]) -> Vec<Check> {
    let mut problems = files::problems(config, now);
    let made = presented.iter().filter(|one| one.from_files.is_none()).map(|one| made(one, now));
    let mut checks: Vec<_> = made.collect();
    for named in files::certificates(config) {
        let (own, others): (Vec<_>, Vec<_>) = problems.into_iter().partition(|problem| problem.key == named.key);
        problems = others;
        let running = presented
            .iter()
            .find(|one| one.from_files.is_some() && named.key == format!("{}.certificate", one.section));
        checks.push(from_file(&named, &own, running, now));
    }
    checks.push(other_files(&problems));
    checks
}

/// Looks at one that the server makes itself.
fn made(presented: &Presented, now: Timestamp) -> Check {
    let name = format!("{}.certificate", presented.section);
    match &presented.failure {
        Some(why) => failed(&name, format!("it could not be renewed: {why}"), "Look at the server's log."),
        None => {
            dates(&name, "made by this server, ", presented.dates, now, "Restart the server, which makes a new one.")
        }
    }
}

/// Looks at one from a file, with what is wrong with it, and with what the running server presents instead.
fn from_file(named: &files::Named, problems: &[ConfigError], running: Option<&Presented>, now: Timestamp) -> Check {
    let still = running.map_or_else(String::new, |running| {
        format!("; the server goes on with the one that it read before, valid until {}", second(running.dates.1))
    });
    if let Some(first) = problems.first() {
        let all: Vec<_> = problems.iter().map(|problem| problem.why.as_str()).collect();
        let advice = format!("{} Then send the server SIGHUP.", first.advice);
        return failed(&named.key, format!("{}{still}", all.join("; ")), &advice);
    }
    if let Some(why) = running.and_then(|running| running.failure.as_ref()) {
        let found = format!("it could not be read again: {why}{still}");
        return failed(&named.key, found, "Correct the files, and send the server SIGHUP.");
    }
    if running.is_some_and(|running| running.from_files != named.first) {
        let found = format!("{} holds another one than the server presents{still}", named.path.display());
        return warning(&named.key, found, "Send the server SIGHUP, which reads it.");
    }
    let path = format!("{}: ", named.path.display());
    match named.dates {
        Some(span) => dates(&named.key, &path, span, now, RENEW),
        None => failed(&named.key, format!("{path}it cannot be read"), "Name a file of certificates in PEM form."),
    }
}

fn dates(name: &str, what: &str, (from, until): (Timestamp, Timestamp), now: Timestamp, renew: &str) -> Check {
    let (from_shown, until_shown) = (second(from), second(until));
    if now < from {
        let found = format!("{what}valid from {from_shown}, and now is {}", second(now));
        return failed(name, found, "Set the clock of this machine.");
    }
    if now >= until {
        return failed(name, format!("{what}ended {until_shown}"), renew);
    }
    let left = until.since(now);
    let found = format!("{what}valid until {until_shown} ({} days left)", left.as_secs() / DAY.as_secs());
    if left < WARNING { warning(name, found, renew) } else { ok(name, found) }
}

/// What else the configuration names, as a start would read it.
fn other_files(problems: &[ConfigError]) -> Check {
    let name = "configured files";
    match problems {
        [] => ok(name, "keys and services files can be used"),
        [first, ..] => {
            let found: Vec<_> = problems.iter().map(|problem| format!("{}: {}", problem.key, problem.why)).collect();
            failed(name, found.join("; "), &first.advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Agents, Operators};
    use crate::listener_certificates::FileCertificate;
    use crate::pki::CertificateFiles;
    use rcgen::{CertificateParams, KeyPair};
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::{Path, PathBuf};

    fn day(day: i64) -> Timestamp {
        Timestamp::from_secs(day * 86_400)
    }

    /// Writes a certificate that is valid between two days, and its key.
    fn pair(dir: &Path, name: &str, (from, until): (i64, i64)) -> (PathBuf, PathBuf) {
        let (key, epoch) = (KeyPair::generate().unwrap(), rcgen::date_time_ymd(1970, 1, 1));
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = epoch + day(from).since(Timestamp::EPOCH);
        params.not_after = epoch + day(until).since(Timestamp::EPOCH);
        let (certificate, key_path) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        std::fs::write(&certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&key_path, Permissions::from_mode(0o600)).unwrap();
        (certificate, key_path)
    }

    fn operators((certificate, key): (PathBuf, PathBuf)) -> Config {
        let operators = Operators { certificate: Some(certificate), key: Some(key), ..Operators::default() };
        Config { operators, ..Config::default() }
    }

    fn of(checks: &[Check], name: &str) -> (String, String) {
        let check = checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no {name}: {checks:?}"));
        (check.outcome.clone(), check.found.clone())
    }

    #[test]
    fn every_certificate_is_shown_with_its_days_and_an_end_fails() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = operators(pair(dir.path(), "operators", (20_000, 20_100)));
        config.agents.signature_authorities = Some(pair(dir.path(), "authority", (20_000, 20_050)).0);
        let at = |now: i64| {
            let checks = checks(&config, day(now), &[]);
            (of(&checks, "operators.certificate"), of(&checks, "agents.signature_authorities"))
        };
        let (own, authority) = at(20_000);
        assert_eq!((own.0.as_str(), authority.0.as_str()), ("ok", "ok"));
        assert!(own.1.contains("operators.pem") && own.1.contains("(100 days left)"), "{own:?}");
        assert!(authority.1.contains("(50 days left)"), "{authority:?}");
        let (own, authority) = at(20_090);
        assert_eq!((own.0.as_str(), authority.0.as_str()), ("warning", "failed"));
        assert!(own.1.contains("(10 days left)"), "{own:?}");
        assert_eq!(at(20_101).0.0, "failed");
        assert_eq!(at(19_999).0.0, "failed");
        assert_eq!(of(&checks(&config, day(20_101), &[]), "configured files").0, "ok", "nothing is said twice");
    }

    #[test]
    fn a_key_that_does_not_fit_is_found_and_the_pair_before_stays() {
        let dir = tempfile::tempdir().unwrap();
        let files = pair(dir.path(), "operators", (20_000, 20_100));
        let config = operators(files.clone());
        let own = CertificateFiles { certificate: files.0.clone(), key: files.1.clone(), authority: None };
        let certificate = FileCertificate::open(own).unwrap();
        let before = certificate.slot().get();
        let now = day(20_001);
        let presented = |failure: Option<String>| Presented {
            section: "operators",
            dates: (day(20_000), day(20_100)),
            from_files: before.cert.first().cloned(),
            failure,
        };
        let found = |failure| of(&checks(&config, now, &[presented(failure)]), "operators.certificate");
        assert_eq!(found(None).0, "ok");
        assert!(!certificate.reload().unwrap());

        // A certificate is renewed, and its key is forgotten.
        let renewed = pair(dir.path(), "renewed", (20_000, 20_200));
        std::fs::copy(&renewed.0, &files.0).unwrap();
        let failure = certificate.reload().unwrap_err();
        assert_eq!(certificate.slot().get().cert, before.cert);
        let (outcome, text) = found(Some(failure.to_string()));
        assert_eq!(outcome, "failed");
        assert!(
            text.contains("does not belong") && text.contains("goes on with the one that it read before"),
            "{text}"
        );
        assert_eq!(of(&checks(&config, now, &[]), "operators.certificate").0, "failed", "also without a server");

        std::fs::copy(&renewed.1, &files.1).unwrap();
        let (outcome, text) = found(None);
        assert!(outcome == "warning" && text.contains("another one than the server presents"), "{text}");
        // Others can read the key that is to be read again.
        std::fs::set_permissions(&files.1, Permissions::from_mode(0o644)).unwrap();
        let failure = crate::observe::Chain(&certificate.reload().unwrap_err()).to_string();
        assert!(failure.contains("others can read it"), "{failure}");
        assert_eq!(certificate.slot().get().cert, before.cert);
        std::fs::set_permissions(&files.1, Permissions::from_mode(0o600)).unwrap();
        assert!(certificate.reload().unwrap());
        assert_ne!(certificate.slot().get().cert, before.cert);
    }

    #[test]
    fn one_that_the_server_makes_is_shown_too() {
        let presented = |failure: Option<&str>| Presented {
            section: "agents",
            dates: (day(10), day(100)),
            from_files: None,
            failure: failure.map(str::to_owned),
        };
        let config = Config { agents: Agents::default(), ..Config::default() };
        let at = |now| of(&checks(&config, day(now), &[presented(None)]), "agents.certificate").0;
        assert_eq!([at(9), at(10), at(90), at(100)], ["failed", "ok", "warning", "failed"]);
        let (outcome, found) = of(&checks(&config, day(10), &[presented(Some("no entropy"))]), "agents.certificate");
        assert!(outcome == "failed" && found.contains("no entropy"), "{found}");
    }
}
