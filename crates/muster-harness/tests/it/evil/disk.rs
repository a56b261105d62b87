//! What a machine ran is forgotten or damaged: then it refuses, and does not start anew.

use super::replays::later_than;
use super::{PEOPLE, Stage};
use muster_harness::evil::Machine;
use std::path::PathBuf;

/// Bytes of the ledger that are changed, one after the other.
const CHANGES: usize = 24;

impl Stage {
    fn ledger(&self) -> PathBuf {
        self.machine.state("orders")
    }

    /// Starts the agent on what is on the disk, delivers an order that ran before, and ends the agent.
    async fn refused_after_start(&mut self, what: &str, order: &str, codes: &[&str]) {
        self.machine.start(&self.evil).await.unwrap();
        let result = self.ordered(order.as_bytes()).await;
        let refusal = result.refusal.unwrap_or_else(|| panic!("{what}: it was run again"));
        assert!(codes.contains(&refusal.code.as_str()), "{what}: {}: {}", refusal.code, refusal.reason);
        self.nothing_ran(what);
        assert_eq!(self.machine.stop().await.unwrap(), Some(0), "{what}");
    }
}

#[tokio::test]
async fn a_machine_that_lost_its_memory_refuses_what_it_may_have_run() {
    let mut stage = Stage::new().await;
    let order = stage.a_good_order_runs("remembered").await;
    assert_eq!(stage.machine.stop().await.unwrap(), Some(0));
    later_than(&order).await;
    let ledger = std::fs::read(stage.ledger()).unwrap();

    std::fs::remove_file(stage.ledger()).unwrap();
    stage.refused_after_start("the ledger deleted", &order, &["before-ledger"]).await;
    std::fs::write(stage.ledger(), b"").unwrap();
    stage.refused_after_start("the ledger emptied", &order, &["before-ledger"]).await;
    std::fs::write(stage.ledger(), &ledger[..ledger.len() / 2]).unwrap();
    stage.refused_after_start("half of the ledger", &order, &["before-ledger", "already-run"]).await;
    std::fs::remove_file(stage.ledger()).unwrap();
    std::fs::create_dir(stage.ledger()).unwrap();
    stage.refused_after_start("the ledger a directory", &order, &["ledger-unreadable"]).await;
    std::fs::remove_dir(stage.ledger()).unwrap();
    for change in 0..=CHANGES {
        let mut changed = ledger.clone();
        let place = change * (ledger.len() - 1) / CHANGES;
        changed[place] ^= 0x04;
        std::fs::write(stage.ledger(), changed).unwrap();
        let what = format!("byte {place} of the ledger changed");
        stage.refused_after_start(&what, &order, &["before-ledger", "already-run"]).await;
    }

    std::fs::remove_dir_all(stage.machine.state("")).unwrap();
    stage.refused_after_start("the machine set up anew", &order, &["before-ledger"]).await;
    stage.machine = Machine::prepare(stage.directory.path(), &stage.evil, "stream", &PEOPLE.belief()).unwrap();
    stage.machine.start(&stage.evil).await.unwrap();
    stage.end().await;
}
