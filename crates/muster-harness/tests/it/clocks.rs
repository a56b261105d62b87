//! Clocks that jump, under a server and under an agent that run.

use crate::scene::CEILING;
use muster_core::Timestamp;
use muster_harness::agent::Agent;
use muster_harness::client::enrolled;
use muster_harness::clock::MovedClock;
use muster_harness::investigator::Investigator;
use muster_harness::server::{Server, Setup};
use muster_harness::wait;
use serde_json::Value;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// Asks every machine a question, and returns what the person is shown. `round` makes it another question than the one
/// before, which was put in the same second.
fn ask(server: &Server, person: &Investigator, round: &str) -> String {
    let target = format!("name <> '{round}'");
    let words = ["ask", "--yes", "--format", "jsonl", "--target", &target, "mounts"];
    let output = person.muster_output(server, &words).unwrap();
    let [text, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    format!("{text}{errors}")
}

#[tokio::test]
async fn a_machine_whose_clock_was_set_back_or_forth_runs_nothing_until_it_is_right() {
    let directory = tempfile::tempdir().unwrap();
    let server = Setup::new(directory.path().join("server")).start().await.unwrap();
    let alice = Investigator::new("Alice").unwrap();
    alice.join(&server).unwrap();
    let clock = MovedClock::new(directory.path()).unwrap();
    let home = directory.path().join("agent");
    Agent::prepare(&server, &home, &[&alice], 1).unwrap();
    let _agent = Agent::start_behind(&clock.wrapper(), &home).unwrap();
    enrolled(&server, &[], CEILING).await.unwrap();
    let ran = "\"status\":\"success\"";
    let answer = ask(&server, &alice, "before");
    assert!(answer.contains(ran), "{answer}");
    // What was signed before is past, whatever the clock says now.
    for (seconds, code) in [(-HOUR, "clock-behind"), (-10 * 365 * DAY, "clock-behind"), (DAY, "expired")] {
        clock.set(seconds).unwrap();
        let answer = ask(&server, &alice, &format!("at {seconds}"));
        assert!(answer.contains(code), "{seconds} s: {answer}");
        assert!(!answer.contains(ran), "{seconds} s: {answer}");
        clock.set(0).unwrap();
        let answer = ask(&server, &alice, &format!("after {seconds}"));
        assert!(answer.contains(ran), "after {seconds} s: {answer}");
    }
}

#[tokio::test]
async fn a_server_whose_clock_jumps_goes_on_to_carry_messages() {
    let directory = tempfile::tempdir().unwrap();
    let clock = MovedClock::new(directory.path()).unwrap();
    let mut setup = Setup::new(directory.path().join("server"));
    setup.wrapper = clock.wrapper();
    let server = setup.start().await.unwrap();
    let _agent = Agent::start(&server, &directory.path().join("agent")).unwrap();
    let machine = enrolled(&server, &[], CEILING).await.unwrap();
    let echo = async |words: &str| {
        let sent = ["message", "send", &machine, "--service", "muster", "--type", "Echo", "--wait", words];
        wait::until_true("an answer", CEILING, async || Ok(server.muster(&sent)?.contains(words))).await.unwrap();
    };
    // When the latest message came, by the server's clock, in seconds since 1970.
    let latest = async || {
        let page: Value = server.rest.get("/messages?limit=1").await.unwrap();
        let created: Timestamp = page["items"][0]["created"].as_str().unwrap().parse().unwrap();
        created.to_parts().0
    };
    echo("before").await;
    let before = latest().await;
    for seconds in [1, -1, HOUR, -HOUR, DAY, -DAY, 0] {
        clock.set(seconds).unwrap();
        echo(&format!("at {seconds}")).await;
        let moved = latest().await - before;
        assert!(
            (moved - seconds).abs() < HOUR / 2,
            "the clock was moved by {seconds} s, and the server went by {moved}"
        );
    }
}
