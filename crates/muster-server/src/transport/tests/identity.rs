//! Who somebody is: keys of every kind, one key on several machines, and signatures besides the key.

use super::client::{Agent, Way, contact, data, message, poll, stranger, way, wrapped};
use super::world::{world, world_with};
use crate::config::Agents;
use crate::transport::{DoorError, Options, Signers};
use bytes::Bytes;
use muster_core::AgentState;
use muster_engine::EngineConfig;
use muster_engine::access::Caller;
use muster_proto::wire;
use muster_store::agents::EventFilter;
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PublicKeyData, SignatureAlgorithm};
use rustls::SignatureScheme;
use rustls_pki_types::PrivateKeyDer;
use std::collections::BTreeSet;

#[tokio::test]
async fn s04_a_key_on_five_machines_is_noticed_and_blacklisting_it_leaves_five_machines() {
    let world = world().await;
    let shared = Agent::new();
    let first = poll(&world, &way(&shared), contact(vec![])).await.contact().sequencing_nonce;
    let mut nonces = [first; 5];
    let suspected = async || {
        let known = world.engine.store().agent_get(shared.id()).await.unwrap().unwrap();
        known.clone_suspected.is_some()
    };
    // One use of an old nonce is an answer that was lost; three contacts of each machine leave no other reading.
    'noticed: for _ in 0..3 {
        for nonce in &mut nonces {
            let said = wire::ContactData { sequencing_nonce: *nonce, ..data(vec![]) };
            let answer = poll(&world, &way(&shared), wrapped(&said).encode_to_vec()).await.contact();
            *nonce = answer.sequencing_nonce;
            if suspected().await {
                break 'noticed;
            }
        }
    }
    assert!(suspected().await, "five machines with one key went unnoticed");

    world.engine.agent_blacklist(shared.id(), &Caller::server()).await.unwrap();
    let mut ids = BTreeSet::new();
    for nonce in nonces {
        let said = wire::ContactData { sequencing_nonce: nonce, ..data(vec![]) };
        let answer = poll(&world, &way(&shared), wrapped(&said).encode_to_vec()).await.contact();
        assert_eq!(answer.messages[0].message_type, "RekeyRequest");
        // Each machine draws a key of its own, as the demand says.
        let renewed = Agent::new();
        assert_eq!(poll(&world, &way(&renewed), contact(vec![message(b"1")])).await.status, 200);
        let known = world.engine.store().agent_get(renewed.id()).await.unwrap().unwrap();
        assert_eq!((known.state, known.clone_suspected), (AgentState::Enrolled, None));
        ids.insert(renewed.id());
    }
    assert_eq!(ids.len(), 5);
}

/// A public key that nobody needs to own, put into a certificate by somebody else's signature.
struct Foreign {
    bits: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl PublicKeyData for Foreign {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

#[tokio::test]
async fn s07_rsa_keys_come_in_from_2048_bits_on() {
    let world = world().await;
    for size in [rcgen::RsaKeySize::_2048, rcgen::RsaKeySize::_4096] {
        let agent = Agent::of(KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).unwrap());
        assert_eq!(poll(&world, &way(&agent), "").await.status, 200);
        assert!(world.engine.store().agent_get(agent.id()).await.unwrap().is_some());
    }
    // 1,024 bits: a modulus that starts with a one, and the usual exponent.
    let modulus = [&[0x02, 0x81, 0x81, 0x00][..], &[0xd5; 128]].concat();
    let bits = [&[0x30, 0x81, 0x89][..], &modulus, &[0x02, 0x03, 0x01, 0x00, 0x01]].concat();
    let point_off_the_curves = [&[4][..], &[7; 64]].concat();
    for (bits, algorithm) in
        [(bits, &rcgen::PKCS_RSA_SHA256), (point_off_the_curves[..50].to_vec(), &rcgen::PKCS_ECDSA_P256_SHA256)]
    {
        let signer = KeyPair::generate().unwrap();
        let issuer = rcgen::Issuer::new(CertificateParams::default(), &signer);
        let weak = CertificateParams::default().signed_by(&Foreign { bits, algorithm }, &issuer).unwrap();
        let shows = super::client::Shows { chain: vec![weak.der().clone()], key: signer.serialize_der() };
        let way = Way { shows: Some(shows), ..stranger() };
        let asked = super::client::post("/message", &[], super::client::full(""));
        assert!(super::client::request(&world, &way, asked).await.is_err());
    }
    assert_eq!(poll(&world, &way(&Agent::new()), "").await.status, 200);
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A contact with one message, signed with `key` under `certificate`; `damage` is applied to the signature.
fn signed(id: &[u8], key: &KeyPair, certificate: &[u8], damage: u8) -> Vec<u8> {
    let mut wrapped = wrapped(&data(vec![message(id)]));
    let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = crate::tls::provider().key_provider.load_private_key(der).unwrap();
    let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
    let mut signature = signer.sign(&wrapped.contact_data).unwrap();
    *signature.last_mut().unwrap() ^= damage;
    let certificate = vec![Bytes::copy_from_slice(certificate)];
    wrapped.signatures = vec![wire::Signature { certificate, algorithm: 10, signature: signature.into() }];
    wrapped.encode_to_vec()
}

#[tokio::test]
async fn extra_signatures_are_verified_and_told_to_services() {
    let (ours, key, agent) = (authority(), KeyPair::generate().unwrap(), Agent::new());
    let certificate = CertificateParams::default().signed_by(&key, &ours).unwrap();
    let own = agent.certificate.clone();
    for has_authority in [false, true] {
        let signers = has_authority.then(|| Signers::of_pem(ours.pem().as_bytes(), false).unwrap());
        let world = world_with(Options { signers, ..Options::default() }, EngineConfig::default()).await;
        let best = if has_authority { "trusted" } else { "valid" };
        for (id, body, want) in [
            (b"by the authority", signed(b"by the authority", &key, certificate.der(), 0), best),
            (b"by its own key..", signed(b"by its own key..", &agent.pair, &own, 0), "valid"),
            (b"by no such key..", signed(b"by no such key..", &key, &own, 0), "invalid"),
            (b"damaged.........", signed(b"damaged.........", &key, certificate.der(), 1), "invalid"),
        ] {
            poll(&world, &way(&agent), body).await.contact();
            let messages = world.messages_of(agent.id()).await;
            let message = messages.into_iter().find(|message| message.source_message_id == id).unwrap();
            assert_eq!(message.validation["signature.1"], want, "{message:?}");
            assert_eq!(message.validation.len(), if want == "invalid" { 1 } else { 2 });
        }
        poll(&world, &way(&agent), contact(vec![message(b"unsigned")])).await.contact();
        let messages = world.messages_of(agent.id()).await;
        let unsigned = messages.into_iter().find(|message| message.source_message_id == b"unsigned").unwrap();
        assert!(unsigned.validation.is_empty());
    }
}

#[tokio::test]
async fn where_a_trusted_signature_is_demanded_nothing_less_comes_in() {
    let (ours, key, agent) = (authority(), KeyPair::generate().unwrap(), Agent::new());
    let certificate = CertificateParams::default().signed_by(&key, &ours).unwrap();
    let signers = Some(Signers::of_pem(ours.pem().as_bytes(), true).unwrap());
    let world = world_with(Options { signers, ..Options::default() }, EngineConfig::default()).await;
    for refused in [
        contact(vec![message(b"unsigned")]),
        signed(b"own", &agent.pair, &agent.certificate, 0),
        signed(b"damaged", &key, certificate.der(), 1),
    ] {
        let answer = poll(&world, &way(&agent), refused).await;
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.text().starts_with("not authorized"), "{}", answer.text());
    }
    assert!(world.engine.store().agent_get(agent.id()).await.unwrap().is_none());
    let refusals = world.engine.store().event_page(EventFilter::default(), None, 10).await.unwrap();
    assert!(refusals.len() == 3 && refusals.iter().all(|refusal| refusal.code == "not_authorized"), "{refusals:?}");
    poll(&world, &way(&agent), signed(b"good", &key, certificate.der(), 0)).await.contact();
    assert_eq!(world.messages_of(agent.id()).await.len(), 1);
}

#[test]
fn authorities_that_cannot_be_read_keep_the_door_shut() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("signers.pem");
    let options = || Options::of(&Agents { signature_authorities: Some(path.clone()), ..Agents::default() });
    assert!(matches!(options(), Err(DoorError::Signers { .. })));
    std::fs::write(&path, "nothing").unwrap();
    let error = options().unwrap_err().to_string();
    assert!(error.contains("signers.pem") && error.contains("no certificate"), "{error}");
    std::fs::write(&path, authority().pem()).unwrap();
    assert!(options().unwrap().signers.is_some_and(|signers| !signers.required));
}
