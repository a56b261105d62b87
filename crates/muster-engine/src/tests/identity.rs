use crate::access::{Freshness, Role};
use crate::testing::{
    World, ack, caller, cause, data, ids, machine, poll, run, say, showing, tell, types, with_labels,
};
use crate::{ContactFrom, Engine, EngineConfig, EnrolmentPolicy, RefusalCode};
use muster_core::{AgentState, Label, MessageId, Timestamp};
use muster_store::agents::EventFilter;
use muster_store::cluster::{EnrolTokenRow, TokenRow};
use muster_store::messages::MessageState;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::time::Duration;

fn enrolment(policy: EnrolmentPolicy) -> EngineConfig {
    EngineConfig { enrolment: policy, ..EngineConfig::default() }
}

#[tokio::test]
async fn a_closed_server_takes_only_machines_that_it_knows() {
    let world = World::new().await;
    poll(&world.plain(), &machine(1)).await;
    let engine = world.engine(enrolment(EnrolmentPolicy::Closed), &[]);
    poll(&engine, &machine(1)).await;
    let refusal = engine.contact_poll(machine(2), data(vec![])).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::EnrolmentRefused);
    assert_eq!(world.store.agent_get(machine(2).agent()).await.unwrap(), None);
    let row = world.store.event_page(EventFilter::default(), None, 10).await.unwrap().remove(0);
    assert_eq!((row.code.as_str(), row.address.as_str()), ("enrolment_refused", "192.0.2.2:4000"));
}

#[tokio::test]
async fn a_token_lets_so_many_machines_in_and_gives_them_its_labels() {
    let world = World::new().await;
    let engine = world.engine(enrolment(EnrolmentPolicy::Token), &[]);
    let token = EnrolTokenRow {
        name: "rack".into(),
        sha256: Sha256::digest(b"secret").into(),
        uses_left: 1,
        labels: vec!["rack1".into()],
        created: Timestamp::EPOCH,
        expires: None,
    };
    world.store.enrol_token_put(token, &cause()).await.unwrap();
    let refused = async |from: ContactFrom| engine.contact_poll(from, data(vec![])).await.unwrap_err().code;
    assert_eq!(refused(machine(1)).await, RefusalCode::EnrolmentRefused);
    assert_eq!(refused(with_labels(1, &["enrol-token:wrong"])).await, RefusalCode::EnrolmentRefused);
    let shows = |number| with_labels(number, &["enrol-token:secret", "linux"]);
    poll(&engine, &shows(1)).await;
    let agent = world.store.agent_get(machine(1).agent()).await.unwrap().unwrap();
    assert_eq!(agent.labels, [Label::client("linux"), Label::new("operator", "rack1")]);
    poll(&engine, &machine(1)).await;
    assert_eq!(refused(shows(2)).await, RefusalCode::EnrolmentRefused);
    // Both are said: that the token does not hold, and why the old key does not help.
    let labels = vec!["enrol-token:secret".to_owned()];
    let unasked = ContactFrom { labels, ..vouched(1, MessageId::from_bytes([9; 32])) };
    let refusal = engine.contact_poll(unasked, data(vec![])).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::EnrolmentRefused);
    assert!(refusal.reason.contains("used up") && refusal.reason.contains("no new key was asked"), "{refusal}");
}

#[tokio::test]
async fn a_label_lets_a_machine_in() {
    let world = World::new().await;
    let config = EngineConfig { enrolment_labels: ["prod".to_owned()].into(), ..enrolment(EnrolmentPolicy::Label) };
    let engine = world.engine(config, &[]);
    let refusal = engine.contact_poll(with_labels(1, &["test"]), data(vec![])).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::EnrolmentRefused);
    poll(&engine, &with_labels(1, &["test", "prod"])).await;
    let patterns = vec![muster_core::label::LabelPattern::parse("linux\\.[0-9a-f]+").unwrap()];
    let config = EngineConfig { enrolment_label_patterns: patterns, ..enrolment(EnrolmentPolicy::Label) };
    let engine = world.engine(config, &[]);
    let refusal = engine.contact_poll(with_labels(2, &["xlinux.0a"]), data(vec![])).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::EnrolmentRefused);
    poll(&engine, &with_labels(2, &["linux.0a"])).await;
}

#[tokio::test]
async fn a_machine_waits_until_it_is_approved() {
    let world = World::new().await;
    let engine = world.engine(enrolment(EnrolmentPolicy::Approval), &[]);
    let agent = machine(1).agent();
    poll(&engine, &machine(1)).await;
    let id = engine.message_insert(world.message_to(1, agent, "s")).await.unwrap();
    assert_eq!(tell(&engine, &machine(1), vec![say(1, "muster", "Note", b"")]).await.messages, []);
    let note = MessageId::derive(agent, "muster", &[1]);
    assert_eq!(world.store.message_get(&[note], false).await.unwrap(), []);
    assert!(matches!(engine.agent_unblock(agent, &caller()).await, Err(crate::OperatorError::Conflict(_))));
    engine.agent_approve(agent, &caller()).await.unwrap();
    engine.agent_approve(agent, &caller()).await.unwrap();
    let messages = poll(&engine, &machine(1)).await.messages;
    let mut asked: Vec<_> = messages.iter().filter(|message| message.id != id).collect();
    asked.sort_by_key(|message| message.message_type.clone());
    let asked = asked.iter().map(|message| (&*message.destination.service, &*message.message_type));
    let want = [("muster", "FactsRequest"), ("actions", "TrustRequest")];
    assert_eq!(asked.collect::<Vec<_>>(), want, "it is asked once for what it reported while it waited");
}

#[tokio::test]
async fn one_network_brings_only_so_many_machines_and_known_ones_are_not_touched() {
    let world = World::new().await;
    let engine = world.engine(EngineConfig { enrolments_per_minute: 3, ..EngineConfig::default() }, &[]);
    for number in 1..=3 {
        poll(&engine, &machine(number)).await;
    }
    let refusal = engine.contact_poll(machine(4), data(vec![])).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::EnrolmentRate);
    assert!(refusal.retry_after.is_some());
    assert_eq!(world.store.agent_get(machine(4).agent()).await.unwrap(), None);
    poll(&engine, &machine(1)).await;
    poll(&engine, &ContactFrom { address: "198.51.100.1:1".into(), ..machine(5) }).await;
}

#[tokio::test]
async fn refusals_of_one_network_leave_a_bounded_number_of_rows() {
    let world = World::new().await;
    let engine = world.engine(enrolment(EnrolmentPolicy::Closed), &[]);
    for number in 0..100 {
        engine.contact_poll(machine(number), data(vec![])).await.unwrap_err();
    }
    let rows = world.store.event_page(EventFilter::default(), None, 1000).await.unwrap().len();
    assert!((30..100).contains(&rows), "{rows} rows");
}

#[tokio::test]
async fn a_blacklisted_machine_is_given_one_demand_for_a_new_key_and_nothing_else() {
    let world = World::new().await;
    let engine = world.plain();
    let agent = machine(1).agent();
    poll(&engine, &machine(1)).await;
    let held = engine.message_insert(world.message_to(1, agent, "s")).await.unwrap();
    engine.agent_blacklist(agent, &caller()).await.unwrap();
    let first = poll(&engine, &machine(1)).await.messages;
    assert_eq!(types(&first), ["RekeyRequest"]);
    let again = tell(&engine, &machine(1), vec![say(1, "muster", "Note", b"")]).await.messages;
    assert_eq!(ids(&again), ids(&first), "they do not pile up");
    let note = world.row(MessageId::derive(agent, "muster", &[1])).await;
    assert!(note.message.from_blocked);
    tell(&engine, &machine(1), vec![ack(2, &ids(&first))]).await;
    assert_eq!(world.row(first[0].id).await.state, MessageState::Done);
    assert_eq!(world.row(held).await.state, MessageState::Pending);
}

#[tokio::test]
async fn a_machine_that_is_let_in_again_goes_on_under_its_key() {
    let world = World::new().await;
    let engine = world.plain();
    let agent = machine(1).agent();
    poll(&engine, &machine(1)).await;
    engine.agent_blacklist(agent, &caller()).await.unwrap();
    let demand = poll(&engine, &machine(1)).await.messages;
    engine.agent_unblock(agent, &caller()).await.unwrap();
    world.clock.advance(Duration::from_hours(1));
    assert_eq!(poll(&engine, &machine(1)).await.messages, [], "the demand does not follow it");
    assert_eq!(world.row(demand[0].id).await.state, MessageState::Failed);
}

#[tokio::test]
async fn a_blocked_machine_is_refused_and_asked_for_nothing() {
    let world = World::new().await;
    let engine = world.plain();
    let agent = machine(1).agent();
    poll(&engine, &machine(1)).await;
    engine.agent_block(agent, &caller()).await.unwrap();
    let refusal = engine.contact_poll(machine(1), data(vec![say(1, "muster", "Note", b"")])).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Blocked);
    assert!(refusal.reason.contains("blocked"), "{refusal}");
    let refusal = engine.stream_open(machine(1), data(vec![])).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Blocked);
    assert_eq!(world.store.message_get(&[MessageId::derive(agent, "muster", &[1])], false).await.unwrap(), []);
    let pending = world.store.message_pending_count(&[agent]).await.unwrap();
    assert_eq!(pending, 0, "no new key is demanded");
    let row = world.store.event_page(EventFilter::default(), None, 1).await.unwrap().remove(0);
    assert_eq!((row.code.as_str(), row.agent), ("blocked", Some(agent)));
    engine.agent_unblock(agent, &caller()).await.unwrap();
    poll(&engine, &machine(1)).await;
}

#[tokio::test]
async fn a_new_key_of_a_blocked_machine_waits_under_every_policy_and_is_news() {
    for policy in [EnrolmentPolicy::Open, EnrolmentPolicy::Token, EnrolmentPolicy::Label, EnrolmentPolicy::Approval] {
        let world = World::new().await;
        let shows = |number| showing(number, &json!({ "facts": { "hostname": "laptop", "machine_id": "m1" } }));
        poll(&world.plain(), &shows(1)).await;
        world.plain().agent_block(machine(1).agent(), &caller()).await.unwrap();
        let token = EnrolTokenRow {
            name: "t".into(),
            sha256: Sha256::digest(b"secret").into(),
            uses_left: 9,
            labels: vec![],
            created: Timestamp::EPOCH,
            expires: None,
        };
        world.store.enrol_token_put(token, &cause()).await.unwrap();
        let config = EngineConfig { enrolment_labels: ["prod".to_owned()].into(), ..enrolment(policy) };
        let engine = world.engine(config, &[]);
        let labels = vec!["prod".to_owned(), "enrol-token:secret".to_owned()];
        poll(&engine, &ContactFrom { labels, ..shows(2) }).await;
        let agent = world.store.agent_get(machine(2).agent()).await.unwrap().unwrap();
        assert_eq!(agent.state, AgentState::Waiting, "{policy:?}");
        assert!(agent.state_note.contains(&machine(1).agent().to_string()), "{}", agent.state_note);
        let filter = EventFilter { agent: Some(agent.id), code: None };
        let codes: Vec<_> =
            world.store.event_page(filter, None, 9).await.unwrap().into_iter().map(|row| row.code).collect();
        assert_eq!(codes, ["looks_blocked"]);
    }
}

fn vouched(old: u8, demand: MessageId) -> ContactFrom {
    showing(old + 1, &json!({ "old": old, "demand": demand.to_string() }))
}

#[tokio::test]
async fn a_machine_that_was_asked_for_a_new_key_is_let_in_whatever_the_policy_says() {
    for policy in [EnrolmentPolicy::Closed, EnrolmentPolicy::Token, EnrolmentPolicy::Label, EnrolmentPolicy::Approval] {
        let world = World::new().await;
        poll(&world.plain(), &machine(1)).await;
        let old = machine(1).agent();
        let engine = world.engine(enrolment(policy), &[]);
        let lost = engine.agent_rekey(old, false, &caller()).await.unwrap_err();
        assert!(matches!(&lost, crate::OperatorError::Conflict(why) if why.contains("force")), "{lost}");
        let facts = say(1, "muster", "Facts", br#"{"agent_vouches":true}"#);
        tell(&engine, &machine(1), vec![facts]).await;
        let demand = engine.agent_rekey(old, false, &caller()).await.unwrap();
        poll(&engine, &vouched(1, demand)).await;
        let agent = world.store.agent_get(machine(2).agent()).await.unwrap().unwrap();
        assert_eq!((agent.state, agent.predecessor), (AgentState::Enrolled, Some(old)), "{policy:?}");
        // A copy of the old key is asked for a new one, which is let in as the policy says and not by the same demand.
        assert_eq!(types(&poll(&engine, &machine(1)).await.messages), ["RekeyRequest"]);
        let events = world.store.event_page(EventFilter { agent: Some(old), code: None }, None, 9).await.unwrap();
        assert!(events.iter().any(|row| row.code == "succession" && row.reason.contains(&agent.id.to_string())));
    }
}

#[tokio::test]
async fn an_old_keys_word_counts_once_and_only_when_it_was_asked_for() {
    let world = World::new().await;
    poll(&world.plain(), &machine(1)).await;
    poll(&world.plain(), &machine(5)).await;
    let engine = world.engine(enrolment(EnrolmentPolicy::Closed), &[]);
    let refused = async |from: ContactFrom| engine.contact_poll(from, data(vec![])).await.unwrap_err();
    let made_up = MessageId::from_bytes([9; 32]);
    assert!(refused(vouched(1, made_up)).await.reason.contains("no new key was asked"));
    let demand = engine.agent_rekey(machine(1).agent(), true, &caller()).await.unwrap();
    assert!(refused(vouched(5, demand)).await.reason.contains("no new key was asked"), "the demand of another");
    let forged = showing(7, &json!({ "old": 1, "demand": demand.to_string() }));
    assert!(refused(forged).await.reason.contains("signature"));
    engine.agent_block(machine(1).agent(), &caller()).await.unwrap();
    assert_eq!(refused(vouched(1, demand)).await.code, RefusalCode::EnrolmentRefused);
    assert_eq!(world.store.agent_get(machine(2).agent()).await.unwrap(), None);
    // Where new machines are let in, the old key of a blocked one is what gives it away, even if it shows no facts.
    poll(&world.plain(), &vouched(1, demand)).await;
    let agent = world.store.agent_get(machine(2).agent()).await.unwrap().unwrap();
    assert_eq!(agent.state, AgentState::Waiting);
    assert!(agent.state_note.contains("old key"), "{}", agent.state_note);
}

#[tokio::test]
async fn a_machine_that_says_that_it_stops_is_noted_until_it_is_back() {
    let world = World::new().await;
    let engine = world.plain();
    let left = async || world.store.agent_get(machine(1).agent()).await.unwrap().unwrap().left.is_some();
    let leaving = ContactFrom { leaving: true, ..machine(1) };
    poll(&engine, &leaving).await;
    assert!(left().await);
    let mut stream = engine.stream_open(machine(1), data(vec![])).await.unwrap();
    assert!(!left().await);
    stream.incoming.record(&leaving, data(vec![])).await.unwrap();
    assert!(left().await);
}

#[tokio::test]
async fn a_deleted_machine_is_refused_and_its_id_stays_taken() {
    let world = World::new().await;
    let engine = world.plain();
    let agent = machine(1).agent();
    poll(&engine, &machine(1)).await;
    engine.agent_delete(agent, &caller()).await.unwrap();
    for engine in [engine, world.plain()] {
        let refusal = engine.contact_poll(machine(1), data(vec![])).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Deleted);
    }
    assert_eq!(world.store.agent_get(agent).await.unwrap().unwrap().state, AgentState::Deleted);
}

#[tokio::test]
async fn what_is_not_known_cannot_be_blocked() {
    let world = World::new().await;
    let engine = world.plain();
    let agent = machine(1).agent();
    for result in [
        engine.agent_block(agent, &caller()).await,
        engine.agent_blacklist(agent, &caller()).await,
        engine.agent_clone_clear(agent, &caller()).await,
        engine.agent_unblock(agent, &caller()).await,
        engine.agent_approve(agent, &caller()).await,
        engine.agent_delete(agent, &caller()).await,
        engine.agent_rekey(agent, false, &caller()).await.map(drop),
    ] {
        assert!(matches!(result, Err(crate::OperatorError::NotFound(_))), "{result:?}");
    }
}

#[tokio::test]
async fn a_rekey_is_ordered_and_written_in_the_journal() {
    let world = World::new().await;
    let engine = world.plain();
    poll(&engine, &machine(1)).await;
    let id = engine.agent_rekey(machine(1).agent(), false, &caller()).await.unwrap();
    let messages = poll(&engine, &machine(1)).await.messages;
    assert_eq!((ids(&messages), types(&messages)), (vec![id], vec!["RekeyRequest"]));
    let line = world.store.journal_page(None, 1).await.unwrap().remove(0);
    assert_eq!((line.action.as_str(), line.cause.actor.as_str()), ("agent.rekey", "test"));
}

/// Contacts of machine 1 with the nonces that it refers to. Returns what is kept of them: events, and whether a clone
/// is suspected.
struct Chains {
    world: World,
    engine: Engine,
}

impl Chains {
    async fn new() -> Self {
        let world = World::new().await;
        let engine = world.plain();
        Self { world, engine }
    }

    async fn contact(&self, nonce: u64) -> u64 {
        let data = muster_core::contact::ContactData { nonce, ..Default::default() };
        self.engine.contact_poll(machine(1), data).await.unwrap().nonce
    }

    /// After the longest pause that there is.
    async fn contact_in_time(&self, nonce: u64) -> u64 {
        tokio::time::advance(muster_core::limits::CLONE_PAUSE_MAX).await;
        self.contact(nonce).await
    }

    async fn found(&self) -> (Vec<String>, bool) {
        let filter = EventFilter { agent: Some(machine(1).agent()), code: None };
        let rows = self.world.store.event_page(filter, None, 99).await.unwrap();
        let agent = self.world.store.agent_get(machine(1).agent()).await.unwrap().unwrap();
        (rows.into_iter().map(|row| row.code).collect(), agent.clone_suspected.is_some())
    }
}

#[tokio::test(start_paused = true)]
async fn two_machines_with_one_key_are_reported_within_a_few_contacts_and_once() {
    for parted_after in [1, 0] {
        let chains = Chains::new().await;
        let image = if parted_after == 0 { 0 } else { chains.contact(0).await };
        let (one, other) = (chains.contact(image).await, chains.contact(image).await);
        let one = chains.contact(one).await;
        let mut other = chains.contact(other).await;
        assert_eq!(chains.found().await, (vec!["clone".to_owned()], true));
        let early = muster_core::contact::ContactData { nonce: one, ..Default::default() };
        let refusal = chains.engine.contact_poll(machine(1), early).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::CloneWait);
        assert!(refusal.retry_after.is_some());
        let mut one = chains.contact_in_time(one).await;
        for _ in 0..20 {
            other = chains.contact_in_time(other).await;
            one = chains.contact_in_time(one).await;
        }
        assert_eq!(chains.found().await, (vec!["clone".to_owned()], true));
    }
}

#[tokio::test]
async fn answers_that_were_lost_with_a_server_are_no_clones() {
    let chains = Chains::new().await;
    let mut nonce = chains.contact(0).await;
    for lost in [1, 3, 100] {
        for _ in 0..lost {
            chains.contact(nonce).await;
        }
        nonce = chains.contact(nonce).await;
        // The answer arrived, and then another was lost in the same crash.
        chains.contact(nonce).await;
        nonce = chains.contact(nonce).await;
    }
    assert_eq!(chains.found().await, (vec![], false));
    let agent = chains.world.store.agent_get(machine(1).agent()).await.unwrap().unwrap();
    assert_eq!((agent.nonce_splits, agent.nonce_skips), (107, 0), "it is counted all the same");
}

#[tokio::test]
async fn what_an_honest_machine_does_not_do_is_kept_once_a_contact() {
    let world = World::new().await;
    let engine = world.plain();
    poll(&engine, &machine(2)).await;
    let others = engine.message_insert(world.message_to(1, machine(2).agent(), "s")).await.unwrap();
    let lie = |n| muster_core::contact::IncomingMessage { claimed_agent: vec![9; 8], ..say(n, "muster", "Note", b"") };
    tell(&engine, &machine(1), vec![lie(1), lie(2), ack(3, &[others])]).await;
    let rows = world.store.event_page(EventFilter::default(), None, 9).await.unwrap();
    let mut codes: Vec<_> = rows.iter().map(|row| row.code.as_str()).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["foreign_acknowledgement", "foreign_source"]);
    assert!(rows.iter().all(|row| row.agent == Some(machine(1).agent()) && row.address == machine(1).address));
}

#[tokio::test]
async fn an_access_token_is_known_until_it_lapses() {
    let world = World::new().await;
    let engine = world.plain();
    assert_eq!(engine.token_check("secret", Freshness::Remembered).await.unwrap(), None);
    let row = TokenRow {
        name: "ci".into(),
        sha256: Sha256::digest(b"secret").into(),
        role: "reader".into(),
        created: Timestamp::EPOCH,
        expires: Some(muster_core::Clock::now(&*world.clock).plus(Duration::from_mins(1))),
    };
    world.store.token_put(row, &cause()).await.unwrap();
    let principal = engine.token_check("secret", Freshness::Remembered).await.unwrap().unwrap();
    let auditor = Role::Auditor.permissions();
    assert_eq!(
        (principal.name.as_str(), principal.grant.permissions()),
        ("ci", auditor),
        "the role of the version before"
    );
    assert_eq!(engine.token_check("secret2", Freshness::Remembered).await.unwrap(), None);
    world.clock.advance(Duration::from_mins(1));
    assert_eq!(engine.token_check("secret", Freshness::Remembered).await.unwrap(), None);
}

#[tokio::test]
async fn a_server_that_ends_is_no_longer_among_the_living() {
    let world = World::new().await;
    let engine = world.plain();
    let running = run(&engine);
    crate::testing::until("it lives", || async { engine.inner.broadcasts.servers().len() == 1 }).await;
    running.end().await;
    let other = world.plain();
    other.inner.server_beat().await.unwrap();
    let living = other.inner.broadcasts.servers();
    assert_eq!(living.iter().map(|server| server.id).collect::<Vec<_>>(), [other.server()]);
}
