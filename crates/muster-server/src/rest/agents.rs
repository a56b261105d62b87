//! Machines: lists and everything about one.

use super::Rest;
use super::input::{Args, JsonOr, Names};
use super::pages::{Paging, moment_key};
use super::problem::{Doing, Failure};
use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use muster_api::agents::{AgentDetail, AgentQuery, AgentSummary, ContactRow, Lookalike, UsageQuery, UsageRow};
use muster_api::server::PageQuery;
use muster_api::{Page, Reason};
use muster_core::{Agent, AgentId, AgentState, ContactId, Label, ResourceUsage, Timestamp, text};
use muster_engine::access::Caller;
use muster_store::agents::{self, AgentFilter};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// The fact that lists show as a machine's name.
const HOSTNAME: &str = "hostname";

/// Lists machines by id.
#[utoipa::path(get, path = "/api/v1/agents", tag = "agents", params(AgentQuery),
    responses((status = 200, body = Page<AgentSummary>)))]
pub(crate) async fn agent_list(
    State(rest): State<Rest>,
    Args(query): Args<AgentQuery>,
) -> Result<Json<Page<AgentSummary>>, Failure> {
    let paging = Paging::new("agents", query.cursor.as_deref(), query.limit)?;
    let rows = rest.engine.store().agent_page(filter(&query)?, paging.after()?, paging.rows()).await;
    let page = paging.cut(rows.doing("list agents")?, |agent| agent.id.to_string());
    let ids: Vec<_> = page.items.iter().map(|agent| agent.id).collect();
    let names = rest.engine.store().fact_of(&ids, HOSTNAME).await.doing("look up host names")?;
    let names: BTreeMap<_, _> = names.into_iter().collect();
    Ok(Json(Paging::map(page, |agent| summary(&agent, names.get(&agent.id)))))
}

/// Shows a machine with its facts.
#[utoipa::path(get, path = "/api/v1/agents/{id}", tag = "agents", params(("id" = String, Path, description = "16 hexadecimal digits")),
    responses((status = 200, body = AgentDetail)))]
pub(crate) async fn agent_get(
    State(rest): State<Rest>,
    Names(id): Names<String>,
) -> Result<Json<AgentDetail>, Failure> {
    detail(&rest, agent_id(&id)?).await.map(Json)
}

/// Deletes a machine. Its id and key stay taken; its labels, facts, contacts and pending messages go.
#[utoipa::path(delete, path = "/api/v1/agents/{id}", tag = "agents", params(("id" = String, Path, description = "16 hexadecimal digits")),
    request_body = Option<Reason>, responses((status = 204)))]
pub(crate) async fn agent_delete(
    State(rest): State<Rest>,
    Names(id): Names<String>,
    Extension(caller): Extension<Caller>,
    JsonOr(reason): JsonOr<Reason>,
) -> Result<StatusCode, Failure> {
    rest.engine.agent_delete(agent_id(&id)?, &caller.because(&reason.reason)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists a machine's contacts, newest first.
#[utoipa::path(get, path = "/api/v1/agents/{id}/contacts", tag = "agents",
    params(("id" = String, Path, description = "16 hexadecimal digits"), PageQuery), responses((status = 200, body = Page<ContactRow>)))]
pub(crate) async fn contact_list(
    State(rest): State<Rest>,
    Names(id): Names<String>,
    Args(query): Args<PageQuery>,
) -> Result<Json<Page<ContactRow>>, Failure> {
    let id = known(&rest, &id).await?.id;
    let paging = Paging::new("contacts", query.cursor.as_deref(), query.limit)?;
    let before = paging.after::<i64>()?.map(ContactId);
    let rows = rest.engine.store().contact_page(id, before, paging.rows()).await.doing("list contacts")?;
    let page = paging.cut(rows, |contact| contact.id.0.to_string());
    Ok(Json(Paging::map(page, |contact| ContactRow {
        at: contact.at.to_string(),
        address: contact.address,
        sent_nonce: format!("{:016x}", contact.sent_nonce),
        received_nonce: format!("{:016x}", contact.received_nonce),
    })))
}

/// Lists what the machine's processes used, in the order it was received; of the last day unless told.
#[utoipa::path(get, path = "/api/v1/agents/{id}/usage", tag = "agents",
    params(("id" = String, Path, description = "16 hexadecimal digits"), UsageQuery), responses((status = 200, body = Page<UsageRow>)))]
pub(crate) async fn usage_list(
    State(rest): State<Rest>,
    Names(id): Names<String>,
    Args(query): Args<UsageQuery>,
) -> Result<Json<Page<UsageRow>>, Failure> {
    let id = known(&rest, &id).await?.id;
    let paging = Paging::new("usage", query.cursor.as_deref(), query.limit)?;
    let now = rest.clock.now();
    let end = query.end.as_deref().map_or(Ok(now), |text| moment("end", text))?;
    let start = query.start.as_deref().map_or(Ok(now.minus(Duration::from_hours(24))), |text| moment("start", text))?;
    let rows = rest.engine.store().usage_page(id, start..end, paging.after_moment()?, paging.rows()).await;
    let page = paging.cut(rows.doing("list usage records")?, |(number, row)| {
        moment_key(row.received.expect("the store sets when a record was received"), number)
    });
    Ok(Json(Paging::map(page, |(_, row)| usage(row))))
}

/// Reads the id of a machine.
pub(crate) fn agent_id(text: &str) -> Result<AgentId, Failure> {
    text.parse().map_err(|error: muster_core::IdError| Failure::invalid(error.to_string()))
}

/// Reads a moment.
pub(crate) fn moment(what: &str, text: &str) -> Result<Timestamp, Failure> {
    text.parse().map_err(|error| Failure::invalid(format!("{what}: {error}")))
}

/// Returns a machine, or the failure that says that there is none.
pub(crate) async fn known(rest: &Rest, id: &str) -> Result<Agent, Failure> {
    let id = agent_id(id)?;
    let agent = rest.engine.store().agent_get(id).await.doing("look up the agent")?;
    agent.ok_or_else(|| Failure::not_found(format!("agent {id} is not known: see `muster agent list`")))
}

/// Everything about a machine.
pub(crate) async fn detail(rest: &Rest, id: AgentId) -> Result<AgentDetail, Failure> {
    let agent = known(rest, &id.to_string()).await?;
    let store = rest.engine.store();
    let facts = store.facts_get(id).await.doing("look up facts")?;
    let pending_messages = store.message_pending_count(&[id]).await.doing("count messages")?;
    let lookalikes = store.agent_lookalikes(id).await.doing("look for machines that look like it")?;
    let (facts, facts_at) = facts.map_or_else(Default::default, |(facts, at)| (facts, Some(at.to_string())));
    Ok(AgentDetail {
        summary: summary(&agent, facts.get(HOSTNAME)),
        public_key: pem("PUBLIC KEY", &agent.key),
        last_clock: agent.last_clock.map(|clock| clock.to_string()),
        nonce_splits: agent.nonce_splits,
        nonce_skips: agent.nonce_skips,
        pending_messages,
        facts,
        facts_at,
        lookalikes: lookalikes.into_iter().map(lookalike).collect(),
    })
}

fn filter(query: &AgentQuery) -> Result<AgentFilter, Failure> {
    let state = query.state.as_deref().map(|word| {
        AgentState::ALL.into_iter().find(|state| state.word() == word).ok_or_else(|| {
            let known = "enrolled, waiting, blocked, deleted, rekeying and replaced";
            Failure::invalid(format!("state: {word:?} is none of {known}"))
        })
    });
    let labels = query.labels.as_deref().unwrap_or_default().split(',').map(str::trim).filter(|text| !text.is_empty());
    let wanted = query.text.clone().unwrap_or_default();
    text::free("text", &wanted, 256).map_err(|error| Failure::invalid(error.to_string()))?;
    Ok(AgentFilter {
        state: state.transpose()?,
        labels: labels.map(label).collect::<Result<_, _>>()?,
        contact_after: query.contact_after.as_deref().map(|text| moment("contact_after", text)).transpose()?,
        text: wanted,
        clones: query.clones.unwrap_or_default(),
    })
}

/// Reads `service:label`.
pub(crate) fn label(text: &str) -> Result<Label, Failure> {
    Label::parse(text).map_err(|error| Failure::invalid(error.to_string()))
}

fn summary(agent: &Agent, hostname: Option<&Value>) -> AgentSummary {
    AgentSummary {
        id: agent.id.to_string(),
        state: agent.state.word().to_owned(),
        hostname: hostname.and_then(Value::as_str).map(str::to_owned),
        labels: agent.labels.iter().map(ToString::to_string).collect(),
        created: agent.created.to_string(),
        last_contact: agent.last_contact.to_string(),
        last_address: agent.last_address.clone(),
        streaming: !agent.streaming_to.is_empty(),
        clone_suspected: agent.clone_suspected.map(|at| at.to_string()),
        state_note: agent.state_note.clone(),
        rekey_asked: agent.rekey_asked.map(|at| at.to_string()),
        predecessor: agent.predecessor.map(|id| id.to_string()),
        successor: agent.successor.map(|id| id.to_string()),
        left: agent.left.map(|at| at.to_string()),
    }
}

fn lookalike(other: agents::Lookalike) -> Lookalike {
    Lookalike {
        id: other.id.to_string(),
        state: other.state.word().to_owned(),
        hostname: other.host_name,
        same_machine_id: other.same_machine_id,
        same_hostname: other.same_host_name,
        last_contact: other.last_contact.to_string(),
    }
}

fn usage(row: ResourceUsage) -> UsageRow {
    UsageRow {
        scope: row.scope,
        pid: row.pid,
        received: row.received.map(|at| at.to_string()),
        mean_user_cpu: row.mean_user_cpu,
        max_user_cpu: row.max_user_cpu,
        mean_system_cpu: row.mean_system_cpu,
        max_system_cpu: row.max_system_cpu,
        mean_memory_mib: row.mean_memory_mib,
        max_memory_mib: row.max_memory_mib,
        mean_fds: row.mean_fds,
        max_fds: row.max_fds,
        terminated: row.terminated,
    }
}

/// Writes DER as PEM, in lines of 64 characters (RFC 7468).
fn pem(kind: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_has_lines_of_64_characters() {
        let text = pem("PUBLIC KEY", &[0; 96]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.iter().map(|line| line.len()).collect::<Vec<_>>(), [26, 64, 64, 24]);
    }

    #[test]
    fn a_filter_names_what_it_does_not_know() {
        let query = AgentQuery { state: Some("gone".into()), ..AgentQuery::default() };
        assert!(filter(&query).unwrap_err().detail.contains("none of enrolled"));
        let query = AgentQuery { labels: Some("client:linux, web,".into()), ..AgentQuery::default() };
        assert_eq!(filter(&query).unwrap().labels, [Label::client("linux"), Label::new("operator", "web")]);
        let query = AgentQuery { text: Some("a\0".into()), ..AgentQuery::default() };
        assert!(filter(&query).is_err());
    }
}
