//! The files that a configuration names: whether a start could use them.
//!
//! Stays true: looking changes nothing; each file is looked at as the start would read it, and a certificate also for its
//! dates, which TLS of the other side would refuse. Not here: what keys say by themselves (`check`).

use super::Config;
use super::load::ConfigError;
use crate::observe::Chain;
use crate::pki::{CertificateFiles, certificates_from, validity};
use crate::services;
use crate::world::SystemClock;
use muster_core::{Clock as _, Timestamp};
use rustls_pki_types::CertificateDer;
use std::path::{Path, PathBuf};

/// Looks at every file that the configuration names; returns what a start would fail on.
pub fn problems(config: &Config, now: Timestamp) -> Vec<ConfigError> {
    let keeper = crate::ownership::keeper_of(&config.data.0);
    let mut found = Found { now, problems: crate::ownership::configured(&keeper, config) };
    let agents = &config.agents;
    found.pair("agents", agents.certificate.as_ref(), agents.key.as_ref(), agents.authority.as_ref());
    let operators = &config.operators;
    found.pair("operators", operators.certificate.as_ref(), operators.key.as_ref(), None);
    found.pair("admin", config.admin.certificate.as_ref(), config.admin.key.as_ref(), None);
    for (key, path) in [
        ("agents.signature_authorities".to_owned(), &agents.signature_authorities),
        ("admin.client_ca".to_owned(), &config.admin.client_ca),
    ] {
        found.authority(&key, path.as_deref());
    }
    for (index, service) in config.services.iter().enumerate() {
        found.authority(&format!("services[{index}].cert_file"), service.cert_file.as_deref());
    }
    if let Some(path) = &config.fleetspeak_services {
        let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
        let read = read.and_then(|text| services::read_fleetspeak(&text).map_err(|error| Chain(&error).to_string()));
        if let Err(why) = read {
            found.note("fleetspeak_services", path, &why, "Correct it, or move it with `muster import fleetspeak`.");
        }
    }
    found.problems
}

/// Looks at them with this machine's clock.
pub fn problems_now(config: &Config) -> Vec<ConfigError> {
    problems(config, SystemClock.now())
}

/// A certificate that the configuration names.
#[derive(Debug)]
pub struct Named {
    /// The key that names it.
    pub key: String,
    /// Its file.
    pub path: PathBuf,
    /// What it holds first; `None` when that cannot be read, which is one of [`problems`].
    pub first: Option<CertificateDer<'static>>,
    /// From when to when it is valid; of several certificates of authorities, while all are.
    pub dates: Option<(Timestamp, Timestamp)>,
}

/// Returns every certificate that the configuration names: those that listeners present, and authorities.
pub fn certificates(config: &Config) -> Vec<Named> {
    let (agents, operators, admin) = (&config.agents, &config.operators, &config.admin);
    let mut named = vec![
        ("agents.certificate".to_owned(), &agents.certificate),
        ("operators.certificate".to_owned(), &operators.certificate),
        ("admin.certificate".to_owned(), &admin.certificate),
        ("agents.authority".to_owned(), &agents.authority),
        ("agents.signature_authorities".to_owned(), &agents.signature_authorities),
        ("admin.client_ca".to_owned(), &admin.client_ca),
    ];
    let services = config.services.iter().enumerate();
    named.extend(services.map(|(index, service)| (format!("services[{index}].cert_file"), &service.cert_file)));
    let look = |(key, path): (String, &Option<PathBuf>)| {
        let path = path.clone()?;
        let mut read = certificates_from(&path).unwrap_or_default();
        // Behind a listener's own certificate stand those that vouch for it.
        if key.ends_with(".certificate") {
            read.truncate(1);
        }
        let dates: Option<Vec<_>> = read.iter().map(|certificate| validity(certificate).ok()).collect();
        let both = |a: (Timestamp, Timestamp), b: (Timestamp, Timestamp)| (a.0.max(b.0), a.1.min(b.1));
        let dates = dates.and_then(|dates| dates.into_iter().map(|(from, until, _)| (from, until)).reduce(both));
        Some(Named { key, path, first: read.into_iter().next(), dates })
    };
    named.into_iter().filter_map(look).collect()
}

/// Where a key stands is known only while the configuration is read.
const ORIGIN: &str = "a file that the configuration names";

struct Found {
    now: Timestamp,
    problems: Vec<ConfigError>,
}

impl Found {
    fn note(&mut self, key: &str, path: &Path, why: &str, advice: &str) {
        let (key, why) = (key.to_owned(), format!("{}: {why}", path.display()));
        let origin = ORIGIN.to_owned();
        self.problems.push(ConfigError { origin, key, why, advice: advice.to_owned() });
    }

    /// Looks at a certificate with its key.
    fn pair(
        &mut self,
        section: &str,
        certificate: Option<&PathBuf>,
        key: Option<&PathBuf>,
        authority: Option<&PathBuf>,
    ) {
        let (Some(certificate), Some(key)) = (certificate, key) else { return };
        let files =
            CertificateFiles { certificate: certificate.clone(), key: key.clone(), authority: authority.cloned() };
        let name = format!("{section}.certificate");
        let advice = "Name files in PEM form: a certificate (its chain behind it) and its private key.";
        match files.look() {
            Err(error) => self.note(&name, certificate, &Chain(&error).to_string(), advice),
            Ok((from, until)) => self.dates(&name, certificate, from, until),
        }
        self.authority(&format!("{section}.authority"), authority.map(PathBuf::as_path));
    }

    /// Looks at certificates of an authority.
    fn authority(&mut self, key: &str, path: Option<&Path>) {
        let Some(path) = path else { return };
        match certificates_from(path) {
            Err(error) => self.note(key, path, &Chain(&error).to_string(), "Name a file of certificates in PEM form."),
            Ok(certificates) => {
                for certificate in &certificates {
                    match validity(certificate) {
                        Err(why) => self.note(key, path, &why, "Name a file of certificates in PEM form."),
                        Ok((from, until, _)) => self.dates(key, path, from, until),
                    }
                }
            }
        }
    }

    fn dates(&mut self, key: &str, path: &Path, from: Timestamp, until: Timestamp) {
        if self.now > until {
            self.note(key, path, &format!("the certificate expired at {until}"), "Put a new one there.");
        } else if self.now < from {
            let why = format!("the certificate is not valid before {from}");
            self.note(key, path, &why, "Set this machine's clock, or put another certificate there.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Agents, Operators, Overrides, Service, ServiceKind};
    use rcgen::{CertificateParams, KeyPair};
    use std::os::unix::fs::PermissionsExt as _;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    /// Writes a certificate of the years from and until, with its key, and names both.
    fn certificate(dir: &Path, name: &str, years: (i32, i32)) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let made = params.self_signed(&key).unwrap();
        let (certificate, key_path) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        std::fs::write(&certificate, made.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&key_path, std::fs::Permissions::from_mode(0o600)).unwrap();
        (certificate, key_path)
    }

    fn operators(files: &(PathBuf, PathBuf)) -> Config {
        let (certificate, key) = files.clone();
        let operators = Operators { certificate: Some(certificate), key: Some(key), ..Operators::default() };
        Config { operators, ..Config::default() }
    }

    fn words(config: &Config) -> String {
        problems(config, NOW).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn case_19_what_a_start_would_fail_on_is_found_before() {
        let dir = tempfile::tempdir().unwrap();
        let good = certificate(dir.path(), "good", (2020, 2040));
        assert_eq!(words(&operators(&good)), "");
        assert_eq!(words(&Config::default()), "");
        let placeholder = dir.path().join("placeholder.pem");
        std::fs::write(&placeholder, "PUT_CERTIFICATE_HERE").unwrap();
        let missing = dir.path().join("missing.pem");
        let other = certificate(dir.path(), "other", (2020, 2040));
        for (files, why) in [
            ((missing.clone(), good.1.clone()), "missing.pem"),
            ((good.0.clone(), missing.clone()), "missing.pem"),
            ((placeholder.clone(), good.1.clone()), "no certificate in PEM form"),
            ((good.0.clone(), placeholder.clone()), "no private key in PEM form"),
            ((good.0.clone(), other.1), "does not belong"),
            (certificate(dir.path(), "old", (2010, 2020)), "expired at 2020-01-01"),
            (certificate(dir.path(), "early", (2038, 2040)), "not valid before 2038-01-01"),
        ] {
            let found = words(&operators(&files));
            assert!(found.contains(why) && found.contains("operators.certificate"), "{why}: {found}");
        }
        let old = certificate(dir.path(), "old authority", (2010, 2020)).0;
        let agents = Agents { signature_authorities: Some(old), ..Agents::default() };
        assert!(words(&Config { agents, ..Config::default() }).contains("agents.signature_authorities"));
        let cert_file = Some(placeholder);
        let service = Service { name: "x".into(), kind: ServiceKind::Grpc, cert_file, ..Service::default() };
        let config = Config { services: vec![service], ..Config::default() };
        assert!(words(&config).contains("services[0].cert_file"), "{}", words(&config));
    }

    #[test]
    fn a_services_file_that_a_start_would_refuse_is_found_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("services");
        let text = format!("fleetspeak_services = {:?}\n", path.display().to_string());
        let config = Config::from_parts(&text, "x", [], &Overrides::default()).unwrap();
        assert!(words(&config).contains("fleetspeak_services"), "it is not there");
        std::fs::write(&path, "\u{feff}services { name: \"Bom\" factory: \"NOOP\" }\r\n").unwrap();
        assert_eq!(words(&config), "");
        std::fs::write(&path, "services { name: \"Bom\" factory: \"CPS\" }").unwrap();
        assert!(words(&config).contains("CPS"));
    }
}
