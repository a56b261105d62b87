//! The original's own server on a private MariaDB, to be measured beside ours and to be spoken to by our agent.

use crate::peers::Peers;
use crate::process::{Process, Program};
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;

const START_CEILING: Duration = Duration::from_mins(1);

/// A running server of the original.
#[derive(Debug)]
pub struct Original {
    /// Its process.
    pub process: Process,
    /// The agents' door.
    pub agents: SocketAddr,
    /// The admin gRPC door.
    pub admin: SocketAddr,
    /// How long it took from start to ready.
    pub start: Duration,
    // The database goes after the server, the directory last.
    _database: Process,
    directory: TempDir,
}

impl Original {
    /// Starts MariaDB and the server with `services` (its text form).
    pub async fn start(services: &str) -> Result<Self> {
        let peers = Peers::find()?;
        let directory = tempfile::Builder::new().prefix("muster-original-").tempdir()?;
        let root = directory.path();
        let database = start_mariadb(root).await?;
        let (agents, admin) = (free_address()?, free_address()?);
        write_configs(&peers, root, services, agents, admin)?;
        let started = tokio::time::Instant::now();
        let mut process = Program::new("fleetspeak-server", peers.server(), root)
            .args(["-logtostderr"])
            .args(["-components_config".into(), root.join("components.textproto")])
            .args(["-services_config".into(), root.join("services.textproto")])
            .start()?;
        process
            .ready("open doors", START_CEILING, async || {
                let agents_open = TcpStream::connect(agents).await.is_ok();
                Ok((agents_open && TcpStream::connect(admin).await.is_ok()).then_some(()))
            })
            .await?;
        Ok(Self { process, agents, admin, start: started.elapsed(), _database: database, directory })
    }

    /// Returns the path of the certificate that agents have to trust.
    pub fn trusted_certificate(&self) -> std::path::PathBuf {
        self.directory.path().join("ca.pem")
    }
}

async fn start_mariadb(root: &Path) -> Result<Process> {
    let data = root.join("mariadb");
    if !Path::new("/usr/sbin/mariadbd").exists() {
        bail!("MariaDB is missing: install the package mariadb-server");
    }
    let output = Command::new("mariadb-install-db")
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--user=root"])
        .arg(format!("--datadir={}", data.display()))
        .output()
        .context("starting mariadb-install-db")?;
    if !output.status.success() {
        bail!("mariadb-install-db failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let socket = root.join("mariadb.sock");
    let mut database = Program::new("mariadb", "/usr/sbin/mariadbd", root)
        .args(["--no-defaults", "--skip-networking", "--user=root", "--max-allowed-packet=64M"])
        .args([format!("--datadir={}", data.display()), format!("--socket={}", socket.display())])
        .start()?;
    database
        .ready("a database", START_CEILING, async || {
            let mut command = Command::new("mariadb");
            command.args(["--no-defaults", "--user=root", "-e", "CREATE DATABASE IF NOT EXISTS fleetspeak"]);
            let output = command.arg(format!("--socket={}", socket.display())).output()?;
            Ok(output.status.success().then_some(()))
        })
        .await?;
    Ok(database)
}

fn write_configs(peers: &Peers, root: &Path, services: &str, agents: SocketAddr, admin: SocketAddr) -> Result<()> {
    let file = |name: &str| root.join(name).display().to_string();
    let mut text = String::from("configuration_name: \"Bench\"\ncomponents_config {\n");
    let dsn = format!("root@unix({})/fleetspeak", file("mariadb.sock"));
    writeln!(text, "  mysql_data_source_name: {dsn:?}\n  https_config {{ listen_address: \"{agents}\" }}")?;
    writeln!(text, "  admin_config {{ listen_address: \"{admin}\" }}\n}}\npublic_host_port: \"{agents}\"")?;
    for (field, name) in [
        ("trusted_cert_file", "ca.pem"),
        ("trusted_cert_key_file", "ca.key"),
        ("server_cert_file", "server.pem"),
        ("server_cert_key_file", "server.key"),
        ("server_component_configuration_file", "components.textproto"),
        ("linux_client_configuration_file", "client.textproto"),
    ] {
        writeln!(text, "{field}: {:?}", file(name))?;
    }
    std::fs::write(root.join("config.textproto"), text)?;
    std::fs::write(root.join("services.textproto"), services)?;
    let output = Command::new(peers.config_tool())
        .args(["-logtostderr", "-config", &file("config.textproto")])
        .output()
        .context("starting fleetspeak-config")?;
    if !output.status.success() {
        bail!("fleetspeak-config failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn free_address() -> Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).context("asking for a free port")
}
