//! Whose orders a machine runs: the keyring and the weights that lie beside its configuration.
//!
//! Stays true: they are planned from keys that the person has who sets the machine up; the server is not asked and takes
//! no part, neither here nor in where the agent looks for them.

use super::directory::{ADMINISTRATORS, KEYRING, Plan, WEIGHTS};
use crate::commands::investigator::read_key;
use crate::{Context, Exit, Failure};
use muster_api::investigators::InvestigatorRequest;
use muster_core::limits::WEIGHT_MAX;
use muster_trust::Certificate;
use reqwest::Method;
use serde_json::{Map, json};
use std::path::PathBuf;

const WHAT: &str = "could not write whose orders the agent runs";
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
    /// The name of the fleet that the machine belongs to: documents of trust for another fleet do not count
    #[arg(long, value_name = "NAME")]
    fleet: Option<String>,
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

    /// The fleet whose documents of trust count.
    pub(super) fn fleet(&self) -> Option<&str> {
        self.fleet.as_deref()
    }

    /// Plans keys and weights beside the configuration.
    pub(super) fn plan(&self, plan: &mut Plan) -> Result<(), Failure> {
        let (keys, administrators) = (read(&self.keys)?, read(&self.administrators)?);
        if (1..ADMINISTRATORS_MIN).contains(&administrators.len()) {
            let why = format!("{ADMINISTRATORS_MIN} administrators must sign a document, and there would be fewer");
            return Err(Failure::usage(WHAT, why).next("give --administrator for each of them"));
        }
        if !administrators.is_empty() && self.fleet.is_none() {
            let why = "documents of trust name their fleet, and a machine without one takes none";
            return Err(Failure::usage(WHAT, why).next("say which fleet the machine belongs to: --fleet NAME"));
        }
        plan_keys(plan, ADMINISTRATORS, &administrators);
        self.plan_orders(plan, &keys)
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

    fn plan_orders(&self, plan: &mut Plan, keys: &[Certificate]) -> Result<(), Failure> {
        if keys.is_empty() {
            return Ok(());
        }
        if self.signers_min as usize > keys.len() {
            let why = format!("--trust-min is {}, with --trust given {} times", self.signers_min, keys.len());
            return Err(Failure::usage(WHAT, why).next("give the keys of as many investigators as must sign"));
        }
        plan_keys(plan, KEYRING, keys);
        let mut investigators = Map::new();
        for certificate in keys {
            let fingerprint = certificate.fingerprint().to_string();
            investigators.insert(name(certificate), json!({ "fingerprint": fingerprint, "weight": 1 }));
        }
        let weights = json!({ "default": { "minimumweight": self.signers_min, "investigators": investigators } });
        let mut text = serde_json::to_string_pretty(&weights).expect("texts and numbers can always be written as JSON");
        text.push('\n');
        plan.files.push((WEIGHTS.to_owned(), text));
        Ok(())
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

fn plan_keys(plan: &mut Plan, directory: &str, keys: &[Certificate]) {
    if keys.is_empty() {
        return;
    }
    plan.directories.push(directory.to_owned());
    plan.files.extend(keys.iter().map(|key| (format!("{directory}/{}.asc", key.fingerprint()), key.to_armored())));
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
    use std::path::Path;

    const ALICE: &str = include_str!("keys/one.asc");
    const BOB: &str = include_str!("keys/two.asc");

    fn args(dir: &Path, keys: &[&str], signers_min: u32) -> TrustArgs {
        let keys = (0..).zip(keys).map(|(number, text)| {
            let path = dir.join(format!("{number}.asc"));
            std::fs::write(&path, text).unwrap();
            path
        });
        TrustArgs { keys: keys.collect(), signers_min, administrators: Vec::new(), fleet: None }
    }

    fn planned(args: &TrustArgs) -> Result<Plan, Failure> {
        let mut plan = Plan::default();
        args.plan(&mut plan).map(|()| plan)
    }

    #[test]
    fn what_is_planned_is_what_an_agent_reads() {
        let dir = tempfile::tempdir().unwrap();
        let plan = planned(&args(dir.path(), &[ALICE, BOB], 2)).unwrap();
        let texts: Vec<&[u8]> = plan.files.iter().map(|(_, text)| text.as_bytes()).collect();
        let [alice, bob, weights] = texts[..] else { panic!("{plan:?}") };
        let (keyring, bad) = Keyring::from_files([("alice", alice), ("bob", bob)]);
        assert!(bad.is_empty(), "{bad:?}");
        let weights = Acl::parse(weights).unwrap();
        weights.keys_check(&keyring).unwrap();
        let signers = |count| keyring.certificates().iter().take(count).map(|one| one.fingerprint().clone()).collect();
        assert!(weights.permit([("file", 1)], &signers(2)).is_ok());
        assert!(weights.permit([("file", 1)], &signers(1)).is_err());
        assert_eq!(plan.directories, [KEYRING]);
    }

    #[test]
    fn what_could_not_be_met_or_counts_twice_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(planned(&args(dir.path(), &[ALICE], 2)).is_err());
        assert!(planned(&args(dir.path(), &["no key"], 1)).is_err());
        assert!(planned(&args(dir.path(), &[ALICE, ALICE], 1)).is_err());
        assert!(planned(&args(dir.path(), &[], 1)).unwrap().files.is_empty());
        let mut lonely = args(dir.path(), &[ALICE], 1);
        lonely.administrators = lonely.keys.clone();
        assert!(planned(&lonely).unwrap_err().why.contains("2 administrators"));
        let two = args(dir.path(), &[ALICE, BOB], 1);
        let mut nowhere = TrustArgs { administrators: two.keys, ..args(dir.path(), &[], 1) };
        assert!(planned(&nowhere).unwrap_err().next.contains("--fleet"));
        nowhere.fleet = Some("prod".to_owned());
        assert_eq!(planned(&nowhere).unwrap().directories, [ADMINISTRATORS]);
    }
}
