use super::*;
use crate::testing::{Person, at};

const SIGNER: &[u8] = include_bytes!("../../tests/fixtures/signer.asc");

#[test]
fn a_key_made_by_the_original_is_read() {
    let certificate = Certificate::parse(SIGNER).unwrap();
    assert_eq!(certificate.fingerprint().to_string(), "8894E30A79A7CC6BBDCB080E5CA8F578DCAF275C");
    assert_eq!(certificate.user_ids(), ["Lab Investigator <lab@example.net>"]);
    let now = "2026-11-20T14:00:00Z".parse().unwrap();
    assert_eq!(certificate.signing_keys(now).unwrap(), [certificate.fingerprint().clone()]);
    let before = "2026-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(certificate.signing_keys(before), Err(SignatureError::KeyTooYoung));
}

#[test]
fn a_key_reads_back_armored_and_binary() {
    let person = Person::with_subkey();
    let certificate = person.certificate();
    let again = Certificate::parse(certificate.to_armored().as_bytes()).unwrap();
    assert_eq!(again.fingerprint(), certificate.fingerprint());
    assert_eq!(again.signing_keys(at(10)).unwrap().len(), 2);
}

#[test]
fn a_secret_key_is_sent_home() {
    let person = Person::new();
    let secret = person.cert.as_tsk().to_vec().unwrap();
    assert_eq!(Certificate::parse(&secret).unwrap_err(), CertificateError::Secret);
    let armored = armor::encode(armor::PRIVATE_KEY, &secret);
    assert_eq!(Certificate::parse(armored.as_bytes()).unwrap_err(), CertificateError::Secret);
    let disguised = armor::encode(armor::PUBLIC_KEY, &secret);
    assert_eq!(Certificate::parse(disguised.as_bytes()).unwrap_err(), CertificateError::Secret);
}

#[test]
fn what_is_not_one_key_is_refused() {
    let (one, other) = (Person::new().cert, Person::new().cert);
    let binary = |cert: &Cert| cert.clone().strip_secret_key_material().to_vec().unwrap();
    let two = [binary(&one), binary(&other)].concat();
    assert_eq!(Certificate::parse(&two).unwrap_err(), CertificateError::Count(2));
    assert_eq!(Certificate::parse(b"").unwrap_err(), CertificateError::Count(0));
    for bytes in [&b"hello"[..], &binary(&one)[1..], &[0xFF; 100]] {
        assert!(Certificate::parse(bytes).is_err());
    }
    let error = Certificate::parse(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAA=A\n").unwrap_err();
    assert!(matches!(error, CertificateError::Armor(_)), "{error}");
    let long = vec![b' '; limits::PGP_KEY_BYTES_MAX + 1];
    assert_eq!(Certificate::parse(&long).unwrap_err(), CertificateError::TooLong { have: long.len() });
    assert_ne!(Certificate::parse(&long[1..]).unwrap_err(), CertificateError::TooLong { have: long.len() - 1 });
}

#[test]
fn cut_anywhere_a_key_is_itself_or_nothing() {
    let person = Person::new();
    let whole = person.certificate().cert().to_vec().unwrap();
    for end in 0..whole.len() {
        if let Ok(certificate) = Certificate::parse(&whole[..end]) {
            assert_eq!(*certificate.fingerprint(), person.fingerprint(), "{end} bytes");
        }
    }
}

macro_rules! case_16 {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/fixtures/case-16/", $name))
    };
}

#[test]
fn case_16_a_refusal_names_the_real_cause() {
    let then = "2026-12-10T00:00:00Z".parse().unwrap();
    let algorithm = |name: &str| SignatureError::KeyAlgorithm(name.to_owned());
    let causes: [(&[u8], SignatureError); 12] = [
        (case_16!("brain.asc"), algorithm("ECDSA on brainpoolP256r1")),
        (case_16!("secp.asc"), algorithm("ECDSA on secp256k1")),
        (case_16!("rsa1024.asc"), algorithm("RSA of 1024 bits")),
        (case_16!("dsa.asc"), algorithm("DSA of 2048 bits")),
        (case_16!("unknown-algorithm.asc"), algorithm("algorithm number 99, which is not known here")),
        (case_16!("no-name.asc"), SignatureError::KeyNameless),
        (case_16!("no-certificate.asc"), SignatureError::KeyNameUnsigned),
        (case_16!("critical.asc"), SignatureError::KeyCritical("the notation must-know@example.org".to_owned())),
        (case_16!("a-renewed-old.asc"), SignatureError::KeyExpired),
        (case_16!("gone-revoked.asc"), SignatureError::KeyRevoked),
        (case_16!("certonly.asc"), SignatureError::NotForSigning),
        (case_16!("future.asc"), SignatureError::KeyTooYoung),
    ];
    for (key, cause) in causes {
        assert_eq!(Certificate::parse(key).unwrap().signing_keys(then), Err(cause));
    }
    for good in [&case_16!("plain.asc")[..], case_16!("nist.asc"), case_16!("sub.asc"), case_16!("z-renewed-new.asc")] {
        assert!(!Certificate::parse(good).unwrap().signing_keys(then).unwrap().is_empty());
    }
}

#[test]
fn case_16_a_version_that_is_not_read_is_named() {
    assert_eq!(Certificate::parse(case_16!("version-6.asc")).unwrap_err(), CertificateError::Version(6));
    // A whole one, as the library makes it.
    let whole = openpgp::cert::CertBuilder::new()
        .set_profile(openpgp::Profile::RFC9580)
        .and_then(openpgp::cert::CertBuilder::generate)
        .unwrap()
        .0;
    let bytes = whole.strip_secret_key_material().to_vec().unwrap();
    assert_eq!(Certificate::parse(&bytes).unwrap_err(), CertificateError::Version(6));
}
