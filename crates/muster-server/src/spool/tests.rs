use super::*;
use crate::codec::WireCodec;
use crate::world::SystemRandom;
use async_trait::async_trait;
use muster_core::action::Action;
use muster_core::{Address, AgentId, AgentState, Clock, Message, MessageId};
use muster_engine::access::Caller;
use muster_engine::{EngineConfig, NewInvestigator, Outside, WakeUp, Waker};
use muster_store::actions::{ActionFilter, CommandFilter, Next, ResultPut, WorkLimits};
use muster_store::agents::{ContactPut, Effect, Enrolment, Intake};
use muster_store::investigators::{ModuleTold, TrustTold};
use muster_store::{SqlStore, Store, StoreOptions};
use muster_trust::{SecretKey, signed_text};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use tempfile::TempDir;

const KEY: &str = include_str!("../../../muster-engine/src/tests/fixtures/first.key");
const CERTIFICATE: &str = include_str!("../../../muster-engine/src/tests/fixtures/first.asc");

#[derive(Debug)]
struct HandClock(AtomicI64);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

#[derive(Debug)]
struct Nobody;

#[async_trait]
impl Waker for Nobody {
    async fn wake(&self, _: &str, _: &WakeUp) {}
}

/// A store, an engine that does nothing by itself, and a spool.
struct World {
    clock: Arc<HandClock>,
    store: Arc<dyn Store>,
    engine: Engine,
    directory: TempDir,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("muster.db").display());
        SqlStore::migrate(&url).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(SqlStore::open(&url, &StoreOptions::default()).await.unwrap());
        let clock = Arc::new(HandClock(AtomicI64::new(Timestamp::from_secs(1_800_000_000).as_nanos())));
        let outside = Outside {
            clock: Arc::clone(&clock) as _,
            random: Arc::new(SystemRandom),
            codec: Arc::new(WireCodec),
            waker: Arc::new(Nobody),
        };
        let engine = Engine::new(Arc::clone(&store), outside, EngineConfig::default(), Vec::new());
        let person = NewInvestigator { name: "Ann".into(), public_key: Some(CERTIFICATE.into()), permissions: 0 };
        engine.investigator_add(person, &Caller::server()).await.unwrap();
        Self { clock, store, engine, directory }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("spool")
    }

    fn spool(&self) -> Spool {
        self.spool_at(self.root())
    }

    fn spool_at(&self, directory: PathBuf) -> Spool {
        let options = Options { directory, keep: limits::SPOOL_KEEP, commands: true };
        Spool::open(options, self.engine.clone()).unwrap()
    }

    fn advance(&self, by: Duration) {
        self.clock.0.fetch_add(i64::try_from(by.as_nanos()).unwrap(), Ordering::SeqCst);
    }

    async fn agent(&self, key: u8) -> AgentId {
        let id = AgentId::of_key(&[key]);
        let enrolment = Enrolment {
            id,
            key: vec![key],
            labels: vec![],
            state: AgentState::Enrolled,
            token: None,
            facts: muster_core::Facts::new(),
            note: String::new(),
        };
        self.store.agent_enrol(enrolment, self.engine.now()).await.unwrap();
        id
    }

    /// An action that is valid `from` now for ten minutes.
    fn action(&self, name: &str, from: Duration) -> Action {
        let from = self.engine.now().plus(from);
        let json = json!({ "name": name, "target": "name LIKE '%'", "syntaxversion": 2,
            "validfrom": from.to_string(), "expireafter": from.plus(Duration::from_mins(10)).to_string(),
            "operations": [{ "module": "file", "parameters": { "searches": {}, "big": 12_345_678_901_234_567_u64 } }] });
        Action::parse(json.to_string().as_bytes()).unwrap()
    }

    fn signed(&self, mut action: Action) -> Vec<u8> {
        let now = self.engine.now();
        let mut key = SecretKey::open(KEY.as_bytes(), None, now).unwrap();
        action.pgp_signatures = vec![key.sign(signed_text(&action).unwrap().as_bytes(), now).unwrap()];
        serde_json::to_vec(&action).unwrap()
    }

    fn order(&self, name: &str) -> Vec<u8> {
        self.signed(self.action(name, Duration::ZERO))
    }

    fn drop(&self, name: &str, content: &[u8]) {
        std::fs::write(self.root().join("action/new").join(name), content).unwrap();
    }

    /// Names in a directory of the spool.
    fn names(&self, place: &str) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.root().join(place)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.read(path)).unwrap()
    }

    /// The numbers of all actions, oldest first.
    async fn actions(&self) -> Vec<String> {
        let rows = self.store.action_page(ActionFilter::default(), None, 100).await.unwrap();
        rows.iter().rev().map(|row| row.action.id.unwrap().to_string()).collect()
    }

    /// Does the work on actions that is due.
    async fn work(&self) {
        let limits = WorkLimits::default();
        while let Some(job) =
            self.store.action_claim_due(self.engine.server(), limits.lease, self.engine.now()).await.unwrap()
        {
            while self.store.action_work(job, limits, self.engine.now()).await.unwrap().next == Next::Now {}
        }
    }

    /// Keeps what a machine says that it believes.
    async fn tell(&self, agent: AgentId, told: TrustTold) {
        let ends = (Address::agent(agent, "muster"), Address::server("actions"));
        let message = Message::new(MessageId::from_bytes([5; 32]), ends.0, ends.1, self.engine.now());
        let intake = vec![Intake { message, effect: Effect::Trust(Box::new(told)) }];
        let contact = ContactPut {
            agent,
            key: vec![1],
            at: self.engine.now(),
            address: "127.0.0.1:1".into(),
            streaming_to: String::new(),
            sent_nonce: 1,
            received_nonce: 0,
            clock: None,
            intake,
            rejected: Vec::new(),
            claim: None,
        };
        self.store.contact_put(contact).await.unwrap();
    }

    async fn answer(&self, action: &str, agent: AgentId) {
        let put = ResultPut {
            action: action.parse().unwrap(),
            agent,
            status: muster_core::action::CommandStatus::Success,
            found: true,
            results: r#"[{"foundanything":true}]"#.into(),
            signature: Vec::new(),
        };
        self.store.command_result_put(vec![put], self.engine.now()).await.unwrap();
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_dropped_action_is_launched_once_and_followed_to_its_end() {
    let world = World::new().await;
    let agent = world.agent(1).await;
    let mut spool = world.spool();
    let order = world.order("look");
    world.drop("anything at all", &order);
    world.drop("the same.json", &order);
    spool.look().await.unwrap();
    let [id] = &world.actions().await[..] else { panic!() };
    let file = format!("{id}.json");
    assert_eq!(world.names("action/new"), set(&[&file]));
    let shown = world.json(&format!("action/new/{file}"));
    assert_eq!((shown["status"].as_str(), shown["id"].to_string()), (Some("pending"), id.clone()));
    let mode = std::fs::metadata(world.root().join("action/new").join(&file)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    world.work().await;
    world.advance(Duration::from_secs(5));
    spool.look().await.unwrap();
    assert_eq!((world.names("action/new"), world.names("action/inflight")), (set(&[]), set(&[&file])));
    assert_eq!(world.json(&format!("action/inflight/{file}"))["counters"], json!({ "sent": 1, "inflight": 1 }));
    assert_eq!(world.names("command/ready").len(), 1);
    world.answer(id, agent).await;
    world.advance(Duration::from_secs(5));
    spool.look().await.unwrap();
    assert_eq!((world.names("action/inflight"), world.names("action/done")), (set(&[]), set(&[&file])));
    let done = world.json(&format!("action/done/{file}"));
    assert_eq!((&done["status"], &done["counters"]["success"]), (&json!("completed"), &json!(1)));
    assert!(
        world.read(&format!("action/done/{file}")).contains("12345678901234567"),
        "numbers stay as they were signed"
    );
    let commands: Vec<String> = world.names("command/done").into_iter().collect();
    let [command] = &commands[..] else { panic!("{commands:?}") };
    assert!(command.starts_with(&format!("{id}-")) && world.names("command/ready").is_empty());
    assert_eq!(world.json(&format!("command/done/{command}"))["results"], json!([{ "foundanything": true }]));
    // What was shown can be dropped again, and is nothing new.
    let again = world.read(&format!("action/done/{file}"));
    world.drop("again.json", again.as_bytes());
    spool.look().await.unwrap();
    assert_eq!((world.names("action/new"), world.actions().await.len()), (set(&[]), 1));
    let lines = world.store.journal_page(None, 10).await.unwrap();
    let line = lines.iter().find(|line| line.action == "action.create").unwrap();
    assert_eq!(line.cause.actor, "spool");
    assert!(line.cause.reason.contains("anything at all") || line.cause.reason.contains("the same.json"));
    // Once its time is over it goes.
    world.advance(limits::SPOOL_KEEP + limits::SPOOL_SWEEP);
    spool.look().await.unwrap();
    assert_eq!((world.names("action/done"), world.names("command/done")), (set(&[]), set(&[])));
}

#[tokio::test]
async fn d09_what_is_no_action_is_put_aside_once_with_its_reason() {
    let world = World::new().await;
    let mut spool = world.spool();
    let new = world.root().join("action/new");
    world.drop("garbage", b"{\"name\":");
    world.drop("empty.json", b"");
    world.drop("large", &vec![b' '; limits::ACTION_BYTES_MAX + 1]);
    world.drop("name\nwith a break", b"[]");
    world.drop("x.reason", b"1");
    std::fs::create_dir(new.join("directory")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", new.join("link.json")).unwrap();
    std::os::unix::fs::symlink(new.join("garbage"), new.join("12.json")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, new.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    world.drop(".hidden", b"whoever writes it is not done");
    spool.look().await.unwrap();
    let settling = set(&["garbage", "empty.json", "name\nwith a break", "x.reason", ".hidden"]);
    assert_eq!(world.names("action/new"), settling, "these may still be written");
    for (name, why) in [
        ("large", "at most 1048576"),
        ("directory", "no regular file"),
        ("link.json", "no regular file"),
        ("dropped-12.json", "no regular file"),
        ("pipe", "no regular file"),
    ] {
        assert!(world.read(&format!("action/invalid/{name}.reason")).contains(why), "{name}");
        assert!(world.root().join("action/invalid").join(name).symlink_metadata().is_ok(), "{name}");
    }
    world.advance(limits::SPOOL_SETTLE);
    spool.look().await.unwrap();
    assert_eq!(world.names("action/new"), set(&[".hidden"]));
    for (name, why) in
        [("garbage", "JSON"), ("empty.json", "empty"), ("name\nwith a break", ""), ("dropped-x.reason.file", "")]
    {
        assert!(world.read(&format!("action/invalid/{name}.reason")).contains(why), "{name}");
    }
    let before = world.names("action/invalid");
    spool.look().await.unwrap();
    assert_eq!(world.names("action/invalid"), before, "nothing is put aside twice");
    assert!(std::fs::read_to_string("/etc/passwd").is_ok_and(|text| !text.is_empty()));
    // Another of the same name does not take the first one's place.
    world.drop("large", &vec![b' '; limits::ACTION_BYTES_MAX + 2]);
    spool.look().await.unwrap();
    assert_eq!(world.names("action/invalid").len(), before.len() + 2);
    world.advance(limits::SPOOL_KEEP + limits::SPOOL_SWEEP);
    spool.look().await.unwrap();
    assert_eq!(world.names("action/invalid"), set(&[]));
    assert_eq!(world.actions().await.len(), 0);
}

#[tokio::test]
async fn d10_unsigned_expired_and_foreign_actions_are_refused_and_one_of_tomorrow_waits() {
    let world = World::new().await;
    let mut spool = world.spool();
    let expired = world.order("expired");
    world.advance(Duration::from_mins(11));
    world.drop("expired.json", &expired);
    let action = |name| world.action(name, Duration::ZERO);
    world.drop("unsigned.json", &serde_json::to_vec(&action("unsigned")).unwrap());
    let signed = Action::parse(&world.order("signed")).unwrap();
    let foreign = Action { name: "another".into(), ..signed };
    world.drop("foreign.json", &serde_json::to_vec(&foreign).unwrap());
    let named = Action { target: "@web".into(), ..action("named") };
    world.drop("named.json", &world.signed(named));
    world.drop("tomorrow.json", &world.signed(world.action("tomorrow", Duration::from_hours(24))));
    spool.look().await.unwrap();
    for (name, why) in [
        ("unsigned", "pgpsignatures is empty"),
        ("foreign", "signature 1"),
        ("named", "target"),
        ("expired", "expireafter is in the past"),
    ] {
        let reason = world.read(&format!("action/invalid/{name}.json.reason"));
        assert!(reason.contains(why), "{name}: {reason}");
    }
    let ids = world.actions().await;
    assert_eq!(ids.len(), 1);
    assert_eq!(world.names("action/new"), set(&[&format!("{}.json", ids[0])]));
    // Nobody matches when its time has come.
    world.advance(Duration::from_hours(24));
    world.work().await;
    spool.look().await.unwrap();
    let reason = world.read(&format!("action/invalid/{}.json.reason", ids[0]));
    assert!(reason.contains("no agent matches"), "{reason}");
}

#[tokio::test]
async fn a_crash_after_the_import_neither_loses_nor_doubles() {
    let world = World::new().await;
    world.agent(1).await;
    let (mut spool, order) = (world.spool(), world.order("look"));
    // The action came in, and the server died before the file went.
    world.engine.action_launch(&order, Spread::default(), &Caller::server()).await.unwrap();
    world.drop("kept.json", &order);
    spool.look().await.unwrap();
    let ids = world.actions().await;
    let file = format!("{}.json", ids[0]);
    assert_eq!((ids.len(), world.names("action/new")), (1, set(&[&file])));
    drop(spool);
    // While nobody looks, it runs, somebody drops a file under its name, and files of the mirror go astray.
    world.work().await;
    let other = world.order("other");
    world.drop(&file, &other);
    std::fs::write(world.root().join("action/done/77.json"), "{}").unwrap();
    std::fs::write(world.root().join("command/done/77-1.json"), "{}").unwrap();
    let mut spool = world.spool();
    spool.look().await.unwrap();
    let ids = world.actions().await;
    assert_eq!(ids.len(), 2, "what was dropped under the name of another was not lost");
    assert_eq!(world.names("action/inflight"), set(&[&file]));
    assert_eq!(world.names("action/new"), set(&[&format!("{}.json", ids[1])]));
    assert_eq!((world.names("action/done"), world.names("command/done")), (set(&[]), set(&[])));
    // What somebody deletes is shown again.
    std::fs::remove_file(world.root().join("action/inflight").join(&file)).unwrap();
    world.advance(limits::SPOOL_SWEEP);
    spool.look().await.unwrap();
    world.advance(limits::SPOOL_LOOK);
    spool.look().await.unwrap();
    assert_eq!(world.names("action/inflight"), set(&[&file]));
}

#[tokio::test]
async fn a_spool_belongs_to_one_server_and_its_files_to_its_directories() {
    let world = World::new().await;
    let mut spool = world.spool();
    let options = Options { directory: world.root(), keep: limits::SPOOL_KEEP, commands: false };
    let refused = Spool::open(options, world.engine.clone()).unwrap_err();
    assert!(refused.to_string().contains("another server"), "{refused}");
    // A directory that became a link is not followed, and what is wrong there ends nothing.
    let (done, elsewhere) = (world.root().join("action/done"), world.directory.path().join("elsewhere"));
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::remove_dir(&done).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &done).unwrap();
    world.drop("order", &world.order("look"));
    assert!(matches!(spool.look().await, Err(SpoolError::Files { .. })));
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    std::fs::remove_file(&done).unwrap();
    spool.look().await.unwrap();
    assert!(Path::new(&done).is_dir());
    assert_eq!(world.actions().await.len(), 1);
}

#[tokio::test]
async fn spools_of_several_servers_show_the_same() {
    let world = World::new().await;
    world.agent(1).await;
    let there = world.directory.path().join("there");
    let (mut here, mut other) = (world.spool(), world.spool_at(there.clone()));
    let order = world.order("look");
    world.drop("order", &order);
    std::fs::write(there.join("action/new/order"), &order).unwrap();
    let look = async |here: &mut Spool, other: &mut Spool| {
        here.look().await.unwrap();
        other.look().await.unwrap();
        // Twice is once, and what the other did is shown.
        here.look().await.unwrap();
    };
    look(&mut here, &mut other).await;
    let id = world.actions().await;
    assert_eq!(id.len(), 1, "whoever is first, it is one action");
    world.work().await;
    world.advance(Duration::from_secs(5));
    look(&mut here, &mut other).await;
    let path = format!("action/inflight/{}.json", id[0]);
    let both = [world.root(), there.clone()].map(|root| std::fs::read(root.join(&path)).unwrap());
    assert_eq!(both[0], both[1]);
    let names = |root: &Path, place: &str| std::fs::read_dir(root.join(place)).unwrap().count();
    for place in ["action/new", "action/invalid", "action/done", "command/ready"] {
        assert_eq!(names(&world.root(), place), names(&there, place), "{place}");
    }
}

#[tokio::test]
async fn a_further_signature_reaches_an_action_that_waits() {
    let world = World::new().await;
    let agent = world.agent(1).await;
    let second = NewInvestigator {
        name: "Bob".into(),
        public_key: Some(include_str!("../../../muster-engine/src/tests/fixtures/second.asc").into()),
        permissions: 0,
    };
    world.engine.investigator_add(second, &Caller::server()).await.unwrap();
    // A machine that demands two: nothing it says is believed but here.
    let keys = world.store.investigator_page(None, None, 9).await.unwrap();
    let keys: Vec<_> = keys.iter().map(|row| row.fingerprint.as_ref().unwrap().to_string()).collect();
    let acl = json!({ "default": { "minimumweight": 2, "investigators": {
        "one": { "fingerprint": keys[0], "weight": 1 }, "two": { "fingerprint": keys[1], "weight": 1 } } } });
    let told = TrustTold {
        keyring: keys,
        acl: acl.to_string(),
        modules: vec![ModuleTold { name: "file".into(), weight_min: 1, changes: false }],
        ..TrustTold::default()
    };
    world.tell(agent, told).await;
    let mut spool = world.spool();
    let order = world.order("look");
    world.drop("one", &order);
    spool.look().await.unwrap();
    let ids = world.actions().await;
    let file = format!("action/new/{}.json", ids[0]);
    assert_eq!(world.json(&file)["status"], "waiting");
    let mut action = Action::parse(&order).unwrap();
    let now = world.engine.now();
    let key = include_str!("../../../muster-engine/src/tests/fixtures/second.key");
    let mut key = SecretKey::open(key.as_bytes(), None, now).unwrap();
    action.pgp_signatures.push(key.sign(signed_text(&action).unwrap().as_bytes(), now).unwrap());
    world.drop("two", &serde_json::to_vec(&action).unwrap());
    spool.look().await.unwrap();
    assert_eq!((world.actions().await, &world.json(&file)["status"]), (ids.clone(), &json!("pending")));
    assert_eq!(world.names("action/new"), set(&[&format!("{}.json", ids[0])]));
}

#[tokio::test]
async fn of_many_commands_so_many_have_files() {
    let world = World::new().await;
    let agents = 3;
    for key in 0..agents {
        world.agent(key).await;
    }
    let mut spool = world.spool();
    world.drop("order", &world.order("look"));
    spool.look().await.unwrap();
    world.work().await;
    world.advance(Duration::from_secs(5));
    spool.look().await.unwrap();
    let id = &world.actions().await[0];
    let filter = CommandFilter { action: id.parse().ok(), ..CommandFilter::default() };
    let commands = world.store.command_page(filter, None, 10, false).await.unwrap().commands;
    let names = commands.iter().map(|command| format!("{id}-{}.json", command.id)).collect();
    assert_eq!(world.names("command/ready"), names);
    world.engine.action_cancel(id.parse().unwrap(), None, &Caller::server()).await.unwrap();
    world.work().await;
    world.advance(Duration::from_secs(5));
    spool.look().await.unwrap();
    assert_eq!((world.names("command/ready"), world.names("command/done")), (set(&[]), names));
    assert_eq!(world.json(&format!("action/done/{id}.json"))["status"], "cancelled");
}
