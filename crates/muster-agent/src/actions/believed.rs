//! Whom this machine believes: keys and weights from files of the configuration, or from documents that administrators
//! signed.
//!
//! A document of a kind takes the place of the files; once there is one, only a newer one takes its place. Accepted
//! documents are kept in the order in which they came, each with the moment at which it was accepted, and are read again
//! in that order at every start, because administrators change by documents, too.
//! Stays true: what cannot be read permits nothing; a refused document leaves what is in force, on the disk as well.
//! Not here: what makes a document good (muster-trust).

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
    administrators: Option<Administrators>,
    kept: Vec<Kept>,
    /// Documents that were accepted before cannot be read.
    closed: bool,
    path: PathBuf,
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
    /// Reads files and documents. What is missing or wrong permits nothing, and is logged.
    pub(crate) fn load(config: &Config, path: &Path) -> Self {
        let keyring = read_keyring(&config.keyring_dir, "keyring_dir");
        let (acl, acl_text) = read_acl(&config.acl_file);
        let administrators = read_administrators(config);
        let mut believed = Self {
            keyring,
            acl,
            acl_text,
            expires: None,
            in_force: BTreeMap::new(),
            administrators,
            kept: Vec::new(),
            closed: false,
            path: path.into(),
        };
        if let Err(why) = believed.read_documents() {
            tracing::error!(path = %path.display(), why, "documents accepted before cannot be read; every order is refused");
            believed.close();
        }
        if believed.acl.keys_check(&believed.keyring).is_err() {
            tracing::warn!("the weights name keys that are not in the keyring; those keys count for nothing");
        }
        believed
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
fn read_keyring(directory: &Path, key: &str) -> Keyring {
    if directory.as_os_str().is_empty() {
        return Keyring::default();
    }
    let files = match read_small_files(directory) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Keyring::default(),
        Err(error) => {
            tracing::error!(path = %directory.display(), %error, "cannot read the keys of {key}; none of them counts");
            return Keyring::default();
        }
    };
    let named = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
    let (keyring, passed_over) = Keyring::from_files(named);
    for (file, why) in passed_over {
        tracing::warn!(file, why = %why, "a file of {key} is passed over");
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

/// Reads the weights; a missing file permits nothing.
fn read_acl(path: &Path) -> (Acl, String) {
    let nothing = || (Acl::default(), "{}".to_owned());
    if path.as_os_str().is_empty() {
        return nothing();
    }
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return nothing(),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "cannot read the weights; nothing is permitted");
            return nothing();
        }
    };
    match Acl::parse(&bytes) {
        Ok(acl) => (acl, String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "the weights cannot be used; nothing is permitted");
            nothing()
        }
    }
}

fn read_administrators(config: &Config) -> Option<Administrators> {
    let keyring = read_keyring(&config.administrators_dir, "administrators_dir");
    if keyring.certificates().is_empty() {
        return None;
    }
    match Administrators::new(keyring, config.administrators_min) {
        Ok(administrators) => Some(administrators),
        Err(error) => {
            tracing::error!(%error, "the administrators cannot be used; no document is taken");
            None
        }
    }
}
