//! The words of the `system` service, which both ends have built in.

/// The service that carries acknowledgements, labels, usage and orders to the agent program itself.
pub const SERVICE: &str = "system";
/// The name that no service of the server may take besides [`SERVICE`], because labels use it.
pub const CLIENT: &str = "client";

/// Agent to server: ids of messages that its services have taken.
pub const MESSAGE_ACK: &str = "MessageAck";
/// Agent to server: a message that failed for good.
pub const MESSAGE_ERROR: &str = "MessageError";
/// Agent to server: labels and running services.
pub const CLIENT_INFO: &str = "ClientInfo";
/// Agent to server: what a process used.
pub const RESOURCE_USAGE: &str = "ResourceUsage";
/// Agent to server: a daemon was ended by the agent.
pub const KILL_NOTIFICATION: &str = "KillNotification";
/// Server to agent: make a new key.
pub const REKEY_REQUEST: &str = "RekeyRequest";
/// Service and name of the file with the serial numbers of revoked server certificates, which every agent asks for.
pub const REVOKED_LIST: (&str, &str) = (SERVICE, "RevokedCertificates");
/// Server to agent: end. Handed out without a token and never acknowledged.
pub const DIE: &str = "Die";
/// Server to agent: stop and start one service.
pub const RESTART_SERVICE: &str = "RestartService";

/// The service of our own agent and server: facts, and echo.
pub const MUSTER: &str = "muster";
/// Agent to server, service [`MUSTER`]: a JSON object of facts, in a `google.protobuf.BytesValue`.
pub const FACTS: &str = "Facts";
/// Server to agent, service [`MUSTER`]: asks for the body to be sent back as [`ECHO_REPLY`].
pub const ECHO: &str = "Echo";
/// Agent to server, service [`MUSTER`]: the answer to [`ECHO`]: the same body, the asked message's id as annotation
/// `in_reply_to`.
pub const ECHO_REPLY: &str = "EchoReply";
/// Server to agent, service [`MUSTER`]: asks for [`FACTS`] now.
pub const FACTS_REQUEST: &str = "FactsRequest";

/// The service of our own agent and server for signed orders; its bodies are those of `muster.actions` in muster-proto.
pub const ACTIONS: &str = "actions";
/// Server to agent, service [`ACTIONS`]: a signed order (`ActionOrder`).
pub const ACTION: &str = "Action";
/// Server to agent, service [`ACTIONS`]: calls an order back (`ActionCancel`).
pub const ACTION_CANCEL: &str = "Cancel";
/// Server to agent, service [`ACTIONS`]: a keyring or weights, signed by administrators (`TrustDocument`).
pub const TRUST_DOCUMENT: &str = "TrustDocument";
/// Server to agent, service [`ACTIONS`]: asks for [`AGENT_TRUST`] now (`TrustRequest`).
pub const TRUST_REQUEST: &str = "TrustRequest";
/// Agent to server, service [`ACTIONS`]: what came of an order (`ActionResult`).
pub const ACTION_RESULT: &str = "ActionResult";
/// Agent to server, service [`ACTIONS`]: what the machine believes and can do (`AgentTrust`).
pub const AGENT_TRUST: &str = "AgentTrust";

/// Header of the server's answer to a contact: what the machine is to it, by the word of [`crate::AgentState`]. Only our
/// own agent reads it.
pub const AGENT_STATE_HEADER: &str = "muster-agent-state";

/// A label that starts with this carries an enrolment token. It is spent at enrolment and never stored.
pub const ENROL_TOKEN_PREFIX: &str = "enrol-token:";

/// What a message from an agent to [`SERVICE`] says, once decoded.
#[derive(Debug, Clone, PartialEq)]
pub enum SystemMessage {
    /// [`MESSAGE_ACK`].
    Ack(Vec<crate::MessageId>),
    /// [`MESSAGE_ERROR`].
    Error {
        /// Which message failed.
        id: crate::MessageId,
        /// Why.
        reason: String,
    },
    /// [`CLIENT_INFO`]: the labels of service `client`; labels it claims for other services are left out.
    ClientInfo(Vec<String>),
    /// [`RESOURCE_USAGE`].
    Usage(Box<crate::ResourceUsage>),
    /// [`KILL_NOTIFICATION`].
    Kill {
        /// The service whose daemon was ended.
        service: String,
        /// Why, as a word.
        reason: String,
    },
}

/// An order of the server to the agent program itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SystemOrder {
    /// [`REKEY_REQUEST`].
    Rekey,
    /// [`DIE`]; `force` ends the agent at once.
    Die {
        /// Whether to end without an orderly stop.
        force: bool,
    },
    /// [`RESTART_SERVICE`].
    RestartService(String),
}
