//! The spool of actions: what is dropped is launched once, whatever is killed meanwhile, and files show what became of it.

use crate::scene::CEILING;
use muster_api::actions::ActionSummary;
use muster_harness::agent::Agent;
use muster_harness::client::enrolled;
use muster_harness::programs::workspace;
use muster_harness::server::{Server, Setup};
use muster_harness::wait;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A secret key that was made for tests, and its public half.
fn fixture(name: &str) -> String {
    workspace().join("crates/muster-engine/src/tests/fixtures").join(name).display().to_string()
}

struct Spool(PathBuf);

impl Spool {
    /// Puts a file in as a careful person does: whole, under its last name.
    fn drop(&self, name: &str, content: &[u8]) {
        let hidden = self.0.join("action/new").join(format!(".{name}"));
        std::fs::write(&hidden, content).unwrap();
        std::fs::rename(&hidden, self.0.join("action/new").join(name)).unwrap();
    }

    fn names(&self, place: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.join(place)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn reason(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join("action/invalid").join(format!("{name}.reason"))).unwrap_or_default()
    }

    fn json(&self, path: &str) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.0.join(path)).ok()?).ok()
    }
}

async fn start(directory: &Path) -> (Server, Spool) {
    let spool = directory.join("spool");
    let config = format!("[spool]\ndirectory = \"{}\"\ncommands = true\n", spool.display());
    let server = Setup::new(directory.join("server")).config(config).start().await.unwrap();
    server.muster(&["investigator", "add", "Ann", "--key", &fixture("first.asc")]).unwrap();
    (server, Spool(spool))
}

/// Writes an action, and signs it unless told otherwise.
fn order(server: &Server, directory: &Path, name: &str, flags: &[&str], is_signed: bool) -> Vec<u8> {
    let path = directory.join(format!("{name}.order"));
    let out = path.display().to_string();
    let new = ["action", "new", "--name", name, "--target", "name LIKE '%'", "--out", &out];
    server.muster(&[&new[..], flags, &["timedrift"]].concat()).unwrap();
    if is_signed {
        server.muster(&["action", "sign", &out, "--key", &fixture("first.key")]).unwrap();
    }
    std::fs::read(path).unwrap()
}

async fn actions(server: &Server) -> Vec<ActionSummary> {
    server.rest.all("/actions?").await.unwrap()
}

#[tokio::test]
async fn good_and_bad_files_go_where_they_belong() {
    let directory = tempfile::tempdir().unwrap();
    let (server, spool) = start(directory.path()).await;
    let _agent = Agent::start(&server, &directory.path().join("agent")).unwrap();
    enrolled(&server, &[], CEILING).await.unwrap();
    let make = |name: &str, flags: &[&str], is_signed| order(&server, directory.path(), name, flags, is_signed);
    let good = make("good", &[], true);
    let (opening, rest) = (String::from_utf8(good.clone()).unwrap(), "\"expireafter\": \"20");
    let expired = opening.replacen(rest, "\"expireafter\": \"19", 1);
    spool.drop("good.json", &good);
    spool.drop("good again", &good);
    spool.drop("empty.json", b"");
    spool.drop("garbage.json", b"\x00\xff{");
    spool.drop("expired.json", expired.as_bytes());
    spool.drop("unsigned.json", &make("unsigned", &[], false));
    spool.drop("future.json", &make("future", &["--valid-from", "2090-01-01T00:00:00Z"], true));
    std::os::unix::fs::symlink("/etc/shadow", directory.path().join("spool/action/new/link.json")).unwrap();
    wait::until_true("everything to be dealt with", CEILING, async || {
        let is_numbered = |name: &String| name.strip_suffix(".json").is_some_and(|id| id.parse::<u64>().is_ok());
        let is_left = spool.names("action/new").iter().any(|name| !is_numbered(name));
        Ok(!is_left && spool.names("action/done").len() == 1)
    })
    .await
    .unwrap();
    for (name, why) in [
        ("empty.json", "empty"),
        ("garbage.json", "UTF-8"),
        ("unsigned.json", "pgpsignatures is empty"),
        ("link.json", "no regular file"),
    ] {
        assert!(spool.reason(name).contains(why), "{name}: {}", spool.reason(name));
    }
    assert!(!spool.reason("expired.json").is_empty());
    let launched = actions(&server).await;
    let id = |name: &str| launched.iter().find(|action| action.name == name).unwrap().id;
    assert_eq!(launched.len(), 2, "{launched:#?}");
    assert_eq!(spool.names("action/new"), [format!("{}.json", id("future"))]);
    let done = spool.json(&format!("action/done/{}.json", id("good"))).unwrap();
    assert_eq!((&done["status"], &done["counters"]["done"]), (&Value::from("completed"), &Value::from(1)));
    wait::until_true("the command's file", CEILING, async || Ok(spool.names("command/done").len() == 1)).await.unwrap();
    let journal = server.muster(&["journal", "list", "--json"]).unwrap();
    assert!(journal.contains("dropped into the spool as good"), "{journal}");
    let log = server.process.log();
    assert_eq!(log.matches("the spool refused garbage.json").count(), 1, "{log}");
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_the_server_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut server, spool) = start(directory.path()).await;
    // Their time has not come, so that nothing but the spool is at work on them.
    let tomorrow = ["--valid-from", "2090-01-01T00:00:00Z"];
    let orders: Vec<_> =
        (0..12).map(|n| order(&server, directory.path(), &format!("order {n}"), &tomorrow, true)).collect();
    for (n, order) in orders.iter().enumerate() {
        spool.drop(&format!("drop-{n}.json"), order);
        if n % 4 == 3 {
            // Wherever it is: between two files, between taking one in and removing it, or before it began.
            let there = actions(&server).await.len();
            wait::until_true("some of it to be taken in", CEILING, async || Ok(actions(&server).await.len() > there))
                .await
                .unwrap();
            server.kill_and_restart().await.unwrap();
        }
    }
    wait::until_true("all files to be taken in", CEILING, async || {
        Ok(!spool.names("action/new").iter().any(|name| name.starts_with("drop")))
    })
    .await
    .unwrap();
    let launched = actions(&server).await;
    let mut names: Vec<_> = launched.iter().map(|action| action.name.clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!((launched.len(), names.len()), (12, 12));
    // Files are only a picture: it is drawn anew where somebody wiped it away while no server ran.
    server.process.kill().unwrap();
    for path in ["action/new", "action/inflight"] {
        std::fs::remove_dir_all(spool.0.join(path)).unwrap();
    }
    server.restart().await.unwrap();
    wait::until_true("each to be shown again", CEILING, async || Ok(spool.names("action/new").len() == 12))
        .await
        .unwrap();
    let id = launched[0].id;
    server.muster(&["action", "cancel", &id.to_string(), "--server-only", "--reason", "not needed"]).unwrap();
    let file = format!("action/done/{id}.json");
    wait::until_true("one to be shown as called back", CEILING, async || {
        Ok(spool.json(&file).is_some_and(|shown| shown["status"] == "cancelled" && shown["reason"] == "not needed"))
    })
    .await
    .unwrap();
    assert_eq!(spool.names("action/new").len(), 11);
}
