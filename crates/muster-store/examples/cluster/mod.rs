//! A PostgreSQL to measure on: the one that `MUSTER_BENCH_POSTGRES` names, else a private one with the default settings,
//! `fsync` on.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable that names another PostgreSQL than a private one.
const URL_VARIABLE: &str = "MUSTER_BENCH_POSTGRES";

/// Where to measure on PostgreSQL; a private one is stopped and removed when dropped.
pub(crate) struct Postgres {
    url: String,
    // Before its folder, which it writes to.
    _cluster: Option<Cluster>,
    _folder: Option<tempfile::TempDir>,
}

impl Postgres {
    /// Takes the one that is named, or starts one below `dir`.
    pub(crate) fn start(dir: &Path) -> Self {
        if let Ok(url) = std::env::var(URL_VARIABLE) {
            return Self { url, _cluster: None, _folder: None };
        }
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        let folder = tempfile::Builder::new().permissions(permissions).tempdir_in(dir).unwrap();
        let cluster = Cluster::start(folder.path());
        Self { url: cluster.url(), _cluster: Some(cluster), _folder: Some(folder) }
    }

    /// Makes `schema` anew and returns the URL under which it is used.
    pub(crate) async fn fresh_schema(&self, schema: &str) -> String {
        run_sql(&self.url, &format!("DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}; CHECKPOINT"))
            .await;
        let sign = if self.url.contains('?') { '&' } else { '?' };
        format!("{}{sign}options=-c%20search_path%3D{schema}", self.url)
    }
}

/// Runs statements on a connection of their own.
pub(crate) async fn run_sql(url: &str, sql: &str) {
    let config: tokio_postgres::Config = url.parse().unwrap();
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}

struct Cluster {
    dir: PathBuf,
    bin: PathBuf,
}

impl Cluster {
    fn start(dir: &Path) -> Self {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let newest = versions.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("initdb").exists()).max();
        let bin = newest.unwrap_or_else(|| {
            panic!("PostgreSQL is not installed in /usr/lib/postgresql: install it, or name a server in {URL_VARIABLE}")
        });
        let this = Self { dir: dir.join("postgres"), bin };
        std::fs::create_dir_all(&this.dir).unwrap();
        let path = this.dir.to_str().unwrap();
        if is_root() {
            run(&["chown", "postgres", path]);
        }
        this.run("initdb", &["-A", "trust", "-U", "postgres", "-D", &format!("{path}/data")]);
        let settings = format!("-c listen_addresses='' -c unix_socket_directories={path}");
        this.run(
            "pg_ctl",
            &["-w", "-D", &format!("{path}/data"), "-l", &format!("{path}/log"), "-o", &settings, "start"],
        );
        this
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let program = self.bin.join(program);
        let owner: &[&str] =
            if is_root() { &["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] } else { &["env"] };
        run(&[owner, &[program.to_str().unwrap()], arguments].concat());
    }

    fn url(&self) -> String {
        format!("postgres://postgres@{}/postgres", self.dir.to_str().unwrap().replace('/', "%2F"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.run("pg_ctl", &["-D", &format!("{}/data", self.dir.display()), "-m", "immediate", "stop"]);
    }
}

fn run(command: &[&str]) {
    let out = Command::new(command[0]).args(&command[1..]).current_dir("/").output();
    let out = out.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout == b"0\n")
}
