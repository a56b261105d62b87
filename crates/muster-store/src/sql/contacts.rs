//! Contacts: a machine was here, brought messages and took some.
//!
//! The contacts of a machine are a chain: its row names the last, each names the one before it. Stays true: numbers fall
//! along it, because each is given while the machine's row is locked. What retention took away ends it, and so does a
//! greater number: SQLite begins anew once every contact is gone, and a link from before may name a contact that came since.

use super::commands::{WAITING, hand_out};
use super::effects::{Sender, put_dead_letters, take_in};
use super::mailbox::claim_due;
use crate::StoreError;
use crate::agents::{CloneSeen, ContactPut, ContactTaken, Effect, RecordPut, Recorded};
use crate::db::Tx;
use crate::db::value::{Value, params};
use muster_core::nonce::{self, Link, Visit};
use muster_core::{AgentId, AgentState, BroadcastId, Contact, ContactId, Label, Timestamp, limits};
use std::sync::LazyLock;
use std::time::Duration;

/// A contact that is earlier than the machine's last by less than this is of the same moment, and is put after it.
const SAME_MOMENT: Duration = Duration::from_micros(1);

/// What a contact must know of its machine, and what of other tables it need not look at: most machines have no labels,
/// had no broadcasts and have nothing waiting, and a statement costs more than a look inside another.
static SELECT_MACHINE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT public_key, state, last_nonce, nonce_splits, nonce_skips, clone_suspected, contact_id, last_contact, \
         EXISTS (SELECT 1 FROM agent_labels WHERE agent_labels.agent_id = machines.agent_id), \
         EXISTS (SELECT 1 FROM broadcast_sent WHERE broadcast_sent.agent_id = machines.agent_id), \
         EXISTS (SELECT 1 FROM messages WHERE destination_agent = machines.agent_id AND messages.state = 0 \
         AND due < $2), {WAITING} FROM machines WHERE agent_id = $1 FOR NO KEY UPDATE"
    )
});
const SELECT_STATE: &str = "SELECT state FROM machines WHERE agent_id = $1 FOR NO KEY UPDATE";
const SELECT_LABELS: &str = "SELECT service, label FROM agent_labels WHERE agent_id = $1 ORDER BY service, label";
const SELECT_HAD: &str = "SELECT broadcast_id FROM broadcast_sent WHERE agent_id = $1 ORDER BY broadcast_id";
const INSERT_CONTACT: &str = "INSERT INTO contacts (agent_id, previous, at, sent_nonce, received_nonce, address) \
     VALUES ($1, $2, $3, $4, $5, $6) RETURNING contact_id";
/// The latest contacts, and those before one.
static LATEST: LazyLock<String> = LazyLock::new(|| chain("SELECT contact_id FROM machines WHERE agent_id = $1"));
static BEFORE: LazyLock<String> =
    LazyLock::new(|| chain("SELECT previous FROM contacts WHERE contact_id = $3 AND agent_id = $1 AND previous < $3"));
const UPDATE_AGENT: &str = "UPDATE machines SET last_contact = $2, last_address = $3, last_clock = $4, \
     last_nonce = $5, streaming_to = $6, stream_contact = $7, nonce_splits = $8, nonce_skips = $9, \
     clone_suspected = $10, contact_id = $11, left_at = NULL WHERE agent_id = $1";
const DUE_AGAIN: &str = "UPDATE messages SET due = $2 WHERE destination_agent = $1 AND state = 0 AND due > $2 \
     AND attempts > 0 AND contact_id > $3";
const LEFT: &str = "UPDATE machines SET left_at = $3 WHERE agent_id = $1 AND contact_id = $2";
const END_STREAM: &str = "UPDATE machines SET streaming_to = '', stream_contact = NULL \
     WHERE agent_id = $1 AND stream_contact = $2";

/// Makes the statement that walks up to $2 contacts of machine $1 from the one that `first` selects.
fn chain(first: &str) -> String {
    const COLUMNS: &str = "c.contact_id, c.previous, c.at, c.sent_nonce, c.received_nonce, c.address";
    format!(
        "WITH RECURSIVE chain AS (SELECT {COLUMNS}, CAST(1 AS BIGINT) AS place FROM contacts c WHERE c.agent_id = $1 \
         AND c.contact_id = ({first}) UNION ALL SELECT {COLUMNS}, chain.place + 1 FROM chain \
         JOIN contacts c ON c.contact_id = chain.previous AND c.contact_id < chain.contact_id \
         WHERE c.agent_id = $1 AND chain.place < $2) \
         SELECT contact_id, at, sent_nonce, received_nonce, address FROM chain ORDER BY contact_id DESC"
    )
}

/// What the row of a machine says of its contacts so far.
struct Chain {
    last_nonce: Option<u64>,
    splits: i64,
    skips: i64,
    clone_suspected: Option<Timestamp>,
    last: Option<ContactId>,
    last_at: Timestamp,
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

    /// The moment that a contact is recorded with: no two in a row share one.
    fn moment(&self, at: Timestamp) -> Timestamp {
        let is_shared = self.last.is_some() && at <= self.last_at && self.last_at.since(at) < SAME_MOMENT;
        if is_shared { self.last_at.plus(Duration::from_nanos(1)) } else { at }
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
    let Some(row) = tx.query_opt(SELECT_MACHINE.as_str(), params![&put.agent, put.at]).await? else {
        return Ok(ContactTaken::Unknown);
    };
    let mut fields = row.fields("machines");
    if fields.take::<Vec<u8>>()? != put.key {
        return Ok(ContactTaken::OtherKey);
    }
    let state: AgentState = fields.take()?;
    match state {
        AgentState::Deleted => return Ok(ContactTaken::Deleted),
        AgentState::Blocked => return Ok(ContactTaken::Blocked),
        AgentState::Enrolled | AgentState::Waiting | AgentState::Rekeying | AgentState::Replaced => {}
    }
    let mut chain = Chain {
        last_nonce: fields.take::<Option<i64>>()?.map(i64::cast_unsigned),
        splits: fields.take()?,
        skips: fields.take()?,
        clone_suspected: fields.take()?,
        last: fields.take()?,
        last_at: fields.take()?,
    };
    let (has_labels, had_broadcasts): (bool, bool) = (fields.take()?, fields.take()?);
    let (is_due, commands_wait): (bool, bool) = (fields.take()?, fields.take()?);
    let past = judge(tx, put, &chain).await?;
    let contact = record(tx, put, &mut chain, &past).await?;
    let mut recorded = Recorded {
        contact,
        state,
        labels: if has_labels { labels(tx, put.agent).await? } else { Vec::new() },
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
    if let Some(heard) = past.heard.filter(|_| state == AgentState::Enrolled) {
        due_again(tx, put, heard).await?;
    }
    if let Some(claim) = put.claim.as_ref().filter(|_| state == AgentState::Enrolled) {
        if commands_wait {
            hand_out(tx, put.agent, claim, Some(contact), put.at).await?;
        }
        if is_due || commands_wait || past.heard.is_some() {
            recorded.claimed = claim_due(tx, put.agent, claim, Some(contact), put.at).await?;
        }
    }
    if had_broadcasts {
        recorded.broadcasts_had = broadcasts_had(tx, put.agent).await?;
    }
    Ok(ContactTaken::Recorded(Box::new(recorded)))
}

/// Compares a contact with the latest ones, if it does not simply refer to the last.
async fn judge(tx: &mut Tx, put: &ContactPut, chain: &Chain) -> Result<Past, StoreError> {
    let received = put.received_nonce;
    let link = nonce::judge(received, chain.last_nonce, false);
    if link != Link::Skip {
        return Ok(Past { link, heard: None, clone: None });
    }
    let latest = walk(tx, LATEST.as_str(), params![&put.agent, limits::CHAIN_CONTACTS]).await?;
    let heard = latest.iter().rev().find(|contact| contact.sent_nonce == received).map(|contact| contact.id);
    let visit = |contact: &Contact| Visit { sent: contact.sent_nonce, received: contact.received_nonce };
    let visits: Vec<Visit> = latest.iter().rev().map(visit).collect();
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

/// Adds a contact to the end of the chain, and its marks to the row of the machine.
async fn record(tx: &mut Tx, put: &ContactPut, chain: &mut Chain, past: &Past) -> Result<ContactId, StoreError> {
    let at = chain.moment(put.at);
    let (sent, received) = (put.sent_nonce.cast_signed(), put.received_nonce.cast_signed());
    let contact = params![&put.agent, chain.last, at, sent, received, &put.address];
    let contact: ContactId = tx.query_one(INSERT_CONTACT, contact).await?.only("contacts")?;
    chain.note(past, at);
    let marks = params![
        &put.agent,
        at,
        &put.address,
        put.clock,
        sent,
        &put.streaming_to,
        (!put.streaming_to.is_empty()).then_some(contact),
        chain.splits,
        chain.skips,
        chain.clone_suspected,
        contact,
    ];
    tx.execute(UPDATE_AGENT, marks).await?;
    Ok(contact)
}

/// Records what a further record of a stream brings.
pub(super) async fn record_put(tx: &mut Tx, put: &RecordPut) -> Result<Option<Recorded>, StoreError> {
    let Some(row) = tx.query_opt(SELECT_STATE, params![&put.agent]).await? else { return Ok(None) };
    let state: AgentState = row.only("machines")?;
    if state == AgentState::Deleted {
        return Ok(None);
    }
    let (mut taken, mut foreign) = (Vec::new(), Vec::new());
    if !matches!(state, AgentState::Waiting | AgentState::Blocked) {
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

/// Notes that a machine stops, unless a later contact took the place of this one.
pub(super) async fn agent_left(
    tx: &mut Tx,
    (agent, contact, now): &(AgentId, ContactId, Timestamp),
) -> Result<(), StoreError> {
    tx.execute(LEFT, params![agent, *contact, *now]).await.map(drop)
}

/// Notes the end of a stream, unless a later contact took its place.
pub(super) async fn stream_end(tx: &mut Tx, (agent, contact): &(AgentId, ContactId)) -> Result<(), StoreError> {
    tx.execute(END_STREAM, params![agent, *contact]).await.map(drop)
}

/// Returns contacts, newest first.
pub(super) async fn contact_page(
    tx: &mut Tx,
    (agent, before, limit): &(AgentId, Option<ContactId>, u32),
) -> Result<Vec<Contact>, StoreError> {
    match before {
        None => walk(tx, LATEST.as_str(), params![agent, *limit]).await,
        Some(before) => walk(tx, BEFORE.as_str(), params![agent, *limit, *before]).await,
    }
}

async fn walk(tx: &mut Tx, statement: &'static str, params: &[Value<'_>]) -> Result<Vec<Contact>, StoreError> {
    let mut contacts = Vec::new();
    for row in tx.query(statement, params).await? {
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
