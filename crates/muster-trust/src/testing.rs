//! People who sign in tests, with keys made on the spot.

use crate::{Certificate, Keyring, signature};
use muster_core::Timestamp;
use sequoia_openpgp::cert::{Cert, CertBuilder, CertRevocationBuilder};
use sequoia_openpgp::crypto::KeyPair;
use sequoia_openpgp::packet::signature::SignatureBuilder;
use sequoia_openpgp::serialize::SerializeInto;
use sequoia_openpgp::types::{KeyFlags, ReasonForRevocation, SignatureType};
use sequoia_openpgp::{Fingerprint, Packet};
use std::time::{Duration, SystemTime};

/// When keys are made: 2026-09-21T14:13:20Z.
pub(crate) const BORN: i64 = 1_790_000_000;

/// The moment `secs` after keys are made.
pub(crate) fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(BORN + secs)
}

pub(crate) fn system(secs: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs((BORN + secs).try_into().unwrap())
}

/// Somebody with a key.
#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) cert: Cert,
}

impl Person {
    /// Somebody whose primary key certifies and signs.
    pub(crate) fn new() -> Self {
        Self::built(|builder| builder)
    }

    /// Somebody with a subkey that signs, too.
    #[expect(clippy::redundant_closure_for_method_calls, reason = "the method's name stands for one lifetime only")]
    pub(crate) fn with_subkey() -> Self {
        Self::built(|builder| builder.add_signing_subkey())
    }

    pub(crate) fn built(change: impl FnOnce(CertBuilder<'_>) -> CertBuilder<'_>) -> Self {
        let builder = CertBuilder::new()
            .set_creation_time(system(0))
            .add_userid("Somebody <somebody@example.net>")
            .set_primary_key_flags(KeyFlags::empty().set_certification().set_signing());
        Self { cert: change(builder).generate().unwrap().0 }
    }

    pub(crate) fn certificate(&self) -> Certificate {
        Certificate::parse(&self.cert.clone().strip_secret_key_material().to_vec().unwrap()).unwrap()
    }

    pub(crate) fn armored(&self) -> String {
        self.certificate().to_armored()
    }

    pub(crate) fn fingerprint(&self) -> muster_core::action::Fingerprint {
        self.certificate().fingerprint().clone()
    }

    /// The fingerprint of the key at this place: 0 is the primary one.
    pub(crate) fn key(&self, place: usize) -> Fingerprint {
        self.cert.keys().nth(place).unwrap().key().fingerprint()
    }

    pub(crate) fn pair(&self, place: usize) -> KeyPair {
        self.cert.keys().secret().nth(place).unwrap().key().clone().into_keypair().unwrap()
    }

    /// Signs with the primary key, `secs` after it was made.
    pub(crate) fn sign(&self, data: &[u8], secs: i64) -> String {
        self.sign_as(0, data, secs, |builder| builder)
    }

    pub(crate) fn sign_as(
        &self,
        place: usize,
        data: &[u8],
        secs: i64,
        change: impl FnOnce(SignatureBuilder) -> SignatureBuilder,
    ) -> String {
        signature::encode(&self.packet(place, data, secs, change))
    }

    pub(crate) fn packet(
        &self,
        place: usize,
        data: &[u8],
        secs: i64,
        change: impl FnOnce(SignatureBuilder) -> SignatureBuilder,
    ) -> Vec<u8> {
        let builder = SignatureBuilder::new(SignatureType::Binary).set_signature_creation_time(system(secs)).unwrap();
        let signature = change(builder).sign_message(&mut self.pair(place), data).unwrap();
        Packet::from(signature).to_vec().unwrap()
    }

    /// The same person after the key was revoked, `secs` after it was made.
    pub(crate) fn revoked(&self, why: ReasonForRevocation, secs: i64) -> Self {
        let revocation = CertRevocationBuilder::new()
            .set_reason_for_revocation(why, b"")
            .and_then(|builder| builder.set_signature_creation_time(system(secs)))
            .and_then(|builder| builder.build(&mut self.pair(0), &self.cert, None))
            .unwrap();
        Self { cert: self.cert.clone().insert_packets(revocation).unwrap().0 }
    }
}

pub(crate) fn keyring(people: &[&Person]) -> Keyring {
    Keyring::new(people.iter().map(|person| person.certificate()).collect()).unwrap()
}
