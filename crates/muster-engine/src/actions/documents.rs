//! Documents of trust on their way to machines, and what machines believe.
//!
//! Stays true: the server vouches for no document; it looks at the form alone, so that a mistake is told to whoever sends
//! it and not by ten thousand machines. Whether a document counts is each machine's own judgement.

use crate::access::{Caller, Permission};
use crate::engine::{Engine, Inner, OperatorError};
use crate::mailbox::Line;
use muster_core::target::Target;
use muster_core::{
    Address, AgentId, Broadcast, BroadcastId, BroadcastLimit, Label, Message, MessageId, Payload, Timestamp, limits,
    system,
};
use muster_store::investigators::TrustGroup;
use muster_store::targets::{Reach, TargetQuery};
use muster_trust::document;
use serde_json::json;
use sha2::{Digest, Sha256};

/// Bytes of a document beside which a message has room for what stands around it.
const DOCUMENT_BYTES_MAX: usize = limits::MESSAGE_BYTES_MAX - 4096;

/// A document that can be sent.
#[derive(Debug, Clone)]
pub struct TrustDocument {
    /// What it is about: `investigators` or `administrators`.
    pub kind: &'static str,
    /// Which fleet and target it is for, as a word: those for other machines stay on their way beside it.
    pub scope: String,
    /// Its version.
    pub version: u64,
    /// When it stops counting.
    pub expires: Timestamp,
    /// What machines are sent.
    pub payload: Payload,
}

impl TrustDocument {
    /// The group of broadcasts in which a newer document takes the place of an older one for the same machines.
    pub fn group(&self) -> String {
        format!("trust.{}.{}", self.kind, self.scope)
    }
}

/// To which machines a document of trust goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustRecipients {
    /// To one.
    Agent(AgentId),
    /// To all that have these labels, also those that enrol later.
    Labels(Vec<Label>),
}

/// A document of trust that is on its way.
#[derive(Debug, Clone)]
pub struct TrustSent {
    /// What it is.
    pub document: TrustDocument,
    /// The message that carries it to one machine.
    pub message: Option<MessageId>,
    /// The broadcast that carries it to all.
    pub broadcast: Option<BroadcastId>,
}

impl Engine {
    /// Checks the form of a document of trust that administrators signed, and sends it. The server vouches for nothing in
    /// it: machines verify it.
    ///
    /// # Errors
    ///
    /// When the caller may not, the document is not one that any machine would take, a newer one is on its way to the same
    /// machines, or the machine is not known.
    pub async fn trust_send(
        &self,
        json: &[u8],
        recipients: TrustRecipients,
        caller: &Caller,
    ) -> Result<TrustSent, OperatorError> {
        let cause = caller.require(Permission::TrustWrite)?;
        let inner = &self.inner;
        let document = inner.trust_document(json)?;
        match recipients {
            TrustRecipients::Agent(agent) => {
                let details = json!({ "kind": document.kind, "version": document.version });
                let line = Line { cause, action: "trust.send", subject: agent.to_string(), details };
                let id = inner.message_insert(inner.trust_message(&document, agent), Some(line)).await?;
                Ok(TrustSent { document, message: Some(id), broadcast: None })
            }
            TrustRecipients::Labels(mut labels) => {
                labels.sort();
                labels.dedup();
                if labels.len() > limits::AGENT_LABELS_MAX {
                    let reason = format!("at most {} labels can be asked for", limits::AGENT_LABELS_MAX);
                    return Err(OperatorError::Invalid(reason));
                }
                inner.trust_not_older(&document, &labels).await?;
                let id = inner.broadcast_create(inner.trust_broadcast(&document, labels), cause).await?;
                Ok(TrustSent { document, message: None, broadcast: Some(id) })
            }
        }
    }
}

impl Inner {
    fn trust_message(&self, document: &TrustDocument, agent: AgentId) -> Message {
        let now = self.now();
        let (from, to) = (Address::server(system::ACTIONS), Address::agent(agent, system::ACTIONS));
        Message {
            message_type: system::TRUST_DOCUMENT.to_owned(),
            payload: Some(document.payload.clone()),
            expires: Some(document.expires),
            ..Message::new(self.message_id(now), from, to, now)
        }
    }

    /// A broadcast reaches machines that enrol later, too; a newer one of its kind takes its place.
    fn trust_broadcast(&self, document: &TrustDocument, required_labels: Vec<Label>) -> Broadcast {
        Broadcast {
            id: BroadcastId::from_bytes(self.random()),
            source: Address::server(system::ACTIONS),
            destination_service: system::ACTIONS.to_owned(),
            message_type: system::TRUST_DOCUMENT.to_owned(),
            required_labels,
            expires: Some(document.expires),
            group: document.group(),
            payload: Some(document.payload.clone()),
            limit: BroadcastLimit::Unlimited,
            sent: 0,
            allocated: 0,
            created: self.now(),
        }
    }

    fn trust_document(&self, json: &[u8]) -> Result<TrustDocument, OperatorError> {
        let look = document::look(json).map_err(|error| OperatorError::Invalid(error.to_string()))?;
        if look.signatures.is_empty() {
            let reason = "nobody has signed the document: every machine would refuse it".to_owned();
            return Err(OperatorError::Invalid(reason));
        }
        if look.expires <= self.now() {
            return Err(OperatorError::Invalid(format!("the document expired at {}", look.expires)));
        }
        if json.len() > DOCUMENT_BYTES_MAX {
            let reason = format!("the document has {} bytes; {DOCUMENT_BYTES_MAX} fit into a message", json.len());
            return Err(OperatorError::Invalid(reason));
        }
        if let document::Content::Investigators(_, acl) = &look.content {
            let have = acl.to_json().len();
            if have > limits::TRUST_REPORT_ACL_BYTES_MAX {
                let max = limits::TRUST_REPORT_ACL_BYTES_MAX;
                let reason = format!(
                    "its weights have {have} bytes: machines could report no more than {max}, and nobody would see what is in \
                     force there"
                );
                return Err(OperatorError::Invalid(reason));
            }
        }
        let kind = look.kind.as_str();
        let payload = self.outside.codec.encode_trust(json);
        let scope = Sha256::new().chain_update(&look.fleet).chain_update([0]).chain_update(&look.target).finalize();
        let scope = hex::encode(&scope[..8]);
        Ok(TrustDocument { kind, scope, version: look.version, expires: look.expires, payload })
    }

    /// Refuses a document that would take the place of a newer one on its way to the machines with `labels`: those that
    /// have the newer one refuse it, and those that enrol later would never get the newer one.
    async fn trust_not_older(&self, new: &TrustDocument, labels: &[Label]) -> Result<(), OperatorError> {
        let active = self.store.broadcast_active(Some(system::ACTIONS), self.now()).await;
        let active = active.map_err(|failure| self.operator_error("look for documents on their way", failure))?;
        let alike = active.iter().filter(|sent| sent.group == new.group() && sent.required_labels == labels);
        for sent in alike {
            let version = sent.payload.as_ref().and_then(|payload| {
                let json = self.outside.codec.decode_trust_document(payload).ok()?;
                Some(document::look(&json).ok()?.version)
            });
            if let Some(version) = version.filter(|version| *version > new.version) {
                return Err(OperatorError::Conflict(format!(
                    "version {version} of the {} is on its way already (broadcast {}), and machines that have it refuse \
                     version {}: sign it with a greater version than {version}",
                    new.kind, sent.id, new.version
                )));
            }
        }
        Ok(())
    }

    /// Says what the machines that a target picks believe, grouped by what they say.
    pub(crate) async fn trust_status(&self, target: &str) -> Result<Vec<TrustGroup>, OperatorError> {
        let (_, target) = self.target_read(target).await?;
        let target: Target =
            target.map_err(|error| OperatorError::Invalid(format!("the target cannot be read: {error}")))?;
        let query = TargetQuery { target, now: self.now(), reach: Reach::Enrolled };
        let groups = self.store.trust_groups(query).await;
        groups.map_err(|failure| self.operator_error("look what machines believe", failure))
    }
}
