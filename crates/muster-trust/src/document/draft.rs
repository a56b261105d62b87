//! Documents before anybody judges them: drafted, looked into, and put together with signatures.
//!
//! Stays true: what is drafted here has the form that [`accept`](super::accept) reads; nothing here says that a document
//! counts.

use super::{Content, DocumentError, Envelope, Kind, Payload, content, open, read};
use crate::certificate::Certificate;
use muster_core::{Timestamp, action::moment, target::Target};
use sha2::{Digest as _, Sha256};

/// What a document says of itself.
#[derive(Debug, Clone)]
pub struct Look {
    /// What it is about.
    pub kind: Kind,
    /// Its version.
    pub version: u64,
    /// The fleet that it is for.
    pub fleet: String,
    /// Which machines of it are meant.
    pub target: String,
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

/// A document to be written.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// What it is about: investigators, administrators or the clock.
    pub kind: Kind,
    /// Its version, from 1.
    pub version: u64,
    /// The fleet that it is for.
    pub fleet: &'a str,
    /// Which machines of it are meant; `true` stands for all.
    pub target: &'a str,
    /// When it is made.
    pub issued: Timestamp,
    /// When it stops counting.
    pub expires: Timestamp,
    /// The JSON of its kind: [`investigators_content`], [`administrators_content`], or `{}` for the clock.
    pub content: &'a str,
}

/// Reads a document without asking who signed it, or whether it is newer than another. One of before, and one whose target
/// no machine could decide, is refused here already.
pub fn look(json: &[u8]) -> Result<Look, DocumentError> {
    let Envelope { payload, signatures } = open(json)?;
    let of: Payload = read(payload.as_bytes())?;
    if of.version == 0 {
        return Err(DocumentError::Version { have: 0, in_force: 0 });
    }
    let (fleet, target) = of.addressed()?;
    let open = Target::parse(target).map_err(|error| DocumentError::Target(error.to_string()))?.open_questions();
    if !open.is_empty() {
        return Err(DocumentError::Open(open));
    }
    let (fleet, target) = (fleet.to_owned(), target.to_owned());
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
    Ok(Look {
        kind: of.kind,
        version: of.version,
        fleet,
        target,
        issued,
        expires,
        digest,
        content,
        payload,
        signatures,
    })
}

/// Writes the payload of a document, as it is to be signed. Weights of a key that the document does not hold are refused:
/// nobody could ever use them.
pub fn payload(draft: &Draft<'_>) -> Result<String, DocumentError> {
    let text = |text: &str| serde_json::to_string(text).expect("a text can always be written as JSON");
    let Draft { version, issued, expires, .. } = draft;
    let payload = format!(
        r#"{{"kind":{},"version":{version},"fleet":{},"target":{},"issued":"{issued}","expires":"{expires}","content":{}}}"#,
        text(draft.kind.as_str()),
        text(draft.fleet),
        text(draft.target),
        draft.content.trim(),
    );
    let look = look(super::envelope(&payload, &[]).as_bytes())?;
    if let Content::Investigators(keyring, acl) = &look.content {
        acl.keys_check(keyring)?;
    }
    Ok(payload)
}

/// Writes the content of a list of investigators: their keys, and what they weigh in the words of an `acl.cfg`.
pub fn investigators_content(keys: &[Certificate], acl: &str) -> String {
    format!(r#"{{"keys":{},"weights":{}}}"#, serde_json::json!(armored(keys)), acl.trim())
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
    use super::super::{Administrators, Receiver, Revocations, accept, envelope, signing_text};
    use super::*;
    use crate::judge::TargetMatch;
    use crate::testing::{Person, at, keyring};
    use muster_core::limits;

    const ACL: &str = r#"{"default":{"minimumweight":2,"investigators":{}}}"#;

    fn certificate(person: &Person) -> Certificate {
        Certificate::parse(person.armored().as_bytes()).unwrap()
    }

    fn draft(kind: Kind, content: &str) -> Draft<'_> {
        let (issued, expires) = (at(100), at(1000));
        Draft { kind, version: 7, fleet: "lab", target: "true", issued, expires, content }
    }

    fn drafted(kind: Kind, content: &str) -> String {
        payload(&draft(kind, content)).unwrap()
    }

    #[test]
    fn what_is_drafted_and_signed_is_accepted() {
        let (ann, bob) = (Person::new(), Person::new());
        let keys = [certificate(&ann), certificate(&bob)];
        let administrators = Administrators::new(keyring(&[&ann, &bob]), 2).unwrap();
        for (kind, content) in [
            (Kind::Investigators, investigators_content(&keys, &format!("\n{ACL}\n"))),
            (Kind::Administrators, administrators_content(&keys, 1)),
            (Kind::Clock, "{}".to_owned()),
            (Kind::Revocations, Revocations::new(&["c0ffee".to_owned()], &[], true).unwrap().to_json()),
        ] {
            let payload = drafted(kind, &content);
            let signatures = [&ann, &bob].map(|one| one.sign(signing_text(&payload).as_bytes(), 150));
            let json = envelope(&payload, &signatures);
            let receiver = Receiver { fleet: "lab", target: &|_| TargetMatch::Matches };
            let taken = accept(json.as_bytes(), &administrators, |_| None, &receiver, at(200)).unwrap();
            let seen = look(json.as_bytes()).unwrap();
            assert_eq!((seen.kind, seen.version, seen.expires), (kind, 7, at(1000)));
            assert_eq!((seen.fleet.as_str(), seen.target.as_str(), taken.floor), ("lab", "true", at(150)));
            assert_eq!((&seen.digest, seen.signatures.len()), (&taken.in_force.digest, 2));
            if let Content::Administrators(people) = &seen.content {
                assert_eq!(people.keyring().certificates().len(), 2);
            }
        }
    }

    #[test]
    fn what_no_machine_could_take_is_not_drafted() {
        let ann = Person::new();
        let keys = [certificate(&ann)];
        let good = investigators_content(&keys, ACL);
        let refused = |change: &dyn Fn(&mut Draft<'_>)| {
            let mut draft = draft(Kind::Investigators, &good);
            change(&mut draft);
            payload(&draft).unwrap_err()
        };
        assert!(matches!(refused(&|draft| draft.version = 0), DocumentError::Version { .. }));
        assert!(matches!(refused(&|draft| draft.issued = at(1001)), DocumentError::Issued(_)));
        assert!(matches!(refused(&|draft| draft.kind = Kind::Acl), DocumentError::Apart));
        assert!(matches!(refused(&|draft| draft.fleet = ""), DocumentError::FleetName(_)));
        assert!(matches!(refused(&|draft| draft.fleet = "a b"), DocumentError::FleetName(_)));
        assert!(matches!(refused(&|draft| draft.target = "name = "), DocumentError::Target(_)));
        let open = refused(&|draft| draft.target = "name = 'x' AND status = 'online'");
        assert!(open.to_string().contains("only the server could say, or could change (status = 'online')"), "{open}");
        let light = investigators_content(&keys, r#"{"a":{"minimumweight":0}}"#);
        assert!(matches!(payload(&draft(Kind::Investigators, &light)), Err(DocumentError::Acl(_))));
        let key = Person::new().fingerprint();
        let of_nobody =
            format!(r#"{{"a":{{"minimumweight":1,"investigators":{{"x":{{"fingerprint":"{key}","weight":1}}}}}}}}"#);
        let of_nobody = investigators_content(&keys, &of_nobody);
        let error = payload(&draft(Kind::Investigators, &of_nobody)).unwrap_err();
        assert!(matches!(error, DocumentError::Acl(crate::AclError::KeyUnknown { .. })), "{error}");
        let many = administrators_content(&keys, 2);
        assert!(matches!(payload(&draft(Kind::Administrators, &many)), Err(DocumentError::Threshold { .. })));
        assert!(matches!(payload(&draft(Kind::Clock, r#"{"now":1}"#)), Err(DocumentError::Malformed(_))));
        for content in ["", "{", "[]", r#"{"a":1,"a":1}"#, r#"{}},"x":{{}"#, r#"{"keys":[]}"#] {
            assert!(payload(&draft(Kind::Investigators, content)).is_err(), "{content}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        assert!(look(b"{}").is_err());
        assert!(look(envelope("{}", &[]).as_bytes()).is_err());
        let long = vec![b' '; limits::TRUST_DOCUMENT_BYTES_MAX + 1];
        assert!(matches!(look(&long), Err(DocumentError::TooLong { .. })));
        let signatures = vec![String::new(); limits::ACTION_SIGNATURES_MAX + 1];
        let json = envelope(&drafted(Kind::Investigators, &investigators_content(&[], ACL)), &signatures);
        assert!(matches!(look(json.as_bytes()), Err(DocumentError::TooManySignatures { .. })));
    }

    #[test]
    fn what_is_just_allowed_is_read() {
        let content = investigators_content(&[], ACL);
        let draft = Draft { issued: at(100), expires: at(100), ..draft(Kind::Investigators, &content) };
        let payload = payload(&draft).unwrap();
        let signatures = vec![String::new(); limits::ACTION_SIGNATURES_MAX];
        let mut json = envelope(&payload, &signatures).into_bytes();
        // White space behind it is JSON, too.
        json.resize(limits::TRUST_DOCUMENT_BYTES_MAX, b' ');
        let seen = look(&json).unwrap();
        assert_eq!((seen.issued, seen.expires, seen.signatures.len()), (at(100), at(100), signatures.len()));
    }
}
