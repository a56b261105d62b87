//! Modules as real processes: what they are asked and answer, and what they cannot do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod calls;
mod far;
mod isolation;
mod process;
mod recorded;

use muster_modules::Stop;
use muster_modules::confine::Limits;
use muster_modules::foreign::{Catalogue, ForeignModule, Plan};
use muster_modules::host::{Ended, Host, Patience};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn host() -> Host {
    Host { program: PathBuf::from(env!("CARGO_BIN_EXE_muster-module")), arguments: Vec::new() }
}

/// Fails without root, as which agents run: such a test would show nothing, and must not look as if it had.
fn need_root() {
    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root, "this test needs root: run it with sudo, or in a container, as the checks of the repository do");
}

fn ask(plan: &Plan, parameters: &Value, patience: Patience) -> Ended {
    host().ask(plan, parameters, patience, &Stop::default())
}

fn built_in(name: &str) -> Plan {
    Catalogue::default().plan(name, Limits::default(), None).unwrap()
}

/// A module that is a script. It lies where nobody may reach it too: below a directory that is open.
struct Script {
    directory: tempfile::TempDir,
}

impl Script {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory }
    }

    fn plan(&self, text: &str) -> Plan {
        let path = self.directory.path().join("module");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        plan_of(&path, Limits::default())
    }

    /// A file that what the script starts can hold open, so that it is found.
    fn left(&self) -> PathBuf {
        let left = self.directory.path().join("left");
        std::fs::File::create(&left).unwrap();
        left
    }
}

fn plan_of(path: &Path, limits: Limits) -> Plan {
    let module: ForeignModule = serde_json::from_value(json!({"path": path})).unwrap();
    let catalogue = Catalogue::new(BTreeMap::from([("script".to_owned(), module)])).unwrap();
    catalogue.plan("script", limits, None).unwrap()
}

fn seconds(time: u64) -> Patience {
    Patience { time: Duration::from_secs(time), ..Patience::default() }
}

/// Tells whether a process still has `path` open; gives the system a moment to take a killed one away.
fn is_open_somewhere(path: &Path) -> bool {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let opened = processes.flat_map(|process| std::fs::read_dir(process.path().join("fd")).into_iter().flatten());
        if !opened.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|opened| opened == path)) {
            return false;
        }
        std::thread::yield_now();
    }
    true
}
