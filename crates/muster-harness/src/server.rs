//! A real `muster serve`.

use crate::postgres::Database;
use crate::process::{Process, Program};
use crate::programs;
use crate::rest::Rest;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a start may take. Goal: a second; the rest is for a busy machine and an unoptimised build.
const START_CEILING: Duration = Duration::from_secs(30);

/// Where a server listens, as it writes it to `addresses.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Addresses {
    /// The agents' door.
    pub agents: SocketAddr,
    /// The operators' door.
    pub operators: SocketAddr,
    /// The admin gRPC door.
    pub admin: SocketAddr,
}

/// How to start a server.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where it keeps what it has.
    pub data: PathBuf,
    /// Another database than the embedded one in `data`.
    pub database: Option<String>,
    /// Services in the original's text form.
    pub services: Option<String>,
    /// More of the configuration, as TOML.
    pub config: Option<String>,
    /// Where it listens; free ports of the loopback address unless told.
    pub addresses: Option<Addresses>,
    /// A program in front of it, such as a tracer, with its arguments.
    pub wrapper: Vec<String>,
}

impl Setup {
    /// A server on the embedded database, everything below `data`.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self { data: data.into(), database: None, services: None, config: None, addresses: None, wrapper: Vec::new() }
    }

    /// On `database` instead.
    #[must_use]
    pub fn on(mut self, database: &Database) -> Self {
        self.database = Some(database.url().to_owned());
        self
    }

    /// With services in the original's text form.
    #[must_use]
    pub fn services(mut self, text: impl Into<String>) -> Self {
        self.services = Some(text.into());
        self
    }

    /// With more configuration.
    #[must_use]
    pub fn config(mut self, toml: impl Into<String>) -> Self {
        self.config = Some(toml.into());
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Result<Server> {
        let beside = self.beside();
        std::fs::create_dir_all(&beside).with_context(|| format!("creating {}", beside.display()))?;
        self.migrate()?;
        let ready = self.data.join("addresses.json");
        // What a killed server left behind would be taken for the new one's.
        let _ = std::fs::remove_file(&ready);
        let mut process = self.program()?.start()?;
        let addresses: Addresses = process
            .ready("addresses.json", START_CEILING, async || {
                let Ok(text) = std::fs::read(&ready) else { return Ok(None) };
                serde_json::from_slice(&text).map(Some).context("addresses.json is not what it should be")
            })
            .await?;
        let token_path = self.data.join("admin.token");
        let token =
            std::fs::read_to_string(&token_path).with_context(|| format!("reading {}", token_path.display()))?;
        let rest = Rest::new(&addresses.operators.to_string(), token.trim())?;
        Ok(Server { process, setup: self, addresses, token: token.trim().to_owned(), rest })
    }

    fn program(&self) -> Result<Program> {
        let muster = programs::program("muster")?;
        let mut program = Program::behind(&self.wrapper, "muster", muster, &self.beside());
        let free = || SocketAddr::from(([127, 0, 0, 1], 0));
        let at =
            self.addresses.clone().unwrap_or_else(|| Addresses { agents: free(), operators: free(), admin: free() });
        program = program.args(["serve", "--data"]).args([&self.data]).args([
            "--agents".to_owned(),
            at.agents.to_string(),
            "--operators".to_owned(),
            at.operators.to_string(),
            "--admin".to_owned(),
            at.admin.to_string(),
        ]);
        if let Some(database) = &self.database {
            program = program.args(["--database", database]);
        }
        if let Some(text) = &self.services {
            program = program.args(["--fleetspeak-services".into(), self.write("services.textproto", text)?]);
        }
        if let Some(text) = &self.config {
            program = program.args(["--config".into(), self.write("muster.toml", text)?]);
        }
        Ok(program)
    }

    /// Brings PostgreSQL to the schema, as an operator does: there, a server never does so by itself.
    fn migrate(&self) -> Result<()> {
        let Some(database) = self.database.as_deref().filter(|url| url.starts_with("postgres")) else { return Ok(()) };
        let mut command = Command::new(programs::program("muster")?);
        let output = command.args(["db", "migrate", "--database", database]).output().context("starting muster")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "muster db migrate ended with {}:\n{errors}", output.status);
        Ok(())
    }

    /// Where its log and configuration lie: beside its data, because a server wants a directory of its own.
    fn beside(&self) -> PathBuf {
        self.data.with_extension("beside")
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.beside().join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Its process.
    pub process: Process,
    /// Where it listens.
    pub addresses: Addresses,
    /// Its admin token.
    pub token: String,
    /// Its REST API.
    pub rest: Rest,
    setup: Setup,
}

impl Server {
    /// Returns where it keeps what it has.
    pub fn data(&self) -> &Path {
        &self.setup.data
    }

    /// Returns the URL of its database, if that is not the embedded one.
    pub fn database(&self) -> Option<&str> {
        self.setup.database.as_deref()
    }

    /// Kills it and starts it again at the same addresses.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.restart().await
    }

    /// Starts it again, after it ended, at the same addresses.
    pub async fn restart(&mut self) -> Result<()> {
        let again = Setup { addresses: Some(self.addresses.clone()), ..self.setup.clone() };
        *self = again.start().await?;
        Ok(())
    }

    /// Starts it again at the same addresses, without the program in front of it.
    pub async fn restart_without_wrapper(&mut self) -> Result<()> {
        self.setup.wrapper.clear();
        self.restart().await
    }

    /// Makes `command` one of an operator of this server.
    pub fn operator<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let url = format!("http://{}", self.addresses.operators);
        // What a person keeps lies beside the server, and not where the tests' own person keeps it.
        command.env("MUSTER_URL", url).env("MUSTER_TOKEN", &self.token).env("XDG_CONFIG_HOME", self.setup.beside())
    }

    /// Runs `muster` as an operator of this server and returns what it printed.
    pub fn muster(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(programs::program("muster")?);
        let output = self.operator(&mut command).args(args).output().context("starting muster")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "muster {args:?} ended with {}:\n{text}{errors}", output.status);
        Ok(text)
    }
}
