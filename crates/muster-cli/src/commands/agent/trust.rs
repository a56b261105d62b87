//! Whose orders a machine runs: the keyring and the weights that lie beside its configuration.
//!
//! Stays true: they are written by the person who sets the machine up, from keys that this person has; the server is not
//! asked and takes no part.

use super::config::{make_dir, write_private};
use crate::commands::investigator::read_key;
use crate::{Context, Exit, Failure};
use muster_api::investigators::InvestigatorRequest;
use muster_core::limits::WEIGHT_MAX;
use muster_trust::Certificate;
use reqwest::Method;
use serde_json::{Map, json};
use std::path::{Path, PathBuf};

const WHAT: &str = "could not write whose orders the agent runs";
/// Where an agent looks for keys and weights, beside its configuration.
const KEYRING: &str = "agentkeys";
const WEIGHTS: &str = "acl.cfg";
const ADMINISTRATORS: &str = "administrators";
/// MIG's bits for whoever asks machines: to search, and to see and make actions (docs/reference/mig-api.md).
const INVESTIGATOR: u32 = 63;
/// How many of them an agent wants unless its configuration says otherwise.
const ADMINISTRATORS_MIN: usize = 2;

/// Whose orders a machine runs.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TrustArgs {
    /// An investigator's public key: the machine runs what it signs
    #[arg(long = "trust", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// How many of these investigators must sign; modules that change something ask for two in any case
    #[arg(long = "trust-min", value_name = "NUMBER", default_value_t = 1, requires = "keys",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(WEIGHT_MAX)))]
    signers_min: u32,
    /// An administrator's public key: the machine takes documents of trust that two of them signed (see `muster trust`)
    #[arg(long = "administrator", value_name = "FILE")]
    administrators: Vec<PathBuf>,
}

impl TrustArgs {
    /// Returns whether anybody is trusted.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.administrators.is_empty()
    }

    /// Returns whether anybody may order something.
    pub fn has_investigators(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Writes keys and weights beside the configuration in `out`. Returns the paths of what was written.
    pub fn write(&self, out: &Path) -> Result<Vec<PathBuf>, Failure> {
        let (keys, administrators) = (read(&self.keys)?, read(&self.administrators)?);
        if (1..ADMINISTRATORS_MIN).contains(&administrators.len()) {
            let why = format!("{ADMINISTRATORS_MIN} administrators must sign a document, and there would be fewer");
            return Err(Failure::usage(WHAT, why).next("give --administrator for each of them"));
        }
        let mut written = put_keys(&out.join(ADMINISTRATORS), &administrators)?;
        written.extend(self.write_orders(out, &keys)?);
        Ok(written)
    }

    /// Tells a server who these investigators are, those that it does not know yet.
    pub async fn introduce(&self, context: &Context) -> Result<(), Failure> {
        for certificate in read(&self.keys)? {
            let request = InvestigatorRequest {
                name: certificate.user_ids().into_iter().next().unwrap_or_default(),
                public_key: Some(certificate.to_armored()),
                permissions: Some(INVESTIGATOR),
                reason: "trusted by the machine".to_owned(),
            };
            let what = format!("could not add investigator {}", request.name);
            match context.api.send(&what, Method::POST, &["investigators"], &request).await {
                Err(failure) if failure.exit != Exit::Conflict => return Err(failure),
                _ => {}
            }
        }
        Ok(())
    }

    fn write_orders(&self, out: &Path, keys: &[Certificate]) -> Result<Vec<PathBuf>, Failure> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        if self.signers_min as usize > keys.len() {
            let why = format!("--trust-min is {}, with --trust given {} times", self.signers_min, keys.len());
            return Err(Failure::usage(WHAT, why).next("give the keys of as many investigators as must sign"));
        }
        let mut written = put_keys(&out.join(KEYRING), keys)?;
        let mut investigators = Map::new();
        for certificate in keys {
            let fingerprint = certificate.fingerprint().to_string();
            investigators.insert(name(certificate), json!({ "fingerprint": fingerprint, "weight": 1 }));
        }
        let weights = json!({ "default": { "minimumweight": self.signers_min, "investigators": investigators } });
        let mut text = serde_json::to_string_pretty(&weights).expect("texts and numbers can always be written as JSON");
        text.push('\n');
        written.push(put(out.join(WEIGHTS), &text)?);
        Ok(written)
    }
}

fn read(paths: &[PathBuf]) -> Result<Vec<Certificate>, Failure> {
    let mut keys: Vec<Certificate> = Vec::new();
    for path in paths {
        let key = read_key(path)?;
        if keys.iter().any(|have| have.fingerprint() == key.fingerprint()) {
            return Err(Failure::usage(WHAT, "the same key twice: nobody counts twice").on(path.display()));
        }
        keys.push(key);
    }
    Ok(keys)
}

fn put_keys(directory: &Path, keys: &[Certificate]) -> Result<Vec<PathBuf>, Failure> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    make_dir(directory).map_err(|error| Failure::local(WHAT, directory.display(), &error))?;
    let file = |key: &Certificate| directory.join(format!("{}.asc", key.fingerprint()));
    keys.iter().map(|key| put(file(key), &key.to_armored())).collect()
}

fn put(path: PathBuf, text: &str) -> Result<PathBuf, Failure> {
    write_private(&path, text.as_bytes()).map_err(|error| Failure::local(WHAT, path.display(), &error))?;
    Ok(path)
}

/// Names a key for people; two keys of one name stay two, since their fingerprints differ.
fn name(certificate: &Certificate) -> String {
    let owner = certificate.user_ids().into_iter().next().unwrap_or_default();
    let fingerprint = certificate.fingerprint().to_string();
    format!("{owner} {}", &fingerprint[fingerprint.len().saturating_sub(16)..]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_trust::{Acl, Keyring};

    const ALICE: &str = include_str!("keys/one.asc");
    const BOB: &str = include_str!("keys/two.asc");

    fn args(dir: &Path, keys: &[&str], signers_min: u32) -> TrustArgs {
        let keys = (0..).zip(keys).map(|(number, text)| {
            let path = dir.join(format!("{number}.asc"));
            std::fs::write(&path, text).unwrap();
            path
        });
        TrustArgs { keys: keys.collect(), signers_min, administrators: Vec::new() }
    }

    #[test]
    fn what_is_written_is_what_an_agent_reads() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("agent");
        let written = args(dir.path(), &[ALICE, BOB], 2).write(&out).unwrap();
        let texts: Vec<Vec<u8>> = written.iter().map(|path| std::fs::read(path).unwrap()).collect();
        let [alice, bob, weights] = &texts[..] else { panic!("{written:?}") };
        let (keyring, bad) = Keyring::from_files([("alice", &alice[..]), ("bob", &bob[..])]);
        assert!(bad.is_empty(), "{bad:?}");
        let weights = Acl::parse(weights).unwrap();
        weights.keys_check(&keyring).unwrap();
        let signers = |count| keyring.certificates().iter().take(count).map(|one| one.fingerprint().clone()).collect();
        assert!(weights.permit([("file", 1)], &signers(2)).is_ok());
        assert!(weights.permit([("file", 1)], &signers(1)).is_err());
    }

    #[test]
    fn what_could_not_be_met_or_counts_twice_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("agent");
        assert!(args(dir.path(), &[ALICE], 2).write(&out).is_err());
        assert!(args(dir.path(), &["no key"], 1).write(&out).is_err());
        assert!(args(dir.path(), &[ALICE, ALICE], 1).write(&out).is_err());
        assert!(!out.exists());
        assert!(args(dir.path(), &[], 1).write(&out).unwrap().is_empty());
        let mut lonely = args(dir.path(), &[ALICE], 1);
        lonely.administrators = lonely.keys.clone();
        assert!(lonely.write(&out).unwrap_err().why.contains("2 administrators"));
    }
}
