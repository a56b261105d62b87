//! What servers share.

use crate::for_each_backend;
use crate::stage::*;
use muster_core::{AgentState, Broadcast, Cause, Message, MessageResult, ServerId, Timestamp};
use muster_store::cluster::{EnrolTokenRow, JournalRow, Retention, ServerRow, Soundness, TokenRow};
use muster_store::{AgentStore, BroadcastStore, ClusterStore, ErrorKind, MessageStore};
use std::time::Duration;

fn server(n: u8) -> ServerId {
    ServerId::from_bytes([n; 8])
}

for_each_backend! {
    async fn settings_are_set_once_or_always(stage) {
        stage.store.ping().await.unwrap();
        stage.store.ping().await.unwrap();
        assert_eq!(stage.store.setting_get("ca").await.unwrap(), None);
        assert_eq!(stage.store.setting_init("ca", vec![1, 0, 255]).await.unwrap(), [1, 0, 255]);
        assert_eq!(stage.store.setting_init("ca", vec![2]).await.unwrap(), [1, 0, 255]);
        stage.store.setting_put("ca", vec![3], at(1), &cause()).await.unwrap();
        assert_eq!(stage.store.setting_get("ca").await.unwrap(), Some(vec![3]));
        let line = stage.store.journal_page(None, 1).await.unwrap().remove(0);
        assert_eq!((line.action.as_str(), line.subject.as_str(), line.details.as_str()), ("setting.put", "ca", "{}"));
    }

    async fn a_look_at_a_sound_database_finds_it_so(stage) {
        let look = stage.store.database_look(Duration::from_secs(30)).await.unwrap();
        if let Some(found) = look.soundness {
            assert_eq!((found, look.clock, look.careless.len()), (Soundness::Sound, None, 0));
            return;
        }
        let (now, clock) = (std::time::UNIX_EPOCH.elapsed().unwrap(), look.clock.unwrap());
        let now = Timestamp::EPOCH.plus(now);
        let apart = now.since(clock).max(clock.since(now));
        assert!(apart < Duration::from_secs(60), "{apart:?}");
        // So the private cluster is run, because tests do not outlive its machine.
        if std::env::var_os("MUSTER_TEST_POSTGRES").is_none() {
            assert_eq!(look.careless, ["fsync=off", "full_page_writes=off"]);
        }
    }

    async fn the_living_know_each_other(stage) {
        let row = |n, beat| ServerRow { id: server(n), wake_url: format!("https://{n}"), started: at(0), beat: at(beat) };
        let beat = async |n, ms| stage.store.server_beat(row(n, ms), at(ms - 30)).await.unwrap();
        assert_eq!(beat(2, 0).await, [row(2, 0)]);
        assert_eq!(beat(1, 10).await, [row(1, 10), row(2, 0)]);
        assert_eq!(beat(1, 30).await, [row(1, 30), row(2, 0)]);
        assert_eq!(beat(1, 31).await, [row(1, 31)]);
        assert_eq!(stage.store.server_list(at(31)).await.unwrap(), [row(1, 31)]);
        assert_eq!(stage.store.server_list(at(32)).await.unwrap(), []);
        stage.store.server_end(server(1)).await.unwrap();
        assert_eq!(beat(3, 32).await, [row(3, 32)]);
    }

    async fn a_lease_has_one_holder_and_a_growing_number(stage) {
        let claim = async |n, ms| stage.store.lease_claim("job", server(n), Duration::from_millis(10), at(ms)).await.unwrap();
        let first = claim(1, 0).await.unwrap();
        assert_eq!((first.owner, first.until, first.fence), (server(1), at(10), 1));
        assert_eq!(claim(2, 9).await, None);
        assert_eq!(claim(1, 5).await.map(|lease| (lease.until, lease.fence)), Some((at(15), 1)));
        let second = claim(2, 15).await.unwrap();
        assert_eq!(second.fence, 2);
        assert_eq!(claim(1, 16).await, None);
        stage.store.lease_release(&first).await.unwrap();
        assert_eq!(claim(1, 17).await, None, "who lost it cannot give it back");
        stage.store.lease_release(&second).await.unwrap();
        assert_eq!(claim(1, 17).await.unwrap().fence, 3);
        let other = stage.store.lease_claim("other", server(2), Duration::from_millis(10), at(17)).await.unwrap();
        assert_eq!(other.unwrap().fence, 1);
    }

    async fn tokens_are_found_by_their_hash(stage) {
        let token = |name: &str, n| TokenRow {
            name: name.into(),
            sha256: [n; 32],
            role: "admin".into(),
            created: at(1),
            expires: (n == 2).then(|| at(9)),
        };
        for (name, n) in [("b", 1), ("a", 2)] {
            stage.store.token_put(token(name, n), &cause()).await.unwrap();
        }
        assert_eq!(stage.store.token_put(token("a", 3), &cause()).await.unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(stage.store.token_list().await.unwrap(), [token("a", 2), token("b", 1)]);
        assert_eq!(stage.store.token_find([2; 32]).await.unwrap(), Some(token("a", 2)));
        assert_eq!(stage.store.token_find([3; 32]).await.unwrap(), None);
        assert!(stage.store.token_delete("a", at(2), &cause()).await.unwrap());
        assert!(!stage.store.token_delete("a", at(2), &cause()).await.unwrap());
        assert_eq!(stage.store.token_find([2; 32]).await.unwrap(), None);
    }

    async fn enrolment_tokens_are_kept_and_withdrawn(stage) {
        let token = |name: &str, uses_left| EnrolTokenRow {
            name: name.into(),
            sha256: [1; 32],
            uses_left,
            labels: vec!["é\"".into()],
            created: at(1),
            expires: None,
        };
        stage.store.enrol_token_put(token("t", i64::MAX as u64), &cause()).await.unwrap();
        assert_eq!(stage.store.enrol_token_put(token("t", 1), &cause()).await.unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(stage.store.enrol_token_put(token("u", u64::MAX), &cause()).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(stage.store.enrol_token_list().await.unwrap(), [token("t", i64::MAX as u64)]);
        assert!(stage.store.enrol_token_delete("t", at(2), &cause()).await.unwrap());
        assert!(!stage.store.enrol_token_delete("t", at(2), &cause()).await.unwrap());
    }

    async fn the_journal_is_read_from_its_end(stage) {
        for n in 0..5 {
            let row = JournalRow {
                number: 99,
                at: at(n),
                cause: Cause::new("admin", format!("r{n}")),
                action: "message.rekey".into(),
                subject: "x".into(),
                details: "{\"n\":1}".into(),
            };
            stage.store.journal_put(row).await.unwrap();
        }
        let mut seen = Vec::new();
        let mut before = None;
        loop {
            let page = stage.store.journal_page(before, 2).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some(last.number);
            seen.extend(page.into_iter().map(|row| row.at));
        }
        assert_eq!(seen, [at(4), at(3), at(2), at(1), at(0)]);
    }

    async fn old_rows_go_a_few_at_a_time(stage) {
        let one = stage.agent(1).await;
        for n in 0..6 {
            stage.contact(contact(1, at(n))).await;
            stage.store.usage_put(one, usage(), at(n)).await.unwrap();
            let created = at(n);
            let number = u8::try_from(n).unwrap();
            stage.put(Message { created, result: (n != 2).then(|| MessageResult::done(at(9))), ..to_agent(number, one, "s") }).await;
        }
        let gone = crate::broadcasts::broadcast(1, 1);
        stage.store.broadcast_create(Broadcast { expires: Some(at(1)), ..gone }, at(0), &cause()).await.unwrap();
        stage.store.broadcast_create(crate::broadcasts::broadcast(2, 0), at(0), &cause()).await.unwrap();
        stage.store.broadcast_create(crate::broadcasts::broadcast(3, 1), at(0), &cause()).await.unwrap();
        let retention = Retention {
            clones_before: at(-1),
            contacts_before: at(3),
            contents_before: at(0),
            broadcasts_before: at(3),
        };
        let sweep = async || stage.store.retention_sweep(retention, 2).await.unwrap();
        assert_eq!(sweep().await, 2 + 2 + 2);
        assert_eq!(sweep().await, 1 + 1);
        assert_eq!(sweep().await, 0);
        // The walk through the messages passes over the one that is pending, and ends at the first that is not old.
        let (mut after, mut steps) = (Some(0), Vec::new());
        while let Some(number) = after {
            let swept = stage.store.messages_sweep(at(4), number, 2).await.unwrap();
            (after, steps) = (swept.next, [steps, vec![swept.deleted]].concat());
        }
        assert_eq!(steps, [2, 1, 0]);
        assert_eq!(stage.store.contact_page(one, None, 9).await.unwrap().len(), 3);
        assert_eq!(stage.store.usage_list(one, at(0), at(9)).await.unwrap().len(), 3);
        let left = stage.store.message_get(&(0..6).map(id).collect::<Vec<_>>(), false).await.unwrap();
        assert_eq!(left.iter().map(|row| row.message.id).collect::<Vec<_>>(), [id(2), id(4), id(5)], "pending ones stay");
        let left = stage.store.broadcast_page(None, 9).await.unwrap();
        assert_eq!(left.iter().map(|left| left.id).collect::<Vec<_>>(), [crate::broadcasts::bid(3)]);
        assert_eq!(stage.store.agent_get(one).await.unwrap().unwrap().state, AgentState::Enrolled);
    }
}
