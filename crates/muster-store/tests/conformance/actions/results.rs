//! What machines answer: the first result of each, late ones, and pages of them.

use super::{agents, answer, launched, result, work};
use crate::for_each_backend;
use crate::stage::*;
use muster_core::action::{ActionId, ActionStatus, CommandStatus};
use muster_core::{AgentState, limits};
use muster_store::actions::{CommandFilter, LATE_RESULTS_MAX, ResultProof, ResultPut, ResultTaken, Spread};
use muster_store::{ActionStore, AgentStore, ErrorKind};

for_each_backend! {
    async fn the_first_result_counts_and_later_ones_are_kept(stage) {
        let agents = agents(&stage, 3).await;
        let id = launched(&stage, 1, Spread::default()).await;
        work(&stage.store, at(1)).await;
        let first = result(id, agents[0], CommandStatus::Failed, "first");
        let second = result(id, agents[0], CommandStatus::Success, "second");
        let batch = vec![first.clone(), second.clone(), first.clone(), result(id, agents[1], CommandStatus::Timeout, "t")];
        let taken = answer(&stage, batch, at(5)).await;
        assert_eq!(taken, [ResultTaken::First, ResultTaken::Late, ResultTaken::Again, ResultTaken::First]);
        assert_eq!(answer(&stage, vec![first, second], at(6)).await, [ResultTaken::Again, ResultTaken::Again]);
        let stranger = stage.agent_in(50, AgentState::Enrolled, &[]).await;
        let unknown = vec![
            result(id, stranger, CommandStatus::Success, "x"),
            result(id, agent(77), CommandStatus::Success, "x"),
            result(ActionId::new(77).unwrap(), agents[1], CommandStatus::Success, "x"),
        ];
        assert_eq!(answer(&stage, unknown, at(6)).await, [ResultTaken::Unknown; 3]);
        let refused = vec![result(id, agents[2], CommandStatus::Sent, "x")];
        assert_eq!(stage.store.command_result_put(refused, at(6)).await.unwrap_err().kind(), ErrorKind::Invalid);
        for n in 0..9 {
            answer(&stage, vec![result(id, agents[0], CommandStatus::Success, &format!("more {n}"))], at(7)).await;
        }
        let late = stage.store.command_late(id, None, 99).await.unwrap().late;
        assert_eq!(late.len(), LATE_RESULTS_MAX as usize);
        // What proves them is kept with them, as with the first.
        let key = stage.store.agent_get(agents[0]).await.unwrap().unwrap().key;
        let oldest = late.last().unwrap();
        assert_eq!(oldest.proof, Some(ResultProof { signature: b"by second".to_vec(), key: key.clone() }));
        assert_eq!(oldest.results, "[{\"elements\":\"second\"}]");
        let unsigned = ResultPut { signature: Vec::new(), ..result(id, agents[1], CommandStatus::Success, "none") };
        assert_eq!(answer(&stage, vec![unsigned], at(8)).await, [ResultTaken::Late]);
        assert_eq!(stage.store.command_late(id, None, 1).await.unwrap().late[0].proof, None);
        let row = stage.store.action_get(id).await.unwrap().unwrap();
        let counters = row.counters;
        assert_eq!((counters.failed, counters.timeout, counters.done, counters.inflight), (1, 1, 2, 1));
        assert_eq!((row.late, row.status), (u64::from(LATE_RESULTS_MAX) + 1, ActionStatus::Inflight));
        let filter = CommandFilter { action: Some(id), found: Some(true), ..CommandFilter::default() };
        let page = stage.store.command_page(filter.clone(), None, 1, true).await.unwrap().commands;
        assert_eq!(page[0].results.as_deref(), Some("[{\"elements\":\"first\"}]"));
        assert_eq!((page[0].finished, page[0].found), (Some(at(5)), Some(true)));
        assert_eq!(page[0].proof, Some(ResultProof { signature: b"by first".to_vec(), key }));
        let next = stage.store.command_page(filter, Some(page[0].id), 9, true).await.unwrap().commands;
        assert_eq!(next.iter().map(|command| command.agent).collect::<Vec<_>>(), [agents[1]]);
        assert_eq!(stage.store.command_get(page[0].id).await.unwrap().as_ref(), Some(&page[0]));
        let of_agent = CommandFilter { agent: Some(agents[2]), status: Some(CommandStatus::Sent), ..CommandFilter::default() };
        assert_eq!(stage.store.command_page(of_agent, None, 9, false).await.unwrap().commands.len(), 1);
        let neither = stage.store.command_page(CommandFilter::default(), None, 9, false).await.unwrap_err();
        assert_eq!(neither.kind(), ErrorKind::Invalid);
    }

    async fn pages_hold_so_many_bytes_of_results_and_every_result_comes(stage) {
        let agents = agents(&stage, 5).await;
        let id = launched(&stage, 1, Spread::default()).await;
        work(&stage.store, at(1)).await;
        let tenths = |tenths: u64, mark: &str| {
            let length = usize::try_from(limits::PAGE_RESULT_BYTES_MAX / 10 * tenths).unwrap();
            format!("{mark}{}", "x".repeat(length))
        };
        for (agent, size) in agents.iter().zip([12, 6, 6, 1]) {
            let put = result(id, *agent, CommandStatus::Success, &tenths(size, ""));
            answer(&stage, vec![put], at(2)).await;
        }
        let filter = CommandFilter { action: Some(id), ..CommandFilter::default() };
        let mut pages = Vec::new();
        let mut after = None;
        loop {
            let page = stage.store.command_page(filter.clone(), after, 9, true).await.unwrap();
            after = page.commands.last().map(|command| command.id);
            assert!(page.commands.iter().all(|command| command.results.is_some() == (command.agent != agents[4])));
            pages.push(page.commands.len());
            if !page.is_full {
                break;
            }
        }
        assert_eq!(pages, [1, 1, 3]);
        let bare = stage.store.command_page(filter, None, 9, false).await.unwrap();
        assert_eq!((bare.commands.len(), bare.is_full), (5, false));
        for mark in ["a", "b"] {
            answer(&stage, vec![result(id, agents[0], CommandStatus::Success, &tenths(6, mark))], at(3)).await;
        }
        let newest = stage.store.command_late(id, None, 9).await.unwrap();
        assert!(newest.is_full && newest.late.len() == 1 && newest.late[0].results.contains("\"bx"));
        let older = stage.store.command_late(id, Some(newest.late[0].number), 9).await.unwrap();
        assert!(!older.is_full && older.late.len() == 1 && older.late[0].results.contains("\"ax"));
    }
}
