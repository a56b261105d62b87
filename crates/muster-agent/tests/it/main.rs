//! The program as it is, against a small server that speaks the wire.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod cancellations;
mod fleet;
mod machine;
mod orders;
mod refusals;
mod servers;

use agent::AgentProcess;
use fleet::{Fleet, Kind};
use muster_core::system;
use muster_proto::wire;
use prost::Message as _;

const ECHO_TEXT: &[u8] = b"hello over there";

fn echo() -> (&'static str, &'static str, Option<prost_types::Any>) {
    let value = ECHO_TEXT.to_vec().encode_to_vec();
    let any = prost_types::Any { type_url: "type.googleapis.com/google.protobuf.BytesValue".into(), value };
    (system::MUSTER, system::ECHO, Some(any))
}

async fn works_with(mode: &str, compression: &str, http2: bool) {
    let fleet = Fleet::start(Kind::Plain).await;
    let settings = format!("mode = {mode:?}\ncompression = {compression:?}\nhttp2 = {http2}\nlabels = [\"blue\"]");
    let mut agent = AgentProcess::start(&fleet, &settings);
    let info = fleet.wait_for(system::CLIENT_INFO).await;
    let info = wire::ClientInfoData::decode(&info.body()[..]).unwrap();
    let labels: Vec<_> = info.labels.iter().map(|label| label.label.as_str()).collect();
    assert!(labels.contains(&"linux") && labels.contains(&"blue"), "{labels:?}");
    let facts = fleet.wait_for(system::FACTS).await;
    let facts: Vec<u8> = prost::Message::decode(&facts.body()[..]).unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&facts).unwrap();
    assert_eq!(facts["kernel"], "Linux");

    let (service, message_type, data) = echo();
    let asked = fleet.send(service, message_type, data.clone());
    let reply = fleet.wait_for(system::ECHO_REPLY).await;
    assert_eq!(reply.message.data, data);
    let annotations = reply.message.annotations.unwrap().entries;
    assert_eq!((annotations[0].key.as_str(), &annotations[0].value), ("in_reply_to", &hex::encode(&asked)));
    fleet.wait_until(|seen| seen.acknowledged.contains(&asked)).await;
    let seen = fleet.seen();
    assert_eq!(seen.http2, http2);
    assert_eq!(seen.deflated, compression == "deflate");
    assert_eq!(seen.streamed, mode == "stream");
    assert_eq!(agent.stop().await, Some(0));
}

#[tokio::test]
async fn a_stream_works_in_every_way() {
    for (compression, http2) in [("none", false), ("none", true), ("deflate", false), ("deflate", true)] {
        works_with("stream", compression, http2).await;
    }
}

#[tokio::test]
async fn polls_work_in_every_way() {
    for (compression, http2) in [("none", false), ("none", true), ("deflate", false), ("deflate", true)] {
        works_with("poll", compression, http2).await;
    }
}

#[tokio::test]
async fn a_server_that_cannot_read_deflated_polls_gets_them_plain() {
    let fleet = Fleet::start(Kind::NoDeflate).await;
    let _agent = AgentProcess::start(&fleet, "mode = \"poll\"\ncompression = \"deflate\"");
    fleet.wait_for(system::FACTS).await;
    assert!(!fleet.seen().deflated);
}

#[tokio::test]
async fn a_server_certificate_as_the_original_makes_it_is_believed() {
    let fleet = Fleet::start(Kind::OddCertificate).await;
    let _agent = AgentProcess::start(&fleet, "");
    fleet.wait_for(system::FACTS).await;
}

#[tokio::test]
async fn a_server_of_another_authority_gets_nothing_and_the_doctor_says_why() {
    let fleet = Fleet::start(Kind::Plain).await;
    let other = Fleet::start(Kind::Plain).await;
    let agent = AgentProcess::prepare(&fleet, &format!("trusted_certs = '''{}'''", other.authority_pem()));
    let (code, out) = agent.output(&["doctor", "--json"]).await;
    assert_eq!(code, Some(1));
    let findings: serde_json::Value = serde_json::from_str(&out).unwrap();
    let server = findings.as_array().unwrap().iter().find(|finding| finding["name"] == "server").unwrap();
    assert_eq!(server["outcome"], "failed");
    assert!(server["found"].as_str().unwrap().contains("certificate"), "{server}");
    assert!(fleet.seen().agents.is_empty());
}

#[tokio::test]
async fn what_no_server_has_acknowledged_survives_a_kill_and_is_sent_again_under_the_same_name() {
    let fleet = Fleet::start(Kind::NeverAcknowledges).await;
    let mut agent = AgentProcess::start(&fleet, "");
    let (service, message_type, data) = echo();
    fleet.wait_until(|seen| seen.streamed).await;
    fleet.send(service, message_type, data);
    let first = fleet.wait_for(system::ECHO_REPLY).await;
    agent.kill().await;
    fleet.forget();
    fleet.acknowledge_from_now_on();
    agent.restart();
    let second = fleet.wait_for(system::ECHO_REPLY).await;
    assert_eq!(second.message.source_message_id, first.message.source_message_id);
    assert_eq!(second.message.data, first.message.data);
    assert_eq!(second.agent, first.agent);
}

#[tokio::test]
async fn a_message_that_comes_again_after_a_kill_is_answered_once_and_acknowledged_again() {
    let fleet = Fleet::start(Kind::Plain).await;
    let mut agent = AgentProcess::start(&fleet, "");
    let (service, message_type, data) = echo();
    let asked = fleet.send(service, message_type, data.clone());
    let first = fleet.wait_for(system::ECHO_REPLY).await;
    let is_reply = |one: &fleet::Received| one.message.message_type == system::ECHO_REPLY;
    fleet.wait_until(|seen| seen.acknowledged.contains(&asked)).await;
    // Once it answers the next one, it has read that the server has both: killed before, it would send both again.
    fleet.send(service, message_type, data.clone());
    let replies = |seen: &fleet::Seen| seen.messages.iter().filter(|one| is_reply(one)).count();
    fleet.wait_until(|seen| replies(seen) == 2).await;
    agent.kill().await;
    // Until the server has seen that end, it may give the message to the stream of the agent that is gone, and only a real
    // server would send it once more.
    fleet.wait_until(|seen| seen.open_streams == 0).await;
    fleet.forget();
    agent.restart();
    fleet.send_again(&asked, service, message_type, data);
    fleet.wait_until(|seen| seen.acknowledged.contains(&asked)).await;
    // Whatever it says last comes before its end.
    assert_eq!(agent.stop().await, Some(0));
    // An answer's name follows from its question. The answer to the other one may come again: it was killed at once.
    let again = |one: &&fleet::Received| one.message.source_message_id == first.message.source_message_id;
    assert_eq!(fleet.seen().messages.iter().filter(again).count(), 0);
}

#[tokio::test]
async fn a_rekey_is_acknowledged_under_the_old_key_and_kept_over_a_restart() {
    for mode in ["stream", "poll"] {
        let fleet = Fleet::start(Kind::Plain).await;
        let mut agent = AgentProcess::start(&fleet, &format!("mode = {mode:?}"));
        let old = fleet.wait_for(system::FACTS).await.agent;
        let asked = fleet.send(system::SERVICE, system::REKEY_REQUEST, None);
        fleet.wait_until(|seen| seen.agents.len() == 2).await;
        let seen = fleet.seen();
        let new = *seen.agents.iter().find(|agent| **agent != old).unwrap();
        assert_eq!(seen.acknowledged_by[&asked], old);
        fleet
            .wait_until(|seen| seen.messages.iter().any(|m| m.agent == new && m.message.message_type == system::FACTS))
            .await;
        assert_eq!(agent.stop().await, Some(0));
        let (_, id) = agent.output(&["id"]).await;
        assert_eq!(id.trim(), new.to_string());
    }
}

#[tokio::test]
async fn the_old_key_vouches_for_the_new_one_and_the_agent_says_who_it_is_and_that_it_stops() {
    for mode in ["stream", "poll"] {
        let fleet = Fleet::start(Kind::Plain).await;
        let mut agent = AgentProcess::start(&fleet, &format!("mode = {mode:?}"));
        let old = fleet.wait_for(system::FACTS).await.agent;
        let asked = fleet.send(system::SERVICE, system::REKEY_REQUEST, None);
        fleet.wait_until(|seen| seen.agents.len() == 2).await;
        let introductions = fleet.seen().introductions;
        let first = muster_proto::introduction::decode(&introductions[0].1);
        assert_eq!((introductions[0].0, first.handover), (old, None));
        assert!(first.facts.contains_key("hostname"), "{:?}", first.facts);
        let of_new: Vec<_> = introductions.iter().filter(|(agent, _)| *agent != old).collect();
        let shown = muster_proto::introduction::decode(&of_new[0].1);
        let word = shown.handover.expect("its old key vouches");
        assert_eq!((word.old_agent(), &word.demand.as_bytes()[..]), (old, &asked[..]));
        assert!(!muster_proto::introduction::is_leaving(&of_new[0].1));
        // Once it answers, its stream is open, or it polls.
        let (service, message_type, data) = echo();
        fleet.send(service, message_type, data);
        let answers = |one: &fleet::Received| one.agent != old && one.message.message_type == system::ECHO_REPLY;
        fleet.wait_until(|seen| seen.messages.iter().any(answers)).await;
        assert_eq!(agent.stop().await, Some(0));
        // A poll that its end cut off may be read after its last word.
        let leaves =
            |(agent, words): &(_, bytes::Bytes)| *agent != old && muster_proto::introduction::is_leaving(words);
        assert!(fleet.seen().introductions.iter().any(leaves), "{mode}");
        assert!(!agent.directory().join("state/agent.key.handover").exists(), "a server has taken the new key");
    }
}

#[tokio::test]
async fn a_new_key_that_no_server_takes_is_given_up_for_the_old_one() {
    let fleet = Fleet::start(Kind::RefusesNewKeys).await;
    let mut agent = AgentProcess::start(&fleet, "");
    let old = fleet.wait_for(system::FACTS).await.agent;
    let asked = fleet.send(system::SERVICE, system::REKEY_REQUEST, None);
    fleet.wait_until(|seen| seen.acknowledged.contains(&asked)).await;
    let streams = fleet.seen().streams;
    fleet.wait_until(|seen| seen.streams > streams).await;
    assert_eq!(fleet.seen().agents.len(), 1);
    assert_eq!(agent.stop().await, Some(0));
    let (_, id) = agent.output(&["id"]).await;
    assert_eq!(id.trim(), old.to_string());
}

#[tokio::test]
async fn an_order_to_die_ends_the_program_with_its_own_exit_code() {
    for force in [false, true] {
        let fleet = Fleet::start(Kind::Plain).await;
        let mut agent = AgentProcess::start(&fleet, "");
        let value = wire::DieRequest { force }.encode_to_vec();
        let any = prost_types::Any { type_url: "type.googleapis.com/fleetspeak.DieRequest".into(), value };
        let asked = fleet.send(system::SERVICE, system::DIE, Some(any));
        assert_eq!(agent.ended().await, Some(7));
        assert!(!fleet.seen().acknowledged.contains(&asked));
    }
}

#[tokio::test]
async fn a_stream_that_says_it_is_done_is_followed_by_another_and_nothing_is_lost() {
    let fleet = Fleet::start(Kind::EndsStreams).await;
    let _agent = AgentProcess::start(&fleet, "");
    fleet.wait_until(|seen| seen.streams >= 2).await;
    let (service, message_type, data) = echo();
    fleet.send(service, message_type, data);
    fleet.wait_for(system::ECHO_REPLY).await;
}

#[tokio::test]
async fn many_messages_are_answered_once_each() {
    let fleet = Fleet::start(Kind::Plain).await;
    let _agent = AgentProcess::start(&fleet, "");
    fleet.wait_until(|seen| seen.streamed).await;
    let (service, message_type, data) = echo();
    let asked: Vec<_> = (0..500).map(|_| fleet.send(service, message_type, data.clone())).collect();
    fleet.wait_until(|seen| asked.iter().all(|id| seen.acknowledged.contains(id))).await;
    let is_reply = |seen: &&fleet::Received| seen.message.message_type == system::ECHO_REPLY;
    fleet.wait_until(|seen| seen.messages.iter().filter(is_reply).count() >= 500).await;
    let seen = fleet.seen();
    let names: std::collections::BTreeSet<_> =
        seen.messages.iter().filter(is_reply).map(|seen| seen.message.source_message_id.clone()).collect();
    assert_eq!((names.len(), seen.messages.iter().filter(is_reply).count()), (500, 500));
    assert!(seen.most_in_places <= 100, "{} messages were sent without a free place", seen.most_in_places);
}

#[tokio::test]
async fn two_agents_never_share_a_directory() {
    let fleet = Fleet::start(Kind::Plain).await;
    let agent = AgentProcess::start(&fleet, "");
    fleet.wait_for(system::FACTS).await;
    let (code, _) = agent.output(&["run"]).await;
    assert_eq!(code, Some(1));
}

#[tokio::test]
async fn a_server_that_is_revoked_gets_nothing_in_either_mode() {
    for mode in ["stream", "poll"] {
        let fleet = Fleet::start(Kind::RevokesItself).await;
        let mut agent = AgentProcess::start(&fleet, &format!("mode = {mode:?}"));
        agent.wait_for_file("revoked.json").await;
        // It ends in order, and whatever it would have said by then was not said.
        assert_eq!(agent.stop().await, Some(0));
        let (code, findings) = agent.output(&["doctor"]).await;
        assert!(code == Some(1) && findings.to_lowercase().contains("revoked"), "{findings}");
        assert!(fleet.seen().agents.is_empty());
    }
}

#[tokio::test]
async fn the_token_is_claimed_and_never_written_anywhere_else() {
    let fleet = Fleet::start(Kind::Plain).await;
    let agent = AgentProcess::start(&fleet, "enrol_token = \"hunter2\"");
    let info = fleet.wait_for(system::CLIENT_INFO).await;
    assert!(fleet.seen().labels.contains(&format!("{}hunter2", system::ENROL_TOKEN_PREFIX)));
    assert!(!String::from_utf8_lossy(info.body()).contains("hunter2"));
    let (_, shown) = agent.output(&["config", "show"]).await;
    assert!(shown.contains("enrol_token") && !shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn services_follow_the_directory_when_the_agent_is_told_to_look_again() {
    let fleet = Fleet::start(Kind::Plain).await;
    let agent = AgentProcess::prepare(&fleet, "services_dir = \"services\"");
    let directory = agent.directory().join("services");
    std::fs::create_dir(&directory).unwrap();
    let mut agent = agent;
    agent.restart();
    fleet.wait_for(system::CLIENT_INFO).await;
    std::fs::write(directory.join("new"), "name: \"newcomer\" factory: \"NOOP\"").unwrap();
    agent.signal(rustix::process::Signal::HUP);
    let names_it = |seen: &fleet::Received| {
        let info = wire::ClientInfoData::decode(&seen.body()[..]).unwrap_or_default();
        info.services.iter().any(|service| service.name == "newcomer")
    };
    let is_info = |seen: &&fleet::Received| seen.message.message_type == system::CLIENT_INFO;
    fleet.wait_until(|seen| seen.messages.iter().filter(is_info).any(names_it)).await;
    let asked = fleet.send("newcomer", "anything", None);
    fleet.wait_until(|seen| seen.acknowledged.contains(&asked)).await;
}

#[tokio::test]
async fn the_next_server_is_tried_when_the_first_is_not_there() {
    let fleet = Fleet::start(Kind::Plain).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _agent = AgentProcess::start(&fleet, &format!("servers = [\"{nobody}\", \"{}\"]", fleet.address));
    fleet.wait_for(system::FACTS).await;
}

#[tokio::test]
async fn a_proxy_is_asked_to_connect() {
    let fleet = Fleet::start(Kind::Plain).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = format!("proxy = \"http://{}\"", listener.local_addr().unwrap());
    let _agent = AgentProcess::start(&fleet, &settings);
    let (mut inside, _) = listener.accept().await.unwrap();
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(tokio::io::AsyncReadExt::read_u8(&mut inside).await.unwrap());
    }
    let asked = String::from_utf8(asked).unwrap();
    assert!(asked.starts_with(&format!("CONNECT {} HTTP/1.1\r\n", fleet.address)), "{asked}");
    let mut outside = tokio::net::TcpStream::connect(&fleet.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut inside, b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    // Only this one connection is carried: the list of revoked certificates is asked for over it.
    let carried = tokio::io::copy_bidirectional(&mut inside, &mut outside);
    tokio::select! {
        _ = carried => {}
        () = fleet.wait_until(|seen| seen.revoked_asked > 0) => {}
    }
    assert_eq!(fleet.seen().revoked_asked, 1);
}

#[tokio::test]
async fn the_certificate_is_named_in_a_header_of_every_request_when_it_shall_be() {
    for (mode, contacts) in [("stream", "/streaming-message"), ("poll", "/message")] {
        for http2 in [false, true] {
            let fleet = Fleet::start(Kind::Plain).await;
            let header = format!("client_certificate_header = \"{}\"", fleet::CERTIFICATE_HEADER);
            let mut agent = AgentProcess::start(&fleet, &format!("mode = {mode:?}\nhttp2 = {http2}\n{header}"));
            fleet.wait_for(system::FACTS).await;
            let named = fleet.seen().certificate_headers;
            let paths = [contacts, "/files/system/RevokedCertificates"];
            assert_eq!(named, paths.map(|path| (path.to_owned(), true)).into(), "{mode}, http2 {http2}");
            assert_eq!(agent.stop().await, Some(0));
        }
    }
    let fleet = Fleet::start(Kind::Plain).await;
    let _agent = AgentProcess::start(&fleet, "");
    fleet.wait_for(system::FACTS).await;
    assert!(fleet.seen().certificate_headers.is_empty());
}
