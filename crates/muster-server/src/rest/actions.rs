//! Signed actions: launched, signed further, called back, looked at. Their results are in `results`.

use super::Rest;
use super::input::{Args, Json as Body, JsonOr, Names};
use super::pages::Paging;
use super::problem::{Doing, Failure};
use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use muster_api::actions::{
    ActionCounters, ActionDetail, ActionLaunched, ActionQuery, ActionRequest, ActionSummary, Beyond, CancelRequest,
    OperationDemand, Preview, PreviewDemand, PreviewRefusal, PreviewRequest, SignatureRequest, Signer,
};
use muster_api::{Page, Reason};
use muster_core::action::{ActionId, Counters, InvestigatorId};
use muster_core::{Timestamp, limits};
use muster_engine::ActionPreview;
use muster_engine::access::Caller;
use muster_store::actions::{ActionFilter, ActionRow, ActionTaken, CancelTaken, Spread};
use muster_store::investigators::InvestigatorRow;
use muster_store::targets::TargetStates;

/// Lists actions, newest first.
#[utoipa::path(get, path = "/api/v1/actions", tag = "actions", params(ActionQuery), responses((status = 200, body = Page<ActionSummary>)))]
pub(crate) async fn action_list(
    State(rest): State<Rest>,
    Args(query): Args<ActionQuery>,
) -> Result<Json<Page<ActionSummary>>, Failure> {
    let paging = Paging::new("actions", query.cursor.as_deref(), query.limit)?;
    let filter = ActionFilter {
        status: query.status.as_deref().map(word).transpose()?,
        investigator: query.investigator.map(investigator_id).transpose()?,
        name: query.name.unwrap_or_default(),
    };
    let rows = rest.engine.store().action_page(filter, paging.after()?, paging.rows()).await.doing("list actions")?;
    let page = paging.cut(rows, |row| id_of(row).to_string());
    Ok(Json(Paging::map(page, |row| summary(&row))))
}

/// Launches a signed action. It waits when no machine would run it for want of signatures. The same signed bytes again
/// are the same action.
#[utoipa::path(post, path = "/api/v1/actions", tag = "actions", request_body = ActionRequest,
    responses((status = 201, body = ActionLaunched), (status = 200, description = "It was launched before", body = ActionLaunched)))]
pub(crate) async fn action_create(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<ActionRequest>,
) -> Result<(StatusCode, Json<ActionLaunched>), Failure> {
    let spread = Spread {
        standing: request.standing,
        hosts_max: request.hosts_max,
        rings: request.rings,
        halt_percent: request.halt_percent.unwrap_or(limits::ACTION_HALT_PERCENT),
    };
    let cause = caller.because(&request.reason);
    let taken = rest.engine.action_launch(request.action.as_bytes(), spread, &cause).await?;
    let again = matches!(taken, ActionTaken::Again(_));
    let action = detail(&rest, taken.id()).await?;
    let status = if again { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(ActionLaunched { again, action })))
}

/// Says what would come of an action that is not launched. Nobody needs to have signed it: who will is said by their keys.
#[utoipa::path(post, path = "/api/v1/actions/preview", tag = "actions", request_body = PreviewRequest,
    responses((status = 200, body = Preview)))]
pub(crate) async fn action_preview(
    State(rest): State<Rest>,
    Body(request): Body<PreviewRequest>,
) -> Result<Json<Preview>, Failure> {
    let PreviewRequest { action, signers, standing, hosts_max, rings, halt_percent, reason: _ } = request;
    let halt_percent = halt_percent.unwrap_or(limits::ACTION_HALT_PERCENT);
    let spread = Spread { standing, hosts_max, rings, halt_percent };
    let preview = rest.engine.action_preview(action.as_bytes(), spread, &signers).await?;
    Ok(Json(show_preview(preview)))
}

/// Shows an action, who signed it, and how it stands.
#[utoipa::path(get, path = "/api/v1/actions/{id}", tag = "actions", params(("id" = i64, Path, description = "Its number")),
    responses((status = 200, body = ActionDetail)))]
pub(crate) async fn action_get(
    State(rest): State<Rest>,
    Names(id): Names<String>,
) -> Result<Json<ActionDetail>, Failure> {
    detail(&rest, action_id(&id)?).await.map(Json)
}

/// Says what would come of a stored action if it were launched now.
#[utoipa::path(get, path = "/api/v1/actions/{id}/preview", tag = "actions", params(("id" = i64, Path, description = "Its number")),
    responses((status = 200, body = Preview)))]
pub(crate) async fn action_preview_stored(
    State(rest): State<Rest>,
    Names(id): Names<String>,
) -> Result<Json<Preview>, Failure> {
    let preview = rest.engine.action_preview_stored(action_id(&id)?).await?;
    Ok(Json(show_preview(preview)))
}

/// Adds a signature to an action that waits for signatures.
#[utoipa::path(post, path = "/api/v1/actions/{id}/sign", tag = "actions", params(("id" = i64, Path, description = "Its number")),
    request_body = SignatureRequest, responses((status = 200, body = ActionDetail)))]
pub(crate) async fn action_sign(
    State(rest): State<Rest>,
    Names(id): Names<String>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<SignatureRequest>,
) -> Result<Json<ActionDetail>, Failure> {
    let id = action_id(&id)?;
    rest.engine.action_sign(id, &request.signature, &caller.because(&request.reason)).await?;
    detail(&rest, id).await.map(Json)
}

/// Hands an action out no more. With a signature, machines that may have it are sent that, beside those of others.
#[utoipa::path(post, path = "/api/v1/actions/{id}/cancel", tag = "actions", params(("id" = i64, Path, description = "Its number")),
    request_body = Option<CancelRequest>, responses((status = 200, body = ActionDetail)))]
pub(crate) async fn action_cancel(
    State(rest): State<Rest>,
    Names(id): Names<String>,
    Extension(caller): Extension<Caller>,
    JsonOr(request): JsonOr<CancelRequest>,
) -> Result<Json<ActionDetail>, Failure> {
    let id = action_id(&id)?;
    let signed = (!request.signature.is_empty()).then_some((request.fleet.as_str(), request.signature.as_str()));
    match rest.engine.action_cancel(id, signed, &caller.because(&request.reason)).await? {
        // The same cancellation again is the same one.
        CancelTaken::Known if signed.is_none() => Err(Failure::conflict(format!(
            "action {id} is handed out no more already. Machines that were given it may still run it: they take only a \
             cancellation that somebody signed, as `muster action cancel {id}` does with a key"
        ))),
        CancelTaken::Taken | CancelTaken::Known => detail(&rest, id).await.map(Json),
        CancelTaken::Over => Err(Failure::conflict(format!(
            "action {id} is done with, nothing of it can be called back: no machine may have its order any more, as far as \
             this server knows"
        ))),
    }
}

/// Lets an action that halted between two shares go on with the next.
#[utoipa::path(post, path = "/api/v1/actions/{id}/resume", tag = "actions", params(("id" = i64, Path, description = "Its number")),
    request_body = Option<Reason>, responses((status = 200, body = ActionDetail)))]
pub(crate) async fn action_resume(
    State(rest): State<Rest>,
    Names(id): Names<String>,
    Extension(caller): Extension<Caller>,
    JsonOr(reason): JsonOr<Reason>,
) -> Result<Json<ActionDetail>, Failure> {
    let id = action_id(&id)?;
    if !rest.engine.action_resume(id, &caller.because(&reason.reason)).await? {
        return Err(Failure::conflict(format!("action {id} is not halted")));
    }
    detail(&rest, id).await.map(Json)
}

/// Reads a number of an action.
pub(crate) fn action_id(text: &str) -> Result<ActionId, Failure> {
    text.parse().map_err(|error: muster_core::action::NumberIdError| Failure::invalid(error.to_string()))
}

/// Reads a number of an investigator.
pub(crate) fn investigator_id(number: i64) -> Result<InvestigatorId, Failure> {
    InvestigatorId::new(number).map_err(|error| Failure::invalid(error.to_string()))
}

/// Reads a word for a status.
pub(crate) fn word<T: std::str::FromStr<Err = muster_core::action::StatusError>>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|error: muster_core::action::StatusError| Failure::invalid(error.to_string()))
}

fn id_of(row: &ActionRow) -> i64 {
    row.action.id.map_or(0, ActionId::get)
}

async fn detail(rest: &Rest, id: ActionId) -> Result<ActionDetail, Failure> {
    let row = rest.engine.store().action_get(id).await.doing("look up the action")?;
    let row = row.ok_or_else(|| Failure::not_found(format!("action {id} is not known")))?;
    let mut signers = Vec::with_capacity(row.signers.len());
    for who in &row.signers {
        let known = rest.engine.store().investigator_get(*who).await.doing("look up the investigator")?;
        signers.extend(known.map(|row| signer(&row)));
    }
    let signed_text = muster_engine::signed_text(&row.action);
    Ok(ActionDetail {
        summary: summary(&row),
        signers,
        standing: row.spread.standing,
        hosts_max: row.spread.hosts_max,
        rings: row.spread.rings.clone(),
        halt_percent: row.spread.halt_percent,
        action: serde_json::to_string(&row.action).expect("texts and numbers can always be written as JSON"),
        signed_text,
        signed_sha256: hex::encode(row.signed),
    })
}

fn signer(row: &InvestigatorRow) -> Signer {
    Signer {
        investigator: row.id.get(),
        name: row.name.clone(),
        fingerprint: row.fingerprint.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn summary(row: &ActionRow) -> ActionSummary {
    let moment = |at: Option<Timestamp>| at.map(|at| at.to_string());
    ActionSummary {
        id: id_of(row),
        name: row.action.name.clone(),
        target: row.action.target.clone(),
        status: row.status.to_string(),
        reason: row.reason.clone(),
        valid_from: row.action.valid_from.to_string(),
        expire_after: row.action.expire_after.to_string(),
        created: row.created.to_string(),
        started: moment(row.started),
        finished: moment(row.finished),
        updated: row.updated.to_string(),
        halted: moment(row.halted),
        matched: row.matched,
        counters: counters(row.counters),
        late: row.late,
    }
}

fn counters(counters: Counters) -> ActionCounters {
    let Counters { sent, done, inflight, success, cancelled, expired, failed, timeout } = counters;
    ActionCounters { sent, done, inflight, success, cancelled, expired, failed, timeout }
}

fn operation_demand(demand: &muster_engine::OperationDemand) -> OperationDemand {
    OperationDemand { module: demand.module.clone(), need: demand.need, have: demand.have }
}

fn beyond(states: TargetStates) -> Beyond {
    let TargetStates { offline, waiting, blocked, rekeying, .. } = states;
    Beyond { offline, waiting, blocked, rekeying }
}

fn show_preview(preview: ActionPreview) -> Preview {
    let (ready, changes) = (preview.is_ready(), preview.changes);
    let refusals = preview.refusals.into_iter().map(|refusal| PreviewRefusal {
        code: refusal.code.to_string(),
        reason: refusal.reason,
        agents: refusal.agents,
        examples: refusal.examples.iter().map(ToString::to_string).collect(),
    });
    let demands = preview.demands.iter().map(|demand| PreviewDemand {
        said_by: demand.said_by.as_str().to_owned(),
        met: demand.is_met(),
        agents: demand.agents,
        examples: demand.examples.iter().map(ToString::to_string).collect(),
        operations: demand.operations.iter().map(operation_demand).collect(),
    });
    Preview {
        demands: demands.collect(),
        noted: preview.noted,
        signers: preview.signers.iter().map(signer).collect(),
        problems: preview.problems,
        known: preview.known.map(ActionId::get),
        matched: preview.matched,
        beyond: beyond(preview.beyond),
        asked: preview.matched - preview.unknown,
        willing: preview.willing,
        unknown: preview.unknown,
        refusals: refusals.collect(),
        ready,
        changes,
    }
}
