//! Broadcasts and allocations.

use crate::for_each_backend;
use crate::schema::{on_both, past_the_store, try_open};
use crate::stage::*;
use muster_core::{
    Address, AgentId, Allocation, AllocationId, Broadcast, BroadcastId, BroadcastLimit, Label, Message, limits,
};
use muster_store::broadcasts::BroadcastSent;
use muster_store::messages::MessageState;
use muster_store::{BroadcastStore, ErrorKind, SqlStore};

pub(crate) fn bid(n: u8) -> BroadcastId {
    BroadcastId::from_bytes([9, 0, 0, 0, 0, 0, 0, n])
}

pub(crate) fn aid(n: u8) -> AllocationId {
    AllocationId::from_bytes([8, 0, 0, 0, 0, 0, 0, n])
}

pub(crate) fn broadcast(n: u8, limit: u64) -> Broadcast {
    Broadcast {
        id: bid(n),
        source: Address::server("sender"),
        destination_service: "receiver".into(),
        message_type: "Type".into(),
        required_labels: vec![Label::client("a"), Label::client("b")],
        expires: None,
        payload: body("hello"),
        group: String::new(),
        limit: BroadcastLimit::from_number(limit).unwrap(),
        sent: 0,
        allocated: 0,
        created: at(i64::from(n)),
    }
}

pub(crate) const ALL: u64 = BroadcastLimit::UNLIMITED;

fn message(n: u8, to: AgentId) -> Message {
    to_agent(n, to, "receiver")
}

impl Stage {
    async fn create(&self, broadcast: Broadcast) {
        self.store.broadcast_create(broadcast, at(0), &cause()).await.unwrap();
    }

    async fn take(&self, broadcast: u8, allocation: u8, fraction: f32) -> Option<Allocation> {
        self.store.allocation_take(bid(broadcast), aid(allocation), fraction, at(600_000)).await.unwrap()
    }

    async fn send(&self, broadcast: u8, allocation: Option<u8>, n: u8, to: AgentId, ms: i64) -> BroadcastSent {
        let sent = self.store.broadcast_send(bid(broadcast), allocation.map(aid), message(n, to), NO_CONTACT, at(ms));
        sent.await.unwrap()
    }

    async fn active(&self, ms: i64) -> Vec<u8> {
        let active = self.store.broadcast_active(None, at(ms)).await.unwrap();
        active.iter().map(|broadcast| broadcast.id.as_bytes()[7]).collect()
    }

    async fn broadcast(&self, n: u8) -> Broadcast {
        self.store.broadcast_get(bid(n)).await.unwrap().unwrap()
    }
}

for_each_backend! {
    async fn five_broadcasts_as_in_the_originals_suite(stage) {
        let agent = stage.agent(1).await;
        stage.create(broadcast(1, 8)).await;
        stage.create(Broadcast { expires: Some(at(200)), ..broadcast(2, 8) }).await;
        stage.create(broadcast(3, 0)).await;
        stage.create(Broadcast { expires: Some(at(1)), ..broadcast(4, 100) }).await;
        stage.create(broadcast(5, ALL)).await;
        assert_eq!(stage.active(1).await, [1, 2, 5]);
        assert_eq!(stage.active(200).await, [1, 5]);

        for (n, (fraction, units)) in (1..).zip([(0.5, 4), (0.5, 2), (0.1, 1), (2.0, 1)]) {
            let wanted = Allocation { id: Some(aid(n)), limit: BroadcastLimit::Machines(units), expires: at(600_000) };
            assert_eq!(stage.take(1, n, fraction).await, Some(wanted));
        }
        assert_eq!(stage.take(1, 5, 2.0).await, None);
        let unlimited = Allocation { id: None, limit: BroadcastLimit::Unlimited, expires: at(600_000) };
        assert_eq!(stage.take(5, 6, 0.5).await, Some(unlimited));
        assert_eq!(stage.take(3, 7, 0.5).await, None);
        assert_eq!(stage.take(77, 7, 0.5).await, None);

        assert_eq!(stage.send(1, Some(1), 1, agent, 10).await, BroadcastSent::Yes);
        assert_eq!(stage.send(5, None, 2, agent, 10).await, BroadcastSent::Yes);
        assert_eq!(stage.store.broadcast_had(agent).await.unwrap(), [bid(1), bid(5)]);
        assert_eq!(stage.send(1, Some(2), 3, agent, 10).await, BroadcastSent::Before);
        let row = stage.row(id(1)).await;
        assert_eq!((row.message, row.attempts), (message(1, agent), 1));
        assert_eq!(row.due, Some(at(10).plus(limits::AGENT_RETRY)));
        assert_eq!(row.state, MessageState::Pending);

        assert_eq!((stage.broadcast(1).await.sent, stage.broadcast(1).await.allocated), (1, 8));
        stage.store.allocation_end(bid(1), Some(aid(1)), 1).await.unwrap();
        stage.store.allocation_end(bid(1), Some(aid(2)), 0).await.unwrap();
        stage.store.allocation_end(bid(1), Some(aid(2)), 5).await.unwrap();
        assert_eq!((stage.broadcast(1).await.sent, stage.broadcast(1).await.allocated), (1, 2));
        stage.store.allocation_end(bid(5), None, 1).await.unwrap();
        assert_eq!(stage.broadcast(5).await.sent, 1);

        let other = stage.agent(2).await;
        stage.store.broadcast_disable(&[bid(1), bid(5), bid(77)], at(20), &cause()).await.unwrap();
        assert_eq!(stage.active(1).await, [2]);
        assert_eq!(stage.send(1, Some(3), 4, other, 10).await, BroadcastSent::Disabled);
        assert_eq!(stage.send(1, None, 4, other, 10).await, BroadcastSent::Disabled);
        assert_eq!(stage.send(5, None, 4, other, 10).await, BroadcastSent::Disabled);
        assert_eq!(stage.send(77, None, 4, other, 10).await, BroadcastSent::Disabled);
        stage.store.allocation_end(bid(1), Some(aid(3)), 1).await.unwrap();
        let disabled = stage.broadcast(1).await;
        assert_eq!((disabled.limit, disabled.sent, disabled.allocated), (BroadcastLimit::Machines(0), 1, 0));
        assert_eq!(stage.store.broadcast_had(other).await.unwrap(), []);
        assert_eq!(muster_store::MessageStore::message_get(&stage.store, &[id(4)], true).await.unwrap(), []);
    }

    async fn a_broadcast_comes_back_as_it_was_created(stage) {
        let full = Broadcast {
            source: Address::agent(agent(1), "s"),
            group: "g".into(),
            expires: Some(at(9)),
            ..broadcast(1, 1)
        };
        let plain = Broadcast { payload: None, required_labels: Vec::new(), ..broadcast(2, ALL) };
        for broadcast in [&full, &plain] {
            stage.create(broadcast.clone()).await;
            assert_eq!(stage.store.broadcast_get(broadcast.id).await.unwrap().as_ref(), Some(broadcast));
        }
        // Twice is once; other content is refused.
        stage.create(full.clone()).await;
        let other = Broadcast { limit: BroadcastLimit::Machines(2), ..full };
        let error = stage.store.broadcast_create(other, at(0), &cause()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
        let nobody = Broadcast { source: Address::server(""), ..broadcast(3, 1) };
        let error = stage.store.broadcast_create(nobody, at(0), &cause()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let beyond = Broadcast { limit: BroadcastLimit::Machines(u64::MAX), ..broadcast(3, 1) };
        let error = stage.store.broadcast_create(beyond, at(0), &cause()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(stage.store.broadcast_get(bid(3)).await.unwrap(), None);
        assert_eq!(stage.store.broadcast_active(Some("sender"), at(0)).await.unwrap(), [plain]);
    }

    async fn pages_of_broadcasts_add_up(stage) {
        for n in 0..20 {
            stage.create(Broadcast { created: at(i64::from(n / 5)), ..broadcast(n, 1) }).await;
        }
        for limit in [1, 3, 20] {
            let mut seen = Vec::new();
            let mut before = None;
            loop {
                let page = stage.store.broadcast_page(before, limit).await.unwrap();
                let Some(last) = page.last() else { break };
                before = Some((last.created, last.id));
                seen.extend(page.iter().map(|broadcast| broadcast.id));
            }
            assert_eq!(seen, (0..20).rev().map(bid).collect::<Vec<_>>());
        }
    }

    async fn a_group_replaces_only_its_like(stage) {
        let one = || Broadcast { group: "g".into(), ..broadcast(1, 8) };
        let variants = [
            Broadcast { group: "h".into(), id: bid(2), ..one() },
            Broadcast { source: Address::server("other"), id: bid(3), ..one() },
            Broadcast { destination_service: "other".into(), id: bid(4), ..one() },
            Broadcast { required_labels: vec![Label::client("a")], id: bid(5), ..one() },
            Broadcast { group: String::new(), id: bid(6), ..one() },
        ];
        stage.create(one()).await;
        for variant in variants {
            stage.create(variant).await;
        }
        assert_eq!(stage.active(0).await, [1, 2, 3, 4, 5, 6]);
        // The labels are a set: their order does not matter.
        let required_labels = vec![Label::client("b"), Label::client("a"), Label::client("b")];
        stage.take(1, 1, 0.5).await;
        stage.create(Broadcast { id: bid(7), required_labels, ..one() }).await;
        assert_eq!(stage.active(0).await, [2, 3, 4, 5, 6, 7]);
        assert_eq!(stage.broadcast(1).await.allocated, 0);
        // Created again, it does not replace itself.
        let same = Broadcast { id: bid(7), ..one() };
        stage.create(same).await;
        assert_eq!(stage.active(0).await, [2, 3, 4, 5, 6, 7]);
    }

    async fn a_limit_is_never_set_below_what_is_sent_and_promised(stage) {
        let agent = stage.agent(1).await;
        stage.create(broadcast(1, 10)).await;
        stage.take(1, 1, 0.5).await;
        assert_eq!(stage.send(1, Some(1), 1, agent, 1).await, BroadcastSent::Yes);
        let set = async |limit| {
            let limit = BroadcastLimit::from_number(limit).unwrap();
            stage.store.broadcast_limit_set(bid(1), limit, at(1), &cause()).await.unwrap();
            stage.broadcast(1).await.limit.to_number()
        };
        assert_eq!((set(3).await, set(20).await, set(ALL).await), (5, 20, ALL));
        let none = stage.store.broadcast_limit_set(bid(9), BroadcastLimit::Unlimited, at(1), &cause()).await;
        assert_eq!(none.unwrap_err().kind(), ErrorKind::NotFound);
        let beyond = stage.store.broadcast_limit_set(bid(1), BroadcastLimit::Machines(u64::MAX), at(1), &cause()).await;
        assert_eq!(beyond.unwrap_err().kind(), ErrorKind::Invalid);
    }

    async fn what_is_sent_and_what_is_promised_add_up(stage) {
        let agent = stage.agent(1).await;
        stage.create(broadcast(1, 8)).await;
        stage.take(1, 1, 0.5).await;
        stage.take(1, 2, 0.5).await;
        assert_eq!(stage.send(1, Some(1), 1, agent, 1).await, BroadcastSent::Yes);
        stage.store.allocation_end(bid(1), Some(aid(1)), 4).await.unwrap();
        // 4 sent, 2 promised to the second: 2 are left.
        let third = stage.take(1, 3, 1.0).await.unwrap();
        assert_eq!(third.limit, BroadcastLimit::Machines(2));
        assert_eq!(stage.take(1, 4, 1.0).await, None);
    }

    async fn an_allocation_ends_when_it_is_full_or_lapses(stage) {
        let (one, two, three) = (stage.agent(1).await, stage.agent(2).await, stage.agent(3).await);
        stage.create(broadcast(1, 4)).await;
        stage.take(1, 1, 0.5).await;
        assert_eq!(stage.send(1, Some(1), 1, one, 1).await, BroadcastSent::Yes);
        assert_eq!(stage.send(1, Some(1), 2, two, 600_000).await, BroadcastSent::Exhausted);
        assert_eq!(stage.send(1, Some(1), 2, two, 599_999).await, BroadcastSent::Yes);
        assert_eq!(stage.send(1, Some(1), 3, three, 2).await, BroadcastSent::Exhausted);
        assert_eq!(stage.send(1, None, 3, three, 2).await, BroadcastSent::Exhausted, "it has a limit");
        assert_eq!(stage.store.allocation_reclaim(at(600_000)).await.unwrap(), 0);
        assert_eq!(stage.store.allocation_reclaim(at(600_001)).await.unwrap(), 1);
        assert_eq!(stage.store.allocation_reclaim(at(600_001)).await.unwrap(), 0);
        let reclaimed = stage.broadcast(1).await;
        assert_eq!((reclaimed.sent, reclaimed.allocated), (2, 0));
        assert_eq!(stage.send(1, Some(1), 3, three, 2).await, BroadcastSent::Disabled);
    }

    async fn a_broadcast_to_nobody_counts_nothing(stage) {
        stage.create(broadcast(1, 4)).await;
        stage.take(1, 1, 0.5).await;
        let send = |message| stage.store.broadcast_send(bid(1), Some(aid(1)), message, NO_CONTACT, at(1));
        assert_eq!(send(message(1, agent(9))).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(send(to_server(1, agent(1), "s")).await.unwrap_err().kind(), ErrorKind::Invalid);
        let one = stage.agent(1).await;
        stage.put(to_agent(1, one, "s")).await;
        assert_eq!(send(message(1, one)).await.unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(stage.broadcast(1).await.sent, 0);
        assert_eq!(stage.store.broadcast_had(one).await.unwrap(), []);
    }

    async fn counts_do_not_run_over(stage) {
        stage.create(broadcast(1, ALL)).await;
        let end = async |sent| stage.store.allocation_end(bid(1), None, sent).await;
        assert_eq!(end(u64::MAX).await.unwrap_err().kind(), ErrorKind::Invalid);
        end(i64::MAX as u64).await.unwrap();
        assert_eq!(end(1).await.unwrap_err().kind(), ErrorKind::Invalid);
        stage.store.allocation_end(bid(99), None, 1).await.unwrap();
    }
}

#[tokio::test]
async fn an_allocation_larger_than_what_its_broadcast_allocated_is_an_error_that_names_the_row() {
    on_both(async |place| {
        assert_eq!(SqlStore::migrate(&place.url).await.unwrap(), None);
        {
            let stage = Stage { store: try_open(&place.url).await.unwrap(), url: place.url.clone() };
            stage.create(broadcast(1, 8)).await;
            assert_eq!(stage.take(1, 1, 0.5).await.unwrap().limit, BroadcastLimit::Machines(4));
        }
        past_the_store(&place.url, "UPDATE broadcasts SET allocated = 3").await;
        let stage = Stage { store: try_open(&place.url).await.unwrap(), url: place.url.clone() };
        let error = stage.store.allocation_end(bid(1), Some(aid(1)), 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Inconsistent);
        let text = error.to_string();
        assert!(text.contains("broadcasts") && text.contains("3 allocated, an allocation has 4"), "{text}");
        assert_eq!((stage.broadcast(1).await.sent, stage.broadcast(1).await.allocated), (0, 3), "nothing was changed");
        // It lapses all the same, so that one bad row keeps nothing open for good.
        assert_eq!(stage.store.allocation_reclaim(at(600_001)).await.unwrap(), 1);
        assert_eq!(stage.broadcast(1).await.allocated, 0);
        drop(stage);
        place.remove().await;
    })
    .await;
}
