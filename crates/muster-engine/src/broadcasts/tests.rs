//! Which broadcasts are accepted, and what becomes of them before they are stored.

use super::*;
use muster_core::Payload;

fn broadcast() -> Broadcast {
    Broadcast {
        id: BroadcastId::from_bytes([1; 8]),
        source: Address::server("ops"),
        destination_service: String::new(),
        message_type: "Hello".into(),
        required_labels: vec![Label::client("b"), Label::client("a"), Label::client("b")],
        expires: None,
        payload: None,
        group: String::new(),
        limit: BroadcastLimit::Machines(8),
        sent: 0,
        allocated: 0,
        created: Timestamp::EPOCH,
    }
}

#[test]
fn a_broadcast_goes_to_the_service_of_its_source_unless_told() {
    let checked = broadcast_check(broadcast()).unwrap();
    assert_eq!(checked.destination_service, "ops");
    assert_eq!(checked.required_labels, [Label::client("a"), Label::client("b")]);
    let told = Broadcast { destination_service: "web".into(), ..broadcast() };
    assert_eq!(broadcast_check(told).unwrap().destination_service, "web");
}

#[test]
fn a_broadcast_that_could_not_travel_is_refused() {
    let payload = Some(Payload { type_url: String::new(), value: vec![0; limits::MESSAGE_BYTES_MAX] });
    for wrong in [
        Broadcast { source: Address::server(""), ..broadcast() },
        Broadcast { source: Address::agent(AgentId::from_bytes([1; 8]), "ops"), ..broadcast() },
        Broadcast { payload, ..broadcast() },
        Broadcast { group: "\0".into(), ..broadcast() },
        Broadcast { required_labels: vec![Label::client("")], ..broadcast() },
        Broadcast { required_labels: vec![Label::client("a"); 1025], ..broadcast() },
    ] {
        assert!(broadcast_check(wrong.clone()).is_err(), "{:?}", wrong.source);
    }
}

#[test]
fn something_is_left_while_sent_and_promised_are_below_the_limit() {
    let counted = |sent, allocated| has_some_left(&Broadcast { sent, allocated, ..broadcast() });
    assert!(counted(3, 4) && !counted(4, 4) && !counted(u64::MAX, u64::MAX));
    assert!(has_some_left(&Broadcast { limit: BroadcastLimit::Unlimited, sent: u64::MAX, ..broadcast() }));
}
