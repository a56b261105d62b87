//! What our own agent shows of itself: who it is, which key it had, and that it stops.
//!
//! Stays true: whatever a stranger sends is an introduction of bounded size, or none.

use crate::convert::{time_from_wire, time_to_wire};
use crate::wire::enrolment as wire;
use bytes::Bytes;
use muster_core::handover::INTRODUCED;
use muster_core::{Facts, Handover, Introduction, MessageId, limits};
use prost::Message as _;

/// Letters of one fact that are kept.
const FACT_CHARS_MAX: usize = 1024;

/// Writes an introduction. Facts that do not fit are left out.
pub fn encode(introduction: &Introduction, leaving: bool) -> Bytes {
    let json = |facts: &Facts| serde_json::to_vec(facts).expect("facts are JSON");
    let mut facts = introduction.facts.clone();
    facts.retain(|name, _| INTRODUCED.contains(&name.as_str()));
    let mut bytes = json(&facts);
    while bytes.len() > limits::INTRODUCTION_BYTES_MAX / 2 {
        let longest = facts.iter().max_by_key(|(_, value)| value.to_string().len()).map(|(name, _)| name.clone());
        facts.remove(&longest.expect("no facts are short"));
        bytes = json(&facts);
    }
    let handover = introduction.handover.as_ref().map(|handover| wire::Handover {
        old_key: handover.old_key.clone().into(),
        demand: handover.demand.as_bytes().to_vec().into(),
        made: Some(time_to_wire(handover.made)),
        signature: handover.signature.clone().into(),
    });
    let facts = if facts.is_empty() { Vec::new() } else { bytes };
    wire::Introduction { facts: facts.into(), handover, leaving }.encode_to_vec().into()
}

/// Whether the machine says that it stops.
pub fn is_leaving(body: &Bytes) -> bool {
    body.len() <= limits::INTRODUCTION_BYTES_MAX
        && wire::Introduction::decode(body.clone()).is_ok_and(|introduction| introduction.leaving)
}

/// Reads an introduction. What cannot be read says nothing: the machine is then one that shows nothing of itself.
pub fn decode(body: &Bytes) -> Introduction {
    if body.len() > limits::INTRODUCTION_BYTES_MAX {
        return Introduction::default();
    }
    let Ok(said) = wire::Introduction::decode(body.clone()) else { return Introduction::default() };
    Introduction { facts: facts(&said.facts), handover: said.handover.and_then(handover) }
}

/// The facts by which people recognise a machine, each a short text or a list of such; all else is left out.
fn facts(json: &[u8]) -> Facts {
    let mut facts: Facts = serde_json::from_slice(json).unwrap_or_default();
    let short = |value: &serde_json::Value| value.as_str().is_some_and(|text| text.chars().count() <= FACT_CHARS_MAX);
    facts.retain(|name, value| {
        INTRODUCED.contains(&name.as_str())
            && (short(value) || value.as_array().is_some_and(|values| values.iter().all(short)))
    });
    facts
}

fn handover(said: wire::Handover) -> Option<Handover> {
    let demand: [u8; MessageId::BYTES] = said.demand[..].try_into().ok()?;
    Some(Handover {
        old_key: said.old_key.into(),
        demand: MessageId::from_bytes(demand),
        made: time_from_wire(said.made.as_ref())?,
        signature: said.signature.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::Timestamp;

    fn whole() -> Introduction {
        let facts = [("hostname", "web1".into()), ("addresses", vec!["192.0.2.1"].into()), ("machine_id", "ab".into())];
        let handover = Handover {
            old_key: vec![1; 91],
            demand: MessageId::from_bytes([2; 32]),
            made: Timestamp::from_secs(1_800_000_000),
            signature: vec![3; 70],
        };
        Introduction {
            facts: facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            handover: Some(handover),
        }
    }

    #[test]
    fn an_introduction_reads_back_as_it_was_written() {
        let bytes = encode(&whole(), true);
        assert_eq!((decode(&bytes), is_leaving(&bytes)), (whole(), true));
        let bytes = encode(&Introduction::default(), false);
        assert_eq!((decode(&bytes), is_leaving(&bytes)), (Introduction::default(), false));
    }

    #[test]
    fn what_no_agent_writes_says_nothing() {
        for bytes in [Bytes::from_static(b"\xff\xff"), Bytes::from(vec![0; limits::INTRODUCTION_BYTES_MAX + 1])] {
            assert_eq!((decode(&bytes), is_leaving(&bytes)), (Introduction::default(), false));
        }
        let said = wire::Introduction {
            facts: br#"{"hostname": {"a": 1}, "kernel": "Linux", "made_up": "x", "fqdn": 7}"#.to_vec().into(),
            handover: Some(wire::Handover { demand: vec![1].into(), ..wire::Handover::default() }),
            leaving: false,
        };
        let read = decode(&said.encode_to_vec().into());
        assert_eq!(read.facts, Facts::from([("kernel".to_owned(), "Linux".into())]));
        assert_eq!(read.handover, None);
    }

    #[test]
    fn facts_that_do_not_fit_are_left_out() {
        let facts =
            Facts::from([("hostname".to_owned(), "web1".into()), ("fqdn".to_owned(), "x".repeat(20_000).into())]);
        let read = decode(&encode(&Introduction { facts, handover: None }, false));
        assert_eq!(read.facts, Facts::from([("hostname".to_owned(), "web1".into())]));
    }
}
