//! Searches: every condition, patterns alike on both databases, pages, and that what a person writes stays a value.

use crate::actions::{hex, investigator, launch, order, work};
use crate::for_each_backend;
use crate::stage::*;
use muster_core::action::{Action, ActionId, CommandStatus, InvestigatorId, InvestigatorStatus};
use muster_core::target::Target;
use muster_core::{Facts, limits};
use muster_store::actions::{ActionPut, ResultPut};
use muster_store::agents::Effect;
use muster_store::investigators::{
    ApiKeyChange, InvestigatorChange, InvestigatorPut, PERMISSIONS_ADMIN, PERMISSIONS_ALL, TokenUse, TokenUsed,
};
use muster_store::searches::{Pattern, SearchFilter};
use muster_store::targets::{Reach, TargetQuery};
use muster_store::{ActionStore, ClusterStore, ErrorKind, InvestigatorStore, ReportStore, SearchStore, TargetStore};

#[expect(clippy::unnecessary_wraps, reason = "it is the value of a field that may be empty")]
fn like(text: &str) -> Option<Pattern> {
    Some(Pattern::new(text).unwrap())
}

fn any() -> SearchFilter {
    SearchFilter { limit: 100, ..SearchFilter::default() }
}

/// Machine `n` with a name and a version of its agent.
async fn machine(stage: &Stage, n: u8, name: &str, version: &str) -> i64 {
    let agent = stage.agent(n).await;
    let facts: Facts = [("fqdn", name), ("agent_version", version), ("kernel", "Linux")]
        .map(|(name, value)| (name.to_owned(), value.into()))
        .into();
    let told = intake(to_server(n, agent, "muster"), Effect::Facts(facts));
    let labels = intake(to_server(n + 100, agent, "system"), Effect::ClientLabels(vec!["operator:IT".into()]));
    let mut put = contact(n, at(i64::from(n)));
    put.intake = vec![told, labels];
    stage.contact(put).await;
    stage.store.agent_numbers(&[agent]).await.unwrap()[0].1
}

/// Two machines, two people; action 1 is signed by both, action 2 by the second; machine 1 answers action 1.
struct Fleet {
    machines: [i64; 2],
    people: [InvestigatorId; 2],
    actions: [ActionId; 2],
}

async fn fleet(stage: &Stage) -> Fleet {
    let machines = [machine(stage, 1, "Web1.example", "1.0").await, machine(stage, 2, "db_1", "2.0").await];
    let people = [investigator(stage, 1).await, investigator(stage, 2).await];
    let first = launch(stage, order(stage, 1, &people).await).await;
    work(&stage.store, at(10)).await;
    let put = order(stage, 2, &people[1..]).await;
    let later = Action { valid_from: at(20), expire_after: at(700_000), name: "look 100%".into(), ..put.action };
    let second = launch(stage, ActionPut { action: later, ..put }).await;
    work(&stage.store, at(30)).await;
    let result = ResultPut {
        action: first,
        agent: agent(1),
        status: CommandStatus::Success,
        found: true,
        results: r#"[{"foundanything":true}]"#.into(),
        signature: Vec::new(),
    };
    stage.store.command_result_put(vec![result], at(40)).await.unwrap();
    Fleet { machines, people, actions: [first, second] }
}

async fn actions(stage: &Stage, filter: SearchFilter) -> Vec<i64> {
    let found = stage.store.action_search(filter).await.unwrap();
    found.actions.iter().map(|row| row.action.id.unwrap().get()).collect()
}

async fn commands(stage: &Stage, filter: SearchFilter) -> Vec<(i64, i64)> {
    let found = stage.store.command_search(filter).await.unwrap();
    found.commands.iter().map(|row| (row.command.action.get(), row.command.agent_number)).collect()
}

async fn machines(stage: &Stage, filter: SearchFilter) -> Vec<i64> {
    let found = stage.store.agent_search(filter, at(50)).await.unwrap();
    found.iter().map(|row| row.number).collect()
}

async fn people(stage: &Stage, filter: SearchFilter) -> Vec<InvestigatorId> {
    let found = stage.store.investigator_search(filter).await.unwrap();
    found.iter().map(|row| row.id).collect()
}

for_each_backend! {
    async fn actions_are_found_by_each_condition(stage) {
        let Fleet { machines, people, actions: ids } = fleet(&stage).await;
        let (one, two) = (ids[0].get(), ids[1].get());
        assert_eq!(actions(&stage, any()).await, [two, one]);
        assert_eq!(actions(&stage, SearchFilter { limit: 1, offset: 1, ..any() }).await, [one]);
        for (filter, want) in [
            (SearchFilter { action: Some(one), ..any() }, vec![one]),
            (SearchFilter { action: Some(-7), ..any() }, vec![]),
            (SearchFilter { action_name: like("ACTION %"), ..any() }, vec![one]),
            (SearchFilter { action_name: like("look 100\\%"), ..any() }, vec![two]),
            (SearchFilter { threat_family: like("F"), ..any() }, vec![two, one]),
            (SearchFilter { threat_family: like("g"), ..any() }, vec![]),
            (SearchFilter { status: like("in%"), ..any() }, vec![two, one]),
            (SearchFilter { status: like("completed"), ..any() }, vec![]),
            (SearchFilter { status: like("waiting"), ..any() }, vec![]),
            (SearchFilter { investigator: Some(people[0].get()), ..any() }, vec![one]),
            (SearchFilter { investigator_name: like("%2"), ..any() }, vec![two, one]),
            (SearchFilter { agent: Some(machines[0]), agent_name: like("web1%"), ..any() }, vec![two, one]),
            (SearchFilter { agent_version: like("3%"), ..any() }, vec![]),
            (SearchFilter { after: Some(at(20)), ..any() }, vec![two]),
            (SearchFilter { before: Some(at(600_000)), ..any() }, vec![one]),
        ] {
            assert_eq!(actions(&stage, filter.clone()).await, want, "{filter:?}");
        }
        let found = stage.store.action_search(SearchFilter { action: Some(one), ..any() }).await.unwrap();
        assert_eq!(found.signers.iter().map(|row| row.id).collect::<Vec<_>>(), people);
        assert_eq!((found.actions[0].counters.success, found.actions[0].counters.sent), (1, 2));
    }

    async fn commands_are_found_with_actions_signers_and_results(stage) {
        let Fleet { machines, people, actions: ids } = fleet(&stage).await;
        let (one, two) = (ids[0].get(), ids[1].get());
        let all = [(two, machines[1]), (two, machines[0]), (one, machines[1]), (one, machines[0])];
        assert_eq!(commands(&stage, any()).await, all);
        for (page, want) in all.chunks(3).enumerate() {
            let filter = SearchFilter { limit: 3, offset: page as u64 * 3, ..any() };
            assert_eq!(commands(&stage, filter).await, want);
        }
        let found = stage.store.command_search(SearchFilter { found: Some(true), ..any() }).await.unwrap();
        let answered = &found.commands[0];
        assert_eq!((found.commands.len(), answered.command.status), (1, CommandStatus::Success));
        assert_eq!(answered.command.results.as_deref(), Some(r#"[{"foundanything":true}]"#));
        assert_eq!((answered.name.as_str(), answered.version.as_str()), ("Web1.example", "1.0"));
        assert_eq!((&answered.environment["os"], &answered.tags["operator"]), (&"linux".into(), &"IT".into()));
        assert_eq!(found.of.actions.len(), 1);
        assert_eq!(found.of.signers.iter().map(|row| row.id).collect::<Vec<_>>(), people);
        let command = answered.command.id.get();
        for (filter, want) in [
            (SearchFilter { command: Some(command), ..any() }, vec![(one, machines[0])]),
            (SearchFilter { command: Some(i64::MAX), ..any() }, vec![]),
            (SearchFilter { command: Some(3), ..any() }, vec![]),
            (SearchFilter { found: Some(false), ..any() }, vec![]),
            (SearchFilter { status: like("sent"), action: Some(one), ..any() }, vec![(one, machines[1])]),
            (SearchFilter { status: like("success"), ..any() }, vec![(one, machines[0])]),
            (SearchFilter { status: like("nothing"), ..any() }, vec![]),
            (SearchFilter { agent: Some(machines[0]), investigator: Some(people[0].get()), ..any() }, vec![(one, machines[0])]),
            (SearchFilter { agent_name: like("db\\_%"), action_name: like("look%"), ..any() }, vec![(two, machines[1])]),
            (SearchFilter { after: Some(at(30)), agent: Some(machines[0]), ..any() }, vec![(two, machines[0])]),
        ] {
            assert_eq!(commands(&stage, filter.clone()).await, want, "{filter:?}");
        }
    }

    async fn machines_are_found_by_each_condition(stage) {
        let Fleet { machines: numbers, people, actions: ids } = fleet(&stage).await;
        let [first, second] = numbers;
        stage.agent_in(9, muster_core::AgentState::Waiting, &[]).await;
        assert_eq!(machines(&stage, any()).await, [second, first], "last heard of first, none that waits");
        for (filter, want) in [
            (SearchFilter { agent: Some(first), ..any() }, vec![first]),
            (SearchFilter { agent_name: like("WEB_.EXAMPLE"), ..any() }, vec![first]),
            (SearchFilter { agent_version: like("2.%"), ..any() }, vec![second]),
            (SearchFilter { status: like("online"), ..any() }, vec![second, first]),
            (SearchFilter { status: like("%l%"), ..any() }, vec![second, first]),
            (SearchFilter { status: like("offline"), ..any() }, vec![]),
            (SearchFilter { status: like("destroyed"), ..any() }, vec![]),
            (SearchFilter { status: like("no such"), ..any() }, vec![]),
            (SearchFilter { action: Some(ids[0].get()), ..any() }, vec![second, first]),
            (SearchFilter { investigator: Some(people[0].get()), action_name: like("look%"), ..any() }, vec![]),
            (SearchFilter { after: Some(at(2)), ..any() }, vec![second]),
            (SearchFilter { before: Some(at(1)), ..any() }, vec![first]),
        ] {
            assert_eq!(machines(&stage, filter.clone()).await, want, "{filter:?}");
        }
        let row = stage.store.agent_search(SearchFilter { agent: Some(first), ..any() }, at(50)).await.unwrap().remove(0);
        let alone = stage.store.target_row(agent(1), Vec::new(), at(50)).await.unwrap().unwrap();
        assert_eq!(row, alone, "a machine is the same whoever asks");
        let query = |text: &str| TargetQuery { target: Target::parse(text).unwrap(), now: at(50), reach: Reach::Active };
        let by = async |text: &str, after, offset, limit| {
            let rows = stage.store.agent_search_target(query(text), after, offset, limit).await.unwrap();
            rows.iter().map(|row| row.number).collect::<Vec<_>>()
        };
        assert_eq!(by("os = 'linux' AND tags->>'operator' = 'IT'", 0, 0, 10).await, [first, second]);
        assert_eq!(by("name LIKE '%'", 0, 1, 10).await, [second]);
        assert_eq!(by("name LIKE '%'", 0, 0, 1).await, [first]);
        assert_eq!(by("name LIKE '%'", first, 0, 9).await, [second]);
    }

    async fn investigators_are_found_by_each_condition(stage) {
        let Fleet { machines, people: who, actions: ids } = fleet(&stage).await;
        stage.store.investigator_status_set(who[1], InvestigatorStatus::Disabled, at(9), &cause()).await.unwrap();
        assert_eq!(people(&stage, any()).await, who);
        for (filter, want) in [
            (SearchFilter { investigator: Some(who[1].get()), ..any() }, vec![who[1]]),
            (SearchFilter { investigator_name: like("Investigator 1"), ..any() }, vec![who[0]]),
            (SearchFilter { status: like("active"), ..any() }, vec![who[0]]),
            (SearchFilter { status: like("none"), ..any() }, vec![]),
            (SearchFilter { action: Some(ids[1].get()), ..any() }, vec![who[1]]),
            (SearchFilter { agent: Some(machines[0]), action_name: like("action%"), ..any() }, who.to_vec()),
            (SearchFilter { after: Some(at(9)), ..any() }, vec![who[1]]),
            (SearchFilter { before: Some(at(8)), ..any() }, vec![who[0]]),
        ] {
            assert_eq!(people(&stage, filter.clone()).await, want, "{filter:?}");
        }
    }

    async fn what_a_search_holds_stays_a_value(stage) {
        let Fleet { machines: numbers, .. } = fleet(&stage).await;
        for text in ["' OR '1'='1", "'; DROP TABLE machines; --", "$1", "?1", "%'; SELECT pg_sleep(9); --", "\\", "a\\", "[", "\u{1F600}"] {
            let filter = SearchFilter {
                action_name: like(text), agent_name: like(text), agent_version: like(text),
                investigator_name: like(text), threat_family: like(text), status: like(text), ..any()
            };
            assert_eq!(actions(&stage, filter.clone()).await, Vec::<i64>::new(), "{text}");
            assert_eq!(commands(&stage, filter.clone()).await, [], "{text}");
            assert_eq!(machines(&stage, filter.clone()).await, Vec::<i64>::new(), "{text}");
            assert_eq!(people(&stage, filter).await, [], "{text}");
        }
        let far = SearchFilter { offset: u64::MAX, ..any() };
        assert_eq!(stage.store.action_search(far).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(machines(&stage, any()).await.len(), numbers.len());
    }

    async fn results_beyond_what_an_answer_holds_are_named_and_left_out(stage) {
        let Fleet { actions: ids, machines, .. } = fleet(&stage).await;
        let half = usize::try_from(limits::SEARCH_RESULT_BYTES_MAX / 2 + 1).unwrap();
        let long = format!("[\"{}\"]", "a".repeat(half));
        for n in [1, 2] {
            let result = ResultPut {
                action: ids[1], agent: agent(n), status: CommandStatus::Success, found: false, results: long.clone(),
                signature: Vec::new(),
            };
            stage.store.command_result_put(vec![result], at(60)).await.unwrap();
        }
        let found = stage.store.command_search(SearchFilter { action: Some(ids[1].get()), ..any() }).await.unwrap();
        let [whole, cut] = &found.commands[..] else { panic!("two commands") };
        assert_eq!((whole.command.agent_number, whole.left_out_bytes), (machines[1], None));
        assert_eq!(whole.command.results.as_ref().unwrap().len(), long.len());
        assert_eq!((cut.command.results.as_ref(), cut.left_out_bytes), (None, Some(long.len() as u64)));
    }

    async fn a_signed_token_is_used_once_on_all_servers(stage) {
        let other = stage.second().await;
        let shown = |n: u8| TokenUse { digest: [n; 32], request: None };
        let (used, again) = tokio::join!(
            stage.store.signed_token_use(shown(1), at(1000), at(0)),
            other.signed_token_use(shown(1), at(1000), at(0)),
        );
        let both = [used.unwrap(), again.unwrap()];
        assert!(both.contains(&TokenUsed::First) && both.contains(&TokenUsed::Other), "exactly one is the first");
        assert_eq!(stage.store.signed_token_use(shown(2), at(1000), at(0)).await.unwrap(), TokenUsed::First);
        let last = other.signed_token_use(shown(2), at(1000), at(1000)).await.unwrap();
        assert_eq!(last, TokenUsed::Other, "kept until its last moment");
        let later = other.signed_token_use(shown(2), at(3000), at(1001)).await.unwrap();
        assert_eq!(later, TokenUsed::First, "and not for ever");
    }

    async fn a_signed_token_is_known_with_the_request_that_it_was_first_used_for(stage) {
        let other = stage.second().await;
        let ask = |request: Option<u8>| {
            let shown = TokenUse { digest: [3; 32], request: request.map(|n| [n; 32]) };
            other.signed_token_use(shown, at(1000), at(0))
        };
        assert_eq!(ask(Some(1)).await.unwrap(), TokenUsed::First);
        for (request, used) in [
            (Some(1), TokenUsed::Same),
            (Some(2), TokenUsed::Other),
            (None, TokenUsed::Other),
            // What was refused once is not let in by asking again.
            (Some(2), TokenUsed::Other),
            (Some(1), TokenUsed::Same),
        ] {
            assert_eq!(ask(request).await.unwrap(), used, "{request:?}");
        }
    }

    async fn an_investigator_is_changed_whole_or_not_at_all(stage) {
        let put = |n: u8, permissions| InvestigatorPut {
            name: format!("person {n}"), fingerprint: Some(hex(n).parse().unwrap()), public_key: None, permissions,
        };
        let admin = stage.store.investigator_put(put(1, PERMISSIONS_ADMIN), at(0), &cause()).await.unwrap();
        let other = stage.store.investigator_put(put(2, 1), at(0), &cause()).await.unwrap();
        let key = [7; 32];
        let change = InvestigatorChange {
            status: None, permissions: Some(PERMISSIONS_ALL), api_key: ApiKeyChange::Set(key),
        };
        stage.store.investigator_change(other, change, at(1), &cause()).await.unwrap();
        let row = stage.store.investigator_find_api_key(key).await.unwrap().unwrap();
        assert_eq!((row.id, row.permissions, row.modified), (other, PERMISSIONS_ALL, at(1)));
        let withdraw = InvestigatorChange { api_key: ApiKeyChange::Withdraw, ..InvestigatorChange::default() };
        stage.store.investigator_change(other, withdraw, at(2), &cause()).await.unwrap();
        assert_eq!(stage.store.investigator_find_api_key(key).await.unwrap(), None);
        let demote = InvestigatorChange { permissions: Some(1), ..InvestigatorChange::default() };
        stage.store.investigator_change(other, demote, at(3), &cause()).await.unwrap();
        let last = InvestigatorChange { status: Some(InvestigatorStatus::Disabled), ..change };
        let refused = stage.store.investigator_change(admin, last, at(4), &cause()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
        let late = InvestigatorChange { permissions: Some(1), ..change };
        let refused = stage.store.investigator_change(admin, late, at(5), &cause()).await.unwrap_err();
        assert_eq!(refused.to_string(), "will not remove last admin");
        let row = stage.store.investigator_get(admin).await.unwrap().unwrap();
        assert_eq!((row.permissions, row.has_api_key, row.modified), (PERMISSIONS_ADMIN, false, at(0)));
        let nobody = InvestigatorId::new(99).unwrap();
        let unknown = stage.store.investigator_change(nobody, InvestigatorChange::default(), at(6), &cause()).await;
        assert_eq!(unknown.unwrap_err().kind(), ErrorKind::NotFound);
        let journal = stage.store.journal_page(None, 10).await.unwrap();
        assert!(journal.iter().any(|line| line.action == "investigator.api_key"));
    }
}

/// Only PostgreSQL can be made to wait by somebody else; on SQLite, where nobody waits, the same limit ends long work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_that_takes_too_long_is_refused() {
    run_with(Backend::Postgres, |stage| async move {
        let config: tokio_postgres::Config = stage.url.parse().unwrap();
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.batch_execute("BEGIN; LOCK TABLE action_rows, machines IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let query = TargetQuery { target: Target::parse("pid = 1").unwrap(), now: at(0), reach: Reach::Active };
        let (actions, machines) =
            tokio::join!(stage.store.action_search(any()), stage.store.agent_search_target(query, 0, 0, 1));
        for refused in [actions.map(drop).unwrap_err(), machines.map(drop).unwrap_err()] {
            assert_eq!(refused.kind(), ErrorKind::Refused);
            assert!(refused.to_string().contains("took longer than 2 s"), "{refused}");
        }
        drop(client);
        connection.await.unwrap().unwrap();
        stage.store.action_search(any()).await.unwrap();
    })
    .await;
}
