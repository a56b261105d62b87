//! `muster db create`: a database for whoever runs a server, with rights that go as far as they must.

use crate::scene::CEILING;
use muster_harness::agent::Agent;
use muster_harness::client::enrolled;
use muster_harness::postgres::{Database, connect, execute};
use muster_harness::programs::program;
use muster_harness::server::Setup;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

fn create(args: &[&str]) -> Output {
    let mut command = Command::new(program("muster").unwrap());
    command.args(["db", "create", "--json"]).args(args).env_remove("MUSTER_DATABASE").output().unwrap()
}

fn made(args: &[&str]) -> Value {
    let output = create(args);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Whether PostgreSQL refuses a statement for want of a right.
async fn is_denied(url: &str, sql: &str) -> bool {
    let error = execute(url, sql).await.unwrap_err();
    let code = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
    code.is_some_and(|code| code.code() == "42501")
}

#[tokio::test]
async fn a_local_database_is_made_once_and_served() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("server");
    let args = ["--data", data.to_str().unwrap()];
    let (first, again) = (made(&args), made(&args));
    assert_eq!((&first["from"], &first["roles"]), (&Value::Null, &serde_json::json!([])));
    assert_eq!(again["from"], first["to"]);
    let refused = create(&[&args[..], &["--owner", "me"]].concat());
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let server = Setup::new(&data).start().await.unwrap();
    assert_eq!(server.rest.agents().await.unwrap().len(), 0);
}

/// The URL that a database was made with looks into another schema: it is told which one to use, and makes nothing.
async fn the_tables_are_found_in_their_schema(url: &str, owner: &str) {
    let db = |command: &str| {
        let mut muster = Command::new(program("muster").unwrap());
        muster.args(["db", command, "--database", url]).env_remove("MUSTER_DATABASE").output().unwrap()
    };
    let status = db("status");
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(1), "{status:?}");
    assert!(text.contains("elsewhere") && text.contains(&format!("://{owner}@")), "{text}");
    let refused = db("migrate");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(text.contains("schema \"muster\"") && text.contains(owner), "{text}");
    let client = connect(url).await.unwrap();
    let made = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(client.query_one(made, &[]).await.unwrap().get::<_, i64>(0), 0);
    // The one line that the documented queries need of whoever is no role of the three.
    client.batch_execute("SET search_path = muster; SELECT * FROM agents; SELECT * FROM agents_stats").await.unwrap();
}

#[tokio::test]
async fn roles_can_do_what_they_are_for_and_nothing_else() {
    let database = Database::fresh().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let tag = format!("{:016x}", rand::random::<u64>());
    let names = ["owner", "server", "reader"].map(|role| format!("it_{role}_{tag}"));
    let (file, given) = (directory.path().join("roles.env"), directory.path().join("given"));
    std::fs::write(&given, "it's given\nand a second line\n").unwrap();
    let out = file.to_str().unwrap();
    let roles = ["--database", database.url(), "--owner", &names[0], "--server", &names[1], "--reader", &names[2]];
    let first = [&roles[..], &["--out", out, "--reader-password-file", given.to_str().unwrap()]].concat();
    let told = made(&first);
    assert!(told["roles"].as_array().unwrap().iter().all(|role| role["new"] == true), "{told}");
    assert_eq!(told["roles"][2]["password"], "given");
    let kept = std::fs::read_to_string(&file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(kept.contains("it%27s%20given") && kept.lines().count() == 3, "{kept}");
    // With a file, nothing that is printed holds a password, and the file is not written over.
    assert!(!told.to_string().contains(&format!("{}:", names[1])), "{told}");
    assert_eq!(create(&first).status.code(), Some(6));
    // Again, roles keep what they have, and so does whoever uses them.
    let again = made(&roles);
    assert_eq!(again["from"], again["to"]);
    assert!(again["roles"].as_array().unwrap().iter().all(|role| role["password"] == "kept"), "{again}");
    let url = |role: usize| again["roles"][role]["url"].as_str().unwrap().to_owned();
    the_tables_are_found_in_their_schema(database.url(), &names[0]).await;
    let (owner, server, reader) = (url(0), url(1), url(2));

    let setup = Setup { database: Some(server.clone()), ..Setup::new(directory.path().join("server")) };
    let serving = setup.start().await.unwrap();
    let _agent = Agent::start(&serving, &directory.path().join("agent")).unwrap();
    enrolled(&serving, &[], CEILING).await.unwrap();
    for sql in
        ["DELETE FROM journal", "UPDATE journal SET reason = ''", "DROP TABLE machines", "CREATE TABLE mine (n INT)"]
    {
        assert!(is_denied(&server, sql).await, "the server may {sql}");
    }
    let client = connect(&reader).await.unwrap();
    let machines: i64 = client.query_one("SELECT count(*) FROM agents", &[]).await.unwrap().get(0);
    assert_eq!(machines, 1);
    for sql in ["SELECT * FROM settings", "SELECT apikey_sha256 FROM investigators", "DELETE FROM signatures"] {
        assert!(is_denied(&reader, sql).await, "the reader may {sql}");
    }
    execute(&owner, "CREATE TABLE later (n INT)").await.unwrap();
    execute(&server, "INSERT INTO later VALUES (1)").await.unwrap();
    assert!(is_denied(&reader, "SELECT * FROM later").await);
    execute(&owner, "DROP TABLE later").await.unwrap();
    drop((serving, client));
    for name in &names {
        execute(database.url(), &format!("DROP OWNED BY {name} CASCADE; DROP ROLE {name}")).await.unwrap();
    }
}
