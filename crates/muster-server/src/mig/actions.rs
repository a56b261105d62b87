//! Actions and commands: shown, and taken in on the one way that there is.

use super::access::Here;
use super::body::Form;
use super::envelope::{Answer, Item, Refused};
use super::query::Params;
use super::show::{People, ShownAction, ShownCommand, by_id, number};
use crate::rest::Rest;
use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use muster_core::limits;
use muster_engine::access::Caller;
use muster_store::actions::{ActionRow, Spread};
use muster_store::searches::{ActionsFound, CommandsFound, SearchFilter};
use std::collections::HashMap;

/// Shows an action.
pub(super) async fn action(
    State(rest): State<Rest>,
    Extension(here): Extension<Here>,
    params: Params,
) -> Result<Answer, Refused> {
    let id = params.id("actionid", "Action")?;
    let found = find(&rest, id).await?;
    Ok(Answer::of(items(&here, &found)))
}

async fn find(rest: &Rest, id: i64) -> Result<ActionsFound, Refused> {
    let filter = SearchFilter { action: Some(id), limit: 1, ..SearchFilter::default() };
    let found = rest.engine.store().action_search(filter).await;
    let found = found.map_err(|error| Refused::of_store("look up the action", &error))?;
    if found.actions.is_empty() {
        return Err(Refused::not_found(format!("Action ID '{id}' not found")));
    }
    Ok(found)
}

/// Actions as items.
pub(super) fn items(here: &Here, found: &ActionsFound) -> Vec<Item> {
    let people = by_id(&found.signers);
    found.actions.iter().map(|row| item(here, row, &people)).collect()
}

fn item<'a>(here: &Here, row: &'a ActionRow, people: &People<'a>) -> Item {
    Item::at(address(here, row)).with("action", &ShownAction::of(row, people))
}

fn address(here: &Here, row: &ActionRow) -> String {
    here.at(format_args!("/action?actionid={}", number(row)))
}

/// Takes a signed action and launches it, as the REST API does.
pub(super) async fn create(
    State(rest): State<Rest>,
    Extension(here): Extension<Here>,
    Extension(caller): Extension<Caller>,
    Form(form): Form,
) -> Result<Answer, Refused> {
    let json = form.need("action")?;
    let spread = Spread { halt_percent: limits::ACTION_HALT_PERCENT, ..Spread::default() };
    let taken = rest.engine.action_launch(json.as_bytes(), spread, &caller).await?;
    let found = find(&rest, taken.id().get()).await?;
    let people = by_id(&found.signers);
    let shown = found.actions.first().map(|row| (address(&here, row), ShownAction::of(row, &people)));
    let (address, shown) = shown.ok_or_else(|| Refused::not_found("the action is gone"))?;
    let item = Item::at(address).with(format!("action ID {}", taken.id()), &shown);
    Ok(Answer::done(StatusCode::ACCEPTED, item))
}

/// Shows a command.
pub(super) async fn command(
    State(rest): State<Rest>,
    Extension(here): Extension<Here>,
    params: Params,
) -> Result<Answer, Refused> {
    let id = params.id("commandid", "Command")?;
    let filter = SearchFilter { command: Some(id), limit: 1, ..SearchFilter::default() };
    let found = rest.engine.store().command_search(filter).await;
    let found = found.map_err(|error| Refused::of_store("look up the command", &error))?;
    let items = command_items(&here, &found);
    if items.is_empty() {
        Err(Refused::not_found(format!("Command ID '{id}' not found")))
    } else {
        Ok(Answer::of(items))
    }
}

/// Commands as items.
pub(super) fn command_items(here: &Here, found: &CommandsFound) -> Vec<Item> {
    let people = by_id(&found.of.signers);
    let actions = &found.of.actions;
    let actions: HashMap<i64, (&ActionRow, ShownAction<'_>)> =
        actions.iter().map(|row| (number(row), (row, ShownAction::of(row, &people)))).collect();
    let item = |of| {
        let command: &muster_store::searches::CommandFound = of;
        let (row, action) = actions.get(&command.command.action.get())?;
        let here_it_is = here.at(format_args!("/command?commandid={}", command.command.id));
        let item = Item::at(here_it_is).with("command", &ShownCommand::of(command, action));
        Some(item.linked("action", address(here, row)))
    };
    found.commands.iter().filter_map(item).collect()
}
