//! Our own agent: enrolled, known by its facts, reachable at once, losing nothing when killed.

use crate::scene::{CEILING, Scene};
use muster_api::messages::MessageRow;
use muster_harness::agent::Agent;
use muster_harness::client::enrolled;
use muster_harness::{rest, wait};
use std::time::Duration;
use tokio::time::Instant;

/// Goal of the median is 50 ms; a debug build on a busy machine gets more, yet far less than a fixed pause would cost.
const ECHO_CEILING: Duration = Duration::from_millis(900);

async fn answers(scene: &Scene, message: &str) -> Vec<MessageRow> {
    scene.server.rest.all(&format!("/messages/{message}/answers")).await.unwrap()
}

#[tokio::test]
async fn facts_of_this_machine_are_readable_over_the_api() {
    let scene = Scene::new().await;
    let _agent = Agent::start(&scene.server, &scene.path("agent")).unwrap();
    let id = enrolled(&scene.server, &[], CEILING).await.unwrap();
    let machine = wait::until("the facts", CEILING, async || {
        let machine = scene.server.rest.agent(&id).await?;
        Ok((!machine.facts.is_empty()).then_some(machine))
    })
    .await
    .unwrap();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let text = serde_json::to_string(&machine.facts).unwrap();
    assert!(text.contains(kernel.trim()), "no kernel {kernel:?} in {text}");
    assert_eq!(machine.summary.hostname.as_deref(), Some(hostname.trim()));
    for part in ["arch", "cpu", "memory", "boot", "uptime", "package", "os"] {
        assert!(
            machine.facts.keys().any(|name| name.contains(part)),
            "no fact about {part}: {:?}",
            machine.facts.keys()
        );
    }
}

#[tokio::test]
async fn an_echo_comes_back_at_once() {
    let scene = Scene::new().await;
    let _agent = Agent::start(&scene.server, &scene.path("agent")).unwrap();
    let id = enrolled(&scene.server, &[], CEILING).await.unwrap();
    wait::until_true("its stream", CEILING, async || Ok(scene.server.rest.agent(&id).await?.summary.streaming))
        .await
        .unwrap();
    let mut times = Vec::new();
    for number in 0..20 {
        let (sent, text) = (Instant::now(), format!("number {number}"));
        let asked = scene.server.rest.send(&id, "muster", "Echo", text.as_bytes()).await.unwrap();
        let answer =
            wait::until("the answer", CEILING, async || Ok(answers(&scene, &asked.id).await.pop())).await.unwrap();
        assert_eq!(rest::data(&answer).unwrap(), text.as_bytes());
        times.push(sent.elapsed());
    }
    times.sort_unstable();
    assert!(times[10] < ECHO_CEILING, "half of the answers took longer than {:?}", times[10]);
}

#[tokio::test]
async fn a_killed_agent_loses_no_message_and_answers_none_twice() {
    let scene = Scene::new().await;
    let mut agent = Agent::start(&scene.server, &scene.path("agent")).unwrap();
    let id = enrolled(&scene.server, &[], CEILING).await.unwrap();
    let mut asked = Vec::new();
    for round in 0..3 {
        for number in 0..20 {
            let text = format!("{round}.{number}");
            asked.push(scene.server.rest.send(&id, "muster", "Echo", text.as_bytes()).await.unwrap().id);
        }
        agent.kill_and_restart().unwrap();
    }
    for message in &asked {
        wait::until_true("an answer", CEILING, async || Ok(!answers(&scene, message).await.is_empty())).await.unwrap();
    }
    for message in &asked {
        assert_eq!(answers(&scene, message).await.len(), 1, "message {message}");
    }
    assert_eq!(scene.server.rest.agents().await.unwrap().len(), 1, "it came back under another id");
}

#[tokio::test]
async fn what_an_agent_could_not_deliver_arrives_after_the_server_is_back() {
    let mut scene = Scene::new().await;
    let mut agent = Agent::start(&scene.server, &scene.path("agent")).unwrap();
    let id = enrolled(&scene.server, &[], CEILING).await.unwrap();
    let before =
        wait::until("the facts", CEILING, async || Ok(scene.server.rest.agent(&id).await?.facts_at)).await.unwrap();
    scene.server.process.kill().unwrap();
    // Started without a server, it looks at the machine and keeps what it has to tell.
    agent.kill_and_restart().unwrap();
    scene.server.restart().await.unwrap();
    wait::until_true("its facts again", CEILING, async || {
        let now = scene.server.rest.agent(&id).await?.facts_at;
        Ok(now.is_some_and(|now| now != before))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_agent_that_calls_once_enrols_takes_what_waits_and_is_a_checkin_to_targets() {
    let scene = Scene::new().await;
    let directory = scene.path("agent");
    Agent::prepare(&scene.server, &directory, &[], 1).unwrap();
    let call = async || {
        let mut agent = Agent::start_once(&directory).unwrap();
        assert_eq!(agent.process.wait(CEILING).await.unwrap().code(), Some(0));
    };
    call().await;
    let id = enrolled(&scene.server, &[], CEILING).await.unwrap();
    let asked = scene.server.rest.send(&id, "muster", "Echo", b"while it was away").await.unwrap();
    call().await;
    let answer = answers(&scene, &asked.id).await.pop().expect("it ended before its answer was delivered");
    assert_eq!(rest::data(&answer).unwrap(), b"while it was away");
    let machine = scene.server.rest.agent(&id).await.unwrap();
    assert_eq!(machine.facts["agent_mode"], "checkin");
    assert!(machine.summary.left.is_some(), "it is offline as soon as it has ended");
    let picked = scene.server.muster(&["target", "check", "mode = 'checkin'"]).unwrap();
    assert!(picked.contains(&id), "{picked}");
}
