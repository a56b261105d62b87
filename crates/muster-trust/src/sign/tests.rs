use super::*;
use crate::testing::{Person, at, keyring};

const DATA: &[u8] = b"name=x;";

fn file(person: &Person) -> Vec<u8> {
    person.cert.as_tsk().to_vec().unwrap()
}

#[test]
fn a_key_file_signs_what_verifies() {
    let person = Person::new();
    let armored = armor::encode(armor::PRIVATE_KEY, &file(&person));
    for bytes in [file(&person), armored.into_bytes()] {
        let mut key = SecretKey::open(&bytes, None, at(10)).unwrap();
        assert_eq!(*key.signer(), person.fingerprint());
        assert_eq!(key.certificate().to_armored(), person.armored());
        let line = key.sign(DATA, at(20)).unwrap();
        let signed = crate::verify(&keyring(&[&person]), &line, DATA, at(30)).unwrap();
        assert_eq!((signed.signer, signed.made), (person.fingerprint(), at(20)));
    }
}

#[test]
fn a_subkey_signs_before_the_primary_key() {
    let person = Person::with_subkey();
    let line = SecretKey::open(&file(&person), None, at(10)).unwrap().sign(DATA, at(20)).unwrap();
    let signed = crate::verify(&keyring(&[&person]), &line, DATA, at(30)).unwrap();
    assert_ne!(signed.key, signed.signer);
    // A subkey that is over leaves it to the primary key.
    let hundred_secs = std::time::Duration::from_secs(100);
    let person = Person::built(|builder| {
        builder.add_subkey(sequoia_openpgp::types::KeyFlags::empty().set_signing(), Some(hundred_secs), None)
    });
    let line = SecretKey::open(&file(&person), None, at(200)).unwrap().sign(DATA, at(200)).unwrap();
    let signed = crate::verify(&keyring(&[&person]), &line, DATA, at(200)).unwrap();
    assert_eq!(signed.key, signed.signer);
}

#[test]
fn a_locked_key_needs_its_passphrase() {
    let person = Person::built(|builder| builder.set_password(Some("open sesame".into())));
    let open = |passphrase| SecretKey::open(&file(&person), passphrase, at(10)).map(|_| ());
    assert_eq!(open(None), Err(SignError::PassphraseMissing));
    assert_eq!(open(Some("open barley")), Err(SignError::PassphraseWrong));
    assert_eq!(open(Some("open sesame")), Ok(()));
}

#[test]
fn a_file_without_a_usable_secret_is_refused() {
    let person = Person::new();
    let public = person.armored();
    assert_eq!(SecretKey::open(public.as_bytes(), None, at(10)).unwrap_err(), SignError::NoSecret);
    let binary = person.cert.clone().strip_secret_key_material();
    let binary = binary.to_vec().unwrap();
    assert_eq!(SecretKey::open(&binary, None, at(10)).unwrap_err(), SignError::NoSecret);
    assert_eq!(SecretKey::open(&file(&person), None, at(-10)).unwrap_err(), SignError::NoSecret);
    for bytes in
        [&b""[..], b"hello", b"-----BEGIN PGP PRIVATE KEY BLOCK-----", &vec![b' '; limits::PGP_KEY_BYTES_MAX + 1]]
    {
        assert!(matches!(SecretKey::open(bytes, None, at(10)), Err(SignError::Malformed(_))));
    }
}

#[test]
fn a_file_that_is_too_long_is_not_looked_into() {
    let open = |bytes: usize| SecretKey::open(&vec![b' '; bytes], None, at(10)).unwrap_err();
    for more in [1, 2, 1000] {
        assert_eq!(open(limits::PGP_KEY_BYTES_MAX + more), SignError::Malformed("it is too long".to_owned()), "{more}");
    }
    assert_ne!(open(limits::PGP_KEY_BYTES_MAX), SignError::Malformed("it is too long".to_owned()));
}

#[test]
fn a_secret_does_not_show() {
    let person = Person::new();
    let shown = format!("{:?}", SecretKey::open(&file(&person), None, at(10)).unwrap());
    assert_eq!(shown, format!("SecretKey {{ signer: \"{}\", .. }}", person.fingerprint()));
}

#[test]
fn whose_a_key_is_is_known_before_it_is_opened_and_of_a_signature_before_it_is_verified() {
    let locked = Person::built(|builder| builder.set_password(Some("open sesame".into())));
    assert_eq!(*public_of(&file(&locked), at(10)).unwrap().fingerprint(), locked.fingerprint());
    assert!(public_of(&file(&locked), at(-10)).is_err(), "not born yet");
    let person = Person::with_subkey();
    let ring = keyring(&[&locked, &person]);
    let line = SecretKey::open(&file(&person), None, at(10)).unwrap().sign(DATA, at(20)).unwrap();
    let issuers = signature::issuers(&line).unwrap();
    assert!(!issuers.is_empty());
    for issuer in issuers {
        assert_eq!(*ring.owner(&issuer).unwrap().fingerprint(), person.fingerprint(), "{issuer}");
    }
    assert!(ring.owner(&"0".repeat(16)).is_none() && ring.owner("x").is_none());
    assert!(signature::issuers("AAAA=AAAA").is_err());
}
