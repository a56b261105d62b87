//! Identity: who becomes an agent, and what becomes of one.
//!
//! Stays true: the network's gate is passed before anything of a new machine is written; an enrolment token is known
//! here only by its hash, and spent in the transaction that uses it.

use crate::contact::{ContactFrom, Refusal, RefusalCode, deleted};
use crate::engine::{Chain, Inner, OperatorError, lock};
use crate::gates::Network;
use crate::intake::claimed_labels;
use crate::{EnrolmentPolicy, registry::wake};
use metrics::counter;
use muster_core::system::{self, SystemOrder};
use muster_core::{
    Address, AgentId, AgentState, Cause, ContactId, Handover, Introduction, Label, Message, MessageId, Timestamp,
    handover, label, limits,
};
use muster_store::agents::{Enrolled, Enrolment, Succeeded, Succession};
use muster_store::{ErrorKind, StoreError};
use sha2::{Digest, Sha256};
use tracing::{info, warn};

impl Inner {
    /// Makes a machine known, if it is not and may be.
    pub(crate) async fn enrol_unless_known(
        &self,
        agent: AgentId,
        from: &ContactFrom,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if lock(&self.known).contains(&agent) {
            return Ok(());
        }
        let known = self.store.agent_get(agent).await;
        if known.map_err(|failure| self.refusal_of("look up an agent", &failure))?.is_none() {
            self.enrol(agent, from, now).await?;
        }
        let mut known = lock(&self.known);
        if known.len() >= limits::AGENTS_REMEMBERED {
            known.clear();
        }
        known.insert(agent);
        Ok(())
    }

    async fn enrol(&self, agent: AgentId, from: &ContactFrom, now: Timestamp) -> Result<(), Refusal> {
        let shown = if from.introduction.is_empty() {
            Introduction::default()
        } else {
            self.outside.codec.decode_introduction(&from.introduction)
        };
        // What a machine claims is never proof of anything: labels that are no labels are left out, not refused.
        let labels = claimed_labels(from.labels.clone()).unwrap_or_default().into_iter().map(Label::client).collect();
        let mut enrolment = Enrolment {
            id: agent,
            key: from.key.clone(),
            labels,
            state: AgentState::Enrolled,
            token: None,
            facts: shown.facts,
            note: String::new(),
        };
        let mut why_not = "";
        if let Some(handover) = shown.handover {
            match self.succeed(&enrolment, &handover, from, now).await? {
                Vouched::Done => return Ok(()),
                Vouched::Not(why) => why_not = why,
                Vouched::ByBlocked => {
                    enrolment.state = AgentState::Waiting;
                    enrolment.note = format!("it has the old key of agent {}, which is blocked", handover.old_agent());
                }
            }
        }
        let with_old_key = |refusal: Refusal| match (why_not, refusal.code) {
            ("", _) => refusal,
            (why, RefusalCode::EnrolmentRefused) => {
                Refusal { reason: format!("{}; its old key does not let it in: {why}", refusal.reason), ..refusal }
            }
            _ => refusal,
        };
        let admission = self.admission(from).map_err(with_old_key)?;
        self.enrolment_rate(from)?;
        if admission.state == AgentState::Waiting {
            enrolment.state = AgentState::Waiting;
        }
        enrolment.token = admission.token;
        self.enrol_as(enrolment, from, now).await.map_err(with_old_key)
    }

    fn enrolment_rate(&self, from: &ContactFrom) -> Result<(), Refusal> {
        self.gates.enrolment(Network::of(&from.address)).map_err(|wait| {
            Refusal::again_after(RefusalCode::EnrolmentRate, "too many new machines from this network", wait)
        })
    }

    async fn enrol_as(&self, enrolment: Enrolment, from: &ContactFrom, now: Timestamp) -> Result<(), Refusal> {
        let agent = enrolment.id;
        let enrolled = self.store.agent_enrol(enrolment, now).await;
        match enrolled.map_err(|failure| self.refusal_of("enrol an agent", &failure))? {
            Enrolled::Yes(known) => {
                counter!("muster_engine_enrolments_total", "state" => known.state.word()).increment(1);
                info!(agent.id = %agent, address = from.address, "agent {agent} is new and {}", known.state);
                if known.state == AgentState::Waiting && !known.state_note.is_empty() {
                    let text = format!("a new key waits for approval: {}", known.state_note);
                    self.security_event(LOOKS_BLOCKED, agent, &from.address, &text).await;
                }
                Ok(())
            }
            Enrolled::OtherKey => Err(self.key_mismatch(agent, from)),
            Enrolled::Deleted => Err(deleted()),
            Enrolled::TokenRefused => {
                self.security_log("token_refused", agent, &from.address, "an enrolment token was refused");
                Err(Refusal::new(
                    RefusalCode::EnrolmentRefused,
                    "the enrolment token is not known, lapsed, withdrawn or used up",
                ))
            }
        }
    }

    /// Lets a machine go on under a new key for which its old one vouches, whatever the policy says.
    async fn succeed(
        &self,
        enrolment: &Enrolment,
        handover: &Handover,
        from: &ContactFrom,
        now: Timestamp,
    ) -> Result<Vouched, Refusal> {
        let (old, new) = (handover.old_agent(), enrolment.id);
        if !self.outside.codec.handover_holds(handover, &enrolment.key) {
            self.security_log("handover_refused", new, &from.address, "an old key did not sign the new one");
            return Ok(Vouched::Not("the signature of its old key does not hold"));
        }
        let succession =
            Succession { enrolment: enrolment.clone(), old_key: handover.old_key.clone(), demand: handover.demand };
        let succeeded = self.store.agent_succeed(succession, now).await;
        match succeeded.map_err(|failure| self.refusal_of("let an agent go on under a new key", &failure))? {
            Succeeded::Yes(_) => {
                counter!("muster_engine_successions_total").increment(1);
                info!(agent.id = %new, old = %old, address = from.address, "agent {old} goes on as {new}");
                let (is, was) = (format!("it goes on as agent {new}"), format!("it was agent {old} until now"));
                self.event_keep(Some(old), &from.address, SUCCESSION, &is).await;
                self.event_keep(Some(new), &from.address, SUCCESSION, &was).await;
                self.gates.clone_clear(old);
                if let Some(stream) = self.streams.get(old) {
                    stream.state_note(AgentState::Replaced);
                }
                Ok(Vouched::Done)
            }
            Succeeded::Blocked => Ok(Vouched::ByBlocked),
            Succeeded::Refused(why) => Ok(Vouched::Not(why)),
        }
    }

    /// Decides whether a machine may become an agent, and how.
    fn admission(&self, from: &ContactFrom) -> Result<Admission, Refusal> {
        let refused = |reason: &str| Err(Refusal::new(RefusalCode::EnrolmentRefused, reason));
        match self.config.enrolment {
            EnrolmentPolicy::Open => Ok(Admission { state: AgentState::Enrolled, token: None }),
            EnrolmentPolicy::Approval => Ok(Admission { state: AgentState::Waiting, token: None }),
            EnrolmentPolicy::Closed => refused("this server takes no new machines"),
            EnrolmentPolicy::Label => {
                let is_wanted = |label: &String| {
                    self.config.enrolment_labels.contains(label)
                        || self.config.enrolment_label_patterns.iter().any(|pattern| pattern.fits(label))
                };
                if from.labels.iter().any(is_wanted) {
                    Ok(Admission { state: AgentState::Enrolled, token: None })
                } else {
                    refused("new machines must claim a label that this one does not")
                }
            }
            EnrolmentPolicy::Token => {
                let token = from.labels.iter().find_map(|label| label.strip_prefix(system::ENROL_TOKEN_PREFIX));
                let Some(token) = token else {
                    return refused("new machines must show an enrolment token");
                };
                let token = Some(Sha256::digest(token.as_bytes()).into());
                Ok(Admission { state: AgentState::Enrolled, token })
            }
        }
    }

    /// The demand for a new key that an agent is given that owes one. There is one for each day and agent: asked for again,
    /// it is the same message, so that they do not pile up. `None`: the store failed, which was logged.
    pub(crate) async fn rekey_order(&self, agent: AgentId, contact: ContactId) -> Option<Message> {
        match self.rekey_order_stored(agent, contact).await {
            Ok(order) => Some(order),
            Err(failure) => {
                self.saw(&failure);
                warn!(error = %Chain(&failure), agent.id = %agent, "could not store the demand for a new key");
                None
            }
        }
    }

    pub(crate) async fn rekey_order_stored(&self, agent: AgentId, contact: ContactId) -> Result<Message, StoreError> {
        let now = self.now();
        let order = Message {
            expires: Some(now.plus(limits::REKEY_LIFE)),
            ..self.rekey_message(owed_rekey_id(agent, now), agent, now)
        };
        if self.store.message_get(&[order.id], false).await?.is_empty() {
            self.store.message_put(vec![order.clone()], Some(contact), now).await?;
        }
        Ok(order)
    }

    fn rekey_message(&self, id: MessageId, agent: AgentId, now: Timestamp) -> Message {
        Message {
            message_type: system::REKEY_REQUEST.to_owned(),
            payload: self.outside.codec.encode(&SystemOrder::Rekey),
            ..Message::new(id, Address::server(system::SERVICE), Address::agent(agent, system::SERVICE), now)
        }
    }

    pub(crate) async fn agent_block(&self, id: AgentId, cause: &Cause) -> Result<(), OperatorError> {
        self.state_set("block an agent", id, AgentState::Blocked, cause).await
    }

    pub(crate) async fn agent_blacklist(&self, id: AgentId, cause: &Cause) -> Result<(), OperatorError> {
        // Whoever shares this key is to come and be told soon.
        self.gates.clone_clear(id);
        self.state_set("blacklist an agent", id, AgentState::Rekeying, cause).await
    }

    pub(crate) async fn agent_clone_clear(&self, id: AgentId, cause: &Cause) -> Result<(), OperatorError> {
        let cleared = self.store.agent_clone_clear(id, self.now(), cause).await;
        cleared.map_err(|failure| self.operator_error("forget that an agent seemed cloned", failure))?;
        self.gates.clone_clear(id);
        Ok(())
    }

    pub(crate) async fn agent_unblock(&self, id: AgentId, cause: &Cause) -> Result<(), OperatorError> {
        if self.state_of(id).await? == AgentState::Waiting {
            return Err(OperatorError::Conflict(format!("agent {id} is not blocked, it waits: approve it")));
        }
        // The demands for a new key go first: an agent that may come back as it was must not find one.
        let now = self.now();
        for order in [owed_rekey_id(id, now), owed_rekey_id(id, now.minus(limits::REKEY_LIFE))] {
            let cancelled = self.store.message_cancel(order, now, cause).await;
            if let Err(failure) = cancelled
                && failure.kind() != ErrorKind::NotFound
            {
                return Err(self.operator_error("cancel the demand for a new key", failure));
            }
        }
        self.state_set("unblock an agent", id, AgentState::Enrolled, cause).await
    }

    pub(crate) async fn agent_approve(&self, id: AgentId, cause: &Cause) -> Result<(), OperatorError> {
        match self.state_of(id).await? {
            AgentState::Blocked => {
                return Err(OperatorError::Conflict(format!("agent {id} does not wait, it is blocked: unblock it")));
            }
            // It reported facts, keys and weights when it came, and nothing of a machine that waits is kept. Asked for
            // first, so that nothing is missed if this server ends in between.
            AgentState::Waiting => {
                self.message_insert(self.facts_request(id), None).await?;
                self.message_insert(self.trust_request(id), None).await?;
            }
            _ => {}
        }
        self.state_set("approve an agent", id, AgentState::Enrolled, cause).await
    }

    fn facts_request(&self, agent: AgentId) -> Message {
        let now = self.now();
        let ends = (Address::server(system::MUSTER), Address::agent(agent, system::MUSTER));
        Message {
            message_type: system::FACTS_REQUEST.to_owned(),
            expires: Some(now.plus(limits::FACTS_REQUEST_LIFE)),
            ..Message::new(self.message_id(now), ends.0, ends.1, now)
        }
    }

    /// Asks for the keys and weights in force there; without them no action would wait for the signatures that it demands.
    fn trust_request(&self, agent: AgentId) -> Message {
        let ends = (Address::server(system::ACTIONS), Address::agent(agent, system::ACTIONS));
        let of_facts = self.facts_request(agent);
        Message {
            message_type: system::TRUST_REQUEST.to_owned(),
            expires: of_facts.expires,
            ..Message::new(self.message_id(of_facts.created), ends.0, ends.1, of_facts.created)
        }
    }

    pub(crate) async fn agent_delete(&self, id: AgentId, cause: &Cause) -> Result<(), OperatorError> {
        self.state_set("delete an agent", id, AgentState::Deleted, cause).await
    }

    pub(crate) async fn agent_rekey(
        &self,
        id: AgentId,
        force: bool,
        cause: &Cause,
    ) -> Result<MessageId, OperatorError> {
        if !force {
            self.rekey_check(id).await?;
        }
        let now = self.now();
        let expires = Some(now.plus(self.config.message_life));
        let order = Message { expires, ..self.rekey_message(self.message_id(now), id, now) };
        let demanded = self.store.agent_rekey(order.clone(), now, cause).await;
        demanded.map_err(|failure| self.operator_error("ask an agent for a new key", failure))?;
        self.gates.clone_clear(id);
        // It is stored: whatever fails from here on, the next sweep finds it.
        match self.store.agent_get(id).await {
            Ok(agent) => self.agent_wake(id, agent.map(|agent| agent.streaming_to).as_deref()),
            Err(failure) => self.saw(&failure),
        }
        Ok(order.id)
    }

    /// Refuses a demand that would lose the machine: it would come back under a key for which nobody vouches.
    async fn rekey_check(&self, id: AgentId) -> Result<(), OperatorError> {
        let what_then = match self.config.enrolment {
            EnrolmentPolicy::Open => return Ok(()),
            EnrolmentPolicy::Token => "it would need an enrolment token that is not used up",
            EnrolmentPolicy::Label => "it would need to claim one of the labels that let new machines in",
            EnrolmentPolicy::Approval => "it would wait until somebody approves it",
            EnrolmentPolicy::Closed => "this server would refuse it",
        };
        let failed = |failure| self.operator_error("look up an agent", failure);
        let agent = self.store.agent_get(id).await.map_err(failed)?;
        let agent = agent.ok_or_else(|| OperatorError::NotFound(format!("agent {id} is not known")))?;
        let vouches = self.store.fact_of(&[id], handover::VOUCHES).await.map_err(failed)?;
        if vouches.first().is_some_and(|(_, value)| *value == serde_json::Value::Bool(true)) {
            return Ok(());
        }
        let given: Vec<_> = agent.labels.iter().filter(|label| label.service != label::CLIENT).collect();
        let names: Vec<_> = given.iter().map(ToString::to_string).collect();
        let labels = if names.is_empty() { String::new() } else { format!(", its labels ({})", names.join(", ")) };
        Err(OperatorError::Conflict(format!(
            "agent {id} runs a program whose old key does not vouch for its new one (a fleetspeak-client, or an old \
             muster-agent): under its new key {what_then}, and what is noted of its weights{labels} and what waits for it \
             would be lost; force it if you can visit the machine"
        )))
    }

    pub(crate) async fn agent_label_put(&self, id: AgentId, label: Label, cause: &Cause) -> Result<(), OperatorError> {
        let put = self.store.agent_label_put(id, label, self.now(), cause).await;
        put.map_err(|failure| self.operator_error("give an agent a label", failure))?;
        if let Some(stream) = self.streams.get(id) {
            stream.broadcasts_again();
            return Ok(());
        }
        // The label is given: whatever fails from here on, the agent's next contact finds it.
        match self.store.agent_get(id).await {
            Ok(agent) => {
                let url = agent.map(|agent| agent.streaming_to).unwrap_or_default();
                if self.is_other_server(&url) {
                    self.wakeups.add_labels(&url, id);
                }
            }
            Err(failure) => {
                self.saw(&failure);
                warn!(error = %Chain(&failure), agent.id = %id, "could not tell another server of a new label");
            }
        }
        Ok(())
    }

    pub(crate) async fn agent_label_delete(
        &self,
        id: AgentId,
        label: Label,
        cause: &Cause,
    ) -> Result<(), OperatorError> {
        let gone = self.store.agent_label_delete(id, label, self.now(), cause).await;
        gone.map_err(|failure| self.operator_error("take a label from an agent", failure))
    }

    async fn state_of(&self, id: AgentId) -> Result<AgentState, OperatorError> {
        let agent = self.store.agent_get(id).await;
        let agent = agent.map_err(|failure| self.operator_error("look up an agent", failure))?;
        agent.map(|agent| agent.state).ok_or_else(|| OperatorError::NotFound(format!("agent {id} is not known")))
    }

    async fn state_set(
        &self,
        doing: &'static str,
        id: AgentId,
        state: AgentState,
        cause: &Cause,
    ) -> Result<(), OperatorError> {
        let set = self.store.agent_state_set(id, state, self.now(), cause).await;
        set.map_err(|failure| self.operator_error(doing, failure))?;
        // A stream held by another server learns of it from that server's own sweep.
        if let Some(stream) = self.streams.get(id) {
            stream.state_note(state);
            stream.wake(wake::LOOK);
        }
        Ok(())
    }
}

/// The word for a new key whose machine is blocked under another, in logs, metrics and events.
const LOOKS_BLOCKED: &str = "looks_blocked";
/// The word for a machine that goes on under a new key.
const SUCCESSION: &str = "succession";

/// What an old key's word is worth.
enum Vouched {
    /// The machine is enrolled under its new key.
    Done,
    /// The old key is blocked: the machine is known, and not welcome.
    ByBlocked,
    /// Nothing: why.
    Not(&'static str),
}

struct Admission {
    state: AgentState,
    token: Option<[u8; 32]>,
}

/// The id of the demand for a new key that `agent` is given while it owes one, on the day of `now`. Ids of agents'
/// own messages are hashes of something else, so none of them can take its place.
fn owed_rekey_id(agent: AgentId, now: Timestamp) -> MessageId {
    let life = i64::try_from(limits::REKEY_LIFE.as_nanos()).expect("a day of nanoseconds fits 63 bits");
    let day = Timestamp::from_nanos(now.as_nanos().div_euclid(life).saturating_mul(life));
    let digest = Sha256::new().chain_update(b"muster rekey of a blocked agent\0").chain_update(agent.as_bytes());
    let digest: [u8; 32] = digest.finalize().into();
    MessageId::ordered(day, digest[..24].try_into().expect("a SHA-256 has more than 24 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_owes_a_key_has_one_demand_a_day() {
        let (one, other) = (AgentId::from_bytes([1; 8]), AgentId::from_bytes([2; 8]));
        let at = |hours: i64| Timestamp::from_secs(hours * 3600);
        assert_eq!(owed_rekey_id(one, at(24)), owed_rekey_id(one, at(47)));
        assert_ne!(owed_rekey_id(one, at(24)), owed_rekey_id(one, at(48)));
        assert_ne!(owed_rekey_id(one, at(24)), owed_rekey_id(other, at(24)));
    }
}
