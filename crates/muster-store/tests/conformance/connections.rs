//! PostgreSQL over TLS, on several hosts, and with connections that break at the worst moment.

use crate::broadcasts::{aid, bid, broadcast};
use crate::proxy::{At, Proxy, Side};
use crate::servers::Server;
use crate::stage::*;
use muster_core::{AgentState, MessageResult};
use muster_store::agents::{ContactPut, Effect, Enrolled, Enrolment, Taken};
use muster_store::broadcasts::BroadcastSent;
use muster_store::cluster::EnrolTokenRow;
use muster_store::{
    AgentStore, BroadcastStore, ClusterStore, ErrorKind, MessageStore, SqlStore, StoreError, StoreOptions,
};
use std::error::Error;
use std::time::Duration;

/// The whole chain of an error.
fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// An authority and what it signed for `name`: the authority's certificate, the server's, and its key.
fn certificates(name: &str) -> [String; 3] {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::from_params(&params, &ca_key);
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    [ca.pem(), leaf.pem(), key.serialize_pem()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_reached_over_tls_only_as_whom_it_was_named() {
    let [ca, certificate, key] = certificates("localhost");
    let server = Server::start().await;
    server.set("ssl_cert_file", &server.file("server.crt", &certificate)).await;
    server.set("ssl_key_file", &server.file("server.key", &key)).await;
    server.set("ssl", "on").await;
    let folder = folder();
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (write("an authority.pem", &ca), write("other.pem", &certificates("localhost")[0]));
    let url = |host: &str, tail: &str| format!("postgres://postgres@{host}:{}/postgres?{tail}", server.port());

    let encoded = right.replace(' ', "%20").replace('/', "%2F");
    for tail in [format!("sslmode=verify-full&sslrootcert={right}"), format!("sslrootcert={encoded}&sslmode=require")] {
        SqlStore::migrate(&url("localhost", &tail)).await.unwrap();
        let store = open(&url("localhost", &tail)).await;
        store.setting_init("a", vec![1]).await.unwrap();
        assert_eq!(store.setting_get("a").await.unwrap(), Some(vec![1]));
        let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
             WHERE application_name = 'muster' AND ssl IS";
        assert_eq!(server.ask(&format!("{plain} NOT TRUE")).await, "0", "with {tail}");
        assert_ne!(server.ask(&format!("{plain} TRUE")).await, "0", "with {tail}");
    }
    for (host, tail, why) in [
        ("localhost", format!("sslmode=require&sslrootcert={wrong}"), "invalid peer certificate"),
        ("localhost", format!("sslmode=verify-full&sslrootcert={wrong}"), "invalid peer certificate"),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={right}"), "not valid for name"),
    ] {
        let error = SqlStore::open(&url(host, &tail), &StoreOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{tail}");
        assert!(chain(&error).contains(why), "{tail}: {}", chain(&error));
    }
    let missing = url("localhost", "sslmode=require&sslrootcert=/nowhere.pem");
    let error = SqlStore::open(&missing, &StoreOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("/nowhere.pem"), "{error}");

    // A server without TLS is not talked to in the clear by who asked for TLS.
    server.set("ssl", "off").await;
    let asked = url("localhost", &format!("sslmode=require&sslrootcert={right}"));
    let error = SqlStore::open(&asked, &StoreOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(chain(&error).contains("TLS"), "{}", chain(&error));
}

/// Runs until it succeeds, as a caller does that is told to try again later.
async fn later<T>(mut call: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => assert!(error.is_passing(), "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_that_takes_writes_is_found_and_found_again() {
    let mut first = Server::start().await;
    let second = first.standby().await;
    first.set("synchronous_standby_names", "*").await;
    first.until("SELECT sync_state FROM pg_stat_replication", "sync").await;
    let hosts = |ports: [u16; 2]| {
        let [one, two] = ports.map(|port| format!("127.0.0.1:{port}"));
        format!("postgres://postgres@{one},{two}/postgres")
    };
    let options = StoreOptions { retry_for: Duration::from_secs(10), ..StoreOptions::default() };
    SqlStore::migrate(&hosts([second.port(), first.port()])).await.unwrap();

    // A host that is dead and one that only reads are passed over, also for who does not say so in the URL.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for ports in [[dead, first.port()], [second.port(), first.port()]] {
        let store = SqlStore::open(&hosts(ports), &options).await.unwrap();
        store.agent_enrol(enrolment(1, AgentState::Enrolled, &[]), at(0)).await.unwrap();
    }
    let alone = format!("postgres://postgres@127.0.0.1:{}/postgres", second.port());
    let reader = SqlStore::open(&alone, &StoreOptions { retry_for: Duration::ZERO, ..options.clone() }).await.unwrap();
    assert!(reader.agent_get(agent(1)).await.unwrap().is_some(), "a standby that is asked by name can be read");
    assert_eq!(reader.ping().await.unwrap_err().kind(), ErrorKind::Unavailable);
    drop(reader);

    let store = SqlStore::open(&hosts([first.port(), second.port()]), &options).await.unwrap();
    for n in 0..20 {
        store.message_put(vec![to_agent(n, agent(1), "s")], NO_CONTACT, at(0)).await.unwrap();
    }
    first.kill();
    let put = later(async || store.message_put(vec![to_agent(20, agent(1), "s")], NO_CONTACT, at(0)).await);
    tokio::join!(put, second.run("SELECT pg_promote()"));
    let kept = store.message_get(&(0..=20).map(id).collect::<Vec<_>>(), false).await.unwrap();
    assert_eq!(kept.len(), 21, "what was acknowledged is on the standby");
}

/// Calls `call` while its COMMIT is cut on `side`, and returns what the same call gives when it is made again.
async fn cut_and_again<T>(proxy: &Proxy, side: Side, mut call: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    proxy.cut(At::Commit, side);
    match call().await {
        Ok(_) => panic!("the answer to COMMIT was cut"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}"),
    }
    call().await.unwrap()
}

fn brings_usage(n: u8) -> ContactPut {
    let intake = vec![intake(to_server(n, agent(1), "s"), Effect::Usage(Box::new(usage())))];
    ContactPut { intake, ..contact(1, at(n.into())) }
}

/// How the one message of a contact was taken.
async fn taken(store: &SqlStore, put: ContactPut) -> Result<Taken, StoreError> {
    let muster_store::agents::ContactTaken::Recorded(recorded) = store.contact_put(put).await? else {
        panic!("refused")
    };
    Ok(recorded.taken[0])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_at_commit_leaves_an_unknown_outcome_and_twice_is_once() {
    for side in [Side::Before, Side::After] {
        let place = Place::new(Backend::Postgres).await;
        SqlStore::migrate(&place.url).await.unwrap();
        let proxy = Proxy::before(&place).await;
        let (store, direct) = (open(proxy.url()).await, open(&place.url).await);
        store.agent_enrol(enrolment(1, AgentState::Enrolled, &[]), at(0)).await.unwrap();
        let wanted = if side == Side::Before { Taken::New } else { Taken::Again };

        let message = to_agent(1, agent(1), "s");
        let put =
            cut_and_again(&proxy, side, async || store.message_put(vec![message.clone()], NO_CONTACT, at(0)).await);
        assert_eq!(put.await[0].taken, wanted);
        assert_eq!(cut_and_again(&proxy, side, async || taken(&store, brings_usage(2)).await).await, wanted);
        assert_eq!(direct.usage_list(agent(1), at(0), at(99)).await.unwrap().len(), 1);

        let token = EnrolTokenRow {
            name: "t".into(),
            sha256: [5; 32],
            uses_left: 5,
            labels: vec![],
            created: at(0),
            expires: None,
        };
        store.enrol_token_put(token, &cause()).await.unwrap();
        let enrolment = Enrolment { token: Some([5; 32]), ..enrolment(2, AgentState::Enrolled, &[]) };
        let enrolled = cut_and_again(&proxy, side, async || store.agent_enrol(enrolment.clone(), at(0)).await).await;
        assert!(matches!(enrolled, Enrolled::Yes(_)), "{enrolled:?}");
        assert_eq!(direct.enrol_token_list().await.unwrap()[0].uses_left, 4, "one use is spent");

        let create = async || store.broadcast_create(broadcast(1, 9), at(0), &cause()).await;
        cut_and_again(&proxy, side, create).await;
        store.allocation_take(bid(1), aid(1), 1.0, at(600)).await.unwrap();
        let message = to_agent(3, agent(1), "s");
        let hand_out = async || store.broadcast_send(bid(1), Some(aid(1)), message.clone(), NO_CONTACT, at(1)).await;
        let sent = cut_and_again(&proxy, side, hand_out).await;
        assert_eq!(sent, if side == Side::Before { BroadcastSent::Yes } else { BroadcastSent::Before });
        assert_eq!(direct.broadcast_get(bid(1)).await.unwrap().unwrap().sent, 1);

        let result = vec![(id(1), MessageResult::done(at(5)))];
        cut_and_again(&proxy, side, async || store.message_result_put(result.clone()).await).await;
        cut_and_again(&proxy, side, async || store.setting_init("s", vec![1]).await).await;
        assert_eq!(
            direct.journal_page(None, 99).await.unwrap().iter().filter(|line| line.action.contains("create")).count(),
            2
        );

        // A reader loses nothing by it and is told nothing.
        proxy.cut(At::Commit, side);
        assert!(store.agent_get(agent(1)).await.unwrap().is_some());
        assert!(!proxy.disarm(), "the reader's COMMIT was cut");
        drop((store, direct));
        place.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_at_any_message_leaves_all_or_nothing() {
    let place = Place::new(Backend::Postgres).await;
    SqlStore::migrate(&place.url).await.unwrap();
    let proxy = Proxy::before(&place).await;
    let (store, direct) = (open(proxy.url()).await, open(&place.url).await);
    store.agent_enrol(enrolment(1, AgentState::Enrolled, &[]), at(0)).await.unwrap();
    let mut cuts = 0;
    for n in 0..200_u8 {
        proxy.cut(At::Message(n.into()), Side::Before);
        match taken(&store, brings_usage(n)).await {
            Ok(taken) => assert_eq!(taken, Taken::New, "a call that was begun anew left nothing before"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
                assert_eq!(taken(&store, brings_usage(n)).await.unwrap(), Taken::New);
            }
        }
        let usages = direct.usage_list(agent(1), at(0), at(1000)).await.unwrap().len();
        assert_eq!(usages, usize::from(n) + 1, "cut at message {n}");
        if proxy.disarm() {
            assert!(cuts >= 10, "a contact of {cuts} messages only");
            drop((store, direct));
            return place.remove().await;
        }
        cuts += 1;
    }
    panic!("a contact takes more than {cuts} messages");
}
