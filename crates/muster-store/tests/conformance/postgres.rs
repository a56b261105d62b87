//! The PostgreSQL that the suite runs on: the one that `MUSTER_TEST_POSTGRES` names, else a private cluster.
//!
//! Test processes share the private cluster, because starting one costs more than most tests. Each process holds a shared
//! lock while it lives; a watcher beside the cluster stops it when nobody has held that lock for a while.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Stops the cluster once nobody uses it, and removes it. $1: its directory; $2: where pg_ctl is; the rest: how to run
/// it as its owner.
const WATCHER: &str = r#"
dir=$1; bin=$2; shift 2
while sleep 15; do
    if flock --exclusive --nonblock "$dir/users" "$@" "$bin/pg_ctl" -D "$dir/data" -m immediate stop; then
        rm -rf "$dir"; exit
    fi
done
"#;

/// Returns the URL of a database on which tests may make schemas.
pub(crate) fn url() -> String {
    static PRIVATE: OnceLock<(String, File)> = OnceLock::new();
    std::env::var("MUSTER_TEST_POSTGRES").unwrap_or_else(|_| PRIVATE.get_or_init(private).0.clone())
}

fn private() -> (String, File) {
    let dir = std::env::temp_dir().join(format!("muster-test-postgres-{}", owner()));
    // Between taking the lock and looking, the watcher may remove what the lock was taken on.
    for _ in 0..10 {
        std::fs::create_dir_all(&dir).expect("the temporary directory can be written");
        let start = File::create(dir.join("start")).expect("the directory of the cluster can be written");
        start.lock().expect("the lock of the cluster can be taken");
        let users = File::create(dir.join("users")).expect("the directory of the cluster can be written");
        users.lock_shared().expect("the lock of the cluster can be shared");
        if !dir.join("users").exists() {
            continue;
        }
        if !dir.join("data/postmaster.pid").exists() {
            start_cluster(&dir);
        }
        let host = dir.to_str().expect("the path is text").replace('/', "%2F");
        return (format!("postgres://postgres@{host}/postgres"), users);
    }
    panic!("the cluster in {} goes away as fast as it comes", dir.display());
}

pub(crate) fn owner() -> String {
    let out = Command::new("id").arg("-u").output().expect("id runs");
    String::from_utf8(out.stdout).expect("a number").trim().to_owned()
}

pub(crate) fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("initdb").exists()).max();
    newest.expect("PostgreSQL is installed in /usr/lib/postgresql, or MUSTER_TEST_POSTGRES names a server")
}

/// PostgreSQL refuses to run as root.
pub(crate) fn as_owner() -> Vec<&'static str> {
    if owner() == "0" { vec!["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] } else { vec!["env"] }
}

pub(crate) fn run(command: &[&str]) {
    let out = Command::new(command[0]).args(&command[1..]).current_dir("/").stdin(Stdio::null()).output();
    let out = out.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn start_cluster(dir: &Path) {
    let text = |path: &Path| path.to_str().expect("the path is text").to_owned();
    let (bin, data, log) = (binaries(), text(&dir.join("data")), text(&dir.join("log")));
    let (initdb, pg_ctl) = (text(&bin.join("initdb")), text(&bin.join("pg_ctl")));
    if owner() == "0" {
        run(&["chown", "postgres", &text(dir)]);
    }
    let owner = as_owner();
    let _ = std::fs::remove_dir_all(dir.join("data"));
    run(&[&owner[..], &[&initdb, "-A", "trust", "-U", "postgres", "-N", "-D", &data]].concat());
    let settings = format!(
        "-c listen_addresses='' -c unix_socket_directories={} -c fsync=off -c full_page_writes=off \
         -c max_connections=300 -c shared_buffers=128MB -c deadlock_timeout=100ms",
        text(dir)
    );
    run(&[&owner[..], &[&pg_ctl, "-w", "-D", &data, "-l", &log, "-o", &settings, "start"]].concat());
    let watcher = Command::new("setsid")
        .args(["--fork", "sh", "-c", WATCHER, "watcher", &text(dir), &text(&bin)])
        .args(owner)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(watcher.expect("setsid runs").success(), "the watcher starts");
}
