//! The mailbox.

use crate::for_each_backend;
use crate::stage::*;
use muster_core::{Address, ContactId, Message, MessageResult, Payload, Priority, retry, system};
use muster_store::agents::{Claim, Taken};
use muster_store::messages::{MessageFilter, MessageState, TryFailed};
use muster_store::{ErrorKind, MessageStore};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A message with every field in use.
fn full(n: u8, to: muster_core::AgentId) -> Message {
    Message {
        source_message_id: vec![0, 255, n],
        message_type: "Type".into(),
        validation: BTreeMap::from([("k".into(), "v".into()), ("ü".into(), "'; --".into())]),
        priority: Priority::High,
        background: true,
        annotations: vec![("b".into(), "1".into()), ("a".into(), "2".into()), ("b".into(), "3".into())],
        from_blocked: true,
        expires: Some(at(1_000_000_000)),
        ..to_agent(n, to, "service")
    }
}

/// Try number `attempts` of message `n` that failed.
fn failed(n: u8, attempts: u32, reason: &str) -> TryFailed {
    TryFailed { id: id(n), attempts, reason: reason.into(), due: at(60_000) }
}

for_each_backend! {
    async fn a_message_comes_back_as_it_was_put(stage) {
        let agent = stage.agent(1).await;
        for _ in 0..2 {
            let put = stage.store.message_put(vec![full(1, agent), to_agent(2, agent, "b")], NO_CONTACT, at(0)).await;
            assert_eq!(put.unwrap().len(), 2);
        }
        assert_eq!(stage.row(id(1)).await.message, full(1, agent));
        assert_eq!(stage.row(id(2)).await.message, to_agent(2, agent, "b"));
        let without = stage.store.message_get(&[id(1)], false).await.unwrap().remove(0);
        assert_eq!(without.message, Message { payload: None, ..full(1, agent) });

        let result = MessageResult::done(at(77));
        stage.store.message_result_put(vec![(id(1), result.clone())]).await.unwrap();
        let row = stage.row(id(1)).await;
        assert_eq!(row.message, Message { payload: None, result: Some(result), ..full(1, agent) });
        assert_eq!((row.state, row.due), (MessageState::Done, None));
        assert_eq!(stage.store.message_get(&[id(9)], true).await.unwrap(), []);
    }

    async fn a_success_replaces_any_result_and_a_failure_only_none(stage) {
        let (done, failed) = (MessageResult::done(at(1)), MessageResult::failed(at(1), "broken"));
        let put = |n, result| Message { result, ..to_server(n, agent(1), "s") };
        let messages = vec![put(1, None), put(2, Some(done.clone())), put(3, Some(failed.clone()))];
        stage.store.message_put(messages, NO_CONTACT, at(0)).await.unwrap();
        for (n, result, state) in [
            (1, None, MessageState::Pending),
            (2, Some(&done), MessageState::Done),
            (3, Some(&failed), MessageState::Failed),
        ] {
            let row = stage.row(id(n)).await;
            assert_eq!((row.message.result.as_ref(), row.state), (result, state));
            assert_eq!(row.message.payload.is_some(), result.is_none());
        }
        // A failure leaves the two that have a result.
        let later = MessageResult::failed(at(2), "later");
        let all = (1..=3).map(|n| put(n, Some(later.clone()))).collect();
        stage.store.message_put(all, NO_CONTACT, at(0)).await.unwrap();
        let results = [later, done, failed];
        for (n, result) in (1..=3).zip(results) {
            assert_eq!(stage.row(id(n)).await.message.result, Some(result));
        }
        // A success with another time, to the nanosecond, replaces all three.
        let last = MessageResult::done(at(5).plus(Duration::from_nanos(7)));
        let all = (1..=3).map(|n| put(n, Some(last.clone()))).collect();
        stage.store.message_put(all, NO_CONTACT, at(0)).await.unwrap();
        for n in 1..=3 {
            assert_eq!(stage.row(id(n)).await.message.result.as_ref(), Some(&last));
        }
    }

    async fn of_one_id_the_first_content_stays(stage) {
        let agent = stage.agent(1).await;
        let first = to_agent(1, agent, "s");
        let other = Message { payload: body("other"), ..first.clone() };
        let put = stage.store.message_put(vec![first.clone(), other.clone(), first.clone()], NO_CONTACT, at(0)).await;
        let taken: Vec<_> = put.unwrap().into_iter().map(|put| put.taken).collect();
        assert_eq!(taken, [Taken::New, Taken::Conflict, Taken::Again]);
        let put = stage.store.message_put(vec![other], NO_CONTACT, at(0)).await.unwrap();
        assert_eq!(put[0].taken, Taken::Conflict);
        assert_eq!(stage.row(id(1)).await.message, first);
    }

    async fn a_put_is_all_or_nothing(stage) {
        let known = stage.agent(1).await;
        let messages = vec![to_agent(1, known, "s"), to_agent(2, agent(2), "s")];
        let error = stage.store.message_put(messages, NO_CONTACT, at(0)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("0000000000000002"), "{error}");
        assert_eq!(stage.store.message_get(&[id(1), id(2)], true).await.unwrap(), []);
        assert_eq!(stage.store.message_put(Vec::new(), NO_CONTACT, at(0)).await.unwrap(), []);
    }

    async fn an_unacknowledged_message_falls_due_again(stage) {
        let agent = stage.agent(1).await;
        stage.put(to_agent(1, agent, "s")).await;
        assert_eq!(stage.claim(agent, at(0)).await, [1]);
        let lease = i64::try_from(LEASE.as_millis()).unwrap();
        assert_eq!(stage.claim(agent, at(lease)).await, NONE);
        assert_eq!(stage.row(id(1)).await.due, Some(at(lease)));
        assert_eq!(stage.claim(agent, at(lease + 1)).await, [1]);
        assert_eq!(stage.row(id(1)).await.attempts, 2);
    }

    async fn a_claim_gives_the_whole_message_once(stage) {
        let agent = stage.agent(1).await;
        stage.put(full(1, agent)).await;
        let claimed = stage.store.message_claim_due(agent, all(), NO_CONTACT, at(1)).await.unwrap();
        assert_eq!(claimed, [full(1, agent)]);
        assert_eq!(stage.claim(agent, at(1)).await, NONE);
    }

    async fn a_claim_keeps_to_its_limits(stage) {
        let agent = stage.agent(1).await;
        let mut messages = Vec::new();
        for n in 0..100 {
            messages.push(to_agent(n, agent, "s1"));
            messages.push(to_agent(n + 100, agent, "s2"));
        }
        stage.store.message_put(messages, NO_CONTACT, at(0)).await.unwrap();
        let claim = |limit, shares: &[(&str, u64)]| Claim {
            limit,
            per_service: Some(shares.iter().map(|(service, share)| ((*service).to_owned(), *share)).collect()),
            lease: LEASE,
        };
        for service in ["s1", "s2"] {
            let claim = claim(10, &[(service, 5), ("none", u64::MAX)]);
            let claimed = stage.store.message_claim_due(agent, claim, NO_CONTACT, at(1)).await.unwrap();
            assert_eq!(claimed.len(), 5);
            assert!(claimed.iter().all(|message| message.destination.service == service));
        }
        assert_eq!(stage.store.message_claim_due(agent, claim(10, &[]), NO_CONTACT, at(1)).await.unwrap(), []);
        let ten = || Claim { limit: 10, ..all() };
        let mut seen = BTreeSet::new();
        for _ in 0..19 {
            let claimed = stage.store.message_claim_due(agent, ten(), NO_CONTACT, at(1)).await.unwrap();
            assert_eq!(claimed.len(), 10);
            assert!(claimed.into_iter().all(|message| seen.insert(message.id)));
        }
        assert_eq!(stage.store.message_claim_due(agent, ten(), NO_CONTACT, at(1)).await.unwrap(), []);
        assert_eq!(stage.store.message_claim_due(agent, claim(0, &[("s1", 9)]), NO_CONTACT, at(9_999_999)).await.unwrap(), []);
    }

    async fn the_oldest_due_comes_first(stage) {
        let agent = stage.agent(1).await;
        for n in [3, 1, 2] {
            stage.put(Message { created: at(-i64::from(n)), ..to_agent(n, agent, if n == 1 { "a" } else { "b" }) }).await;
        }
        assert_eq!(stage.claim(agent, at(1)).await, [3, 2, 1]);
        let shares = BTreeMap::from([("a".to_owned(), 9), ("b".to_owned(), 9)]);
        let claim = Claim { limit: 2, per_service: Some(shares), lease: LEASE };
        let later = at(2_000_000);
        let claimed = stage.store.message_claim_due(agent, claim, NO_CONTACT, later).await.unwrap();
        assert_eq!(claimed.len(), 2);
    }

    async fn die_needs_no_share_and_is_done_as_it_is_claimed(stage) {
        let agent = stage.agent(1).await;
        let die = Message { message_type: system::DIE.into(), ..to_agent(1, agent, system::SERVICE) };
        stage.put(die.clone()).await;
        stage.put(Message { message_type: "Other".into(), ..to_agent(2, agent, system::SERVICE) }).await;
        let claim = Claim { per_service: Some(BTreeMap::new()), ..all() };
        let claimed = stage.store.message_claim_due(agent, claim, NO_CONTACT, at(5)).await.unwrap();
        assert_eq!(claimed, [die]);
        let row = stage.row(id(1)).await;
        assert_eq!((row.state, row.message.result), (MessageState::Done, Some(MessageResult::done(at(5)))));
        assert_eq!(stage.row(id(2)).await.state, MessageState::Pending);
    }

    async fn nothing_is_claimed_for_an_agent_that_is_not_enrolled(stage) {
        let cases = [muster_core::AgentState::Waiting, muster_core::AgentState::Blocked];
        for (n, state) in (1..).zip(cases) {
            let agent = stage.agent_in(n, state, &[]).await;
            stage.put(to_agent(n, agent, "s")).await;
            assert_eq!(stage.claim(agent, at(1)).await, NONE);
        }
        assert_eq!(stage.claim(agent(9), at(1)).await, NONE);
    }

    async fn an_expired_message_is_parked_and_can_be_sent_again(stage) {
        let agent = stage.agent(1).await;
        stage.put(Message { expires: Some(at(10)), ..to_agent(1, agent, "s") }).await;
        stage.put(Message { expires: Some(at(10)), ..to_server(2, agent, "s") }).await;
        stage.put(to_agent(3, agent, "s")).await;
        assert_eq!(stage.store.message_park_expired(at(9), 10).await.unwrap(), 0);
        assert_eq!(stage.store.message_park_expired(at(10), 1).await.unwrap(), 1);
        assert_eq!(stage.store.message_park_expired(at(10), 10).await.unwrap(), 1);
        assert_eq!(stage.store.message_park_expired(at(10), 10).await.unwrap(), 0);
        let row = stage.row(id(1)).await;
        assert_eq!((row.state, row.due), (MessageState::Parked, None));
        assert_eq!(row.message.payload, to_agent(1, agent, "s").payload);
        assert!(row.message.result.unwrap().failure.unwrap().contains("expired"));
        assert_eq!(stage.claim(agent, at(11)).await, [3]);

        assert!(!stage.store.message_unpark(id(3), at(99), at(20), &cause()).await.unwrap());
        assert!(stage.store.message_unpark(id(1), at(99), at(20), &cause()).await.unwrap());
        let error = stage.store.message_unpark(id(9), at(99), at(20), &cause()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let row = stage.row(id(1)).await;
        assert_eq!((row.state, row.due, row.message.expires), (MessageState::Pending, Some(at(20)), Some(at(99))));
        assert_eq!(row.message.result, None);
        assert_eq!(stage.claim(agent, at(21)).await, [1]);
    }

    async fn pending_messages_are_listed_counted_and_deleted(stage) {
        let agent = stage.agent(1).await;
        let other = stage.agent(2).await;
        let contact = stage.contact(contact(1, at(1))).await.contact;
        let messages: Vec<_> = (0..5).map(|n| to_agent(n, agent, "s")).collect();
        stage.store.message_put(messages.clone(), Some(contact), at(0)).await.unwrap();
        stage.put(to_agent(9, other, "s")).await;
        assert_eq!(stage.row(id(4)).await.contact, Some(contact));
        let list = async |offset, limit, data| stage.store.message_pending(&[agent], offset, limit, data).await;
        assert_eq!(stage.store.message_pending_count(&[agent]).await.unwrap(), 5);
        assert_eq!(stage.store.message_pending_count(&[agent, other]).await.unwrap(), 6);
        assert_eq!(stage.store.message_pending_count(&[]).await.unwrap(), 0);
        assert_eq!(list(0, 0, true).await.unwrap(), messages);
        assert_eq!(list(1, 2, true).await.unwrap(), messages[1..3]);
        assert_eq!(list(0, 1, true).await.unwrap(), messages[..1]);
        assert_eq!(list(1, 0, true).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(list(u64::MAX, 1, true).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert!(list(0, 0, false).await.unwrap().iter().all(|message| message.payload.is_none()));
        // Handed out ones are still pending.
        assert_eq!(stage.claim(agent, at(2)).await.len(), 5);
        assert_eq!(list(0, 0, true).await.unwrap().len(), 5);

        assert_eq!(stage.store.message_pending_delete(&[agent], &["s", "other"], at(6), &cause()).await.unwrap(), 0);
        assert_eq!(list(0, 0, true).await.unwrap().len(), 5, "what is to be kept stands");
        assert_eq!(stage.store.message_pending_delete(&[agent], &["other"], at(7), &cause()).await.unwrap(), 5);
        assert_eq!(list(0, 0, true).await.unwrap(), []);
        assert_eq!(stage.claim(agent, at(10_000_000)).await, NONE);
        for n in 0..5 {
            let result = stage.row(id(n)).await.message.result;
            assert_eq!(result, Some(MessageResult::failed(at(7), "Removed by admin action.")));
        }
        assert_eq!(stage.store.message_pending_count(&[other]).await.unwrap(), 1);
    }

    async fn one_message_is_cancelled_once(stage) {
        let agent = stage.agent(1).await;
        stage.put(to_agent(1, agent, "s")).await;
        assert!(stage.store.message_cancel(id(1), at(3), &cause()).await.unwrap());
        assert!(!stage.store.message_cancel(id(1), at(4), &cause()).await.unwrap());
        let error = stage.store.message_cancel(id(2), at(4), &cause()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let row = stage.row(id(1)).await;
        assert_eq!(row.message.result, Some(MessageResult::failed(at(3), "Removed by admin action.")));
    }

    async fn overdue_messages_of_services_are_claimed_with_growing_pauses(stage) {
        for n in 1..=3 {
            let service = if n == 3 { "other" } else { "s" };
            stage.store.message_put(vec![to_server(n, agent(1), service)], NO_CONTACT, at(i64::from(n))).await.unwrap();
        }
        let services = ["s".to_owned(), "absent".to_owned()];
        let claim = async |now| stage.store.message_claim_overdue(&services, 5, 0.5, now).await.unwrap();
        assert_eq!(claim(at(1)).await, []);
        let claimed = claim(at(10)).await;
        assert_eq!(claimed, [(to_server(1, agent(1), "s"), 0), (to_server(2, agent(1), "s"), 0)]);
        assert_eq!(claim(at(10)).await, []);
        let due = retry::service_due(at(10), 0, 0.5);
        assert_eq!(stage.row(id(1)).await.due, Some(due));
        let again = due.plus(Duration::from_nanos(1));
        assert_eq!(claim(again).await.iter().map(|(_, attempts)| *attempts).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(stage.row(id(1)).await.due, Some(retry::service_due(again, 1, 0.5)));
        assert_eq!(stage.row(id(3)).await.attempts, 0);
    }

    async fn a_server_message_reaches_its_service_within_two_minutes(stage) {
        stage.store.message_put(vec![full_to_server()], NO_CONTACT, retry::service_due(at(0), 0, 0.99)).await.unwrap();
        let services = ["s".to_owned()];
        assert_eq!(stage.store.message_claim_overdue(&services, 5, 0.0, at(1)).await.unwrap(), []);
        let claimed = stage.store.message_claim_overdue(&services, 5, 0.0, at(121_000)).await.unwrap();
        assert_eq!(claimed, [(full_to_server(), 0)]);
    }

    async fn the_backlog_of_each_service_is_told(stage) {
        for n in 1..=3 {
            stage.put(Message { created: at(i64::from(n)), expires: Some(at(50)), ..to_server(n, agent(1), "s") }).await;
        }
        stage.put(to_server(4, agent(1), "idle")).await;
        let to = stage.agent(1).await;
        stage.put(to_agent(5, to, "not a service of the server")).await;
        stage.store.message_result_put(vec![(id(4), MessageResult::done(at(1)))]).await.unwrap();
        let failures = vec![failed(2, 0, "refused"), failed(3, 7, "claimed since"), failed(9, 0, "unknown")];
        stage.store.message_try_failed(failures).await.unwrap();
        let row = stage.row(id(2)).await;
        assert_eq!((row.last_error.as_deref(), row.due), (Some("refused"), Some(at(60_000))));
        assert_eq!(stage.row(id(3)).await.last_error, None, "it is somebody else's by now");
        let backlog = stage.store.message_backlog().await.unwrap();
        assert_eq!(backlog.len(), 1);
        assert_eq!((backlog[0].service.as_str(), backlog[0].pending, backlog[0].parked), ("s", 3, 0));
        assert_eq!((backlog[0].oldest, backlog[0].last_error.as_deref()), (Some(at(1)), Some("refused")));
        stage.store.message_park_expired(at(50), 1).await.unwrap();
        let backlog = stage.store.message_backlog().await.unwrap();
        assert_eq!((backlog[0].pending, backlog[0].parked), (2, 1));
    }

    async fn what_waits_in_memory_is_kept_for_whoever_has_it(stage) {
        for n in 1..=3 {
            stage.store.message_put(vec![to_server(n, agent(1), "s")], NO_CONTACT, at(10)).await.unwrap();
        }
        let to = stage.agent(1).await;
        stage.put(to_agent(4, to, "s")).await;
        stage.store.message_result_put(vec![(id(2), MessageResult::done(at(1)))]).await.unwrap();
        let services = ["s".to_owned()];
        let claim = async |now| stage.store.message_claim_overdue(&services, 5, 0.0, now).await.unwrap().len();
        let held = vec![(id(1), 0), (id(2), 0), (id(3), 1), (id(4), 0), (id(9), 0)];
        // Done, claimed by somebody else, no message to a service, unknown.
        assert_eq!(stage.store.message_service_keep(held, at(100)).await.unwrap(), [id(1)]);
        assert_eq!(claim(at(50)).await, 1);
        assert_eq!(stage.row(id(3)).await.attempts, 1);
        assert_eq!(claim(at(101)).await, 1);
        assert_eq!(stage.store.message_service_keep(vec![(id(1), 0)], at(200)).await.unwrap(), []);
        assert_eq!(stage.store.message_service_keep(vec![(id(1), 1), (id(3), 1)], at(200)).await.unwrap().len(), 2);
        assert_eq!(stage.store.message_service_keep(Vec::new(), at(200)).await.unwrap(), []);
    }

    async fn what_a_service_did_not_take_is_woken_and_what_is_in_memory_is_not(stage) {
        for n in 1..=5 {
            let service = if n == 5 { "other" } else { "s" };
            stage.store.message_put(vec![to_server(n, agent(1), service)], NO_CONTACT, at(i64::from(n))).await.unwrap();
        }
        let services = ["s".to_owned(), "other".to_owned()];
        let claim = async |now| {
            let claimed = stage.store.message_claim_overdue(&services, 9, 0.0, now).await.unwrap();
            claimed.into_iter().map(|(message, _)| message.id).collect::<Vec<_>>()
        };
        assert_eq!(claim(at(10)).await.len(), 5);
        // The fourth is still being tried, or its server died.
        let failures = [1, 2, 3, 5].map(|n| failed(n, 1, "refused"));
        stage.store.message_try_failed(failures.to_vec()).await.unwrap();
        assert_eq!(stage.store.message_service_wake("s", 2, at(20)).await.unwrap(), 2);
        assert_eq!(claim(at(20)).await, [id(1), id(2)], "the next of them first");
        assert_eq!(stage.store.message_service_wake("s", 9, at(21)).await.unwrap(), 1);
        assert_eq!(stage.store.message_service_wake("s", 9, at(22)).await.unwrap(), 0, "one is due, the others are held");
        assert_eq!(claim(at(22)).await, [id(3)]);
        assert_eq!(stage.store.message_service_wake("absent", 9, at(22)).await.unwrap(), 0);
    }

    async fn what_never_left_is_given_back_by_the_contact_that_claimed_it(stage) {
        let agent = stage.agent(1).await;
        for n in 1..=2 {
            stage.put(to_agent(n, agent, "s")).await;
        }
        let claim = async |contact, now| {
            let claim = Claim { limit: 9, per_service: None, lease: Duration::from_secs(900) };
            stage.store.message_claim_due(agent, claim, Some(contact), now).await.unwrap().len()
        };
        let (one, two) = (ContactId(1), ContactId(2));
        assert_eq!(claim(one, at(10)).await, 2);
        let ids = vec![id(1), id(9)];
        assert_eq!(stage.store.message_unclaim(agent, two, ids.clone(), at(10)).await.unwrap(), 0);
        assert_eq!(stage.store.message_unclaim(self::agent(9), one, ids.clone(), at(10)).await.unwrap(), 0);
        assert_eq!(stage.store.message_unclaim(agent, one, ids.clone(), at(10)).await.unwrap(), 1);
        assert_eq!(claim(two, at(11)).await, 1);
        assert_eq!(stage.store.message_unclaim(agent, one, ids, at(12)).await.unwrap(), 0, "a newer one has it");
    }

    async fn what_a_broken_stream_left_falls_due_earlier(stage) {
        let agent = stage.agent(1).await;
        stage.put(to_agent(1, agent, "s")).await;
        assert_eq!(stage.claim(agent, at(1)).await, [1]);
        stage.put(Message { created: at(5_000_000), ..to_agent(2, agent, "s") }).await;
        assert_eq!(stage.store.message_release(agent, at(5_000)).await.unwrap(), 1);
        assert_eq!(stage.store.message_release(agent, at(6_000)).await.unwrap(), 0);
        assert_eq!(stage.row(id(1)).await.due, Some(at(5_000)));
        assert_eq!(stage.store.message_agents_due(&[agent], at(5_001)).await.unwrap(), [agent]);
    }

    async fn agents_with_due_messages_are_found(stage) {
        let (one, two, three) = (stage.agent(1).await, stage.agent(2).await, stage.agent(3).await);
        stage.put(to_agent(1, two, "s")).await;
        stage.put(to_agent(2, three, "s")).await;
        stage.claim(three, at(1)).await;
        let due = stage.store.message_agents_due(&[three, two, one], at(1)).await.unwrap();
        assert_eq!(due, [two]);
        assert_eq!(stage.store.message_agents_due(&[], at(1)).await.unwrap(), []);
    }

    async fn pages_of_messages_add_up(stage) {
        let agent = stage.agent(1).await;
        let mut wanted = Vec::new();
        for n in 0..50_u8 {
            // Whatever they say of when they were made.
            let message = Message { created: at(i64::from(n % 7)), ..to_agent(n, agent, "s") };
            wanted.push(message.id);
            stage.put(message).await;
        }
        wanted.reverse();
        for limit in [1, 7, 10, 50, 1000] {
            let mut pages = Vec::new();
            let mut before = None;
            loop {
                let page = stage.store.message_page(MessageFilter::default(), before, limit).await.unwrap();
                let Some(last) = page.last() else { break };
                before = Some(last.number);
                pages.extend(page.iter().map(|row| row.message.id));
            }
            assert_eq!(pages, wanted, "in pages of {limit}");
        }
    }

    async fn pages_are_filtered_by_agent_service_and_state(stage) {
        let (one, two) = (stage.agent(1).await, stage.agent(2).await);
        stage.put(to_agent(1, one, "a")).await;
        stage.put(to_agent(2, two, "a")).await;
        stage.put(to_server(3, one, "b")).await;
        stage.store.message_result_put(vec![(id(3), MessageResult::done(at(1)))]).await.unwrap();
        let page = async |filter| {
            let page = stage.store.message_page(filter, None, 10).await.unwrap();
            page.iter().map(|row| row.message.id.as_bytes()[31]).collect::<Vec<_>>()
        };
        assert_eq!(page(MessageFilter { agent: Some(one), ..Default::default() }).await, [3, 1]);
        assert_eq!(page(MessageFilter { service: Some("a".into()), ..Default::default() }).await, [2, 1]);
        let state = Some(MessageState::Done);
        assert_eq!(page(MessageFilter { state, agent: Some(one), service: Some("b".into()) }).await, [3]);
        assert_eq!(page(MessageFilter { state, agent: Some(two), service: None }).await, NONE);
    }

    async fn pages_of_one_agent_add_up_wherever_its_messages_stand(stage) {
        let (one, two) = (stage.agent(1).await, stage.agent(2).await);
        let between = |n, from, to| Message {
            created: at(i64::from(n)),
            ..Message::new(id(n), Address::agent(from, "s"), Address::agent(to, "s"), at(i64::from(n)))
        };
        let messages = vec![
            Message { created: at(1), ..to_agent(1, one, "a") },
            Message { created: at(2), ..to_server(2, one, "a") },
            between(3, one, two),
            between(4, two, one),
            between(5, one, one),
            Message { created: at(6), ..to_agent(6, two, "a") },
            Message { created: at(6), ..to_server(7, one, "b") },
            Message { created: at(6), ..to_server(8, one, "") },
        ];
        stage.store.message_put(messages, NO_CONTACT, at(0)).await.unwrap();
        let wanted = [8, 7, 5, 4, 3, 2, 1];
        // Pending, then some of them done, then failed as well, then all.
        for done in [&[][..], &[2, 5, 8], &[1, 4], &[3, 7]] {
            let results = done.iter().map(|n| {
                let failure = (n % 2 == 0).then(|| "no".to_owned());
                (id(*n), MessageResult { processed: at(9), failure })
            });
            stage.store.message_result_put(results.collect()).await.unwrap();
            for limit in [1, 2, 3, 10] {
                let mut seen = Vec::new();
                let mut before = None;
                loop {
                    let filter = MessageFilter { agent: Some(one), ..Default::default() };
                    let page = stage.store.message_page(filter, before, limit).await.unwrap();
                    assert!(page.len() <= limit as usize);
                    let Some(last) = page.last() else { break };
                    before = Some(last.number);
                    seen.extend(page.iter().map(|row| row.message.id.as_bytes()[31]));
                }
                assert_eq!(seen, wanted, "with {done:?} done, by {limit}");
            }
        }
        let filter = MessageFilter { agent: Some(one), state: Some(MessageState::Failed), ..Default::default() };
        let failed = stage.store.message_page(filter, None, 10).await.unwrap();
        assert_eq!(failed.iter().map(|row| row.message.id.as_bytes()[31]).collect::<Vec<_>>(), [8, 4, 2]);
    }

    async fn a_put_tells_where_the_stream_is(stage) {
        let agent = stage.agent(1).await;
        let streaming_to = "https://one:1".to_owned();
        let recorded = stage.contact(muster_store::agents::ContactPut { streaming_to, ..contact(1, at(1)) }).await;
        let put = stage.store.message_put(vec![to_agent(1, agent, "s")], NO_CONTACT, at(0)).await.unwrap();
        assert_eq!(put[0].streaming_to.as_deref(), Some("https://one:1"));
        muster_store::AgentStore::stream_end(&stage.store, agent, recorded.contact).await.unwrap();
        let put = stage.store.message_put(vec![to_agent(2, agent, "s")], NO_CONTACT, at(0)).await.unwrap();
        assert_eq!(put[0].streaming_to, None);
    }

    async fn an_empty_body_is_not_no_body(stage) {
        let agent = stage.agent(1).await;
        let empty = Some(Payload { type_url: String::new(), value: Vec::new() });
        stage.put(Message { payload: empty.clone(), ..to_agent(1, agent, "s") }).await;
        stage.put(Message { payload: None, ..to_agent(2, agent, "s") }).await;
        assert_eq!(stage.row(id(1)).await.message.payload, empty);
        assert_eq!(stage.row(id(2)).await.message.payload, None);
    }
}

fn full_to_server() -> Message {
    Message { source: Address::agent(agent(1), "source"), destination: Address::server("s"), ..full(1, agent(1)) }
}
