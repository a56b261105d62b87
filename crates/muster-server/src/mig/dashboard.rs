//! The dashboard: how the fleet stands, and the last actions.

use super::access::Here;
use super::actions;
use super::envelope::{Answer, Item, Refused};
use crate::rest::Rest;
use axum::Extension;
use axum::extract::State;
use muster_core::Timestamp;
use muster_store::reports::AgentsStats;
use muster_store::searches::SearchFilter;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Actions that the dashboard shows.
const ACTIONS_SHOWN: u32 = 10;

/// How old a count of the fleet may be that is shown: it is counted every few minutes, and who has just set up a fleet
/// looks here.
const FRESH: Duration = Duration::from_secs(10);

fn is_old(counted: Option<Timestamp>, now: Timestamp) -> bool {
    counted.is_none_or(|counted| counted < now.minus(FRESH))
}

/// Shows the dashboard.
pub(super) async fn dashboard(State(rest): State<Rest>, Extension(here): Extension<Here>) -> Result<Answer, Refused> {
    let store = rest.engine.store();
    let failed = |error| Refused::of_store("look how the fleet stands", &error);
    let mut stats = store.agents_stats_last().await.map_err(failed)?;
    if is_old(stats.as_ref().map(|stats| stats.at), rest.clock.now()) {
        rest.engine.fleet_count().await.map_err(failed)?;
        stats = store.agents_stats_last().await.map_err(failed)?;
    }
    let filter = SearchFilter { limit: ACTIONS_SHOWN, ..SearchFilter::default() };
    let found = store.action_search(filter).await;
    let found = found.map_err(|error| Refused::of_store("list the last actions", &error))?;
    let mut items: Vec<Item> = stats.iter().map(|stats| summary(&here, stats)).collect();
    items.extend(actions::items(&here, &found));
    Ok(Answer::of(items))
}

/// Names as MIG's console looks for them.
fn summary(here: &Here, stats: &AgentsStats) -> Item {
    Item::at(here.at("/dashboard"))
        .with("online agents", &stats.online_agents)
        .with("online agents by version", &by_version(&stats.online_agents_by_version))
        .with("online endpoints", &stats.online_endpoints)
        .with("idle agents", &stats.idle_agents)
        .with("idle agents by version", &by_version(&stats.idle_agents_by_version))
        .with("idle endpoints", &stats.idle_endpoints)
        .with("new endpoints", &stats.new_endpoints)
        .with("endpoints running 2 or more agents", &stats.multi_agents_endpoints)
        .with("disappeared endpoints", &stats.disappeared_endpoints)
        .with("flapping endpoints", &stats.flapping_endpoints)
}

/// A list of versions with their counts; `null` for none.
fn by_version(counts: &BTreeMap<String, u64>) -> Value {
    if counts.is_empty() {
        return Value::Null;
    }
    counts.iter().map(|(version, count)| json!({ "version": version, "count": count })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleet_is_counted_anew_when_the_last_count_is_old() {
        let now = Timestamp::from_secs(1000);
        let ago = |secs| Some(now.minus(Duration::from_secs(secs)));
        assert!(is_old(None, now) && is_old(ago(11), now));
        assert!(!is_old(ago(10), now) && !is_old(ago(0), now) && !is_old(Some(Timestamp::from_secs(2000)), now));
    }
}
