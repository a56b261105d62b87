//! Investigations, from a person's `gpg` to the answer of a machine: real server, real agent, real command line.

use crate::scene::{CEILING, Scene};
use muster_api::actions::{ActionDetail, CommandRow};
use muster_api::reports::JournalVerified;
use muster_harness::agent::Agent;
use muster_harness::client::enrolled;
use muster_harness::investigator::Investigator;
use muster_harness::postgres::Database;
use muster_harness::server::{Server, Setup};
use muster_harness::wait;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Well below the sweep by which a lost wake-up is found.
const WOKEN_MAX: Duration = Duration::from_secs(8);

pub(crate) fn unix_now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "signatures are made now, and real machines judge them now")]
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    since.as_secs()
}

/// Waits until the server knows what a machine demands, so that previews are no guesses.
async fn told(server: &Server, person: &Investigator) {
    wait::until_true("what the machine demands", CEILING, async || {
        let draft = json!({ "action": signed_by_hand(person, "preview", "status='online'"), "reason": "" });
        let preview: muster_api::actions::Preview = server.rest.post("/actions/preview", &draft).await?;
        Ok(preview.matched > preview.unknown)
    })
    .await
    .unwrap();
}

/// Writes an action as MIG's documents describe it, and has plain `gpg` sign its text: nothing here is Muster's.
fn signed_by_hand(person: &Investigator, name: &str, target: &str) -> String {
    let (from, until) = (unix_now() - 60, unix_now() + 600);
    let operations = r#"[{"module":"file","parameters":{"searches":{"s1":{"names":["^passwd$"],"options":{"matchall":true,"maxdepth":1},"paths":["/etc"]}}}}]"#;
    let text =
        format!("name={name};target={target};validfrom={from};expireafter=%!s(int64={until});operations={operations};");
    let armored = person.sign(text.as_bytes()).unwrap();
    // As MIG writes a signature: what lies between the first empty line and the end, without line breaks.
    let body = armored.split_once("\n\n").unwrap().1.split_once("-----END").unwrap().0.replace('\n', "");
    let time = |seconds: u64| muster_core::Timestamp::from_secs(seconds.try_into().unwrap()).to_string();
    let operations: Value = serde_json::from_str(operations).unwrap();
    json!({
        "id": 0, "name": name, "target": target, "syntaxversion": 2,
        "description": {"author": person.name, "revision": 1}, "threat": {"family": "compliance", "level": "info"},
        "validfrom": time(from), "expireafter": time(until), "operations": operations, "pgpsignatures": [body],
    })
    .to_string()
}

async fn detail(server: &Server, id: i64) -> ActionDetail {
    server.rest.get(&format!("/actions/{id}")).await.unwrap()
}

async fn completed(server: &Server, id: i64) -> ActionDetail {
    wait::until("the end of the action", CEILING, async || {
        let detail: ActionDetail = server.rest.get(&format!("/actions/{id}")).await?;
        Ok((detail.summary.status == "completed").then_some(detail))
    })
    .await
    .unwrap()
}

async fn commands(server: &Server, id: i64) -> Vec<CommandRow> {
    server.rest.all(&format!("/actions/{id}/commands?results=true")).await.unwrap()
}

/// The number that a line such as `12  pending` begins with.
fn number(line: &str) -> i64 {
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn a_question_in_one_line_is_signed_asked_and_answered() {
    let scene = Scene::new().await;
    let alice = Investigator::new("Alice").unwrap();
    alice.join(&scene.server).unwrap();
    let _agent = Agent::start_trusting(&scene.server, &scene.path("agent"), &[&alice], 1).unwrap();
    enrolled(&scene.server, &[], CEILING).await.unwrap();
    told(&scene.server, &alice).await;
    // No deeper than this: below /etc there may be what cannot be read, which is an answer that is not whole.
    let file = ["file", "--path", "/etc", "--name", "^passwd$", "--maxdepth", "1"];
    let words = [&["ask", "--yes", "--target", "os='linux'"][..], &file].concat();
    let table = alice.muster(&scene.server, &words).unwrap();
    assert!(table.contains("/etc/passwd"), "{table}");
    let lines = alice.muster(&scene.server, &["ask", "--yes", "--format", "jsonl", "sysinfo"]).unwrap();
    let answer: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(answer["results"][0]["elements"]["kernel"], kernel.trim());
    // Upper case picks nobody, which is said.
    let none = alice.muster_output(&scene.server, &["target", "check", "os = 'Linux'"]).unwrap();
    let none = String::from_utf8(none.stderr).unwrap();
    assert!(none.contains("0 enrolled") && none.contains("1 would match environment->>'os' ILIKE 'Linux'"), "{none}");
    // Who asked what is in the journal, and the journal is whole.
    let verified: JournalVerified = scene.server.rest.get("/journal/verify").await.unwrap();
    assert!(verified.fault.is_none(), "{verified:?}");
    let journal = scene.server.muster(&["journal", "list"]).unwrap();
    assert_eq!(journal.matches("action.create").count(), 2, "{journal}");
}

#[tokio::test]
async fn what_takes_two_people_is_refused_with_one_signature_and_run_with_two() {
    let scene = Scene::new().await;
    let (alice, bob) = (Investigator::new("Alice").unwrap(), Investigator::new("Bob").unwrap());
    alice.join(&scene.server).unwrap();
    bob.join(&scene.server).unwrap();
    let server = &scene.server;
    let _agent = Agent::start_trusting(server, &scene.path("agent"), &[&alice, &bob], 2).unwrap();
    enrolled(server, &[], CEILING).await.unwrap();
    told(server, &alice).await;
    let file = scene.path("q.json").display().to_string();
    let new = ["action", "new", "--name", "q", "--target", "os='linux'", "--out", &file, "sysinfo"];
    alice.muster(server, &new).unwrap();
    alice.muster(server, &["action", "sign", &file]).unwrap();
    // It is launched, and not done: that is the code of what waits, the first time and again.
    let launch = || {
        let output = alice.muster_output(server, &["action", "launch", "--yes", &file]).unwrap();
        assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let launched = launch();
    assert!(launched.contains("waiting"), "{launched}");
    assert_eq!(number(&launch()), number(&launched));
    let id = number(&launched);
    let text = id.to_string();
    // The same person does not count twice, neither on her machine nor on the server.
    let digest = detail(server, id).await.signed_sha256;
    let again = alice.muster(server, &["action", "sign", &text, "--digest", &digest]).unwrap_err().to_string();
    assert!(again.contains("nobody counts twice"), "{again}");
    let waiting = detail(server, id).await;
    let signature = alice.sign(waiting.signed_text.as_bytes()).unwrap();
    let refused = server.rest.post::<Value>(&format!("/actions/{id}/sign"), &json!({ "signature": signature })).await;
    assert!(refused.unwrap_err().to_string().contains("Alice has signed before"));
    assert_eq!((waiting.summary.counters.sent, commands(server, id).await.len()), (0, 0), "it was given out");
    bob.muster(server, &["action", "sign", &text, "--digest", &digest]).unwrap();
    let done = completed(server, id).await;
    let names: Vec<_> = done.signers.iter().map(|signer| signer.name.as_str()).collect();
    assert_eq!((names, done.summary.counters.success), (vec!["Alice", "Bob"], 1));
}

#[tokio::test]
async fn a_machine_refuses_one_signature_where_it_wants_two_whatever_the_server_thinks() {
    let scene = Scene::new().await;
    let (alice, bob) = (Investigator::new("Alice").unwrap(), Investigator::new("Bob").unwrap());
    alice.join(&scene.server).unwrap();
    let directory = scene.path("agent");
    // The machine tells the server that one signature is enough, and then wants two.
    let mut agent = Agent::start_trusting(&scene.server, &directory, &[&alice], 1).unwrap();
    enrolled(&scene.server, &[], CEILING).await.unwrap();
    told(&scene.server, &alice).await;
    agent.process.kill().unwrap();
    let action = json!({ "action": signed_by_hand(&alice, "early", "os='linux'"), "standing": true });
    let launched: Value = scene.server.rest.post("/actions", &action).await.unwrap();
    let id = launched["action"]["id"].as_i64().unwrap();
    Agent::prepare(&scene.server, &directory, &[&alice, &bob], 2).unwrap();
    let _agent = Agent::start_in(&directory).unwrap();
    // A standing action goes on for machines that come later, so that it does not complete.
    wait::until_true("the machine's answer", CEILING, async || {
        Ok(detail(&scene.server, id).await.summary.counters.failed == 1)
    })
    .await
    .unwrap();
    let rows = commands(&scene.server, id).await;
    let text = rows[0].results.as_ref().unwrap().to_string();
    assert!(text.contains("refused (weight)") && text.contains("need 2, got 1"), "{text}");
}

#[tokio::test]
async fn results_that_a_server_or_database_changed_are_found_out() {
    let scene = Scene::new().await;
    let (alice, bob) = (Investigator::new("Alice").unwrap(), Investigator::new("Bob").unwrap());
    alice.join(&scene.server).unwrap();
    // One machine answers and signs that; the copy that reaches the other has too few signatures for it.
    let _agent = Agent::start_trusting(&scene.server, &scene.path("agent"), &[&alice], 1).unwrap();
    let first = enrolled(&scene.server, &[], CEILING).await.unwrap();
    let _other = Agent::start_trusting(&scene.server, &scene.path("other"), &[&alice, &bob], 2).unwrap();
    let second = enrolled(&scene.server, std::slice::from_ref(&first), CEILING).await.unwrap();
    let action = signed_by_hand(&alice, "whose answer", "status='online'");
    let file = write(&scene.path("mig.json"), &action);
    let id = number(&scene.server.muster(&["action", "launch", "--yes", &file]).unwrap());
    completed(&scene.server, id).await;
    let id = id.to_string();
    let path = scene.server.data().join("muster.db");
    let change = |sql: &str| {
        let database = rusqlite::Connection::open(&path).unwrap();
        database.busy_timeout(CEILING).unwrap();
        database.execute_batch(sql).unwrap();
    };
    let results =
        |more: &[&str]| alice.muster(&scene.server, &[&["action", "results", &id, "--format", "csv"], more].concat());
    // One of two refused: that is not the whole.
    let csv = |who: &Investigator, more: &[&str]| {
        let words = [&["action", "results", &id, "--format", "csv"], more].concat();
        let output = who.muster_output(&scene.server, &words).unwrap();
        assert_eq!(output.status.code(), Some(8), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = csv(&alice, &["--unproven"]);
    assert!(shown.contains("/etc/passwd") && shown.contains("(refused, unproven: weight: "), "{shown}");
    // No machine signs the refusal of a copy that anybody could have spoiled: it is no answer, and no broken proof.
    assert_eq!(csv(&alice, &[]), shown.replace(",new\r\n", ",unapproved\r\n"));
    let told = results(&[]).unwrap_err().to_string();
    assert!(told.contains("1 refusal is unproven"), "{told}");
    // Who has neither the signers' keys nor the file does not know whose question was answered.
    let unknown = bob.muster(&scene.server, &["action", "results", &id]).unwrap_err().to_string();
    assert!(unknown.contains("no signature of it is by a key that you have"), "{unknown}");
    assert_eq!(csv(&bob, &["--order", &file, "--unproven"]), shown);
    let of = |agent: &str| format!("agent = (SELECT number FROM machines WHERE agent_id = x'{agent}')");
    change(&format!("UPDATE result_rows SET results = replace(results, 'passwd', 'shadow') WHERE {}", of(&first)));
    let told = results(&[]).unwrap_err().to_string();
    assert!(told.contains("1 results are not signed") && !told.contains("/etc/shadow"), "{told}");
    assert!(told.contains("(refused, unproven: weight: "), "the other one is as it was: {told}");
    // The answer of one machine is none of another, signature and all.
    let taken = |column: &str| format!("{column} = (SELECT {column} FROM result_rows WHERE {})", of(&first));
    change(&format!("UPDATE result_rows SET {}, {} WHERE {}", taken("results"), taken("signature"), of(&second)));
    assert!(results(&[]).unwrap_err().to_string().contains("2 results are not signed"));
    // Whoever takes the signature away as well is found out, too.
    change(&format!("UPDATE result_rows SET signature = NULL WHERE {}", of(&first)));
    let told = results(&[]).unwrap_err().to_string();
    assert!(told.contains("1 are signed by no machine"), "{told}");
    assert!(results(&["--unproven"]).unwrap_err().to_string().contains(&first));
}

#[tokio::test]
async fn an_action_file_of_migs_form_signed_by_plain_gpg_runs() {
    let scene = Scene::new().await;
    let alice = Investigator::new("Alice").unwrap();
    alice.join(&scene.server).unwrap();
    let _agent = Agent::start_trusting(&scene.server, &scene.path("agent"), &[&alice], 1).unwrap();
    let agent = enrolled(&scene.server, &[], CEILING).await.unwrap();
    told(&scene.server, &alice).await;
    let name = "é <&> \"quoted\"";
    let action = signed_by_hand(&alice, name, "environment->>'os' = 'linux' AND status='online'");
    let file = write(&scene.path("mig.json"), &action);
    let launched = scene.server.muster(&["action", "launch", "--yes", &file]).unwrap();
    let id = number(&launched);
    assert_eq!(completed(&scene.server, id).await.summary.name, name);
    let rows = commands(&scene.server, id).await;
    let results: serde_json::Value = serde_json::from_str(rows[0].results.as_ref().unwrap().get()).unwrap();
    assert_eq!(results[0]["elements"]["s1"][0]["file"], "/etc/passwd", "{results}");
    // The same file again is the same action.
    let again = scene.server.muster(&["action", "launch", "--yes", &file]).unwrap();
    assert_eq!(number(&again), id);
    // One letter of what is signed, and nobody signed it.
    let other = write(&scene.path("other.json"), &action.replace("^passwd$", "^shadow$"));
    let refused = scene.server.muster(&["action", "launch", "--yes", &other]).unwrap_err().to_string();
    assert!(refused.contains("signature 1 does not count"), "{refused}");
    // Those that found something are a target of their own.
    let found = format!(
        "id IN (select agentid from commands, json_array_elements(commands.results) as r \
         where actionid={id} and r#>>'{{foundanything}}' = 'true')"
    );
    let matching = scene.server.muster(&["target", "check", &found]).unwrap();
    assert!(matching.contains(&agent), "{matching}");
}

#[tokio::test]
async fn a_standing_question_reaches_who_comes_later_and_not_once_called_back() {
    let scene = Scene::new().await;
    let alice = Investigator::new("Alice").unwrap();
    alice.join(&scene.server).unwrap();
    let server = &scene.server;
    let launch = async |name: &str| -> i64 {
        let action = json!({ "action": signed_by_hand(&alice, name, "os='linux'"), "standing": true });
        let launched: Value = server.rest.post("/actions", &action).await.unwrap();
        launched["action"]["id"].as_i64().unwrap()
    };
    let (kept, recalled) = (launch("kept").await, launch("recalled").await);
    server.muster(&["action", "cancel", &recalled.to_string(), "--server-only", "--reason", "a mistake"]).unwrap();
    assert_eq!(detail(server, recalled).await.summary.status, "cancelled");
    let _agent = Agent::start_trusting(server, &scene.path("agent"), &[&alice], 1).unwrap();
    wait::until_true("the answer of the machine that came later", CEILING, async || {
        Ok(detail(server, kept).await.summary.counters.success == 1)
    })
    .await
    .unwrap();
    assert_eq!(commands(server, recalled).await.len(), 0);
    let status = scene.server.muster(&["action", "show", &recalled.to_string()]).unwrap();
    assert!(status.contains("a mistake") || status.contains("cancelled"), "{status}");
}

#[tokio::test]
async fn keys_and_weights_that_administrators_signed_replace_a_machines_files() {
    let scene = Scene::new().await;
    let server = &scene.server;
    let (alice, bob) = (Investigator::new("Alice").unwrap(), Investigator::new("Bob").unwrap());
    let (ann, ben) = (Investigator::new("Ann").unwrap(), Investigator::new("Ben").unwrap());
    bob.join(server).unwrap();
    let directory = scene.path("agent");
    let key = |person: &Investigator| person.public_key().display().to_string();
    let (address, out) = (server.addresses.agents.to_string(), directory.display().to_string());
    let config = ["agent", "config", "--format", "muster", "--server", &address, "--out", &out];
    let trust = ["--trust", &key(&alice), "--administrator", &key(&ann), "--administrator", &key(&ben)];
    server.muster(&[&config[..], &trust, &["--fleet", "lab"]].concat()).unwrap();
    let _agent = Agent::start_in(&directory).unwrap();
    let machine = enrolled(server, &[], CEILING).await.unwrap();
    // The machine knows Alice alone; Bob comes with a document of version 1.
    let weights = |name: &str, person: &Investigator| {
        let one = json!({"fingerprint": person.fingerprint().unwrap(), "weight": 1});
        let weights = json!({"default": {"minimumweight": 1, "investigators": {name: one}}});
        write(&scene.path(&format!("{name}.cfg")), &weights.to_string())
    };
    let bobs = weights("Bob", &bob);
    let drafted = |file: &str, version: &str, rest: &[&str]| {
        let file = scene.path(file).display().to_string();
        let new = ["trust", "new", "investigators", "--version", version, "--out", &file];
        server.muster(&[&new[..], rest].concat()).unwrap();
        file
    };
    let file = drafted("bob.json", "1", &["--fleet", "lab", "--acl", &bobs, &key(&bob)]);
    let elsewhere = drafted("elsewhere.json", "1", &["--fleet", "production", "--acl", &bobs, &key(&bob)]);
    let target = "name = 'somewhere else'";
    let others = drafted("others.json", "1", &["--fleet", "lab", "--target", target, "--acl", &bobs, &key(&bob)]);
    let unsigned = server.muster(&["trust", "send", &file]).unwrap_err().to_string();
    assert!(unsigned.contains("0 of 2 signatures"), "{unsigned}");
    for file in [&file, &elsewhere, &others] {
        ann.muster(server, &["trust", "sign", file]).unwrap();
    }
    let refused = async |part: &str| {
        wait::until_true("the machine's refusal", CEILING, async || {
            Ok(server.muster(&["trust", "status", "--json"])?.contains(part))
        })
        .await
        .unwrap();
    };
    // One signature is not two, which is said before it is sent, and by the machine where it is sent all the same.
    let half = server.muster(&["trust", "send", &file]).unwrap_err().to_string();
    assert!(half.contains("1 of 2 signatures"), "{half}");
    server.muster(&["trust", "send", &file, "--threshold", "1"]).unwrap();
    refused("1 of 2 needed administrators signed").await;
    let administrators = scene.path("agent").join("administrators").display().to_string();
    for (file, word) in [(&elsewhere, "belongs to lab"), (&others, "somewhere else"), (&file, "\"acl_version\": 1")] {
        ben.muster(server, &["trust", "sign", file]).unwrap();
        server.muster(&["trust", "verify", file, "--administrators", &administrators]).unwrap();
        server.muster(&["trust", "send", file, "--reason", "Bob joins"]).unwrap();
        refused(word).await;
    }
    let answer = bob.muster(server, &["ask", "--yes", "--format", "jsonl", "sysinfo"]).unwrap();
    assert!(answer.contains("\"success\""), "{answer}");
    // A machine that enrols later has the documents from the broadcast, and an older version is never taken back.
    let newer = drafted("newer.json", "2", &["--fleet", "lab", "--acl", &weights("Alice", &alice), &key(&alice)]);
    ann.muster(server, &["trust", "sign", &newer]).unwrap();
    ben.muster(server, &["trust", "sign", &newer]).unwrap();
    server.muster(&["trust", "send", &newer]).unwrap();
    refused("\"keyring_version\": 2").await;
    // The server lets no older one take the place of a newer one, and the machine is of the same mind by itself.
    let older = server.muster(&["trust", "send", &file]).unwrap_err().to_string();
    assert!(older.contains("version 2 of the investigators is on its way already"), "{older}");
    server.muster(&["trust", "send", &file, "--agent", &machine]).unwrap();
    refused("nothing older is taken back").await;
}

#[tokio::test]
async fn a_question_put_to_one_server_is_answered_through_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let database = Database::fresh().await.unwrap();
    let start = async |name: &str| {
        let config = "[cluster]\naddress = \"127.0.0.1:0\"\n";
        Setup::new(directory.path().join(name)).on(&database).config(config).start().await.unwrap()
    };
    let (a, b) = (start("a").await, start("b").await);
    let alice = Investigator::new("Alice").unwrap();
    alice.join(&a).unwrap();
    let _agent = Agent::start_trusting(&b, &directory.path().join("agent"), &[&alice], 1).unwrap();
    enrolled(&a, &[], CEILING).await.unwrap();
    told(&a, &alice).await;
    let began = tokio::time::Instant::now();
    let answer = alice.muster(&a, &["ask", "--yes", "--format", "jsonl", "mounts"]).unwrap();
    assert!(answer.contains("\"mountpoint\"") || answer.contains("\"/proc\""), "{answer}");
    assert!(began.elapsed() < WOKEN_MAX, "a lost wake-up was all that brought it");
}
