//! Which permission a route asks for: one table, and what is not in it is refused. What permissions mean, and who holds
//! them, is the engine's.

use http::Method;
use muster_engine::access::Permission;

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: anybody may.
    Nothing,
    /// A caller with this permission.
    Permission(Permission),
}

use Need::Nothing;
use Permission::{
    ActionsCancel, ActionsLaunch, ActionsRead, AgentsApprove, AgentsBlock, AgentsDelete, AgentsRead, AgentsRekey,
    BackupTake, BroadcastsRead, BroadcastsWrite, EnrolmentRead, EnrolmentWrite, EventsRead, FilesRead, FilesWrite,
    InvestigatorsAdd, InvestigatorsChange, InvestigatorsRead, JournalRead, LabelsWrite, MessagesCancel, MessagesRead,
    MessagesSend, ResultsRead, ServerRead, TargetsWrite, TokensRead, TokensWrite, TrustRead, TrustWrite,
};

const fn may(permission: Permission) -> Need {
    Need::Permission(permission)
}

/// Every route there is.
pub(crate) const TABLE: [(&str, &str, Need); 73] = [
    ("GET", "/healthz", Nothing),
    ("GET", "/readyz", Nothing),
    ("GET", "/metrics", Nothing),
    ("GET", "/api/openapi.json", Nothing),
    ("GET", "/api/v1/agents", may(AgentsRead)),
    ("GET", "/api/v1/agents/{id}", may(AgentsRead)),
    ("DELETE", "/api/v1/agents/{id}", may(AgentsDelete)),
    ("POST", "/api/v1/agents/{id}/block", may(AgentsBlock)),
    ("POST", "/api/v1/agents/{id}/unblock", may(AgentsBlock)),
    ("POST", "/api/v1/agents/{id}/approve", may(AgentsApprove)),
    ("POST", "/api/v1/agents/{id}/clone-clear", may(AgentsRekey)),
    ("POST", "/api/v1/agents/{id}/rekey", may(AgentsRekey)),
    ("PUT", "/api/v1/agents/{id}/labels/{label}", may(LabelsWrite)),
    ("DELETE", "/api/v1/agents/{id}/labels/{label}", may(LabelsWrite)),
    ("GET", "/api/v1/agents/{id}/contacts", may(AgentsRead)),
    ("GET", "/api/v1/agents/{id}/usage", may(AgentsRead)),
    ("GET", "/api/v1/events", may(EventsRead)),
    ("GET", "/api/v1/dead-letters", may(EventsRead)),
    ("GET", "/api/v1/enrol-tokens", may(EnrolmentRead)),
    ("POST", "/api/v1/enrol-tokens", may(EnrolmentWrite)),
    ("DELETE", "/api/v1/enrol-tokens/{name}", may(EnrolmentWrite)),
    ("GET", "/api/v1/messages", may(MessagesRead)),
    ("POST", "/api/v1/messages", may(MessagesSend)),
    ("GET", "/api/v1/messages/{id}", may(MessagesRead)),
    ("GET", "/api/v1/messages/{id}/answers", may(MessagesRead)),
    ("POST", "/api/v1/messages/{id}/cancel", may(MessagesCancel)),
    ("POST", "/api/v1/messages/{id}/retry", may(MessagesSend)),
    ("GET", "/api/v1/broadcasts", may(BroadcastsRead)),
    ("POST", "/api/v1/broadcasts", may(BroadcastsWrite)),
    ("GET", "/api/v1/broadcasts/{id}", may(BroadcastsRead)),
    ("POST", "/api/v1/broadcasts/{id}/disable", may(BroadcastsWrite)),
    ("GET", "/api/v1/files", may(FilesRead)),
    ("GET", "/api/v1/files/{service}/{name}", may(FilesRead)),
    ("PUT", "/api/v1/files/{service}/{name}", may(FilesWrite)),
    ("DELETE", "/api/v1/files/{service}/{name}", may(FilesWrite)),
    ("GET", "/api/v1/actions", may(ActionsRead)),
    ("POST", "/api/v1/actions", may(ActionsLaunch)),
    ("POST", "/api/v1/actions/preview", may(ActionsRead)),
    ("GET", "/api/v1/actions/{id}", may(ActionsRead)),
    ("GET", "/api/v1/actions/{id}/preview", may(ActionsRead)),
    ("POST", "/api/v1/actions/{id}/sign", may(ActionsLaunch)),
    ("POST", "/api/v1/actions/{id}/cancel", may(ActionsCancel)),
    ("POST", "/api/v1/actions/{id}/resume", may(ActionsLaunch)),
    ("GET", "/api/v1/actions/{id}/commands", may(ActionsRead)),
    ("GET", "/api/v1/actions/{id}/results", may(ResultsRead)),
    ("GET", "/api/v1/actions/{id}/late-results", may(ResultsRead)),
    ("GET", "/api/v1/investigators", may(InvestigatorsRead)),
    ("POST", "/api/v1/investigators", may(InvestigatorsAdd)),
    ("GET", "/api/v1/investigators/{id}", may(InvestigatorsRead)),
    ("POST", "/api/v1/investigators/{id}/disable", may(InvestigatorsChange)),
    ("POST", "/api/v1/investigators/{id}/enable", may(InvestigatorsChange)),
    ("PUT", "/api/v1/investigators/{id}/permissions", may(InvestigatorsChange)),
    ("PUT", "/api/v1/investigators/{id}/key", may(InvestigatorsChange)),
    ("PUT", "/api/v1/investigators/{id}/weight", may(TrustWrite)),
    ("GET", "/api/v1/agents/{id}/modules", may(TrustRead)),
    ("PUT", "/api/v1/agents/{id}/modules/{module}", may(TrustWrite)),
    ("GET", "/api/v1/reports/{report}", may(AgentsRead)),
    ("GET", "/api/v1/journal/verify", may(JournalRead)),
    ("GET", "/api/v1/trust", may(TrustRead)),
    ("POST", "/api/v1/trust-documents", may(TrustWrite)),
    ("POST", "/api/v1/targets/check", may(AgentsRead)),
    ("GET", "/api/v1/named-targets", may(AgentsRead)),
    ("PUT", "/api/v1/named-targets/{name}", may(TargetsWrite)),
    ("DELETE", "/api/v1/named-targets/{name}", may(TargetsWrite)),
    ("GET", "/api/v1/services", may(ServerRead)),
    ("GET", "/api/v1/journal", may(JournalRead)),
    ("GET", "/api/v1/server", may(ServerRead)),
    ("GET", "/api/v1/doctor", may(ServerRead)),
    ("GET", "/api/v1/agent-trust", may(AgentsRead)),
    ("GET", "/api/v1/tokens", may(TokensRead)),
    ("POST", "/api/v1/tokens", may(TokensWrite)),
    ("DELETE", "/api/v1/tokens/{name}", may(TokensWrite)),
    ("POST", "/api/v1/backup", may(BackupTake)),
];

/// Finds what a route needs. A HEAD is a GET without its body.
pub(crate) fn find(method: &Method, path: &str) -> Option<Need> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    TABLE.iter().find(|(of, at, _)| *of == method.as_str() && *at == path).map(|(_, _, need)| *need)
}

/// Returns the methods that `path` takes, parted by commas; `None` when it is none of the table.
pub(crate) fn methods(path: &str) -> Option<String> {
    let methods: Vec<_> = TABLE.iter().filter(|(_, at, _)| *at == path).map(|(method, _, _)| *method).collect();
    if methods.is_empty() { None } else { Some(methods.join(", ")) }
}
