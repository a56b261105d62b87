use super::*;
use crate::testing::{Person, at, keyring, system};
use sequoia_openpgp::KeyHandle;
use sequoia_openpgp::cert::SubkeyRevocationBuilder;
use sequoia_openpgp::packet::key::{Key4, SecretParts, SubordinateRole};
use sequoia_openpgp::packet::signature::SignatureBuilder;
use sequoia_openpgp::packet::signature::subpacket::{Subpacket, SubpacketValue};
use sequoia_openpgp::packet::{Key, Unknown};
use sequoia_openpgp::serialize::SerializeInto;
use sequoia_openpgp::types::{Curve, HashAlgorithm, KeyFlags, ReasonForRevocation};
use std::time::Duration;

const DATA: &[u8] = b"name=x;";

fn outcome(person: &Person, signature: &str, now: i64) -> Result<Signed, SignatureError> {
    verify(&keyring(&[person]), signature, DATA, at(now))
}

#[test]
fn a_good_signature_names_its_signer_key_and_time() {
    let (kelso, smith) = (Person::new(), Person::with_subkey());
    let both = keyring(&[&kelso, &smith]);
    let signed = verify(&both, &kelso.sign(DATA, 100), DATA, at(200)).unwrap();
    assert_eq!(signed, Signed { signer: kelso.fingerprint(), key: kelso.fingerprint(), made: at(100) });
    let signed = verify(&both, &smith.sign_as(1, DATA, 100, |b| b), DATA, at(200)).unwrap();
    assert_eq!(signed.signer, smith.fingerprint(), "the primary key names the person");
    assert_eq!(Some(signed.key), fingerprint_of(&smith.key(1)));
}

#[test]
fn a_signature_over_anything_else_is_refused() {
    let kelso = Person::new();
    let signature = kelso.sign(DATA, 100);
    assert!(outcome(&kelso, &signature, 200).is_ok());
    for place in 0..DATA.len() {
        let mut other = DATA.to_vec();
        other[place] ^= 1;
        assert_eq!(verify(&keyring(&[&kelso]), &signature, &other, at(200)), Err(SignatureError::Mismatch));
    }
    assert_eq!(verify(&keyring(&[&kelso]), &signature, b"", at(200)), Err(SignatureError::Mismatch));
}

#[test]
fn no_flipped_bit_of_a_signature_is_accepted_as_another() {
    let kelso = Person::new();
    let packet = kelso.packet(0, DATA, 100, |b| b);
    let good = outcome(&kelso, &encode(&packet), 200).unwrap();
    for place in 0..packet.len() {
        let mut bad = packet.clone();
        bad[place] ^= 1;
        // Bits outside of what is hashed may change without changing what was signed or by whom.
        if let Ok(signed) = outcome(&kelso, &encode(&bad), 200) {
            assert_eq!(signed, good, "byte {place}");
        }
    }
}

#[test]
fn unknown_and_contradictory_signers_are_refused() {
    let (kelso, smith) = (Person::new(), Person::new());
    assert_eq!(outcome(&smith, &kelso.sign(DATA, 100), 200), Err(SignatureError::UnknownKey));
    assert_eq!(verify(&Keyring::default(), &kelso.sign(DATA, 100), DATA, at(200)), Err(SignatureError::UnknownKey));
    let wrong =
        |b: SignatureBuilder| b.set_issuer(smith.key(0).into()).unwrap().set_issuer_fingerprint(kelso.key(0)).unwrap();
    let signature = kelso.sign_as(0, DATA, 100, wrong);
    assert_eq!(outcome(&kelso, &signature, 200), Err(SignatureError::Issuer));
    assert_eq!(verify(&keyring(&[&kelso, &smith]), &signature, DATA, at(200)), Err(SignatureError::Issuer));
    // It names the other one alone, consistently.
    let wrong =
        |b: SignatureBuilder| b.set_issuer(smith.key(0).into()).unwrap().set_issuer_fingerprint(smith.key(0)).unwrap();
    let signature = kelso.sign_as(0, DATA, 100, wrong);
    let outcome = verify(&keyring(&[&kelso, &smith]), &signature, DATA, at(200));
    assert_eq!(outcome, Err(SignatureError::Mismatch));
}

#[test]
fn a_signature_that_names_only_a_key_id_is_found() {
    let kelso = Person::new();
    let mut signature = parse(&kelso.packet(0, DATA, 100, |b| b)).unwrap();
    // As written by the original, which knows no fingerprint there.
    signature.unhashed_area_mut().clear();
    let found = kelso_candidates(&kelso, &[KeyHandle::from(openpgp::KeyID::from(kelso.key(0)))]);
    assert_eq!(found, 1);
    assert_eq!(kelso_candidates(&kelso, &[KeyHandle::from(openpgp::KeyID::from(1))]), 0);
    assert_eq!(kelso_candidates(&kelso, &[]), 0);
}

fn kelso_candidates(kelso: &Person, issuers: &[KeyHandle]) -> usize {
    keyring(&[kelso]).candidates(issuers).0.len()
}

#[test]
fn only_one_detached_binary_signature_is_accepted() {
    let kelso = Person::new();
    let packet = kelso.packet(0, DATA, 100, |b| b);
    let twice = [packet.clone(), packet.clone()].concat();
    let trailing = [packet.clone(), vec![0]].concat();
    let short = packet[..packet.len() - 1].to_vec();
    let key = kelso.cert.clone().strip_secret_key_material();
    let key = key.to_vec().unwrap();
    // A literal packet with one byte, alone and before the signature: a message signed inline.
    let literal = vec![0xCB, 7, b'b', 0, 0, 0, 0, 0, b'x'];
    let inline = [literal.clone(), packet.clone()].concat();
    for bytes in [twice, trailing, short, key, literal, inline, vec![0xC2], vec![0xC2, 0], vec![0x88, 1, 4], vec![0xFF]]
    {
        assert_eq!(outcome(&kelso, &encode(&bytes), 200), Err(SignatureError::Malformed), "{bytes:02x?}");
    }
    let typed = |typ| kelso.sign_as(0, DATA, 100, |b| b.set_type(typ));
    assert_eq!(outcome(&kelso, &typed(SignatureType::Text), 200), Err(SignatureError::Type));
    let builder = SignatureBuilder::new(SignatureType::Standalone).set_signature_creation_time(system(100)).unwrap();
    let standalone = builder.sign_standalone(&mut kelso.pair(0)).unwrap();
    let standalone = encode(&Packet::from(standalone).to_vec().unwrap());
    assert_eq!(outcome(&kelso, &standalone, 200), Err(SignatureError::Type));
}

#[test]
fn every_form_of_a_packets_length_is_read() {
    let with = |header: &[u8], body: usize| is_one_signature_packet(&[header.to_vec(), vec![4; body]].concat());
    for (header, body) in [
        (&[0xC2, 0][..], 0),
        (&[0xC2, 191], 191),
        (&[0xC2, 192, 0], 192),
        (&[0xC2, 193, 1], 449),
        (&[0xC2, 223, 255], 8383),
        (&[0xC2, 255, 0, 0, 1, 2], 258),
        (&[0x88, 5], 5),
        (&[0x89, 1, 2], 258),
        (&[0x8A, 0, 1, 0, 2], 65_538),
    ] {
        assert!(with(header, body), "{header:02x?}");
        assert!(!with(header, body + 1), "{header:02x?} and a byte more");
        assert!(body == 0 || !with(header, body - 1), "{header:02x?} and a byte less");
    }
    // In pieces, of no said length, and of another kind.
    for header in [&[0xC2, 224][..], &[0xC2, 231], &[0xC2, 254], &[0x8B], &[0xC3, 5], &[0x85, 5]] {
        assert!(!(0..300).any(|body| with(header, body)), "{header:02x?}");
    }
    assert!(
        !is_one_signature_packet(&[]) && !is_one_signature_packet(&[0xC2]) && !is_one_signature_packet(&[0xC2, 255, 0])
    );
}

#[test]
fn weak_hashes_and_critical_strangers_are_refused() {
    let kelso = Person::new();
    let changed = |change: &dyn Fn(SignatureBuilder) -> SignatureBuilder| {
        outcome(&kelso, &kelso.sign_as(0, DATA, 100, change), 200).map(|_| ())
    };
    for hash in [HashAlgorithm::SHA1, HashAlgorithm::MD5, HashAlgorithm::SHA224, HashAlgorithm::RipeMD] {
        assert_eq!(changed(&|b| b.set_hash_algo(hash)), Err(SignatureError::HashWeak), "{hash}");
    }
    for hash in [HashAlgorithm::SHA256, HashAlgorithm::SHA384, HashAlgorithm::SHA512] {
        assert_eq!(changed(&|b| b.set_hash_algo(hash)), Ok(()), "{hash}");
    }
    let notation = |critical| move |b: SignatureBuilder| b.set_notation("a@example.net", "x", None, critical).unwrap();
    assert_eq!(changed(&notation(false)), Ok(()));
    assert_eq!(changed(&notation(true)), Err(SignatureError::Critical));
    let unknown = |critical| {
        move |b: SignatureBuilder| {
            let value = SubpacketValue::Unknown { tag: SubpacketTag::Private(100), body: vec![1] };
            b.modify_hashed_area(|mut area| area.add(Subpacket::new(value, critical)?).map(|()| area)).unwrap()
        }
    };
    assert_eq!(changed(&unknown(false)), Ok(()));
    assert_eq!(changed(&unknown(true)), Err(SignatureError::Critical));
    let packet = kelso.packet(0, DATA, 100, |b| b);
    for version in [2, 3, 5, 7] {
        let mut old = packet.clone();
        // Behind a header of two bytes, or of three.
        old[if packet[1] < 192 { 2 } else { 3 }] = version;
        assert!(outcome(&kelso, &encode(&old), 200).is_err(), "version {version}");
    }
}

#[test]
fn signatures_from_the_future_and_past_their_end_are_refused() {
    let kelso = Person::new();
    assert!(outcome(&kelso, &kelso.sign(DATA, 500), 200).is_ok(), "five minutes ahead");
    assert_eq!(outcome(&kelso, &kelso.sign(DATA, 501), 200), Err(SignatureError::Future));
    let ends = |secs| {
        let life = Duration::from_secs(secs);
        kelso.sign_as(0, DATA, 100, |b| b.set_signature_validity_period(life).unwrap())
    };
    assert!(outcome(&kelso, &ends(101), 200).is_ok());
    assert_eq!(outcome(&kelso, &ends(100), 200), Err(SignatureError::Expired));
    assert!(outcome(&kelso, &ends(0), 200).is_ok(), "zero is no end");
    assert_eq!(outcome(&kelso, &kelso.sign(DATA, -1), 200), Err(SignatureError::KeyTooYoung));
}

#[test]
fn an_expired_key_orders_nothing_whenever_it_signed() {
    let kelso = Person::built(|builder| builder.set_validity_period(Duration::from_secs(1000)));
    assert!(outcome(&kelso, &kelso.sign(DATA, 900), 999).is_ok());
    assert_eq!(outcome(&kelso, &kelso.sign(DATA, 900), 1000), Err(SignatureError::KeyExpired));
    // The clock of the machine stands behind; the signature itself says that the key was over.
    assert_eq!(outcome(&kelso, &kelso.sign(DATA, 1100), 990), Err(SignatureError::KeyExpired));
    let smith = Person::built(|builder| {
        builder.add_subkey(KeyFlags::empty().set_signing(), Some(Duration::from_secs(500)), None)
    });
    assert!(outcome(&smith, &smith.sign_as(1, DATA, 100, |b| b), 499).is_ok());
    assert_eq!(outcome(&smith, &smith.sign_as(1, DATA, 100, |b| b), 500), Err(SignatureError::KeyExpired));
    assert!(outcome(&smith, &smith.sign(DATA, 100), 500).is_ok());
    assert_eq!(kelso.certificate().signing_keys(at(1000)), Err(SignatureError::KeyExpired));
    assert_eq!(smith.certificate().signing_keys(at(499)).unwrap().len(), 2);
    assert_eq!(smith.certificate().signing_keys(at(500)), Ok(vec![smith.fingerprint()]));
}

#[test]
fn a_revoked_key_orders_nothing_whenever_it_signed() {
    let kelso = Person::new();
    let signature = kelso.sign(DATA, 100);
    for (why, revoked_at, now, want) in [
        (ReasonForRevocation::KeyCompromised, 50, 200, false),
        (ReasonForRevocation::KeyCompromised, 150, 200, false),
        // Who has the key may have backdated anything, so this holds before its date, too.
        (ReasonForRevocation::KeyCompromised, 300, 200, false),
        (ReasonForRevocation::KeyRetired, 50, 200, false),
        (ReasonForRevocation::KeyRetired, 150, 200, false),
        (ReasonForRevocation::KeyRetired, 300, 200, true),
        (ReasonForRevocation::KeySuperseded, 150, 200, false),
    ] {
        let outcome = outcome(&kelso.revoked(why, revoked_at), &signature, now).map(|_| ());
        let want = if want { Ok(()) } else { Err(SignatureError::KeyRevoked) };
        assert_eq!(outcome, want, "{why:?} at {revoked_at}");
    }
    let revoked = kelso.revoked(ReasonForRevocation::KeyRetired, 150);
    assert_eq!(revoked.certificate().signing_keys(at(200)), Err(SignatureError::KeyRevoked));
}

#[test]
fn a_revoked_subkey_orders_nothing_and_its_sister_does() {
    let smith = Person::with_subkey();
    let revocation = SubkeyRevocationBuilder::new()
        .set_reason_for_revocation(ReasonForRevocation::KeyCompromised, b"")
        .and_then(|b| b.set_signature_creation_time(system(150)))
        .and_then(|b| {
            let subkey = smith.cert.keys().nth(1).unwrap().key().clone().parts_into_public().role_into_subordinate();
            b.build(&mut smith.pair(0), &smith.cert, &subkey, None)
        });
    let after = Person { cert: smith.cert.clone().insert_packets(revocation.unwrap()).unwrap().0 };
    let signature = smith.sign_as(1, DATA, 100, |b| b);
    assert!(outcome(&smith, &signature, 200).is_ok());
    assert_eq!(outcome(&after, &signature, 200), Err(SignatureError::KeyRevoked));
    assert!(outcome(&after, &smith.sign(DATA, 100), 200).is_ok());
}

#[test]
fn keys_for_other_uses_do_not_sign() {
    let certifier = Person::built(|builder| {
        builder
            .set_primary_key_flags(KeyFlags::empty().set_certification())
            .add_subkey(KeyFlags::empty().set_authentication(), None, None)
            .add_signing_subkey()
    });
    assert_eq!(outcome(&certifier, &certifier.sign(DATA, 100), 200), Err(SignatureError::NotForSigning));
    // Which of the two subkeys comes first is the library's affair.
    let by = |place| outcome(&certifier, &certifier.sign_as(place, DATA, 100, |b| b), 200).map(|signed| signed.key);
    let (first, second) = (by(1), by(2));
    let (good, bad) = if first.is_ok() { (first, second) } else { (second, first) };
    assert_eq!(bad, Err(SignatureError::NotForSigning));
    assert_eq!(certifier.certificate().signing_keys(at(200)), good.map(|key| vec![key]));
    let encrypts = Person::built(|builder| {
        builder.set_primary_key_flags(KeyFlags::empty().set_certification()).add_storage_encryption_subkey()
    });
    assert_eq!(encrypts.certificate().signing_keys(at(200)), Err(SignatureError::NotForSigning));
}

#[test]
fn a_subkey_that_did_not_agree_to_its_owner_does_not_sign() {
    let kelso = Person::new();
    let mut subkey: Key<SecretParts, SubordinateRole> = Key4::generate_ecc(true, Curve::Ed25519).unwrap().into();
    subkey.set_creation_time(system(0)).unwrap();
    let binding = SignatureBuilder::new(SignatureType::SubkeyBinding)
        .set_signature_creation_time(system(0))
        .and_then(|b| b.set_key_flags(KeyFlags::empty().set_signing()))
        .and_then(|b| {
            let primary = kelso.cert.primary_key().key().clone();
            b.sign_subkey_binding(&mut kelso.pair(0), &primary, &subkey.clone().parts_into_public())
        });
    let packets = [Packet::SecretSubkey(subkey), Packet::Signature(binding.unwrap())];
    let adopter = Person { cert: kelso.cert.clone().insert_packets(packets).unwrap().0 };
    let signature = adopter.sign_as(1, DATA, 100, |b| b);
    assert_eq!(outcome(&adopter, &signature, 200), Err(SignatureError::KeyUnbound));
    assert_eq!(outcome(&adopter, &adopter.sign(DATA, 100), 200).map(|_| ()), Ok(()));
}

/// Kelso with one more key below the primary one, which agreed to it, made at `born`.
fn with_subkey_born(kelso: &Person, born: i64) -> Person {
    let mut subkey: Key<SecretParts, SubordinateRole> = Key4::generate_ecc(true, Curve::Ed25519).unwrap().into();
    subkey.set_creation_time(system(born)).unwrap();
    let (primary, public) = (kelso.cert.primary_key().key().clone(), subkey.clone().parts_into_public());
    let agreed = system(born.max(0));
    let back = SignatureBuilder::new(SignatureType::PrimaryKeyBinding)
        .set_signature_creation_time(agreed)
        .and_then(|b| b.sign_primary_key_binding(&mut subkey.clone().into_keypair().unwrap(), &primary, &public))
        .unwrap();
    let binding = SignatureBuilder::new(SignatureType::SubkeyBinding)
        .set_signature_creation_time(agreed)
        .and_then(|b| b.set_key_flags(KeyFlags::empty().set_signing()))
        .and_then(|b| b.set_embedded_signature(back))
        .and_then(|b| b.sign_subkey_binding(&mut kelso.pair(0), &primary, &public));
    let packets = [Packet::SecretSubkey(subkey), Packet::Signature(binding.unwrap())];
    Person { cert: kelso.cert.clone().insert_packets(packets).unwrap().0 }
}

#[test]
fn a_key_signs_from_the_second_in_which_it_and_its_owner_were_made() {
    let kelso = Person::new();
    assert!(outcome(&kelso, &kelso.sign(DATA, 0), 200).is_ok(), "in the same second");
    assert_eq!(outcome(&kelso, &kelso.sign(DATA, -1), 200), Err(SignatureError::KeyTooYoung));
    let young = with_subkey_born(&kelso, 100);
    let by_subkey = |person: &Person, secs| outcome(person, &person.sign_as(1, DATA, secs, |b| b), 200).map(|_| ());
    assert_eq!(by_subkey(&young, 99), Err(SignatureError::KeyTooYoung));
    assert_eq!(by_subkey(&young, 100), Ok(()));
    assert!(outcome(&young, &young.sign(DATA, 50), 200).is_ok(), "the primary one is older");
    // A key that somebody had before its owner was anybody here.
    let old = with_subkey_born(&kelso, -100);
    assert_eq!(by_subkey(&old, -50), Err(SignatureError::KeyTooYoung));
    assert_eq!(by_subkey(&old, 0), Ok(()));
}

#[test]
fn texts_of_signatures_are_bounded_and_may_be_armored() {
    let kelso = Person::new();
    let packet = kelso.packet(0, DATA, 100, |b| b);
    let armored = armor::encode(armor::SIGNATURE, &packet);
    assert!(outcome(&kelso, &armored, 200).is_ok());
    assert_eq!(one_line(armored.as_bytes()), Ok(encode(&packet)));
    assert_eq!(one_line(&packet), Ok(encode(&packet)));
    assert_eq!(one_line(encode(&packet).as_bytes()), Ok(encode(&packet)));
    assert_eq!(one_line(&[0xC2, 0xFF]), Err(SignatureError::Malformed));
    assert_eq!(decode(&encode(&packet)), Ok(packet));
    let long = "A".repeat(limits::PGP_SIGNATURE_BYTES_MAX + 1);
    assert_eq!(decode(&long), Err(SignatureError::TooLong { have: long.len() }));
    assert!(decode(&long[1..]).is_ok());
    assert!(matches!(decode("%"), Err(SignatureError::Armor(_))));
}

#[test]
fn a_packet_that_nobody_knows_is_no_signature() {
    let kelso = Person::new();
    let unknown = Unknown::new(openpgp::packet::Tag::Private(60), openpgp::anyhow::anyhow!("x"));
    let bytes = Packet::Unknown(unknown).to_vec().unwrap();
    assert_eq!(outcome(&kelso, &encode(&bytes), 200), Err(SignatureError::Malformed));
}
