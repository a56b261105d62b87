//! What operators do with a machine: block, unblock, approve, rekey, label.

use super::Rest;
use super::agents::{agent_id, detail, label};
use super::input::{JsonOr, Names};
use super::messages::one_row;
use super::problem::Failure;
use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use muster_api::Reason;
use muster_api::agents::{AgentDetail, RekeyRequest};
use muster_api::messages::MessageRow;
use muster_core::{Label, label as labels};
use muster_engine::access::Caller;

/// Routes that have the engine's method of the same name done to a machine, and show how it stands then.
macro_rules! state_orders {
    ($($(#[$summary:meta])* $order:ident at $path:literal;)+) => {$(
        $(#[$summary])*
        #[utoipa::path(post, path = $path, tag = "agents",
            params(("id" = String, Path, description = "16 hexadecimal digits")),
            request_body = Option<Reason>, responses((status = 200, body = AgentDetail)))]
        pub(crate) async fn $order(
            State(rest): State<Rest>,
            Names(id): Names<String>,
            Extension(caller): Extension<Caller>,
            JsonOr(reason): JsonOr<Reason>,
        ) -> Result<Json<AgentDetail>, Failure> {
            let id = agent_id(&id)?;
            rest.engine.$order(id, &caller.because(&reason.reason)).await?;
            detail(&rest, id).await.map(Json)
        }
    )+};
}

state_orders! {
    /// Blocks a machine: its key is refused, and a new key that brings its machine id waits for approval.
    agent_block at "/api/v1/agents/{id}/block";
    /// Takes a block back.
    agent_unblock at "/api/v1/agents/{id}/unblock";
    /// Approves a machine that waits.
    agent_approve at "/api/v1/agents/{id}/approve";
    /// Forgets that two machines seemed to share this one's key.
    agent_clone_clear at "/api/v1/agents/{id}/clone-clear";
}

/// Asks a machine for a new key; it comes back under a new id. Our own agent's old key vouches for the new one, and what the
/// machine had goes over to it; one that cannot do that is asked only with `force` where new machines are not let in freely.
/// The answer is the order, as a message.
#[utoipa::path(post, path = "/api/v1/agents/{id}/rekey", tag = "agents", params(("id" = String, Path, description = "16 hexadecimal digits")),
    request_body = Option<RekeyRequest>, responses((status = 200, body = MessageRow)))]
pub(crate) async fn agent_rekey(
    State(rest): State<Rest>,
    Names(id): Names<String>,
    Extension(caller): Extension<Caller>,
    JsonOr(request): JsonOr<RekeyRequest>,
) -> Result<Json<MessageRow>, Failure> {
    let order = rest.engine.agent_rekey(agent_id(&id)?, request.force, &caller.because(&request.reason)).await?;
    one_row(&rest, order).await.map(Json)
}

/// Gives a label, `service:label` or `label` alone for one of service `operator`. Twice is once.
#[utoipa::path(put, path = "/api/v1/agents/{id}/labels/{label}", tag = "agents",
    params(("id" = String, Path, description = "16 hexadecimal digits"), ("label" = String, Path, description = "`service:label` or `label`")),
    responses((status = 204)))]
pub(crate) async fn label_put(
    State(rest): State<Rest>,
    Names((id, label)): Names<(String, String)>,
    Extension(caller): Extension<Caller>,
) -> Result<StatusCode, Failure> {
    rest.engine.agent_label_put(agent_id(&id)?, given(&label)?, &caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a label away. One that is not there is no failure.
#[utoipa::path(delete, path = "/api/v1/agents/{id}/labels/{label}", tag = "agents",
    params(("id" = String, Path, description = "16 hexadecimal digits"), ("label" = String, Path, description = "`service:label` or `label`")),
    responses((status = 204)))]
pub(crate) async fn label_delete(
    State(rest): State<Rest>,
    Names((id, label)): Names<(String, String)>,
    Extension(caller): Extension<Caller>,
) -> Result<StatusCode, Failure> {
    rest.engine.agent_label_delete(agent_id(&id)?, given(&label)?, &caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads a label that the server may give or take; what machines claim themselves is not.
pub(crate) fn given(text: &str) -> Result<Label, Failure> {
    let label = label(text)?;
    if label.service == labels::CLIENT {
        return Err(Failure::invalid(format!(
            "the label {label} belongs to what the machine says about itself: set it in the agent's configuration, or \
             give one without `client:`"
        )));
    }
    Ok(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_says_of_itself_is_not_given_by_operators() {
        assert!(given("client:linux").unwrap_err().detail.contains("agent's configuration"));
        assert_eq!(given("web").unwrap(), Label::new("operator", "web"));
        assert!(given("a\r\nb").is_err());
        assert!(given("").is_err());
    }
}
