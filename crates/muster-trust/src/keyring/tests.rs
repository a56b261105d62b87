use super::*;
use crate::testing::Person;
use sequoia_openpgp::serialize::SerializeInto as _;

#[test]
fn files_that_are_no_key_are_passed_over_and_named() {
    let (ann, bob) = (Person::new(), Person::new());
    let (a, b) = (ann.armored(), bob.armored());
    let files = [("a.asc", a.as_bytes()), ("README", b"hello"), ("b.asc", b.as_bytes()), ("a again", a.as_bytes())];
    let (keyring, problems) = Keyring::from_files(files);
    assert_eq!(keyring.certificates().len(), 2);
    assert!(keyring.get(&ann.fingerprint()).is_some() && keyring.get(&bob.fingerprint()).is_some());
    let names: Vec<_> = problems.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["README"]);
    assert!(matches!(problems[0].1, FileError::Certificate(_)));
}

#[test]
fn a_key_has_one_owner() {
    let ann = Person::new();
    let twice = Keyring::new(vec![ann.certificate(), ann.certificate()]).unwrap();
    assert_eq!(twice.certificates().len(), 1);
    // The same key below two primary ones would have two owners.
    let (bob, carol) = (Person::with_subkey(), Person::new());
    let packets = carol
        .cert
        .clone()
        .insert_packets(bob.cert.keys().nth(1).unwrap().key().clone().role_into_subordinate())
        .unwrap()
        .0;
    let thief = Certificate::parse(&packets.strip_secret_key_material().to_vec().unwrap()).unwrap();
    assert_eq!(Keyring::new(vec![bob.certificate(), thief]).unwrap_err(), KeyringError::Twice(carol.fingerprint()));
    let stranger = Person::new().fingerprint();
    assert!(Keyring::new(vec![ann.certificate()]).unwrap().get(&stranger).is_none());
}

#[test]
fn a_keyring_is_bounded() {
    let many = vec![Person::new().certificate(); limits::KEYRING_KEYS_MAX + 1];
    assert_eq!(Keyring::new(many).unwrap_err(), KeyringError::TooMany { have: limits::KEYRING_KEYS_MAX + 1 });
    let full = vec![Person::new().certificate(); limits::KEYRING_KEYS_MAX];
    assert_eq!(Keyring::new(full).unwrap().certificates().len(), 1);
}

#[test]
fn an_acl_may_only_name_keys_that_are_there() {
    let (ann, bob) = (Person::new(), Person::new());
    let list = format!(
        r#"{{"file":{{"minimumweight":1,"investigators":{{"Bob":{{"fingerprint":"{}","weight":1}}}}}}}}"#,
        bob.fingerprint()
    );
    let acl = crate::Acl::parse(list.as_bytes()).unwrap();
    let both = crate::testing::keyring(&[&ann, &bob]);
    assert_eq!(acl.keys_check(&both), Ok(()));
    let error = acl.keys_check(&crate::testing::keyring(&[&ann]));
    let want = crate::AclError::KeyUnknown { module: "file".to_owned(), fingerprint: bob.fingerprint() };
    assert_eq!(error, Err(want));
}

/// A moment after the keys of case 16 were made, and before they expire.
fn then() -> muster_core::Timestamp {
    "2026-12-10T00:00:00Z".parse().unwrap()
}

macro_rules! case_16 {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/fixtures/case-16/", $name))
    };
}

#[test]
fn case_16_copies_of_one_key_are_put_together_whatever_their_files_are_called() {
    let (old, new): (&[u8], &[u8]) = (case_16!("a-renewed-old.asc"), case_16!("z-renewed-new.asc"));
    let signature = std::str::from_utf8(case_16!("renewed.sig")).unwrap();
    for files in [[("a-old.asc", old), ("z-new.asc", new)], [("a-new.asc", new), ("z-old.asc", old)]] {
        let (keyring, problems) = Keyring::from_files(files);
        assert!(problems.is_empty() && keyring.certificates().len() == 1, "{problems:?}");
        let signed = crate::verify(&keyring, signature, case_16!("text"), then()).unwrap();
        assert_eq!(signed.signer, *keyring.certificates()[0].fingerprint());
        // Put together they travel as one key, as in a document.
        let again = Certificate::parse(keyring.certificates()[0].to_armored().as_bytes()).unwrap();
        assert_eq!(again.signing_keys(then()).unwrap().len(), 1);
    }
    // The old copy alone has expired.
    let (alone, _) = Keyring::from_files([("a-old.asc", old)]);
    let expired = crate::verify(&alone, signature, case_16!("text"), then());
    assert_eq!(expired, Err(crate::SignatureError::KeyExpired));
}

#[test]
fn case_16_a_revocation_in_either_copy_counts() {
    let (before, revoked): (&[u8], &[u8]) = (case_16!("gone-before.asc"), case_16!("gone-revoked.asc"));
    for files in [[("a", before), ("b", revoked)], [("a", revoked), ("b", before)]] {
        let (keyring, _) = Keyring::from_files(files);
        assert_eq!(keyring.certificates()[0].signing_keys(then()), Err(crate::SignatureError::KeyRevoked));
    }
}

#[test]
fn case_16_a_good_subkey_beside_an_expired_one_signs() {
    let (keyring, _) = Keyring::from_files([("sub.asc", &case_16!("sub.asc")[..])]);
    let signature = std::str::from_utf8(case_16!("sub.sig")).unwrap();
    assert!(crate::verify(&keyring, signature, case_16!("text"), then()).is_ok());
}
