//! Documents before anybody judges them: drafted, looked into, and put together with signatures.
//!
//! Stays true: what is drafted here has the form that [`accept`](super::accept) reads; nothing here says that a document
//! counts.

use super::{Content, DocumentError, Envelope, Kind, Payload, content, open, read};
use crate::certificate::Certificate;
use muster_core::{Timestamp, action::moment};
use sha2::{Digest as _, Sha256};

/// What a document says of itself.
#[derive(Debug, Clone)]
pub struct Look {
    /// What it is about.
    pub kind: Kind,
    /// Its version.
    pub version: u64,
    /// When it was made.
    pub issued: Timestamp,
    /// When it stops counting.
    pub expires: Timestamp,
    /// SHA-256 of its payload, as hexadecimal.
    pub digest: String,
    /// What it says.
    pub content: Content,
    /// The text that signatures cover, without its frame: give it to [`signing_text`](super::signing_text).
    pub payload: String,
    /// Its signatures, one line each.
    pub signatures: Vec<String>,
}

/// Reads a document without asking who signed it, or whether it is newer than another.
pub fn look(json: &[u8]) -> Result<Look, DocumentError> {
    let Envelope { payload, signatures } = open(json)?;
    let of: Payload = read(payload.as_bytes())?;
    if of.version == 0 {
        return Err(DocumentError::Version { have: 0, in_force: 0 });
    }
    let time = |text: &str| {
        moment(text)
            .ok_or_else(|| DocumentError::Malformed(format!("{text:?} is no time such as 2026-01-02T03:04:05Z")))
    };
    let (issued, expires) = (time(&of.issued)?, time(&of.expires)?);
    if issued > expires {
        return Err(DocumentError::Issued(issued));
    }
    let digest = hex::encode(Sha256::digest(payload.as_bytes()));
    let content = content(&of)?;
    Ok(Look { kind: of.kind, version: of.version, issued, expires, digest, content, payload, signatures })
}

/// Writes the payload of a document. `content` is the JSON of its kind: [`keyring_content`], [`administrators_content`],
/// or the text of an `acl.cfg`.
pub fn payload(
    kind: Kind,
    version: u64,
    [issued, expires]: [Timestamp; 2],
    content: &str,
) -> Result<String, DocumentError> {
    let kind = serde_json::to_string(&kind).expect("a word can always be written as JSON");
    let content = content.trim();
    let payload = format!(
        r#"{{"kind":{kind},"version":{version},"issued":"{issued}","expires":"{expires}","content":{content}}}"#
    );
    look(super::envelope(&payload, &[]).as_bytes())?;
    Ok(payload)
}

/// Writes the content of a keyring.
pub fn keyring_content(keys: &[Certificate]) -> String {
    serde_json::json!({ "keys": armored(keys) }).to_string()
}

/// Writes the content of a list of administrators, of whom `threshold` must sign a document.
pub fn administrators_content(keys: &[Certificate], threshold: usize) -> String {
    serde_json::json!({ "keys": armored(keys), "threshold": threshold }).to_string()
}

fn armored(keys: &[Certificate]) -> Vec<String> {
    keys.iter().map(Certificate::to_armored).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Administrators, accept, envelope, signing_text};
    use super::*;
    use crate::testing::{Person, at, keyring};
    use muster_core::limits;

    const ACL: &str = r#"{"default":{"minimumweight":2,"investigators":{}}}"#;

    fn certificate(person: &Person) -> Certificate {
        Certificate::parse(person.armored().as_bytes()).unwrap()
    }

    fn drafted(kind: Kind, content: &str) -> String {
        payload(kind, 7, [at(100), at(1000)], content).unwrap()
    }

    #[test]
    fn what_is_drafted_and_signed_is_accepted() {
        let (ann, bob) = (Person::new(), Person::new());
        let keys = [certificate(&ann), certificate(&bob)];
        let administrators = Administrators::new(keyring(&[&ann, &bob]), 2).unwrap();
        for (kind, content) in [
            (Kind::Keyring, keyring_content(&keys)),
            (Kind::Administrators, administrators_content(&keys, 1)),
            (Kind::Acl, format!("\n{ACL}\n")),
        ] {
            let payload = drafted(kind, &content);
            let signatures = [&ann, &bob].map(|one| one.sign(signing_text(&payload).as_bytes(), 150));
            let json = envelope(&payload, &signatures);
            let taken = accept(json.as_bytes(), &administrators, |_| None, at(200)).unwrap();
            let seen = look(json.as_bytes()).unwrap();
            assert_eq!((seen.kind, seen.version, seen.expires), (kind, 7, at(1000)));
            assert_eq!((&seen.digest, seen.signatures.len()), (&taken.in_force.digest, 2));
            if let Content::Administrators(people) = &seen.content {
                assert_eq!(people.keyring().certificates().len(), 2);
            }
        }
    }

    #[test]
    fn what_no_machine_could_take_is_not_drafted() {
        let times = [at(100), at(1000)];
        let keys = [certificate(&Person::new())];
        assert!(matches!(payload(Kind::Acl, 0, times, ACL), Err(DocumentError::Version { .. })));
        assert!(matches!(payload(Kind::Acl, 1, [at(2), at(1)], ACL), Err(DocumentError::Issued(_))));
        assert!(matches!(payload(Kind::Acl, 1, times, r#"{"a":{"minimumweight":0}}"#), Err(DocumentError::Acl(_))));
        let many = administrators_content(&keys, 2);
        assert!(matches!(payload(Kind::Administrators, 1, times, &many), Err(DocumentError::Threshold { .. })));
        for content in ["", "{", "[]", r#"{"a":1,"a":1}"#, r#"{}},"x":{{}"#] {
            assert!(payload(Kind::Keyring, 1, times, content).is_err(), "{content}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        assert!(look(b"{}").is_err());
        assert!(look(envelope("{}", &[]).as_bytes()).is_err());
        let long = vec![b' '; limits::TRUST_DOCUMENT_BYTES_MAX + 1];
        assert!(matches!(look(&long), Err(DocumentError::TooLong { .. })));
        let signatures = vec![String::new(); limits::ACTION_SIGNATURES_MAX + 1];
        let json = envelope(&drafted(Kind::Acl, ACL), &signatures);
        assert!(matches!(look(json.as_bytes()), Err(DocumentError::TooManySignatures { .. })));
    }

    #[test]
    fn what_is_just_allowed_is_read() {
        let payload = payload(Kind::Acl, 1, [at(100), at(100)], ACL).unwrap();
        let signatures = vec![String::new(); limits::ACTION_SIGNATURES_MAX];
        let mut json = envelope(&payload, &signatures).into_bytes();
        // White space behind it is JSON, too.
        json.resize(limits::TRUST_DOCUMENT_BYTES_MAX, b' ');
        let seen = look(&json).unwrap();
        assert_eq!((seen.issued, seen.expires, seen.signatures.len()), (at(100), at(100), signatures.len()));
    }
}
