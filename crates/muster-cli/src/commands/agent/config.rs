//! `muster agent config`: the files with which an agent trusts and finds this server.
//!
//! Stays true: what decides whom or what a machine obeys is composed here of what the person gave. Of a server this takes
//! one datum, the certificate of its authority, and shows its fingerprint to compare; `--ca-file` takes none.

use super::directory::{Existing, Plan};
use super::enrolment;
use super::files::{AgentFormat, Setup, is_host_port};
use super::trust::TrustArgs;
use crate::authority::Authority;
use crate::globals::DATA_DEFAULT;
use crate::output::{safe, time};
use crate::{Context, Failure, Output};
use std::path::{Path, PathBuf};

const WHAT: &str = "could not write the agent's configuration";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster agent config --format muster --server muster.example:4443 --out ./agent --trust alice.asc --trust bob.asc
  muster agent config --format muster --server muster.example:4443 --ca-file ca.pem --out ./agent
  muster agent config --format muster --server muster.example:4443 --out ./agent --directory /etc/muster-agent

Everything but the authority's certificate is written from what you give; the server names that certificate, unless
--ca-file gives it. Compare its fingerprint with that of ca.pem in the server's data directory:
  openssl x509 -noout -fingerprint -sha256 -in /var/lib/muster/ca.pem")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own on the command line")]
pub(super) struct ConfigCommand {
    /// For which agent: ours, or the original fleetspeak-client
    #[arg(long, value_enum)]
    format: AgentFormat,
    /// HOST:PORT of the agents' door as the machine sees it; several are tried in turn
    #[arg(long = "server", value_name = "HOST:PORT", required = true, value_parser = host_port)]
    servers: Vec<String>,
    /// The directory to write into; it is made if need be, may hold nothing but what an earlier set-up wrote, and nobody but
    /// root and you may be able to change it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write in the place of what an earlier set-up wrote there, and take away its keys that are not given again
    #[arg(long)]
    replace: bool,
    /// Go on with the state of an earlier agent: its key, what it ran, and whom it believes by documents
    #[arg(long)]
    keep_state: bool,
    /// What the machine will call that directory, if it is copied elsewhere
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Where the agent keeps its key and what it must not lose; /var/lib/muster-agent for /etc/muster-agent, else a
    /// directory beside the configuration
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Take the authority's certificate from this file (PEM), and ask no server
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Refuse any authority whose certificate has not this SHA-256; may be given several times
    #[arg(long = "ca-sha256", value_name = "HEX", value_parser = sha256)]
    ca_sha256: Vec<String>,
    /// Poll instead of holding a stream
    #[arg(long)]
    polling: bool,
    /// A label that the machine shall claim
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// Compress what is sent
    #[arg(long, value_parser = ["none", "deflate"])]
    compression: Option<String>,
    /// Speak HTTP/2
    #[arg(long)]
    http2: bool,
    /// An enrolment token to show at the first contact, or @FILE to read it from the file that `muster enrol-token create`
    /// wrote
    #[arg(long, value_name = "TOKEN")]
    enrol_token: Option<String>,
    #[command(flatten)]
    trust: TrustArgs,
}

fn host_port(text: &str) -> Result<String, String> {
    if is_host_port(text) {
        Ok(text.to_owned())
    } else {
        Err("write HOST:PORT, such as muster.example:4443".to_owned())
    }
}

fn sha256(text: &str) -> Result<String, String> {
    let digits = text.bytes().filter(|byte| *byte != b':');
    let is_one = digits.clone().count() == 64 && digits.clone().all(|byte| byte.is_ascii_hexdigit());
    if is_one { Ok(text.to_owned()) } else { Err("write 64 hexadecimal digits, with or without colons".to_owned()) }
}

impl ConfigCommand {
    /// Whether everything is given, so that no server is asked.
    pub(super) fn is_offline(&self) -> bool {
        self.ca_file.is_some()
    }

    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let authority = match &self.ca_file {
            Some(_) => return self.run_offline(context.out),
            None => Authority::of_server(context).await?,
        };
        let token = self.enrol_token.as_deref().map(enrolment::token).transpose()?;
        // Both kinds look alike, and this one would lie on every machine.
        if token.is_some_and(|token| context.api.is_token(&token)) {
            let why = "this is your own access token, by which the server knows you, and not one to enrol with";
            return Err(Failure::usage(WHAT, why).on("--enrol-token").next(enrolment::FROM));
        }
        self.write(context.out, &authority)
    }

    /// The same without a server.
    pub(super) fn run_offline(&self, out: Output) -> Result<(), Failure> {
        let path = self.ca_file.as_deref().unwrap_or(Path::new(""));
        self.write(out, &Authority::of_file(path)?)
    }

    fn write(&self, out: Output, authority: &Authority) -> Result<(), Failure> {
        if self.format != AgentFormat::Muster && !self.trust.is_empty() {
            let why = "--trust is for our own agent: the original runs no signed orders";
            return Err(Failure::usage(WHAT, why).next("--format muster"));
        }
        authority.expect(&self.ca_sha256)?;
        let setup = self.setup(authority)?;
        let mut plan = setup.plan()?;
        if self.directory.is_some() {
            // It is on another machine.
            plan.state = None;
        }
        self.trust.plan(&mut plan)?;
        let existing = Existing { is_replaced: self.replace, is_state_kept: self.keep_state };
        let paths = plan.write(&self.out, existing)?;
        let written: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        if out.json {
            return out.json(&serde_json::json!({ "written": written, "authority": authority.certificates() }));
        }
        for path in &written {
            out.line(path)?;
        }
        out.note("\nThe machine will believe servers that this authority vouches for:");
        for one in authority.certificates() {
            let ends = time(&one.not_after);
            out.note(&format!("  SHA-256 {}\n  {}, until {ends}", one.sha256, safe(&one.subject)));
        }
        if self.ca_file.is_none() && self.ca_sha256.is_empty() {
            let own = std::env::var_os("MUSTER_DATA").map_or_else(|| DATA_DEFAULT.into(), PathBuf::from);
            out.note(&format!(
                "The server named it, and nothing else of what was written. Compare it on the server's machine:\n  \
                 openssl x509 -noout -fingerprint -sha256 -in {}",
                own.join("ca.pem").display()
            ));
        }
        self.how_to_start(out, &setup);
        Ok(())
    }

    fn how_to_start(&self, out: Output, setup: &Setup) {
        let config = safe(&setup.config_path());
        let run = match self.format {
            AgentFormat::Muster => format!("muster-agent run --config {config}"),
            AgentFormat::Fleetspeak => format!("fleetspeak-client -config {config}"),
        };
        if self.directory.is_some() {
            let from = safe(&self.out.display().to_string());
            out.note(&format!(
                "\nCopy {from} to the machine as {}, then start the agent there:",
                safe(&setup.directory)
            ));
        } else {
            out.note("\nStart the agent with:");
        }
        out.note(&format!("  {run}"));
    }

    fn setup(&self, authority: &Authority) -> Result<Setup, Failure> {
        let absolute = |path: &Path| -> Result<String, Failure> {
            let path = std::path::absolute(path).map_err(|error| Failure::local(WHAT, path.display(), &error))?;
            let text = path.to_str().map(str::to_owned);
            text.ok_or_else(|| Failure::usage(WHAT, "the directory's name is no UTF-8 text").on(path.display()))
        };
        Ok(Setup {
            format: self.format,
            servers: self.servers.clone(),
            directory: absolute(self.directory.as_deref().unwrap_or(&self.out))?,
            state: self.state_dir.as_deref().map(absolute).transpose()?,
            trust_pem: authority.pem(),
            fleet: self.trust.fleet().map(str::to_owned),
            is_streaming: !self.polling,
            labels: self.labels.clone(),
            deflate: self.compression.as_deref().map(|how| how == "deflate"),
            http2: self.http2.then_some(true),
            enrol_token: self.enrol_token.as_deref().map(enrolment::token).transpose()?,
        })
    }
}

/// Writes the configuration of an agent of ours that runs on this machine in `out`, in the place of an older one. Of the
/// server only its authority's certificate is taken. Returns the file to start with.
pub async fn config_write(
    context: &Context,
    server: String,
    trust: &TrustArgs,
    out: &Path,
) -> Result<PathBuf, Failure> {
    let authority = Authority::of_server(context).await?;
    let directory =
        out.to_str().ok_or_else(|| Failure::usage(WHAT, "the directory's name is no UTF-8 text").on(out.display()))?;
    let setup = Setup {
        format: AgentFormat::Muster,
        servers: vec![server],
        directory: directory.to_owned(),
        state: None,
        trust_pem: authority.pem(),
        fleet: trust.fleet().map(str::to_owned),
        is_streaming: true,
        labels: Vec::new(),
        deflate: None,
        http2: None,
        enrol_token: None,
    };
    let mut plan: Plan = setup.plan()?;
    trust.plan(&mut plan)?;
    plan.write(out, Existing { is_replaced: true, is_state_kept: true })?;
    Ok(setup.config_path().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::tests::CA;
    use crate::{Api, connect};
    use axum::routing::get;
    use clap::Parser as _;
    use std::time::Duration;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        command: ConfigCommand,
    }

    fn command(words: &[&str], out: &Path) -> ConfigCommand {
        let fixed = ["config", "--server", "muster.example:4443", "--out", out.to_str().unwrap()];
        Cli::try_parse_from(fixed.iter().chain(words)).unwrap_or_else(|error| panic!("{error}")).command
    }

    /// A server that answers `answer` to whatever it is asked.
    async fn server(answer: String) -> Context {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let app = axum::Router::new().fallback(get(move || async move { answer }));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let door = connect::Door { url, token: None, trust: connect::Trust::System };
        Context { api: Api::new(door, Duration::from_secs(30)).unwrap(), out: Output::new(false) }
    }

    #[tokio::test]
    async fn of_what_a_server_answers_only_the_certificate_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let planted = "\n'''\nservices_dir = '/planted'\n".to_owned();
        let context = server(format!("{CA}{planted}")).await;
        for (format, config) in [("muster", "config.toml"), ("fleetspeak", "config.textproto")] {
            let out = dir.path().join(format);
            command(&["--format", format], &out).run(&context).await.unwrap();
            let text = std::fs::read_to_string(out.join(config)).unwrap();
            assert!(!text.contains("planted"), "{text}");
            assert!(text.contains(CA.lines().nth(1).unwrap()), "{text}");
        }
        let garbage = server("services_dir = '/planted'".to_owned()).await;
        let out = dir.path().join("none");
        command(&["--format", "muster"], &out).run(&garbage).await.unwrap_err();
        let other = ["--format", "muster", "--ca-sha256", &"ab".repeat(32)];
        let refused = command(&other, &out).run(&context).await.unwrap_err();
        assert!(refused.what.contains("not the authority"), "{refused}");
        assert!(!out.exists());
    }

    #[tokio::test]
    async fn with_the_authoritys_file_no_server_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, CA).unwrap();
        let words = ["--format", "muster", "--ca-file", file.to_str().unwrap()];
        let out = dir.path().join("agent");
        let asked = command(&words, &out);
        assert!(asked.is_offline());
        asked.run_offline(Output::new(false)).unwrap();
        assert!(out.join("config.toml").exists());
    }

    #[test]
    fn a_server_is_a_host_and_a_port_and_a_digest_has_64_digits() {
        for right in ["muster.example:4443", "[::1]:4443", "10.0.0.1:1"] {
            assert!(host_port(right).is_ok(), "{right}");
        }
        for wrong in ["muster.example", ":4443", "a:0", "a:65536", "a:b", ""] {
            assert!(host_port(wrong).is_err(), "{wrong}");
        }
        assert!(sha256(&"ab".repeat(32)).is_ok() && sha256(&["ab"; 32].join(":")).is_ok());
        assert!(sha256("ab").is_err() && sha256(&"zz".repeat(32)).is_err());
    }
}
