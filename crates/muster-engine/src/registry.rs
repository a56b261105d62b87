//! The streams that this server holds.
//!
//! Stays true: one stream per agent, the newest; a wake-up is never lost, because it leaves a mark before it rings; a
//! stream that waits costs a few hundred bytes and no task of its own.

use crate::engine::{Engine, Inner, lock};
use muster_core::{AgentId, AgentState, ContactId, Message, MessageId, limits};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// What a stream was woken for. Several at once are one mask.
pub(crate) mod wake {
    /// Messages may be due.
    pub(crate) const MESSAGES: u8 = 1;
    /// Broadcasts have changed.
    pub(crate) const BROADCASTS: u8 = 2;
    /// The agent owes a new key and must be asked for it.
    pub(crate) const REKEY: u8 = 4;
    /// Another stream has taken its place.
    pub(crate) const REPLACED: u8 = 8;
    /// The agent is gone, or kept out.
    pub(crate) const GONE: u8 = 16;
    /// Nothing but to look around: the server stops.
    pub(crate) const LOOK: u8 = 32;

    /// What leads to messages.
    pub(crate) const WORK: u8 = MESSAGES | BROADCASTS | REKEY;
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Whose it is.
    pub(crate) agent: AgentId,
    /// The contact that began it.
    pub(crate) contact: ContactId,
    /// Whether the agent knows a message that it was given before.
    pub(crate) remembers: bool,
    marks: AtomicU8,
    bell: Notify,
    details: Mutex<Details>,
}

#[derive(Debug)]
struct Details {
    state: AgentState,
    tokens: Option<BTreeMap<String, u64>>,
    rekey: Option<MessageId>,
    broadcasts_seen: u64,
}

impl Stream {
    pub(crate) fn new(
        agent: AgentId,
        contact: ContactId,
        state: AgentState,
        tokens: Option<BTreeMap<String, u64>>,
    ) -> Self {
        Self {
            agent,
            contact,
            remembers: false,
            marks: AtomicU8::new(0),
            bell: Notify::new(),
            details: Mutex::new(Details { state, tokens, rekey: None, broadcasts_seen: 0 }),
        }
    }

    /// The same, of an agent that remembers what it was given, or not.
    pub(crate) fn of_one_that(self, remembers: bool) -> Self {
        Self { remembers, ..self }
    }

    /// Leaves marks and rings.
    pub(crate) fn wake(&self, marks: u8) {
        self.marks.fetch_or(marks, Ordering::AcqRel);
        self.bell.notify_one();
    }

    /// Leaves marks for whoever looks next.
    pub(crate) fn mark(&self, marks: u8) {
        self.marks.fetch_or(marks, Ordering::AcqRel);
    }

    /// Whether one of these marks is there.
    pub(crate) fn is_marked(&self, marks: u8) -> bool {
        self.marks.load(Ordering::Acquire) & marks != 0
    }

    /// Takes the marks that lead to messages.
    pub(crate) fn take_work(&self) -> u8 {
        self.marks.fetch_and(!(wake::WORK | wake::LOOK), Ordering::AcqRel) & wake::WORK
    }

    /// Waits until it rings.
    pub(crate) async fn rung(&self) {
        self.bell.notified().await;
    }

    pub(crate) fn state(&self) -> AgentState {
        lock(&self.details).state
    }

    /// Takes note of the agent's state, and wakes the stream when it is another than before.
    pub(crate) fn state_note(&self, state: AgentState) {
        {
            let mut details = lock(&self.details);
            if details.state == state {
                return;
            }
            details.state = state;
            details.rekey = None;
            details.broadcasts_seen = 0;
        }
        self.wake(match state {
            AgentState::Enrolled => wake::MESSAGES | wake::BROADCASTS,
            AgentState::Waiting => wake::LOOK,
            AgentState::Rekeying | AgentState::Replaced => wake::REKEY,
            AgentState::Blocked | AgentState::Deleted => wake::GONE,
        });
    }

    /// The tokens that are left, for a claim.
    pub(crate) fn tokens(&self) -> Option<BTreeMap<String, u64>> {
        lock(&self.details).tokens.clone()
    }

    /// Takes a token for each message that is handed out; `Die` is free, because no agent is left to count it.
    ///
    /// Returns whether there may be more to hand out: the claim took all that `offered` allowed for a service, and the
    /// agent has allowed more of it while the claim was under way. Nobody else would look for that, because a record
    /// rings only when it ends a shortage.
    pub(crate) fn tokens_spend(&self, messages: &[Message], offered: Option<&BTreeMap<String, u64>>) -> bool {
        let mut details = lock(&self.details);
        let Some(tokens) = &mut details.tokens else {
            return false;
        };
        let mut taken: BTreeMap<&str, u64> = BTreeMap::new();
        for message in messages.iter().filter(|message| !is_die(message)) {
            if let Some(left) = tokens.get_mut(&message.destination.service) {
                *left = left.saturating_sub(1);
            }
            *taken.entry(&message.destination.service).or_default() += 1;
        }
        let used_up = |service: &str, count: u64| offered.is_none_or(|offered| offered.get(service) <= Some(&count));
        taken
            .iter()
            .any(|(service, count)| used_up(service, *count) && tokens.get(*service).is_some_and(|left| *left > 0))
    }

    /// Adds what a record allows. A record that says nothing changes nothing. The stream is woken when a service had
    /// no token left, because only then can something have been held back.
    pub(crate) fn tokens_add(&self, allowed: Option<BTreeMap<String, u64>>) -> Result<(), TooManyServices> {
        let Some(allowed) = allowed else {
            return Ok(());
        };
        let mut details = lock(&self.details);
        let tokens = details.tokens.get_or_insert_default();
        let mut freed = false;
        for (service, more) in allowed {
            if !tokens.contains_key(&service) && tokens.len() >= limits::CONTACT_SERVICES_MAX {
                return Err(TooManyServices);
            }
            let left = tokens.entry(service).or_insert(0);
            freed |= *left == 0 && more > 0;
            *left = left.saturating_add(more);
        }
        drop(details);
        if freed {
            self.wake(wake::MESSAGES);
        }
        Ok(())
    }

    /// Remembers a demand for a new key that was handed out.
    pub(crate) fn rekey_note(&self, id: MessageId) {
        lock(&self.details).rekey = Some(id);
    }

    /// The demand for a new key that was handed out and not answered.
    pub(crate) fn rekey(&self) -> Option<MessageId> {
        lock(&self.details).rekey
    }

    /// Up to which number this stream has been given the broadcasts.
    pub(crate) fn broadcasts_seen(&self) -> u64 {
        lock(&self.details).broadcasts_seen
    }

    pub(crate) fn broadcasts_note(&self, seen: u64) {
        lock(&self.details).broadcasts_seen = seen;
    }

    /// Makes all broadcasts be looked at again, because the agent's labels changed.
    pub(crate) fn broadcasts_again(&self) {
        self.broadcasts_note(0);
        self.wake(wake::BROADCASTS);
    }
}

/// A flow-control map names more services than allowed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyServices;

fn is_die(message: &Message) -> bool {
    message.destination.service == muster_core::system::SERVICE && message.message_type == muster_core::system::DIE
}

/// All streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    held: Mutex<HashMap<AgentId, Arc<Stream>>>,
}

impl Streams {
    /// Registers a stream; an older one of the same agent ends.
    pub(crate) fn register(&self, stream: &Arc<Stream>) {
        let older = lock(&self.held).insert(stream.agent, Arc::clone(stream));
        if let Some(older) = older {
            older.wake(wake::REPLACED);
        }
    }

    /// Takes a stream out. `false`: another one has its place.
    pub(crate) fn remove(&self, stream: &Arc<Stream>) -> bool {
        let mut held = lock(&self.held);
        let is_it = held.get(&stream.agent).is_some_and(|there| Arc::ptr_eq(there, stream));
        if is_it {
            held.remove(&stream.agent);
            if held.len() * 4 < held.capacity() {
                held.shrink_to_fit();
            }
        }
        is_it
    }

    pub(crate) fn get(&self, agent: AgentId) -> Option<Arc<Stream>> {
        lock(&self.held).get(&agent).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.held).len()
    }

    /// Wakes the streams of these agents. Returns how many there were.
    pub(crate) fn wake(&self, agents: &[AgentId], marks: u8) -> usize {
        let held = lock(&self.held);
        let found = agents.iter().filter_map(|agent| held.get(agent));
        found.map(|stream| stream.wake(marks)).count()
    }

    /// Wakes all streams.
    pub(crate) fn wake_all(&self, marks: u8) {
        for stream in lock(&self.held).values() {
            stream.wake(marks);
        }
    }

    /// Returns whose streams there are, in the order of their ids.
    pub(crate) fn agents(&self) -> Vec<AgentId> {
        let mut agents: Vec<AgentId> = lock(&self.held).keys().copied().collect();
        agents.sort_unstable();
        agents
    }
}

/// Keeps a stream registered for as long as one of its two sides lives.
pub(crate) struct Held {
    pub(crate) inner: Arc<Inner>,
    pub(crate) stream: Arc<Stream>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.inner.stream_closed(&self.stream);
    }
}

impl Engine {
    /// How many streams this server holds.
    pub fn streams_open(&self) -> usize {
        self.inner.streams.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::{Address, Timestamp};

    fn stream(tokens: Option<&[(&str, u64)]>) -> Stream {
        let tokens = tokens.map(|tokens| tokens.iter().map(|(s, n)| ((*s).to_owned(), *n)).collect());
        Stream::new(AgentId::from_bytes([1; 8]), ContactId(1), AgentState::Enrolled, tokens)
    }

    #[expect(clippy::unnecessary_wraps, reason = "compared with and given as an option everywhere")]
    fn map(tokens: &[(&str, u64)]) -> Option<BTreeMap<String, u64>> {
        Some(tokens.iter().map(|(s, n)| ((*s).to_owned(), *n)).collect())
    }

    fn message(service: &str, message_type: &str) -> Message {
        let to = Address::agent(AgentId::from_bytes([1; 8]), service);
        let message = Message::new(MessageId::from_bytes([0; 32]), Address::server("s"), to, Timestamp::EPOCH);
        Message { message_type: message_type.into(), ..message }
    }

    #[test]
    fn what_is_allowed_during_a_claim_that_used_up_a_service_is_looked_for_at_once() {
        let stream = stream(Some(&[("a", 2), ("b", 5)]));
        let offered = stream.tokens();
        assert!(!stream.tokens_spend(&[message("a", "")], offered.as_ref()), "the claim found all there was");
        let offered = stream.tokens();
        stream.tokens_add(map(&[("a", 3)])).unwrap();
        assert_eq!(stream.take_work(), 0, "there was a token left, so the record rings for nobody");
        assert!(stream.tokens_spend(&[message("a", ""), message("b", "")], offered.as_ref()));
        let offered = stream.tokens();
        assert!(!stream.tokens_spend(&[message("a", ""), message("a", ""), message("a", "")], offered.as_ref()));
    }

    #[test]
    fn tokens_are_added_with_saturation_and_spent_one_by_one() {
        let stream = stream(Some(&[("a", u64::MAX), ("b", 1)]));
        stream.tokens_add(map(&[("a", u64::MAX), ("c", 2)])).unwrap();
        assert_eq!(stream.tokens(), map(&[("a", u64::MAX), ("b", 1), ("c", 2)]));
        stream.tokens_spend(&[message("b", ""), message("b", ""), message("c", ""), message("d", "")], None);
        assert_eq!(stream.tokens(), map(&[("a", u64::MAX), ("b", 0), ("c", 1)]));
        stream.tokens_add(None).unwrap();
        assert_eq!(stream.tokens(), map(&[("a", u64::MAX), ("b", 0), ("c", 1)]));
    }

    #[test]
    fn an_agent_that_never_speaks_of_tokens_has_no_limits() {
        let stream = stream(None);
        stream.tokens_add(None).unwrap();
        stream.tokens_spend(&[message("a", "")], None);
        assert_eq!(stream.tokens(), None);
        stream.tokens_add(map(&[("a", 1)])).unwrap();
        assert_eq!(stream.tokens(), map(&[("a", 1)]));
    }

    #[test]
    fn die_costs_no_token() {
        let stream = stream(Some(&[("system", 1)]));
        stream.tokens_spend(&[message("system", "Die")], None);
        assert_eq!(stream.tokens(), map(&[("system", 1)]));
        stream.tokens_spend(&[message("system", "RestartService")], None);
        assert_eq!(stream.tokens(), map(&[("system", 0)]));
    }

    #[test]
    fn tokens_wake_only_a_stream_that_had_none_left() {
        let stream = stream(Some(&[("a", 1), ("b", 0)]));
        stream.tokens_add(map(&[("a", 5)])).unwrap();
        assert_eq!(stream.take_work(), 0);
        stream.tokens_add(map(&[("b", 5)])).unwrap();
        assert_eq!(stream.take_work(), wake::MESSAGES);
        stream.tokens_add(map(&[("new", 1)])).unwrap();
        assert_eq!(stream.take_work(), wake::MESSAGES);
    }

    #[test]
    fn the_map_of_services_is_bounded_over_all_records() {
        let stream = stream(Some(&[]));
        let many = |from: usize, count: usize| {
            Some((from..from + count).map(|n| (format!("s{n}"), 1)).collect::<BTreeMap<_, _>>())
        };
        let most = limits::CONTACT_SERVICES_MAX;
        assert_eq!(stream.tokens_add(many(0, most)), Ok(()));
        assert_eq!(stream.tokens_add(many(0, most)), Ok(()));
        assert_eq!(stream.tokens_add(many(most, 1)), Err(TooManyServices));
    }

    #[test]
    fn the_newer_stream_takes_the_place_and_the_older_cannot_take_it_back() {
        let streams = Streams::default();
        let (older, newer) = (Arc::new(stream(None)), Arc::new(stream(None)));
        streams.register(&older);
        streams.register(&newer);
        assert!(older.is_marked(wake::REPLACED) && !newer.is_marked(wake::REPLACED));
        assert!(!streams.remove(&older));
        assert_eq!(streams.wake(&[AgentId::from_bytes([1; 8]), AgentId::from_bytes([2; 8])], wake::MESSAGES), 1);
        assert!(newer.is_marked(wake::MESSAGES) && !older.is_marked(wake::MESSAGES));
        assert!(streams.remove(&newer));
        assert_eq!(streams.len(), 0);
    }

    #[test]
    fn a_state_is_acted_on_once() {
        let stream = stream(None);
        stream.state_note(AgentState::Enrolled);
        assert_eq!(stream.take_work(), 0);
        stream.state_note(AgentState::Rekeying);
        assert_eq!(stream.take_work(), wake::REKEY);
        stream.state_note(AgentState::Rekeying);
        assert_eq!(stream.take_work(), 0);
        stream.state_note(AgentState::Blocked);
        assert!(stream.is_marked(wake::GONE), "who is kept out is kept out at once");
    }
}
