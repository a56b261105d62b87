//! The original's own programs work against our server, unchanged.

use crate::scene::{CEILING, Scene, lines, mentions, python};
use muster_api::broadcasts::{BroadcastRequest, BroadcastRow};
use muster_api::messages::ServiceRow;
use muster_harness::client::{Client, Mode, daemon_service, enrolled, stdin_service};
use muster_harness::identity::Identity;
use muster_harness::link::Link;
use muster_harness::peers::Peers;
use muster_harness::wait;
use muster_harness::wire;
use std::net::TcpListener;

/// What a stdin service takes.
#[derive(Clone, PartialEq, prost::Message)]
struct InputMessage {
    #[prost(bytes = "vec", tag = "1")]
    input: Vec<u8>,
    #[prost(string, repeated, tag = "2")]
    args: Vec<String>,
}

/// The message type that the client's stdin services take.
const INPUT: &str = "StdinServiceInputMessage";

fn input(text: &str) -> prost_types::Any {
    let message = InputMessage { input: text.as_bytes().to_vec(), args: Vec::new() };
    wire::any("fleetspeak.stdinservice.InputMessage", &message)
}

/// The client enrols, gets a message to a command, and what the command prints reaches a service of the server.
async fn works_in(mode: Mode) {
    let scene = Scene::new().await;
    // The answer of a stdin service goes to the server's service of the same name.
    let services = [stdin_service("out", "/usr/bin/tr", &["a-z", "A-Z"])];
    let _client = Client::start(&scene.server, &scene.path("client"), mode, &services).unwrap();
    let id = enrolled(&scene.server, &[], CEILING).await.unwrap();
    let sent = scene.server.rest.send_typed(&id, "out", INPUT, &input("carried both ways")).await.unwrap();
    let line = scene.written(|line| mentions(line, "CARRIED BOTH WAYS")).await;
    assert!(mentions(&line, &id), "the line does not name the machine: {line}");
    wait::until_true("the message to be done with", CEILING, async || {
        Ok(scene.server.rest.message(&sent.id).await?.state == "done")
    })
    .await
    .unwrap();
    let machine = scene.server.rest.agent(&id).await.unwrap();
    assert_eq!(machine.summary.streaming, mode.streaming);
    assert!(machine.summary.labels.contains(&"client:linux".to_owned()), "{:?}", machine.summary.labels);
    assert_eq!(machine.nonce_splits, 0);
}

macro_rules! the_client_works_in {
    ($($name:ident: $streaming:literal, $deflate:literal, $http2:literal;)*) => {$(
        #[tokio::test]
        async fn $name() {
            works_in(Mode { streaming: $streaming, deflate: $deflate, http2: $http2 }).await;
        }
    )*};
}

the_client_works_in! {
    the_client_polls_plain_over_http_1: false, false, false;
    the_client_polls_plain_over_http_2: false, false, true;
    the_client_polls_deflated_over_http_1: false, true, false;
    the_client_polls_deflated_over_http_2: false, true, true;
    the_client_streams_plain_over_http_1: true, false, false;
    the_client_streams_plain_over_http_2: true, false, true;
    the_client_streams_deflated_over_http_1: true, true, false;
    the_client_streams_deflated_over_http_2: true, true, true;
}

const STREAM: Mode = Mode { streaming: true, deflate: false, http2: false };

/// A contact that packs a thousand to one: the client would send it again and again, and nothing else would arrive.
async fn sends_zeros_in(mode: Mode) {
    let scene = Scene::new().await;
    let zeros = [stdin_service("out", "/usr/bin/head", &["-c", "1900000", "/dev/zero"])];
    let _client = Client::start(&scene.server, &scene.path("client"), mode, &zeros).unwrap();
    let id = enrolled(&scene.server, &[], CEILING).await.unwrap();
    for _ in 0..2 {
        let sent = scene.server.rest.send_typed(&id, "out", INPUT, &input("")).await.unwrap();
        wait::until_true("the message to be done with", CEILING, async || {
            Ok(scene.server.rest.message(&sent.id).await?.state == "done")
        })
        .await
        .unwrap();
    }
    let spool = scene.path("out");
    let is_whole = |line: &&serde_json::Value| line.to_string().len() > 1_900_000;
    wait::until_true("both answers", CEILING, async || Ok(lines(&spool).iter().filter(is_whole).count() == 2))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_well_packed_contact_of_a_streaming_client_gets_through() {
    sends_zeros_in(Mode { streaming: true, deflate: true, http2: false }).await;
}

#[tokio::test]
async fn a_well_packed_contact_of_a_polling_client_gets_through() {
    sends_zeros_in(Mode { streaming: false, deflate: true, http2: false }).await;
}

/// The client acknowledges a command when it is done, and remembers nothing: given again meanwhile, it runs again.
#[tokio::test]
async fn a_slow_command_runs_once_over_a_restart_and_a_renewed_stream() {
    let scene = Scene::configured("[limits]\nstream_life = \"1m\"\n", "").await;
    let Scene { mut server, directory } = scene;
    let runs = directory.path().join("runs");
    let script = format!("date >> {}; sleep 42; echo over", runs.display());
    let services = [stdin_service("out", "/bin/sh", &["-c", &script])];
    let _client = Client::start(&server, &directory.path().join("client"), STREAM, &services).unwrap();
    let id = enrolled(&server, &[], CEILING).await.unwrap();
    let sent = server.rest.send_typed(&id, "out", INPUT, &input("")).await.unwrap();
    let ran = || std::fs::read_to_string(&runs).unwrap_or_default().lines().count();
    wait::until_true("the command to begin", CEILING, async || Ok(ran() == 1)).await.unwrap();
    server.process.terminate().unwrap();
    server.process.wait(CEILING).await.unwrap();
    server.restart().await.unwrap();
    // The new stream is renewed half-way through the minute that it may live, before the command is over.
    wait::until_true("the command to be acknowledged", 3 * CEILING, async || {
        Ok(server.rest.message(&sent.id).await?.state == "done")
    })
    .await
    .unwrap();
    assert_eq!(ran(), 1, "it ran again: {}", server.process.log_tail());
    let contacts: muster_api::Page<muster_api::agents::ContactRow> =
        server.rest.get(&format!("/agents/{id}/contacts")).await.unwrap();
    assert!(contacts.items.len() >= 3, "the stream was renewed: {:?}", contacts.items);
}

const DAEMON: &str = r#"
from fleetspeak.client_connector import connector
from fleetspeak.src.common.proto.fleetspeak import common_pb2

connection = connector.FleetspeakConnection(version="1.0")
while True:
    message, _ = connection.Recv()
    answer = common_pb2.Message(message_type="Answer")
    answer.destination.service_name = "out"
    answer.data.CopyFrom(message.data)
    answer.data.value = b"daemon heard: " + message.data.value
    connection.Send(answer)
"#;

#[tokio::test]
async fn a_daemon_service_answers() {
    let scene = Scene::new().await;
    let script = scene.path("daemon.py");
    std::fs::write(&script, DAEMON).unwrap();
    let python = Peers::find().unwrap().python();
    let argv = [python.display().to_string(), script.display().to_string()];
    let services = [daemon_service("greeter", &argv)];
    let _client = Client::start(&scene.server, &scene.path("client"), STREAM, &services).unwrap();
    let id = enrolled(&scene.server, &[], CEILING).await.unwrap();
    let body = prost_types::Any { type_url: "type.googleapis.com/a.B".into(), value: b"good morning".to_vec() };
    scene.server.rest.send_typed(&id, "greeter", "Greeting", &body).await.unwrap();
    scene.written(|line| mentions(line, "daemon heard: good morning")).await;
}

#[tokio::test]
async fn a_broadcast_reaches_the_client_once() {
    let scene = Scene::new().await;
    let services = [stdin_service("out", "/usr/bin/tr", &["a-z", "A-Z"])];
    let _client = Client::start(&scene.server, &scene.path("client"), STREAM, &services).unwrap();
    enrolled(&scene.server, &[], CEILING).await.unwrap();
    let body = input("to everybody");
    let request = BroadcastRequest {
        service: "out".into(),
        message_type: INPUT.into(),
        type_url: Some(body.type_url.clone()),
        data: Some(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &body.value)),
        labels: vec!["client:linux".into()],
        limit: Some(5),
        ..BroadcastRequest::default()
    };
    let made: BroadcastRow = scene.server.rest.post("/broadcasts", &request).await.unwrap();
    scene.written(|line| mentions(line, "TO EVERYBODY")).await;
    let row: BroadcastRow = scene.server.rest.get(&format!("/broadcasts/{}", made.id)).await.unwrap();
    assert_eq!((row.sent, row.active), (1, true));
    let heard = lines(&scene.path("out")).iter().filter(|line| mentions(line, "TO EVERYBODY")).count();
    assert_eq!(heard, 1);
}

#[tokio::test]
async fn every_command_of_the_admin_tool_works() {
    let scene = Scene::new().await;
    let client = Client::start(&scene.server, &scene.path("client"), STREAM, &[]).unwrap();
    let id = enrolled(&scene.server, &[], CEILING).await.unwrap();
    let peers = Peers::find().unwrap();
    let admin = scene.server.addresses.admin.to_string();
    let run = |args: &[&str]| peers.admin_run(&admin, args).unwrap();

    wait::until_true("the client's labels", CEILING, async || Ok(run(&["listclients"]).contains("linux")))
        .await
        .unwrap();
    assert!(run(&["listclients", &id]).contains(&id));
    assert!(run(&["listcontacts", &id]).contains("127.0.0.1"));
    assert!(!run(&["listcontacts", &id, "1"]).is_empty());
    run(&["analysehistory", &id]);

    let file = scene.path("file.bin");
    std::fs::write(&file, b"the file's content").unwrap();
    run(&["storefile", "sink", "name.bin", &file.display().to_string()]);
    let stored: muster_api::Page<muster_api::files::FileRow> =
        scene.server.rest.get("/files?service=sink").await.unwrap();
    assert_eq!((stored.items[0].name.as_str(), stored.items[0].bytes), ("name.bin", 18));
    run(&["deletefile", "sink", "name.bin"]);
    let stored: muster_api::Page<muster_api::files::FileRow> =
        scene.server.rest.get("/files?service=sink").await.unwrap();
    assert!(stored.items.is_empty());

    let request =
        BroadcastRequest { service: "sink".into(), source_service: Some("sink".into()), ..BroadcastRequest::default() };
    let made: BroadcastRow = scene.server.rest.post("/broadcasts", &request).await.unwrap();
    assert!(run(&["listactivebroadcasts"]).contains(&made.id));
    assert!(run(&["listactivebroadcasts", "sink"]).contains(&made.id));
    run(&["disablebroadcasts", &made.id]);
    assert!(!run(&["listactivebroadcasts"]).contains(&made.id));

    run(&["blacklistclients", &id]);
    assert_eq!(scene.server.rest.agent(&id).await.unwrap().summary.state, "rekeying");
    // A blacklisted machine is told to make a new key, and comes back under another id.
    drop(enrolled(&scene.server, &[id], CEILING).await.unwrap());
    drop(client);
}

#[tokio::test]
async fn another_account_of_the_servers_machine_is_no_administrator() {
    use std::os::unix::fs::PermissionsExt as _;
    let scene = Scene::new().await;
    let client = Client::start(&scene.server, &scene.path("client"), STREAM, &[]).unwrap();
    let id = enrolled(&scene.server, &[], CEILING).await.unwrap();
    let (peers, admin) = (Peers::find().unwrap(), scene.server.addresses.admin.to_string());
    assert!(peers.admin_run(&admin, &["listclients"]).unwrap().contains(&id), "the server's own account needs nothing");
    // Nobody but root can be another account; without root there is none to try.
    if rustix::process::geteuid().is_root() {
        let public = tempfile::tempdir().unwrap();
        std::fs::set_permissions(public.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for args in [&["listclients"][..], &["blacklistclients", &id], &["listcontacts", &id]] {
            let error = peers.admin_run_as(65_534, public.path(), &admin, args).unwrap_err().to_string();
            assert!(error.contains("need no token, and this is user 65534"), "{args:?}: {error}");
        }
    }
    assert_eq!(scene.server.rest.agent(&id).await.unwrap().summary.state, "enrolled");
    drop(client);
}

const CONNECTOR: &str = r#"
import sys
from fleetspeak.server_connector import connector
from fleetspeak.src.common.proto.fleetspeak import common_pb2
from google.protobuf import wrappers_pb2

admin, listen, agent = sys.argv[1:4]
service = connector.InsecureGRPCServiceClient("greeter", fleetspeak_message_listen_address=listen, fleetspeak_server=admin)

def heard(message, context):
    print(f"heard {message.source.client_id.hex()} {message.data.value}\n", end="", flush=True)

service.Listen(heard)
print("listening", flush=True)
message = common_pb2.Message(message_type="Question")
message.destination.client_id = bytes.fromhex(agent)
message.destination.service_name = "greeter"
message.data.Pack(wrappers_pb2.BytesValue(value=b"who is there?"))
service.outgoing.InsertMessage(message)
print("inserted", flush=True)
clients = service.outgoing.ListClients(__import__("fleetspeak.src.server.proto.fleetspeak_server.admin_pb2", fromlist=["x"]).ListClientsRequest())
print("clients", len(clients.clients), clients.clients[0].last_contact_address, flush=True)
import threading
threading.Event().wait()
"#;

#[tokio::test]
async fn the_python_connector_sends_and_receives() {
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let grpc = "type.googleapis.com/fleetspeak.grpcservice.Config";
    let service = format!(
        "services {{ name: \"greeter\" factory: \"GRPC\" config {{ [{grpc}] {{ target: \"{listen}\" insecure: true }} }} }}\n"
    );
    let scene = Scene::with(&service).await;
    let script = scene.path("daemon.py");
    std::fs::write(&script, DAEMON.replace("\"out\"", "\"greeter\"")).unwrap();
    let argv = [Peers::find().unwrap().python().display().to_string(), script.display().to_string()];
    let services = [daemon_service("greeter", &argv)];
    let _client = Client::start(&scene.server, &scene.path("client"), STREAM, &services).unwrap();
    let id = enrolled(&scene.server, &[], CEILING).await.unwrap();
    let admin = scene.server.addresses.admin.to_string();
    let mut connector = python(scene.directory.path(), "connector", CONNECTOR, &[&admin, &listen, &id]);
    connector.printed("inserted", CEILING).await.unwrap();
    connector.printed("clients 1 127.0.0.1:", CEILING).await.unwrap();
    connector.printed(&format!("heard {id} b'daemon heard: "), CEILING).await.unwrap();
    assert!(connector.log().contains("who is there?"));
}

const LISTENER: &str = r#"
import os, sys, threading
from fleetspeak.server_connector import connector

def heard(message, context):
    # One write: calls come in threads, and lines that are printed in pieces run into each other.
    os.write(1, f"heard {message.source_message_id.hex()}\n".encode())

service = connector.InsecureGRPCServiceClient("greeter", fleetspeak_message_listen_address=sys.argv[2], fleetspeak_server=sys.argv[1])
service.Listen(heard)
print("listening", flush=True)
threading.Event().wait()
"#;

/// The service's program is not there for longer than a call is repeated; once it is back, nothing waits for minutes.
#[tokio::test]
async fn a_service_that_was_away_says_so_and_gets_what_waits_within_seconds() {
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let grpc = "type.googleapis.com/fleetspeak.grpcservice.Config";
    let service = format!(
        "services {{ name: \"greeter\" factory: \"GRPC\" config {{ [{grpc}] {{ target: \"{listen}\" insecure: true }} }} }}\n"
    );
    let scene = Scene::with(&service).await;
    let identity = Identity::fresh().unwrap();
    let mut link = Link::open(scene.server.addresses.agents, &identity.tls).await.unwrap();
    let end = || Some(wire::Address { client_id: Vec::new(), service_name: "greeter".into() });
    let message = |number: u8| wire::Message {
        source: end(),
        destination: end(),
        source_message_id: vec![number],
        ..wire::Message::default()
    };
    let contact = wire::ContactData { messages: (0..20).map(message).collect(), ..wire::ContactData::default() };
    link.poll(&contact, &[]).await.unwrap();
    let state = async || {
        let rows: Vec<ServiceRow> = scene.server.rest.all("/services").await?;
        anyhow::Ok(rows.into_iter().find(|row| row.name == "greeter").unwrap())
    };
    wait::until_true("the service to be seen away", CEILING, async || {
        Ok(state().await?.state.as_deref() == Some("refusing"))
    })
    .await
    .unwrap();
    let log = scene.server.process.log();
    assert_eq!(log.matches("service greeter is refusing").count(), 1, "{log}");
    let table = scene.server.muster(&["service", "list"]).unwrap();
    assert!(table.lines().any(|line| line.starts_with("greeter ") && line.contains("refusing since")), "{table}");
    let admin = scene.server.addresses.admin.to_string();
    let mut listener = python(scene.directory.path(), "listener", LISTENER, &[&admin, &listen]);
    listener.printed("listening", CEILING).await.unwrap();
    let back = tokio::time::Instant::now();
    wait::until_true("everything that waits to be taken", CEILING, async || Ok(state().await?.pending == 0))
        .await
        .unwrap();
    assert!(back.elapsed() < std::time::Duration::from_secs(15), "it took {:?}", back.elapsed());
    assert_eq!(state().await.unwrap().state.as_deref(), Some("ok"));
    assert_eq!(listener.log().matches("heard ").count(), 20, "each was given once");
}

#[tokio::test]
async fn the_client_finds_the_revoked_certificates_and_keeps_its_id_over_a_restart() {
    let scene = Scene::new().await;
    let mut client = Client::start(&scene.server, &scene.path("client"), STREAM, &[]).unwrap();
    let id = enrolled(&scene.server, &[], CEILING).await.unwrap();
    client.kill_and_restart().unwrap();
    wait::until_true("a second contact", CEILING, async || {
        let page: muster_api::Page<muster_api::agents::ContactRow> =
            scene.server.rest.get(&format!("/agents/{id}/contacts")).await?;
        Ok(page.items.len() >= 2)
    })
    .await
    .unwrap();
    let log = client.process.log();
    assert!(!log.contains("RevokedCertificates"), "the client complained about the list: {log}");
    assert_eq!(scene.server.rest.agents().await.unwrap().len(), 1);
}
