//! Whom this machine believes: keys and weights from files of the configuration, or from documents that administrators
//! signed.
//!
//! A document of a kind takes the place of the files; once there is one, only a newer one takes its place. Accepted
//! documents are kept in the order in which they came, each with the moment at which it was accepted, and are read again
//! in that order at every start, because administrators change by documents, too.
//! Stays true: what cannot be read permits nothing, except that weights which were read before stay in force while the
//! agent runs; what is wrong is kept as [`Problem`]s for whoever looks; a refused document leaves what is in force, on the
//! disk as well.
//! Not here: what makes a document good (muster-trust).

use crate::chain::Chain;
use crate::config::Config;
use crate::durable::{self, Sync};
use muster_core::{Timestamp, limits};
use muster_trust::document::{Administrators, Content, Document, DocumentError, InForce, Kind, accept};
use muster_trust::{Acl, Keyring};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Documents kept: one keyring, one list of weights, and every change of administrators.
const DOCUMENTS_MAX: usize = 1000;

/// What is believed.
#[derive(Debug)]
pub(crate) struct Believed {
    /// Whose signatures are looked at.
    pub(crate) keyring: Keyring,
    /// What they are worth.
    pub(crate) acl: Acl,
    /// The weights as they were written, for people and for the server.
    pub(crate) acl_text: String,
    /// When the first document in force expires.
    pub(crate) expires: Option<Timestamp>,
    /// Documents in force, by kind.
    pub(crate) in_force: BTreeMap<Kind, InForce>,
    /// What is wrong with what was read.
    pub(crate) problems: Vec<Problem>,
    /// The weights that were last read of the file, whatever is in force.
    of_file: Option<Weights>,
    administrators: Option<Administrators>,
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
            in_force: BTreeMap::new(),
            problems,
            of_file,
            administrators,
            kept: Vec::new(),
            closed: false,
            path: path.into(),
        };
        if let Err(why) = believed.read_documents() {
            let shown = path.display();
            believed.trouble(format!(
                "the documents accepted before, {shown}, cannot be read ({why}); every order is refused"
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
        let has_document = self.in_force.contains_key(&Kind::Acl);
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
            let in_force = |kind| (kind == kept.kind).then(|| kept.in_force.clone());
            let document =
                self.judge(kept.document.as_bytes(), in_force, kept.at).map_err(|error| error.to_string())?;
            if document.kind != kept.kind || document.in_force != kept.in_force {
                return Err("a document is not the one that was accepted".to_owned());
            }
            self.put_in_force(document, kept);
        }
        Ok(())
    }

    fn judge(
        &self,
        json: &[u8],
        in_force: impl Fn(Kind) -> Option<InForce>,
        now: Timestamp,
    ) -> Result<Document, NotTaken> {
        let administrators = self.administrators.as_ref().ok_or(NotTaken::NoAdministrators)?;
        Ok(accept(json, administrators, in_force, now)?)
    }

    fn put_in_force(&mut self, document: Document, kept: Kept) {
        self.in_force.insert(document.kind, document.in_force);
        match document.content {
            Content::Keyring(keyring) => self.keyring = keyring,
            Content::Acl(acl) => {
                self.acl = acl;
                self.acl_text = content_of(&kept.document).unwrap_or_default();
            }
            Content::Administrators(administrators) => self.administrators = Some(administrators),
        }
        self.kept = with(&self.kept, kept);
        // The end of the administrators' own document is no reason to stop believing what they signed.
        let ends = self.kept.iter().filter(|kept| kept.kind != Kind::Administrators);
        self.expires = ends.filter_map(|kept| end_of(&kept.document)).min();
    }

    /// Takes a document: it is on the disk when this returns, and in force. Returns its kind.
    pub(crate) fn take(&mut self, json: &[u8], now: Timestamp) -> Result<Kind, NotTaken> {
        if self.closed {
            return Err(NotTaken::Unreadable(self.path.clone()));
        }
        let document = self.judge(json, |kind| self.in_force.get(&kind).cloned(), now)?;
        let (kind, in_force) = (document.kind, document.in_force.clone());
        if self.in_force.get(&kind) == Some(&in_force) {
            return Ok(kind);
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
        Ok(kind)
    }

    /// Returns the version of a kind in force; 0 when files are.
    pub(crate) fn version(&self, kind: Kind) -> u64 {
        self.in_force.get(&kind).map_or(0, |in_force| in_force.version)
    }
}

/// Adds a document. It takes the place of the one of its kind; administrators keep their history, which proves them.
fn with(kept: &[Kept], new: Kept) -> Vec<Kept> {
    let replaced = |old: &&Kept| old.kind != new.kind || new.kind == Kind::Administrators;
    let mut all: Vec<Kept> = kept.iter().filter(replaced).cloned().collect();
    all.push(new);
    all
}

/// Reads the payload of a document that was accepted.
fn payload(document: &str) -> Option<serde_json::Value> {
    let envelope: serde_json::Value = serde_json::from_str(document).ok()?;
    serde_json::from_str(envelope.get("payload")?.as_str()?).ok()
}

fn content_of(document: &str) -> Option<String> {
    Some(payload(document)?.get("content")?.to_string())
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
