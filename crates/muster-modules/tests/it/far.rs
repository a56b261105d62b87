//! File systems that a search stays out of, and one that hangs: real ones, in a mount namespace of the module's own process.
//!
//! The far one is a file system in user space that nobody serves: whoever touches it waits for ever, as for a server that is
//! away. Mounting needs root, as agents have it.

use crate::{built_in, need_root};
use muster_modules::host::{Ended, Host, Patience};
use muster_modules::{ModuleResult, Stop};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Mounts a far file system at `far`, and the kernel's list of processes at `kernel`, and becomes the module.
const SCRIPT: &str = r#"exec 9<>/dev/fuse
mount -i -t fuse.sshfs -o fd=9,rootmode=40000,user_id=0,group_id=0,allow_other kim@server:/ "$1/far" &&
mount -t proc proc "$1/kernel" && mount -t tmpfs "some #device" "$1/with blank" && shift 1 && exec "$@""#;

/// A directory with files of its own and places for mounts.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["far", "kernel", "with blank", "near"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("near/uptime"), "treasure\n").unwrap();
        let key = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/keys/ed25519.pub");
        std::fs::copy(key, dir.path().join("near/key.pub")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("far/away"), dir.path().join("near/link")).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Asks a module, in a process for which all is mounted.
    fn ask(&self, module: &str, parameters: &Value, time: Duration) -> Ended {
        let program = env!("CARGO_BIN_EXE_muster-module");
        let before = ["-m", "--propagation", "private", "sh", "-c", SCRIPT, "sh"].map(Into::into);
        let arguments = before.into_iter().chain([self.0.path().into(), program.into()]).collect();
        let host = Host { program: "unshare".into(), arguments };
        host.ask(&built_in(module), parameters, Patience { time, ..Patience::default() }, &Stop::default())
    }

    fn answer(&self, module: &str, parameters: &Value) -> ModuleResult {
        let ended = self.ask(module, parameters, Duration::from_secs(60));
        let Ended::Answered(result) = ended else { panic!("{ended:?}") };
        result
    }
}

fn search(path: &Path, name: &str, remotefs: bool) -> Value {
    let options = json!({"matchall": true, "remotefs": remotefs});
    json!({"searches": {"s": {"paths": [path], "names": [name], "options": options}}})
}

fn files(result: &ModuleResult) -> Vec<&str> {
    let found = result.elements["s"].as_array().unwrap().iter();
    found.filter_map(|file| file["file"].as_str()).filter(|file| !file.is_empty()).collect()
}

#[test]
fn case_08_far_file_systems_are_left_out_and_named() {
    need_root();
    let tree = Tree::new();
    let (far, near) = (tree.path("far"), tree.path("near/uptime"));
    let named = format!("{} (fuse.sshfs)", far.display());
    let result = tree.answer("file", &search(&tree.path(""), "^(uptime|link)$", false));
    assert_eq!(files(&result), [near.to_str().unwrap()], "{result:#?}");
    assert!(result.success && result.statistics["leftout"].as_array().unwrap().contains(&json!(named)), "{result:#?}");
    assert!(result.errors().len() == 1 && result.errors()[0].starts_with(&named), "{result:#?}");
    // A link that leads there is not followed.
    let result = tree.answer("file", &search(&tree.path("near"), "link", false));
    assert!(result.success && !result.foundanything, "{result:#?}");
    assert!(result.errors()[0].contains("near/link leads"), "{result:#?}");
    // A path through a link to a directory leads to the same mounts.
    let (other, root) = (tempfile::tempdir().unwrap(), tree.0.path());
    std::os::unix::fs::symlink(root.parent().unwrap(), other.path().join("l")).unwrap();
    let through = other.path().join("l").join(root.file_name().unwrap());
    let result = tree.answer("file", &search(&through, "^uptime$", false));
    assert!(files(&result).len() == 1 && result.errors()[0].starts_with(&named), "{result:#?}");
    let result = tree.answer("sshkey", &json!({"paths": [tree.path("")]}));
    assert_eq!(result.elements["keys"].as_array().unwrap().len(), 1, "{result:#?}");
    assert!(result.success && result.errors().iter().any(|error| error.starts_with(&named)), "{result:#?}");
}

#[test]
fn case_08_a_question_about_nothing_but_far_files_is_no_success() {
    need_root();
    let tree = Tree::new();
    for path in ["far", "far/people/kim"] {
        let result = tree.answer("file", &search(&tree.path(path), ".", false));
        assert!(!result.success && result.errors()[0].contains("remotefs looks into it"), "{result:#?}");
        let result = tree.answer("sshkey", &json!({"paths": [tree.path(path)]}));
        assert!(!result.success && result.errors()[0].contains("remotefs looks into it"), "{result:#?}");
    }
}

#[test]
fn case_08_a_walk_that_hangs_ends_and_keeps_what_it_found() {
    need_root();
    let tree = Tree::new();
    // What is far comes last, whether it is met on the way or asked for first.
    let paths = [tree.path(""), tree.path("far")];
    let mut asked = search(&paths[0], "^uptime$", true);
    asked["searches"]["s"]["paths"] = json!([tree.path("far/x"), paths[0]]);
    let begun = Instant::now();
    let Ended::AnsweredLate(result) = tree.ask("file", &asked, Duration::from_secs(5)) else {
        panic!("it gave no answer")
    };
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(files(&result), [tree.path("near/uptime").to_str().unwrap()], "{result:#?}");
    let hangs = format!("it hangs while listing {}", paths[1].display());
    assert!(!result.success && result.errors().iter().any(|error| error.contains(&hangs)), "{result:#?}");
    let keys = json!({"paths": paths, "remotefs": true});
    let Ended::AnsweredLate(result) = tree.ask("sshkey", &keys, Duration::from_secs(5)) else {
        panic!("it gave no answer")
    };
    assert_eq!(result.elements["keys"].as_array().unwrap().len(), 1, "{result:#?}");
    assert!(!result.success && result.errors().iter().any(|error| error.contains(&hangs)), "{result:#?}");
}

#[test]
fn case_08_the_kernels_own_files_are_searched_when_asked_for() {
    need_root();
    let tree = Tree::new();
    let kernel = tree.path("kernel");
    let result = tree.answer("file", &search(&tree.path(""), "^uptime$", false));
    assert_eq!(files(&result).len(), 1, "{result:#?}");
    let left_out = json!(format!("{} (proc)", kernel.display()));
    assert!(result.statistics["leftout"].as_array().unwrap().contains(&left_out), "{result:#?}");
    let result = tree.answer("file", &search(&kernel, "^uptime$", false));
    assert_eq!(files(&result), [kernel.join("uptime").to_str().unwrap()], "{result:#?}");
    // One search's path lies in what another leaves out.
    let mut both = search(&tree.path(""), "^uptime$", false);
    both["searches"]["deep"] = search(&kernel.join("sys/kernel"), "^ostype$", false)["searches"]["s"].clone();
    let result = tree.answer("file", &both);
    assert_eq!(files(&result).len(), 1, "{result:#?}");
    assert_eq!(result.elements["deep"][0]["file"], json!(kernel.join("sys/kernel/ostype")), "{result:#?}");
}

#[test]
fn case_03_real_mounts_are_named_and_a_far_one_is_not_asked_how_full_it_is() {
    need_root();
    let tree = Tree::new();
    let result = tree.answer("mounts", &json!({"paths": [format!("^{}/", tree.0.path().display())]}));
    let mounts = result.elements["mounts"].as_array().unwrap();
    let find = |name: &str| mounts.iter().find(|mount| mount["path"] == json!(tree.path(name))).unwrap();
    let blank = find("with blank");
    assert_eq!((&blank["device"], &blank["type"]), (&json!("some #device"), &json!("tmpfs")));
    assert!(blank["total_bytes"].is_u64() && find("far")["total_bytes"].is_null(), "{result:#?}");
    assert!(result.errors().is_empty(), "{result:#?}");
}
