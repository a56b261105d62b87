//! Agents, shown.

use super::access::Here;
use super::envelope::{Answer, Item, Refused};
use super::query::Params;
use super::show;
use crate::rest::Rest;
use axum::Extension;
use axum::extract::State;
use muster_core::target::FleetRow;
use muster_store::searches::SearchFilter;

/// Shows an agent.
pub(super) async fn agent(
    State(rest): State<Rest>,
    Extension(here): Extension<Here>,
    params: Params,
) -> Result<Answer, Refused> {
    let id = params.id("agentid", "Agent")?;
    let filter = SearchFilter { agent: Some(id), limit: 1, ..SearchFilter::default() };
    let rows = rest.engine.store().agent_search(filter, rest.clock.now()).await;
    let rows = rows.map_err(|error| Refused::of_store("look up the agent", &error))?;
    if rows.is_empty() {
        return Err(Refused::not_found(format!("Agent ID '{id}' not found")));
    }
    Ok(Answer::of(items(&here, &rows)))
}

/// Agents as items.
pub(super) fn items(here: &Here, rows: &[FleetRow]) -> Vec<Item> {
    let item = |row: &FleetRow| {
        Item::at(here.at(format_args!("/agent?agentid={}", row.number))).with("agent", &show::agent(row))
    };
    rows.iter().map(item).collect()
}
