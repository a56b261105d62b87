//! Signed actions: launch, fan-out, calling back, expiry, retention.

mod cancels;
mod reach;
mod results;
mod standing;

use crate::for_each_backend;
use crate::stage::*;
use muster_core::action::{Action, ActionId, ActionStatus, CommandStatus, InvestigatorId};
use muster_core::target::Target;
use muster_core::{AgentId, AgentState, Message, Payload, ServerId, Timestamp, system};
use muster_store::actions::{
    ActionFilter, ActionJob, ActionPut, ActionRetention, ActionTaken, CancelPut, CancelTaken, CommandFilter, Next,
    ResultPut, ResultTaken, SignaturePut, Spread, WorkLimits,
};
use muster_store::agents::{ContactPut, Effect};
use muster_store::investigators::{InvestigatorPut, RevocationsTold, TrustTold};
use muster_store::targets::{Reach, TargetQuery};
use muster_store::{ActionStore, ErrorKind, InvestigatorStore, JournalStore, MessageStore, SqlStore};
use std::collections::BTreeSet;
use std::time::Duration;

/// Matches every machine.
pub(crate) const ALL: &str = "name LIKE '%'";
pub(crate) const LIFE_MS: i64 = 600_000;
const SERVER: ServerId = ServerId::from_bytes([1; 8]);
const OTHER: ServerId = ServerId::from_bytes([2; 8]);
const ROWS: WorkLimits =
    WorkLimits { rows: 3, lease: Duration::from_secs(30), look_again: Duration::from_secs(2), walk_rows: 2 };

pub(crate) async fn investigator(stage: &Stage, n: u8) -> InvestigatorId {
    let put = InvestigatorPut {
        name: format!("investigator {n}"),
        fingerprint: Some(hex(n).parse().unwrap()),
        public_key: Some("key".into()),
        permissions: 0,
    };
    stage.store.investigator_put(put, at(0), &cause()).await.unwrap()
}

pub(crate) fn hex(n: u8) -> String {
    format!("{n:02x}").repeat(20)
}

pub(crate) fn payload(text: &str) -> Payload {
    Payload { type_url: "t".into(), value: text.as_bytes().to_vec() }
}

/// Action `n`, signed by `signers` and ready.
pub(crate) async fn order(stage: &Stage, n: u8, signers: &[InvestigatorId]) -> ActionPut {
    let json = format!(
        r#"{{"name":"action {n}","target":"x","description":{{"author":"me","revision":1.5}},"threat":{{"family":"f"}},
        "operations":[{{"module":"file","parameters":{{"b":[1, 2.0],"a":"<"}}}}],"syntaxversion":2}}"#
    );
    let action = Action::parse(json.as_bytes()).unwrap();
    let id = stage.store.action_id_take().await.unwrap();
    ActionPut {
        action: Action { id: Some(id), target: ALL.into(), valid_from: at(0), expire_after: at(LIFE_MS), ..action },
        signed: [n; 32],
        signatures: signers.iter().map(|who| (*who, format!("signature of {who}"))).collect(),
        is_ready: true,
        order: payload("order"),
        spread: Spread::default(),
    }
}

pub(crate) async fn launch(stage: &Stage, put: ActionPut) -> ActionId {
    match stage.store.action_put(put, at(0), &cause()).await.unwrap() {
        ActionTaken::New(id) => id,
        ActionTaken::Again(id) => panic!("{id} is there already"),
    }
}

/// Launches action `n` with one signer and the given spread.
async fn launched(stage: &Stage, n: u8, spread: Spread) -> ActionId {
    let who = investigator(stage, n).await;
    launch(stage, ActionPut { spread, ..order(stage, n, &[who]).await }).await
}

/// Launches action `n` with one signer, and says who that is.
async fn launched_by(stage: &Stage, n: u8) -> (ActionId, InvestigatorId) {
    let who = investigator(stage, n).await;
    (launch(stage, order(stage, n, &[who]).await).await, who)
}

/// A cancellation that `who` signed at the moment `made_ms`; agents are sent `body`.
fn cancel_put(who: InvestigatorId, fleet: &str, made_ms: i64, body: &str) -> CancelPut {
    CancelPut { investigator: who, fleet: fleet.into(), made: at(made_ms), body: payload(body) }
}

async fn cancelled(stage: &Stage, id: ActionId, signed: Option<CancelPut>, ms: i64) -> CancelTaken {
    stage.store.action_cancel(id, signed, at(ms), &cause()).await.unwrap()
}

/// Enrols agents 1 to `count`.
async fn agents(stage: &Stage, count: u8) -> Vec<AgentId> {
    let mut agents = Vec::new();
    for n in 1..=count {
        agents.push(stage.agent(n).await);
    }
    agents
}

async fn take(store: &SqlStore, owner: ServerId, now: Timestamp) -> Option<ActionJob> {
    store.action_claim_due(owner, ROWS.lease, now).await.unwrap()
}

/// Does all that is due at `now`, whoever has it. Returns how many commands were created or ended.
pub(crate) async fn work(store: &SqlStore, now: Timestamp) -> u64 {
    let mut commands = 0;
    while let Some(job) = take(store, SERVER, now).await {
        for _ in 0..100 {
            let worked = store.action_work(job, ROWS, now).await.unwrap();
            commands += worked.commands;
            if worked.next != Next::Now {
                break;
            }
        }
    }
    commands
}

async fn status(stage: &Stage, id: ActionId) -> ActionStatus {
    stage.store.action_get(id).await.unwrap().unwrap().status
}

async fn commands(stage: &Stage, id: ActionId) -> Vec<(u8, CommandStatus)> {
    let filter = CommandFilter { action: Some(id), ..CommandFilter::default() };
    let page = stage.store.command_page(filter, None, 1000, false).await.unwrap().commands;
    page.iter().map(|command| (command.agent.as_bytes()[7], command.status)).collect()
}

fn result(action: ActionId, agent: AgentId, status: CommandStatus, text: &str) -> ResultPut {
    let results = format!("[{{\"elements\":\"{text}\"}}]");
    ResultPut { action, agent, status, found: true, results, signature: format!("by {text}").into_bytes() }
}

async fn answer(stage: &Stage, results: Vec<ResultPut>, now: Timestamp) -> Vec<ResultTaken> {
    stage.store.command_result_put(results, now).await.unwrap()
}

async fn claimed(stage: &Stage, agent: AgentId, now: Timestamp) -> Vec<Message> {
    stage.store.message_claim_due(agent, all(), NO_CONTACT, now).await.unwrap()
}

for_each_backend! {
    async fn an_action_reads_back_as_it_was_put(stage) {
        let (one, two) = (investigator(&stage, 1).await, investigator(&stage, 2).await);
        let spread = Spread { standing: true, hosts_max: Some(7), rings: vec![1, 10], halt_percent: 5 };
        let put = ActionPut { spread: spread.clone(), ..order(&stage, 1, &[two, one]).await };
        let id = launch(&stage, put.clone()).await;
        let row = stage.store.action_get(id).await.unwrap().unwrap();
        assert_eq!((row.status, row.created, row.spread), (ActionStatus::Pending, at(0), spread));
        assert_eq!(row.signers, [one, two]);
        assert_eq!(row.action.pgp_signatures, [format!("signature of {one}"), format!("signature of {two}")]);
        let bare = Action { pgp_signatures: Vec::new(), ..row.action.clone() };
        assert_eq!(bare, put.action);
        assert_eq!(stage.store.action_find([1; 32]).await.unwrap(), stage.store.action_get(id).await.unwrap());
        assert_eq!(stage.store.action_find([9; 32]).await.unwrap(), None);
        let again = ActionPut { action: Action { id: Some(stage.store.action_id_take().await.unwrap()), ..put.action }, ..put };
        assert_eq!(stage.store.action_put(again, at(5), &cause()).await.unwrap(), ActionTaken::Again(id));
        let by = async |filter| stage.store.action_page(filter, None, 9).await.unwrap().len();
        assert_eq!(by(ActionFilter { name: "ACTION".into(), ..ActionFilter::default() }).await, 1);
        assert_eq!(by(ActionFilter { name: "action 2".into(), ..ActionFilter::default() }).await, 0);
        assert_eq!(by(ActionFilter { investigator: Some(two), ..ActionFilter::default() }).await, 1);
        assert_eq!(by(ActionFilter { status: Some(ActionStatus::Waiting), ..ActionFilter::default() }).await, 0);
    }

    async fn a_signature_twice_or_of_nobody_stores_nothing(stage) {
        let one = investigator(&stage, 1).await;
        for signers in [vec![one, one], vec![one, InvestigatorId::new(99).unwrap()]] {
            let put = order(&stage, 1, &signers).await;
            let refused = stage.store.action_put(put, at(0), &cause()).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
        }
        let nameless = order(&stage, 1, &[one]).await;
        let nameless = ActionPut { action: Action { id: None, ..nameless.action.clone() }, ..nameless };
        assert_eq!(stage.store.action_put(nameless, at(0), &cause()).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(stage.store.action_page(ActionFilter::default(), None, 9).await.unwrap(), []);
        assert_eq!(take(&stage.store, SERVER, at(1)).await, None);
        let disabled = muster_core::action::InvestigatorStatus::Disabled;
        stage.store.investigator_status_set(one, disabled, at(1), &cause()).await.unwrap();
        let put = order(&stage, 1, &[one]).await;
        assert_eq!(stage.store.action_put(put, at(0), &cause()).await.unwrap_err().kind(), ErrorKind::Refused);
    }

    async fn an_action_waits_until_others_have_signed(stage) {
        agents(&stage, 2).await;
        let (one, two) = (investigator(&stage, 1).await, investigator(&stage, 2).await);
        let put = ActionPut { is_ready: false, ..order(&stage, 1, &[one]).await };
        let id = launch(&stage, put.clone()).await;
        assert_eq!(work(&stage.store, at(1)).await, 0);
        assert_eq!(status(&stage, id).await, ActionStatus::Waiting);
        let sign = |who, is_ready| SignaturePut {
            action: id, investigator: who, signature: "s".into(), others: 1, is_ready, order: payload("signed by two"),
        };
        let refused = stage.store.action_signature_put(sign(one, true), at(2), &cause()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Exists);
        let blind = SignaturePut { others: 0, ..sign(two, true) };
        let refused = stage.store.action_signature_put(blind, at(2), &cause()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused, "its order would lose the other signature");
        let signed = stage.store.action_signature_put(sign(two, true), at(2), &cause()).await.unwrap();
        assert_eq!(signed, ActionStatus::Pending);
        let refused = stage.store.action_signature_put(sign(two, true), at(2), &cause()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
        assert_eq!(work(&stage.store, at(3)).await, 2);
        assert_eq!(claimed(&stage, agent(1), at(4)).await[0].payload, Some(payload("signed by two")));
        // Another that nobody else signs becomes invalid when its window is over.
        let signed = ActionPut { is_ready: false, signed: [2; 32], ..order(&stage, 2, &[one]).await };
        let late = launch(&stage, signed).await;
        work(&stage.store, at(LIFE_MS)).await;
        assert_eq!(status(&stage, late).await, ActionStatus::Invalid);
    }

    async fn a_message_ends_a_command_and_tells_what_is_believed(stage) {
        let agents = agents(&stage, 2).await;
        let id = launched(&stage, 1, Spread::default()).await;
        assert_eq!(work(&stage.store, at(1)).await, 2);
        assert_eq!(claimed(&stage, agent(1), at(2)).await.len(), 1);
        let revocations = Some(RevocationsTold { version: 3, serials: 2, fingerprints: 1 });
        let told = TrustTold { keyring_version: 7, acl: "{}".into(), revocations, ..TrustTold::default() };
        let effects = [
            Effect::Result(Box::new(result(id, agents[0], CommandStatus::Success, "[]"))),
            Effect::Trust(Box::new(told.clone())),
        ];
        let with = |moment| ContactPut {
            intake: effects.iter().zip(1..).map(|(of, n)| intake(to_server(n, agent(1), "actions"), of.clone())).collect(),
            ..contact(1, moment)
        };
        stage.contact(with(at(3))).await;
        stage.contact(with(at(4))).await;
        let row = stage.store.action_get(id).await.unwrap().unwrap();
        assert_eq!((row.counters.success, row.counters.done, row.late), (1, 1, 0), "twice is once");
        assert_eq!(stage.store.trust_get(agent(1)).await.unwrap(), Some((told.clone(), at(3))));
        assert_eq!(stage.store.trust_get(agent(2)).await.unwrap(), None);
        let target = Target::parse("name LIKE '%'").unwrap();
        let query = TargetQuery { target, now: at(5), reach: Reach::Active };
        let groups = stage.store.trust_groups(query).await.unwrap();
        let said: Vec<_> = groups.into_iter().map(|group| (group.told, group.agents, group.example)).collect();
        assert_eq!(said, [(Some(told.clone()), 1, agent(1)), (None, 1, agent(2))]);
        // Machines that believe the same but for what is revoked are no group; an agent of before does not report it.
        let silent = TrustTold { revocations: None, ..told.clone() };
        let by_two = intake(to_server(9, agent(2), "actions"), Effect::Trust(Box::new(silent.clone())));
        stage.contact(ContactPut { intake: vec![by_two], ..contact(2, at(5)) }).await;
        assert_eq!(stage.store.trust_get(agent(2)).await.unwrap(), Some((silent.clone(), at(5))));
        let target = Target::parse("name LIKE '%'").unwrap();
        let query = TargetQuery { target, now: at(6), reach: Reach::Active };
        let groups = stage.store.trust_groups(query).await.unwrap();
        let said: Vec<_> = groups.into_iter().map(|group| (group.told, group.agents)).collect();
        assert_eq!(said, [(Some(told), 1), (Some(silent), 1)]);
    }

    async fn every_matching_machine_is_given_an_action_once(stage) {
        let agents = agents(&stage, 8).await;
        stage.agent_in(9, AgentState::Waiting, &[]).await;
        stage.agent_in(10, AgentState::Blocked, &[]).await;
        let id = launched(&stage, 1, Spread::default()).await;
        assert_eq!(work(&stage.store, at(1)).await, 8);
        let row = stage.store.action_get(id).await.unwrap().unwrap();
        assert_eq!((row.status, row.counters.sent, row.counters.inflight, row.matched), (ActionStatus::Inflight, 8, 8, 8));
        assert_eq!(row.started, Some(at(1)));
        for agent in &agents {
            let due = stage.store.message_agents_due(&[*agent], at(2)).await.unwrap();
            assert_eq!(due, [*agent]);
            let messages = claimed(&stage, *agent, at(2)).await;
            assert_eq!(messages.len(), 1);
            assert_eq!(messages[0].message_type, system::ACTION);
            assert_eq!(messages[0].destination.service, system::ACTIONS);
            assert_eq!((&messages[0].payload, messages[0].expires), (&Some(payload("order")), Some(at(LIFE_MS))));
            assert_eq!(claimed(&stage, *agent, at(3)).await, []);
            assert_eq!(stage.store.message_agents_due(&[*agent], at(3)).await.unwrap(), []);
        }
        // A contact takes them as well, and what is not acknowledged falls due again.
        let again = stage.contact(ContactPut { claim: Some(all()), ..contact(1, at(LIFE_MS / 2)) }).await;
        assert_eq!(again.claimed, [], "its lease is longer than that");
        let results = agents.iter().map(|agent| result(id, *agent, CommandStatus::Success, "x")).collect();
        assert_eq!(answer(&stage, results, at(9)).await, [ResultTaken::First; 8]);
        let row = stage.store.action_get(id).await.unwrap().unwrap();
        assert_eq!((row.status, row.finished, row.counters.done), (ActionStatus::Completed, Some(at(9)), 8));
        assert_eq!(take(&stage.store, SERVER, Timestamp::MAX).await, None, "nothing is left to do");
    }

    async fn an_agent_with_room_for_none_is_handed_none(stage) {
        agents(&stage, 1).await;
        launched(&stage, 1, Spread::default()).await;
        work(&stage.store, at(1)).await;
        let shares = |room| Some([(system::ACTIONS.to_owned(), room)].into());
        let none = muster_store::agents::Claim { per_service: shares(0), ..all() };
        let claim = ContactPut { claim: Some(none), ..contact(1, at(2)) };
        assert_eq!(stage.contact(claim).await.claimed, []);
        let one = muster_store::agents::Claim { per_service: shares(1), ..all() };
        assert_eq!(stage.contact(ContactPut { claim: Some(one), ..contact(1, at(3)) }).await.claimed.len(), 1);
    }

    async fn a_holder_that_lost_its_job_does_nothing(stage) {
        agents(&stage, 8).await;
        let id = launched(&stage, 1, Spread::default()).await;
        let first = take(&stage.store, SERVER, at(1)).await.unwrap();
        assert_eq!(status(&stage, id).await, ActionStatus::Scheduled);
        assert_eq!(take(&stage.store, OTHER, at(2)).await, None);
        for _ in 0..2 {
            stage.store.action_work(first, ROWS, at(2)).await.unwrap();
        }
        assert_eq!(commands(&stage, id).await.len(), 3);
        // Its lease is over: another goes on where it stood.
        let now = at(60_000);
        let second = take(&stage.store, OTHER, now).await.unwrap();
        assert!(second.fence > first.fence);
        let lost = stage.store.action_work(first, ROWS, now).await.unwrap();
        assert_eq!((lost.next, lost.commands), (Next::Lost, 0));
        while stage.store.action_work(second, ROWS, now).await.unwrap().next == Next::Now {}
        let given: BTreeSet<u8> = commands(&stage, id).await.into_iter().map(|(agent, _)| agent).collect();
        assert_eq!(given, (1..=8).collect());
        assert_eq!(stage.store.action_get(id).await.unwrap().unwrap().counters.sent, 8);
    }

    async fn servers_that_race_double_nothing(stage) {
        agents(&stage, 20).await;
        let id = launched(&stage, 1, Spread::default()).await;
        let stores = [stage.store.clone(), stage.second().await, stage.store.clone()];
        let workers: Vec<_> = (0..3).map(|n| {
            let store = stores[n].clone();
            let owner = ServerId::from_bytes([u8::try_from(n).unwrap(); 8]);
            tokio::spawn(async move {
                for turn in 0..40 {
                    // Leases that are over before they begin: everybody takes everybody's job.
                    let now = at(1 + turn * 10);
                    let Some(job) = store.action_claim_due(owner, Duration::ZERO, now).await.unwrap() else { continue };
                    let limits = WorkLimits { rows: 1, lease: Duration::ZERO, ..ROWS };
                    store.action_work(job, limits, now).await.unwrap();
                }
            })
        }).collect();
        for worker in workers {
            worker.await.unwrap();
        }
        work(&stage.store, at(1_000)).await;
        assert_eq!(commands(&stage, id).await.len(), 20);
        let row = stage.store.action_get(id).await.unwrap().unwrap();
        assert_eq!((row.counters.sent, row.status), (20, ActionStatus::Inflight));
    }

    async fn what_is_not_answered_expires(stage) {
        let agents = agents(&stage, 8).await;
        let id = launched(&stage, 1, Spread::default()).await;
        work(&stage.store, at(1)).await;
        claimed(&stage, agents[7], at(2)).await;
        answer(&stage, vec![result(id, agents[4], CommandStatus::Success, "x")], at(5)).await;
        assert_eq!(work(&stage.store, at(LIFE_MS - 1)).await, 0);
        assert_eq!(work(&stage.store, at(LIFE_MS)).await, 7);
        let row = stage.store.action_get(id).await.unwrap().unwrap();
        assert_eq!((row.status, row.finished), (ActionStatus::Completed, Some(at(LIFE_MS))));
        assert_eq!((row.counters.expired, row.counters.success, row.counters.done), (7, 1, 8));
        assert_eq!(claimed(&stage, agents[0], at(LIFE_MS + 1)).await, []);
        let late = vec![result(id, agents[0], CommandStatus::Success, "x")];
        assert_eq!(answer(&stage, late, at(LIFE_MS + 1)).await, [ResultTaken::Late]);
        assert_eq!(stage.store.action_get(id).await.unwrap().unwrap().counters.done, 8);
    }

    async fn calling_back_reaches_the_agents_that_were_handed_it(stage) {
        let agents = agents(&stage, 5).await;
        let (id, who) = launched_by(&stage, 1).await;
        work(&stage.store, at(1)).await;
        assert_eq!(claimed(&stage, agents[0], at(2)).await.len(), 1);
        assert_eq!(claimed(&stage, agents[1], at(2)).await.len(), 1);
        answer(&stage, vec![result(id, agents[1], CommandStatus::Success, "x")], at(3)).await;
        let put = cancel_put(who, "", 4, "callback");
        assert_eq!(cancelled(&stage, id, Some(put.clone()), 4).await, CancelTaken::Taken);
        assert_eq!(cancelled(&stage, id, Some(put), 4).await, CancelTaken::Known);
        assert_eq!(status(&stage, id).await, ActionStatus::Cancelled);
        assert_eq!(claimed(&stage, agents[2], at(4)).await, [], "from that moment on nobody is handed it");
        assert_eq!(work(&stage.store, at(5)).await, 4);
        let told = claimed(&stage, agents[0], at(6)).await;
        assert_eq!(told.iter().map(|told| told.message_type.as_str()).collect::<Vec<_>>(), [system::ACTION_CANCEL]);
        assert_eq!(told[0].payload, Some(payload("callback")));
        for agent in &agents[1..] {
            assert_eq!(claimed(&stage, *agent, at(6)).await, []);
        }
        let counters = stage.store.action_get(id).await.unwrap().unwrap().counters;
        assert_eq!((counters.cancelled, counters.success, counters.inflight), (4, 1, 0));
        let late = vec![result(id, agents[0], CommandStatus::Cancelled, "x")];
        assert_eq!(answer(&stage, late, at(7)).await, [ResultTaken::Late]);
        let missing = stage.store.action_cancel(ActionId::new(99).unwrap(), None, at(1), &cause()).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert_eq!(take(&stage.store, SERVER, Timestamp::MAX).await, None);
    }

    async fn a_call_that_is_dropped_leaves_a_step_whole_or_undone(stage) {
        agents(&stage, 30).await;
        let id = launched(&stage, 1, Spread::default()).await;
        for polls in 0..40 {
            // A call that was dropped may still be at it, and then there is nothing to take.
            let job = stage.store.action_claim_due(SERVER, Duration::ZERO, at(1)).await.unwrap();
            let Some(job) = job else { continue };
            let limits = WorkLimits { rows: 1, lease: Duration::ZERO, ..ROWS };
            crate::races::dropped_after(stage.store.action_work(job, limits, at(1)), polls).await;
            let row = stage.store.action_get(id).await.unwrap().unwrap();
            assert!(commands(&stage, id).await.len() >= usize::try_from(row.counters.sent).unwrap());
        }
        for _ in 0..10_000 {
            work(&stage.store, at(2)).await;
            if commands(&stage, id).await.len() == 30 {
                break;
            }
        }
        assert_eq!(commands(&stage, id).await.len(), 30);
        assert_eq!(stage.store.action_get(id).await.unwrap().unwrap().counters.sent, 30);
    }

    async fn marks_tell_of_what_is_open_or_ended_lately(stage) {
        agents(&stage, 1).await;
        let mut ids = Vec::new();
        for n in 1..=4 {
            ids.push(launched(&stage, n, Spread::default()).await);
        }
        stage.store.action_cancel(ids[0], None, at(5), &cause()).await.unwrap();
        stage.store.action_cancel(ids[1], None, at(7), &cause()).await.unwrap();
        let marks = async |since, before, limit| {
            let marks = stage.store.action_marks(at(since), before, limit).await.unwrap();
            marks.into_iter().map(|mark| (mark.id, mark.status, mark.updated)).collect::<Vec<_>>()
        };
        let open = |id| (id, ActionStatus::Pending, at(0));
        let ended = |id, ms| (id, ActionStatus::Cancelled, at(ms));
        let all = [open(ids[3]), open(ids[2]), ended(ids[1], 7), ended(ids[0], 5)];
        assert_eq!(marks(5, None, 9).await, all);
        assert_eq!(marks(6, None, 9).await, all[..3]);
        assert_eq!(marks(8, None, 9).await, all[..2]);
        assert_eq!(marks(0, None, 2).await, all[..2]);
        assert_eq!(marks(0, Some(ids[2]), 2).await, all[2..]);
    }

    async fn old_commands_are_forgotten_and_actions_stay(stage) {
        let agents = agents(&stage, 5).await;
        let id = launched(&stage, 1, Spread::default()).await;
        work(&stage.store, at(1)).await;
        let results = agents.iter().map(|agent| result(id, *agent, CommandStatus::Success, "x")).collect();
        answer(&stage, results, at(5)).await;
        answer(&stage, vec![result(id, agents[0], CommandStatus::Success, "late")], at(5)).await;
        let before = |ms| ActionRetention {
            results_before: at(ms), commands_before: at(ms), sessions_before: at(ms), stats_before: at(ms),
        };
        assert_eq!(stage.store.action_retention_sweep(before(5), 3).await.unwrap(), 0);
        let sweep = async |retention| {
            let mut deleted = Vec::new();
            while let n @ 1.. = stage.store.action_retention_sweep(retention, 3).await.unwrap() {
                deleted.push(n);
            }
            deleted
        };
        // Results may go first, three of a kind at a time.
        let deleted = sweep(ActionRetention { results_before: at(6), ..before(5) }).await;
        assert_eq!(deleted, [3 + 1, 2]);
        assert_eq!(commands(&stage, id).await.len(), 5);
        assert_eq!(sweep(before(6)).await, [3, 2]);
        assert_eq!(commands(&stage, id).await, []);
        let row = stage.store.action_get(id).await.unwrap().unwrap();
        assert_eq!((row.status, row.counters.success), (ActionStatus::Completed, 5));
        // Who says only when commands go does not keep their results.
        let other = launched(&stage, 2, Spread::default()).await;
        work(&stage.store, at(7)).await;
        let results = agents.iter().map(|agent| result(other, *agent, CommandStatus::Success, "x")).collect();
        answer(&stage, results, at(8)).await;
        sweep(ActionRetention { results_before: at(0), ..before(9) }).await;
        assert_eq!(commands(&stage, other).await, []);
    }

    async fn what_was_done_stands_in_the_journal(stage) {
        let (id, who) = launched_by(&stage, 1).await;
        cancelled(&stage, id, Some(cancel_put(who, "", 4, "callback")), 4).await;
        let lines = muster_store::ClusterStore::journal_page(&stage.store, None, 9).await.unwrap();
        let words: Vec<&str> = lines.iter().map(|line| line.action.as_str()).collect();
        assert_eq!(words, ["action.cancel", "action.create", "investigator.create"]);
        let verified = stage.store.journal_verify(None, 100).await.unwrap();
        assert_eq!((verified.lines, verified.fault, verified.next), (3, None, None));
    }
}
