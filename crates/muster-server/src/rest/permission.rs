//! Who may call which route: one table, and what is not in it is refused.

use http::Method;
use muster_engine::access::Role;

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: anybody may.
    Nothing,
    /// A token.
    Reader,
    /// A token of an administrator.
    Admin,
}

impl Need {
    /// Whether somebody of this role may.
    pub(crate) fn allows(self, role: Role) -> bool {
        match self {
            Self::Nothing | Self::Reader => true,
            Self::Admin => role == Role::Admin,
        }
    }
}

use Need::{Admin, Nothing, Reader};

/// Every route there is.
pub(crate) const TABLE: [(&str, &str, Need); 73] = [
    ("GET", "/healthz", Nothing),
    ("GET", "/readyz", Nothing),
    ("GET", "/metrics", Nothing),
    ("GET", "/api/openapi.json", Nothing),
    ("GET", "/api/v1/agents", Reader),
    ("GET", "/api/v1/agents/{id}", Reader),
    ("DELETE", "/api/v1/agents/{id}", Admin),
    ("POST", "/api/v1/agents/{id}/block", Admin),
    ("POST", "/api/v1/agents/{id}/unblock", Admin),
    ("POST", "/api/v1/agents/{id}/approve", Admin),
    ("POST", "/api/v1/agents/{id}/clone-clear", Admin),
    ("POST", "/api/v1/agents/{id}/rekey", Admin),
    ("PUT", "/api/v1/agents/{id}/labels/{label}", Admin),
    ("DELETE", "/api/v1/agents/{id}/labels/{label}", Admin),
    ("GET", "/api/v1/agents/{id}/contacts", Reader),
    ("GET", "/api/v1/agents/{id}/usage", Reader),
    ("GET", "/api/v1/events", Reader),
    ("GET", "/api/v1/dead-letters", Reader),
    ("GET", "/api/v1/enrol-tokens", Reader),
    ("POST", "/api/v1/enrol-tokens", Admin),
    ("DELETE", "/api/v1/enrol-tokens/{name}", Admin),
    ("GET", "/api/v1/messages", Reader),
    ("POST", "/api/v1/messages", Admin),
    ("GET", "/api/v1/messages/{id}", Reader),
    ("GET", "/api/v1/messages/{id}/answers", Reader),
    ("POST", "/api/v1/messages/{id}/cancel", Admin),
    ("POST", "/api/v1/messages/{id}/retry", Admin),
    ("GET", "/api/v1/broadcasts", Reader),
    ("POST", "/api/v1/broadcasts", Admin),
    ("GET", "/api/v1/broadcasts/{id}", Reader),
    ("POST", "/api/v1/broadcasts/{id}/disable", Admin),
    ("GET", "/api/v1/files", Reader),
    ("GET", "/api/v1/files/{service}/{name}", Reader),
    ("PUT", "/api/v1/files/{service}/{name}", Admin),
    ("DELETE", "/api/v1/files/{service}/{name}", Admin),
    ("GET", "/api/v1/actions", Reader),
    ("POST", "/api/v1/actions", Admin),
    ("POST", "/api/v1/actions/preview", Admin),
    ("GET", "/api/v1/actions/{id}", Reader),
    ("GET", "/api/v1/actions/{id}/preview", Reader),
    ("POST", "/api/v1/actions/{id}/sign", Admin),
    ("POST", "/api/v1/actions/{id}/cancel", Admin),
    ("POST", "/api/v1/actions/{id}/resume", Admin),
    ("GET", "/api/v1/actions/{id}/commands", Reader),
    ("GET", "/api/v1/actions/{id}/results", Reader),
    ("GET", "/api/v1/actions/{id}/late-results", Reader),
    ("GET", "/api/v1/investigators", Reader),
    ("POST", "/api/v1/investigators", Admin),
    ("GET", "/api/v1/investigators/{id}", Reader),
    ("POST", "/api/v1/investigators/{id}/disable", Admin),
    ("POST", "/api/v1/investigators/{id}/enable", Admin),
    ("PUT", "/api/v1/investigators/{id}/permissions", Admin),
    ("PUT", "/api/v1/investigators/{id}/key", Admin),
    ("PUT", "/api/v1/investigators/{id}/weight", Admin),
    ("GET", "/api/v1/agents/{id}/modules", Reader),
    ("PUT", "/api/v1/agents/{id}/modules/{module}", Admin),
    ("GET", "/api/v1/reports/{report}", Reader),
    ("GET", "/api/v1/journal/verify", Reader),
    ("GET", "/api/v1/trust", Reader),
    ("POST", "/api/v1/trust-documents", Admin),
    ("POST", "/api/v1/targets/check", Reader),
    ("GET", "/api/v1/named-targets", Reader),
    ("PUT", "/api/v1/named-targets/{name}", Admin),
    ("DELETE", "/api/v1/named-targets/{name}", Admin),
    ("GET", "/api/v1/services", Reader),
    ("GET", "/api/v1/journal", Reader),
    ("GET", "/api/v1/server", Reader),
    ("GET", "/api/v1/doctor", Reader),
    ("GET", "/api/v1/agent-trust", Reader),
    ("GET", "/api/v1/tokens", Reader),
    ("POST", "/api/v1/tokens", Admin),
    ("DELETE", "/api/v1/tokens/{name}", Admin),
    ("POST", "/api/v1/backup", Admin),
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
