//! Targets: what an expression means, and expressions that are kept under a name.

use super::Rest;
use super::agents::agent_id;
use super::input::{Json as Body, Names};
use super::problem::{Doing, Failure};
use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use muster_api::Page;
use muster_api::targets::{
    NamedTargetRequest, NamedTargetRow, TargetCheck, TargetCheckRequest, TargetMachine, TargetMistake, TargetQuestion,
};
use muster_core::limits;
use muster_core::target::{Leaf, Verdict};
use muster_engine::access::Caller;
use muster_engine::{TargetChecked, TargetSeen};
use muster_store::targets::NamedTarget;

/// Says what a target means: its mistake with its place, or whom it picks and why. Changes nothing.
#[utoipa::path(post, path = "/api/v1/targets/check", tag = "targets", request_body = TargetCheckRequest, responses((status = 200, body = TargetCheck)))]
pub(crate) async fn target_check(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<TargetCheckRequest>,
) -> Result<Json<TargetCheck>, Failure> {
    let agents = request.agents.iter().map(|agent| agent_id(agent)).collect::<Result<Vec<_>, _>>()?;
    let limit = request.limit.unwrap_or(limits::TARGET_MACHINES_SHOWN);
    let checked = rest.engine.target_check(&request.target, &agents, limit, &caller).await?;
    Ok(Json(show_checked(checked)))
}

/// Lists the targets that have names, by name.
#[utoipa::path(get, path = "/api/v1/named-targets", tag = "targets", responses((status = 200, body = Page<NamedTargetRow>)))]
pub(crate) async fn named_target_list(State(rest): State<Rest>) -> Result<Json<Page<NamedTargetRow>>, Failure> {
    let rows = rest.engine.store().named_target_list().await.doing("list the named targets")?;
    Ok(Json(rows.into_iter().map(show).collect()))
}

/// Keeps a target under a name, in the place of an older one of that name.
#[utoipa::path(put, path = "/api/v1/named-targets/{name}", tag = "targets", params(("name" = String, Path, description = "Letters, digits, `_`, `-` and `.`")),
    request_body = NamedTargetRequest, responses((status = 200, body = NamedTargetRow)))]
pub(crate) async fn named_target_put(
    State(rest): State<Rest>,
    Names(name): Names<String>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<NamedTargetRequest>,
) -> Result<Json<NamedTargetRow>, Failure> {
    let NamedTargetRequest { expression, description } = request;
    let put = rest.engine.named_target_put(&name, &expression, &description, &caller).await?;
    Ok(Json(show(put)))
}

/// Deletes a named target. What was signed with it holds what it stood for, and goes on.
#[utoipa::path(delete, path = "/api/v1/named-targets/{name}", tag = "targets", params(("name" = String, Path, description = "Its name")),
    responses((status = 204)))]
pub(crate) async fn named_target_delete(
    State(rest): State<Rest>,
    Names(name): Names<String>,
    Extension(caller): Extension<Caller>,
) -> Result<StatusCode, Failure> {
    rest.engine.named_target_delete(&name, &caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn show(row: NamedTarget) -> NamedTargetRow {
    let NamedTarget { name, expression, description, changed, changed_by } = row;
    NamedTargetRow { name, expression, description, changed: changed.to_string(), changed_by }
}

fn show_checked(checked: TargetChecked) -> TargetCheck {
    let target = checked.text;
    match checked.found {
        Ok(found) => TargetCheck {
            target,
            error: None,
            matched: found.matched,
            reached: found.reached,
            enrolled: found.enrolled,
            compared: found.compared,
            machines: found.machines.into_iter().map(show_machine).collect(),
        },
        Err(error) => {
            let position = error.position as u64;
            let error = TargetMistake { message: error.message, position, hint: error.hint };
            let (matched, reached, enrolled, compared, machines) = (0, 0, 0, 0, Vec::new());
            TargetCheck { target, error: Some(error), matched, reached, enrolled, compared, machines }
        }
    }
}

fn show_machine(seen: TargetSeen) -> TargetMachine {
    TargetMachine {
        agent: seen.agent.to_string(),
        name: seen.name,
        status: seen.status,
        picked: seen.is_picked,
        questions: seen.leaves.into_iter().map(show_question).collect(),
    }
}

fn show_question(leaf: Leaf) -> TargetQuestion {
    let is_null = leaf.truths.may_be_null;
    let answer = (!is_null).then(|| leaf.truths.verdict() == Verdict::Matches);
    TargetQuestion { question: leaf.text, answer, value: leaf.value }
}
