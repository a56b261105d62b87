//! An action's life: launched, handed out, answered, called back, expired.

use crate::testing::{World, caller, cause, machine, poll, run, say, tell, types, until};
use crate::{Engine, EngineConfig, NewInvestigator, OperatorError};
use muster_core::action::{Action, ActionId, ActionStatus, CommandStatus};
use muster_core::{Message, limits, system};
use muster_store::actions::{ActionRow, ActionTaken, CancelTaken, CommandFilter, Spread};
use muster_store::investigators::{ModuleTold, ModuleWeight, TrustTold};
use muster_trust::{Cancellation, Certificate, LedgerKey, SecretKey, signed_text};
use serde_json::json;
use std::time::Duration;

/// Two people, each with a key of Ed25519 that was made by `gpg` for these tests.
pub(super) const PEOPLE: [(&str, &str); 2] = [
    (include_str!("fixtures/first.key"), include_str!("fixtures/first.asc")),
    (include_str!("fixtures/second.key"), include_str!("fixtures/second.asc")),
];

/// Adds both people.
pub(super) async fn people(engine: &Engine) {
    for (number, (_, key)) in (1..).zip(PEOPLE) {
        let new = NewInvestigator {
            name: format!("person {number}"),
            public_key: Some(key.to_owned()),
            ..NewInvestigator::default()
        };
        engine.investigator_add(new, &caller()).await.unwrap();
    }
}

/// Signs an action as person `who`.
pub(super) fn signature(world: &World, action: &Action, who: usize) -> String {
    let now = muster_core::Clock::now(&*world.clock);
    let mut key = SecretKey::open(PEOPLE[who].0.as_bytes(), None, now).unwrap();
    key.sign(signed_text(action).unwrap().as_bytes(), now).unwrap()
}

/// The first person's signature over the cancellation of an action in a fleet.
fn cancellation(world: &World, action: &Action, fleet: &str) -> String {
    let now = muster_core::Clock::now(&*world.clock);
    let order = LedgerKey::of(&signed_text(action).unwrap());
    let text = Cancellation::of(&order, fleet, action.expire_after).signing_text();
    SecretKey::open(PEOPLE[0].0.as_bytes(), None, now).unwrap().sign(text.as_bytes(), now).unwrap()
}

/// An action that is valid from a minute ago for ten minutes, signed by these people, as JSON.
pub(super) fn order(world: &World, name: &str, signers: &[usize]) -> Vec<u8> {
    let now = muster_core::Clock::now(&*world.clock);
    let json = json!({ "name": name, "target": "name LIKE '%'", "syntaxversion": 2,
        "validfrom": now.minus(Duration::from_mins(1)).to_string(),
        "expireafter": now.plus(Duration::from_mins(10)).to_string(),
        "operations": [{ "module": "file", "parameters": { "searches": {} } }], "pgpsignatures": ["none"] });
    let mut action = Action::parse(json.to_string().as_bytes()).unwrap();
    action.pgp_signatures = signers.iter().map(|who| signature(world, &action, *who)).collect();
    serde_json::to_vec(&action).unwrap()
}

pub(super) async fn launch(engine: &Engine, json: &[u8]) -> ActionId {
    match engine.action_launch(json, Spread::default(), &caller()).await.unwrap() {
        ActionTaken::New(id) => id,
        ActionTaken::Again(id) => panic!("{id} was there"),
    }
}

pub(super) async fn row(engine: &Engine, id: ActionId) -> ActionRow {
    engine.store().action_get(id).await.unwrap().unwrap()
}

pub(super) async fn status(engine: &Engine, id: ActionId) -> ActionStatus {
    row(engine, id).await.status
}

/// What a machine says came of an action.
fn answer(number: u8, id: ActionId, status: CommandStatus) -> muster_core::contact::IncomingMessage {
    let body = json!([id, status, [{ "foundanything": true, "success": true }]]).to_string();
    say(number, system::ACTIONS, system::ACTION_RESULT, body.as_bytes())
}

/// What a machine says when it demands two signatures.
pub(super) fn demands_two(number: u8) -> muster_core::contact::IncomingMessage {
    demands_two_for(number, false)
}

/// The same of a machine whose module changes it, or does not.
fn demands_two_for(number: u8, changes: bool) -> muster_core::contact::IncomingMessage {
    let keys = PEOPLE.map(|(_, key)| Certificate::parse(key.as_bytes()).unwrap().fingerprint().to_string());
    let acl = json!({ "default": { "minimumweight": 2, "investigators": {
        "one": { "fingerprint": keys[0], "weight": 1 }, "two": { "fingerprint": keys[1], "weight": 1 } } } });
    let told = TrustTold {
        keyring: keys.to_vec(),
        acl: acl.to_string(),
        modules: vec![ModuleTold { name: "file".into(), weight_min: 1, changes }],
        ..TrustTold::default()
    };
    say(number, system::ACTIONS, system::AGENT_TRUST, &serde_json::to_vec(&told).unwrap())
}

pub(super) fn orders(messages: &[Message]) -> Vec<&Message> {
    messages.iter().filter(|message| message.message_type == system::ACTION).collect()
}

#[tokio::test]
async fn what_machines_say_changes_them_reaches_a_few_of_them_first() {
    for (changes, asked, rings) in [(true, vec![], vec![1, 10]), (true, vec![100], vec![]), (false, vec![], vec![])] {
        let world = World::new().await;
        let engine = world.plain();
        people(&engine).await;
        tell(&engine, &machine(1), vec![demands_two_for(1, changes)]).await;
        let spread = Spread { rings: asked, ..Spread::default() };
        let taken = engine.action_launch(&order(&world, "look", &[0, 1]), spread, &caller()).await.unwrap();
        assert_eq!(row(&engine, taken.id()).await.spread.rings, rings);
    }
}

#[tokio::test]
async fn an_action_is_handed_out_answered_and_completed_and_twice_is_once() {
    let world = World::new().await;
    let engine = world.plain();
    people(&engine).await;
    for number in 1..=2 {
        poll(&engine, &machine(number)).await;
    }
    let json = order(&world, "look", &[0]);
    let id = launch(&engine, &json).await;
    let again = engine.action_launch(&json, Spread::default(), &caller()).await.unwrap();
    assert_eq!(again, ActionTaken::Again(id));
    engine.inner.actions_work().await.unwrap();
    assert_eq!((status(&engine, id).await, row(&engine, id).await.counters.sent), (ActionStatus::Inflight, 2));
    for number in 1..=2 {
        let got = poll(&engine, &machine(number)).await.messages;
        assert_eq!(types(&got), [system::ACTION]);
        assert_eq!(got[0].payload.as_ref().unwrap().value, json, "the text that was given");
        assert_eq!(poll(&engine, &machine(number)).await.messages, []);
    }
    let result = answer(9, id, CommandStatus::Success);
    for _ in 0..2 {
        tell(&engine, &machine(1), vec![result.clone()]).await;
    }
    let counters = row(&engine, id).await.counters;
    assert_eq!((counters.success, counters.done, counters.inflight), (1, 1, 1));
    // The same words under another id, and others of a machine that was never asked.
    tell(&engine, &machine(1), vec![answer(10, id, CommandStatus::Success), answer(11, id, CommandStatus::Failed)])
        .await;
    tell(&engine, &machine(3), vec![answer(9, id, CommandStatus::Success)]).await;
    tell(&engine, &machine(2), vec![answer(9, id, CommandStatus::Failed)]).await;
    let done = row(&engine, id).await;
    assert_eq!((done.status, done.counters.success, done.counters.failed), (ActionStatus::Completed, 1, 1));
    assert_eq!((done.counters.sent, done.counters.done, done.late), (2, 2, 1));
    let filter = CommandFilter { action: Some(id), ..CommandFilter::default() };
    let commands = engine.store().command_page(filter, None, 10, true).await.unwrap().commands;
    assert_eq!(commands.iter().map(|command| command.found).collect::<Vec<_>>(), [Some(true), Some(true)]);
    assert!(commands[0].results.as_ref().unwrap().contains("foundanything"));
}

#[tokio::test]
async fn results_that_do_not_fit_into_memory_together_are_all_stored() {
    let world = World::new().await;
    let engine = world.plain();
    people(&engine).await;
    poll(&engine, &machine(1)).await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c", "d"] {
        ids.push(launch(&engine, &order(&world, name, &[0])).await);
        engine.inner.actions_work().await.unwrap();
    }
    let large = |number: u8, id| {
        let mut result = answer(number, id, CommandStatus::Success);
        let body = &mut result.payload.as_mut().unwrap().value;
        body.resize(usize::try_from(limits::RESULT_BYTES_MAX / 3 * 2).unwrap(), b' ');
        result
    };
    // Two in a poll and two in a record: none fits beside another.
    tell(&engine, &machine(1), vec![large(1, ids[0]), large(2, ids[1])]).await;
    let mut stream = super::streams::open(&engine, 1).await;
    let record = crate::testing::data(vec![large(3, ids[2]), large(4, ids[3]), large(3, ids[2])]);
    stream.incoming.record(&machine(1), record).await.unwrap();
    for id in ids {
        let counters = row(&engine, id).await.counters;
        assert_eq!((counters.sent, counters.success), (1, 1));
    }
    assert_eq!(engine.inner.unpacking.available_permits(), limits::UNPACKED_BYTES_MAX);
}

#[tokio::test]
async fn a_connected_machine_is_woken_and_its_answer_completes_the_action() {
    let world = World::new().await;
    let engine = world.engine(EngineConfig::default(), &[]);
    let running = run(&engine);
    people(&engine).await;
    let mut stream = super::streams::open(&engine, 1).await;
    let id = launch(&engine, &order(&world, "look", &[1])).await;
    let got = super::streams::messages(&mut stream.outgoing).await;
    assert_eq!(orders(&got).len(), 1);
    let record = crate::testing::data(vec![answer(1, id, CommandStatus::Success)]);
    stream.incoming.record(&machine(1), record).await.unwrap();
    until("the action is completed", || async { status(&engine, id).await == ActionStatus::Completed }).await;
    running.end().await;
}

#[tokio::test]
async fn an_action_that_is_called_back_ends_and_machines_that_have_it_are_told() {
    let world = World::new().await;
    let engine = world.plain();
    people(&engine).await;
    for number in 1..=2 {
        poll(&engine, &machine(number)).await;
    }
    let id = launch(&engine, &order(&world, "look", &[0])).await;
    engine.inner.actions_work().await.unwrap();
    assert_eq!(types(&poll(&engine, &machine(1)).await.messages), [system::ACTION]);
    let foreign = cancellation(&world, &row(&engine, id).await.action, "another");
    let refused = engine.action_cancel(id, Some(("", &foreign)), &caller()).await.unwrap_err();
    assert!(matches!(refused, OperatorError::Signature(_)), "{refused}");
    let signature = cancellation(&world, &row(&engine, id).await.action, "");
    assert_eq!(engine.action_cancel(id, Some(("", &signature)), &caller()).await.unwrap(), CancelTaken::Taken);
    assert_eq!(engine.action_cancel(id, None, &caller()).await.unwrap(), CancelTaken::Known);
    engine.inner.actions_work().await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(types(&poll(&engine, &machine(1)).await.messages), [system::ACTION_CANCEL]);
    assert_eq!(poll(&engine, &machine(2)).await.messages, [], "it never had it");
    let row = row(&engine, id).await;
    assert_eq!((row.status, row.counters.cancelled, row.counters.inflight), (ActionStatus::Cancelled, 2, 0));
}

#[tokio::test]
async fn an_action_without_answers_expires() {
    let world = World::new().await;
    let engine = world.plain();
    people(&engine).await;
    poll(&engine, &machine(1)).await;
    let id = launch(&engine, &order(&world, "look", &[0])).await;
    engine.inner.actions_work().await.unwrap();
    world.clock.advance(Duration::from_mins(11));
    engine.inner.actions_work().await.unwrap();
    assert_eq!(poll(&engine, &machine(1)).await.messages, []);
    let row = row(&engine, id).await;
    assert_eq!((row.status, row.counters.expired, row.counters.done), (ActionStatus::Completed, 1, 1));
}

#[tokio::test]
async fn an_action_that_nobody_signed_is_previewed_and_shows_what_it_needs() {
    let world = World::new().await;
    let engine = world.plain();
    people(&engine).await;
    tell(&engine, &machine(1), vec![demands_two(1)]).await;
    for number in 2..=4 {
        poll(&engine, &machine(number)).await;
    }
    // Of machine 2 the server notes a weight that is never reached, of 3 only what a person is worth, of 4 nothing.
    let (store, now) = (engine.store(), muster_core::Clock::now(&*world.clock));
    let who = store.investigator_page(None, None, 9).await.unwrap()[0].id;
    store.module_minimum_set(machine(2).agent(), "default", Some(7), now, &cause()).await.unwrap();
    for (number, worth) in [(2, 3), (3, 5)] {
        let weight = ModuleWeight {
            investigator: who,
            agent: machine(number).agent(),
            module: "default".into(),
            weight: Some(worth),
        };
        store.module_weight_set(weight, now, &cause()).await.unwrap();
    }
    let said = |preview: &crate::ActionPreview| -> Vec<_> {
        let demands = preview.demands.iter();
        let shown = demands.map(|demand| {
            assert_eq!((demand.agents, demand.operations.len(), demand.is_met()), (1, 1, false));
            let operation = &demand.operations[0];
            (demand.said_by.as_str(), demand.examples[0], operation.need, operation.have)
        });
        shown.collect()
    };
    let unsigned = order(&world, "look", &[]);
    let preview = engine.action_preview(&unsigned, Spread::default(), &[]).await.unwrap();
    assert_eq!((preview.matched, preview.willing, preview.unknown, preview.noted), (4, 0, 3, 2));
    assert!(preview.signers.is_empty() && preview.problems.is_empty() && !preview.is_ready());
    let agent = |number| machine(number).agent();
    let mut wanted =
        [("machines", agent(1), Some(2), 0), ("server", agent(2), Some(7), 0), ("server", agent(3), None, 0)];
    let sorted = |mut demands: Vec<_>| {
        demands.sort();
        demands
    };
    wanted.sort_unstable();
    assert_eq!(sorted(said(&preview)), wanted);
    // Signed by one, it weighs something; and what the server notes holds nothing back.
    let signed = order(&world, "look", &[0]);
    let preview = engine.action_preview(&signed, Spread::default(), &[]).await.unwrap();
    let mut wanted =
        [("machines", agent(1), Some(2), 1), ("server", agent(2), Some(7), 3), ("server", agent(3), None, 0)];
    wanted.sort_unstable();
    assert_eq!((sorted(said(&preview)), preview.is_ready()), (wanted.to_vec(), true));
    assert!(engine.action_launch(&unsigned, Spread::default(), &caller()).await.is_err(), "a preview launches nothing");
}

#[tokio::test]
async fn a_preview_needs_no_signature_to_know_what_signers_weigh() {
    let world = World::new().await;
    let engine = world.plain();
    people(&engine).await;
    tell(&engine, &machine(1), vec![demands_two(1)]).await;
    let unsigned = order(&world, "look", &[]);
    let key = |person: usize| {
        let action = Action::parse(&order(&world, "look", &[person])).unwrap();
        muster_trust::signature::issuers(&action.pgp_signatures[0]).unwrap().remove(0)
    };
    let foreseen =
        async |signers: &[String]| engine.action_preview(&unsigned, Spread::default(), signers).await.unwrap();
    let one = foreseen(&[key(0)]).await;
    assert_eq!((one.signers.len(), one.willing, one.is_ready()), (1, 0, false));
    let both = foreseen(&[key(0), key(1), key(0)]).await;
    assert_eq!((both.signers.len(), both.willing, both.is_ready()), (2, 1, true));
    let stranger = foreseen(&["AB".repeat(20)]).await;
    assert!(stranger.problems[0].contains(&"AB".repeat(20)) && !stranger.is_ready(), "{stranger:?}");
    let many = vec![key(0); muster_core::limits::ACTION_SIGNATURES_MAX + 1];
    assert!(engine.action_preview(&unsigned, Spread::default(), &many).await.is_err());
}

#[tokio::test]
async fn an_action_that_could_not_run_is_refused_and_its_signature_still_good() {
    let world = World::new().await;
    let engine = world.plain();
    people(&engine).await;
    for number in 1..=3 {
        tell(&engine, &machine(number), vec![demands_two(number)]).await;
    }
    let json = order(&world, "look", &[0, 1]);
    let most = |hosts_max| Spread { hosts_max: Some(hosts_max), ..Spread::default() };
    let refused = engine.action_launch(&json, most(2), &caller()).await.unwrap_err();
    assert!(matches!(&refused, OperatorError::Conflict(why) if why.contains("matches 3")), "{refused}");
    let preview = engine.action_preview(&json, most(2), &[]).await.unwrap();
    assert!(preview.problems[0].contains("matches 3") && !preview.is_ready());
    // The same bytes are as good as before.
    let taken = engine.action_launch(&json, most(3), &caller()).await.unwrap();
    assert!(matches!(taken, ActionTaken::New(_)), "{taken:?}");
}

#[tokio::test]
async fn a_target_that_holds_a_name_is_refused() {
    let world = World::new().await;
    let engine = world.plain();
    people(&engine).await;
    engine.named_target_put("all", "name LIKE '%'", "", &caller()).await.unwrap();
    let mut action = Action::parse(&order(&world, "look", &[])).unwrap();
    action.target = "@all AND status = 'online'".into();
    action.pgp_signatures = vec![signature(&world, &action, 0)];
    let json = serde_json::to_vec(&action).unwrap();
    let refused = engine.action_launch(&json, Spread::default(), &caller()).await.unwrap_err();
    assert!(matches!(&refused, OperatorError::Invalid(reason) if reason.contains("@all")), "{refused}");
    let refused = engine.action_preview(&json, Spread::default(), &[]).await.unwrap_err();
    assert!(matches!(refused, OperatorError::Invalid(_)), "{refused}");
}

#[tokio::test]
async fn what_nobody_signed_is_refused() {
    let world = World::new().await;
    let engine = world.plain();
    let json = order(&world, "look", &[0]);
    let refused = async |json: &[u8]| match engine.action_launch(json, Spread::default(), &caller()).await {
        Err(OperatorError::Invalid(reason) | OperatorError::Signature(reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert!(refused(&json).await.contains("signature 1 does not count"), "nobody is known");
    people(&engine).await;
    let mut action = Action::parse(&json).unwrap();
    action.name = "another".into();
    assert!(refused(&serde_json::to_vec(&action).unwrap()).await.contains("does not fit"));
    action = Action::parse(&json).unwrap();
    action.pgp_signatures = vec![action.pgp_signatures[0].clone(); 2];
    assert!(refused(&serde_json::to_vec(&action).unwrap()).await.contains("has signed before"));
    action.pgp_signatures.clear();
    assert_eq!(refused(&serde_json::to_vec(&action).unwrap()).await, "action pgpsignatures is empty");
    assert!(refused(b"{").await.contains("JSON"));
    world.clock.advance(Duration::from_mins(11));
    assert_eq!(refused(&json).await, "action expireafter is in the past");
    assert_eq!(engine.store().action_page(muster_store::actions::ActionFilter::default(), None, 9).await.unwrap(), []);
}

/// Also what is not signed (a description) counts as it came first, whatever is sent later.
#[tokio::test]
async fn an_action_with_any_byte_changed_is_refused_or_is_the_one_that_was_there() {
    let world = World::new().await;
    let engine = world.plain();
    people(&engine).await;
    let json = order(&world, "look", &[0]);
    let id = launch(&engine, &json).await;
    let before = row(&engine, id).await;
    let mut again = 0;
    for mask in [0x01, 0x20] {
        for place in 0..json.len() {
            let mut changed = json.clone();
            changed[place] ^= mask;
            match engine.action_launch(&changed, Spread::default(), &caller()).await {
                Ok(ActionTaken::New(_)) => panic!("{} was taken", String::from_utf8_lossy(&changed)),
                Ok(ActionTaken::Again(found)) => {
                    assert_eq!(found, id);
                    let read = |json: &[u8]| signed_text(&Action::parse(json).unwrap()).unwrap();
                    assert_eq!(read(&changed), read(&json));
                    again += 1;
                }
                Err(OperatorError::Invalid(_) | OperatorError::Signature(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    assert!(again > 0, "no byte is unsigned");
    let described = String::from_utf8(json).unwrap().replacen('{', "{\"description\":{\"author\":\"x\"},", 1);
    let taken = engine.action_launch(described.as_bytes(), Spread::default(), &caller()).await;
    assert!(matches!(taken, Err(OperatorError::Invalid(_)) | Ok(ActionTaken::Again(_))), "{taken:?}");
    let after = row(&engine, id).await;
    assert_eq!(
        (after.action.description, after.action.pgp_signatures),
        (before.action.description, before.action.pgp_signatures)
    );
    let all = engine.store().action_page(muster_store::actions::ActionFilter::default(), None, 9).await.unwrap();
    assert_eq!(all.len(), 1);
}

#[tokio::test]
async fn an_action_that_no_machine_could_read_or_run_in_time_is_refused_and_not_stored() {
    let world = World::new().await;
    let engine = world.plain();
    people(&engine).await;
    let signed = |change: &dyn Fn(&mut Action)| {
        let mut action = Action::parse(&order(&world, "look", &[0])).unwrap();
        change(&mut action);
        action.pgp_signatures = vec![signature(&world, &action, 0)];
        serde_json::to_vec(&action).unwrap()
    };
    let target = |text: &str| signed(&|action| action.target = text.to_owned());
    let deep = format!("{}true{}", "(".repeat(900), ")".repeat(900));
    let cases = [
        ("a target that is SQL", target("1=1; DROP TABLE machines"), "one condition"),
        ("a target that ends early", target("name = "), "end"),
        ("a target that sleeps", target("pg_sleep(10) IS NULL"), "no functions"),
        ("a target that selects", target("name IN (SELECT name FROM machines)"), "SELECT"),
        ("a target within parentheses without end", target(&deep), "deeper"),
        (
            "a window of eight days",
            signed(&|a| a.expire_after = a.valid_from.plus(Duration::from_hours(192))),
            "valid for",
        ),
        (
            "a window that ends before it begins",
            signed(&|a| a.valid_from = a.expire_after.plus(Duration::from_secs(1))),
            "before",
        ),
        ("a name that holds a target", signed(&|action| action.name = "a;target=b".to_owned()), "parts the fields"),
        ("no operations", signed(&|action| action.operations.clear()), "operations is empty"),
    ];
    for (what, json, words) in cases {
        match engine.action_launch(&json, Spread::default(), &caller()).await {
            Err(OperatorError::Invalid(reason)) => assert!(reason.contains(words), "{what}: {reason}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    let all = engine.store().action_page(muster_store::actions::ActionFilter::default(), None, 9).await.unwrap();
    assert_eq!(all, []);
}

#[tokio::test]
async fn a_disabled_investigator_signs_nothing_and_a_key_has_one_owner() {
    let world = World::new().await;
    let engine = world.plain();
    people(&engine).await;
    let first = engine.store().investigator_page(None, None, 9).await.unwrap()[0].clone();
    let twice = NewInvestigator { name: "x".into(), public_key: first.public_key.clone(), permissions: 0 };
    let refused = engine.investigator_add(twice, &caller()).await.unwrap_err();
    assert!(matches!(refused, OperatorError::Conflict(_)), "{refused}");
    let secret = NewInvestigator { name: "x".into(), public_key: Some(PEOPLE[0].0.into()), permissions: 0 };
    let turned = NewInvestigator { name: "Al\u{202e}eci".to_owned(), ..NewInvestigator::default() };
    let refused = engine.investigator_add(turned, &caller()).await.unwrap_err();
    assert!(matches!(&refused, OperatorError::Invalid(why) if why.contains("U+202E")), "{refused}");
    let refused = engine.investigator_add(secret, &caller()).await.unwrap_err();
    assert!(refused.to_string().contains("secret key"), "{refused}");
    let json = order(&world, "look", &[0]);
    world.clock.advance(Duration::from_secs(1));
    let disabled = muster_core::action::InvestigatorStatus::Disabled;
    let now = muster_core::Clock::now(&*world.clock);
    engine.store().investigator_status_set(first.id, disabled, now, &cause()).await.unwrap();
    let refused = engine.action_launch(&json, Spread::default(), &caller()).await.unwrap_err();
    let why = format!("signature 1 does not count: the investigator {} is disabled", first.name);
    assert!(refused.to_string().starts_with(&why), "{refused}");
    // Somebody who is asked who will sign is not said to be unknown, either.
    let key = first.fingerprint.as_ref().unwrap().to_string();
    let (json, spread) = (order(&world, "look", &[]), Spread::default());
    let signers = [key.clone(), "00112233445566778899AABBCCDDEEFF00112233".to_owned()];
    let preview = engine.action_preview(&json, spread, &signers).await.unwrap();
    assert!(preview.problems[0].starts_with(&format!("the key {key} does not count: the investigator")), "{preview:?}");
    assert!(preview.problems[1].contains("of no investigator"), "{preview:?}");
}

#[tokio::test]
async fn shares_follow_one_another_and_halt_when_machines_fail() {
    let world = World::new().await;
    let engine = world.plain();
    people(&engine).await;
    for number in 1..=4 {
        poll(&engine, &machine(number)).await;
    }
    let spread = Spread { rings: vec![25], halt_percent: 10, ..Spread::default() };
    let id = engine.action_launch(&order(&world, "change", &[0]), spread, &caller()).await.unwrap().id();
    engine.inner.actions_work().await.unwrap();
    assert_eq!(row(&engine, id).await.counters.sent, 1);
    assert_eq!(types(&poll(&engine, &machine(1)).await.messages), [system::ACTION]);
    tell(&engine, &machine(1), vec![answer(1, id, CommandStatus::Failed)]).await;
    world.clock.advance(Duration::from_secs(3));
    engine.inner.actions_work().await.unwrap();
    let halted = row(&engine, id).await;
    assert!(halted.halted.is_some() && halted.counters.sent == 1, "{halted:?}");
    assert!(engine.action_resume(id, &caller()).await.unwrap());
    engine.inner.actions_work().await.unwrap();
    assert_eq!(row(&engine, id).await.counters.sent, 4);
}

#[tokio::test]
async fn nonsense_from_a_machine_fails_alone() {
    let world = World::new().await;
    let engine = world.plain();
    let nonsense = |number, kind| say(number, system::ACTIONS, kind, b"{");
    let messages = vec![nonsense(1, system::ACTION_RESULT), nonsense(2, system::AGENT_TRUST), nonsense(3, "Other")];
    tell(&engine, &machine(1), messages).await;
    for number in 1..=3 {
        let id = muster_core::MessageId::derive(machine(1).agent(), system::ACTIONS, &[number]);
        let row = world.row(id).await;
        assert_eq!(row.state, muster_store::messages::MessageState::Failed);
    }
    let order = world.message_to(1, machine(1).agent(), "x");
    let to_actions = Message { destination: muster_core::Address::server(system::ACTIONS), ..order };
    let id = engine.message_insert(to_actions).await.unwrap();
    assert!(world.row(id).await.message.result.unwrap().failure.unwrap().contains("agents only"));
}
