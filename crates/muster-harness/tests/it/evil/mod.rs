//! A server gone bad against the real agent: whatever it sends, no module is started that people did not order.
//!
//! Whether something ran is told by a file that the module itself writes. Each story begins and ends with an order that
//! is good, which runs exactly once: a story in which nothing could run would prove nothing.

mod cancellations;
mod command_line;
mod disk;
mod documents;
mod modules;
mod orders;
mod people;
mod replays;
mod results;
mod set_up;
mod tampering;
mod unsigned;
mod whom;
mod words;

use muster_harness::evil::{Evil, Machine};
use muster_harness::wire::actions::{ActionResult, SUCCESS};
use people::{Order, People};
use std::sync::LazyLock;
use tempfile::TempDir;

/// Keys are costly to make.
static PEOPLE: LazyLock<People> = LazyLock::new(People::new);

/// A machine, and the server that it calls.
struct Stage {
    evil: Evil,
    machine: Machine,
    /// How often the module should have been started by now.
    runs: usize,
    orders: i64,
    directory: TempDir,
}

impl Stage {
    async fn new() -> Self {
        Self::with("stream").await
    }

    /// Sets the stage, and shows that a good order runs.
    async fn with(mode: &str) -> Self {
        Self::set(mode, |_| {}).await
    }

    /// Sets the stage with a machine that is set up further before its agent starts.
    async fn set(mode: &str, further: impl FnOnce(&Machine)) -> Self {
        let evil = Evil::start().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut machine = Machine::prepare(directory.path(), &evil, mode, &PEOPLE.belief()).unwrap();
        further(&machine);
        machine.start(&evil).await.unwrap();
        let mut stage = Self { evil, machine, runs: 0, orders: 0, directory };
        stage.a_good_order_runs("the first good order").await;
        stage
    }

    /// Orders something as people may: it runs, once. Returns the order.
    async fn a_good_order_runs(&mut self, name: &str) -> String {
        let order = Order::new(name).signed(&[&PEOPLE.alice]);
        let result = self.ordered(order.as_bytes()).await;
        assert_eq!((result.status, result.refusal), (SUCCESS, None), "{name}: {}", result.problem);
        self.runs += 1;
        assert_eq!(self.machine.runs(), self.runs, "{name}");
        order
    }

    /// The id of the machine, which follows from its key.
    fn agent_id(&self) -> String {
        self.evil.seen().agents.iter().next().expect("it was in contact").to_string()
    }

    async fn ordered(&mut self, order: &[u8]) -> ActionResult {
        self.orders += 1;
        let message = self.evil.order(order, self.orders);
        self.evil.result(&message).await.unwrap()
    }

    /// Delivers what must be refused with `code`, and sees that nothing ran.
    async fn refused(&mut self, what: &str, order: &[u8], code: &str) {
        let result = self.ordered(order).await;
        let refusal = result.refusal.clone().unwrap_or_else(|| panic!("{what}: it was not refused: {result:?}"));
        assert_eq!(refusal.code, code, "{what}: {}", refusal.reason);
        assert!(!refusal.reason.is_empty() && result.results.is_empty() && result.started.is_none(), "{what}");
        self.nothing_ran(what);
    }

    fn nothing_ran(&mut self, what: &str) {
        assert_eq!(self.machine.runs(), self.runs, "{what}: a module was started");
        assert!(self.machine.is_alive().unwrap(), "{what}: the agent ended");
    }

    /// Ends the story, and asks whether something else ran behind anybody's back.
    async fn end_with(self, check: impl FnOnce()) {
        let directory = self.finish().await;
        check();
        drop(directory);
    }

    /// Ends the story: a good order runs, the agent ends in order, and nothing ran behind anybody's back.
    async fn end(self) {
        drop(self.finish().await);
    }

    async fn finish(mut self) -> TempDir {
        self.a_good_order_runs("the last good order").await;
        assert_eq!(self.machine.stop().await.unwrap(), Some(0));
        assert_eq!(self.machine.runs(), self.runs, "something ran late");
        self.directory
    }
}

#[tokio::test]
async fn orders_that_people_did_not_give_this_machine_for_now_are_refused_each_with_its_word() {
    let mut stage = Stage::new().await;
    let files = stage.machine.trust_files().unwrap();
    for (what, code, order) in orders::ROWS {
        stage.refused(what, &order(&PEOPLE), code).await;
    }
    assert_eq!(stage.machine.trust_files().unwrap(), files);
    stage.end().await;
}

#[test]
fn there_are_at_least_thirty_attacks_and_no_two_have_one_name() {
    let orders = orders::ROWS.iter().map(|(name, ..)| *name);
    let documents = documents::ROWS.iter().map(|(name, ..)| *name);
    let words = words::ROWS.iter().map(|(name, ..)| *name);
    let targets = whom::ORDERS.iter().chain(whom::RENAMED).map(|(name, _)| *name);
    let whom = whom::ROWS.iter().map(|(name, ..)| *name).chain(targets);
    let lists = replays::NAMES.iter().chain(cancellations::NAMES).chain(unsigned::NAMES).copied();
    let names: Vec<&str> = orders.chain(documents).chain(words).chain(whom).chain(lists).collect();
    let distinct: std::collections::BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(names.len(), distinct.len());
    assert!(names.len() >= 30, "{}", names.len());
}
