//! A private PostgreSQL: made in a temporary directory, on a free port of the loopback address, gone with its guard.

use crate::process::{Process, Program};
use anyhow::{Context, Result, bail};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Names a PostgreSQL that tests may create databases on; `cargo xtask test` sets it to a private one.
pub const URL_VARIABLE: &str = "MUSTER_TEST_POSTGRES";

/// How long a start may take, recovery after a crash included.
const START_CEILING: Duration = Duration::from_mins(1);
/// How often another port is tried when somebody else took the free one first.
const PORT_TRIES: u32 = 5;

/// Whether the cluster waits for its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As an installation does.
    Full,
    /// Not: a killed process loses nothing by it, only a power cut would. For tests, which then take half the time.
    ProcessOnly,
}

/// A running cluster.
#[derive(Debug)]
pub struct Postgres {
    directory: TempDir,
    durability: Durability,
    port: u16,
    // Last, so that it is stopped before its directory goes.
    process: Option<Process>,
}

impl Postgres {
    /// Makes a cluster and starts it.
    pub async fn start(durability: Durability) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("muster-postgres-").tempdir().context("making a directory")?;
        let owner = server_user()?;
        if let Some(owner) = &owner {
            chown(directory.path(), Some(owner.user), Some(owner.group)).context("handing the directory over")?;
        }
        let data = directory.path().join("data");
        let output = as_user(owner.as_ref(), &binary("initdb")?)
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .context("starting initdb")?;
        if !output.status.success() {
            bail!("initdb failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        let mut cluster = Self { directory, durability, port: 0, process: None };
        for _ in 0..PORT_TRIES {
            cluster.port = free_port()?;
            match cluster.start_again().await {
                Err(error) if format!("{error:#}").contains("Address already in use") => {}
                other => return other.map(|()| cluster),
            }
        }
        bail!("no free port for PostgreSQL after {PORT_TRIES} tries")
    }

    /// Returns the URL of a database of it.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Creates a database whose tables lie in `place`, on whatever disk that is; the log stays where it was, because
    /// PostgreSQL ends when that finds no room.
    pub async fn database_at(&self, name: &str, place: &Path) -> Result<()> {
        std::fs::create_dir_all(place).with_context(|| format!("creating {}", place.display()))?;
        if let Some(owner) = server_user()? {
            chown(place, Some(owner.user), Some(owner.group)).context("handing the directory over")?;
        }
        let url = self.url("postgres");
        execute(&url, &format!("CREATE TABLESPACE {name}_place LOCATION '{}'", place.display())).await?;
        execute(&url, &format!("CREATE DATABASE {name} TABLESPACE {name}_place")).await
    }

    /// Starts the stopped or killed cluster again, on the same port, and waits until it answers.
    ///
    /// The sessions of a killed cluster are processes of their own, which end a moment after it and hold its memory until
    /// then; a new one refuses to start beside them, so that is tried again.
    pub async fn start_again(&mut self) -> Result<()> {
        crate::wait::until("the sessions of a killed PostgreSQL to end", START_CEILING, async || {
            match self.try_start().await {
                Err(error) if format!("{error:#}").contains("shared memory block") => Ok(None),
                other => Ok(Some(other)),
            }
        })
        .await?
    }

    async fn try_start(&mut self) -> Result<()> {
        let fsync = if self.durability == Durability::Full { "fsync=on" } else { "fsync=off" };
        let port = format!("port={}", self.port);
        let sockets = format!("unix_socket_directories={}", self.directory.path().display());
        let settings = ["listen_addresses=127.0.0.1", &port, &sockets, fsync, "max_connections=100"];
        let owner = server_user()?;
        let mut program = Program::new("postgres", "setpriv", self.directory.path());
        if let Some(owner) = &owner {
            program = program.args([
                format!("--reuid={}", owner.user),
                format!("--regid={}", owner.group),
                "--clear-groups".to_owned(),
            ]);
        }
        // Becoming another user clears the wish to die with the parent, so it is said again behind it.
        program = program.args(["--pdeathsig", "KILL", "--"]).args([binary("postgres")?]);
        let mut process = program
            .args(["-D".into(), self.directory.path().join("data")])
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .start()?;
        let url = self.url("postgres");
        process.ready("an answer", START_CEILING, async || Ok(execute(&url, "SELECT 1").await.ok())).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills every process of it at once, as a crash of the machine's database would.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Ends every connection to `database` from the database's side.
    pub async fn disconnect_all(&self, database: &str) -> Result<()> {
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' AND pid <> pg_backend_pid()"
        );
        execute(&self.url("postgres"), &sql).await
    }
}

/// A fresh, empty database for one test.
#[derive(Debug)]
pub struct Database {
    url: String,
    // Held only so that it outlives the test.
    _cluster: Option<Postgres>,
}

impl Database {
    /// Creates one: on the cluster named by [`URL_VARIABLE`], else on a private one of its own.
    pub async fn fresh() -> Result<Self> {
        let name = format!("muster_{:016x}", rand::random::<u64>());
        if let Ok(url) = std::env::var(URL_VARIABLE) {
            execute(&url, &format!("CREATE DATABASE {name}")).await?;
            return Ok(Self { url: with_database(&url, &name)?, _cluster: None });
        }
        let cluster = Postgres::start(Durability::ProcessOnly).await?;
        execute(&cluster.url("postgres"), &format!("CREATE DATABASE {name}")).await?;
        Ok(Self { url: cluster.url(&name), _cluster: Some(cluster) })
    }

    /// Returns its URL.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Runs a statement on a connection of its own.
pub async fn execute(url: &str, sql: &str) -> Result<()> {
    let client = connect(url).await?;
    client.batch_execute(sql).await.with_context(|| format!("running {sql:?} on {url}"))
}

/// Opens a connection that looks after itself.
#[expect(clippy::disallowed_methods, reason = "the harness looks at the database past the product's own pool")]
pub async fn connect(url: &str) -> Result<tokio_postgres::Client> {
    let connecting = tokio_postgres::connect(url, tokio_postgres::NoTls);
    let (client, connection) = connecting.await.with_context(|| format!("connecting to {url}"))?;
    tokio::spawn(connection);
    Ok(client)
}

fn with_database(url: &str, name: &str) -> Result<String> {
    let (address, options) = url.split_once('?').map_or((url, None), |(address, options)| (address, Some(options)));
    let scheme = address.find("://").with_context(|| format!("{url:?} is no URL"))? + 3;
    let end = address[scheme..].find('/').map_or(address.len(), |slash| scheme + slash);
    let options = options.map(|options| format!("?{options}")).unwrap_or_default();
    Ok(format!("{}/{name}{options}", &address[..end]))
}

#[derive(Debug)]
struct ServerUser {
    user: u32,
    group: u32,
}

/// Returns the account that PostgreSQL has to run under: it refuses to run as root.
fn server_user() -> Result<Option<ServerUser>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let accounts = std::fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
    let fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let account = fields.into_iter().find(|fields| fields[0] == "postgres");
    let account = account.context("no account `postgres`: install the package postgresql")?;
    match account[..] {
        [_, _, user, group, ..] => Ok(Some(ServerUser { user: user.parse()?, group: group.parse()? })),
        _ => bail!("the line of `postgres` in /etc/passwd is cut"),
    }
}

fn as_user(owner: Option<&ServerUser>, program: &Path) -> Command {
    let Some(owner) = owner else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={}", owner.user)).arg(format!("--regid={}", owner.group));
    command.args(["--clear-groups", "--"]).arg(program).current_dir("/");
    command
}

/// Returns a program of the newest installed PostgreSQL. Debian keeps them out of the path.
fn binary(name: &str) -> Result<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let versions = installed.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let version = versions.filter(|version| *version >= 15).max();
    let version = version.context("no PostgreSQL 15 or later below /usr/lib/postgresql: install it")?;
    Ok(PathBuf::from(format!("/usr/lib/postgresql/{version}/bin/{name}")))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("asking for a free port")?;
    Ok(listener.local_addr().context("asking which port is free")?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_of_a_url_is_replaced() {
        for (url, want) in [
            ("postgresql://u@h:1/old", "postgresql://u@h:1/new"),
            ("postgresql://u@h:1", "postgresql://u@h:1/new"),
            ("postgresql://u@h:1,g:2/old?a=b/c", "postgresql://u@h:1,g:2/new?a=b/c"),
        ] {
            assert_eq!(with_database(url, "new").unwrap(), want);
        }
        assert!(with_database("host=h", "new").is_err());
    }

    #[tokio::test]
    async fn a_killed_cluster_comes_back_with_what_was_committed() {
        let mut cluster = Postgres::start(Durability::ProcessOnly).await.unwrap();
        let url = cluster.url("postgres");
        execute(&url, "CREATE TABLE kept (n BIGINT); INSERT INTO kept VALUES (7)").await.unwrap();
        cluster.kill().unwrap();
        assert!(execute(&url, "SELECT 1").await.is_err());
        cluster.start_again().await.unwrap();
        let row = connect(&url).await.unwrap().query_one("SELECT n FROM kept", &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 7);
    }
}
