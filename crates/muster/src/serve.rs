//! `muster serve`: a server.

use crate::config::load;
use muster_cli::failure::chain;
use muster_cli::{Exit, Failure, Globals};
use muster_server::config::{Overrides, Purpose};
use std::path::PathBuf;

/// `muster serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster serve
  muster serve --config /etc/muster/muster.toml
  muster serve --data ./data --agents 0.0.0.0:4443 --operators 127.0.0.1:0
  muster serve --database 'postgresql://muster@db1,db2/muster?target_session_attrs=read-write'

Flags win over environment variables, and these over the file. Once the server is ready, the addresses of its doors
stand in DIR/addresses.json. The first start makes DIR/ca.pem, the certificate of the agents' door, and DIR/admin.token.
SIGTERM and SIGINT end it in order. SIGHUP makes it read certificates and the configuration again: the log level counts
at once, and the log names the keys that count from the next start.")]
pub(crate) struct ServeArgs {
    /// Where the configuration stands; /etc/muster/muster.toml if that exists
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// Where everything is remembered: a PostgreSQL URL, or sqlite:PATH; a file in the data directory unless told
    #[arg(long, env = "MUSTER_DATABASE", value_name = "URL", hide_env_values = true)]
    pub(crate) database: Option<String>,
    /// Where agents connect; port 0 takes a free one, `off` closes the door
    #[arg(long, env = "MUSTER_AGENTS_ADDRESS", value_name = "ADDR")]
    agents: Option<String>,
    /// Where people and scripts connect
    #[arg(long, env = "MUSTER_OPERATORS_ADDRESS", value_name = "ADDR")]
    operators: Option<String>,
    /// Where fleetspeak-admin and GRR connect
    #[arg(long, env = "MUSTER_ADMIN_ADDRESS", value_name = "ADDR")]
    admin: Option<String>,
    /// An existing Fleetspeak services file (text proto), read as it is
    #[arg(long, env = "MUSTER_FLEETSPEAK_SERVICES", value_name = "FILE")]
    fleetspeak_services: Option<PathBuf>,
}

/// The file of the configuration.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ConfigFile {
    /// The configuration; /etc/muster/muster.toml, if that exists, unless told
    #[arg(long, env = "MUSTER_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl ServeArgs {
    /// Runs the server until it is told to end.
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let flags = Overrides {
            data: globals.data.clone(),
            database: self.database,
            agents: self.agents,
            operators: self.operators,
            admin: self.admin,
            fleetspeak_services: self.fleetspeak_services,
            purpose: Purpose::Use,
        };
        let config = load(&self.file, &flags)?;
        let data = config.data.0.display().to_string();
        let read_again = || load(&self.file, &flags).map_err(|failure| failure.why);
        muster_server::serve::run(config, read_again).await.map_err(|error| {
            Failure::new(Exit::Failed, format!("the server ended: {error}"), cause(&error))
                .on(data)
                .next("see the log lines above; `muster config check` and `muster db status` look closer")
        })
    }
}

/// Returns why, without the sentence that stands above it.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    error.source().map(chain).unwrap_or_default()
}
