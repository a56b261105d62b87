//! Investigators: shown, added and changed.

use super::access::Here;
use super::body::Form;
use super::envelope::{Answer, Item, Refused};
use super::query::Params;
use super::show;
use crate::rest::Rest;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use muster_core::action::{Fingerprint, InvestigatorId, InvestigatorStatus};
use muster_engine::access::{Caller, MIG_PERMISSIONS};
use muster_engine::{ApiKey, InvestigatorUpdate, NewInvestigator};
use muster_store::investigators::InvestigatorRow;
use std::collections::BTreeMap;

/// Gives out a public key, as bare text.
pub(super) async fn public_key(State(rest): State<Rest>, Path(fingerprint): Path<String>) -> Result<Response, Refused> {
    let Ok(fingerprint) = fingerprint.parse::<Fingerprint>() else {
        return Ok((StatusCode::NOT_FOUND, "there is no such key\n").into_response());
    };
    let row = rest.engine.store().investigator_find(&fingerprint).await;
    let row = row.map_err(|error| Refused::of_store("look up the key", &error))?;
    Ok(match row.and_then(|row| row.public_key) {
        Some(key) => key.into_response(),
        None => (StatusCode::NOT_FOUND, "there is no such key\n").into_response(),
    })
}

/// Shows an investigator with the public key.
pub(super) async fn investigator(
    State(rest): State<Rest>,
    Extension(here): Extension<Here>,
    params: Params,
) -> Result<Answer, Refused> {
    let id = params.id("investigatorid", "Investigator")?;
    let row = find(&rest, id).await?;
    Ok(Answer::of(vec![item(&here, &row).with("investigator", &show::person_alone(&row, None))]))
}

async fn find(rest: &Rest, id: i64) -> Result<InvestigatorRow, Refused> {
    let unknown = || Refused::not_found(format!("Investigator ID '{id}' not found"));
    let row = rest.engine.store().investigator_get(InvestigatorId::new(id).map_err(|_| unknown())?).await;
    let row = row.map_err(|error| Refused::of_store("look up the investigator", &error))?;
    row.ok_or_else(unknown)
}

fn item(here: &Here, row: &InvestigatorRow) -> Item {
    let history = format!("/search?type=action&investigatorid={}&limit=100", row.id);
    Item::at(here.at(format_args!("/investigator?investigatorid={}", row.id)))
        .linked("investigator history", here.at(history))
}

/// Investigators as items.
pub(super) fn items(here: &Here, rows: &[InvestigatorRow]) -> Vec<Item> {
    rows.iter().map(|row| item(here, row).with("investigator", &show::person(row))).collect()
}

/// Adds an investigator.
pub(super) async fn create(
    State(rest): State<Rest>,
    Extension(here): Extension<Here>,
    Extension(caller): Extension<Caller>,
    Form(form): Form,
) -> Result<Answer, Refused> {
    let new = NewInvestigator {
        name: form.need("name")?.to_owned(),
        public_key: form.get("publickey").map(str::to_owned),
        permissions: form.get("permissions").map(permissions).transpose()?.unwrap_or(0),
    };
    let id = rest.engine.investigator_add(new, &caller).await?;
    let row = find(&rest, id.get()).await?;
    let item = item(&here, &row).with(format!("Investigator ID {id}"), &show::person_alone(&row, None));
    Ok(Answer::done(StatusCode::CREATED, item))
}

/// Changes an investigator: status, permissions, API key, all that is given or nothing. A new API key is shown this once.
pub(super) async fn update(
    State(rest): State<Rest>,
    Extension(here): Extension<Here>,
    Extension(caller): Extension<Caller>,
    Form(form): Form,
) -> Result<Answer, Refused> {
    let id = form.id("id", "Investigator")?;
    find(&rest, id).await?;
    let status = form.get("status").map(str::parse::<InvestigatorStatus>).transpose();
    let update = InvestigatorUpdate {
        status: status.map_err(|error| Refused::invalid(error.to_string()))?,
        permissions: form.get("permissions").map(permissions).transpose()?,
        api_key: form.get("apikey").map(api_key).transpose()?,
    };
    if update == InvestigatorUpdate::default() {
        return Err(Refused::invalid("Missing parameter 'status', 'permissions' or 'apikey'"));
    }
    let of = InvestigatorId::new(id).map_err(|error| Refused::invalid(error.to_string()))?;
    let key = rest.engine.investigator_update(of, update, &caller).await?;
    let row = find(&rest, id).await?;
    let shown = show::person_alone(&row, key.as_deref());
    Ok(Answer::of(vec![item(&here, &row).with(format!("Investigator ID {id}"), &shown)]))
}

fn api_key(word: &str) -> Result<ApiKey, Refused> {
    match word {
        "active" => Ok(ApiKey::Issue),
        "disabled" => Ok(ApiKey::Withdraw),
        _ => Err(Refused::invalid("the parameter 'apikey' must be active or disabled")),
    }
}

/// Reads permissions: an object of names and truth values; what is not named is not given.
fn permissions(json: &str) -> Result<u32, Refused> {
    let named: BTreeMap<String, bool> = serde_json::from_str(json)
        .map_err(|error| Refused::invalid(format!("the parameter 'permissions' cannot be read: {error}")))?;
    let mut bits = 0;
    for (name, is_given) in named {
        let known = MIG_PERMISSIONS.iter().find(|(known, ..)| *known == name);
        let (_, bit, _) = known.ok_or_else(|| Refused::invalid(format!("there is no permission '{name:.64}'")))?;
        bits |= if is_given { *bit } else { 0 };
    }
    Ok(bits)
}
