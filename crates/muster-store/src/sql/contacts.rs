//! Contacts: a machine was here, brought messages and took some.

use super::commands::{WAITING, hand_out};
use super::effects::{Sender, put_dead_letters, take_in};
use super::mailbox::claim_due;
use crate::StoreError;
use crate::agents::{CloneSeen, ContactPut, ContactTaken, Effect, RecordPut, Recorded};
use crate::db::Tx;
use crate::db::value::params;
use muster_core::nonce::{self, Link, Visit};
use muster_core::{AgentId, AgentState, BroadcastId, Contact, ContactId, Label, Timestamp, limits};
use std::time::Duration;

/// How many contacts of one machine may share a moment.
const SAME_MOMENT_MAX: u32 = 1_000;

const AGENT_COLUMNS: &str = "public_key, state, last_nonce, nonce_splits, nonce_skips, clone_suspected";
const SELECT_STATE: &str = "SELECT state FROM machines WHERE agent_id = $1 FOR NO KEY UPDATE";
const SELECT_LABELS: &str = "SELECT service, label FROM agent_labels WHERE agent_id = $1 ORDER BY service, label";
const SELECT_HAD: &str = "SELECT broadcast_id FROM broadcast_sent WHERE agent_id = $1 ORDER BY broadcast_id";
const INSERT_CONTACT: &str = "INSERT INTO contacts (agent_id, at, sent_nonce, received_nonce, address) \
     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (agent_id, at) DO NOTHING RETURNING contact_id";
const SELECT_LATEST: &str = "SELECT contact_id, sent_nonce, received_nonce FROM contacts WHERE agent_id = $1 \
     ORDER BY at DESC LIMIT $2";
const UPDATE_AGENT: &str = "UPDATE machines SET last_contact = $2, last_address = $3, last_clock = $4, \
     last_nonce = $5, streaming_to = $6, stream_contact = $7, nonce_splits = $8, nonce_skips = $9, \
     clone_suspected = $10 WHERE agent_id = $1";
const DUE_AGAIN: &str = "UPDATE messages SET due = $2 WHERE destination_agent = $1 AND state = 0 AND due > $2 \
     AND attempts > 0 AND contact_id > $3";
const END_STREAM: &str = "UPDATE machines SET streaming_to = '', stream_contact = NULL \
     WHERE agent_id = $1 AND stream_contact = $2";
const SELECT_CONTACTS: &str = "SELECT contact_id, at, sent_nonce, received_nonce, address FROM contacts \
     WHERE agent_id = $1 AND at < $2 ORDER BY at DESC LIMIT $3";

/// What the row of an agent says of its chain of contacts.
struct Chain {
    last_nonce: Option<u64>,
    splits: i64,
    skips: i64,
    clone_suspected: Option<Timestamp>,
}

impl Chain {
    /// Takes note of a contact.
    fn note(&mut self, past: &Past, at: Timestamp) {
        match past.link {
            Link::Split => self.splits = self.splits.saturating_add(1),
            Link::Skip => self.skips = self.skips.saturating_add(1),
            Link::Next | Link::Fresh => {}
        }
        if past.clone.is_some() {
            self.clone_suspected = Some(at);
        }
    }
}

/// How a contact continues those before it.
struct Past {
    link: Link,
    /// The earlier contact, not the last, whose answer was the last that arrived.
    heard: Option<ContactId>,
    clone: Option<CloneSeen>,
}

/// Records a contact with all it brings and takes.
pub(super) async fn contact_put(tx: &mut Tx, put: &ContactPut) -> Result<ContactTaken, StoreError> {
    let select = format!("SELECT {AGENT_COLUMNS}, {WAITING} FROM machines WHERE agent_id = $1 FOR NO KEY UPDATE");
    let Some(row) = tx.query_opt(select, params![&put.agent]).await? else {
        return Ok(ContactTaken::Unknown);
    };
    let mut fields = row.fields("machines");
    if fields.take::<Vec<u8>>()? != put.key {
        return Ok(ContactTaken::OtherKey);
    }
    let state: AgentState = fields.take()?;
    if state == AgentState::Deleted {
        return Ok(ContactTaken::Deleted);
    }
    let last_nonce: Option<i64> = fields.take()?;
    let mut chain = Chain {
        last_nonce: last_nonce.map(i64::cast_unsigned),
        splits: fields.take()?,
        skips: fields.take()?,
        clone_suspected: fields.take()?,
    };
    let commands_wait: bool = fields.take()?;
    let past = judge(tx, put, &chain).await?;
    let (contact, at) = insert_contact(tx, put).await?;
    chain.note(&past, at);
    note_contact(tx, put, contact, at, &chain).await?;
    let mut recorded = Recorded {
        contact,
        state,
        labels: labels(tx, put.agent).await?,
        link: past.link,
        clone: past.clone,
        taken: Vec::new(),
        foreign: Vec::new(),
        claimed: Vec::new(),
        broadcasts_had: Vec::new(),
    };
    if state == AgentState::Waiting {
        return Ok(ContactTaken::Recorded(Box::new(recorded)));
    }
    let sender = Sender { agent: put.agent, state, contact, at: put.at };
    if !put.intake.is_empty() {
        (recorded.taken, recorded.foreign) = take_in(tx, &sender, &put.intake).await?;
        if put.intake.iter().any(|intake| matches!(intake.effect, Effect::ClientLabels(_))) {
            recorded.labels = labels(tx, put.agent).await?;
        }
    }
    put_dead_letters(tx, &put.rejected).await?;
    if let Some(claim) = put.claim.as_ref().filter(|_| state == AgentState::Enrolled) {
        if let Some(heard) = past.heard {
            due_again(tx, put, heard).await?;
        }
        if commands_wait {
            hand_out(tx, put.agent, claim, Some(contact), put.at).await?;
        }
        recorded.claimed = claim_due(tx, put.agent, claim, Some(contact), put.at).await?;
    }
    recorded.broadcasts_had = broadcasts_had(tx, put.agent).await?;
    Ok(ContactTaken::Recorded(Box::new(recorded)))
}

/// Compares a contact with the latest ones, if it does not simply refer to the last.
async fn judge(tx: &mut Tx, put: &ContactPut, chain: &Chain) -> Result<Past, StoreError> {
    let received = put.received_nonce;
    let link = nonce::judge(received, chain.last_nonce, false);
    if link != Link::Skip {
        return Ok(Past { link, heard: None, clone: None });
    }
    let mut latest = Vec::new();
    for row in tx.query(SELECT_LATEST, params![&put.agent, limits::CHAIN_CONTACTS]).await? {
        let mut fields = row.fields("contacts");
        let id: ContactId = fields.take()?;
        let (sent, received) = (fields.take::<i64>()?.cast_unsigned(), fields.take::<i64>()?.cast_unsigned());
        latest.push((id, Visit { sent, received }));
    }
    // By their numbers, because the servers that recorded them may not agree on the time.
    latest.sort_unstable_by_key(|(id, _)| *id);
    let heard = latest.iter().find(|(_, visit)| visit.sent == received).map(|(id, _)| *id);
    let visits: Vec<Visit> = latest.into_iter().map(|(_, visit)| visit).collect();
    let referred_before = heard.is_none() || visits.iter().any(|visit| visit.received == received);
    let is_news = |last: Timestamp| put.at.since(last) >= limits::CLONE_NEWS;
    let clone = nonce::two_branches(received, &visits)
        .then(|| if chain.clone_suspected.is_none_or(is_news) { CloneSeen::News } else { CloneSeen::Again });
    Ok(Past { link: nonce::judge(received, chain.last_nonce, referred_before), heard, clone })
}

/// Lets fall due what went out with answers that the agent did not get: it refers to an earlier contact than the last,
/// so whatever later ones were handed never arrived. Without this it would wait for the whole lease. An agent that
/// refers to nothing that was given out lately says nothing about what arrived.
async fn due_again(tx: &mut Tx, put: &ContactPut, heard: ContactId) -> Result<(), StoreError> {
    // What is due is due before the moment of the claim.
    let due = put.at.minus(Duration::from_nanos(1));
    tx.execute(DUE_AGAIN, params![&put.agent, due, heard]).await.map(drop)
}

async fn insert_contact(tx: &mut Tx, put: &ContactPut) -> Result<(ContactId, Timestamp), StoreError> {
    let (sent, received) = (put.sent_nonce.cast_signed(), put.received_nonce.cast_signed());
    let mut at = put.at;
    for _ in 0..SAME_MOMENT_MAX {
        let row = params![&put.agent, at, sent, received, &put.address];
        if let Some(row) = tx.query_opt(INSERT_CONTACT, row).await? {
            return Ok((row.only("contacts")?, at));
        }
        at = at.plus(Duration::from_nanos(1));
    }
    Err(StoreError::Refused(format!("agent {} has {SAME_MOMENT_MAX} contacts at one moment", put.agent)))
}

async fn note_contact(
    tx: &mut Tx,
    put: &ContactPut,
    contact: ContactId,
    at: Timestamp,
    chain: &Chain,
) -> Result<(), StoreError> {
    let row = params![
        &put.agent,
        at,
        &put.address,
        put.clock,
        put.sent_nonce.cast_signed(),
        &put.streaming_to,
        (!put.streaming_to.is_empty()).then_some(contact),
        chain.splits,
        chain.skips,
        chain.clone_suspected,
    ];
    tx.execute(UPDATE_AGENT, row).await.map(drop)
}

/// Records what a further record of a stream brings.
pub(super) async fn record_put(tx: &mut Tx, put: &RecordPut) -> Result<Option<Recorded>, StoreError> {
    let Some(row) = tx.query_opt(SELECT_STATE, params![&put.agent]).await? else { return Ok(None) };
    let state: AgentState = row.only("machines")?;
    if state == AgentState::Deleted {
        return Ok(None);
    }
    let (mut taken, mut foreign) = (Vec::new(), Vec::new());
    if state != AgentState::Waiting {
        let sender = Sender { agent: put.agent, state, contact: put.contact, at: put.at };
        (taken, foreign) = take_in(tx, &sender, &put.intake).await?;
        put_dead_letters(tx, &put.rejected).await?;
    }
    Ok(Some(Recorded {
        contact: put.contact,
        state,
        labels: labels(tx, put.agent).await?,
        link: Link::Next,
        clone: None,
        taken,
        foreign,
        claimed: Vec::new(),
        broadcasts_had: Vec::new(),
    }))
}

/// Returns the labels of an agent, sorted.
pub(super) async fn labels(tx: &mut Tx, agent: AgentId) -> Result<Vec<Label>, StoreError> {
    let rows = tx.query(SELECT_LABELS, params![&agent]).await?;
    let mut labels = Vec::with_capacity(rows.len());
    for row in rows {
        let mut fields = row.fields("agent_labels");
        labels.push(Label { service: fields.take()?, label: fields.take()? });
    }
    // Byte by byte: a database may sort by the rules of a language.
    labels.sort();
    Ok(labels)
}

/// Returns which broadcasts an agent has had.
pub(super) async fn broadcasts_had(tx: &mut Tx, agent: AgentId) -> Result<Vec<BroadcastId>, StoreError> {
    let rows = tx.query(SELECT_HAD, params![&agent]).await?;
    rows.into_iter().map(|row| row.only("broadcast_sent")).collect()
}

/// Notes the end of a stream, unless a later contact took its place.
pub(super) async fn stream_end(tx: &mut Tx, (agent, contact): &(AgentId, ContactId)) -> Result<(), StoreError> {
    tx.execute(END_STREAM, params![agent, *contact]).await.map(drop)
}

/// Returns contacts, newest first.
pub(super) async fn contact_page(
    tx: &mut Tx,
    (agent, before, limit): &(AgentId, Option<Timestamp>, u32),
) -> Result<Vec<Contact>, StoreError> {
    let before = before.map_or(i64::MAX, Timestamp::as_nanos);
    let mut contacts = Vec::new();
    for row in tx.query(SELECT_CONTACTS, params![agent, before, *limit]).await? {
        let mut fields = row.fields("contacts");
        contacts.push(Contact {
            id: fields.take()?,
            at: fields.take()?,
            sent_nonce: fields.take::<i64>()?.cast_unsigned(),
            received_nonce: fields.take::<i64>()?.cast_unsigned(),
            address: fields.take()?,
        });
    }
    Ok(contacts)
}
