//! PostgreSQL servers that a case has for itself, because it stops them or sets them up in its own way.

use crate::postgres::{as_owner, binaries, owner, run};
use crate::stage::{admin_at, folder};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// How long a server may take to answer.
const START_CEILING: Duration = Duration::from_secs(40);
/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// A running server, ended with its guard.
pub(crate) struct Server {
    folder: TempDir,
    port: u16,
    child: Child,
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

fn belongs_to_server(path: &Path) {
    if owner() == "0" {
        run(&["chown", "postgres", text(path)]);
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// Makes a server and starts it.
    pub(crate) async fn start() -> Self {
        let folder = folder();
        belongs_to_server(folder.path());
        let data = folder.path().join("data");
        let initdb = binaries().join("initdb");
        run(&[&as_owner()[..], &[text(&initdb), "-A", "trust", "-U", "postgres", "-N", "-D", text(&data)]].concat());
        Self::start_in(folder).await
    }

    /// Makes a standby that follows this server, with what this one has, and starts it.
    pub(crate) async fn standby(&self) -> Self {
        let folder = folder();
        belongs_to_server(folder.path());
        let (data, copy) = (folder.path().join("data"), binaries().join("pg_basebackup"));
        let port = self.port.to_string();
        let from = [text(&copy), "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-R", "-N", "-c", "fast"];
        run(&[&as_owner()[..], &from, &["-X", "stream", "-D", text(&data)]].concat());
        Self::start_in(folder).await
    }

    async fn start_in(folder: TempDir) -> Self {
        let port = free_port();
        let child = spawn(folder.path(), port);
        let server = Self { folder, port, child };
        let asked = async {
            while server.try_ask("SELECT 1").await.is_err() {
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        if tokio::time::timeout(START_CEILING, asked).await.is_err() {
            let log = std::fs::read_to_string(server.folder.path().join("log")).unwrap_or_default();
            panic!("the server does not answer: {log}");
        }
        server
    }

    /// Puts a file beside its data, for it alone to read, and returns where.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        run(&["chmod", "600", text(&path)]);
        belongs_to_server(&path);
        text(&path).to_owned()
    }

    /// Sets what a server can change while it runs, and waits until it has.
    pub(crate) async fn set(&self, setting: &str, value: &str) {
        self.run(&format!("ALTER SYSTEM SET {setting} = '{value}'")).await;
        self.run("SELECT pg_reload_conf()").await;
        self.until(&format!("SELECT current_setting('{setting}')"), value).await;
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The URL through its socket, for the test itself.
    pub(crate) fn direct(&self) -> String {
        format!("postgres://postgres@{}:{}/postgres", text(self.folder.path()).replace('/', "%2F"), self.port)
    }

    pub(crate) async fn run(&self, sql: &str) {
        admin_at(&self.direct(), sql).await;
    }

    async fn try_ask(&self, sql: &str) -> Result<String, tokio_postgres::Error> {
        let config: tokio_postgres::Config = self.direct().parse().unwrap();
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        let row = client.query_one(&format!("SELECT CAST(({sql}) AS TEXT)"), &[]).await?;
        Ok(row.try_get::<_, Option<String>>(0)?.unwrap_or_default())
    }

    /// Returns the only value of a statement, as text.
    pub(crate) async fn ask(&self, sql: &str) -> String {
        self.try_ask(sql).await.unwrap()
    }

    /// Waits until a statement gives `wanted`.
    pub(crate) async fn until(&self, sql: &str, wanted: &str) {
        let given = async {
            while self.ask(sql).await != wanted {
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        tokio::time::timeout(START_CEILING, given).await.unwrap_or_else(|_| panic!("{sql} never gave {wanted}"));
    }

    /// Stops it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        // Its own way to stop at once: killed from outside, it would leave its sessions behind for a moment.
        run(&["kill", "-QUIT", &self.child.id().to_string()]);
        self.child.wait().unwrap();
    }
}

fn spawn(folder: &Path, port: u16) -> Child {
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let program: PathBuf = binaries().join("postgres");
    let mut words: Vec<String> = as_owner().into_iter().map(str::to_owned).collect();
    // A test that is killed takes its servers along. Said last, because becoming another user takes it back.
    words.extend(["setpriv", "--pdeathsig", "QUIT", "--", text(&program), "-D"].map(str::to_owned));
    words.push(text(&folder.join("data")).to_owned());
    let port = format!("port={port}");
    let sockets = format!("unix_socket_directories={}", text(folder));
    let usual = ["listen_addresses=127.0.0.1", &port, &sockets, "fsync=off", "max_connections=50"];
    for setting in usual {
        words.extend(["-c".to_owned(), setting.to_owned()]);
    }
    Command::new(&words[0])
        .args(&words[1..])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.kill();
        }
    }
}
