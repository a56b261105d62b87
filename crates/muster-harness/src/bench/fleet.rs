//! A fleet that is only rows: machines put into a server's database past the server, which would take its time to enrol
//! them. They look online, and nobody answers for them.

use anyhow::{Context, Result};
use muster_harness::postgres;
use muster_harness::server::Server;
use std::time::Duration;

const COLUMNS: &str = "agent_id, id_text, public_key, state, created, last_contact, last_address, streaming_to, \
     nonce_splits, nonce_skips, host_name, name, os, tags";
const TOLD: &str = r#"'linux', '{"operator":"IT","role":"web"}'"#;
const ENVIRONMENT: &str = r#"{"addresses":["192.0.2.7","10.0.0.1"],"arch":"amd64","ident":"Debian GNU/Linux 12 (bookworm)","init":"systemd","isproxied":false,"modules":["file","pkg"],"os":"linux","proxy":""}"#;
/// How long the server may hold the embedded database's lock.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Puts `count` machines into the database of `server`, which has none; they were in contact at `at`, in nanoseconds.
pub(super) async fn furnish(server: &Server, count: u64, at: i64) -> Result<()> {
    let environments =
        format!("INSERT INTO machine_environments (machine, environment) SELECT number, '{ENVIRONMENT}' FROM machines");
    if let Some(url) = server.database() {
        let sql = format!(
            "INSERT INTO machines ({COLUMNS}) SELECT decode(lpad(to_hex(i), 16, '0'), 'hex'), \
             lpad(to_hex(i), 16, '0'), decode(repeat('00', 91), 'hex'), 0, {at}, {at}, '192.0.2.1:4000', '', 0, 0, \
             'host' || i, 'host' || i, {TOLD} FROM generate_series(1, {count}) AS i; {environments}; \
             ANALYZE machines; ANALYZE machine_environments"
        );
        return postgres::execute(url, &sql).await;
    }
    let path = server.data().join("muster.db");
    let connection = rusqlite::Connection::open(&path).with_context(|| format!("opening {}", path.display()))?;
    connection.busy_timeout(LOCK_WAIT).context("setting how long to wait for the lock")?;
    let sql = format!(
        "BEGIN IMMEDIATE; WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
         INSERT INTO machines ({COLUMNS}, number) SELECT unhex(printf('%016x', i)), printf('%016x', i), \
         randomblob(91), 0, {at}, {at}, '192.0.2.1:4000', '', 0, 0, 'host' || i, 'host' || i, {TOLD}, i FROM n; \
         {environments}; COMMIT"
    );
    connection.execute_batch(&sql).with_context(|| format!("putting machines into {}", path.display()))
}
