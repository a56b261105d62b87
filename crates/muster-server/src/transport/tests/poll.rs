use super::client::{
    Agent, Shows, TLS12, TLS13, Way, ack, ask, connect, contact, data, full, http2, message, pieces, poll, post,
    stranger, way, wrapped,
};
use super::world::{world, world_with};
use bytes::Bytes;
use muster_core::{AgentState, limits};
use muster_engine::access::Caller;
use muster_engine::{EngineConfig, EnrolmentPolicy};
use muster_proto::inflate::deflate;
use muster_proto::{convert, wire};
use muster_store::agents::EventFilter;
use prost::Message as _;
use rcgen::{KeyPair, PublicKeyData as _};

#[tokio::test]
async fn a_poll_enrols_in_every_way_of_speaking() {
    let world = world().await;
    let deflated = &[("content-encoding", "deflate")];
    for is_http2 in [false, true] {
        for is_deflated in [false, true] {
            for has_length in [false, true] {
                let agent = Agent::new();
                let way = Way { http2: is_http2, ..way(&agent) };
                let bytes = contact(vec![message(b"1")]);
                let bytes = Bytes::from(if is_deflated { deflate(&bytes) } else { bytes });
                let headers: &[_] = if is_deflated { deflated } else { &[] };
                let body = if has_length {
                    full(bytes)
                } else {
                    let (sender, body) = pieces();
                    sender.send(bytes).await.unwrap();
                    body
                };
                let answer = ask(&world, &way, post("/message", headers, body)).await;
                assert_ne!(answer.contact().sequencing_nonce, 0);
                assert_eq!(answer.headers["content-type"], "application/octet-stream");
                let known = world.engine.store().agent_get(agent.id()).await.unwrap().unwrap();
                assert_eq!(known.key, agent.pair.subject_public_key_info());
                assert!(known.last_address.starts_with("127.0.0.1:"), "{}", known.last_address);
                assert_eq!(world.messages_of(agent.id()).await.len(), 1);
            }
        }
    }
}

#[tokio::test]
async fn what_is_due_comes_with_the_answer_and_is_acknowledged_by_the_next_contact() {
    let world = world().await;
    let agent = Agent::new();
    poll(&world, &way(&agent), contact(vec![])).await.contact();
    let id = world.send(agent.id(), "hello").await;
    let answer = poll(&world, &way(&agent), contact(vec![])).await.contact();
    assert_eq!(answer.messages.len(), 1);
    assert_eq!(answer.messages[0].message_type, "hello");
    let taken = Bytes::copy_from_slice(id.as_bytes());
    poll(&world, &way(&agent), contact(vec![ack(&[taken], b"a")])).await.contact();
    let rows = world.engine.store().message_get(&[id], false).await.unwrap();
    assert!(rows[0].message.result.as_ref().is_some_and(|result| result.failure.is_none()));
}

#[tokio::test]
async fn r04_r05_encodings_are_whole_and_known_or_refused() {
    let world = world().await;
    let way = way(&Agent::new());
    let good = deflate(&contact(vec![]));
    let mut bad_adler = good.clone();
    *bad_adler.last_mut().unwrap() ^= 1;
    let dictionary = b"\x78\xbb\x00\x00\x00\x01\x03\x00\x00\x00\x00\x01".to_vec();
    let broken = [good[..good.len() - 2].to_vec(), bad_adler, [&good[..], b"x"].concat(), good.repeat(2), dictionary];
    for body in broken {
        let answer = ask(&world, &way, post("/message", &[("content-encoding", "deflate")], full(body))).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(answer.text().ends_with('\n'));
    }
    for encoding in ["gzip", "br", "deflate, deflate"] {
        let answer = ask(&world, &way, post("/message", &[("content-encoding", encoding)], full(good.clone()))).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text()),
            (415, &*format!("unsupported content encoding: {encoding}\n"))
        );
    }
}

#[tokio::test]
async fn r07_an_empty_body_is_a_contact() {
    let world = world().await;
    let agent = Agent::new();
    assert_ne!(poll(&world, &way(&agent), "").await.contact().sequencing_nonce, 0);
    assert!(world.engine.store().agent_get(agent.id()).await.unwrap().is_some());
}

#[tokio::test]
async fn r08_r09_r13_r20_r21_contacts_that_break_a_rule_are_refused_whole() {
    let world = world().await;
    let agent = Agent::new();
    let signed = |signature: wire::Signature| {
        wire::WrappedContactData { signatures: vec![signature], ..wrapped(&data(vec![message(b"s")])) }.encode_to_vec()
    };
    let certificate = Bytes::copy_from_slice(&agent.certificate);
    let good = wire::Signature { certificate: vec![certificate], algorithm: 10, signature: Bytes::from_static(b"s") };
    let services = |count: u32| {
        let allowed_messages = (0..count).map(|n| (n.to_string(), u64::MAX)).collect();
        wrapped(&wire::ContactData { allowed_messages, ..data(vec![]) }).encode_to_vec()
    };
    let refused = [
        b"\xff\xff".to_vec(),
        b"\x00\x00".to_vec(),
        b"\x0a\x02\xff\xff".to_vec(),
        b"\x08\x01".to_vec(),
        [0x0b].repeat(100_000),
        contact((0..101_u8).map(|n| message(&[n])).collect()),
        signed(wire::Signature { certificate: vec![], ..good.clone() }),
        signed(wire::Signature { certificate: vec![Bytes::from_static(b"garbage")], ..good.clone() }),
        signed(wire::Signature { certificate: vec![Bytes::new(); 1000], ..good.clone() }),
        signed(wire::Signature { certificate: vec![good.certificate[0].clone(); 9], ..good.clone() }),
        signed(wire::Signature { algorithm: 16, ..good.clone() }),
        signed(wire::Signature { signature: vec![0; 10 << 20].into(), ..good.clone() }),
        services(1025),
    ];
    for (number, body) in refused.into_iter().enumerate() {
        let answer = poll(&world, &way(&agent), body).await;
        assert_eq!(answer.status, 400, "body {number}: {}", answer.text());
    }
    assert!(world.engine.store().agent_get(agent.id()).await.unwrap().is_none());
    assert_eq!(poll(&world, &way(&agent), services(1024)).await.status, 200);
    assert_eq!(poll(&world, &way(&agent), signed(good)).await.status, 200);
    assert_eq!(world.messages_of(agent.id()).await.len(), 1);
}

#[tokio::test]
async fn r14_r15_r54_a_bad_message_does_not_spoil_its_contact() {
    let world = world().await;
    let agent = Agent::new();
    let to = |client_id: &'static [u8], service: &str| {
        let destination = wire::Address { client_id: Bytes::from_static(client_id), service_name: service.into() };
        wire::Message { destination: Some(destination), ..message(b"bad") }
    };
    let long = vec![7; limits::SOURCE_MESSAGE_ID_BYTES_MAX + 1];
    let bad = vec![
        message(b""),
        message(&long),
        message(&vec![1; 1 << 20]),
        to(&[9; 8], "sink"),
        to(b"", ""),
        to(b"", "no-such-service"),
        to(b"", "client"),
        wire::Message { destination: None, ..message(b"none") },
        wire::Message { source: None, ..message(b"none") },
        wire::Message { message_type: "a\0b".into(), ..message(b"nul") },
        message(b"good"),
    ];
    poll(&world, &way(&agent), contact(bad)).await.contact();
    let done = world.messages_of(agent.id()).await;
    let good = done.iter().filter(|message| message.source_message_id == b"good").count();
    assert_eq!(good, 1);
    let letters = world.engine.store().dead_letter_page(None, 100).await.unwrap();
    assert!(letters.len() >= 8, "{letters:?}");
}

#[tokio::test]
async fn r16_r18_the_same_message_is_one_whoever_it_claims_to_be_from() {
    let world = world().await;
    let agent = Agent::new();
    let mut claiming = message(b"1");
    claiming.source.as_mut().unwrap().client_id = Bytes::from_static(&[9; 8]);
    poll(&world, &way(&agent), contact(vec![message(b"1"), message(b"1")])).await.contact();
    poll(&world, &way(&agent), contact(vec![claiming])).await.contact();
    let messages = world.messages_of(agent.id()).await;
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].source.agent, Some(agent.id()));
}

#[tokio::test]
async fn r23_a_clock_that_shows_no_time_is_left_out() {
    let world = world().await;
    for (seconds, nanos) in [(9_404_000_000_000, 0), (0, 2_000_000_000), (0, -1), (i64::MIN, 0)] {
        let agent = Agent::new();
        let client_clock = Some(prost_types::Timestamp { seconds, nanos });
        let body = wrapped(&wire::ContactData { client_clock, ..data(vec![]) }).encode_to_vec();
        poll(&world, &way(&agent), body).await.contact();
        let known = world.engine.store().agent_get(agent.id()).await.unwrap().unwrap();
        assert_eq!(known.last_clock, None, "{seconds} {nanos}");
    }
}

#[tokio::test]
async fn r24_a_blacklisted_agent_is_asked_for_a_new_key_and_gets_nothing_else() {
    let world = world().await;
    let agent = Agent::new();
    poll(&world, &way(&agent), contact(vec![])).await.contact();
    world.send(agent.id(), "hello").await;
    world.engine.agent_blacklist(agent.id(), &Caller::server()).await.unwrap();
    let answer = poll(&world, &way(&agent), contact(vec![message(b"1")])).await.contact();
    let types: Vec<_> = answer.messages.iter().map(|message| message.message_type.as_str()).collect();
    assert_eq!(types, ["RekeyRequest"]);
    world.engine.agent_block(agent.id(), &Caller::server()).await.unwrap();
    let answer = poll(&world, &way(&agent), contact(vec![message(b"2")])).await;
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("blocked"), "{}", answer.text());
}

#[tokio::test]
async fn r25_s06_identity_is_one_certificate() {
    let world = world().await;
    let (one, other) = (Agent::new(), Agent::new());
    let answer = poll(&world, &stranger(), contact(vec![])).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (401, "expected 1 client cert, received 0\n"));
    let both = Shows { chain: vec![one.certificate.clone(), other.certificate], key: one.pair.serialize_der() };
    let answer = poll(&world, &Way { shows: Some(both), ..stranger() }, contact(vec![])).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (400, "expected 1 client cert, received 2\n"));
    let refusals = world.engine.store().event_page(EventFilter::default(), None, 10).await.unwrap();
    assert_eq!(refusals.len(), 2);
}

#[tokio::test]
async fn r26_s02_nobody_comes_in_with_a_certificate_that_is_not_theirs() {
    let world = world().await;
    let (victim, thief) = (Agent::new(), Agent::new());
    let stolen = Shows { chain: vec![victim.certificate.clone()], key: thief.pair.serialize_der() };
    for versions in [TLS13, TLS12] {
        let way = Way { shows: Some(stolen.clone()), http2: false, versions };
        // In TLS 1.3 the client is done before the server has looked; the refusal comes with the first answer.
        let answered = super::client::request(&world, &way, post("/message", &[], full(""))).await;
        assert!(answered.is_err());
        let own = Way { shows: Some(thief.shows()), ..way };
        assert_eq!(poll(&world, &own, "").await.status, 200);
    }
    assert!(world.engine.store().agent_get(victim.id()).await.unwrap().is_none());
}

#[tokio::test]
async fn s07_other_common_kinds_of_keys_come_in() {
    let world = world().await;
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ECDSA_P521_SHA512, &rcgen::PKCS_ED25519] {
        let agent = Agent::of(KeyPair::generate_for(algorithm).unwrap());
        assert_eq!(poll(&world, &way(&agent), "").await.status, 200, "{algorithm:?}");
        assert!(world.engine.store().agent_get(agent.id()).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn r28_a_certificate_header_names_nobody() {
    let world = world().await;
    let (one, other) = (Agent::new(), Agent::new());
    let pem = "-----BEGIN CERTIFICATE-----%0A-----END CERTIFICATE-----";
    let headers = [("x-forwarded-client-cert", pem)];
    assert_eq!(ask(&world, &way(&one), post("/message", &headers, full(""))).await.status, 200);
    assert_eq!(ask(&world, &stranger(), post("/message", &headers, full(""))).await.status, 401);
    assert!(world.engine.store().agent_get(one.id()).await.unwrap().is_some());
    assert!(world.engine.store().agent_get(other.id()).await.unwrap().is_none());
}

#[tokio::test]
async fn r35_s08_refused_enrolments_have_their_status() {
    let closed = EngineConfig { enrolment: EnrolmentPolicy::Closed, ..EngineConfig::default() };
    let world = world_with(super::super::Options::default(), closed).await;
    assert_eq!(poll(&world, &way(&Agent::new()), "").await.status, 403);
    drop(world);
    let slow = EngineConfig { enrolments_per_minute: 1, ..EngineConfig::default() };
    let world = world_with(super::super::Options::default(), slow).await;
    let agent = Agent::new();
    assert_eq!(poll(&world, &way(&agent), "").await.status, 200);
    let answer = poll(&world, &way(&Agent::new()), "").await;
    assert_eq!(answer.status, 429);
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(poll(&world, &way(&agent), "").await.status, 200);
}

#[tokio::test]
async fn a_deleted_agent_stays_away_and_its_id_taken() {
    let world = world().await;
    let agent = Agent::new();
    poll(&world, &way(&agent), "").await.contact();
    world.engine.agent_delete(agent.id(), &Caller::server()).await.unwrap();
    assert_eq!(poll(&world, &way(&agent), "").await.status, 403);
    let known = world.engine.store().agent_get(agent.id()).await.unwrap().unwrap();
    assert_eq!(known.state, AgentState::Deleted);
}

#[tokio::test]
async fn methods_and_paths_that_are_none_are_told() {
    let world = world().await;
    let agent = Agent::new();
    let get = |path: &str| http::Request::get(format!("https://localhost{path}")).body(full("")).unwrap();
    for way in [way(&agent), http2(&agent)] {
        let answer = ask(&world, &way, get("/message")).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (400, "GET not supported\n"));
        for path in ["/", "/nothing", "//message", "/message/", "/Message", "/setup"] {
            let answer = ask(&world, &way, get(path)).await;
            assert_eq!((answer.status.as_u16(), answer.text()), (404, "404 page not found\n"), "{path}");
        }
    }
}

#[tokio::test]
async fn both_versions_of_tls_are_spoken_and_no_tickets_given() {
    let world = world().await;
    let agent = Agent::new();
    for (versions, version) in [(TLS13, rustls::ProtocolVersion::TLSv1_3), (TLS12, rustls::ProtocolVersion::TLSv1_2)] {
        let way = Way { versions, ..way(&agent) };
        let stream = connect(&world, &way).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version));
        assert_eq!(poll(&world, &way, "").await.status, 200);
    }
}

#[tokio::test]
async fn usage_and_labels_reach_the_store() {
    let world = world().await;
    let agent = Agent::new();
    let info = wire::ClientInfoData {
        labels: vec![wire::Label { service_name: "client".into(), label: "web".into() }],
        services: vec![],
    };
    let payload = convert::payload_to_wire(muster_proto::system::pack(&info));
    let said = wire::Message { message_type: "ClientInfo".into(), data: Some(payload), ..ack(&[], b"info") };
    poll(&world, &way(&agent), contact(vec![said])).await.contact();
    let known = world.engine.store().agent_get(agent.id()).await.unwrap().unwrap();
    assert_eq!(known.labels, [muster_core::Label::client("web")]);
}

#[tokio::test]
async fn r17_of_two_messages_with_one_id_the_first_stays() {
    let world = world().await;
    let agent = Agent::new();
    let said = |text: &str| wire::Message { message_type: text.into(), ..message(b"1") };
    poll(&world, &way(&agent), contact(vec![said("first")])).await.contact();
    poll(&world, &way(&agent), contact(vec![said("second")])).await.contact();
    let messages = world.messages_of(agent.id()).await;
    assert_eq!(messages.iter().map(|message| message.message_type.as_str()).collect::<Vec<_>>(), ["first"]);
}

#[tokio::test]
async fn r19_an_acknowledgement_of_another_agents_message_does_nothing() {
    let world = world().await;
    let (owner, other) = (Agent::new(), Agent::new());
    poll(&world, &way(&owner), "").await.contact();
    let id = world.send(owner.id(), "hello").await;
    let taken = Bytes::copy_from_slice(id.as_bytes());
    let unknown = Bytes::from_static(&[0xee; 32]);
    poll(&world, &way(&other), contact(vec![ack(&[unknown, taken, Bytes::from_static(b"short")], b"a")]))
        .await
        .contact();
    let rows = world.engine.store().message_get(&[id], false).await.unwrap();
    assert_eq!(rows[0].message.result, None);
    assert_eq!(poll(&world, &way(&owner), "").await.contact().messages.len(), 1);
}

#[tokio::test]
async fn r22_two_machines_with_one_key_are_noticed() {
    let world = world().await;
    let agent = Agent::new();
    let nonce = async |sequencing_nonce| {
        let body = wrapped(&wire::ContactData { sequencing_nonce, ..data(vec![]) }).encode_to_vec();
        poll(&world, &way(&agent), body).await.contact().sequencing_nonce
    };
    let copied = nonce(0).await;
    let one = nonce(copied).await;
    let other = nonce(copied).await;
    let one = nonce(one).await;
    nonce(other).await;
    let body = wrapped(&wire::ContactData { sequencing_nonce: one, ..data(vec![]) }).encode_to_vec();
    assert_eq!(poll(&world, &way(&agent), body).await.status, 429, "they are calmed down");
    let known = world.engine.store().agent_get(agent.id()).await.unwrap().unwrap();
    assert!(known.clone_suspected.is_some(), "{known:?}");
}

#[tokio::test]
async fn r27_s03_an_id_belongs_to_one_whole_key() {
    use muster_store::agents::{Enrolled, Enrolment};
    let world = world().await;
    let agent = Agent::new();
    // As if another key with the same first eight bytes had come before.
    let other_key = Agent::new().pair.subject_public_key_info();
    let enrolment = Enrolment {
        id: agent.id(),
        key: other_key,
        labels: vec![],
        state: AgentState::Enrolled,
        token: None,
        facts: muster_core::Facts::new(),
        note: String::new(),
    };
    let enrolled = world.engine.store().agent_enrol(enrolment, super::world::now()).await.unwrap();
    assert!(matches!(enrolled, Enrolled::Yes(_)));
    assert_eq!(poll(&world, &way(&agent), contact(vec![message(b"1")])).await.status, 403);
    assert!(world.messages_of(agent.id()).await.is_empty());
    let refusals = world.engine.store().event_page(EventFilter::default(), None, 10).await.unwrap();
    assert_eq!(refusals[0].code, "key_mismatch");
}

#[tokio::test]
async fn r34_an_agent_that_floods_is_told_to_wait() {
    let slow = EngineConfig { agent_messages_per_second: 1, ..EngineConfig::default() };
    let world = world_with(super::super::Options::default(), slow).await;
    let agent = Agent::new();
    let flood = |round: u8| contact((0..100).map(|number| message(&[round, number])).collect());
    assert_eq!(poll(&world, &way(&agent), flood(0)).await.status, 200);
    let refused = poll(&world, &way(&agent), flood(1)).await;
    assert_eq!(refused.status, 429);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(poll(&world, &way(&Agent::new()), contact(vec![message(b"1")])).await.status, 200);
}
