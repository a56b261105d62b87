//! A real server in a directory of its own, and the program run against it.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_muster");
/// How long a server may take to start or end.
pub(crate) const CEILING: Duration = Duration::from_secs(30);

/// The program without whatever the environment says.
pub(crate) fn muster() -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MUSTER_")) {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Looks again and again until there is something.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < CEILING, "{what} did not come");
        std::thread::yield_now();
    }
}

/// A server in a directory of its own, ended with the test.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) directory: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("muster.toml");
        std::fs::write(&config, "[[services]]\nname = \"Sink\"\nkind = \"noop\"\n").unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let mut process = muster()
            .args(["serve", "--agents", "127.0.0.1:0", "--operators", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args([
                "--config".as_ref(),
                config.as_os_str(),
                "--data".as_ref(),
                directory.path().join("data").as_os_str(),
            ])
            .stderr(log)
            .spawn()
            .unwrap();
        let addresses = directory.path().join("data/addresses.json");
        wait_for("the server", || {
            if let Some(status) = process.try_wait().unwrap() {
                let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
                panic!("the server ended with {status}: {log}");
            }
            addresses.exists().then_some(())
        });
        Self { process, directory }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = muster();
        command.env("XDG_CONFIG_HOME", self.directory.path().join("config"));
        command.arg("--data").arg(self.data()).args(args);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must work, and returns what it wrote.
    pub(crate) fn text(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// As [`Server::text`], with `--json`.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let mut with = vec!["--json"];
        with.extend(args);
        serde_json::from_str(&self.text(&with)).unwrap()
    }

    /// Runs a command that must fail, and returns its exit code and what it said.
    pub(crate) fn fails(&self, args: &[&str]) -> (i32, String) {
        failed(&self.run(args))
    }
}

pub(crate) fn failed(output: &Output) -> (i32, String) {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    (output.status.code().unwrap(), said)
}

impl Drop for Server {
    fn drop(&mut self) {
        // A server that has ended already is no trouble here.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn in_directory(path: &Path, name: &str, bytes: &[u8]) -> String {
    let path = path.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

/// A key that was made for tests, secret or public.
pub(crate) fn key(name: &str) -> String {
    format!("{}/../muster-engine/src/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}
