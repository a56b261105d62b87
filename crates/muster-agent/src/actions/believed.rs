//! Whom this machine believes: keys and weights from files of the configuration, or from documents that administrators
//! signed.
//!
//! A document of investigators takes the place of both files, keys and weights, so that those of two days are never mixed;
//! once there is one, only a newer one takes its place. What administrators revoked counts beside it, until a newer document of
//! that kind. Accepted
//! documents are kept in the order in which they came, each with the moment at which it was accepted, and are read again
//! in that order at every start, because administrators change by documents, too.
//! Stays true: what cannot be read permits nothing, except that weights which were read before stay in force while the
//! agent runs; what is wrong is kept as [`Problem`]s for whoever looks; a refused document leaves what is in force, on the
//! disk as well.
//! Not here: what makes a document good (muster-trust).

use crate::chain::Chain;
use crate::config::Config;
use crate::durable::{self, Sync};
use crate::pins::read_pins;
use crate::revocations::leaves_none;
use muster_core::{Timestamp, limits};
use muster_trust::document::{
    Administrators, Content, Document, DocumentError, InForce, Kind, Receiver, Revocations, accept, reread,
};
use muster_trust::{Acl, Keyring, TargetMatch};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Documents kept: one of investigators, and every change of administrators.
const DOCUMENTS_MAX: usize = 1000;

/// What is believed.
#[derive(Debug, Clone)]
pub(crate) struct Believed {
    /// Whose signatures are looked at.
    pub(crate) keyring: Keyring,
    /// What they are worth.
    pub(crate) acl: Acl,
    /// The weights as they were written, for people and for the server.
    pub(crate) acl_text: String,
    /// When the first document in force expires.
    pub(crate) expires: Option<Timestamp>,
    /// Certificates that administrators revoked for good.
    pub(crate) revocations: Arc<Revocations>,
    /// Documents in force, by kind.
    pub(crate) in_force: BTreeMap<Kind, InForce>,
    /// What is wrong with what was read.
    pub(crate) problems: Vec<Problem>,
    /// The weights that were last read of the file, whatever is in force.
    of_file: Option<Weights>,
    administrators: Option<Administrators>,
    /// The certificates that the configuration has this machine trust.
    pins: Vec<CertificateDer<'static>>,
    /// The fleet that this machine belongs to; empty: none.
    fleet: String,
    kept: Vec<Kept>,
    /// Documents that were accepted before cannot be read.
    closed: bool,
    path: PathBuf,
}

/// Weights, and how they were written.
type Weights = (Acl, String);

/// Something that is wrong with the files or documents that say whom this machine believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Whether orders are refused for it that should not be.
    pub(crate) is_grave: bool,
    /// What it is, of which file, and what follows.
    pub(crate) text: String,
}

/// An accepted document on the disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    at: Timestamp,
    kind: Kind,
    in_force: InForce,
    document: String,
}

/// Why a document is not in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    /// Nobody may sign documents for this machine.
    #[error("no administrators are configured on this machine (administrators_dir), so it takes no documents")]
    NoAdministrators,
    /// It is not good.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Documents that were accepted before cannot be read, so nothing can be compared with them.
    #[error("the documents accepted before cannot be read; restore or remove {}", .0.display())]
    Unreadable(PathBuf),
    /// The disk.
    #[error("the document cannot be kept in {}", path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A mistake in this program.
    #[error("looking at the document hit a defect of this program")]
    Defect,
    /// Nothing would be left that this machine trusts.
    #[error(
        "the document revokes every certificate in this machine's trusted_certs, and would cut it off from its servers for good: \
         give machines another authority first, or say that this is meant (`muster trust new revocations --cut-off`)"
    )]
    CutsOff,
    /// There were too many.
    #[error("administrators changed {DOCUMENTS_MAX} times; install this machine's administrators_dir anew")]
    TooMany,
}

impl Believed {
    /// Reads files and documents. What is missing permits nothing; what is wrong permits nothing and is a problem.
    pub(crate) fn load(config: &Config, path: &Path) -> Self {
        Self::load_after(None, config, path)
    }

    /// Reads files and documents anew, for an agent that believes `before` until then.
    pub(crate) fn load_after(before: Option<&Self>, config: &Config, path: &Path) -> Self {
        let mut problems = Vec::new();
        let keyring = read_keyring(&config.keyring_dir, "keyring_dir", &mut problems);
        let read = read_acl(&config.acl_file);
        let kept = before.and_then(|before| before.of_file.clone());
        let (of_file, unusable) = match read {
            Ok(weights) => (Some(weights), None),
            Err(why) => (kept, Some(why)),
        };
        let administrators = read_administrators(config, &mut problems);
        let (acl, acl_text) = of_file.clone().unwrap_or_else(nothing);
        let mut believed = Self {
            keyring,
            acl,
            acl_text,
            expires: None,
            revocations: Arc::default(),
            in_force: BTreeMap::new(),
            problems,
            of_file,
            administrators,
            pins: config.trusted_pem().ok().and_then(|pem| read_pins(&pem).ok()).unwrap_or_default(),
            fleet: config.fleet.clone(),
            kept: Vec::new(),
            closed: false,
            path: path.into(),
        };
        if let Err(why) = believed.read_documents() {
            let shown = path.display();
            believed.trouble(format!(
                "the documents accepted before, {shown}, cannot be read ({why}); every order is refused, and what \
                 administrators revoked is not known"
            ));
            believed.close();
        }
        if let Some(why) = unusable {
            believed.tell_unusable(&why, before.is_some());
        }
        if let Err(why) = believed.acl.keys_check(&believed.keyring) {
            let text = format!("{why}; until then its signatures count for nothing");
            believed.problems.push(Problem { is_grave: false, text });
        }
        believed
    }

    /// Says what follows of weights that cannot be used.
    fn tell_unusable(&mut self, why: &str, is_running: bool) {
        let has_document = [Kind::Investigators, Kind::Acl].iter().any(|kind| self.in_force.contains_key(kind));
        let follows = match (has_document, is_running && self.of_file.is_some()) {
            (true, _) => "the administrators' document counts in its place",
            (false, true) => "those that were read before stay in force until the agent is started again",
            (false, false) => "an agent that starts permits nothing, one that runs keeps what it read before",
        };
        self.problems.push(Problem { is_grave: !has_document, text: format!("{why}; {follows}") });
    }

    fn trouble(&mut self, text: String) {
        self.problems.push(Problem { is_grave: true, text });
    }

    /// Writes the problems to the log.
    pub(crate) fn log_problems(&self) {
        for Problem { is_grave, text } in &self.problems {
            if *is_grave { tracing::error!("{text}") } else { tracing::warn!("{text}") }
        }
    }

    /// Permits nothing more.
    fn close(&mut self) {
        self.acl = Acl::default();
        "{}".clone_into(&mut self.acl_text);
        self.expires = Some(Timestamp::from_nanos(i64::MIN));
        self.closed = true;
    }

    fn read_documents(&mut self) -> Result<(), String> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let kept: Vec<Kept> = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        for kept in kept {
            // Judged as of then: a document whose time is over since stays in force, and says so by its end.
            let administrators = self.administrators.as_ref().ok_or(NotTaken::NoAdministrators);
            let administrators = administrators.map_err(|error| error.to_string())?;
            let document = reread(kept.document.as_bytes(), administrators, &kept.in_force, &self.fleet, kept.at)
                .map_err(|error| error.to_string())?;
            if document.kind != kept.kind || document.in_force != kept.in_force {
                return Err("a document is not the one that was accepted".to_owned());
            }
            self.put_in_force(document, kept);
        }
        Ok(())
    }

    fn put_in_force(&mut self, document: Document, kept: Kept) {
        self.in_force.insert(document.kind, document.in_force);
        match document.content {
            Content::Investigators(keyring, acl) => {
                (self.keyring, self.acl) = (keyring, acl);
                self.acl_text = content_of(&kept.document, Some("weights")).unwrap_or_default();
                // What was taken apart before is not put beside it.
                self.in_force.remove(&Kind::Keyring);
                self.in_force.remove(&Kind::Acl);
            }
            Content::Keyring(keyring) => self.keyring = keyring,
            Content::Acl(acl) => {
                self.acl = acl;
                self.acl_text = content_of(&kept.document, None).unwrap_or_default();
            }
            Content::Administrators(administrators) => self.administrators = Some(administrators),
            Content::Revocations(revocations) => self.revocations = Arc::new(revocations),
            Content::Clock => {}
        }
        self.kept = with(&self.kept, kept);
        // The end of the administrators' own document is no reason to stop believing what they signed, and what they revoked
        // stays revoked.
        let ends = self.kept.iter().filter(|kept| !counts_on(kept.kind));
        self.expires = ends.filter_map(|kept| end_of(&kept.document)).min();
    }

    /// Takes a document: it is on the disk when this returns, and in force. `target` says whether a target means this
    /// machine, whose `clock` may stand behind what is known to be past: then the `floor` is nearer to the truth, except for
    /// administrators who say that it is not.
    pub(crate) fn take(
        &mut self,
        json: &[u8],
        target: &dyn Fn(&str) -> TargetMatch,
        (clock, floor): (Timestamp, Timestamp),
    ) -> Result<Taken, NotTaken> {
        if self.closed {
            return Err(NotTaken::Unreadable(self.path.clone()));
        }
        let administrators = self.administrators.as_ref().ok_or(NotTaken::NoAdministrators)?;
        let receiver = Receiver { fleet: &self.fleet, target };
        let in_force = |kind| self.in_force.get(&kind).cloned();
        let mut now = clock.max(floor);
        let document = match accept(json, administrators, in_force, &receiver, now) {
            Err(_) if clock < floor && is_of_clock(json) => {
                now = clock;
                accept(json, administrators, in_force, &receiver, now)?
            }
            judged => judged?,
        };
        let (kind, in_force, floor) = (document.kind, document.in_force.clone(), document.floor);
        if self.in_force.get(&kind) == Some(&in_force) {
            return Ok(Taken { kind, floor, is_new: false });
        }
        if let Content::Revocations(revocations) = &document.content
            && !revocations.cuts_off()
            && leaves_none(&self.pins, revocations)
        {
            return Err(NotTaken::CutsOff);
        }
        let kept = Kept { at: now, kind, in_force, document: String::from_utf8_lossy(json).into_owned() };
        let all = with(&self.kept, kept.clone());
        if all.len() > DOCUMENTS_MAX {
            return Err(NotTaken::TooMany);
        }
        let bytes = serde_json::to_vec(&all).expect("text and numbers are JSON");
        durable::replace(&self.path, &bytes, Sync::Power)
            .map_err(|source| NotTaken::Disk { path: self.path.clone(), source })?;
        self.put_in_force(document, kept);
        Ok(Taken { kind, floor, is_new: true })
    }

    /// Returns the version of the document that the keys come from; 0 when files are.
    pub(crate) fn keyring_version(&self) -> u64 {
        self.version(Kind::Keyring)
    }

    /// Returns the version of the document that the weights come from; 0 when files are.
    pub(crate) fn acl_version(&self) -> u64 {
        self.version(Kind::Acl)
    }

    /// Returns the version of the document that says what administrators revoked; 0 when there is none.
    pub(crate) fn revocations_version(&self) -> u64 {
        self.in_force.get(&Kind::Revocations).map_or(0, |in_force| in_force.version)
    }

    /// Of the document that holds both, else of the one that holds this kind alone, as before.
    fn version(&self, kind: Kind) -> u64 {
        let in_force = self.in_force.get(&Kind::Investigators).or_else(|| self.in_force.get(&kind));
        in_force.map_or(0, |in_force| in_force.version)
    }
}

/// A document that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// What it is about.
    pub(crate) kind: Kind,
    /// What its administrators vouch for to be past.
    pub(crate) floor: Timestamp,
    /// Whether it was not in force already.
    pub(crate) is_new: bool,
}

/// Adds a document. It takes the place of the one of its kind, and of those of before that held a part of it;
/// administrators keep their history, which proves them.
fn with(kept: &[Kept], new: Kept) -> Vec<Kept> {
    let stays = |old: &&Kept| match new.kind {
        Kind::Administrators => true,
        Kind::Investigators => counts_on(old.kind),
        kind => old.kind != kind,
    };
    let mut all: Vec<Kept> = kept.iter().filter(stays).cloned().collect();
    all.push(new);
    all
}

/// Whether a document counts beside those of investigators, and after its own end: nothing of theirs takes its place.
fn counts_on(kind: Kind) -> bool {
    matches!(kind, Kind::Administrators | Kind::Clock | Kind::Revocations)
}

/// Reads the payload of a document that was accepted.
fn payload(document: &str) -> Option<serde_json::Value> {
    let envelope: serde_json::Value = serde_json::from_str(document).ok()?;
    serde_json::from_str(envelope.get("payload")?.as_str()?).ok()
}

/// Returns the content of a document that was accepted, or a part of it, as text.
fn content_of(document: &str, part: Option<&str>) -> Option<String> {
    let payload = payload(document)?;
    let content = payload.get("content")?;
    Some(part.map_or(Some(content), |part| content.get(part))?.to_string())
}

/// Whether a document says that it is about the clock. Nobody need have signed it yet.
fn is_of_clock(json: &[u8]) -> bool {
    let kind = std::str::from_utf8(json).ok().and_then(|json| payload(json)?.get("kind").cloned());
    kind.is_some_and(|kind| kind == Kind::Clock.as_str())
}

fn end_of(document: &str) -> Option<Timestamp> {
    muster_core::action::moment(payload(document)?.get("expires")?.as_str()?)
}

/// Reads every key of a directory; an empty name or a missing directory is an empty keyring.
fn read_keyring(directory: &Path, key: &str, problems: &mut Vec<Problem>) -> Keyring {
    if directory.as_os_str().is_empty() {
        return Keyring::default();
    }
    let shown = directory.display();
    let files = match read_small_files(directory) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Keyring::default(),
        Err(error) => {
            let text = format!("the keys of {key}, {shown}, cannot be read ({error}); none of them counts");
            problems.push(Problem { is_grave: true, text });
            return Keyring::default();
        }
    };
    let named = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
    let (keyring, passed_over) = Keyring::from_files(named);
    for (file, why) in passed_over {
        let text = format!("the file {file} of {key}, {shown}, is passed over: {why}");
        problems.push(Problem { is_grave: false, text });
    }
    keyring
}

fn read_small_files(directory: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_file() && path.metadata()?.len() <= limits::TRUST_DOCUMENT_BYTES_MAX as u64 {
            let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            files.push((name, std::fs::read(&path)?));
        }
    }
    files.sort();
    Ok(files)
}

/// Permits nothing.
fn nothing() -> Weights {
    (Acl::default(), "{}".to_owned())
}

/// Reads the weights; a missing file permits nothing. An error says what is wrong with which file.
fn read_acl(path: &Path) -> Result<Weights, String> {
    if path.as_os_str().is_empty() {
        return Ok(nothing());
    }
    let shown = path.display();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(nothing()),
        Err(error) => return Err(format!("the weights of acl_file, {shown}, cannot be read: {error}")),
    };
    let unusable = |error| format!("the weights of acl_file, {shown}, cannot be used: {}", Chain(&error));
    let acl = Acl::parse(&bytes).map_err(unusable)?;
    Ok((acl, String::from_utf8_lossy(&bytes).into_owned()))
}

fn read_administrators(config: &Config, problems: &mut Vec<Problem>) -> Option<Administrators> {
    let keyring = read_keyring(&config.administrators_dir, "administrators_dir", problems);
    if keyring.certificates().is_empty() {
        return None;
    }
    if config.fleet.is_empty() {
        let text =
            "administrators are configured, but not the fleet that this machine belongs to, so that every document is \
                    refused: write fleet = \"NAME\" into the configuration"
                .to_owned();
        problems.push(Problem { is_grave: false, text });
    }
    let unusable = |error| {
        let shown = config.administrators_dir.display();
        let why = Chain(&error).to_string();
        let text = format!("the administrators of {shown} cannot be used: {why}; no document is taken");
        problems.push(Problem { is_grave: true, text });
    };
    Administrators::new(keyring, config.administrators_min).map_err(unusable).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"default": {"minimumweight": 1, "investigators": {}}}"#;

    fn config(directory: &Path) -> Config {
        Config {
            keyring_dir: directory.join("keys"),
            acl_file: directory.join("acl.cfg"),
            administrators_dir: "".into(),
            ..Config::default()
        }
    }

    #[test]
    fn weights_that_cannot_be_used_are_a_problem_that_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        let load = || Believed::load(&config, Path::new(""));
        assert_eq!(load().problems, [], "a missing file is none");
        let one = r#""fingerprint": "E60892BB9BD89A69F759A1A0A3D652173B763E8F""#;
        let weighing = |weight: i32| {
            format!(r#"{{"default": {{"minimumweight": 1, "investigators": {{"a": {{{one}, "weight": {weight}}}}}}}}}"#)
        };
        let twice = format!(
            r#"{{"default": {{"minimumweight": 1, "investigators": {{"a": {{{one}, "weight": 1}}, "b": {{{one}, "weight": 1}}}}}}}}"#
        );
        for bad in ["xx".to_owned(), String::new(), weighing(-1), weighing(0), twice] {
            std::fs::write(&config.acl_file, &bad).unwrap();
            let believed = load();
            let [problem] = &believed.problems[..] else { panic!("{bad}: {:?}", believed.problems) };
            assert!(problem.is_grave && problem.text.contains("acl.cfg, cannot be used: "), "{bad}: {problem:?}");
            assert_eq!((&believed.acl, believed.acl_text.as_str()), (&Acl::default(), "{}"), "{bad}");
        }
        std::fs::write(&config.acl_file, weighing(1)).unwrap();
        let believed = load();
        assert!(!believed.problems[0].is_grave && believed.problems[0].text.contains("not in the keyring"));
        std::fs::remove_file(&config.acl_file).unwrap();
        std::fs::write(&config.keyring_dir, "a file where keys should be").unwrap();
        assert!(load().problems[0].is_grave && load().problems[0].text.contains("keyring_dir"));
    }

    #[test]
    fn an_agent_that_runs_keeps_the_last_good_weights_and_one_that_starts_has_none() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        std::fs::write(&config.acl_file, GOOD).unwrap();
        let mut believed = Believed::load(&config, Path::new(""));
        let good = believed.acl.clone();
        assert!(good != Acl::default() && believed.problems.is_empty());
        std::fs::write(&config.acl_file, "xx").unwrap();
        for _ in 0..2 {
            believed = Believed::load_after(Some(&believed), &config, Path::new(""));
            assert_eq!((&believed.acl, believed.acl_text.as_str()), (&good, GOOD));
            assert!(believed.problems[0].text.contains("those that were read before stay in force"));
        }
        // Taking the file away takes the weights away.
        std::fs::remove_file(&config.acl_file).unwrap();
        believed = Believed::load_after(Some(&believed), &config, Path::new(""));
        assert_eq!((&believed.acl, believed.problems.len()), (&Acl::default(), 0));
        std::fs::write(&config.acl_file, "xx").unwrap();
        assert_eq!(Believed::load(&config, Path::new("")).acl, Acl::default());
    }
}
