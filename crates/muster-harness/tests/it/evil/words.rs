//! What a server may say besides orders, and what it would like to be understood: none of it starts anything.

use super::people::Order;
use super::{PEOPLE, Stage};
use muster_harness::evil::Evil;
use muster_harness::wire::actions::{self, ActionOrder, RestartServiceRequest};
use muster_harness::wire::{self, Address, Message};
use prost::Message as _;

/// What is tried, and how it is said. The order is a good one that was not delivered in the right way.
pub(super) type Row = (&'static str, fn(&Evil, &[u8]));

fn body(order: &[u8]) -> prost_types::Any {
    let order = ActionOrder { action: order.to_vec(), action_id: 5, command_id: 5 };
    wire::any("muster.actions.ActionOrder", &order)
}

fn plain(bytes: &[u8]) -> prost_types::Any {
    prost_types::Any { type_url: "type.googleapis.com/google.protobuf.BytesValue".into(), value: bytes.to_vec() }
}

fn system(evil: &Evil, message_type: &str, bytes: &[u8]) {
    evil.send("system", message_type, plain(bytes));
}

fn restart(evil: &Evil, name: &str) {
    let request = RestartServiceRequest { name: name.to_owned() };
    evil.send("system", "RestartService", Some(wire::any("fleetspeak.RestartServiceRequest", &request)));
}

/// A message with nothing in it but what is told.
fn bare(message_id: &[u8], destination: Option<Address>, order: &[u8]) -> Message {
    let (message_type, data) = (actions::ORDER.to_owned(), Some(body(order)));
    Message { message_id: message_id.to_vec(), destination, message_type, data, ..Message::default() }
}

pub(super) const ROWS: &[Row] = &[
    ("an order to a service in capitals", |evil, order| drop(evil.send("ACTIONS", actions::ORDER, body(order)))),
    ("an order to a service with a blank", |evil, order| drop(evil.send("actions ", actions::ORDER, body(order)))),
    ("an order to a service of another name", |evil, order| drop(evil.send("action", actions::ORDER, body(order)))),
    ("an order to the system", |evil, order| drop(evil.send("system", actions::ORDER, body(order)))),
    ("an order to the echo", |evil, order| drop(evil.send("muster", actions::ORDER, body(order)))),
    ("an order to be echoed", |evil, order| drop(evil.send("muster", "Echo", body(order)))),
    ("an order to a module's name", |evil, order| drop(evil.send("recorder", actions::ORDER, body(order)))),
    ("an order under a type in small letters", |evil, order| {
        drop(evil.send(actions::SERVICE, "action", body(order)));
    }),
    ("an order under the name of its body", |evil, order| {
        drop(evil.send(actions::SERVICE, "ActionOrder", body(order)));
    }),
    ("an order under no type", |evil, order| drop(evil.send(actions::SERVICE, "", body(order)))),
    ("an order under a type with a zero byte", |evil, order| {
        drop(evil.send(actions::SERVICE, "Action\0", body(order)));
    }),
    ("an order as a cancellation", |evil, order| drop(evil.send(actions::SERVICE, actions::CANCEL, body(order)))),
    ("an order as a document's envelope", |evil, order| drop(evil.document(order))),
    ("an order without its envelope", |evil, order| drop(evil.send(actions::SERVICE, actions::ORDER, plain(order)))),
    ("an order without a body", |evil, _| drop(evil.send(actions::SERVICE, actions::ORDER, None))),
    ("an order to nobody", |evil, order| evil.send_message(bare(&[1; 32], None, order))),
    ("a result as if the server were a machine", |evil, order| {
        drop(evil.send(actions::SERVICE, actions::RESULT, body(order)));
    }),
    ("a wish to restart the service of orders", |evil, _| restart(evil, actions::SERVICE)),
    ("a wish to restart a module", |evil, _| restart(evil, "recorder")),
    ("a wish to restart a path", |evil, _| restart(evil, "../../bin/sh")),
    ("a wish to change the configuration", |evil, _| system(evil, "UpdateConfig", b"acl_file = \"/dev/null\"")),
    ("a wish to change the keyring", |evil, _| system(evil, "SetKeyring", PEOPLE.stranger.armored().as_bytes())),
    ("a wish to change the weights", |evil, _| {
        system(evil, "SetAcl", PEOPLE.weights(1).to_string().as_bytes());
    }),
    ("a wish to add a module", |evil, _| system(evil, "InstallModule", b"[shell]\npath = \"/bin/sh\"\n")),
    ("a wish to run a command", |evil, _| system(evil, "Exec", b"/bin/sh -c 'id'")),
    ("a wish to update the program", |evil, _| system(evil, "Update", b"http://127.0.0.1/agent")),
    ("a record that is no record", |evil, _| evil.say(wire::framed(&[0xFF; 64]))),
    ("a record of 2^64-1 bytes", |evil, _| {
        evil.say(vec![0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]);
    }),
    ("a record whose length is no number", |evil, _| evil.say(vec![0xFF; 11])),
    ("a record of 21 MiB", |evil, _| {
        let mut length = Vec::new();
        prost::encoding::encode_varint(21 * 1024 * 1024, &mut length);
        evil.say(length);
    }),
    ("half a record, and the end", |evil, order| {
        let record = wire::framed(&body(order).encode_to_vec());
        evil.say(record[..record.len() / 2].to_vec());
        evil.cut();
    }),
    ("an acknowledgement of what was never said", |evil, _| {
        let ack = wire::ContactData { ack_index: u64::MAX, ..wire::ContactData::default() };
        evil.say(wire::framed(&ack.encode_to_vec()).repeat(20));
    }),
    ("five hundred messages at once", |evil, order| {
        for _ in 0..500 {
            evil.send("muster", "Nothing", body(order));
        }
    }),
];

#[tokio::test]
async fn nothing_else_that_a_server_says_starts_anything_or_changes_whom_the_machine_believes() {
    let mut stage = Stage::new().await;
    let files = stage.machine.trust_files().unwrap();
    let order = Order::new("good, and never delivered as it should").signed(&[&PEOPLE.alice]);
    for (what, say) in ROWS {
        say(&stage.evil, order.as_bytes());
        stage.evil.is_answered().await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        stage.nothing_ran(what);
        assert_eq!(stage.machine.trust_files().unwrap(), files, "{what}: something changed");
    }
    // Delivered as it should be, it would have run each time.
    assert_eq!(stage.ordered(order.as_bytes()).await.refusal, None);
    stage.runs += 1;
    stage.end().await;
}
