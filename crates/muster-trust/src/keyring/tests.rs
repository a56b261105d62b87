use super::*;
use crate::testing::Person;

#[test]
fn files_that_are_no_key_are_passed_over_and_named() {
    let (ann, bob) = (Person::new(), Person::new());
    let (a, b) = (ann.armored(), bob.armored());
    let files = [("a.asc", a.as_bytes()), ("README", b"hello"), ("b.asc", b.as_bytes()), ("a again", a.as_bytes())];
    let (keyring, problems) = Keyring::from_files(files);
    assert_eq!(keyring.certificates().len(), 2);
    assert!(keyring.get(&ann.fingerprint()).is_some() && keyring.get(&bob.fingerprint()).is_some());
    let names: Vec<_> = problems.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["README", "a again"]);
    assert_eq!(problems[1].1, FileError::Keyring(KeyringError::Twice(ann.fingerprint())));
    assert!(matches!(problems[0].1, FileError::Certificate(_)));
}

#[test]
fn a_key_has_one_owner() {
    let ann = Person::new();
    let twice = Keyring::new(vec![ann.certificate(), ann.certificate()]);
    assert_eq!(twice.unwrap_err(), KeyringError::Twice(ann.fingerprint()));
    let stranger = Person::new().fingerprint();
    assert!(Keyring::new(vec![ann.certificate()]).unwrap().get(&stranger).is_none());
}

#[test]
fn a_keyring_is_bounded() {
    let many = vec![Person::new().certificate(); limits::KEYRING_KEYS_MAX + 1];
    assert_eq!(Keyring::new(many).unwrap_err(), KeyringError::TooMany { have: limits::KEYRING_KEYS_MAX + 1 });
    let full = vec![Person::new().certificate(); limits::KEYRING_KEYS_MAX];
    assert!(matches!(Keyring::new(full), Err(KeyringError::Twice(_))));
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
