//! What a server may say without anybody's signature: to end, to start a service again, to make a new key, which
//! certificates are revoked, and input for services. Each has bounds that the machine's owner sets.

use super::people::Order;
use super::{PEOPLE, Stage};
use muster_harness::evil::{AUTHORITY_SERIAL, CEILING, Machine, SERVER_SERIAL};
use muster_harness::wait;
use muster_harness::wire::actions::{self, RestartServiceRequest};
use muster_harness::wire::{self, Address, Message};
use std::path::Path;

/// What is tried here.
pub(super) const NAMES: &[&str] = &[
    "an order that is addressed to another machine",
    "an echo that is addressed to another machine",
    "a hundred and one wishes to restart a service",
    "sixty demands for a new key",
    "the same demand for a new key, after thousands of other messages",
    "a wish to end, so that the machine is alone for good",
    "a wish to end that the machine's owner forbids",
    "a list that revokes the pinned authority",
    "a list of revoked certificates that is no list",
    "a list of revoked certificates of five megabytes",
    "a list that hides a certificate among ten thousand",
    "input of a service again, after thousands of others",
    "a refusal that steers the terminal of whoever looks",
];

/// Another machine.
const OTHER: [u8; 8] = [0x0B; 8];

fn addressed(to: &[u8], id: u8, message_type: &str, data: prost_types::Any) -> Message {
    let service = if message_type == actions::ORDER { actions::SERVICE } else { "muster" };
    let end = |client_id: &[u8]| Some(Address { client_id: client_id.to_vec(), service_name: service.to_owned() });
    Message {
        message_id: vec![id; 32],
        source: end(&[]),
        destination: end(to),
        message_type: message_type.to_owned(),
        data: Some(data),
        ..Message::default()
    }
}

fn order_body(order: &str) -> prost_types::Any {
    let order = actions::ActionOrder { action: order.as_bytes().to_vec(), action_id: 5, command_id: 5 };
    wire::any("muster.actions.ActionOrder", &order)
}

#[tokio::test]
async fn what_is_addressed_to_another_machine_is_refused_and_the_same_runs_when_it_is_for_this_one() {
    let mut stage = Stage::new().await;
    let me = *stage.evil.seen().agents.iter().next().unwrap();
    let order = Order::new("for another machine").signed(&[&PEOPLE.alice]);
    stage.evil.send_message(addressed(&OTHER, 1, actions::ORDER, order_body(&order)));
    let refused = |id: u8| move |seen: &muster_harness::evil::Seen| seen.errors.get(&vec![id; 32]).cloned();
    let reason = stage.evil.wait(NAMES[0], refused(1)).await.unwrap();
    assert!(reason.contains("0b0b0b0b0b0b0b0b") && reason.contains(&me.to_string()), "{reason}");
    stage.nothing_ran(NAMES[0]);
    let echoes = stage.evil.seen().echoes;
    let body = wire::any("google.protobuf.BytesValue", &prost_types::Any::default());
    stage.evil.send_message(addressed(&OTHER, 2, "Echo", body));
    stage.evil.wait(NAMES[1], refused(2)).await.unwrap();
    assert_eq!(stage.evil.seen().echoes, echoes, "{}", NAMES[1]);
    // Under the same name, and to this machine: what was refused was not taken for done.
    stage.evil.send_message(addressed(me.as_bytes(), 1, actions::ORDER, order_body(&order)));
    let result = stage.evil.result(&[1; 32]).await.unwrap();
    assert_eq!(result.refusal, None);
    stage.runs += 1;
    stage.end().await;
}

/// Defines a daemon that notes each of its starts in a file.
fn noting_daemon(machine: &Machine) {
    let starts = machine.write("starts", "").unwrap();
    let script = format!("echo x >> {}; exec sleep 1000", starts.display());
    let service = format!(
        "name: \"noting\" factory: \"Daemon\" config: {{ [type.googleapis.com/fleetspeak.daemonservice.Config]: {{ \
         argv: \"sh\" argv: \"-c\" argv: {script:?} }} }}"
    );
    machine.write("services/noting.service", &service).unwrap();
    machine.configure("log_level", "services_dir = \"services\"\nlog_level").unwrap();
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn a_service_is_started_again_rarely_however_often_the_server_asks() {
    let stage = Stage::set("stream", noting_daemon).await;
    let starts = stage.directory.path().join("starts");
    wait::until_true("the daemon's first start", CEILING, async || Ok(lines(&starts) == 1)).await.unwrap();
    let request = RestartServiceRequest { name: "noting".to_owned() };
    let body = || Some(wire::any("fleetspeak.RestartServiceRequest", &request));
    let mut asked = Vec::new();
    for number in 0..101 {
        asked.push(stage.evil.send("system", "RestartService", body()));
        // No more than the service of the system has room for.
        if number % 50 == 49 {
            stage.evil.is_answered().await.unwrap();
        }
    }
    let answered = |seen: &muster_harness::evil::Seen| {
        let refused = asked.iter().filter(|id| seen.errors.contains_key(*id)).count();
        let done = asked.iter().filter(|id| seen.acknowledged.contains(*id)).count();
        (refused + done == asked.len()).then_some((refused, done))
    };
    assert_eq!(stage.evil.wait(NAMES[2], answered).await.unwrap(), (100, 1));
    assert_eq!(lines(&starts), 2, "{}", NAMES[2]);
    let (_, status) = stage.machine.output(&["status"]).await.unwrap();
    assert!(
        status.contains("restart service noting: done") && status.contains("restart service noting: refused"),
        "{status}"
    );
    stage.end().await;
}

#[tokio::test]
async fn a_new_key_is_made_once_a_day_however_often_the_server_asks() {
    let stage = Stage::new().await;
    let asked: Vec<_> = (0..60).map(|_| stage.evil.send("system", "RekeyRequest", None)).collect();
    let refused = |seen: &muster_harness::evil::Seen| {
        (asked.iter().filter(|id| seen.errors.contains_key(*id)).count() == asked.len() - 1).then_some(())
    };
    stage.evil.wait(NAMES[3], refused).await.unwrap();
    assert_eq!(stage.evil.seen().agents.len(), 2, "{}", NAMES[3]);
    stage.end().await;
}

#[tokio::test]
async fn a_demand_for_a_new_key_makes_no_second_one_after_thousands_of_other_messages() {
    let define = |machine: &Machine| {
        machine.write("services/nothing.service", "name: \"nothing\" factory: \"NOOP\"").unwrap();
        machine.configure("log_level", "services_dir = \"services\"\nlog_level").unwrap();
    };
    let mut stage = Stage::set("stream", define).await;
    let demand = [0xD7; 32];
    let agents = |count: usize| move |seen: &muster_harness::evil::Seen| (seen.agents.len() == count).then_some(());
    stage.evil.send_again(&demand, "system", "RekeyRequest", None);
    stage.evil.wait("the machine under its new key", agents(2)).await.unwrap();
    // More than the ledger of messages remembers, after which the demand is not known there any more.
    for _ in 0..90 {
        for _ in 0..100 {
            stage.evil.send("nothing", "Nothing", None);
        }
        stage.evil.is_answered().await.unwrap();
    }
    for is_restarted in [false, true] {
        if is_restarted {
            assert_eq!(stage.machine.stop().await.unwrap(), Some(0));
            stage.machine.start(&stage.evil).await.unwrap();
        }
        stage.evil.send_again(&demand, "system", "RekeyRequest", None);
        stage.evil.is_answered().await.unwrap();
    }
    // The last good order is run after whatever was said before.
    stage.a_good_order_runs("after the demands").await;
    assert_eq!(stage.evil.seen().agents.len(), 2, "{}", NAMES[4]);
    stage.end().await;
}

fn die() -> prost_types::Any {
    // DieRequest { force: true }
    prost_types::Any { type_url: "type.googleapis.com/fleetspeak.DieRequest".into(), value: vec![8, 1] }
}

#[tokio::test]
async fn an_agent_that_was_told_to_end_comes_back_and_one_whose_owner_forbids_it_stays() {
    let mut stage = Stage::new().await;
    stage.evil.send("system", "Die", die());
    assert_eq!(stage.machine.ended().await.unwrap(), Some(7));
    // Whatever starts it again finds it waiting, and its owner can end the wait.
    let streams = stage.evil.seen().streams;
    stage.machine.start_only().unwrap();
    wait::until_true("the agent's word that it waits", CEILING, async || {
        Ok(stage.machine.log().contains("it stays away"))
    })
    .await
    .unwrap();
    let (_, found) = stage.machine.output(&["doctor"]).await.unwrap();
    assert!(found.contains("stays away for another 60 min"), "{found}");
    assert_eq!(stage.evil.seen().streams, streams, "{}", NAMES[5]);
    stage.machine.reload().unwrap();
    let back = |seen: &muster_harness::evil::Seen| (seen.streams > streams).then_some(());
    stage.evil.wait("the agent's return", back).await.unwrap();
    stage.end().await;

    let forbid = |machine: &Machine| {
        let setting = "log_level = \"debug\"\n[server_may]\ndie = \"never\"\n";
        machine.configure("log_level = \"debug\"\n", setting).unwrap();
    };
    let mut stage = Stage::set("poll", forbid).await;
    let asked = stage.evil.send("system", "Die", die());
    let reason = stage.evil.wait(NAMES[6], |seen| seen.errors.get(&asked).cloned()).await.unwrap();
    assert!(reason.contains("server_may"), "{reason}");
    stage.nothing_ran(NAMES[6]);
    stage.end().await;
}

/// A list of revoked certificates, as the wire has it.
fn list<'a>(serials: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let entry = |serial: &[u8]| [&[0x0A, u8::try_from(serial.len()).unwrap()], serial].concat();
    serials.into_iter().flat_map(entry).collect()
}

#[tokio::test]
async fn no_list_of_revoked_certificates_parts_a_machine_from_its_authority_and_a_full_one_still_refuses() {
    let mut stage = Stage::new().await;
    let random: Vec<_> = (0..10_000_u32).map(|number| [&[0x77; 16][..], &number.to_be_bytes()].concat()).collect();
    let random = || random.iter().map(Vec::as_slice);
    for (what, revoked) in [
        (NAMES[7], list(random().chain([&AUTHORITY_SERIAL[..]]))),
        (NAMES[8], b"<html>502 Bad Gateway</html>".to_vec()),
        (NAMES[9], list(std::iter::repeat_n(&[0x42; 20][..], 240_000))),
    ] {
        stage.evil.revoke(revoked);
        let lists = stage.evil.seen().lists;
        assert_eq!(stage.machine.stop().await.unwrap(), Some(0), "{what}");
        // The list is asked for before anything is said.
        stage.machine.start(&stage.evil).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        assert!(stage.evil.seen().lists > lists, "{what}");
        stage.a_good_order_runs(what).await;
    }
    stage.evil.revoke(list(random().chain([&SERVER_SERIAL[..]])));
    assert_eq!(stage.machine.stop().await.unwrap(), Some(0));
    let (streams, lists) = (stage.evil.seen().streams, stage.evil.seen().lists);
    stage.machine.start_only().unwrap();
    stage.evil.wait("the list being read", |seen| (seen.lists > lists).then_some(())).await.unwrap();
    let refused = async || {
        let (code, found) = stage.machine.output(&["doctor"]).await?;
        Ok(code == Some(1) && found.contains("Revoked"))
    };
    wait::until_true(NAMES[10], CEILING, refused).await.unwrap();
    assert_eq!(stage.machine.stop().await.unwrap(), Some(0));
    assert_eq!(stage.evil.seen().streams, streams, "{}", NAMES[10]);
}

fn noting_stdin(machine: &Machine) {
    let ran = machine.write("ran", "").unwrap();
    let script = machine.write("note.sh", &format!("echo x >> {}\n", ran.display())).unwrap();
    let stdin = format!(
        "name: \"noting\" factory: \"Stdin\" config: {{ [type.googleapis.com/fleetspeak.stdinservice.Config]: {{ \
         cmd: \"sh\" args: {:?} }} }}",
        script.display().to_string()
    );
    machine.write("services/noting.service", &stdin).unwrap();
    machine.write("services/nothing.service", "name: \"nothing\" factory: \"NOOP\"").unwrap();
    machine.configure("log_level", "services_dir = \"services\"\nlog_level").unwrap();
}

#[tokio::test]
async fn input_of_a_service_is_not_run_again_after_thousands_of_others() {
    let mut stage = Stage::set("stream", noting_stdin).await;
    let ran = stage.directory.path().join("ran");
    let input = wire::any("fleetspeak.stdinservice.InputMessage", &prost_types::Any::default());
    let say = |stage: &Stage| {
        stage.evil.send_again(&[0xA5; 32], "noting", "StdinServiceInputMessage", Some(input.clone()));
    };
    let taken = |seen: &muster_harness::evil::Seen| seen.acknowledged.contains(&vec![0xA5; 32]).then_some(());
    say(&stage);
    stage.evil.wait("the first run", taken).await.unwrap();
    assert_eq!(lines(&ran), 1);
    for _ in 0..90 {
        for _ in 0..100 {
            stage.evil.send("nothing", "Nothing", None);
        }
        stage.evil.is_answered().await.unwrap();
    }
    say(&stage);
    stage.evil.is_answered().await.unwrap();
    assert_eq!(stage.machine.stop().await.unwrap(), Some(0));
    stage.machine.start(&stage.evil).await.unwrap();
    say(&stage);
    stage.evil.is_answered().await.unwrap();
    assert!(stage.machine.log().contains("whoever has the server"), "it was not warned of");
    stage.end_with(|| assert_eq!(lines(&ran), 1, "{}", NAMES[11])).await;
}

#[tokio::test]
async fn what_a_server_says_steers_no_terminal_and_a_refusal_is_seen() {
    let mut stage = Stage::new().await;
    let words = "the enrolment token is used up\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\nok  all is well";
    stage.evil.refuse(Some(("403 Forbidden", words.as_bytes())));
    assert_eq!(stage.machine.stop().await.unwrap(), Some(0));
    stage.machine.start_only().unwrap();
    stage.evil.wait("a refused contact", |seen| (seen.refused > 0).then_some(())).await.unwrap();
    let refused = async || Ok(stage.machine.output(&["status"]).await?.1.contains("refuses this machine"));
    wait::until_true("the word of the refusal", CEILING, refused).await.unwrap();
    for command in [&["doctor"][..], &["doctor", "--json"], &["status"], &["status", "--json"]] {
        let (code, shown) = stage.machine.output(command).await.unwrap();
        let steers = shown.chars().find(|c| *c != '\n' && muster_core::text::is_unseen(*c));
        assert_eq!(steers, None, "{command:?}: {shown}");
        assert!(shown.contains("token is used up"), "{command:?}: {shown}");
        assert!(!shown.lines().any(|line| line.starts_with("ok  all")), "{command:?}: {shown}");
        assert_eq!(code, Some(i32::from(command[0] == "doctor")), "{command:?}: {shown}");
    }
    stage.evil.refuse(None);
    stage.end().await;
}
