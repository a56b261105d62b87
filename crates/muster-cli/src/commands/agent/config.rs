//! `muster agent config`: the files with which an agent trusts and finds this server.
//!
//! Stays true: nothing is written outside the directory, whatever names the server sent; files are readable by their
//! owner only, because some hold secrets.

use super::trust::TrustArgs;
use crate::{Context, Failure};
use muster_api::server::{AgentConfigRequest, ConfigFile};
use reqwest::Method;
use std::path::{Component, Path, PathBuf};

const WHAT: &str = "could not write the agent's configuration";

#[derive(Debug, clap::Args)]
pub(super) struct ConfigCommand {
    /// For which agent: ours, or the original fleetspeak-client
    #[arg(long, value_parser = ["muster", "fleetspeak"])]
    format: String,
    /// HOST:PORT of the agents' door as the machine sees it; several are tried in turn
    #[arg(long = "server", value_name = "HOST:PORT", required = true, value_parser = host_port)]
    servers: Vec<String>,
    /// The directory to write into; it is made if need be
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What the machine will call that directory, if it is copied elsewhere
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
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
    /// An enrolment token to show at the first contact, or @FILE to read it from a file
    #[arg(long, value_name = "TOKEN")]
    enrol_token: Option<String>,
    #[command(flatten)]
    trust: TrustArgs,
}

fn host_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(text.to_owned()),
        _ => Err("write HOST:PORT, such as muster.example:4443".to_owned()),
    }
}

impl ConfigCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        if self.format != "muster" && !self.trust.is_empty() {
            let why = "--trust is for our own agent: the original runs no signed orders";
            return Err(Failure::usage(WHAT, why).next("--format muster"));
        }
        let request = self.request()?;
        let mut paths = config_write(context, &request, &self.out).await?;
        paths.extend(self.trust.write(&self.out)?);
        let written: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        if context.out.json {
            return context.out.json(&serde_json::json!({ "written": written }));
        }
        for path in &written {
            context.out.line(path)?;
        }
        let run = match self.format.as_str() {
            "muster" => "muster-agent run --config",
            _ => "fleetspeak-client -config",
        };
        // The server names the file to start with first.
        if let Some(config) = written.first() {
            context.out.note(&format!("Start the agent with: {run} {config}"));
        }
        Ok(())
    }

    fn request(&self) -> Result<AgentConfigRequest, Failure> {
        let directory = match &self.directory {
            Some(directory) => directory.clone(),
            None => std::path::absolute(&self.out).map_err(|error| Failure::local(WHAT, self.out.display(), &error))?,
        };
        let directory = directory
            .to_str()
            .ok_or_else(|| Failure::usage(WHAT, "the directory's name is no UTF-8 text").on(directory.display()))?;
        let enrol_token = match self.enrol_token.as_deref() {
            Some(text) => match text.strip_prefix('@') {
                Some(path) => {
                    let text = std::fs::read_to_string(path).map_err(|error| Failure::local(WHAT, path, &error))?;
                    Some(text.trim().to_owned())
                }
                None => Some(text.to_owned()),
            },
            None => None,
        };
        Ok(AgentConfigRequest {
            format: self.format.clone(),
            servers: self.servers.clone(),
            directory: directory.to_owned(),
            streaming: Some(!self.polling),
            labels: self.labels.clone(),
            compression: self.compression.clone(),
            http2: self.http2.then_some(true),
            enrol_token,
        })
    }
}

/// Asks the server for an agent's configuration and writes it into `out`. Returns the paths of what was written.
pub async fn config_write(
    context: &Context,
    request: &AgentConfigRequest,
    out: &Path,
) -> Result<Vec<PathBuf>, Failure> {
    let answer = context.api.send(WHAT, Method::POST, &["agent-configs"], request).await?;
    let files: Vec<ConfigFile> = context.api.read(WHAT, &answer)?;
    files.iter().map(|file| write(out, file)).collect()
}

/// Writes one file below `out`, or makes a directory there. Returns its path.
fn write(out: &Path, file: &ConfigFile) -> Result<PathBuf, Failure> {
    let name = Path::new(&file.name);
    let inside = name.components().all(|part| matches!(part, Component::Normal(_)));
    if !inside || name.as_os_str().is_empty() {
        let why = format!("the server sent a file name that leads elsewhere: {:?}", file.name);
        return Err(Failure::new(crate::Exit::Failed, WHAT, why).next("is it really your server?"));
    }
    let path = out.join(name);
    let failed = |error| Failure::local(WHAT, path.display(), &error);
    if file.name.ends_with('/') {
        make_dir(&path).map_err(failed)?;
        return Ok(path);
    }
    make_dir(path.parent().unwrap_or(out)).map_err(failed)?;
    write_private(&path, file.text.as_bytes()).map_err(failed)?;
    Ok(path)
}

pub(super) fn make_dir(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Puts a file in the place of an older one in one step, so that a reader sees the old one or the new one whole.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn file(name: &str, text: &str) -> ConfigFile {
        ConfigFile { name: name.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn files_and_directories_are_made_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/b");
        write(&out, &file("config/textservices/", "")).unwrap();
        let path = write(&out, &file("agent.toml", "one")).unwrap();
        write(&out, &file("agent.toml", "two")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&out), mode(&out.join("config/textservices"))), (0o600, 0o700, 0o700));
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 2);
    }

    #[test]
    fn a_name_that_leads_elsewhere_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        for name in ["../x", "/etc/x", "a/../../x", "", ".", "/"] {
            assert!(write(&out, &file(name, "x")).is_err(), "{name}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_server_is_a_host_and_a_port() {
        for right in ["muster.example:4443", "[::1]:4443", "10.0.0.1:1"] {
            assert!(host_port(right).is_ok(), "{right}");
        }
        for wrong in ["muster.example", ":4443", "a:0", "a:65536", "a:b", ""] {
            assert!(host_port(wrong).is_err(), "{wrong}");
        }
    }
}
