//! `muster action verify`: what a machine would say of an action's signatures, said here.

use super::file::{self, Place};
use crate::output::{Table, time, yes};
use crate::signing::{self, read_file};
use crate::{Exit, Failure, Globals, Output, values};
use muster_core::action::{Action, ActionError, Fingerprint};
use muster_core::target::Target;
use muster_core::{Timestamp, limits};
use muster_modules::registry;
use muster_trust::weights::Assessment;
use muster_trust::{Acl, Keyring, signed_text, verify};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const WHAT: &str = "could not verify the action";
/// The least weight of modules that are not known here, as machines take it.
const WEIGHT_UNKNOWN: u32 = 1;

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// The action: a file, - for standard input, or the number of one on the server
    action: String,
    /// Whose signatures count: a file with public keys, or a directory of such files; the keys of gpg unless told
    #[arg(long, value_name = "PATH")]
    keyring: Vec<PathBuf>,
    /// What signatures are worth: MIG's acl.cfg
    #[arg(long, value_name = "FILE")]
    acl: Option<PathBuf>,
    /// The gpg program, asked for its keys when there is no --keyring
    #[arg(long, env = "MUSTER_SIGN_GPG", value_name = "PROGRAM", default_value = "gpg")]
    gpg: PathBuf,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    good: bool,
    name: String,
    target: String,
    valid_from: String,
    expire_after: String,
    signed_sha256: String,
    /// What is wrong with the action itself.
    problem: Option<String>,
    signatures: Vec<SignatureReport>,
    /// What the signatures are worth, by operation; only with an ACL.
    operations: Vec<OperationReport>,
}

#[derive(Debug, Serialize)]
struct SignatureReport {
    signer: Option<String>,
    name: Option<String>,
    key: Option<String>,
    made: Option<String>,
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct OperationReport {
    module: String,
    need: Option<u64>,
    have: u64,
    passes: bool,
}

impl VerifyArgs {
    pub(super) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let out = Output::new(globals.json);
        let action = Place::of(&self.action).read(globals, WHAT).await?;
        let keyring = if self.keyring.is_empty() {
            let keys = signing::public_keys(&self.gpg).await?;
            keyring_of(out, &keys.into_iter().map(|key| ("gpg".to_owned(), key)).collect::<Vec<_>>())
        } else {
            keyring(out, &self.keyring)?
        };
        let acl = self.acl.as_deref().map(read_acl).transpose()?;
        let report = report(&action, &keyring, acl.as_ref(), values::now())?;
        show(out, &report)?;
        match verdict(&report) {
            None => Ok(()),
            Some(why) => Err(Failure::new(Exit::Failed, "machines would not run the action", why).on(self.action)),
        }
    }
}

pub(crate) fn read_acl(path: &Path) -> Result<Acl, Failure> {
    let bytes = read_file("could not read the ACL", path, limits::TRUST_DOCUMENT_BYTES_MAX)?;
    Acl::parse(&bytes).map_err(|error| Failure::usage("could not read the ACL", error.to_string()).on(path.display()))
}

/// Reads keys from files and directories. A file that is no key is told and passed over, as machines do.
pub(crate) fn keyring(out: Output, paths: &[PathBuf]) -> Result<Keyring, Failure> {
    const WHAT: &str = "could not read the keyring";
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let failed = |error: &std::io::Error| Failure::local(WHAT, path.display(), error);
        let mut inside = Vec::new();
        for entry in std::fs::read_dir(path).map_err(|error| failed(&error))? {
            let entry = entry.map_err(|error| failed(&error))?.path();
            if entry.is_file() {
                inside.push(entry);
            }
        }
        inside.sort();
        files.extend(inside);
    }
    let mut keys = Vec::new();
    for file in &files {
        let most = limits::PGP_KEY_BYTES_MAX * limits::KEYRING_KEYS_MAX;
        let bytes = read_file(WHAT, file, most)?;
        keys.extend(apart(bytes).into_iter().map(|key| (file.display().to_string(), key)));
    }
    Ok(keyring_of(out, &keys))
}

fn keyring_of(out: Output, keys: &[(String, Vec<u8>)]) -> Keyring {
    let (keyring, problems) = Keyring::from_files(keys.iter().map(|(name, key)| (name.as_str(), key.as_slice())));
    for (name, error) in problems {
        out.note(&format!("note: {}: {}", crate::output::safe(&name), crate::output::safe(&error.to_string())));
    }
    keyring
}

/// Parts a file of several armored keys, one below the other.
pub(crate) fn apart(bytes: Vec<u8>) -> Vec<Vec<u8>> {
    const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
    match std::str::from_utf8(&bytes) {
        Ok(text) if text.matches(BEGIN).count() > 1 => {
            text.split(BEGIN).skip(1).map(|key| format!("{BEGIN}{key}").into_bytes()).collect()
        }
        _ => vec![bytes],
    }
}

fn report(action: &Action, keyring: &Keyring, acl: Option<&Acl>, now: Timestamp) -> Result<Report, Failure> {
    let text = signed_text(action).map_err(|error| Failure::usage(WHAT, error.to_string()))?;
    let mut signers = BTreeSet::new();
    let signatures = action.pgp_signatures.iter().map(|line| signature(keyring, line, &text, now, &mut signers));
    let signatures: Vec<_> = signatures.collect();
    let least = |module: &str| registry::find(module).map_or(WEIGHT_UNKNOWN, |module| module.info().weight_min);
    let modules = || action.operations.iter().map(|operation| (operation.module.as_str(), least(&operation.module)));
    let operations = acl.map(|acl| acl.assess(modules(), &signers)).unwrap_or_default();
    let mut report = Report {
        good: false,
        name: action.name.clone(),
        target: action.target.clone(),
        valid_from: action.valid_from.to_string(),
        expire_after: action.expire_after.to_string(),
        signed_sha256: file::sha256(&text),
        problem: problem(action, now),
        signatures,
        operations: operations.into_iter().map(OperationReport::from).collect(),
    };
    report.good = verdict(&report).is_none();
    Ok(report)
}

/// That nobody signed is told by the absence of signatures.
fn problem(action: &Action, now: Timestamp) -> Option<String> {
    let checked = action.check(now).and_then(|()| action.window_check(now)).err();
    let checked = checked.filter(|error| *error != ActionError::SignaturesEmpty).map(|error| error.to_string());
    let checked = checked.or_else(|| {
        let error = Target::parse(&action.target).err()?;
        Some(format!("no machine can read its target: {error}"))
    });
    checked.or_else(|| super::decidable::check(WHAT, action).err().map(|failure| failure.why))
}

fn signature(
    keyring: &Keyring,
    line: &str,
    text: &str,
    now: Timestamp,
    signers: &mut BTreeSet<Fingerprint>,
) -> SignatureReport {
    match verify(keyring, line, text.as_bytes(), now) {
        Ok(signed) => {
            let name = keyring.get(&signed.signer).and_then(|key| key.user_ids().into_iter().next());
            let twice = !signers.insert(signed.signer.clone());
            SignatureReport {
                signer: Some(signed.signer.to_string()),
                name,
                key: Some(signed.key.to_string()),
                made: Some(signed.made.to_string()),
                problem: twice.then(|| "the same person signed twice: counted once".to_owned()),
            }
        }
        Err(error) => {
            SignatureReport { signer: None, name: None, key: None, made: None, problem: Some(error.to_string()) }
        }
    }
}

impl From<Assessment> for OperationReport {
    fn from(of: Assessment) -> Self {
        let passes = of.passes();
        Self { module: of.module, need: of.need, have: of.have, passes }
    }
}

/// Says why a machine would not run it, as far as that can be known here.
fn verdict(report: &Report) -> Option<String> {
    if let Some(problem) = &report.problem {
        return Some(problem.clone());
    }
    if report.signatures.is_empty() {
        return Some("nobody signed it".to_owned());
    }
    if !report.signatures.iter().any(|signature| signature.signer.is_some()) {
        return Some("none of its signatures is good".to_owned());
    }
    let lacks = report.operations.iter().find(|operation| !operation.passes)?;
    Some(match lacks.need {
        Some(need) => format!("module {} needs a weight of {need}, the signatures have {}", lacks.module, lacks.have),
        None => format!("the ACL permits module {} to nobody", lacks.module),
    })
}

fn show(out: Output, report: &Report) -> Result<(), Failure> {
    if out.json {
        return out.json(report);
    }
    out.pairs(&[
        ("Name", report.name.clone()),
        ("Target", report.target.clone()),
        ("Valid from", time(&report.valid_from)),
        ("Expires", time(&report.expire_after)),
        ("SHA-256", report.signed_sha256.clone()),
    ])?;
    let mut table = Table::new(&["SIGNER", "NAME", "MADE", "GOOD", "WHY"]);
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for signature in &report.signatures {
        table.row([
            dash(&signature.signer),
            dash(&signature.name),
            signature.made.as_deref().map_or_else(|| "-".to_owned(), time),
            yes(signature.signer.is_some()),
            signature.problem.clone().unwrap_or_default(),
        ]);
    }
    out.table(&table, "No signatures.")?;
    if report.operations.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["MODULE", "NEEDS", "HAS", "PASSES"]);
    for operation in &report.operations {
        let need = operation.need.map_or_else(|| "permitted to nobody".to_owned(), |need| need.to_string());
        table.row([operation.module.clone(), need, operation.have.to_string(), yes(operation.passes)]);
    }
    out.table(&table, "")
}
