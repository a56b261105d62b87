//! `muster dev`: a server and this machine's agent, everything in a scratch directory.
//!
//! Stays true: both are the real programs with a configuration that could be written by hand; nothing outside the
//! scratch directory is touched but one file that tells other commands where it is; both end in order, the agent
//! first, however this command ends.

mod child;

use child::Child;
use muster_api::agents::{AgentQuery, AgentSummary};
use muster_cli::commands::agent::{TrustArgs, config_write};
use muster_cli::connect::{self, ADMIN_TOKEN, Addresses};
use muster_cli::output::safe;
use muster_cli::{Api, Context, Exit, Failure, Globals, Output, values};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// `muster dev`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster dev
  muster dev --dir ./scratch --operators 127.0.0.1:8080
  muster dev --once --json
  muster dev --trust alice.asc

With --trust the server knows these investigators, too, so that `muster ask` works at once.

While it runs, other commands find it by themselves, unless a server is installed on this machine; then give them
--data with the directory it prints. Ctrl-C ends it and removes the directory.")]
pub(crate) struct DevArgs {
    /// Keep the directory at the end
    #[arg(long)]
    keep: bool,
    /// Use this directory, and keep it; a new one in the temporary directory unless told
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where agents connect
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    agents: String,
    /// Where people and scripts connect
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    operators: String,
    /// Where fleetspeak-admin and GRR connect
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    admin: String,
    /// Run the server alone
    #[arg(long)]
    no_agent: bool,
    /// End as soon as the agent is enrolled and has told its facts
    #[arg(long)]
    once: bool,
    /// How long the server and the agent may take to be ready
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = "30s")]
    ready_max: Duration,
    #[command(flatten)]
    trust: TrustArgs,
}

/// Pause between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(50);
/// How long the agent and the server may take to end before they are ended.
const END_MAX: Duration = Duration::from_secs(10);
const WHAT: &str = "could not start";

impl DevArgs {
    /// Runs both until Ctrl-C, or until one of them ends.
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let out = Output::new(globals.json);
        let mut stop = Stop::new()?;
        let scratch = Scratch::make(self.dir.as_deref(), self.keep)?;
        let mut server = self.server(&scratch)?;
        let result = self.both(&scratch, &mut server, &mut stop, out, globals.timeout).await;
        let ended = server.end(END_MAX).await;
        if scratch.kept {
            out.note(&format!("Kept: {}", scratch.path.display()));
        }
        result.and(ended)
    }

    fn server(&self, scratch: &Scratch) -> Result<Child, Failure> {
        let program = std::env::current_exe().map_err(|error| Failure::local(WHAT, "this program", &error))?;
        let doors = [("--agents", &self.agents), ("--operators", &self.operators), ("--admin", &self.admin)];
        let mut args = vec!["serve".into(), "--data".into(), scratch.data().into_os_string()];
        args.extend(doors.into_iter().flat_map(|(flag, address)| [flag.into(), address.into()]));
        // An empty configuration: the machine's own, for an installed server, is none of this one's business.
        let config = scratch.path.join("muster.toml");
        std::fs::write(&config, "").map_err(|error| Failure::local(WHAT, config.display(), &error))?;
        args.extend(["--config".into(), config.into_os_string()]);
        Child::start("server", &program, &args, scratch.path.join("server.log"))
    }

    async fn both(
        &self,
        scratch: &Scratch,
        server: &mut Child,
        stop: &mut Stop,
        out: Output,
        timeout: Duration,
    ) -> Result<(), Failure> {
        let until = Instant::now() + self.ready_max;
        let context = tokio::select! {
            ready = ready(scratch, server, until, timeout) => ready?,
            () = stop.asked() => return Ok(()),
        };
        let pointer = Pointer::put(&scratch.data());
        let is_found = pointer.as_ref().is_some_and(|pointer| pointer.first);
        let ends = match (self.once, is_found) {
            (true, _) => Ends::AtOnce,
            (false, true) => Ends::Later,
            (false, false) => Ends::LaterUnfound,
        };
        if self.no_agent {
            self.tell(out, scratch, &context, None, ends)?;
            return if self.once { Ok(()) } else { wait(server, None, stop).await };
        }
        self.trust.introduce(&context).await?;
        let mut agent = start_agent(&context, scratch, &self.trust).await?;
        let enrolled = tokio::select! {
            enrolled = enrolled(&context, server, &mut agent, until) => enrolled,
            () = stop.asked() => return agent.end(END_MAX).await,
        };
        let result = match enrolled.and_then(|row| self.tell(out, scratch, &context, Some(&row), ends)) {
            Ok(()) if !self.once => wait(server, Some(&mut agent), stop).await,
            result => result,
        };
        // The agent goes first, so that its last messages find a server.
        let ended = agent.end(END_MAX).await;
        drop(pointer);
        result.and(ended)
    }
}

/// Waits until the server answers that it is ready.
async fn ready(scratch: &Scratch, server: &mut Child, until: Instant, timeout: Duration) -> Result<Context, Failure> {
    loop {
        server.check()?;
        let globals = Globals { data: Some(scratch.data()), timeout, ..Globals::default() };
        if scratch.data().join(ADMIN_TOKEN).exists()
            && let Ok(door) = connect::find(&globals)
        {
            let api = Api::new(door, timeout)?;
            if api.health(WHAT, "/readyz").await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(Context { api, out: Output::new(false) });
            }
        }
        if Instant::now() >= until {
            return Err(server.late("it is not ready"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Writes the agent's configuration as `muster agent config` would, of which the server names the certificate of its
/// authority alone, and starts it.
async fn start_agent(context: &Context, scratch: &Scratch, trust: &TrustArgs) -> Result<Child, Failure> {
    let program = agent_program()?;
    let addresses = Addresses::read(&scratch.data())
        .map_err(|error| Failure::local(WHAT, scratch.data().join(connect::ADDRESSES).display(), &error))?;
    let door = addresses.door("agents").ok_or_else(|| {
        Failure::usage("could not start the agent", "the agents' door is off").next("give --no-agent, or an address")
    })?;
    let directory = scratch.path.join("agent");
    let server = door.replace("0.0.0.0", "127.0.0.1");
    let config = config_write(context, server, trust, &directory).await?;
    let args = ["run".into(), "--config".into(), config.into_os_string()];
    Child::start("agent", &program, &args, scratch.path.join("agent.log"))
}

/// Finds the agent's program beside this one, or else where the shell would.
fn agent_program() -> Result<PathBuf, Failure> {
    const NAME: &str = "muster-agent";
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(NAME)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = beside.into_iter().chain(std::env::split_paths(&path).map(|dir| dir.join(NAME)));
    places.find(|place| place.is_file()).ok_or_else(|| {
        Failure::new(Exit::NotFound, "could not start the agent", format!("{NAME} is not beside muster, nor in PATH"))
            .next("install it, or give --no-agent")
    })
}

/// Waits until this machine is enrolled and has told its facts.
async fn enrolled(
    context: &Context,
    server: &mut Child,
    agent: &mut Child,
    until: Instant,
) -> Result<AgentSummary, Failure> {
    const WHAT: &str = "could not look whether the agent is enrolled";
    let query = AgentQuery { state: Some("enrolled".to_owned()), ..AgentQuery::default() };
    loop {
        server.check()?;
        agent.check()?;
        let answer = context.api.get(WHAT, &["agents"], &query).await?;
        let page: muster_api::Page<AgentSummary> = context.api.read(WHAT, &answer)?;
        if let Some(row) = page.items.into_iter().find(|row| row.hostname.is_some()) {
            return Ok(row);
        }
        if Instant::now() >= until {
            return Err(agent.late("it is not enrolled"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits for Ctrl-C; a server or agent that ends by itself is a failure.
async fn wait(server: &mut Child, agent: Option<&mut Child>, stop: &mut Stop) -> Result<(), Failure> {
    let agent_ends = async {
        match agent {
            Some(agent) => agent.ended().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        failure = server.ended() => Err(failure),
        failure = agent_ends => Err(failure),
        () = stop.asked() => Ok(()),
    }
}

/// When all this ends, and whether other commands find it by themselves until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    AtOnce,
    Later,
    LaterUnfound,
}

impl DevArgs {
    /// Says where everything is, and what to try.
    fn tell(
        &self,
        out: Output,
        scratch: &Scratch,
        context: &Context,
        agent: Option<&AgentSummary>,
        ends: Ends,
    ) -> Result<(), Failure> {
        let data = scratch.data();
        let addresses = Addresses::read(&data).unwrap_or_default();
        let token = data.join(ADMIN_TOKEN);
        if out.json {
            let agent = agent.map_or(Value::Null, |row| json!(row));
            let url = context.api.url().as_str().trim_end_matches('/');
            return out.json(&json!({
                "data": data, "url": url, "token_file": token, "addresses": addresses.doors, "agent": agent
            }));
        }
        let door = |name| addresses.door(name).unwrap_or("off").to_owned();
        out.line(&format!("Muster {} runs in {}\n", env!("CARGO_PKG_VERSION"), scratch.path.display()))?;
        out.pairs(&[
            ("  operators", context.api.url().to_string()),
            ("  agents", door("agents")),
            ("  admin gRPC", door("admin")),
            ("  admin token", token.display().to_string()),
            ("  logs", format!("{0}/server.log {0}/agent.log", scratch.path.display())),
        ])?;
        let id = agent.map_or("ID", |row| row.id.as_str());
        if let Some(row) = agent {
            let host = row.hostname.as_deref().unwrap_or("this machine");
            out.line(&safe(&format!("\n{host} enrolled as agent {id}.")).replace("\\n", "\n"))?;
        }
        if ends == Ends::AtOnce {
            return Ok(());
        }
        out.line("\nIn another terminal:\n")?;
        if ends == Ends::LaterUnfound {
            out.line(&format!("  export MUSTER_DATA={}", data.display()))?;
        }
        for command in ["agent list", &format!("agent show {id}")] {
            out.line(&format!("  muster {command}"))?;
        }
        out.line(&format!("  muster message send {id} --service muster --type Echo --wait hello"))?;
        if self.trust.has_investigators() {
            out.line("  muster ask timedrift              signed by gpg; with a key file: --key FILE")?;
        }
        out.note("\nCtrl-C ends it.");
        Ok(())
    }
}

/// Signals that ask this command to end.
struct Stop([Signal; 3]);

impl Stop {
    fn new() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(|error| Failure::local(WHAT, "signals", &error));
        Ok(Self([on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?]))
    }

    async fn asked(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hangup.recv() => {} }
    }
}

/// The directory that holds everything.
struct Scratch {
    path: PathBuf,
    kept: bool,
}

impl Scratch {
    fn make(dir: Option<&Path>, keep: bool) -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt as _;
        if let Some(dir) = dir {
            let failed = |error| Failure::local(WHAT, dir.display(), &error);
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
            return Ok(Self { path: std::path::absolute(dir).map_err(failed)?, kept: true });
        }
        let made = tempfile::Builder::new().prefix("muster-dev-").tempdir();
        let made = made.map_err(|error| Failure::local(WHAT, std::env::temp_dir().display(), &error))?;
        Ok(Self { path: made.keep(), kept: keep })
    }

    fn data(&self) -> PathBuf {
        self.path.join("server")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed lies in the temporary directory and goes with it.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// The file that tells other commands of this user where the data is; it goes when this command ends.
struct Pointer {
    path: PathBuf,
    /// Whether a plain command looks there: no installed server comes first, and the environment names no other.
    first: bool,
}

impl Pointer {
    /// Writes it. `None`: there is no home to write it to.
    fn put(data: &Path) -> Option<Self> {
        // One file for each that runs, so that the end of one leaves the others to be found.
        let path = connect::dev_pointer_write(&connect::dev_pointers()?, data).ok()?;
        let installed = Path::new(muster_cli::globals::DATA_DEFAULT).join(connect::ADDRESSES).exists();
        let told_otherwise = ["MUSTER_DATA", "MUSTER_URL"].iter().any(|name| std::env::var_os(name).is_some());
        Some(Self { path, first: !installed && !told_otherwise })
    }
}

impl Drop for Pointer {
    fn drop(&mut self) {
        // What cannot be removed names data that are gone, and is passed over.
        let _ = std::fs::remove_file(&self.path);
        if let Some(folder) = self.path.parent() {
            let _ = std::fs::remove_dir(folder);
        }
    }
}
