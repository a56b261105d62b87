//! Investigators, modules, sessions, reports, statistics, and the journal's chain.

use crate::actions::{hex, investigator};
use crate::for_each_backend;
use crate::stage::*;
use muster_core::action::{AgentStatus, InvestigatorStatus};
use muster_core::{AgentState, ResourceUsage, Timestamp};
use muster_store::agents::{ContactPut, Effect};
use muster_store::investigators::{InvestigatorPut, ModuleWeight, PERMISSIONS_ADMIN, PERMISSIONS_ALL};
use muster_store::reports::{AgentTimes, Report, SESSIONS_MAX};
use muster_store::targets::{Reach, TargetQuery};
use muster_store::{AgentStore, ClusterStore, ErrorKind, InvestigatorStore, JournalStore, ReportStore, TargetStore};
use std::collections::BTreeMap;
use std::time::Duration;

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const DAY: i64 = 24 * 60 * MINUTE;

/// A usage record of the process `pid` that started at `started`, which makes it the current session.
async fn run(stage: &Stage, n: u8, pid: i64, started: Timestamp, now: Timestamp) {
    let usage = ResourceUsage { pid, process_start: Some(started), ..usage() };
    stage.contact(contact(n, now)).await;
    stage.store.usage_put(agent(n), usage, now).await.unwrap();
}

async fn lines(stage: &Stage, report: Report, now: Timestamp) -> Vec<(String, u64)> {
    let rows = stage.store.report(report, now, 0, 100).await.unwrap();
    rows.into_iter().map(|row| (row.name, row.count)).collect()
}

fn name(n: u8) -> String {
    agent(n).to_string()
}

for_each_backend! {
    async fn an_investigator_reads_back_and_has_one_fingerprint(stage) {
        let one = investigator(&stage, 0xab).await;
        let row = stage.store.investigator_get(one).await.unwrap().unwrap();
        assert_eq!((row.name.as_str(), row.status, row.permissions), ("investigator 171", InvestigatorStatus::Active, 0));
        let fingerprint = hex(0xab).to_lowercase().parse().unwrap();
        assert_eq!(stage.store.investigator_find(&fingerprint).await.unwrap(), Some(row.clone()));
        let twin = InvestigatorPut {
            name: "twin".into(), fingerprint: Some(fingerprint.clone()), public_key: None, permissions: 0,
        };
        assert_eq!(stage.store.investigator_put(twin, at(1), &cause()).await.unwrap_err().kind(), ErrorKind::Exists);
        let nameless = InvestigatorPut { name: " ".into(), fingerprint: None, public_key: None, permissions: 0 };
        assert_eq!(stage.store.investigator_put(nameless, at(1), &cause()).await.unwrap_err().kind(), ErrorKind::Invalid);
        // Somebody who only asks has no key; there may be several.
        for n in 0..2 {
            let asks = InvestigatorPut { name: format!("asks {n}"), fingerprint: None, public_key: None, permissions: 1 };
            let asks = stage.store.investigator_put(asks, at(1), &cause()).await.unwrap();
            stage.store.investigator_api_key_set(asks, Some([n; 32]), at(1), &cause()).await.unwrap();
            let found = stage.store.investigator_find_api_key([n; 32]).await.unwrap().unwrap();
            assert_eq!((found.id, found.has_api_key), (asks, true));
        }
        assert_eq!(stage.store.investigator_page(None, Some(one), 9).await.unwrap().len(), 2);
        let two = investigator(&stage, 2).await;
        let taken = stage.store.investigator_key_set(two, &fingerprint, "k", at(1), &cause()).await.unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::Exists);
        stage.store.investigator_key_set(two, &hex(3).parse().unwrap(), "k", at(1), &cause()).await.unwrap();
        assert_eq!(stage.store.investigator_get(two).await.unwrap().unwrap().public_key.as_deref(), Some("k"));
    }

    async fn the_last_administrator_stays(stage) {
        let (one, two) = (investigator(&stage, 1).await, investigator(&stage, 2).await);
        let set = async |id, permissions| stage.store.investigator_permissions_set(id, permissions, at(1), &cause()).await;
        set(one, PERMISSIONS_ALL).await.unwrap();
        assert_eq!(set(one, 1).await.unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(set(two, PERMISSIONS_ALL + 1).await.unwrap_err().kind(), ErrorKind::Invalid);
        let disable = async |id| {
            stage.store.investigator_status_set(id, InvestigatorStatus::Disabled, at(1), &cause()).await
        };
        assert_eq!(disable(one).await.unwrap_err().kind(), ErrorKind::Refused);
        set(two, PERMISSIONS_ADMIN).await.unwrap();
        let (second, by) = (stage.second().await, cause());
        let (first, other) = tokio::join!(
            disable(one),
            second.investigator_status_set(two, InvestigatorStatus::Disabled, at(1), &by)
        );
        assert!(first.is_ok() != other.is_ok(), "of two who leave at once, one stays");
        let active = stage.store.investigator_page(Some(InvestigatorStatus::Active), None, 9).await.unwrap();
        assert_eq!(active.len(), 1);
    }

    async fn what_is_said_of_modules_reads_back(stage) {
        let (agent, who) = (stage.agent(1).await, investigator(&stage, 1).await);
        stage.store.module_minimum_set(agent, "file", Some(2), at(1), &cause()).await.unwrap();
        let weight = |weight| ModuleWeight { investigator: who, agent, module: "file".into(), weight };
        stage.store.module_weight_set(weight(Some(1)), at(1), &cause()).await.unwrap();
        stage.store.module_weight_set(weight(Some(2)), at(1), &cause()).await.unwrap();
        let rules = stage.store.module_rules(&[agent]).await.unwrap();
        assert_eq!((rules.len(), rules[0].minimum, rules[0].weights.clone()), (1, Some(2), vec![(who, 2)]));
        stage.store.module_weight_set(weight(None), at(1), &cause()).await.unwrap();
        stage.store.module_minimum_set(agent, "file", None, at(1), &cause()).await.unwrap();
        assert_eq!(stage.store.module_rules(&[agent]).await.unwrap(), []);
        let missing = stage.store.module_minimum_set(crate::stage::agent(9), "file", Some(1), at(1), &cause()).await;
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    }

    async fn what_the_server_notes_stands_in_for_machines_that_never_said(stage) {
        let who = investigator(&stage, 1).await;
        for n in 1..=4 {
            stage.agent(n).await;
        }
        for n in 1..=3 {
            stage.store.module_minimum_set(agent(n), "file", Some(i64::from(n)), at(1), &cause()).await.unwrap();
        }
        let weight = ModuleWeight { investigator: who, agent: agent(4), module: "file".into(), weight: Some(1) };
        stage.store.module_weight_set(weight, at(1), &cause()).await.unwrap();
        let told = Effect::Trust(Box::default());
        let put = ContactPut { intake: vec![intake(to_server(1, agent(2), "actions"), told)], ..contact(2, at(1)) };
        stage.contact(put).await;
        let target = muster_core::target::Target::parse(crate::actions::ALL).unwrap();
        let query = TargetQuery { target, now: at(1), reach: Reach::Enrolled };
        let noted = stage.store.trust_noted(query.clone(), 9).await.unwrap();
        assert_eq!(noted.machines, 3, "machine 2 speaks for itself");
        let rules: Vec<_> = noted.rules.iter().map(|rule| (rule.agent, rule.minimum)).collect();
        assert_eq!(rules, [(agent(1), Some(1)), (agent(3), Some(3)), (agent(4), None)]);
        assert_eq!(stage.store.trust_noted(query, 1).await.unwrap().machines, 1);
    }

    async fn a_machine_that_restarts_keeps_few_sessions(stage) {
        stage.agent(1).await;
        for n in 0..40 {
            run(&stage, 1, 100 + n, at(n * MINUTE), at(n * MINUTE)).await;
            run(&stage, 1, 100 + n, at(n * MINUTE), at(n * MINUTE + 1)).await;
        }
        let sessions = stage.store.agent_sessions(agent(1)).await.unwrap();
        assert_eq!(sessions.len(), SESSIONS_MAX as usize);
        assert_eq!((sessions[0].pid, sessions[0].is_current, sessions[0].last_seen), (139, true, at(39 * MINUTE + 1)));
        assert_eq!(sessions.iter().filter(|session| session.is_current).count(), 1);
        let facts = BTreeMap::from([("agent_version".to_owned(), "1.2".into())]);
        let put = ContactPut { intake: vec![intake(to_server(1, agent(1), "s"), Effect::Facts(facts))], ..contact(1, at(DAY)) };
        stage.contact(put).await;
        assert_eq!(stage.store.agent_sessions(agent(1)).await.unwrap()[0].version, "1.2");
        assert!(stage.store.agent_session_destroy(agent(1), 139, at(DAY), &cause()).await.unwrap());
        assert!(!stage.store.agent_session_destroy(agent(1), 139, at(DAY), &cause()).await.unwrap());
    }

    async fn reports_say_who_is_away_double_and_flapping(stage) {
        for n in 1..=5 {
            stage.agent(n).await;
        }
        let now = at(20 * DAY);
        let ago = |ms: i64| now.minus(Duration::from_millis(ms.unsigned_abs()));
        stage.agent_in(6, AgentState::Waiting, &[]).await;
        stage.contact(contact(1, ago(MINUTE))).await;
        stage.contact(contact(2, ago(10 * DAY))).await;
        stage.contact(contact(3, ago(DAY))).await;
        // Two programs with one key, and one that was started anew.
        run(&stage, 4, 10, ago(2 * DAY), ago(3 * MINUTE)).await;
        run(&stage, 4, 11, ago(2 * DAY), ago(2 * MINUTE)).await;
        run(&stage, 5, 20, ago(DAY), ago(20 * MINUTE)).await;
        run(&stage, 5, 21, ago(15 * MINUTE), ago(15 * MINUTE)).await;
        stage.contact(contact(5, ago(MINUTE))).await;
        assert_eq!(lines(&stage, Report::Offline, now).await, [(name(2), 1), (name(3), 1)]);
        assert_eq!(lines(&stage, Report::Double, now).await, [], "what was started anew is one machine");
        assert_eq!(lines(&stage, Report::Flapping, now).await, [(name(4), 2), (name(5), 2)]);
        assert_eq!(lines(&stage, Report::Disappeared, now).await, [(name(3), 1)]);
        assert_eq!(lines(&stage, Report::Versions, now).await, [(String::new(), 3)]);
        let page = stage.store.report(Report::Offline, now, 1, 1).await.unwrap();
        assert_eq!(page.iter().map(|row| row.name.clone()).collect::<Vec<_>>(), [name(3)]);

        let stats = stage.store.agents_stats_put(now).await.unwrap();
        assert_eq!((stats.online_agents, stats.online_endpoints), (5, 3));
        assert_eq!((stats.idle_agents, stats.idle_endpoints), (0, 0));
        assert_eq!((stats.multi_agents_endpoints, stats.flapping_endpoints), (2, 2));
        assert_eq!(stats.disappeared_endpoints, 1);
        assert_eq!(stats.new_endpoints, 1, "machine 5 was started anew and not heard of in the week before");
        assert_eq!(stage.store.agents_stats_last().await.unwrap(), Some(stats));
    }

    async fn case_11_several_machines_of_one_name_or_machine_id_are_doubles(stage) {
        let facts = |host: &str, machine: &str| {
            Effect::Facts([("hostname".to_owned(), host.into()), ("machine_id".to_owned(), machine.into())].into())
        };
        for (n, host, machine) in [(1, "Web1.", "aa"), (2, "web1", "bb"), (3, "db1", "bb"), (4, "db2", ""), (5, "web1", "cc")] {
            stage.agent(n).await;
            let told = intake(to_server(n, agent(n), "s"), facts(host, machine));
            stage.contact(ContactPut { intake: vec![told], ..contact(n, at(MINUTE)) }).await;
        }
        stage.store.agent_state_set(agent(5), AgentState::Deleted, at(MINUTE), &cause()).await.unwrap();
        let rows = stage.store.report(Report::Double, at(2 * MINUTE), 0, 9).await.unwrap();
        let shown: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.agent, row.count)).collect();
        let of = |n| Some(agent(n));
        assert_eq!(shown, [("web1", of(1), 2), ("web1", of(2), 2), ("machine id bb", of(2), 2), ("machine id bb", of(3), 2)]);
        assert_eq!(stage.store.report(Report::Double, at(2 * DAY), 0, 9).await.unwrap(), []);
        // One that stopped in order is gone, as the other reports have it, and shares nothing with those that run.
        let last = stage.contact(contact(2, at(MINUTE + 1))).await.contact;
        stage.store.agent_left(agent(2), last, at(MINUTE + 2)).await.unwrap();
        assert_eq!(stage.store.report(Report::Double, at(2 * MINUTE), 0, 9).await.unwrap(), []);
        let gone = stage.store.report(Report::Disappeared, at(2 * MINUTE), 0, 9).await.unwrap();
        assert_eq!(gone.iter().map(|row| row.agent).collect::<Vec<_>>(), [of(2)]);
    }

    async fn an_agent_that_said_that_it_stops_is_offline_until_it_is_back(stage) {
        stage.agent(1).await;
        let first = stage.contact(contact(1, at(MINUTE))).await.contact;
        let stats = async |ms| {
            let stats = stage.store.agents_stats_put(at(ms)).await.unwrap();
            (stats.online_endpoints, stats.idle_endpoints, stats.disappeared_endpoints)
        };
        let reached = async |ms| {
            let target = muster_core::target::Target::parse("status='online'").unwrap();
            let query = TargetQuery { target, reach: Reach::Active, now: at(ms) };
            stage.store.target_count(query).await.unwrap()
        };
        assert_eq!((stats(2 * MINUTE).await, reached(2 * MINUTE).await), ((1, 0, 0), 1));
        stage.store.agent_left(agent(1), first, at(2 * MINUTE)).await.unwrap();
        assert_eq!((stats(2 * MINUTE + 1).await, reached(2 * MINUTE + 1).await), ((0, 0, 1), 0));
        let row = stage.store.target_row(agent(1), vec![], at(2 * MINUTE + 1)).await.unwrap().unwrap();
        assert_eq!(row.status, "offline");
        stage.contact(contact(1, at(3 * MINUTE))).await;
        assert_eq!((stats(3 * MINUTE).await, reached(3 * MINUTE).await), ((1, 0, 0), 1));
        stage.store.agent_left(agent(1), first, at(3 * MINUTE)).await.unwrap();
        assert_eq!(reached(4 * MINUTE).await, 1, "it has been back since");
    }

    async fn d16_new_endpoints_are_right_at_each_run(stage) {
        stage.agent(1).await;
        let new = async |now: i64| stage.store.agents_stats_put(at(now)).await.unwrap().new_endpoints;
        // The original counts once an hour and stores zeroes between.
        for minute in 1..=3 {
            stage.contact(contact(1, at(minute * MINUTE))).await;
            assert_eq!(new(minute * MINUTE).await, 1, "minute {minute}");
        }
        stage.agent(2).await;
        stage.contact(contact(2, at(4 * MINUTE))).await;
        assert_eq!(new(4 * MINUTE).await, 2);
        // Whoever was heard of more than a day ago is not new, however often it is counted.
        for n in 1..=2 {
            stage.contact(contact(n, at(DAY + 10 * MINUTE))).await;
        }
        for minute in 10..=12 {
            assert_eq!(new(DAY + minute * MINUTE).await, 0, "a day and {minute} minutes");
        }
    }

    async fn times_follow_the_heartbeat_and_the_timeout(stage) {
        assert_eq!(stage.store.agent_times_get().await.unwrap(), AgentTimes::default());
        let minutes = |of: AgentTimes| (of.idle_after.as_secs() / 60, of.offline_after.as_secs() / 60);
        let times = |heartbeat, timeout| AgentTimes::of(Duration::from_mins(heartbeat), Duration::from_mins(timeout));
        assert_eq!(minutes(times(5, 20)), (25, 26));
        assert_eq!(minutes(times(1, 20)), (5, 20));
        assert_eq!(minutes(times(10, 600)), (50, 600));
    }

    async fn agents_become_idle_and_offline_by_configured_times(stage) {
        stage.agent(1).await;
        let times = stage.store.agent_times_get().await.unwrap();
        assert_eq!(times, AgentTimes::default());
        let judged = |times: AgentTimes, ms| times.status(at(0), at(ms));
        assert_eq!(judged(times, 25 * MINUTE), AgentStatus::Online);
        assert_eq!(judged(times, 25 * MINUTE + 1), AgentStatus::Idle);
        assert_eq!(judged(times, 25 * MINUTE + 87 * SECOND + 1), AgentStatus::Offline);
        let short = AgentTimes { idle_after: Duration::from_secs(1), offline_after: Duration::from_secs(2) };
        stage.store.agent_times_set(short, at(0), &cause()).await.unwrap();
        assert_eq!(stage.store.agent_times_get().await.unwrap(), short);
        for (ms, online, idle) in [(1000, 1, 0), (1001, 0, 1), (2000, 0, 1), (2001, 0, 0)] {
            let stats = stage.store.agents_stats_put(at(ms)).await.unwrap();
            assert_eq!((stats.online_endpoints, stats.idle_endpoints), (online, idle), "{ms}");
        }
        let wrong = AgentTimes { idle_after: Duration::from_secs(3), ..short };
        assert_eq!(stage.store.agent_times_set(wrong, at(0), &cause()).await.unwrap_err().kind(), ErrorKind::Invalid);
        let number = stage.store.agent_numbers(&[agent(1), agent(9)]).await.unwrap();
        assert_eq!(number.len(), 1);
        assert_eq!(stage.store.agent_by_number(number[0].1).await.unwrap(), Some(agent(1)));
        assert_eq!(stage.store.agent_by_number(99).await.unwrap(), None);
    }

    async fn a_journal_that_nobody_touched_verifies_in_pages(stage) {
        for n in 0..7 {
            stage.store.setting_put(&format!("s{n}"), vec![], at(n), &cause()).await.unwrap();
        }
        let mut after = None;
        let mut lines = 0;
        loop {
            let page = stage.store.journal_verify(after, 3).await.unwrap();
            assert_eq!(page.fault, None);
            lines += page.lines;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(lines, 7);
        let second = stage.second().await;
        let stores = [stage.store.clone(), second];
        let writers: Vec<_> = (0..20).map(|n| {
            let store = stores[n % 2].clone();
            tokio::spawn(async move { store.setting_put("x", vec![], at(0), &cause()).await.unwrap() })
        }).collect();
        for writer in writers {
            writer.await.unwrap();
        }
        let verified = stage.store.journal_verify(None, 100).await.unwrap();
        assert_eq!((verified.lines, verified.fault), (27, None));
    }
}
