//! Several at once, callers that go away, and statements that fail in the middle.

use crate::broadcasts::{aid, bid, broadcast};
use crate::for_each_backend;
use crate::stage::*;
use muster_core::file::FileInfo;
use muster_core::{AgentState, Message, MessageResult, ServerId};
use muster_store::agents::{Claim, ContactPut, Effect, Enrolled, Enrolment, Taken};
use muster_store::broadcasts::BroadcastSent;
use muster_store::cluster::EnrolTokenRow;
use muster_store::{
    AgentStore, BroadcastStore, ClusterStore, ErrorKind, FileStore, MessageStore, SqlStore, StoreError,
};
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

const RACERS: u8 = 8;

/// Lets racers run at once on two stores and returns what each got.
async fn race<T, F>(stage: &Stage, racer: impl Fn(SqlStore, u8) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let stores = [stage.store.clone(), stage.second().await];
    let start = std::sync::Arc::new(tokio::sync::Barrier::new(RACERS.into()));
    let racers: Vec<_> = (0..RACERS)
        .map(|n| {
            let (run, start) = (racer(stores[usize::from(n) % 2].clone(), n), start.clone());
            tokio::spawn(async move {
                start.wait().await;
                run.await
            })
        })
        .collect();
    let mut got = Vec::new();
    for racer in racers {
        got.push(racer.await.unwrap());
    }
    got
}

/// Runs a call and drops it after it was polled so many times without an end. `true`: it ended before.
pub(crate) async fn dropped_after<T>(call: impl Future<Output = T>, polls: u32) -> bool {
    let mut call = pin!(call);
    // Growing faster than their number, so that the last calls get as far as their commit.
    for _ in 0..polls * polls {
        if call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

fn id_of(n: u16) -> muster_core::MessageId {
    let mut bytes = [5; 32];
    bytes[30..].copy_from_slice(&n.to_be_bytes());
    muster_core::MessageId::from_bytes(bytes)
}

for_each_backend! {
    async fn of_those_who_claim_at_once_each_gets_others(stage) {
        let one = stage.agent(1).await;
        stage.store.message_put((0..200).map(|n| to_agent(n, one, "s")).collect(), NO_CONTACT, at(0)).await.unwrap();
        let claimed = race(&stage, |store, _| async move {
            let mut mine = Vec::new();
            for _ in 0..5 {
                let claim = Claim { limit: 5, ..all() };
                mine.extend(store.message_claim_due(agent(1), claim, NO_CONTACT, at(1)).await.unwrap());
            }
            mine
        }).await;
        let all: Vec<_> = claimed.into_iter().flatten().map(|message| message.id).collect();
        assert_eq!(all.len(), 200);
        assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), 200);
    }

    async fn an_overdue_message_goes_to_one_server(stage) {
        let messages = (0..100).map(|n| to_server(n, agent(1), "s")).collect();
        stage.store.message_put(messages, NO_CONTACT, at(0)).await.unwrap();
        let claimed = race(&stage, |store, _| async move {
            store.message_claim_overdue(&["s".to_owned()], 30, 0.0, at(1)).await.unwrap()
        }).await;
        let all: Vec<_> = claimed.into_iter().flatten().map(|(message, _)| message.id).collect();
        let once: BTreeSet<_> = all.iter().collect();
        assert_eq!(all.len(), once.len());
    }

    async fn the_same_messages_put_at_once_are_stored_once(stage) {
        stage.agent(1).await;
        let taken = race(&stage, |store, racer| async move {
            let mut messages: Vec<_> = (0..50).map(|n| to_agent(n, agent(1), "s")).collect();
            if racer % 2 == 1 {
                messages.reverse();
            }
            let put = store.message_put(messages, NO_CONTACT, at(0)).await.unwrap();
            put.into_iter().filter(|put| put.taken == Taken::New).count()
        }).await;
        assert_eq!(taken.iter().sum::<usize>(), 50, "{taken:?}");
        assert_eq!(stage.store.message_pending_count(&[agent(1)]).await.unwrap(), 50);
    }

    async fn the_same_contact_put_at_once_has_one_effect(stage) {
        stage.agent(1).await;
        let taken = race(&stage, |store, n| async move {
            let messages = (0..5).map(|m| intake(to_server(m, agent(1), "s"), Effect::Usage(Box::new(usage()))));
            let put = ContactPut { intake: messages.collect(), ..contact(1, at(i64::from(n % 2))) };
            let muster_store::agents::ContactTaken::Recorded(recorded) = store.contact_put(put).await.unwrap() else {
                panic!("refused")
            };
            recorded.taken.into_iter().filter(|taken| *taken == Taken::New).count()
        }).await;
        assert_eq!(taken.iter().sum::<usize>(), 5);
        assert_eq!(stage.store.usage_list(agent(1), at(0), at(9)).await.unwrap().len(), 5);
        let contacts = stage.store.contact_page(agent(1), None, 99).await.unwrap();
        assert_eq!(contacts.len(), 8);
        assert!(contacts.is_sorted_by(|one, next| one.id > next.id && one.at != next.at), "{contacts:?}");
    }

    async fn of_two_keys_with_one_id_one_enrols(stage) {
        let enrolled = race(&stage, |store, n| async move {
            let enrolment = Enrolment { key: key(n), ..enrolment(1, AgentState::Enrolled, &[]) };
            store.agent_enrol(enrolment, at(0)).await.unwrap()
        }).await;
        assert_eq!(enrolled.iter().filter(|enrolled| matches!(enrolled, Enrolled::Yes(_))).count(), 1);
        assert!(enrolled.iter().all(|enrolled| matches!(enrolled, Enrolled::Yes(_) | Enrolled::OtherKey)));
    }

    async fn a_token_is_not_spent_beyond_its_uses(stage) {
        let token = EnrolTokenRow {
            name: "t".into(), sha256: [5; 32], uses_left: 3, labels: vec![], created: at(0), expires: None,
        };
        stage.store.enrol_token_put(token, &cause()).await.unwrap();
        let enrolled = race(&stage, |store, n| async move {
            let enrolment = Enrolment { token: Some([5; 32]), ..enrolment(n, AgentState::Enrolled, &[]) };
            store.agent_enrol(enrolment, at(0)).await.unwrap()
        }).await;
        assert_eq!(enrolled.iter().filter(|enrolled| matches!(enrolled, Enrolled::Yes(_))).count(), 3);
        assert_eq!(stage.store.agent_count().await.unwrap().get("enrolled"), Some(&3));
    }

    async fn two_servers_never_promise_more_than_the_limit(stage) {
        for n in 0..32 {
            stage.agent(n).await;
        }
        stage.store.broadcast_create(broadcast(1, 20), at(0), &cause()).await.unwrap();
        let sent = race(&stage, |store, racer| async move {
            let mut sent = 0;
            for round in 0..4 {
                let allocation = aid(racer * 8 + round);
                let Some(share) = store.allocation_take(bid(1), allocation, 0.2, at(600)).await.unwrap() else { continue };
                let mut mine = 0;
                for n in 0..4 {
                    let n = racer * 4 + n;
                    let message = Message { id: id_of(u16::from(racer) * 256 + u16::from(round) * 32 + u16::from(n)), ..to_agent(n, agent(n), "s") };
                    let answer = store.broadcast_send(bid(1), Some(allocation), message, NO_CONTACT, at(1)).await.unwrap();
                    mine += u64::from(answer == BroadcastSent::Yes);
                }
                assert!(mine <= share.limit.to_number());
                let now = store.broadcast_get(bid(1)).await.unwrap().unwrap();
                assert!(now.sent <= 20 && now.allocated <= 20, "{now:?}");
                if round % 2 == 0 {
                    store.allocation_end(bid(1), Some(allocation), mine).await.unwrap();
                }
                sent += mine;
            }
            sent
        }).await;
        stage.store.allocation_reclaim(at(601)).await.unwrap();
        let ended = stage.store.broadcast_get(bid(1)).await.unwrap().unwrap();
        assert_eq!((ended.sent, ended.allocated), (sent.iter().sum(), 0));
        assert!(ended.sent <= 20);
        // What is left is still to be had.
        assert_eq!(stage.store.broadcast_active(None, at(0)).await.unwrap().len(), usize::from(ended.sent < 20));
    }

    async fn a_machine_gets_a_broadcast_once(stage) {
        stage.agent(1).await;
        stage.store.broadcast_create(broadcast(1, 20), at(0), &cause()).await.unwrap();
        stage.store.allocation_take(bid(1), aid(1), 1.0, at(600)).await.unwrap();
        let sent = race(&stage, |store, n| async move {
            store.broadcast_send(bid(1), Some(aid(1)), to_agent(n, agent(1), "s"), NO_CONTACT, at(1)).await.unwrap()
        }).await;
        assert_eq!(sent.iter().filter(|sent| **sent == BroadcastSent::Yes).count(), 1, "{sent:?}");
        assert_eq!(stage.store.broadcast_get(bid(1)).await.unwrap().unwrap().sent, 1);
    }

    async fn of_a_group_created_at_once_one_is_left(stage) {
        race(&stage, |store, n| async move {
            let broadcast = muster_core::Broadcast { group: "g".into(), ..broadcast(n, 5) };
            store.broadcast_create(broadcast, at(0), &cause()).await.unwrap();
        }).await;
        assert_eq!(stage.store.broadcast_active(None, at(0)).await.unwrap().len(), 1);
    }

    async fn a_job_has_one_holder(stage) {
        let held = race(&stage, |store, n| async move {
            store.lease_claim("job", ServerId::from_bytes([n; 8]), Duration::from_secs(9), at(0)).await.unwrap()
        }).await;
        assert_eq!(held.iter().flatten().count(), 1);
        let settings = race(&stage, |store, n| async move { store.setting_init("s", vec![n]).await.unwrap() }).await;
        assert!(settings.windows(2).all(|pair| pair[0] == pair[1]), "{settings:?}");
    }

    async fn of_files_finished_at_once_one_has_the_name(stage) {
        race(&stage, |store, _| async move {
            let content = store.file_begin(at(0)).await.unwrap();
            store.file_chunk_put(content, 0, bytes::Bytes::from_static(b"x")).await.unwrap();
            let info = FileInfo { service: "s".into(), name: "f".into(), bytes: 1, sha256: [0; 32], modified: at(1), content };
            store.file_finish(info, &cause()).await.unwrap();
        }).await;
        let retention = muster_store::cluster::Retention {
            clones_before: at(-1),
            contacts_before: at(0), contents_before: at(2), broadcasts_before: at(0),
        };
        assert_eq!(stage.store.retention_sweep(retention, 100).await.unwrap(), 14, "seven contents and their pieces go");
        let info = stage.store.file_get("s", "f").await.unwrap().unwrap();
        assert_eq!(stage.store.file_chunk_get(info.content, 0).await.unwrap().unwrap(), "x");
    }

    async fn a_deletion_leaves_no_message_behind(stage) {
        for n in 0..10 {
            let one = stage.agent(n).await;
            let other = stage.second().await;
            let put = tokio::spawn(async move { other.message_put(vec![to_agent(n, one, "s")], NO_CONTACT, at(0)).await });
            stage.store.agent_state_set(one, AgentState::Deleted, at(1), &cause()).await.unwrap();
            match put.await.unwrap() {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
            }
            assert_eq!(stage.store.message_pending_count(&[one]).await.unwrap(), 0);
        }
    }

    async fn a_caller_that_goes_away_leaves_all_or_nothing(stage) {
        let one = stage.agent(1).await;
        for polls in 0..40_u16 {
            let ids = [id_of(polls * 2), id_of(polls * 2 + 1)];
            let messages = ids.map(|id| Message { id, ..to_agent(0, one, "s") });
            let ended = dropped_after(stage.store.message_put(messages.to_vec(), NO_CONTACT, at(0)), polls.into()).await;
            // The next write waits behind the dropped one, if that was begun.
            stage.store.ping().await.unwrap();
            let stored = async || stage.store.message_get(&ids, false).await.unwrap().len();
            let first = stored().await;
            assert!(first == 0 || first == 2, "{first} of 2 after {polls} polls");
            assert!(!ended || first == 2);
        }
    }

    async fn a_contact_whose_caller_goes_away_is_whole_or_not(stage) {
        stage.agent(1).await;
        for polls in 0..40_u8 {
            let messages = [polls * 2, polls * 2 + 1].map(|n| intake(to_server(n, agent(1), "s"), Effect::Usage(Box::new(usage()))));
            let put = ContactPut { intake: messages.to_vec(), ..contact(1, at(i64::from(polls))) };
            dropped_after(stage.store.contact_put(put), polls.into()).await;
        }
        // What was begun ends some time, and then everything is there in equal numbers. A torn contact never would be.
        let whole = async {
            loop {
                stage.store.ping().await.unwrap();
                let contacts = stage.store.contact_page(agent(1), None, 99).await.unwrap().len();
                let ids: Vec<_> = (0..80).map(id).collect();
                let stored = stage.store.message_get(&ids, false).await.unwrap().len();
                let usages = stage.store.usage_list(agent(1), at(0), at(99)).await.unwrap().len();
                if (stored, usages) == (contacts * 2, contacts * 2) {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), whole).await.expect("no contact is torn");
    }

    async fn a_call_that_fails_takes_only_itself_back(stage) {
        stage.agent(1).await;
        let results: Vec<Result<_, StoreError>> = race(&stage, |store, n| async move {
            let good = to_agent(n, agent(1), "s");
            let bad = Message { message_type: "a\0b".into(), ..to_agent(n + 100, agent(1), "s") };
            let messages = if n % 2 == 0 { vec![good] } else { vec![good, bad] };
            store.message_put(messages, NO_CONTACT, at(0)).await
        }).await;
        for (n, result) in (0..).zip(results) {
            assert_eq!(result.map(|_| ()).map_err(|error| error.kind()), if n % 2 == 0 { Ok(()) } else { Err(ErrorKind::Invalid) });
        }
        let stored = stage.store.message_get(&(0..8).map(id).collect::<Vec<_>>(), false).await.unwrap();
        assert_eq!(stored.iter().map(|row| row.message.id).collect::<Vec<_>>(), [id(0), id(2), id(4), id(6)]);
    }

    async fn results_set_at_once_end_in_the_best(stage) {
        stage.store.message_put((0..20).map(|n| to_server(n, agent(1), "s")).collect(), NO_CONTACT, at(0)).await.unwrap();
        race(&stage, |store, racer| async move {
            let result = if racer == 3 { MessageResult::done(at(3)) } else { MessageResult::failed(at(racer.into()), "no") };
            let mut results: Vec<_> = (0..20).map(|n| (id(n), result.clone())).collect();
            if racer % 2 == 1 {
                results.reverse();
            }
            store.message_result_put(results).await.unwrap();
        }).await;
        for n in 0..20 {
            assert_eq!(stage.row(id(n)).await.message.result, Some(MessageResult::done(at(3))));
        }
    }
}
