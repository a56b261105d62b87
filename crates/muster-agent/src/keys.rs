//! Who this machine is: one P-256 key in the state directory, and the certificate made of it for each start.
//!
//! Stays true: a key is on the disk before anything uses it. During a rekey the next key waits in its own file, so
//! that a crash at any point leaves a usable key, and at most one change of identity. The old key is kept beside the new
//! one: it vouches for the new one until a server has taken it, it signs what came of orders that reached it, and where
//! the new one is refused it goes on. Its word is on the disk before the new key is: a new key without it may be refused.
//! The id of a key is among those that the machine remembers ([`crate::ids`]) before the key is put to use.

use crate::chain::Chain;
use crate::durable::{self, Sync};
use crate::ids::{self, IdsError};
use muster_core::handover::handover_text;
use muster_core::{AgentId, Handover, MessageId, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData, SerialNumber, SigningKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The key in use.
const KEY_FILE: &str = "agent.key";
/// The key that takes over once the demand for it is acknowledged.
const NEXT_KEY_FILE: &str = "agent.key.next";

/// The key before the present one.
const OLD_KEY_FILE: &str = "agent.key.old";
/// The old key's word for the present one, or for the next; there until a server has taken it.
const HANDOVER_FILE: &str = "agent.key.handover";

/// A key with the id and the certificate that follow from it.
pub(crate) struct Identity {
    /// First 8 bytes of the hash of the public key.
    pub(crate) id: AgentId,
    /// Self-signed; nothing in it matters but the key.
    pub(crate) certificate: CertificateDer<'static>,
    /// The whole public key (DER SubjectPublicKeyInfo).
    pub(crate) public_key: Vec<u8>,
    /// The private key, as it is on the disk.
    key: PrivateKeyDer<'static>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.id)
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// The file cannot be read or written.
    #[error("cannot {verb} the agent's key {}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file holds no key that can be used.
    #[error(
        "{} holds no usable private key ({reason}); restore it from a backup, or remove it to enrol this machine anew",
        path.display()
    )]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No key could be made.
    #[error("cannot make a key: {0}")]
    Make(#[from] rcgen::Error),
    /// The machine could not remember the key's id.
    #[error(transparent)]
    Ids(#[from] IdsError),
}

impl Identity {
    /// Makes the identity of a private key, PKCS#8 or SEC1.
    fn of_key(key: PrivateKeyDer<'static>) -> Result<Self, rcgen::Error> {
        let pair = KeyPair::try_from(&key)?;
        let public_key = pair.subject_public_key_info();
        let id = AgentId::of_key(&public_key);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, id.to_string());
        params.serial_number = Some(SerialNumber::from(1));
        let certificate = params.self_signed(&pair)?.der().clone();
        Ok(Self { id, certificate, public_key, key })
    }

    /// Makes an identity that is on no disk, for looking at a server before there is a real one.
    pub(crate) fn temporary() -> Result<Self, rcgen::Error> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        Self::of_key(PrivateKeyDer::Pkcs8(pair.serialize_der().into()))
    }

    /// Signs with the key: ECDSA over P-256 with SHA-256, in ASN.1. `None`: the key is of another kind, which this program
    /// never makes.
    pub(crate) fn sign(&self, text: &[u8]) -> Option<Vec<u8>> {
        let pair = KeyPair::try_from(&self.key).ok()?;
        if pair.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return None;
        }
        pair.sign(text).ok()
    }

    /// Returns a copy of the private key for the TLS library.
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

/// Reads the key in `directory` and changes nothing: for whoever only looks, also while an agent runs. `None` when there is
/// none yet.
pub(crate) fn look(directory: &Path) -> Result<Option<Identity>, KeyError> {
    let path = directory.join(KEY_FILE);
    if path.exists() { read(&path).map(Some) } else { Ok(None) }
}

/// Ends a change of keys that a crash cut short, and reads the key in `directory`. `None` when there is none yet. Only for
/// the agent that holds the directory's lock: a running one finds its next key where it put it.
pub(crate) fn recover(directory: &Path) -> Result<Option<Identity>, KeyError> {
    // A crash between the new key's arrival and its taking over: the demand may be acknowledged already, so the new
    // key is the one to go on with. A server lets the new identity acknowledge it again.
    let next = directory.join(NEXT_KEY_FILE);
    if next.exists() && read(&next).is_ok() {
        adopt_next(directory)?;
    }
    let present = look(directory)?;
    // A crash between the word and the key that it is for: that key was never there, and its demand comes again.
    if let Some(present) = &present
        && word(directory).is_some_and(|word| word.new != present.id.to_string())
    {
        word_remove(directory);
    }
    if let Some(present) = &present {
        // An earlier version remembered none but the old key. Both ids are kept again before another key is used.
        let known: Vec<AgentId> = old(directory).map(|(old, _)| old.id).into_iter().chain([present.id]).collect();
        if let Err(error) = ids::keep(directory, &known) {
            tracing::error!(error = %Chain(&error), "the ids that this machine had cannot be written");
        }
    }
    Ok(present)
}

/// Returns the key that was recovered, or makes one.
pub(crate) fn or_make(recovered: Option<Identity>, directory: &Path) -> Result<Identity, KeyError> {
    recovered.map_or_else(|| make(directory), Ok)
}

/// Makes the next key, for which the old one vouches: `demand` is the id of the message in which the server demanded it,
/// and when that was. Both are on the disk when this returns; [`adopt_next`] puts the key to use. After an error or a crash
/// there is either no next key, or one with its word. A machine that cannot remember another id makes none.
pub(crate) fn make_next(directory: &Path, old: &Identity, demand: (&[u8], Timestamp)) -> Result<Identity, KeyError> {
    ids::room_check(directory)?;
    let path = directory.join(NEXT_KEY_FILE);
    // One that is left of an earlier demand would be without its word from here on.
    match std::fs::remove_file(&path) {
        Ok(()) => durable::sync_directory_of(&path).map_err(|source| failed("remove", &path, source))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed("remove", &path, source)),
    }
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let next = Identity::of_key(PrivateKeyDer::Pkcs8(pair.serialize_der().into()))?;
    vouch(directory, old, &next, demand)?;
    write(&path, &pair)
}

/// Puts the next key in the place of the present one, which is kept as the old one. Both ids are remembered before.
pub(crate) fn adopt_next(directory: &Path) -> Result<(), KeyError> {
    let (key, old, next) = (directory.join(KEY_FILE), directory.join(OLD_KEY_FILE), directory.join(NEXT_KEY_FILE));
    let present = look(directory)?.map(|present| present.id);
    let both: Vec<AgentId> = present.into_iter().chain([read(&next)?.id]).collect();
    ids::keep(directory, &both)?;
    match std::fs::read(&key) {
        Ok(bytes) => durable::replace(&old, &bytes, Sync::Power).map_err(|source| failed("write", &old, source))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed("read", &key, source)),
    }
    durable::rename(&next, &key).map_err(|source| failed("rename", &next, source))
}

/// Has the old key vouch for the new one. It is on the disk when this returns. `demand` is the id of the message in which
/// the server demanded it; one of another length than servers give is a word for nothing, and none is written.
fn vouch(directory: &Path, old: &Identity, new: &Identity, (demand, made): (&[u8], Timestamp)) -> Result<(), KeyError> {
    let Some(demand) = demand.try_into().ok().map(MessageId::from_bytes) else { return Ok(()) };
    let text = handover_text(&old.public_key, &new.public_key, &demand, made);
    let Some(signature) = old.sign(text.as_bytes()) else { return Ok(()) };
    let word = Word {
        new: new.id.to_string(),
        old_key: hex::encode(&old.public_key),
        demand: demand.to_string(),
        made: made.as_nanos(),
        signature: hex::encode(signature),
    };
    let path = directory.join(HANDOVER_FILE);
    let json = serde_json::to_vec(&word).expect("texts and numbers are JSON");
    durable::replace(&path, &json, Sync::Power).map_err(|source| failed("write", &path, source))
}

/// Returns the old key's word for `present`, until a server has taken it. One that cannot be read is none.
pub(crate) fn handover(directory: &Path, present: &Identity) -> Option<Handover> {
    let word = word(directory)?;
    if word.new != present.id.to_string() {
        return None;
    }
    Some(Handover {
        old_key: hex::decode(word.old_key).ok()?,
        demand: word.demand.parse().ok()?,
        made: Timestamp::from_nanos(word.made),
        signature: hex::decode(word.signature).ok()?,
    })
}

/// Notes that a server has taken the key of `id`: the old one need not vouch for it any more. Its word for another key, the
/// next, stays.
pub(crate) fn taken(directory: &Path, id: AgentId) {
    if word(directory).is_none_or(|word| word.new == id.to_string()) {
        word_remove(directory);
    }
}

/// Reads the old key's word, for whatever key it is. One that cannot be read is none.
fn word(directory: &Path) -> Option<Word> {
    serde_json::from_slice(&std::fs::read(directory.join(HANDOVER_FILE)).ok()?).ok()
}

fn word_remove(directory: &Path) {
    let path = directory.join(HANDOVER_FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "cannot remove the old key's word for the new one");
        }
        _ => {}
    }
}

/// Returns the key before the present one, and since when it is not used.
pub(crate) fn old(directory: &Path) -> Option<(Identity, Timestamp)> {
    let path = directory.join(OLD_KEY_FILE);
    let since = std::fs::metadata(&path).and_then(|data| data.modified()).ok()?;
    let since = since.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some((read(&path).ok()?, Timestamp::EPOCH.plus(since)))
}

/// Forgets the key before the present one, unless the present one is not taken by a server yet.
pub(crate) fn old_forget(directory: &Path) {
    let path = directory.join(OLD_KEY_FILE);
    if !directory.join(HANDOVER_FILE).exists()
        && let Err(error) = std::fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "cannot remove the old key");
    }
}

/// Goes back to the old key, because no server takes the new one, and returns it. `None`: there is none that vouched for the
/// present one.
pub(crate) fn fall_back(directory: &Path) -> Result<Option<Identity>, KeyError> {
    let (key, old) = (directory.join(KEY_FILE), directory.join(OLD_KEY_FILE));
    let is_vouched = look(directory)?.is_some_and(|present| handover(directory, &present).is_some());
    if !is_vouched || read(&old).is_err() {
        return Ok(None);
    }
    durable::rename(&old, &key).map_err(|source| failed("rename", &old, source))?;
    word_remove(directory);
    read(&key).map(Some)
}

fn failed(verb: &'static str, path: &Path, source: io::Error) -> KeyError {
    KeyError::File { verb, path: path.into(), source }
}

/// A [`Handover`] as it is on the disk; binary values in hexadecimal.
#[derive(Debug, Serialize, Deserialize)]
struct Word {
    /// The id of the key that it is for.
    new: String,
    old_key: String,
    demand: String,
    /// Nanoseconds since 1970.
    made: i64,
    signature: String,
}

fn make(directory: &Path) -> Result<Identity, KeyError> {
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    ids::keep(directory, &[AgentId::of_key(&pair.subject_public_key_info())])?;
    write(&directory.join(KEY_FILE), &pair)
}

fn write(path: &Path, pair: &KeyPair) -> Result<Identity, KeyError> {
    let written = durable::replace(path, pair.serialize_pem().as_bytes(), Sync::Power);
    written.map_err(|source| failed("write", path, source))?;
    // Read back, so that what is used is what is on the disk.
    read(path)
}

fn read(path: &Path) -> Result<Identity, KeyError> {
    let bytes = std::fs::read(path).map_err(|source| KeyError::File { verb: "read", path: path.into(), source })?;
    let content = |reason: String| KeyError::Content { path: path.into(), reason };
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| content(error.to_string()))?;
    Identity::of_key(key).map_err(|error| content(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn load_or_make(directory: &Path) -> Result<Identity, KeyError> {
        or_make(recover(directory)?, directory)
    }

    fn next_of(directory: &Path, old: &Identity) -> Identity {
        make_next(directory, old, (&[7; 32], Timestamp::from_secs(9))).unwrap()
    }

    #[test]
    fn a_key_is_made_once_and_private() {
        let directory = tempfile::tempdir().unwrap();
        assert!(look(directory.path()).unwrap().is_none());
        let made = load_or_make(directory.path()).unwrap();
        assert_eq!(load_or_make(directory.path()).unwrap().id, made.id);
        let bits = std::fs::metadata(directory.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(bits & 0o777, 0o600);
    }

    #[test]
    fn the_id_is_the_hash_of_the_key_in_the_certificate() {
        let identity = Identity::temporary().unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&identity.certificate).unwrap();
        assert_eq!(AgentId::of_key(certificate.public_key().raw), identity.id);
        assert_eq!(certificate.subject().to_string(), format!("O={}", identity.id));
    }

    #[test]
    fn a_crash_in_a_rekey_leaves_exactly_one_usable_key() {
        let directory = tempfile::tempdir().unwrap();
        let old = load_or_make(directory.path()).unwrap();
        let next = next_of(directory.path(), &old);
        assert_ne!(old.id, next.id);
        // Crashed here: the next start goes on with the new key.
        assert_eq!(recover(directory.path()).unwrap().unwrap().id, next.id);
        assert!(!directory.path().join(NEXT_KEY_FILE).exists());

        assert_eq!(super::old(directory.path()).unwrap().0.id, old.id, "it is kept");

        let third = next_of(directory.path(), &next);
        adopt_next(directory.path()).unwrap();
        assert_eq!(look(directory.path()).unwrap().unwrap().id, third.id);
    }

    #[test]
    fn the_old_key_vouches_for_the_new_one_until_it_is_taken_over_a_crash() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let old = load_or_make(directory).unwrap();
        next_of(directory, &old);
        assert_eq!(handover(directory, &old), None, "it is no word for the old one");
        // Crashed here.
        let present = recover(directory).unwrap().unwrap();
        let word = handover(directory, &present).unwrap();
        assert_eq!(
            (word.old_agent(), word.demand, word.made.as_nanos()),
            (old.id, MessageId::from_bytes([7; 32]), 9_000_000_000)
        );
        old_forget(directory);
        assert!(super::old(directory).is_some(), "it may be needed yet");
        taken(directory, old.id);
        assert!(handover(directory, &present).is_some(), "only the old key was taken");
        taken(directory, present.id);
        assert_eq!(handover(directory, &present), None);
        assert!(fall_back(directory).unwrap().is_none(), "a key that was taken is not given up");
        old_forget(directory);
        assert!(super::old(directory).is_none());
    }

    #[test]
    fn there_is_no_new_key_without_the_old_ones_word() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let old = load_or_make(directory).unwrap();
        // One that never took over, and another is demanded; but the word for it cannot be written.
        next_of(directory, &old);
        let word = directory.join(HANDOVER_FILE);
        std::fs::remove_file(&word).unwrap();
        std::fs::create_dir(&word).unwrap();
        let refused = make_next(directory, &old, (&[8; 32], Timestamp::from_secs(9)));
        assert!(refused.unwrap_err().to_string().contains(HANDOVER_FILE));
        assert!(!directory.join(NEXT_KEY_FILE).exists());
        assert_eq!(recover(directory).unwrap().unwrap().id, old.id);
        std::fs::remove_dir(&word).unwrap();

        // The word is written, and the key is not any more.
        let next = directory.join(NEXT_KEY_FILE);
        let blocked = next.with_file_name(format!("{NEXT_KEY_FILE}.tmp"));
        std::fs::create_dir(&blocked).unwrap();
        assert!(make_next(directory, &old, (&[8; 32], Timestamp::from_secs(9))).is_err());
        assert!(word.exists() && !next.exists());
        assert_eq!(recover(directory).unwrap().unwrap().id, old.id);
        assert!(!word.exists(), "it is for a key that never was");
        std::fs::remove_dir(&blocked).unwrap();

        // The demand comes again.
        let next = next_of(directory, &old);
        let present = recover(directory).unwrap().unwrap();
        assert_eq!(present.id, next.id);
        assert_eq!(handover(directory, &present).unwrap().old_agent(), old.id);
    }

    #[test]
    fn a_new_key_that_nobody_takes_is_given_up_for_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let old = load_or_make(directory).unwrap();
        let next = next_of(directory, &old);
        adopt_next(directory).unwrap();
        assert_eq!(fall_back(directory).unwrap().unwrap().id, old.id);
        assert_eq!(recover(directory).unwrap().unwrap().id, old.id);
        assert!(fall_back(directory).unwrap().is_none());
        vouch(directory, &old, &next, (b"short", Timestamp::from_secs(9))).unwrap();
        assert_eq!(handover(directory, &next), None);
    }

    #[test]
    fn whoever_only_looks_leaves_the_change_of_keys_to_the_agent() {
        let directory = tempfile::tempdir().unwrap();
        let old = load_or_make(directory.path()).unwrap();
        let next = next_of(directory.path(), &old);
        assert_eq!(look(directory.path()).unwrap().unwrap().id, old.id);
        assert!(directory.path().join(NEXT_KEY_FILE).exists());
        adopt_next(directory.path()).unwrap();
        assert_eq!(look(directory.path()).unwrap().unwrap().id, next.id);
    }

    #[test]
    fn an_id_is_remembered_before_its_key_is_used_and_none_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let first = load_or_make(directory).unwrap();
        assert_eq!(ids::list(directory).unwrap(), [first.id]);
        let second = next_of(directory, &first);
        assert_eq!(ids::list(directory).unwrap(), [first.id], "nobody has used it");
        // Crashed here: the next start remembers it before it goes on with it.
        assert_eq!(load_or_make(directory).unwrap().id, second.id);
        assert_eq!(ids::list(directory).unwrap(), [first.id, second.id]);
        let third = next_of(directory, &second);
        adopt_next(directory).unwrap();
        assert_eq!(fall_back(directory).unwrap().unwrap().id, second.id);
        assert_eq!(ids::list(directory).unwrap(), [first.id, second.id, third.id], "a server has seen it");

        // An earlier version wrote no list.
        std::fs::remove_file(directory.join("agent.ids")).unwrap();
        let fourth = next_of(directory, &second);
        adopt_next(directory).unwrap();
        std::fs::remove_file(directory.join("agent.ids")).unwrap();
        recover(directory).unwrap();
        assert_eq!(ids::list(directory).unwrap(), [second.id, fourth.id]);

        // What cannot be remembered is not used.
        next_of(directory, &fourth);
        let blocked = directory.join("agent.ids.tmp");
        std::fs::create_dir(&blocked).unwrap();
        assert!(matches!(adopt_next(directory), Err(KeyError::Ids(_))));
        assert_eq!(look(directory).unwrap().unwrap().id, fourth.id);
        std::fs::remove_dir(&blocked).unwrap();
        std::fs::write(directory.join("agent.ids"), "damaged").unwrap();
        assert!(make_next(directory, &fourth, (&[7; 32], Timestamp::from_secs(9))).is_err());
        assert!(adopt_next(directory).is_err());
    }

    #[test]
    fn a_torn_next_key_is_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let old = load_or_make(directory.path()).unwrap();
        std::fs::write(directory.path().join(NEXT_KEY_FILE), "-----BEGIN PRIV").unwrap();
        assert_eq!(recover(directory.path()).unwrap().unwrap().id, old.id);
    }

    #[test]
    fn a_file_without_a_key_is_an_error_and_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(KEY_FILE), "garbage").unwrap();
        let error = load_or_make(directory.path()).unwrap_err().to_string();
        assert!(error.contains("enrol this machine anew"), "{error}");
        assert_eq!(std::fs::read(directory.path().join(KEY_FILE)).unwrap(), b"garbage");
    }

    #[test]
    fn a_sec1_key_is_accepted() {
        // A throw-away P-256 key made for this test.
        const SEC1: &str = "-----BEGIN EC PRIVATE KEY-----\n\
            MHcCAQEEIG42TlBc9xchtXrfNGEFXLjwRh9X5Enusb5aEjwXJ1HJoAoGCCqGSM49\n\
            AwEHoUQDQgAEI7apZzsFSoQN+qzOOjlW2PO4FJtpfq04ZdKo9syqFJSBIBaXNcFr\n\
            2jak7gGeV3CVHz5klH5KMkpZ2KAL+BCnPA==\n\
            -----END EC PRIVATE KEY-----\n";
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(KEY_FILE), SEC1).unwrap();
        assert!(look(directory.path()).unwrap().is_some());
    }
}
