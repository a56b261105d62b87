//! What services there are: the original's definitions, read from files.
//!
//! A file is a text proto of `ClientServiceConfig` (Fleetspeak's `textservices`) or a binary `SignedClientServiceConfig`
//! (its `services`). The signature of the latter is told to the server and not checked, as in the original: whoever can
//! write the directory could as well leave a text proto there. Not here: running them.

use muster_core::{system as words, text};
use muster_proto::wire::{self, daemonservice, socketservice, stdinservice};
use prost::Message as _;
use std::collections::BTreeMap;
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
    /// Another file defines the same service.
    #[error("{} defines service {name} again, as {} does: it does not count", path.display(), first.display())]
    Twice {
        /// Which.
        path: PathBuf,
        /// The service.
        name: String,
        /// The file that counts.
        first: PathBuf,
    },
}

/// Programs that do whatever their input or their arguments say.
const INTERPRETERS: [&str; 20] = [
    "sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "csh", "tcsh", "fish", "busybox", "env", "sudo", "xargs",
    "python", "perl", "ruby", "node", "lua", "php",
];

impl Definition {
    /// Warns of a service that hands what the server says to a shell, or another program that does whatever it is told: no
    /// signature is needed for that.
    pub(crate) fn warning(&self) -> Option<String> {
        let (kind, program) = match &self.kind {
            Kind::Stdin(config) => ("Stdin", &config.cmd),
            Kind::Daemon(config) => ("Daemon", config.argv.first()?),
            Kind::Noop | Kind::Socket(_) => return None,
        };
        let base = program.rsplit('/').next().unwrap_or(program);
        // python3.11 is python.
        let base = base.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        INTERPRETERS.contains(&base).then(|| {
            format!(
                "service {} is a {kind} service that runs {program}: whoever has the server can have this machine do \
                 anything through it, without a signature",
                self.name
            )
        })
    }
}

/// What a directory of definitions holds.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The services, in the order of their files. No two have one name.
    pub(crate) definitions: Vec<Definition>,
    /// What defines no service though it should.
    pub(crate) broken: Vec<DefinitionError>,
    /// Files that are left out, because an editor or a package manager left them behind.
    pub(crate) left_out: Vec<PathBuf>,
}

/// Returns the directories whose files are definitions, of a directory that may be Fleetspeak's configuration directory.
pub(crate) fn definition_directories(directory: &Path) -> Vec<PathBuf> {
    let inner = FLEETSPEAK_DIRECTORIES.map(|name| directory.join(name));
    let directories: Vec<PathBuf> = inner.into_iter().filter(|path| path.is_dir()).collect();
    // Otherwise the other files of such a directory are about other things.
    if directories.is_empty() { vec![directory.into()] } else { directories }
}

/// Reads every definition in a directory, sorted by file name, and those in its `services` and `textservices`, so that it
/// may be Fleetspeak's configuration directory. A bad file does not hold up the others; of two that define one service the
/// first counts.
pub(crate) fn read_definitions(directory: &Path) -> Found {
    let directories = definition_directories(directory);
    let mut found = Found::default();
    let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
    for directory in directories {
        let paths = match files_of(&directory) {
            Ok(paths) => paths,
            Err(source) => {
                found.broken.push(DefinitionError::Read { path: directory, source });
                continue;
            }
        };
        for path in paths {
            if is_leftover(&path) {
                found.left_out.push(path);
                continue;
            }
            match read_definition(&path) {
                Ok(definition) => {
                    if let Some(first) = seen.get(&definition.name).cloned() {
                        found.broken.push(DefinitionError::Twice { path, name: definition.name, first });
                        continue;
                    }
                    seen.insert(definition.name.clone(), path);
                    found.definitions.push(definition);
                }
                Err(error) => found.broken.push(error),
            }
        }
    }
    found
}

fn files_of(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory)?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    paths.retain(|path| path.is_file());
    Ok(paths)
}

/// Whether a file was left behind by an editor or a package manager: it may hold what its owner has just taken away.
fn is_leftover(path: &Path) -> bool {
    const ENDS: [&str; 17] = [
        "~",
        ".swp",
        ".swo",
        ".swx",
        ".bak",
        ".old",
        ".orig",
        ".rej",
        ".save",
        ".tmp",
        ".rpmsave",
        ".rpmnew",
        ".rpmorig",
        ".dpkg-old",
        ".dpkg-new",
        ".dpkg-dist",
        ".dpkg-tmp",
    ];
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(['.', '#']) || name.contains(".ucf-") || ENDS.iter().any(|end| name.ends_with(end))
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
    // Editors of other systems put this mark in front of text.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    if bytes.trim_ascii().is_empty() {
        return Err("it is empty".to_owned());
    }
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
        let found = read_definitions(directory.path());
        assert_eq!(names(&found), ["binary", "text"]);
        assert!(found.broken.is_empty() && found.left_out.is_empty());
    }

    fn names(found: &Found) -> Vec<&str> {
        found.definitions.iter().map(|definition| definition.name.as_str()).collect()
    }

    /// Files as people have them, of which each is named that does not count.
    #[test]
    fn case_19_broken_and_double_files_are_named_and_leftovers_are_no_services() {
        let directory = tempfile::tempdir().unwrap();
        let hello = "name: \"hello\"\nfactory: \"Daemon\"\nconfig: {\n  \
                     [type.googleapis.com/fleetspeak.daemonservice.Config]: {\n    argv: \"/bin/sleep\"\n    \
                     argv: \"1000\"\n    inactivity_timeout: <seconds: 600>\n    memory_limit: 200000000\n  }\n}\n";
        let second = hello.replace("hello", "second");
        for (name, text) in [
            ("cut.service", "name: \"cut\"\nfactory: \"Dae"),
            ("empty.service", ""),
            ("hello.service", hello),
            ("hello.service.bak", hello),
            (".hello.swp", hello),
            ("hello.service~", hello),
            ("hello.service.dpkg-old", hello),
            ("note.service", "# only a note\n"),
            ("same-name.service", hello),
            ("second.textproto", &format!("\u{feff}{}", second.replace('\n', "\r\n"))),
            ("unknown-field.service", &hello.replace("hello", "newer").replace("memory_limit", "memory_ceiling")),
        ] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let found = read_definitions(directory.path());
        assert_eq!(names(&found), ["hello", "second"]);
        assert_eq!(found.left_out.len(), 4, "{:?}", found.left_out);
        let broken: Vec<_> = found.broken.iter().map(ToString::to_string).collect();
        assert_eq!(broken.len(), 5, "{broken:?}");
        for (file, why) in [
            ("cut.service", ""),
            ("empty.service", "it is empty"),
            ("note.service", "empty"),
            ("same-name.service", "hello.service does"),
            ("unknown-field.service", "memory_ceiling"),
        ] {
            assert!(broken.iter().any(|broken| broken.contains(file) && broken.contains(why)), "{file}: {broken:?}");
        }
    }

    #[test]
    fn a_service_that_does_whatever_it_is_told_is_warned_of() {
        let stdin = |cmd: &str| Definition {
            name: "s".into(),
            kind: Kind::Stdin(stdinservice::Config { cmd: cmd.into(), ..Default::default() }),
            required_labels: vec![],
            signature: bytes::Bytes::new(),
        };
        for cmd in ["sh", "/bin/bash", "/usr/bin/python3.11", "perl5", "/usr/bin/env"] {
            assert!(stdin(cmd).warning().unwrap().contains(cmd), "{cmd}");
        }
        for cmd in ["/usr/bin/uptime", "cat", "/opt/shell-less", "/opt/sh/report"] {
            assert_eq!(stdin(cmd).warning(), None, "{cmd}");
        }
        let argv = vec!["/bin/sh".into(), "-c".into(), "exec cat".into()];
        let kind = Kind::Daemon(daemonservice::Config { argv, ..Default::default() });
        assert!(Definition { kind, ..stdin("x") }.warning().is_some());
    }
}
