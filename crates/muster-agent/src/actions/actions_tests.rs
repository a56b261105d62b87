//! The service by itself: what waits for what.

use super::ledger::Origin;
use super::report::interrupted;
use super::*;
use crate::config::Config;
use crate::hub::any;
use crate::hub::tests::{a_small_hub, sent, to_service};
use crate::outbox::Durability;
use crate::spool::SpoolError;
use crate::world::SystemClock;
use muster_core::{Facts, Priority};
use muster_modules::ModuleResult;
use muster_modules::foreign::Catalogue;
use muster_proto::wire as fleetspeak;
use muster_trust::document;
use sha2::{Digest as _, Sha256};
use std::path::Path;

pub(super) fn service(directory: &Path, messages_max: usize) -> Arc<Actions> {
    let (hub, _) = a_small_hub(directory, messages_max);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let config =
        Config { keyring_dir: "".into(), acl_file: "".into(), administrators_dir: "".into(), ..Config::default() };
    let identity = watch::Sender::new(Arc::new(Identity::temporary().unwrap()));
    let asked = Asked {
        identity: identity.subscribe(),
        old: None,
        state_dir: directory.to_owned(),
        labels: Vec::new(),
        fleet: "lab".into(),
    };
    let ledger = OrderLedger::open(&directory.join("orders"), false, clock.now()).unwrap();
    let runner = Runner::new(Catalogue::default(), Duration::from_mins(1));
    let world = (Arc::clone(&clock), Observer::new(clock), Arc::new(Vouched::default()), Arc::default());
    Actions::new(hub, world, runner, asked, (Believed::load(&config, Path::new("")), Some(ledger)))
}

fn message(number: u8, message_type: &str, body: &impl prost::Message) -> fleetspeak::Message {
    let data = Some(any("x", body));
    fleetspeak::Message { message_type: message_type.into(), data, ..to_service(number, system::ACTIONS) }
}

#[tokio::test]
async fn a_result_waits_for_room_in_the_spool_before_its_order_counts_as_reported() {
    let directory = tempfile::tempdir().unwrap();
    let actions = service(directory.path(), 1);
    let hurried = |message_type: &str| Mail { priority: Priority::High, ..mail(message_type) };
    actions.hub.send(hurried("before"), Durability::Disk).await.unwrap();
    let result = wire::ActionResult { order_message_id: vec![7; 32].into(), ..wire::ActionResult::default() };
    let reported = actions.report(&result);
    tokio::pin!(reported);
    // The spool has a thread of its own; that it refused is seen by its being asked for another message in between.
    let refused = async { actions.hub.send(hurried("beside"), Durability::Disk).await };
    tokio::select! {
        biased;
        reported = &mut reported => panic!("{reported:?} without room"),
        refused = refused => assert!(matches!(refused, Err(SpoolError::Full { .. }))),
    }
    assert_eq!(sent(&actions.hub).await[0].message_type, "before");
    assert_eq!(reported.await, Ok(()));
    assert_eq!(sent(&actions.hub).await[0].message_type, system::ACTION_RESULT);
}

#[tokio::test]
async fn cancellations_do_not_wait_behind_orders_and_orders_wait_within_bounds() {
    let directory = tempfile::tempdir().unwrap();
    let actions = service(directory.path(), 1000);
    let config = investigated(directory.path());
    actions.reload(&config).await;
    let places = Arc::clone(&actions.judging).acquire_many_owned(u32::try_from(JUDGED_MAX).unwrap()).await.unwrap();
    let inbox = actions.hub.install(system::ACTIONS);
    for number in 0..20 {
        let order = wire::ActionOrder { action: vec![b'x'; 1024 * 1024].into(), action_id: 7, command_id: 0 };
        actions.hub.receive(message(number, system::ACTION, &order));
    }
    let now = actions.clock.now();
    // One whose signature counts, and the word of a server alone.
    actions.hub.receive(message(
        98,
        system::ACTION_CANCEL,
        &wire::ActionCancel { signature: String::new(), ..cancel(now) },
    ));
    let cancel = cancel(now);
    actions.hub.receive(message(99, system::ACTION_CANCEL, &cancel));
    let running = tokio::spawn(Arc::clone(&actions).run(inbox));
    let is_called_back = || actions.ledger().as_ref().unwrap().content().objections(&[1; 32], now).count() == 1;
    let waiting = async {
        while !is_called_back() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it waits behind orders");
    // What is too much was let go: it may come again, and the hub hands it over again.
    let orders = || {
        let ledger = actions.ledger();
        ledger.as_ref().unwrap().content().refused().count()
    };
    assert_eq!(orders(), 0);
    drop(places);
    let waiting = async {
        while orders() < 15 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("nobody judges them");
    running.abort();
    assert_eq!(orders(), 15, "16 MiB of them, with what stands around each, and no more");
}

#[test]
fn an_order_that_was_cut_short_has_a_result_for_each_of_its_operations() {
    let at = Timestamp::from_secs(1_800_000_000);
    let order = Order {
        key: [7; 32],
        at,
        action_id: 5,
        command_id: 6,
        message: "00ff".into(),
        name: "x".into(),
        target: "true".into(),
        modules: vec!["file".into(), "pkg".into()],
        signers: vec!["AB".into()],
        valid_from: at,
        expire_after: at,
        floor: at,
        outcome: None,
    };
    let (told, digest) = interrupted(&order, at);
    assert_eq!(digest, <[u8; 32]>::from(Sha256::digest(&told.results)));
    assert_eq!((told.results_bytes, told.results_packing()), (told.results.len() as u64, wire::Packing::None));
    let results: Vec<ModuleResult> = serde_json::from_slice(&told.results).unwrap();
    for (result, module) in results.iter().zip(["file", "pkg"]) {
        let why = format!("module '{module}': the agent ended while this ran; what came of it is unknown");
        assert_eq!(*result, ModuleResult::failed(why));
    }
    assert_eq!((results.len(), told.status(), &told.order_message_id[..]), (2, ResultStatus::Failed, &[0, 0xff][..]));
}

/// A cancellation of the order whose text has the hash of ones, signed by the one investigator.
fn cancel(now: Timestamp) -> wire::ActionCancel {
    const SECRET: &str = include_str!("../../tests/it/keys/one.secret.asc");
    let until = Timestamp::from_secs(now.to_parts().0 + 3600);
    let said = muster_trust::Cancellation { fleet: "lab", order: &[1; 32], until };
    let mut key = muster_trust::SecretKey::open(SECRET.as_bytes(), None, now).unwrap();
    wire::ActionCancel {
        action_id: 7,
        signed_sha256: vec![1; 32].into(),
        fleet: "lab".into(),
        until: until.to_parts().0,
        signature: key.sign(said.signing_text().as_bytes(), now).unwrap(),
        reason: String::new(),
    }
}

/// A machine that knows one investigator, whose weight is 1.
fn investigated(directory: &std::path::Path) -> Config {
    let keys = directory.join("investigators");
    std::fs::create_dir(&keys).unwrap();
    std::fs::write(keys.join("one"), include_str!("../../tests/it/keys/one.asc")).unwrap();
    let key = muster_trust::Certificate::parse(include_bytes!("../../tests/it/keys/one.asc")).unwrap();
    let one = serde_json::json!({"one": {"fingerprint": key.fingerprint(), "weight": 1}});
    let weights = serde_json::json!({"default": {"minimumweight": 1, "investigators": one}});
    let acl_file = directory.join("acl.cfg");
    std::fs::write(&acl_file, weights.to_string()).unwrap();
    Config {
        keyring_dir: keys,
        acl_file,
        administrators_dir: "".into(),
        state_dir: directory.into(),
        ..Config::default()
    }
}

/// A document of weights, signed by the one administrator.
pub(super) fn weights(now: Timestamp) -> Vec<u8> {
    let weights = serde_json::json!({"default": {"minimumweight": 1, "investigators": {}}});
    administrated("investigators", 5, &serde_json::json!({"keys": [], "weights": weights}), now)
}

/// A document for the fleet "lab" that counts for an hour, signed by the one administrator.
pub(super) fn administrated(kind: &str, version: u64, content: &serde_json::Value, now: Timestamp) -> Vec<u8> {
    const SECRET: &str = include_str!("../../tests/it/keys/one.secret.asc");
    let hour = Duration::from_hours(1);
    let payload = serde_json::json!({
        "kind": kind, "version": version, "content": content, "fleet": "lab",
        "target": "true", "issued": now.to_string(), "expires": now.plus(hour).to_string(),
    })
    .to_string();
    let mut key = muster_trust::SecretKey::open(SECRET.as_bytes(), None, now).unwrap();
    let signature = key.sign(document::signing_text(&payload).as_bytes(), now).unwrap();
    document::envelope(&payload, &[signature]).into_bytes()
}

/// A machine of the fleet "lab" with one administrator.
pub(super) fn administered(directory: &std::path::Path) -> Config {
    let keys = directory.join("administrators");
    std::fs::create_dir(&keys).unwrap();
    std::fs::write(keys.join("one"), include_str!("../../tests/it/keys/one.asc")).unwrap();
    let config = Config { keyring_dir: "".into(), acl_file: "".into(), administrators_dir: keys, ..Config::default() };
    Config { state_dir: directory.into(), administrators_min: 1, fleet: "lab".into(), ..config }
}

/// Runs `reload` on a thread of its own.
pub(super) fn reloading(actions: &Arc<Actions>, config: &Config) -> std::thread::JoinHandle<()> {
    let (service, config) = (Arc::clone(actions), config.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(service.reload(&config));
    })
}

#[test]
fn reading_anew_does_not_forget_a_document_that_is_taken_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let config = administered(directory.path());
    let actions = service(directory.path(), 1000);
    reloading(&actions, &config).join().unwrap();
    let now = Timestamp::from_secs(actions.clock.now().to_parts().0);
    // The signal comes while a document is taken; in whatever order they go on, the document stays.
    for _ in 0..20 {
        let reading = reloading(&actions, &config);
        actions.take_here(&weights(now), &Facts::new()).unwrap();
        reading.join().unwrap();
        assert_eq!(actions.believed().acl_version(), 5);
    }
}

#[test]
fn nobody_waits_for_a_document_that_is_verified() {
    let directory = tempfile::tempdir().unwrap();
    let actions = service(directory.path(), 1000);
    // Somebody verifies: what is believed can be read and told meanwhile.
    let verifying = actions.changing();
    assert_eq!(actions.believed().acl_version(), 0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let telling = async { tokio::time::timeout(Duration::from_secs(20), actions.tell_trust()).await };
    runtime.block_on(telling).expect("the agent's thread waits for a document");
    drop(verifying);
}

#[tokio::test]
async fn what_is_past_stays_past_when_the_clock_is_set_back_and_the_agent_starts_again() {
    let directory = tempfile::tempdir().unwrap();
    let actions = service(directory.path(), 1000);
    let now = actions.clock.now();
    actions.keep_time();
    assert_eq!(actions.floor(), Timestamp::EPOCH, "no server was reached: the clock may be anything");
    actions.vouched.handshake(now.minus(Duration::from_hours(24)), now);
    actions.keep_time();
    let floor = actions.floor();
    assert!(floor >= now, "{floor}");
    drop(actions);
    let before = now.minus(Duration::from_hours(48));
    let ledger = OrderLedger::open(&directory.path().join("orders"), true, before).unwrap();
    assert_eq!(ledger.content().floor(), floor);
}

#[tokio::test]
async fn case_20_what_was_signed_after_the_first_contact_is_not_of_before_although_it_came_later() {
    let directory = tempfile::tempdir().unwrap();
    let actions = service(directory.path(), 1000);
    let in_2040 = Timestamp::from_secs(2_208_988_800);
    let path = directory.path().join("orders-of-2040");
    *actions.ledger() = Some(OrderLedger::open(&path, false, in_2040).unwrap());
    let now = actions.clock.now();
    let (reached, made) = (now.minus(Duration::from_secs(5)), now.minus(Duration::from_hours(24)));
    actions.vouched.handshake(made, reached);
    // The connection over which the first order comes is a later one.
    actions.vouched.handshake(made, now);
    actions.keep_time();
    let since = actions.ledger().as_ref().unwrap().content().since();
    assert_eq!(since, (Timestamp::from_secs(reached.to_parts().0), Origin::New));
}
