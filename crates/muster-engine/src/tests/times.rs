//! Times: what becomes of agents, statistics and old rows when time passes.

use super::actions::{launch, order, people, row};
use crate::EngineConfig;
use crate::testing::*;
use muster_core::action::{ActionId, ActionStatus, AgentStatus, CommandStatus};
use muster_core::{Clock, system};
use muster_store::actions::CommandFilter;
use muster_store::reports::AgentTimes;
use serde_json::json;
use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);

async fn commands(engine: &crate::Engine, id: ActionId) -> Vec<Option<String>> {
    let filter = CommandFilter { action: Some(id), ..CommandFilter::default() };
    let page = engine.store().command_page(filter, None, 10, true).await.unwrap().commands;
    page.into_iter().map(|command| command.results).collect()
}

#[tokio::test]
async fn d16_a_pending_action_whose_window_passed_ends_as_invalid() {
    let world = World::new().await;
    let engine = world.plain();
    people(&engine).await;
    poll(&engine, &machine(1)).await;
    let id = launch(&engine, &order(&world, "look", &[0])).await;
    // No server looks at it while its window is open.
    world.clock.advance(Duration::from_mins(11));
    engine.inner.actions_work().await.unwrap();
    let row = row(&engine, id).await;
    assert_eq!((row.status, row.counters.sent), (ActionStatus::Invalid, 0));
    assert!(row.reason.contains("expired before"), "{}", row.reason);
    assert!(row.finished.is_some());
    assert_eq!(poll(&engine, &machine(1)).await.messages, []);
}

#[tokio::test]
async fn rows_go_when_the_configured_time_is_over_and_actions_stay() {
    let world = World::new().await;
    let config = EngineConfig {
        command_retention: DAY * 20,
        result_retention: DAY * 10,
        session_retention: DAY * 5,
        statistics_retention: DAY * 2,
        ..EngineConfig::default()
    };
    let engine = world.engine(config, &[]);
    people(&engine).await;
    // A machine that was started twice, and counted once.
    for pid in [1, 2] {
        let now = world.clock.now().to_string();
        let facts = json!({ "agent_pid": pid, "agent_start_time": now, "agent_version": "1" }).to_string();
        tell(&engine, &machine(1), vec![say(pid, system::MUSTER, system::FACTS, facts.as_bytes())]).await;
        world.clock.advance(Duration::from_secs(10));
    }
    let sessions = async || engine.store().agent_sessions(machine(1).agent()).await.unwrap().len();
    assert_eq!(sessions().await, 2);
    engine.inner.stats_note().await.unwrap();
    let id = launch(&engine, &order(&world, "look", &[0])).await;
    engine.inner.actions_work().await.unwrap();
    poll(&engine, &machine(1)).await;
    let body = json!([id, CommandStatus::Success, [{ "foundanything": true }]]).to_string();
    tell(&engine, &machine(1), vec![say(9, system::ACTIONS, system::ACTION_RESULT, body.as_bytes())]).await;
    assert_eq!(row(&engine, id).await.status, ActionStatus::Completed);
    let after = async |time| {
        world.clock.advance(time);
        engine.inner.retention().await.unwrap();
        let statistics = engine.store().agents_stats_last().await.unwrap().is_some();
        let commands = commands(&engine, id).await;
        (statistics, sessions().await, commands.iter().flatten().count(), commands.len())
    };
    assert_eq!(after(DAY).await, (true, 2, 1, 1));
    assert_eq!(after(DAY * 2).await, (false, 2, 1, 1));
    assert_eq!(after(DAY * 3).await, (false, 1, 1, 1));
    assert_eq!(after(DAY * 5).await, (false, 1, 0, 1));
    assert_eq!(after(DAY * 10).await, (false, 1, 0, 0));
    assert_eq!(after(DAY * 1000).await, (false, 1, 0, 0));
    assert_eq!(row(&engine, id).await.counters.success, 1, "the action tells for good what came of it");
}

#[tokio::test]
async fn the_fleet_is_counted_as_often_as_configured() {
    let world = World::new().await;
    let config = EngineConfig { statistics_every: Duration::from_millis(20), ..EngineConfig::default() };
    let engine = world.engine(config, &[]);
    let running = run(&engine);
    let last = async || engine.store().agents_stats_last().await.unwrap().map(|stats| stats.at);
    until("the fleet was counted", || async { last().await.is_some() }).await;
    world.clock.advance(Duration::from_secs(1));
    let now = world.clock.now();
    until("it was counted again", || async { last().await == Some(now) }).await;
    running.end().await;
}

#[tokio::test]
async fn the_configured_times_are_the_databases_and_change_only_when_they_differ() {
    let world = World::new().await;
    let times = AgentTimes::of(Duration::from_secs(60), Duration::from_hours(1));
    let engine = world.engine(EngineConfig { agent_times: times, ..EngineConfig::default() }, &[]);
    for _ in 0..2 {
        engine.agent_times_apply().await.unwrap();
    }
    assert_eq!(engine.store().agent_times_get().await.unwrap(), times);
    let lines = engine.store().journal_page(None, 10).await.unwrap();
    assert_eq!(lines.iter().filter(|line| line.action == "agents.times").count(), 1);
    let (heard, minutes) = (world.clock.now(), |n| Duration::from_mins(n));
    let is = |silence| times.status(heard, heard.plus(silence));
    assert_eq!(is(minutes(5)), AgentStatus::Online);
    assert_eq!(is(minutes(6)), AgentStatus::Idle);
    assert_eq!(is(minutes(61)), AgentStatus::Offline);
}
