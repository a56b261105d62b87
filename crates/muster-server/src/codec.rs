//! What the engine's built-in services say, in the wire's words.
//!
//! Stays true: whatever an agent sends decodes to a word or to a reason; the reason fails that one message.
//! Not here: what a message does (muster-engine), the wire types themselves (muster-proto).

use bytes::Bytes;
use muster_core::action::{ActionId, CommandStatus};
use muster_core::handover::handover_text;
use muster_core::system::{SystemMessage, SystemOrder};
use muster_core::{AgentId, Facts, Handover, Introduction, Message, Payload, limits, text};
use muster_engine::{ActionOutcome, SignedCancel, SystemCodec};
use muster_proto::inflate::Inflater;
use muster_proto::wire::actions::{self, Packing, ResultStatus};
use muster_proto::{introduction, system};
use muster_store::investigators::{ModuleTold, RevocationsTold, TrustTold};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::default_provider;

/// The codec that every server uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct WireCodec;

impl SystemCodec for WireCodec {
    fn decode(&self, message: &Message) -> Result<SystemMessage, String> {
        let decoded = system::decode(message)?;
        if let SystemMessage::Usage(usage) = &decoded
            && (usage.process_start.is_none() || usage.measured.is_none())
        {
            return Err("a usage record must have process_start_time and data_timestamp".into());
        }
        Ok(decoded)
    }

    fn decode_facts(&self, message: &Message) -> Result<Facts, String> {
        let facts = system::facts_decode(message)?;
        for (name, value) in &facts {
            text::name("a fact's name", name).map_err(|error| error.to_string())?;
            check_fact(name, value)?;
        }
        Ok(facts)
    }

    fn decode_introduction(&self, body: &Bytes) -> Introduction {
        introduction::decode(body)
    }

    fn handover_holds(&self, handover: &Handover, new_key: &[u8]) -> bool {
        let text = handover_text(&handover.old_key, new_key, &handover.demand, handover.made);
        signed_by(&handover.old_key, text.as_bytes(), &handover.signature)
    }

    fn encode(&self, order: &SystemOrder) -> Option<Payload> {
        system::order_encode(order)
    }

    fn encode_action(&self, id: ActionId, json: &[u8]) -> Payload {
        system::pack(&actions::ActionOrder { action: json.to_vec().into(), action_id: id.get(), command_id: 0 })
    }

    fn encode_cancel(&self, id: ActionId, cancel: &SignedCancel<'_>) -> Payload {
        let SignedCancel { said, signature, reason } = *cancel;
        system::pack(&actions::ActionCancel {
            action_id: id.get(),
            signed_sha256: said.order.to_vec().into(),
            fleet: said.fleet.to_owned(),
            until: said.until.to_parts().0,
            signature: signature.to_owned(),
            reason: reason.to_owned(),
        })
    }

    fn encode_trust(&self, document: &[u8]) -> Payload {
        system::pack(&actions::TrustDocument { document: document.to_vec().into() })
    }

    fn decode_trust_document(&self, payload: &Payload) -> Result<Vec<u8>, String> {
        let sent: actions::TrustDocument = system::unpack(Some(payload))?;
        Ok(sent.document.to_vec())
    }

    fn unpacked_bytes(&self, payload: &Payload) -> u64 {
        system::unpack(Some(payload)).map_or(0, |said| unpacked_bytes(&said))
    }

    fn decode_outcome(&self, message: &Message) -> Result<ActionOutcome, String> {
        let said: actions::ActionResult = system::unpack(message.payload.as_ref())?;
        let action = ActionId::new(said.action_id).map_err(|error| error.to_string())?;
        let status = match said.status() {
            ResultStatus::Unspecified => return Err("the result does not say how it ended".into()),
            ResultStatus::Success => CommandStatus::Success,
            ResultStatus::Failed => CommandStatus::Failed,
            ResultStatus::Timeout => CommandStatus::Timeout,
            ResultStatus::Cancelled => CommandStatus::Cancelled,
            ResultStatus::Expired => CommandStatus::Expired,
        };
        let results = results(&said)?;
        if said.signature.len() > limits::RESULT_SIGNATURE_BYTES_MAX {
            return Err("the signature of the results is too long".into());
        }
        Ok(ActionOutcome {
            action,
            status,
            signature: said.signature.to_vec(),
            signed_as: said.signed_as[..].try_into().ok().map(AgentId::from_bytes),
            refusal: said.refusal.map(|refusal| (refusal.code, refusal.reason)),
            results,
        })
    }

    fn decode_trust(&self, message: &Message) -> Result<TrustTold, String> {
        let said: actions::AgentTrust = system::unpack(message.payload.as_ref())?;
        if said.acl.len() > limits::TRUST_DOCUMENT_BYTES_MAX || said.keyring.len() > limits::KEYRING_KEYS_MAX {
            return Err("the machine says that it believes more than it may".into());
        }
        if said.modules.len() > MODULES_MAX {
            return Err(format!("the machine names more than {MODULES_MAX} modules"));
        }
        let acl = String::from_utf8(said.acl.to_vec()).map_err(|_| "the weights are not UTF-8")?;
        let modules = said.modules.into_iter();
        let modules = modules.map(|module| ModuleTold {
            name: module.name,
            weight_min: module.weight_min,
            changes: module.changes,
        });
        Ok(TrustTold {
            keyring_version: said.keyring_version,
            keyring: said.keyring,
            acl_version: said.acl_version,
            acl,
            modules: modules.collect(),
            refusal: said.document_refusal.map(|refusal| format!("{}: {}", refusal.code, refusal.reason)),
            revocations: said.revocations.map(|revocations| RevocationsTold {
                version: revocations.version,
                serials: revocations.serials,
                fingerprints: revocations.fingerprints,
            }),
        })
    }
}

/// What comes before the point in a key (DER SubjectPublicKeyInfo) on P-256, the only kind that our agent signs with.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Whether a P-256 key signed `text`.
fn signed_by(key: &[u8], text: &[u8], signature: &[u8]) -> bool {
    let Some(point) = key.strip_prefix(&P256) else { return false };
    let known = default_provider().signature_verification_algorithms;
    let kinds = known.mapping.iter().find(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256);
    kinds.is_some_and(|(_, kinds)| kinds.iter().any(|kind| kind.verify_signature(point, text, signature).is_ok()))
}

/// Modules that a machine may say it has.
const MODULES_MAX: usize = 256;
fn unpacked_bytes(said: &actions::ActionResult) -> u64 {
    match said.results_packing() {
        Packing::None => said.results.len() as u64,
        Packing::Deflate => said.results_bytes,
    }
}

/// Unpacks results. What is too large, or larger than it says, is an error before memory is taken for it.
fn results(said: &actions::ActionResult) -> Result<String, String> {
    let (length, max) = (unpacked_bytes(said), limits::RESULT_BYTES_MAX);
    if length > max {
        return Err(format!("the results have {length} bytes unpacked, at most {max} are taken"));
    }
    let bytes = match said.results_packing() {
        Packing::None => said.results.to_vec(),
        Packing::Deflate => {
            let mut bytes = Vec::new();
            let mut inflater = Inflater::new(length);
            let whole = inflater.all(&said.results, &mut bytes).and_then(|()| inflater.finish());
            whole.map_err(|error| format!("the results cannot be unpacked: {error}"))?;
            bytes
        }
    };
    let results = String::from_utf8(bytes).map_err(|_| "the results are not UTF-8")?;
    if results.contains('\0') { Err("the results hold a zero byte".into()) } else { Ok(results) }
}

/// A fact is a text, a number, a truth value, or a list of these.
fn check_fact(name: &str, value: &serde_json::Value) -> Result<(), String> {
    use serde_json::Value;
    match value {
        Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => Ok(()),
        Value::Array(values) if values.iter().all(|value| !value.is_array() && !value.is_object()) => {
            values.iter().try_for_each(|value| check_fact(name, value))
        }
        Value::Array(_) | Value::Object(_) => {
            Err(format!("fact {name} must be a text, a number, a truth value or a list of these"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::{Address, AgentId, MessageId, Timestamp};
    use muster_proto::inflate::deflate;
    use muster_proto::wire;
    use prost::Message as _;

    fn message(kind: &str, payload: Payload) -> Message {
        let from = Address::agent(AgentId::from_bytes([1; 8]), "system");
        let empty = Message::new(MessageId::from_bytes([0; 32]), from, Address::server("system"), Timestamp::EPOCH);
        Message { message_type: kind.into(), payload: Some(payload), ..empty }
    }

    #[test]
    fn a_usage_record_without_its_times_fails_before_the_store_sees_it() {
        let time = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
        let whole = wire::monitoring::ResourceUsageData {
            process_start_time: time,
            data_timestamp: time,
            ..Default::default()
        };
        let decode = |usage| WireCodec.decode(&message("ResourceUsage", system::pack(&usage)));
        assert!(decode(wire::monitoring::ResourceUsageData { data_timestamp: None, ..whole.clone() }).is_err());
        assert!(decode(wire::monitoring::ResourceUsageData { process_start_time: None, ..whole.clone() }).is_err());
        assert!(matches!(decode(whole), Ok(SystemMessage::Usage(_))));
    }

    #[test]
    fn a_handover_holds_for_the_key_and_the_demand_that_it_names() {
        use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SigningKey};
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let (old_key, demand, made) =
            (pair.subject_public_key_info(), MessageId::from_bytes([7; 32]), Timestamp::from_secs(5));
        let signature = pair.sign(handover_text(&old_key, b"new", &demand, made).as_bytes()).unwrap();
        let right = Handover { old_key, demand, made, signature };
        assert!(WireCodec.handover_holds(&right, b"new"));
        assert!(!WireCodec.handover_holds(&right, b"other"));
        for wrong in [
            Handover { demand: MessageId::from_bytes([8; 32]), ..right.clone() },
            Handover { made: Timestamp::from_secs(6), ..right.clone() },
            Handover { signature: Vec::new(), ..right.clone() },
            Handover { old_key: Vec::new(), ..right.clone() },
        ] {
            assert!(!WireCodec.handover_holds(&wrong, b"new"));
        }
        let other = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let old_key = other.subject_public_key_info();
        let signature = other.sign(handover_text(&old_key, b"new", &demand, made).as_bytes()).unwrap();
        assert!(
            !WireCodec.handover_holds(&Handover { old_key, demand, made, signature }, b"new"),
            "another kind of key"
        );
    }

    #[test]
    fn facts_are_flat_and_bounded() {
        let facts = |json: &str| {
            let value = json.as_bytes().to_vec().encode_to_vec();
            let type_url = "type.googleapis.com/google.protobuf.BytesValue".into();
            WireCodec.decode_facts(&message("Facts", Payload { type_url, value }))
        };
        assert_eq!(facts(r#"{"hostname":"a","disks":["x",1,true]}"#).unwrap().len(), 2);
        for wrong in ["[]", "{", r#"{"a":{"b":1}}"#, r#"{"a":[[1]]}"#, r#"{"a":"\u0000"}"#, r#"{"a\n":1}"#, r#"{"":1}"#]
        {
            assert!(facts(wrong).is_err(), "{wrong}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(facts(&deep).is_err());
    }

    #[test]
    fn results_are_read_packed_and_plain_within_their_bounds() {
        let json = br#"[{"foundanything":true}]"#;
        let said = |results: Vec<u8>, packing: Packing, length: u64| {
            let said = actions::ActionResult {
                action_id: 7,
                status: ResultStatus::Success.into(),
                results: results.into(),
                results_packing: packing.into(),
                results_bytes: length,
                ..Default::default()
            };
            WireCodec.decode_outcome(&message("ActionResult", system::pack(&said)))
        };
        let length = json.len() as u64;
        for outcome in [said(json.to_vec(), Packing::None, 0), said(deflate(json), Packing::Deflate, length)] {
            let outcome = outcome.unwrap();
            assert_eq!((outcome.action.get(), outcome.status), (7, CommandStatus::Success));
            assert_eq!(outcome.results.as_bytes(), json);
        }
        let most = limits::RESULT_BYTES_MAX;
        let long = |more: usize| [json, &vec![b' '; usize::try_from(most).unwrap() - json.len() + more][..]].concat();
        assert!(said(deflate(&long(0)), Packing::Deflate, most).is_ok());
        for (results, packing, length) in [
            (json.to_vec(), Packing::Deflate, length),
            (deflate(json)[..5].to_vec(), Packing::Deflate, length),
            (deflate(&long(1)), Packing::Deflate, most + 1),
            (long(1), Packing::None, 0),
            // Longer than it says.
            (deflate(json), Packing::Deflate, length - 1),
            (deflate(json), Packing::Deflate, 0),
            (deflate(&long(1)), Packing::Deflate, most),
            (vec![0xff], Packing::None, 0),
            (vec![0], Packing::None, 0),
        ] {
            assert!(said(results, packing, length).is_err());
        }
        let silent = actions::ActionResult { action_id: 7, ..Default::default() };
        assert!(WireCodec.decode_outcome(&message("ActionResult", system::pack(&silent))).is_err());
        let nobody = actions::ActionResult { status: ResultStatus::Failed.into(), ..Default::default() };
        assert!(WireCodec.decode_outcome(&message("ActionResult", system::pack(&nobody))).is_err());
    }

    #[test]
    fn trust_is_read_within_its_bounds() {
        let module = actions::Module { name: "file".into(), weight_min: 1, changes: false };
        let said = |modules: usize, acl: &[u8]| {
            let said = actions::AgentTrust {
                keyring_version: 3,
                acl: acl.to_vec().into(),
                modules: vec![module.clone(); modules],
                ..Default::default()
            };
            WireCodec.decode_trust(&message("AgentTrust", system::pack(&said)))
        };
        let told = said(1, b"{}").unwrap();
        assert_eq!((told.keyring_version, told.acl.as_str(), told.modules[0].name.as_str()), (3, "{}", "file"));
        assert_eq!(told.revocations, None, "an agent of before does not report what is revoked");
        let revocations = actions::RevocationsInForce { version: 3, serials: 2, fingerprints: 1 };
        let revoked = actions::AgentTrust { revocations: Some(revocations), ..Default::default() };
        let told = WireCodec.decode_trust(&message("AgentTrust", system::pack(&revoked))).unwrap();
        assert_eq!(told.revocations, Some(RevocationsTold { version: 3, serials: 2, fingerprints: 1 }));
        assert!(said(MODULES_MAX + 1, b"{}").is_err());
        assert!(said(1, &[0xff]).is_err());
        assert!(said(1, &vec![b' '; limits::TRUST_DOCUMENT_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn an_action_travels_as_it_was_given() {
        let order = WireCodec.encode_action(ActionId::new(5).unwrap(), b"{ \"name\": 1 }");
        let order: actions::ActionOrder = system::unpack(Some(&order)).unwrap();
        assert_eq!((order.action_id, &order.action[..]), (5, &b"{ \"name\": 1 }"[..]));
        let said = muster_trust::Cancellation { fleet: "lab", order: &[3; 32], until: Timestamp::from_secs(9) };
        let cancel = SignedCancel { said, signature: "line", reason: "why" };
        let cancel = WireCodec.encode_cancel(ActionId::new(5).unwrap(), &cancel);
        let cancel: actions::ActionCancel = system::unpack(Some(&cancel)).unwrap();
        assert_eq!((cancel.action_id, cancel.signed_sha256.to_vec(), cancel.until), (5, vec![3; 32], 9));
        assert_eq!((&*cancel.fleet, &*cancel.signature, &*cancel.reason), ("lab", "line", "why"));
    }

    #[test]
    fn an_order_says_what_it_means() {
        let die = WireCodec.encode(&SystemOrder::Die { force: true }).unwrap();
        assert_eq!(die.type_url, "type.googleapis.com/fleetspeak.DieRequest");
        assert!(wire::DieRequest::decode(die.value.as_slice()).unwrap().force);
        assert_eq!(WireCodec.encode(&SystemOrder::Rekey), None);
    }
}
