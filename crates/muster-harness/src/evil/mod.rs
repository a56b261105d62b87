//! A server that was taken over, in front of a real agent: it speaks the wire, it has orders that people really signed,
//! and it does with them whatever it likes.
//!
//! Stays true: it has the key of the authority that the agent pins and no key of any person; whether anything ran is told
//! by a file that the module itself writes ([`Machine::runs`]), never by the agent's word.
//! Not here: who signs, and what is tried (`tests/it/evil`).

mod caller;
mod impostor;
mod machine;
mod tls;

pub use impostor::{Asked, Impostor};
pub use machine::{Belief, FLEET, Machine};
pub use tls::{AUTHORITY_SERIAL, SERVER_SERIAL};

use crate::wait;
use crate::wire::actions::{self, ActionResult, AgentTrust, MessageErrorData};
use crate::wire::{self, Address, ContactData, Message, MessageAckData};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use caller::{Ear, Mouth};
use muster_core::AgentId;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// How long anything may take.
pub const CEILING: Duration = Duration::from_secs(60);
/// Messages in one record, as an honest server has it.
const RECORD_MESSAGES: usize = 100;
/// How soon an echo without an answer is said again.
const ECHO_AGAIN: Duration = Duration::from_secs(2);
const ECHO_SERVICE: &str = "muster";

/// The server.
#[derive(Debug)]
pub struct Evil {
    /// Where it listens.
    pub address: SocketAddr,
    /// The certificate of its authority, as PEM.
    pub authority: String,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// What it was told so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Who called.
    pub agents: BTreeSet<AgentId>,
    /// How many streams there were.
    pub streams: u32,
    /// How many polls.
    pub polls: u32,
    /// How many contacts were refused.
    pub refused: u32,
    /// How often the list of revoked certificates was given out.
    pub lists: u32,
    /// Messages that were acknowledged, by their ids.
    pub acknowledged: BTreeSet<Vec<u8>>,
    /// Messages that failed for good, with the reason.
    pub errors: BTreeMap<Vec<u8>, String>,
    /// Results, by the message of their order. The same one may come again.
    pub results: BTreeMap<Vec<u8>, ActionResult>,
    /// Whom the agent says it believes, latest last.
    pub trust: Vec<AgentTrust>,
    /// Answers to echoes.
    pub echoes: u32,
}

/// What is said next.
#[derive(Debug)]
enum Piece {
    Message(Box<Message>),
    /// Bytes of a stream as they are.
    Raw(Vec<u8>),
    /// The connection is cut.
    Cut,
}

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    pending: VecDeque<Piece>,
    nonce: u64,
    messages: u64,
    /// The list of revoked certificates.
    revoked: Vec<u8>,
    /// How contacts are refused, with the status and the reason.
    refusal: Option<(String, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

impl Evil {
    /// Opens its door at a free port of the loopback address.
    pub async fn start() -> Result<Self> {
        let (authority, config) = tls::authority_and_server()?;
        let listener = TcpListener::bind("127.0.0.1:0").await.context("opening a door")?;
        let address = listener.local_addr()?;
        let (acceptor, shared) = (TlsAcceptor::from(Arc::new(config)), Arc::new(Shared::default()));
        let serving = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&serving));
                // An agent that is killed breaks its connection: that is no fault of anybody.
                tokio::spawn(async move { drop(serve(stream, acceptor, shared).await) });
            }
        });
        Ok(Self { address, authority, shared, accepting })
    }

    /// Returns what it was told so far.
    pub fn seen(&self) -> Seen {
        self.shared.state().seen.clone()
    }

    /// Says a message to the agent. Returns its id.
    pub fn send(&self, service: &str, message_type: &str, data: impl Into<Option<prost_types::Any>>) -> Vec<u8> {
        let id = {
            let mut state = self.shared.state();
            state.messages += 1;
            [&state.messages.to_be_bytes()[..], &[0xE1; 24]].concat()
        };
        self.send_again(&id, service, message_type, data.into());
        id
    }

    /// Says a message under an id that may have been used before.
    pub fn send_again(&self, id: &[u8], service: &str, message_type: &str, data: Option<prost_types::Any>) {
        let end = || Some(Address { client_id: Vec::new(), service_name: service.to_owned() });
        self.send_message(Message {
            message_id: id.to_vec(),
            source: end(),
            destination: end(),
            message_type: message_type.to_owned(),
            data,
            ..Message::default()
        });
    }

    /// Says any message.
    pub fn send_message(&self, message: Message) {
        self.push(Piece::Message(Box::new(message)));
    }

    /// Hands out an order. Returns the id of its message.
    pub fn order(&self, action: &[u8], action_id: i64) -> Vec<u8> {
        let order = actions::ActionOrder { action: action.to_vec(), action_id, command_id: 0 };
        self.send(actions::SERVICE, actions::ORDER, Some(wire::any("muster.actions.ActionOrder", &order)))
    }

    /// Hands out a document of trust. Returns the id of its message.
    pub fn document(&self, document: &[u8]) -> Vec<u8> {
        let document = actions::TrustDocument { document: document.to_vec() };
        self.send(actions::SERVICE, actions::DOCUMENT, Some(wire::any("muster.actions.TrustDocument", &document)))
    }

    /// Gives out this list of revoked certificates from now on.
    pub fn revoke(&self, list: Vec<u8>) {
        self.shared.state().revoked = list;
    }

    /// Refuses every contact from now on with this status and reason, or none.
    pub fn refuse(&self, refusal: Option<(&str, &[u8])>) {
        self.shared.state().refusal = refusal.map(|(status, reason)| (status.to_owned(), reason.to_owned()));
    }

    /// Says bytes within the stream, whatever they are.
    pub fn say(&self, bytes: Vec<u8>) {
        self.push(Piece::Raw(bytes));
    }

    /// Cuts the connection that the agent has, or the next one.
    pub fn cut(&self) {
        self.push(Piece::Cut);
    }

    fn push(&self, piece: Piece) {
        self.shared.state().pending.push_back(piece);
        self.shared.changed.notify_waiters();
    }

    /// Waits until what was seen has what is wanted.
    pub async fn wait<T>(&self, what: &str, wanted: impl Fn(&Seen) -> Option<T>) -> Result<T> {
        wait::until(what, CEILING, async || Ok(wanted(&self.shared.state().seen))).await
    }

    /// Waits for what came of the order in this message.
    pub async fn result(&self, message: &[u8]) -> Result<ActionResult> {
        self.wait("what came of an order", |seen| seen.results.get(message).cloned()).await
    }

    /// Waits until the agent answers an echo: it lives, and has taken whatever was said before.
    pub async fn is_answered(&self) -> Result<()> {
        let (before, end) = (self.seen().echoes, Instant::now() + CEILING);
        let body = wire::any("google.protobuf.BytesValue", &prost_types::Any::default());
        loop {
            self.send(ECHO_SERVICE, "Echo", Some(body.clone()));
            let answered = self.wait("an answer to an echo", |seen| (seen.echoes > before).then_some(()));
            // What was said to a connection that just broke, or to a service without room, is lost. An honest server says
            // it again, too.
            match tokio::time::timeout(ECHO_AGAIN, answered).await {
                Ok(answered) => return answered,
                Err(_) if Instant::now() >= end => bail!("the agent answers no echo any more"),
                Err(_) => {}
            }
        }
    }
}

impl Drop for Evil {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a contact brought.
    fn take(&self, agent: AgentId, record: Bytes) -> Result<()> {
        let contact = caller::contact(record)?;
        let seen = &mut self.state().seen;
        seen.agents.insert(agent);
        for message in contact.messages {
            let body = message.data.as_ref().map_or(&[][..], |data| &data.value);
            match message.message_type.as_str() {
                "MessageAck" => seen.acknowledged.extend(MessageAckData::decode(body)?.message_ids),
                "MessageError" => {
                    let error = MessageErrorData::decode(body)?;
                    seen.errors.insert(error.message_id, error.error);
                }
                actions::RESULT => {
                    let result = ActionResult::decode(body)?;
                    seen.results.insert(result.order_message_id.clone(), result);
                }
                actions::TRUST => seen.trust.push(AgentTrust::decode(body)?),
                "EchoReply" => seen.echoes += 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the messages that are said next, up to the next thing that is no message.
    fn give(&self) -> ContactData {
        let mut state = self.state();
        let mut messages = Vec::new();
        while messages.len() < RECORD_MESSAGES
            && let Some(Piece::Message(_)) = state.pending.front()
        {
            let Some(Piece::Message(message)) = state.pending.pop_front() else { break };
            messages.push(*message);
        }
        state.nonce += 1;
        ContactData { sequencing_nonce: state.nonce, messages, ..ContactData::default() }
    }

    /// Takes what is said next and is no message.
    fn give_other(&self) -> Option<Piece> {
        let mut state = self.state();
        let is_other = matches!(state.pending.front(), Some(Piece::Raw(_) | Piece::Cut));
        is_other.then(|| state.pending.pop_front()).flatten()
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await.context("shaking hands")?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let key = public_key(certificate.context("an agent showed no certificate")?).context("a certificate has no key")?;
    let agent = AgentId::of_key(key);
    let (mut ear, mut mouth) = caller::split(stream);
    while let Some(path) = ear.request().await? {
        let refusal = shared.state().refusal.clone();
        match path.as_str() {
            "/streaming-message" | "/message" if refusal.is_some() => {
                let (status, reason) = refusal.unwrap_or_default();
                seen_refused(&shared);
                return mouth.answer(&status, &reason).await;
            }
            "/streaming-message" => return hold(&shared, agent, ear, mouth).await,
            "/message" => {
                let record = ear.whole().await?;
                shared.state().seen.polls += 1;
                shared.take(agent, record)?;
                mouth.answer("200 OK", &shared.give().encode_to_vec()).await?;
                if let Some(Piece::Cut) = shared.give_other() {
                    return Ok(());
                }
            }
            "/files/system/revokedcertificates" => {
                let list = shared.state().revoked.clone();
                shared.state().seen.lists += 1;
                mouth.answer("200 OK", &list).await?;
            }
            _ => mouth.answer("404 Not Found", b"no such file\n").await?,
        }
    }
    Ok(())
}

fn seen_refused(shared: &Shared) {
    shared.state().seen.refused += 1;
}

/// Holds a stream until it is cut or ends.
async fn hold(shared: &Shared, agent: AgentId, mut ear: Ear, mut mouth: Mouth) -> Result<()> {
    let Some(first) = ear.record().await? else { return Ok(()) };
    shared.take(agent, first)?;
    mouth.begin().await?;
    mouth.say(&wire::framed(&shared.give().encode_to_vec())).await?;
    shared.state().seen.streams += 1;
    let mut records = 0;
    loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let contact = shared.give();
        if !contact.messages.is_empty() {
            mouth.say(&wire::framed(&contact.encode_to_vec())).await?;
            continue;
        }
        match shared.give_other() {
            Some(Piece::Raw(bytes)) => {
                mouth.say(&bytes).await?;
                continue;
            }
            Some(_) => return Ok(()),
            None => {}
        }
        tokio::select! {
            () = changed => {}
            record = ear.record() => {
                let Some(record) = record? else { return Ok(()) };
                shared.take(agent, record)?;
                records += 1;
                let ack = ContactData { ack_index: records, ..ContactData::default() };
                mouth.say(&wire::framed(&ack.encode_to_vec())).await?;
            }
        }
    }
}

/// Finds the public key of a certificate: the seventh part of its first part, after the version, which agents write.
fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    let (_, whole, _) = der(certificate)?;
    let (_, mut rest, _) = der(whole)?;
    for _ in 0..6 {
        rest = der(rest)?.2;
    }
    let after = der(rest)?.2;
    rest.get(..rest.len() - after.len())
}

/// Takes a value of DER apart: its tag, what is in it, what follows it.
fn der(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        (digits.iter().fold(0, |sum, digit| (sum << 8) | usize::from(*digit)), rest)
    };
    let (inner, after) = rest.split_at_checked(length)?;
    Some((*tag, inner, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::certificate;
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

    #[test]
    fn an_agent_is_known_by_the_key_in_its_certificate() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let (id, shown) = certificate(&key).unwrap();
        assert_eq!(AgentId::of_key(public_key(&shown).unwrap()), id);
        assert_eq!(public_key(&shown[..100]), None);
    }
}
