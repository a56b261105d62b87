//! What services there are: the original's definitions, read from files.
//!
//! A file is a text proto of `ClientServiceConfig` (Fleetspeak's `textservices`) or a binary `SignedClientServiceConfig`
//! (its `services`). The signature of the latter is told to the server and not checked, as in the original: whoever can
//! write the directory could as well leave a text proto there. Not here: running them.

use muster_core::{system as words, text};
use muster_proto::wire::{self, daemonservice, socketservice, stdinservice};
use prost::Message as _;
use std::path::{Path, PathBuf};

/// Directories of a Fleetspeak configuration directory that hold definitions.
const FLEETSPEAK_DIRECTORIES: [&str; 2] = ["services", "textservices"];
/// Bytes of the largest definition.
const DEFINITION_BYTES_MAX: u64 = 1024 * 1024;

/// What a service is made of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// Takes everything and does nothing.
    Noop,
    /// Runs a command for each message.
    Stdin(stdinservice::Config),
    /// Keeps a process that talks over two pipes.
    Daemon(daemonservice::Config),
    /// Listens on a Unix socket.
    Socket(socketservice::Config),
}

/// A service as it is defined.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Definition {
    /// Its name.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: Kind,
    /// Labels this machine must claim for it to run.
    pub(crate) required_labels: Vec<String>,
    /// What signs it; empty for a text proto.
    pub(crate) signature: bytes::Bytes,
}

/// Why a file defines no service.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DefinitionError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It does not say what it must.
    #[error("{} defines no service: {reason}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Reads every definition in a directory, sorted by file name, and those in its `services` and `textservices`, so that it
/// may be Fleetspeak's configuration directory. A bad file does not hold up the others.
pub(crate) fn read_definitions(directory: &Path) -> Vec<Result<Definition, DefinitionError>> {
    let mut paths = match files_of(directory) {
        Ok(paths) => paths,
        Err(source) => return vec![Err(DefinitionError::Read { path: directory.into(), source })],
    };
    let inner: Vec<PathBuf> = FLEETSPEAK_DIRECTORIES.iter().map(|name| directory.join(name)).collect();
    let inner: Vec<PathBuf> = inner.into_iter().filter(|path| path.is_dir()).collect();
    if !inner.is_empty() {
        // The other files of such a directory are about other things.
        paths.clear();
    }
    let mut definitions = Vec::new();
    for directory in inner {
        match files_of(&directory) {
            Ok(more) => paths.extend(more),
            Err(source) => definitions.push(Err(DefinitionError::Read { path: directory, source })),
        }
    }
    definitions.extend(paths.iter().map(|path| read_definition(path)));
    definitions
}

fn files_of(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory)?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    paths.retain(|path| path.is_file());
    Ok(paths)
}

fn read_definition(path: &Path) -> Result<Definition, DefinitionError> {
    let unreadable = |source| DefinitionError::Read { path: path.into(), source };
    let content = |reason| DefinitionError::Content { path: path.into(), reason };
    if std::fs::metadata(path).map_err(unreadable)?.len() > DEFINITION_BYTES_MAX {
        return Err(content(format!("it is larger than {DEFINITION_BYTES_MAX} bytes")));
    }
    parse_definition(&std::fs::read(path).map_err(unreadable)?).map_err(content)
}

/// Reads one definition. A binary one has control characters, such as the mark before its factory; text has none but
/// white space.
fn parse_definition(bytes: &[u8]) -> Result<Definition, String> {
    let is_text = |text: &&str| text.chars().all(|c| c.is_whitespace() || !c.is_control());
    let Some(text) = std::str::from_utf8(bytes).ok().filter(is_text) else {
        let signed = wire::SignedClientServiceConfig::decode(bytes)
            .map_err(|error| format!("it is neither text nor a SignedClientServiceConfig: {error}"))?;
        let config = wire::ClientServiceConfig::decode(signed.service_config)
            .map_err(|error| format!("what is signed is no ClientServiceConfig: {error}"))?;
        return definition_of(config, signed.signature);
    };
    let config =
        muster_proto::text::parse("fleetspeak.ClientServiceConfig", text).map_err(|error| error.to_string())?;
    definition_of(config, bytes::Bytes::new())
}

fn definition_of(config: wire::ClientServiceConfig, signature: bytes::Bytes) -> Result<Definition, String> {
    text::name("service", &config.name).map_err(|error| error.to_string())?;
    if [words::SERVICE, words::MUSTER, words::ACTIONS, words::CLIENT].contains(&config.name.as_str()) {
        return Err(format!("the name {:?} is taken by the agent itself", config.name));
    }
    let body = config.config.map(|any| any.value).unwrap_or_default();
    let unreadable = |error: prost::DecodeError| format!("its config is not that of a {}: {error}", config.factory);
    let kind = match config.factory.as_str() {
        "NOOP" => Kind::Noop,
        "Stdin" => Kind::Stdin(stdinservice::Config::decode(&body[..]).map_err(unreadable)?),
        "Daemon" => Kind::Daemon(daemonservice::Config::decode(&body[..]).map_err(unreadable)?),
        "Socket" => Kind::Socket(socketservice::Config::decode(&body[..]).map_err(unreadable)?),
        other => return Err(format!("factory {other:?} is none of NOOP, Stdin, Daemon, Socket")),
    };
    match &kind {
        Kind::Stdin(config) if config.cmd.is_empty() => return Err("cmd is empty".into()),
        Kind::Daemon(config) if config.argv.is_empty() => return Err("argv is empty".into()),
        Kind::Socket(config) if config.api_proxy_path.is_empty() => return Err("api_proxy_path is empty".into()),
        _ => {}
    }
    let required_labels = config.required_labels.into_iter().map(|label| label.label).collect();
    Ok(Definition { name: config.name, kind, required_labels, signature })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_originals_definitions_are_read() {
        let daemon = r#"name: "FRR" factory: "Daemon"
            config { [type.googleapis.com/fleetspeak.daemonservice.Config] { argv: "/bin/x" argv: "-v" lazy_start: true } }"#;
        let definition = parse_definition(daemon.as_bytes()).unwrap();
        let Kind::Daemon(config) = definition.kind else { panic!("{definition:?}") };
        assert_eq!((config.argv.len(), config.lazy_start), (2, true));
        let stdin = "name: \"sh\" factory: \"Stdin\" required_labels { service_name: \"client\" label: \"linux\" } \
                     config { [type.googleapis.com/fleetspeak.stdinservice.Config] { cmd: \"sh\" } }";
        assert_eq!(parse_definition(stdin.as_bytes()).unwrap().required_labels, ["linux"]);
        for (bad, why) in [
            ("name: \"system\" factory: \"NOOP\"", "taken"),
            ("name: \"x\" factory: \"Magic\"", "Magic"),
            ("name: \"x\" factory: \"Stdin\"", "cmd"),
            ("factory: \"NOOP\"", "empty"),
            ("nonsense: 1", "nonsense"),
        ] {
            let reason = parse_definition(bad.as_bytes()).unwrap_err();
            assert!(reason.contains(why), "{bad}: {reason}");
        }
    }

    fn signed(name: &str) -> Vec<u8> {
        let config = wire::ClientServiceConfig { name: name.into(), factory: "NOOP".into(), ..Default::default() };
        let (service_config, signature) = (config.encode_to_vec().into(), b"any signature".to_vec().into());
        wire::SignedClientServiceConfig { service_config, signature }.encode_to_vec()
    }

    #[test]
    fn signed_binary_definitions_are_read_with_their_signature() {
        let definition = parse_definition(&signed("binary")).unwrap();
        assert_eq!((definition.name.as_str(), definition.kind), ("binary", Kind::Noop));
        assert_eq!(definition.signature, b"any signature"[..]);
        // Cut off anywhere, it is an error and never another service.
        let whole = signed("binary");
        for cut in 1..whole.len() - b"any signature".len() - 2 {
            assert!(parse_definition(&whole[..cut]).is_err(), "cut at {cut}");
        }
        assert!(parse_definition(&signed("system")).unwrap_err().contains("taken"));
    }

    #[test]
    fn the_originals_configuration_directory_is_read_without_its_other_files() {
        let directory = tempfile::tempdir().unwrap();
        for inner in FLEETSPEAK_DIRECTORIES {
            std::fs::create_dir(directory.path().join(inner)).unwrap();
        }
        std::fs::write(directory.path().join("communicator.txt"), "max_poll_delay_seconds: 2").unwrap();
        std::fs::write(directory.path().join("services/b"), signed("binary")).unwrap();
        std::fs::write(directory.path().join("textservices/a"), "name: \"text\" factory: \"NOOP\"").unwrap();
        let read: Vec<_> = read_definitions(directory.path()).into_iter().map(|d| d.unwrap().name).collect();
        assert_eq!(read, ["binary", "text"]);
    }
}
