//! Machines: who they are, and what people change about them.

use super::effects::{self, LABELS, usage_fault};
use super::message_rows::{agent_list, from_json};
use super::states::{self, Change, lock, not_found, note};
use super::{contacts, endpoints, events, reports, succession, usage};
use crate::agents::{
    AgentFilter, AgentStateKey, AgentStore, ContactPut, ContactTaken, DeadLetter, DeadLetterCount, Enrolled, Enrolment,
    EventFilter, EventRow, Lookalike, RecordPut, Recorded, Succeeded, Succession,
};
use crate::db::Tx;
use crate::db::value::{Field, Fields, Row, Value, params};
use crate::{SqlStore, StoreError};
use async_trait::async_trait;
use muster_core::{
    Agent, AgentId, AgentState, Cause, Contact, ContactId, Facts, Label, Message, ResourceUsage, Timestamp, label,
};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

const COLUMNS: &str = "agent_id, public_key, state, created, last_contact, last_address, last_clock, streaming_to, \
     nonce_splits, nonce_skips, clone_suspected, state_note, rekey_asked, predecessor, successor, left_at";
const LABELS_OF: &str = "SELECT agent_id, service, label FROM agent_labels WHERE agent_id = ANY($1)";
const INSERT: &str = "INSERT INTO machines (agent_id, id_text, public_key, state, created, last_contact, last_address, \
     streaming_to, nonce_splits, nonce_skips, host_name, state_note) \
     VALUES ($1, $2, $3, $4, $5, $5, '', '', 0, 0, '', $6) \
     ON CONFLICT (agent_id) DO NOTHING";
const SPEND_TOKEN: &str = "UPDATE enrol_tokens SET uses_left = uses_left - 1 \
     WHERE sha256 = $1 AND uses_left > 0 AND (expires IS NULL OR expires > $2) RETURNING labels";
const COUNT: &str = "SELECT state, count(*) FROM machines GROUP BY state";
const STATES: &str = "SELECT agent_id, state FROM machines WHERE agent_id = ANY($1) ORDER BY agent_id";
const HEARD: &str = "UPDATE machines SET last_contact = $2 WHERE agent_id = ANY($1) AND streaming_to <> '' \
     AND last_contact < $2";
const DELETE_LABEL: &str = "DELETE FROM agent_labels WHERE agent_id = $1 AND service = $2 AND label = $3";

impl Field for AgentState {
    fn read(value: &mut Value<'static>) -> Option<Self> {
        Self::from_number(i64::read(value)?)
    }
}

/// Reads agents and gives them their labels.
async fn with_labels(tx: &mut Tx, rows: Vec<Row>) -> Result<Vec<Agent>, StoreError> {
    let mut agents = rows.into_iter().map(|row| read(&mut row.fields("machines"))).collect::<Result<Vec<_>, _>>()?;
    let ids: Vec<AgentId> = agents.iter().map(|agent| agent.id).collect();
    if ids.is_empty() {
        return Ok(agents);
    }
    let mut labels: HashMap<AgentId, Vec<Label>> = HashMap::new();
    for row in tx.query(LABELS_OF, params![agent_list(&ids)]).await? {
        let mut fields = row.fields("agent_labels");
        let id = fields.take()?;
        labels.entry(id).or_default().push(Label { service: fields.take()?, label: fields.take()? });
    }
    for agent in &mut agents {
        agent.labels = labels.remove(&agent.id).unwrap_or_default();
        agent.labels.sort();
    }
    Ok(agents)
}

fn read(fields: &mut Fields) -> Result<Agent, StoreError> {
    Ok(Agent {
        id: fields.take()?,
        key: fields.take()?,
        state: fields.take()?,
        labels: Vec::new(),
        created: fields.take()?,
        last_contact: fields.take()?,
        last_address: fields.take()?,
        last_clock: fields.take()?,
        streaming_to: fields.take()?,
        nonce_splits: fields.take()?,
        nonce_skips: fields.take()?,
        clone_suspected: fields.take()?,
        state_note: fields.take()?,
        rekey_asked: fields.take()?,
        predecessor: fields.take()?,
        successor: fields.take()?,
        left: fields.take()?,
    })
}

pub(super) async fn get(tx: &mut Tx, id: &AgentId) -> Result<Option<Agent>, StoreError> {
    let rows = tx.query(format!("SELECT {COLUMNS} FROM machines WHERE agent_id = $1"), params![id]).await?;
    Ok(with_labels(tx, rows).await?.pop())
}

async fn enrol(tx: &mut Tx, (enrolment, now): &(Enrolment, Timestamp)) -> Result<Enrolled, StoreError> {
    if let Some(known) = get(tx, &enrolment.id).await? {
        return Ok(known_before(known, enrolment));
    }
    if !insert(tx, enrolment, enrolment.state, *now).await? {
        // Somebody else enrolled it between the two statements.
        let known = get(tx, &enrolment.id).await?;
        return match known {
            Some(known) => Ok(known_before(known, enrolment)),
            None => Err(StoreError::Unavailable("the agent is being enrolled elsewhere".into())),
        };
    }
    let mut labels = enrolment.labels.clone();
    if let Some(token) = &enrolment.token {
        let Some(row) = tx.query_opt(SPEND_TOKEN, params![token, *now]).await? else {
            tx.execute("DELETE FROM machines WHERE agent_id = $1", params![&enrolment.id]).await?;
            return Ok(Enrolled::TokenRefused);
        };
        let mut fields = row.fields("enrol_tokens");
        let text: String = fields.take()?;
        let given: Vec<String> = from_json(&fields, &text)?;
        // Checked when the token was made; one that an older version took is an operator's label as it stands.
        labels
            .extend(given.iter().map(|text| Label::parse(text).unwrap_or_else(|_| Label::new(label::OPERATOR, text))));
    }
    put_labels(tx, &enrolment.id, &labels).await?;
    endpoints::enrolled(tx, enrolment.id, &labels, *now).await?;
    if !enrolment.facts.is_empty() {
        effects::set_facts(tx, enrolment.id, &enrolment.facts, *now).await?;
    }
    let agent = get(tx, &enrolment.id).await?;
    let agent = agent.ok_or_else(|| StoreError::Statement("an agent that was inserted is not there".into()))?;
    Ok(Enrolled::Yes(Box::new(agent)))
}

/// Puts a new machine's row in. `false`: there is one of this id.
pub(super) async fn insert(
    tx: &mut Tx,
    enrolment: &Enrolment,
    state: AgentState,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let id_text = enrolment.id.to_string();
    let row = params![&enrolment.id, &id_text, &enrolment.key, state as i32, now, &enrolment.note];
    Ok(tx.execute(INSERT, row).await? > 0)
}

pub(super) fn known_before(known: Agent, enrolment: &Enrolment) -> Enrolled {
    match known.state {
        _ if known.key != enrolment.key => Enrolled::OtherKey,
        AgentState::Deleted => Enrolled::Deleted,
        _ => Enrolled::Yes(Box::new(known)),
    }
}

pub(super) async fn put_labels(tx: &mut Tx, id: &AgentId, labels: &[Label]) -> Result<bool, StoreError> {
    let mut rows: Vec<Value<'_>> = Vec::new();
    for label in labels {
        rows.extend([Value::from(id), Value::from(&label.service), Value::from(&label.label)]);
    }
    Ok(tx.insert_many(&LABELS, &rows).await?.contains(&true))
}

async fn list(tx: &mut Tx, ids: &[AgentId]) -> Result<Vec<Agent>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM machines WHERE agent_id = ANY($1) AND state <> 3 ORDER BY agent_id");
    let rows = tx.query(sql, params![agent_list(ids)]).await?;
    with_labels(tx, rows).await
}

async fn page(
    tx: &mut Tx,
    (filter, after, limit): &(AgentFilter, Option<AgentId>, u32),
) -> Result<Vec<Agent>, StoreError> {
    let mut wheres: Vec<String> = Vec::new();
    let mut values: Vec<Value<'_>> = Vec::new();
    match filter.state {
        Some(state) => {
            values.push((state as i32).into());
            wheres.push("state = $1".to_owned());
        }
        None => wheres.push("state <> 3".to_owned()),
    }
    if let Some(after) = after {
        values.push(after.into());
        wheres.push(format!("agent_id > ${}", values.len()));
    }
    for label in &filter.labels {
        values.extend([Value::from(&label.service), Value::from(&label.label)]);
        wheres.push(format!(
            "EXISTS (SELECT 1 FROM agent_labels WHERE agent_labels.agent_id = machines.agent_id \
             AND service = ${} AND label = ${})",
            values.len() - 1,
            values.len()
        ));
    }
    if let Some(moment) = filter.contact_after {
        values.push(moment.into());
        wheres.push(format!("last_contact > ${}", values.len()));
    }
    if !filter.text.is_empty() {
        values.push(pattern(&filter.text).into());
        wheres.push(format!(
            "(id_text LIKE ${0} ESCAPE '!' OR host_name LIKE ${0} ESCAPE '!' OR lower(last_address) LIKE ${0} ESCAPE '!')",
            values.len()
        ));
    }
    if filter.clones {
        wheres.push("clone_suspected IS NOT NULL".to_owned());
    }
    values.push((*limit).into());
    let filter = wheres.join(" AND ");
    let sql = format!("SELECT {COLUMNS} FROM machines WHERE {filter} ORDER BY agent_id LIMIT ${}", values.len());
    let rows = tx.query(sql, &values).await?;
    with_labels(tx, rows).await
}

/// A LIKE pattern that matches wherever `text` stands, in lower case.
pub(super) fn pattern(text: &str) -> String {
    let mut pattern = "%".to_owned();
    for letter in text.to_lowercase().chars() {
        if matches!(letter, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}

async fn count(tx: &mut Tx, (): &()) -> Result<BTreeMap<AgentStateKey, u64>, StoreError> {
    let mut counts = BTreeMap::new();
    for row in tx.query(COUNT, &[]).await? {
        let mut fields = row.fields("machines");
        counts.insert(fields.take::<AgentState>()?.word(), fields.take()?);
    }
    Ok(counts)
}

async fn states(tx: &mut Tx, ids: &[AgentId]) -> Result<Vec<(AgentId, AgentState)>, StoreError> {
    let mut states = Vec::with_capacity(ids.len());
    for row in tx.query(STATES, params![agent_list(ids)]).await? {
        let mut fields = row.fields("machines");
        states.push((fields.take()?, fields.take()?));
    }
    Ok(states)
}

async fn heard(tx: &mut Tx, (ids, now): &(Vec<AgentId>, Timestamp)) -> Result<(), StoreError> {
    tx.execute(HEARD, params![agent_list(ids), *now]).await.map(drop)
}

/// Gives a label or takes it away.
enum LabelChange {
    Put(Label),
    Delete(Label),
}

async fn label_set(tx: &mut Tx, change: &Change<LabelChange>) -> Result<(), StoreError> {
    if lock(tx, change.id).await? == AgentState::Deleted {
        return Err(not_found(change.id));
    }
    let (action, label, changed) = match &change.to {
        LabelChange::Put(label) => {
            ("agent.label", label, put_labels(tx, &change.id, std::slice::from_ref(label)).await?)
        }
        LabelChange::Delete(label) => {
            let row = params![&change.id, &label.service, &label.label];
            ("agent.unlabel", label, tx.execute(DELETE_LABEL, row).await? > 0)
        }
    };
    if changed { note(tx, change, action, &json!({ "label": label })).await } else { Ok(()) }
}

#[async_trait]
impl AgentStore for SqlStore {
    async fn agent_enrol(&self, enrolment: Enrolment, now: Timestamp) -> Result<Enrolled, StoreError> {
        self.write((enrolment, now), |tx, args| Box::pin(enrol(tx, args))).await
    }

    async fn agent_succeed(&self, succession: Succession, now: Timestamp) -> Result<Succeeded, StoreError> {
        self.write((succession, now), |tx, args| Box::pin(succession::succeed(tx, args))).await
    }

    async fn agent_rekey(&self, demand: Message, now: Timestamp, cause: &Cause) -> Result<(), StoreError> {
        self.write((demand, now, cause.clone()), |tx, args| Box::pin(succession::demand(tx, args))).await
    }

    async fn agent_lookalikes(&self, id: AgentId) -> Result<Vec<Lookalike>, StoreError> {
        self.read(id, |tx, args| Box::pin(succession::lookalikes(tx, args))).await
    }

    async fn agent_clone_clear(&self, id: AgentId, now: Timestamp, cause: &Cause) -> Result<(), StoreError> {
        let change = Change { id, to: (), now, cause: cause.clone() };
        self.write(change, |tx, args| Box::pin(states::clone_clear(tx, args))).await
    }

    async fn agent_get(&self, id: AgentId) -> Result<Option<Agent>, StoreError> {
        self.read(id, |tx, args| Box::pin(get(tx, args))).await
    }

    async fn agent_list(&self, ids: &[AgentId]) -> Result<Vec<Agent>, StoreError> {
        self.read(ids.to_vec(), |tx, args| Box::pin(list(tx, args))).await
    }

    async fn agent_page(
        &self,
        filter: AgentFilter,
        after: Option<AgentId>,
        limit: u32,
    ) -> Result<Vec<Agent>, StoreError> {
        self.read((filter, after, limit), |tx, args| Box::pin(page(tx, args))).await
    }

    async fn agent_count(&self) -> Result<BTreeMap<AgentStateKey, u64>, StoreError> {
        self.read((), |tx, args| Box::pin(count(tx, args))).await
    }

    async fn agent_label_put(
        &self,
        id: AgentId,
        label: Label,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError> {
        let change = Change { id, to: LabelChange::Put(label), now, cause: cause.clone() };
        self.write(change, |tx, args| Box::pin(label_set(tx, args))).await
    }

    async fn agent_label_delete(
        &self,
        id: AgentId,
        label: Label,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError> {
        let change = Change { id, to: LabelChange::Delete(label), now, cause: cause.clone() };
        self.write(change, |tx, args| Box::pin(label_set(tx, args))).await
    }

    async fn agent_state_set(
        &self,
        id: AgentId,
        state: AgentState,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError> {
        let change = Change { id, to: state, now, cause: cause.clone() };
        self.write(change, |tx, args| Box::pin(states::set(tx, args))).await
    }

    async fn agents_heard(&self, ids: &[AgentId], now: Timestamp) -> Result<(), StoreError> {
        self.write((ids.to_vec(), now), |tx, args| Box::pin(heard(tx, args))).await
    }

    async fn agent_states(&self, ids: &[AgentId]) -> Result<Vec<(AgentId, AgentState)>, StoreError> {
        self.read(ids.to_vec(), |tx, args| Box::pin(states(tx, args))).await
    }

    async fn contact_put(&self, contact: ContactPut) -> Result<ContactTaken, StoreError> {
        self.write(contact, |tx, args| Box::pin(contacts::contact_put(tx, args))).await
    }

    async fn record_put(&self, record: RecordPut) -> Result<Option<Recorded>, StoreError> {
        self.write(record, |tx, args| Box::pin(contacts::record_put(tx, args))).await
    }

    async fn agent_left(&self, agent: AgentId, contact: ContactId, now: Timestamp) -> Result<(), StoreError> {
        self.write((agent, contact, now), |tx, args| Box::pin(contacts::agent_left(tx, args))).await
    }

    async fn stream_end(&self, agent: AgentId, contact: ContactId) -> Result<(), StoreError> {
        self.write((agent, contact), |tx, args| Box::pin(contacts::stream_end(tx, args))).await
    }

    async fn contact_page(
        &self,
        id: AgentId,
        before: Option<ContactId>,
        limit: u32,
    ) -> Result<Vec<Contact>, StoreError> {
        self.read((id, before, limit), |tx, args| Box::pin(contacts::contact_page(tx, args))).await
    }

    async fn usage_put(&self, id: AgentId, usage: ResourceUsage, now: Timestamp) -> Result<(), StoreError> {
        if let Some(fault) = usage_fault(&usage) {
            return Err(StoreError::Invalid(fault.to_owned()));
        }
        self.write((id, usage, now), |tx, args| Box::pin(usage::put(tx, args))).await
    }

    async fn usage_list(
        &self,
        id: AgentId,
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<ResourceUsage>, StoreError> {
        let rows = self.usage_page(id, start..end, None, u32::MAX).await?;
        Ok(rows.into_iter().map(|(_, usage)| usage).collect())
    }

    async fn usage_page(
        &self,
        id: AgentId,
        span: Range<Timestamp>,
        after: Option<(Timestamp, i64)>,
        limit: u32,
    ) -> Result<Vec<(i64, ResourceUsage)>, StoreError> {
        if span.start > span.end {
            return Err(StoreError::Invalid("the start of the range lies after its end".to_owned()));
        }
        self.read((id, span, after, limit), |tx, args| Box::pin(usage::page(tx, args))).await
    }

    async fn facts_get(&self, id: AgentId) -> Result<Option<(Facts, Timestamp)>, StoreError> {
        self.read(id, |tx, args| Box::pin(reports::facts(tx, args))).await
    }

    async fn fact_of(&self, ids: &[AgentId], name: &str) -> Result<Vec<(AgentId, serde_json::Value)>, StoreError> {
        self.read((ids.to_vec(), name.to_owned()), |tx, args| Box::pin(reports::fact_of(tx, args))).await
    }

    async fn event_put(&self, event: EventRow) -> Result<(), StoreError> {
        self.write(event, |tx, args| Box::pin(events::put(tx, args))).await
    }

    async fn event_page(
        &self,
        filter: EventFilter,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<EventRow>, StoreError> {
        self.read((filter, before, limit), |tx, args| Box::pin(events::page(tx, args))).await
    }

    async fn dead_letter_page(&self, before: Option<i64>, limit: u32) -> Result<Vec<(i64, DeadLetter)>, StoreError> {
        self.read((before, limit), |tx, args| Box::pin(events::dead_letters(tx, args))).await
    }

    async fn dead_letter_counts(&self, since: Timestamp) -> Result<Vec<DeadLetterCount>, StoreError> {
        self.read(since, |tx, since| Box::pin(events::dead_letter_counts(tx, since))).await
    }
}
