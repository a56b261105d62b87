//! What most tests begin with.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_harness::peers::Peers;
use muster_harness::process::Process;
use muster_harness::process::Program;
use muster_harness::server::{Server, Setup};
use muster_harness::wait;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// No test waits longer for anything that shall happen.
pub(crate) const CEILING: Duration = Duration::from_secs(30);

/// A server with everything in a directory that goes with the test.
pub(crate) struct Scene {
    pub(crate) server: Server,
    pub(crate) directory: TempDir,
}

impl Scene {
    /// A server on the embedded database, with services that every test may use: `sink` discards, `out` writes what
    /// it takes to a directory.
    pub(crate) async fn new() -> Self {
        Self::with("").await
    }

    /// The same, with more services in the original's text form.
    pub(crate) async fn with(services: &str) -> Self {
        Self::configured("", services).await
    }

    /// The same, with more in its configuration.
    pub(crate) async fn configured(more: &str, services: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let spool = directory.path().join("out");
        std::fs::create_dir(&spool).unwrap();
        let config =
            format!("[[services]]\nname = \"out\"\nkind = \"spool\"\ndirectory = \"{}\"\n{more}", spool.display());
        let services = format!("services {{ name: \"sink\" factory: \"NOOP\" }}\n{services}");
        let setup = Setup::new(directory.path().join("server")).config(config).services(services);
        Self { server: setup.start().await.unwrap(), directory }
    }

    /// A path in the test's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Waits for a message in the directory of service `out` whose line `wanted` accepts, and returns the line.
    pub(crate) async fn written(&self, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let spool = self.path("out");
        let found = wait::until("a line of the spool service", CEILING, async || {
            Ok(lines(&spool).into_iter().find(|line| wanted(line)))
        });
        match found.await {
            Ok(line) => line,
            Err(error) => {
                let messages: Vec<muster_api::messages::MessageRow> = self.server.rest.all("/messages?").await.unwrap();
                panic!("{error:#}; the server has {messages:#?}, the service wrote {:#?}", lines(&spool))
            }
        }
    }
}

/// Reads every JSON line in the files of a directory.
pub(crate) fn lines(directory: &Path) -> Vec<serde_json::Value> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        // The last line may be half written.
        found.extend(text.lines().filter_map(|line| serde_json::from_str(line).ok()));
    }
    found
}

/// Returns whether any text inside of `value`, taken as it is or as base64, contains `part`.
pub(crate) fn mentions(value: &serde_json::Value, part: &str) -> bool {
    match value {
        serde_json::Value::String(text) => {
            text.contains(part)
                || STANDARD.decode(text).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(part))
        }
        serde_json::Value::Array(items) => items.iter().any(|item| mentions(item, part)),
        serde_json::Value::Object(fields) => fields.values().any(|field| mentions(field, part)),
        _ => false,
    }
}

/// Writes a Python script and starts it with the original's connectors at hand.
pub(crate) fn python(directory: &Path, name: &str, script: &str, args: &[&str]) -> Process {
    let path = directory.join(format!("{name}.py"));
    std::fs::write(&path, script).unwrap();
    let program = Program::new(name, Peers::find().unwrap().python(), directory);
    program.env("PYTHONUNBUFFERED", "1").args([path]).args(args).start().unwrap()
}
