//! Investigators: people whose signatures make machines act, and what the server notes of their weight.

use super::Rest;
use super::actions::{investigator_id, word};
use super::agents::agent_id;
use super::input::{Args, Json as Body, JsonOr, Names};
use super::pages::Paging;
use super::problem::{Doing, Failure};
use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use muster_api::investigators::{
    InvestigatorQuery, InvestigatorRequest, InvestigatorRow, KeyRequest, MinimumRequest, ModuleRuleRow,
    PermissionsRequest, WeightRequest, WeightRow,
};
use muster_api::{Page, Reason};
use muster_core::action::{InvestigatorId, InvestigatorStatus};
use muster_engine::access::Caller;
use muster_engine::{InvestigatorUpdate, NewInvestigator};
use muster_store::investigators::{self, ModuleWeight};

/// Lists investigators in the order of their numbers.
#[utoipa::path(get, path = "/api/v1/investigators", tag = "investigators", params(InvestigatorQuery), responses((status = 200, body = Page<InvestigatorRow>)))]
pub(crate) async fn investigator_list(
    State(rest): State<Rest>,
    Args(query): Args<InvestigatorQuery>,
) -> Result<Json<Page<InvestigatorRow>>, Failure> {
    let paging = Paging::new("investigators", query.cursor.as_deref(), query.limit)?;
    let status = query.status.as_deref().map(word).transpose()?;
    let rows = rest.engine.store().investigator_page(status, paging.after()?, paging.rows()).await;
    let page = paging.cut(rows.doing("list investigators")?, |row| row.id.to_string());
    Ok(Json(Paging::map(page, |row| InvestigatorRow { public_key: None, ..show(row) })))
}

/// Adds an investigator, active.
#[utoipa::path(post, path = "/api/v1/investigators", tag = "investigators", request_body = InvestigatorRequest, responses((status = 201, body = InvestigatorRow)))]
pub(crate) async fn investigator_create(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<InvestigatorRequest>,
) -> Result<(StatusCode, Json<InvestigatorRow>), Failure> {
    let new = NewInvestigator {
        name: request.name,
        public_key: request.public_key,
        permissions: request.permissions.unwrap_or(0),
    };
    let id = rest.engine.investigator_add(new, &caller.because(&request.reason)).await?;
    Ok((StatusCode::CREATED, Json(find(&rest, id).await?)))
}

/// Shows an investigator with the public key.
#[utoipa::path(get, path = "/api/v1/investigators/{id}", tag = "investigators", params(("id" = i64, Path, description = "The number")),
    responses((status = 200, body = InvestigatorRow)))]
pub(crate) async fn investigator_get(
    State(rest): State<Rest>,
    Names(id): Names<i64>,
) -> Result<Json<InvestigatorRow>, Failure> {
    find(&rest, investigator_id(id)?).await.map(Json)
}

/// Takes an investigator's signatures no more.
#[utoipa::path(post, path = "/api/v1/investigators/{id}/disable", tag = "investigators", params(("id" = i64, Path, description = "The number")),
    request_body = Option<Reason>, responses((status = 200, body = InvestigatorRow)))]
pub(crate) async fn investigator_disable(
    State(rest): State<Rest>,
    Names(id): Names<i64>,
    Extension(caller): Extension<Caller>,
    JsonOr(reason): JsonOr<Reason>,
) -> Result<Json<InvestigatorRow>, Failure> {
    status_set(&rest, id, InvestigatorStatus::Disabled, &caller, &reason).await
}

/// Takes an investigator's signatures again.
#[utoipa::path(post, path = "/api/v1/investigators/{id}/enable", tag = "investigators", params(("id" = i64, Path, description = "The number")),
    request_body = Option<Reason>, responses((status = 200, body = InvestigatorRow)))]
pub(crate) async fn investigator_enable(
    State(rest): State<Rest>,
    Names(id): Names<i64>,
    Extension(caller): Extension<Caller>,
    JsonOr(reason): JsonOr<Reason>,
) -> Result<Json<InvestigatorRow>, Failure> {
    status_set(&rest, id, InvestigatorStatus::Active, &caller, &reason).await
}

async fn status_set(
    rest: &Rest,
    id: i64,
    status: InvestigatorStatus,
    caller: &Caller,
    reason: &Reason,
) -> Result<Json<InvestigatorRow>, Failure> {
    let id = investigator_id(id)?;
    let update = InvestigatorUpdate { status: Some(status), ..InvestigatorUpdate::default() };
    rest.engine.investigator_update(id, update, &caller.because(&reason.reason)).await?;
    find(rest, id).await.map(Json)
}

/// Sets what an investigator may do in MIG's API.
#[utoipa::path(put, path = "/api/v1/investigators/{id}/permissions", tag = "investigators", params(("id" = i64, Path, description = "The number")),
    request_body = PermissionsRequest, responses((status = 200, body = InvestigatorRow)))]
pub(crate) async fn investigator_permissions(
    State(rest): State<Rest>,
    Names(id): Names<i64>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<PermissionsRequest>,
) -> Result<Json<InvestigatorRow>, Failure> {
    let id = investigator_id(id)?;
    let update = InvestigatorUpdate { permissions: Some(request.permissions), ..InvestigatorUpdate::default() };
    rest.engine.investigator_update(id, update, &caller.because(&request.reason)).await?;
    find(&rest, id).await.map(Json)
}

/// Replaces an investigator's key.
#[utoipa::path(put, path = "/api/v1/investigators/{id}/key", tag = "investigators", params(("id" = i64, Path, description = "The number")),
    request_body = KeyRequest, responses((status = 200, body = InvestigatorRow)))]
pub(crate) async fn investigator_key(
    State(rest): State<Rest>,
    Names(id): Names<i64>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<KeyRequest>,
) -> Result<Json<InvestigatorRow>, Failure> {
    let id = investigator_id(id)?;
    rest.engine.investigator_key_set(id, request.public_key, &caller.because(&request.reason)).await?;
    find(&rest, id).await.map(Json)
}

/// Notes what an investigator is worth on a machine. Machines decide by what they hold themselves.
#[utoipa::path(put, path = "/api/v1/investigators/{id}/weight", tag = "investigators", params(("id" = i64, Path, description = "The number")),
    request_body = WeightRequest, responses((status = 200, body = Page<ModuleRuleRow>)))]
pub(crate) async fn investigator_weight(
    State(rest): State<Rest>,
    Names(id): Names<i64>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<WeightRequest>,
) -> Result<Json<Page<ModuleRuleRow>>, Failure> {
    let agent = agent_id(&request.agent)?;
    let weight =
        ModuleWeight { investigator: investigator_id(id)?, agent, module: request.module, weight: request.weight };
    rest.engine.module_weight_set(weight, &caller.because(&request.reason)).await?;
    rules(&rest, agent).await.map(Json)
}

/// Lists what is noted of modules on a machine.
#[utoipa::path(get, path = "/api/v1/agents/{id}/modules", tag = "investigators", params(("id" = String, Path, description = "16 hexadecimal digits")),
    responses((status = 200, body = Page<ModuleRuleRow>)))]
pub(crate) async fn module_list(
    State(rest): State<Rest>,
    Names(id): Names<String>,
) -> Result<Json<Page<ModuleRuleRow>>, Failure> {
    rules(&rest, agent_id(&id)?).await.map(Json)
}

/// Notes the least weight that a machine demands for a module.
#[utoipa::path(put, path = "/api/v1/agents/{id}/modules/{module}", tag = "investigators",
    params(("id" = String, Path, description = "16 hexadecimal digits"), ("module" = String, Path, description = "The module")),
    request_body = MinimumRequest, responses((status = 200, body = Page<ModuleRuleRow>)))]
pub(crate) async fn module_minimum(
    State(rest): State<Rest>,
    Names((id, module)): Names<(String, String)>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<MinimumRequest>,
) -> Result<Json<Page<ModuleRuleRow>>, Failure> {
    let agent = agent_id(&id)?;
    rest.engine.module_minimum_set(agent, &module, request.minimum, &caller.because(&request.reason)).await?;
    rules(&rest, agent).await.map(Json)
}

async fn rules(rest: &Rest, agent: muster_core::AgentId) -> Result<Page<ModuleRuleRow>, Failure> {
    let rules = rest.engine.store().module_rules(&[agent]).await.doing("look up the weights")?;
    let show = |rule: investigators::ModuleRule| ModuleRuleRow {
        module: rule.module,
        minimum: rule.minimum,
        weights: rule.weights.into_iter().map(|(who, weight)| WeightRow { investigator: who.get(), weight }).collect(),
    };
    Ok(rules.into_iter().map(show).collect())
}

async fn find(rest: &Rest, id: InvestigatorId) -> Result<InvestigatorRow, Failure> {
    let row = rest.engine.store().investigator_get(id).await.doing("look up the investigator")?;
    row.map(show).ok_or_else(|| Failure::not_found(format!("investigator {id} is not known")))
}

fn show(row: investigators::InvestigatorRow) -> InvestigatorRow {
    InvestigatorRow {
        id: row.id.get(),
        name: row.name,
        fingerprint: row.fingerprint.map(|fingerprint| fingerprint.to_string()),
        status: row.status.to_string(),
        permissions: row.permissions,
        created: row.created.to_string(),
        modified: row.modified.to_string(),
        public_key: row.public_key,
    }
}
