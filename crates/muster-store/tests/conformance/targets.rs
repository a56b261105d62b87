//! What targets look at, and what they match: both databases and the evaluator in muster-core say the same.

mod generated;

use crate::actions::{self, payload};
use crate::for_each_backend;
use crate::stage::*;
use muster_core::action::{ActionId, ActionStatus, CommandStatus};
use muster_core::target::{FleetRow, Target, Verdict};
use muster_core::{AgentId, AgentState, Facts, Label, Timestamp, limits};
use muster_store::actions::{ActionPut, ResultPut, Spread};
use muster_store::agents::{ContactPut, Effect};
use muster_store::targets::{NamedTarget, Reach, TargetQuery};
use muster_store::{ActionStore, ClusterStore, ErrorKind, TargetStore};
use serde_json::json;
use std::collections::BTreeSet;

const MINUTE: i64 = 60_000;
/// Machines in the fleet of the comparisons, and targets that are tried on it.
const MACHINES: u8 = 12;
const TARGETS: usize = 2000;

/// Brings facts and claimed labels of agent `n`.
async fn tell(stage: &Stage, n: u8, facts: &Facts, labels: &[&str], now: Timestamp) -> AgentId {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    let effects = [Effect::Facts(facts.clone()), Effect::ClientLabels(labels)];
    let number = |k: usize| u8::try_from(k).unwrap() + 2 * n;
    let message = |(k, effect)| intake(to_server(number(k), agent(n), "system"), effect);
    let intake = effects.into_iter().enumerate().map(message).collect();
    stage.contact(ContactPut { intake, ..contact(n, now) }).await;
    agent(n)
}

fn facts(pairs: &[(&str, serde_json::Value)]) -> Facts {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn query(text: &str, now: Timestamp) -> TargetQuery {
    let target = Target::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    TargetQuery { target, now, reach: Reach::Enrolled }
}

/// The machines that a target picks, as their numbers in these cases.
async fn picked(stage: &Stage, query: TargetQuery) -> Vec<u8> {
    let page = stage.store.target_page(query.clone(), 0, 1000).await.unwrap();
    assert_eq!(stage.store.target_count(query).await.unwrap(), page.len() as u64);
    page.iter().map(|(_, id)| id.as_bytes()[7]).collect()
}

async fn picked_by(stage: &Stage, text: &str, now: Timestamp) -> Vec<u8> {
    picked(stage, query(text, now)).await
}

/// An action whose commands on agents 1 and 2 said that they found something, and nothing.
async fn findings(stage: &Stage) -> ActionId {
    let who = actions::investigator(stage, 9).await;
    let id = actions::launch(stage, actions::order(stage, 9, &[who]).await).await;
    actions::work(&stage.store, at(MINUTE)).await;
    let result = |n, found| ResultPut {
        action: id,
        agent: agent(n),
        status: CommandStatus::Success,
        found,
        results: "[]".into(),
        signature: Vec::new(),
    };
    stage.store.command_result_put(vec![result(1, true), result(2, false)], at(MINUTE)).await.unwrap();
    id
}

/// A small fleet that differs in everything that targets can ask.
async fn fleet(stage: &Stage) {
    for n in 1..=MACHINES {
        stage.agent(n).await;
        let k = i64::from(n);
        let name = ["web1.example.org", "WEB2.example.org", "db_1", "db%1", "été", "O'Brien", "a\\b", "x\ny"];
        let mut told = vec![("fqdn", json!(name[usize::from(n) % name.len()]))];
        if n % 4 > 0 {
            told.extend([
                ("kernel", json!(["Linux", "Darwin", "Windows"][usize::from(n) % 3])),
                ("architecture", json!(["x86_64", "aarch64"][usize::from(n) % 2])),
                ("addresses", json!(["10.0.0.1", format!("10.0.0.{n}")])),
                ("agent_pid", json!(n * 3)),
                ("agent_start_time", json!(at(-k * 3600 * 1000).to_string())),
            ]);
        }
        if n % 3 == 0 {
            told.extend([("os_name", json!("Debian \"12\" é \\ GNU")), ("agent_proxy", json!("http://p"))]);
        }
        let size = format!("size:{}", ["3", "12", "-1.50", "007", "x", ""][usize::from(n) % 6]);
        let labels = ["linux", "operator:IT", &*size, "été:É", "quote:it's"];
        tell(stage, n, &facts(&told), &labels[..usize::from(n) % 6], at(k * 4 * MINUTE)).await;
    }
}

async fn rows(stage: &Stage, wanted: &[(u64, bool)], now: Timestamp) -> Vec<(u8, FleetRow)> {
    let mut rows = Vec::new();
    for n in 1..=MACHINES {
        rows.push((n, stage.store.target_row(agent(n), wanted.to_vec(), now).await.unwrap().unwrap()));
    }
    rows
}

/// Texts that a careless builder of statements would let through.
const HOSTILE: [&str; 14] = [
    "' OR '1'='1",
    "'; DROP TABLE machines; --",
    "x') OR 1=1 --",
    "\\' OR 1=1 --",
    "$1",
    "?1",
    "%s",
    "{}",
    "/* */",
    "\" OR \"\"=\"",
    "' UNION SELECT agent_id, key FROM machines --",
    "\u{2019} OR 1=1",
    " COLLATE \"C\"",
    "BIGINT",
];

for_each_backend! {
    async fn databases_and_evaluator_agree_on_what_targets_match(stage) {
        fleet(&stage).await;
        let action = findings(&stage).await.get().unsigned_abs();
        let wanted = [(action, true), (action, false), (action + 1, true), (action + 1, false)];
        let now = at(45 * MINUTE);
        let rows = rows(&stage, &wanted, now).await;
        let mut wrong = Vec::new();
        let mut sizes = BTreeSet::new();
        for target in generated::generated(action) {
            let holds = |row: &FleetRow| match target.evaluate(row, now).verdict() {
                Verdict::Matches => true,
                Verdict::DoesNotMatch => false,
                Verdict::MayMatch => target.evaluate(row, now).may_hold,
            };
            let expected: Vec<u8> = rows.iter().filter(|(_, row)| holds(row)).map(|(n, _)| *n).collect();
            let query = TargetQuery { target: target.clone(), now, reach: Reach::Enrolled };
            match stage.store.target_page(query, 0, 1000).await {
                Ok(page) => {
                    let got: Vec<u8> = page.iter().map(|(_, id)| id.as_bytes()[7]).collect();
                    if got != expected {
                        wrong.push(format!("{target}: database {got:?}, evaluator {expected:?}"));
                    }
                }
                Err(error) => wrong.push(format!("{target}: {error:?}")),
            }
            sizes.insert(expected.len());
        }
        assert!(wrong.is_empty(), "{} of {TARGETS} differ:\n{}", wrong.len(), wrong.join("\n"));
        assert!(sizes.len() > 6, "the targets pick fleets of different sizes: {sizes:?}");
    }

    async fn each_operator_matches_what_it_must(stage) {
        fleet(&stage).await;
        let action = findings(&stage).await;
        let found = |found: bool| format!(
            "id IN (SELECT agentid FROM commands, json_array_elements(commands.results) AS r WHERE actionid = {action} \
             AND r#>>'{{foundanything}}' = '{found}')"
        );
        let now = at(45 * MINUTE);
        for (text, expected) in [
            ("name ILIKE 'WEB%'".to_owned(), vec![1, 8, 9]),
            ("name LIKE 'web%'".into(), vec![8]),
            ("name LIKE 'db\\_1'".into(), vec![2, 10]),
            ("name ~ '^x.y$'".into(), vec![7]),
            ("name = 'O''Brien'".into(), vec![5]),
            ("os = 'darwin' OR pid = 6".into(), vec![1, 2, 7, 10]),
            ("os IS NULL".into(), vec![4, 8, 12]),
            ("environment->'addresses'->>1 = '10.0.0.7'".into(), vec![7]),
            ("environment#>>'{addresses,-1}' = '10.0.0.7'".into(), vec![7]),
            ("environment->>'isproxied' = 'true'".into(), vec![3, 6, 9, 12]),
            // Pieces are as they were written, and a text is no list of one.
            ("environment->>'addresses' = '[\"10.0.0.1\",\"10.0.0.7\"]'".into(), vec![7]),
            // What the whole is compared with is no document.
            ("tags::text = '10.0.0.1' AND tags->>'operator' = 'IT'".into(), NONE.to_vec()),
            ("environment#>>'{addresses}' LIKE '%\"10.0.0.7\"%'".into(), vec![7]),
            ("environment->>'modules' = '[]'".into(), (1..=12).collect()),
            ("environment#>>'{}' LIKE '%\"10.0.0.1\",\"10.0.0.7\"%'".into(), vec![7]),
            ("environment->'ident'->>0 IS NULL AND environment#>>'{ident,0}' IS NULL".into(), (1..=12).collect()),
            ("(tags->>'size')::numeric > 5".into(), vec![3, 9]),
            ("tags->>'size' > '5'".into(), vec![4, 10]),
            ("tags->>'quote' = 'it''s'".into(), vec![5, 11]),
            ("starttime < NOW() - INTERVAL '11 hours'".into(), vec![11]),
            ("heartbeattime >= NOW() - INTERVAL '5 minutes'".into(), vec![10, 11, 12]),
            ("environment->>'publicip' = '127.0.0.1'".into(), (1..=12).collect()),
            ("destructiontime > NOW() AND refreshtime <= NOW()".into(), (1..=11).collect()),
            ("status IN ('idle', 'offline')".into(), vec![1, 2, 3, 4]),
            (found(true), vec![1]),
            (found(false), vec![2]),
            (format!("NOT {}", found(true)), (2..=12).collect()),
        ] {
            assert_eq!(picked_by(&stage, &text, now).await, expected, "{text}");
        }
    }

    async fn hostile_texts_are_values_and_nothing_else(stage) {
        for (n, text) in (1..).zip(HOSTILE) {
            stage.agent(n).await;
            let told = facts(&[("fqdn", json!(text)), ("addresses", json!([text]))]);
            tell(&stage, n, &told, &[&format!("{text}:{text}"), "all"], at(0)).await;
        }
        for (n, text) in (1..).zip(HOSTILE) {
            let quoted = text.replace('\'', "''");
            for target in [
                format!("name = '{quoted}'"),
                format!("name IN ('{quoted}', 'none')"),
                format!("name BETWEEN '{quoted}' AND '{quoted}'"),
                format!("name LIKE '{}'", quoted.replace('\\', "\\\\").replace('%', "\\%")),
                format!("tags->>'{}' IS NOT NULL", quoted.split(':').next().unwrap()),
                format!("environment->'addresses'->>0 = '{quoted}'"),
                format!("(environment->'addresses')::text = '{}'", json!([text]).to_string().replace('\'', "''")),
            ] {
                assert_eq!(picked_by(&stage, &target, at(0)).await, [n], "{target}");
            }
            // A path of its own, which is a value too.
            assert_eq!(picked_by(&stage, &format!("environment->>'{quoted}' = 'x'"), at(0)).await, NONE);
        }
        assert_eq!(picked_by(&stage, "tags->>'all' = 'true'", at(0)).await.len(), HOSTILE.len());
    }

    async fn a_target_reaches_only_who_may_be_reached(stage) {
        for (n, state) in [(1, AgentState::Enrolled), (2, AgentState::Blocked), (3, AgentState::Waiting), (4, AgentState::Enrolled)] {
            stage.agent_in(n, state, &[Label { service: "s".into(), label: "given".into() }]).await;
        }
        stage.contact(contact(1, at(0))).await;
        let all = query("true", at(30 * MINUTE));
        assert_eq!(picked(&stage, all.clone()).await, [1, 4]);
        // Heard of half an hour ago is offline, ten minutes ago is online.
        assert_eq!(picked(&stage, TargetQuery { reach: Reach::Active, ..all.clone() }).await, NONE);
        let early = TargetQuery { reach: Reach::Active, now: at(10 * MINUTE), ..all.clone() };
        assert_eq!(picked(&stage, early).await, [1, 4]);
        assert_eq!(picked_by(&stage, "status = 'online'", at(10 * MINUTE)).await, [1, 4]);
        assert_eq!(picked_by(&stage, "status = 'idle'", at(26 * MINUTE)).await, [1, 4]);
        // Labels that the server gave are no tags.
        assert_eq!(picked_by(&stage, "tags->>'given' IS NOT NULL", at(0)).await, NONE);
        let pages = stage.store.target_page(all.clone(), 0, 1).await.unwrap();
        assert_eq!(pages.len(), 1);
        let rest = stage.store.target_page(all, pages[0].0, 9).await.unwrap();
        assert_eq!(rest.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [agent(4)]);
        assert!(stage.store.target_row(agent(9), Vec::new(), at(0)).await.unwrap().is_none());
    }

    async fn an_action_goes_to_whom_its_target_picks(stage) {
        fleet(&stage).await;
        let who = actions::investigator(&stage, 1).await;
        let put = actions::order(&stage, 1, &[who]).await;
        let action = muster_core::action::Action { target: "os = 'darwin' OR pid = 6".into(), ..put.action };
        let id = actions::launch(&stage, ActionPut { action, order: payload("o"), ..put }).await;
        actions::work(&stage.store, at(0)).await;
        let page = stage.store.command_page(
            muster_store::actions::CommandFilter { action: Some(id), ..Default::default() }, None, 100, false).await.unwrap().commands;
        let given: BTreeSet<u8> = page.iter().map(|command| command.agent.as_bytes()[7]).collect();
        assert_eq!(given, BTreeSet::from([1, 2, 7, 10]));

        // With shares and a bound it is counted first, by the same condition.
        let put = actions::order(&stage, 2, &[who]).await;
        let action = muster_core::action::Action { target: "os = 'darwin' OR pid = 6".into(), ..put.action };
        let spread = Spread { hosts_max: Some(3), ..Spread::default() };
        let id = actions::launch(&stage, ActionPut { action, spread, ..put }).await;
        actions::work(&stage.store, at(0)).await;
        let row = stage.store.action_get(id).await.unwrap().unwrap();
        assert_eq!(row.status, ActionStatus::Invalid);
        assert!(row.reason.contains("4 machines match"), "{}", row.reason);

        let put = actions::order(&stage, 3, &[who]).await;
        let action = muster_core::action::Action { target: "name = ".into(), ..put.action };
        let id = actions::launch(&stage, ActionPut { action, ..put }).await;
        actions::work(&stage.store, at(0)).await;
        let row = stage.store.action_get(id).await.unwrap().unwrap();
        assert_eq!(row.status, ActionStatus::Invalid);
        assert!(row.reason.contains("the target cannot be read"), "{}", row.reason);
    }

    async fn named_targets_read_back_and_are_bounded(stage) {
        let target = |name: &str, expression: &str| NamedTarget {
            name: name.into(), expression: expression.into(), description: "für web".into(), changed: at(1),
            changed_by: "admin".into(),
        };
        let put = async |target: NamedTarget| stage.store.named_target_put(target, &cause()).await;
        put(target("web", "name LIKE 'web%'")).await.unwrap();
        put(target("Web", "os = 'linux'")).await.unwrap();
        put(target("web", "name LIKE 'www%'")).await.unwrap();
        let all = stage.store.named_target_list().await.unwrap();
        assert_eq!(all, [target("Web", "os = 'linux'"), target("web", "name LIKE 'www%'")]);
        assert!(stage.store.named_target_delete("Web", at(2), &cause()).await.unwrap());
        assert!(!stage.store.named_target_delete("Web", at(2), &cause()).await.unwrap());
        let journal = stage.store.journal_page(None, 100).await.unwrap();
        let verbs: Vec<_> = journal.iter().map(|line| line.action.as_str()).filter(|verb| verb.starts_with("target.")).collect();
        assert_eq!(verbs, ["target.delete", "target.put", "target.put", "target.put"]);
        for n in 1..limits::NAMED_TARGETS_MAX {
            put(target(&format!("n{n}"), "true")).await.unwrap();
        }
        let one_more = put(target("one-more", "true")).await.unwrap_err();
        assert_eq!(one_more.kind(), ErrorKind::Refused);
        put(target("web", "true")).await.unwrap();
    }
}
