//! Documents that revoke certificates, on the service by itself.

use super::super::tests::{administered, administrated, reloading, service, weights};
use super::super::{Actions, believed};
use super::in_force;
use crate::config::Config;
use muster_core::{Facts, Timestamp};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// A certificate as PEM, and its fingerprint.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["x".into()]).unwrap().cert;
    (made.pem(), hex::encode(Sha256::digest(made.der())))
}

fn take(actions: &Arc<Actions>, document: &[u8]) -> Result<(), believed::NotTaken> {
    actions.take_here(document, &Facts::new()).map(drop)
}

fn revoked(actions: &Actions) -> Vec<String> {
    actions.revocations.current().fingerprints().collect()
}

#[test]
fn what_administrators_revoked_stays_revoked_beside_and_after_other_documents() {
    let directory = tempfile::tempdir().unwrap();
    let ((first_pem, first), (second_pem, _)) = (certificate(), certificate());
    let config = Config { trusted_certs: format!("{first_pem}\n{second_pem}"), ..administered(directory.path()) };
    let actions = service(directory.path(), 1000);
    reloading(&actions, &config).join().unwrap();
    let now = Timestamp::from_secs(actions.clock.now().to_parts().0);
    let of = |version, prints: &[&String]| {
        administrated("revocations", version, &serde_json::json!({"fingerprints": prints}), now)
    };
    take(&actions, &of(3, &[&first])).unwrap();
    assert_eq!(revoked(&actions), std::slice::from_ref(&first));
    // It ends in an hour, which is no end of what it says, and no reason to run nothing.
    assert_eq!(actions.believed().expires, None);
    take(&actions, &weights(now)).unwrap();
    reloading(&actions, &config).join().unwrap();
    assert_eq!((revoked(&actions), actions.believed().acl_version()), (vec![first.clone()], 5));
    // The server is sent which of them are in force, and not those of another kind.
    let reported = in_force(&actions.believed());
    assert_eq!((reported.version, reported.serials, reported.fingerprints), (3, 0, 1));
    let older = take(&actions, &of(2, &[])).unwrap_err().to_string();
    assert!(older.contains("nothing older is taken back"), "{older}");
    let forged = take(&actions, &String::from_utf8(of(4, &[])).unwrap().replace("lab", "bal").into_bytes());
    assert!(forged.unwrap_err().to_string().contains("0 of 1 needed administrators"));
    assert_eq!(revoked(&actions), [first]);
    // Administrators take it back with a newer one.
    take(&actions, &of(4, &[])).unwrap();
    assert!(revoked(&actions).is_empty());
    let reported = in_force(&actions.believed());
    assert_eq!((reported.version, reported.serials, reported.fingerprints), (4, 0, 0));
}

#[test]
fn a_document_that_leaves_no_authority_must_say_that_this_is_meant() {
    let directory = tempfile::tempdir().unwrap();
    let ((first_pem, first), (second_pem, second)) = (certificate(), certificate());
    let config = Config { trusted_certs: format!("{first_pem}\n{second_pem}"), ..administered(directory.path()) };
    let actions = service(directory.path(), 1000);
    reloading(&actions, &config).join().unwrap();
    let now = Timestamp::from_secs(actions.clock.now().to_parts().0);
    let both = [&first, &second];
    let of = |cuts_off: bool| {
        administrated("revocations", 1, &serde_json::json!({"fingerprints": both, "cuts_off": cuts_off}), now)
    };
    let refused = take(&actions, &of(false)).unwrap_err();
    assert!(matches!(refused, believed::NotTaken::CutsOff), "{refused}");
    assert!(revoked(&actions).is_empty() && !directory.path().join("documents.json").exists());
    take(&actions, &of(true)).unwrap();
    assert_eq!(revoked(&actions).len(), 2);
}
