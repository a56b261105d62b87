use super::*;
use crate::revoked::RevokedList;
use muster_trust::document;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use std::time::Duration;

fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    params.serial_number = Some(77.into());
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// What the original's configurator makes: a server that says it is an authority, without extended key usage.
fn odd_params() -> CertificateParams {
    let mut params = CertificateParams::new(vec!["fleet.example".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    params.serial_number = Some(0x00c0_ffee.into());
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    params
}

fn plain_params() -> CertificateParams {
    let mut params = odd_params();
    params.is_ca = IsCa::NoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn issue(params: &CertificateParams, by: &CertifiedIssuer<'static, KeyPair>) -> CertificateDer<'static> {
    params.signed_by(&KeyPair::generate().unwrap(), by).unwrap().der().clone()
}

fn at(year: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_557_600 + 86_400))
}

struct Check {
    verifier: PinnedVerifier,
}

impl Check {
    fn of(pins: &[&CertificateDer<'static>]) -> Self {
        let pins = pins.iter().map(|pin| (*pin).clone()).collect();
        Self { verifier: PinnedVerifier::new(pins, &provider(), Revoked::default()).unwrap() }
    }

    fn run(&self, leaf: &CertificateDer<'_>, name: &str, now: UnixTime) -> Result<(), Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        self.verifier.verify_server_cert(leaf, &[], &name, &[], now).map(|_| ())
    }
}

#[test]
fn both_kinds_of_certificate_are_believed_from_the_pinned_authority_only() {
    let (ours, theirs) = (authority("ours"), authority("ours"));
    let check = Check::of(&[ours.der()]);
    for params in [plain_params(), odd_params()] {
        assert_eq!(check.run(&issue(&params, &ours), "fleet.example", at(2026)), Ok(()));
        // The same name, another key: only the signature tells them apart.
        let refused = check.run(&issue(&params, &theirs), "fleet.example", at(2026)).unwrap_err();
        assert!(matches!(refused, Error::InvalidCertificate(_)), "{refused}");
    }
}

#[test]
fn name_and_dates_are_checked_on_both_kinds() {
    let ours = authority("ours");
    let check = Check::of(&[ours.der()]);
    for params in [plain_params(), odd_params()] {
        let leaf = issue(&params, &ours);
        for (name, year) in [("other.example", 2026), ("fleet.example", 2019), ("fleet.example", 2031)] {
            assert!(check.run(&leaf, name, at(year)).is_err(), "{name} in {year}");
        }
    }
}

/// A list with one serial number that a server gave in 2026.
fn naming(serial: &[u8]) -> RevokedList {
    let now = Timestamp::from_secs(at(2026).as_secs().try_into().unwrap());
    let length = u8::try_from(serial.len()).unwrap();
    RevokedList::parse(&[&[0x0a, length], serial].concat(), now).unwrap()
}

#[test]
fn a_revoked_serial_is_refused_on_both_kinds_and_a_pin_is_not_the_servers_to_revoke() {
    let ours = authority("ours");
    for params in [plain_params(), odd_params()] {
        let leaf = issue(&params, &ours);
        let check = Check::of(&[ours.der()]);
        *check.verifier.revoked.write().unwrap() = naming(&[77]);
        assert_eq!(check.run(&leaf, "fleet.example", at(2026)), Ok(()));
        *check.verifier.revoked.write().unwrap() = naming(&[0xc0, 0xff, 0xee]);
        let refused = check.run(&leaf, "fleet.example", at(2026)).unwrap_err();
        assert_eq!(refused, Error::InvalidCertificate(CertificateError::Revoked));
        // The list counts for a day.
        let later = UnixTime::since_unix_epoch(Duration::from_secs(at(2026).as_secs() + 86_400));
        assert_eq!(check.run(&leaf, "fleet.example", later), Ok(()));
    }
    let mut params = odd_params();
    params.distinguished_name.push(rcgen::DnType::CommonName, "itself");
    let itself = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let check = Check::of(&[itself.der()]);
    *check.verifier.revoked.write().unwrap() = naming(&[0xc0, 0xff, 0xee]);
    assert_eq!(check.run(itself.der(), "fleet.example", at(2026)), Ok(()));
}

#[test]
fn an_authority_between_pin_and_server_can_be_revoked() {
    let ours = authority("ours");
    let mut params = odd_params();
    params.serial_number = Some(0x42.into());
    let below = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &ours).unwrap();
    let leaf = issue(&plain_params(), &below);
    let name = ServerName::try_from("fleet.example").unwrap();
    let check = Check::of(&[ours.der()]);
    let run = || check.verifier.verify_server_cert(&leaf, &[below.der().clone()], &name, &[], at(2026)).map(|_| ());
    assert_eq!(run(), Ok(()));
    *check.verifier.revoked.write().unwrap() = naming(&[0x42]);
    assert_eq!(run(), Err(Error::InvalidCertificate(CertificateError::Revoked)));
}

fn for_good(serials: &[&str], certificates: &[&CertificateDer<'_>]) -> Arc<document::Revocations> {
    use sha2::{Digest as _, Sha256};
    let serials: Vec<String> = serials.iter().map(|serial| (*serial).to_owned()).collect();
    let prints: Vec<String> = certificates.iter().map(|one| hex::encode(Sha256::digest(one))).collect();
    Arc::new(document::Revocations::new(&serials, &prints, false).unwrap())
}

fn is_for_good(refused: Result<(), Error>) -> bool {
    refused.unwrap_err().to_string().contains(&RevokedForGood.to_string())
}

#[test]
fn what_administrators_revoked_is_refused_for_good_and_only_that() {
    let (ours, others) = (authority("ours"), authority("others"));
    for params in [plain_params(), odd_params()] {
        let (leaf, same_serial) = (issue(&params, &ours), issue(&params, &others));
        let check = Check::of(&[ours.der(), others.der()]);
        let run = |leaf: &CertificateDer<'_>, year| check.run(leaf, "fleet.example", at(year));
        check.verifier.for_good.replace(for_good(&[], &[&leaf]));
        assert!(is_for_good(run(&leaf, 2026)) && is_for_good(run(&leaf, 2029)));
        assert_eq!(run(&same_serial, 2026), Ok(()));
        check.verifier.for_good.replace(for_good(&["C0FFEE"], &[]));
        assert!(is_for_good(run(&leaf, 2026)) && is_for_good(run(&same_serial, 2026)));
        // A pinned authority that is not even shown.
        check.verifier.for_good.replace(for_good(&[], &[ours.der()]));
        assert!(is_for_good(run(&leaf, 2026)));
        assert_eq!(run(&same_serial, 2026), Ok(()), "the other authority is trusted as before");
        check.verifier.for_good.replace(for_good(&["4D"], &[]));
        assert!(is_for_good(run(&same_serial, 2026)), "both authorities have that serial number");
        // A newer document takes it back.
        check.verifier.for_good.replace(Arc::default());
        assert_eq!(run(&leaf, 2026), Ok(()));
    }
}

#[test]
fn a_pinned_server_and_an_authority_between_can_be_revoked_for_good() {
    let mut params = odd_params();
    params.distinguished_name.push(rcgen::DnType::CommonName, "itself");
    let itself = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let check = Check::of(&[itself.der()]);
    check.verifier.for_good.replace(for_good(&[], &[itself.der()]));
    assert!(is_for_good(check.run(itself.der(), "fleet.example", at(2026))));

    let ours = authority("ours");
    let below = CertifiedIssuer::signed_by(odd_params(), KeyPair::generate().unwrap(), &ours).unwrap();
    let leaf = issue(&plain_params(), &below);
    let name = ServerName::try_from("fleet.example").unwrap();
    let check = Check::of(&[ours.der()]);
    let run = || check.verifier.verify_server_cert(&leaf, &[below.der().clone()], &name, &[], at(2026)).map(|_| ());
    assert_eq!(run(), Ok(()));
    check.verifier.for_good.replace(for_good(&[], &[below.der()]));
    assert!(is_for_good(run()));
}

#[test]
fn an_authority_for_another_purpose_is_no_server() {
    let ours = authority("ours");
    let check = Check::of(&[ours.der()]);
    let mut no_signature = odd_params();
    no_signature.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let mut client_only = odd_params();
    client_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    for params in [no_signature, client_only] {
        assert!(check.run(&issue(&params, &ours), "fleet.example", at(2026)).is_err());
    }
}

#[test]
fn an_authority_below_the_pin_cannot_vouch_for_an_odd_server() {
    let ours = authority("ours");
    let below = CertifiedIssuer::signed_by(odd_params(), KeyPair::generate().unwrap(), &ours).unwrap();
    let leaf = issue(&odd_params(), &below);
    let name = ServerName::try_from("fleet.example").unwrap();
    let check = Check::of(&[ours.der()]);
    assert!(check.verifier.verify_server_cert(&leaf, &[below.der().clone()], &name, &[], at(2026)).is_err());
}

#[test]
fn a_server_that_is_pinned_itself_is_believed() {
    let mut params = odd_params();
    params.distinguished_name.push(rcgen::DnType::CommonName, "itself");
    let itself = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    assert_eq!(Check::of(&[itself.der()]).run(itself.der(), "fleet.example", at(2026)), Ok(()));
}

#[test]
fn what_is_no_certificate_cannot_be_pinned() {
    let pins = vec![CertificateDer::from(vec![1, 2, 3])];
    let error = PinnedVerifier::new(pins, &provider(), Revoked::default()).unwrap_err();
    assert!(error.to_string().contains("certificate 1"), "{error}");
}
