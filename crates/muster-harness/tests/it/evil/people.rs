//! People with keys made on the spot, good and bad ones, and what they sign.

use muster_trust::signature;
use sequoia_openpgp::cert::{Cert, CertBuilder, CertRevocationBuilder};
use sequoia_openpgp::crypto::KeyPair;
use sequoia_openpgp::packet::key::{Key4, PrimaryRole, SecretParts, SubordinateRole};
use sequoia_openpgp::packet::signature::SignatureBuilder;
use sequoia_openpgp::packet::{Key, UserID};
use sequoia_openpgp::serialize::SerializeInto;
use sequoia_openpgp::types::{Curve, KeyFlags, ReasonForRevocation, SignatureType};
use sequoia_openpgp::{Fingerprint, Packet};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// Seconds since 1970, now.
#[expect(clippy::disallowed_methods, reason = "real agents have no other clock")]
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}

fn system(secs: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs.try_into().unwrap())
}

/// Keys are a day old.
pub(super) const AGE: i64 = 86_400;

/// Somebody with a key.
pub(super) struct Person {
    cert: Cert,
}

impl Person {
    /// Somebody whose primary key certifies and signs.
    pub(super) fn new() -> Self {
        Self::built(|builder| builder)
    }

    pub(super) fn built(change: impl FnOnce(CertBuilder<'_>) -> CertBuilder<'_>) -> Self {
        let builder = CertBuilder::new()
            .set_creation_time(system(now() - AGE))
            .add_userid("Somebody <somebody@example.net>")
            .set_primary_key_flags(KeyFlags::empty().set_certification().set_signing());
        Self { cert: change(builder).generate().unwrap().0 }
    }

    /// Somebody with RSA of 1024 bits.
    pub(super) fn weak() -> Self {
        let mut key: Key<SecretParts, PrimaryRole> = Key4::generate_rsa(1024).unwrap().into();
        key.set_creation_time(system(now() - AGE)).unwrap();
        let mut pair = key.clone().into_keypair().unwrap();
        let cert = Cert::try_from(vec![Packet::SecretKey(key)]).unwrap();
        let name = UserID::from("Somebody <weak@example.net>");
        let binding = SignatureBuilder::new(SignatureType::PositiveCertification)
            .set_signature_creation_time(system(now() - AGE))
            .and_then(|builder| builder.set_key_flags(KeyFlags::empty().set_certification().set_signing()))
            .and_then(|builder| name.bind(&mut pair, &cert, builder))
            .unwrap();
        Self { cert: cert.insert_packets([Packet::from(name), binding.into()]).unwrap().0 }
    }

    /// Somebody with a further subkey for signing that never agreed to its owner.
    pub(super) fn adopting() -> Self {
        let person = Self::new();
        let mut subkey: Key<SecretParts, SubordinateRole> = Key4::generate_ecc(true, Curve::Ed25519).unwrap().into();
        subkey.set_creation_time(system(now() - AGE)).unwrap();
        let binding = SignatureBuilder::new(SignatureType::SubkeyBinding)
            .set_signature_creation_time(system(now() - AGE))
            .and_then(|builder| builder.set_key_flags(KeyFlags::empty().set_signing()))
            .and_then(|builder| {
                let primary = person.cert.primary_key().key().clone();
                builder.sign_subkey_binding(&mut person.pair(0), &primary, &subkey.clone().parts_into_public())
            });
        let packets = [Packet::SecretSubkey(subkey), Packet::Signature(binding.unwrap())];
        Self { cert: person.cert.insert_packets(packets).unwrap().0 }
    }

    /// The same person after the key was revoked, some seconds ago.
    pub(super) fn revoked(self, why: ReasonForRevocation, secs_ago: i64) -> Self {
        let revocation = CertRevocationBuilder::new()
            .set_reason_for_revocation(why, b"")
            .and_then(|builder| builder.set_signature_creation_time(system(now() - secs_ago)))
            .and_then(|builder| builder.build(&mut self.pair(0), &self.cert, None))
            .unwrap();
        Self { cert: self.cert.insert_packets(revocation).unwrap().0 }
    }

    pub(super) fn armored(&self) -> String {
        let public = self.cert.clone().strip_secret_key_material().armored().to_vec().unwrap();
        String::from_utf8(public).unwrap()
    }

    pub(super) fn fingerprint(&self) -> String {
        self.cert.fingerprint().to_hex()
    }

    /// The fingerprint of the key at this place: 0 is the primary one.
    pub(super) fn key(&self, place: usize) -> Fingerprint {
        self.cert.keys().nth(place).unwrap().key().fingerprint()
    }

    pub(super) fn pair(&self, place: usize) -> KeyPair {
        self.cert.keys().secret().nth(place).unwrap().key().clone().into_keypair().unwrap()
    }

    /// Signs with the primary key.
    pub(super) fn sign(&self, text: &str) -> String {
        self.sign_as(0, text, |builder| builder)
    }

    /// Signs with the key at this place, a minute ago, in a way of one's own.
    pub(super) fn sign_as(
        &self,
        place: usize,
        text: &str,
        change: impl FnOnce(SignatureBuilder) -> SignatureBuilder,
    ) -> String {
        signature::encode(&self.packet(place, text, change))
    }

    pub(super) fn packet(
        &self,
        place: usize,
        text: &str,
        change: impl FnOnce(SignatureBuilder) -> SignatureBuilder,
    ) -> Vec<u8> {
        let builder = SignatureBuilder::new(SignatureType::Binary);
        let builder = builder.set_signature_creation_time(system(now() - 60)).unwrap();
        let signature = change(builder).sign_message(&mut self.pair(place), text.as_bytes()).unwrap();
        Packet::from(signature).to_vec().unwrap()
    }

    /// Signs nothing at all, which some readers take for a signature over anything.
    pub(super) fn standalone(&self) -> String {
        let builder = SignatureBuilder::new(SignatureType::Standalone);
        let builder = builder.set_signature_creation_time(system(now() - 60)).unwrap();
        let signature = builder.sign_standalone(&mut self.pair(0)).unwrap();
        signature::encode(&Packet::from(signature).to_vec().unwrap())
    }
}

/// A moment as the builder of signatures takes it.
pub(super) fn made_at(secs: i64) -> impl FnOnce(SignatureBuilder) -> SignatureBuilder {
    move |builder| builder.set_signature_creation_time(system(secs)).unwrap()
}

/// Everybody in this story. The machine knows all but the stranger.
pub(super) struct People {
    /// Weight 2: alone enough for most.
    pub(super) alice: Person,
    /// Weight 1, with a subkey that signs.
    pub(super) bob: Person,
    /// Weight 1, with two keys.
    pub(super) carol: [Person; 2],
    /// Weight 2 each, were their keys good.
    pub(super) expired: Person,
    pub(super) stolen: Person,
    pub(super) retired: Person,
    pub(super) weak: Person,
    pub(super) certifier: Person,
    pub(super) adopting: Person,
    /// Known to nobody.
    pub(super) stranger: Person,
    /// Two administrators, of whom both must sign.
    pub(super) dora: Person,
    pub(super) emil: Person,
}

impl People {
    #[expect(clippy::redundant_closure_for_method_calls, reason = "the method's name stands for one lifetime only")]
    pub(super) fn new() -> Self {
        let hour = Duration::from_secs(3600);
        Self {
            alice: Person::new(),
            bob: Person::built(|builder| builder.add_signing_subkey()),
            carol: [Person::new(), Person::new()],
            expired: Person::built(|builder| builder.set_validity_period(hour)),
            stolen: Person::new().revoked(ReasonForRevocation::KeyCompromised, 3600),
            retired: Person::new().revoked(ReasonForRevocation::KeyRetired, 3600),
            weak: Person::weak(),
            certifier: Person::built(|builder| {
                builder.set_primary_key_flags(KeyFlags::empty().set_certification()).add_signing_subkey()
            }),
            adopting: Person::adopting(),
            stranger: Person::new(),
            dora: Person::new(),
            emil: Person::new(),
        }
    }

    /// What the machine believes.
    pub(super) fn belief(&self) -> muster_harness::evil::Belief {
        let Self { alice, bob, carol: [carol, carol_too], expired, stolen, retired, .. } = self;
        let Self { weak, certifier, adopting, dora, emil, .. } = self;
        let named = [
            ("alice", alice),
            ("bob", bob),
            ("carol", carol),
            ("carol-too", carol_too),
            ("expired", expired),
            ("stolen", stolen),
            ("retired", retired),
            ("weak", weak),
            ("certifier", certifier),
            ("adopting", adopting),
        ];
        let keys = named.map(|(name, person)| (name.to_owned(), person.armored()));
        let administrators = [("dora", dora), ("emil", emil)].map(|(name, who)| (name.to_owned(), who.armored()));
        let (keys, administrators) = (keys.into(), administrators.into());
        muster_harness::evil::Belief { keys, weights: self.weights(2), administrators, administrators_min: 2 }
    }

    /// The content of a document about them.
    pub(super) fn believed(&self, minimum: u32) -> Value {
        let keys: Vec<String> = self.belief().keys.into_iter().map(|(_, key)| key).collect();
        json!({"keys": keys, "weights": self.weights(minimum)})
    }

    /// The weights: `default` takes `minimum`, the other module takes 3.
    pub(super) fn weights(&self, minimum: u32) -> Value {
        let one = |person: &Person, weight: u32| json!({"fingerprint": person.fingerprint(), "weight": weight});
        let investigators = json!({
            "alice": one(&self.alice, 2),
            "bob": one(&self.bob, 1),
            "carol": {"fingerprints": self.carol.each_ref().map(Person::fingerprint), "weight": 1},
            "expired": one(&self.expired, 2),
            "stolen": one(&self.stolen, 2),
            "retired": one(&self.retired, 2),
            "weak": one(&self.weak, 2),
            "certifier": one(&self.certifier, 2),
            "adopting": one(&self.adopting, 2),
        });
        json!({
            "default": {"minimumweight": minimum, "investigators": investigators},
            "recorder-too": {"minimumweight": 3, "investigators": investigators},
        })
    }
}

/// An order, before it is signed.
#[derive(Clone)]
pub(super) struct Order {
    pub(super) name: String,
    pub(super) target: String,
    pub(super) from: i64,
    pub(super) until: i64,
    /// Each a module and its parameters as JSON that is written as Go would.
    pub(super) operations: Vec<(String, String)>,
}

impl Order {
    /// An order for this machine and for now.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            target: "environment->>'os' = 'linux'".to_owned(),
            // Machines do not run what was valid before they were set up.
            from: now(),
            until: now() + 600,
            operations: vec![("recorder".to_owned(), r#"{"who":"asks"}"#.to_owned())],
        }
    }

    pub(super) fn with(name: &str, change: impl FnOnce(&mut Self)) -> Self {
        let mut order = Self::new(name);
        change(&mut order);
        order
    }

    /// The text that its signers sign, written here a second time.
    pub(super) fn text(&self) -> String {
        format!(
            "name={};target={};validfrom={};expireafter=%!s(int64={});operations={};",
            self.name,
            self.target,
            self.from,
            self.until,
            self.operations_json()
        )
    }

    fn operations_json(&self) -> String {
        let one = |(module, parameters): &(String, String)| {
            format!("{{\"module\":{},\"parameters\":{parameters}}}", Value::from(module.as_str()))
        };
        format!("[{}]", self.operations.iter().map(one).collect::<Vec<_>>().join(","))
    }

    /// The order with these signatures, whatever they are.
    pub(super) fn carrying(&self, signatures: &[String]) -> String {
        format!(
            "{{\"name\":{},\"target\":{},\"syntaxversion\":2,\"validfrom\":\"{}\",\"expireafter\":\"{}\",\
             \"description\":{{\"author\":\"somebody\"}},\"operations\":{},\"pgpsignatures\":{}}}",
            Value::from(self.name.as_str()),
            Value::from(self.target.as_str()),
            muster_core::Timestamp::from_secs(self.from),
            muster_core::Timestamp::from_secs(self.until),
            self.operations_json(),
            json!(signatures),
        )
    }

    pub(super) fn signed(&self, people: &[&Person]) -> String {
        let signatures: Vec<String> = people.iter().map(|person| person.sign(&self.text())).collect();
        self.carrying(&signatures)
    }

    /// Signed by one person in a way of their own.
    pub(super) fn signed_as(&self, sign: impl FnOnce(&str) -> String) -> String {
        self.carrying(&[sign(&self.text())])
    }

    /// What ends up with the signatures that belong to another order.
    pub(super) fn grafted(&self, from: &str) -> String {
        let from: Value = serde_json::from_str(from).unwrap();
        let signatures: Vec<String> = serde_json::from_value(from["pgpsignatures"].clone()).unwrap();
        self.carrying(&signatures)
    }
}
