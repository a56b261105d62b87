//! Files that commands read and write: what is at the place before stays, and nobody else can read secrets.

use crate::server::*;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[test]
fn a_services_file_and_components_become_a_configuration_that_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["muster.example".to_owned()]).unwrap();
    let (certificate, key) = (cert.pem(), signing_key.serialize_pem());
    let text = format!("https_config {{ listen_address: \":4443\" certificates: {certificate:?} key: {key:?} }}");
    let components = in_directory(here, "components", text.as_bytes());
    let services = in_directory(here, "services", b"services { name: \"Sink\" factory: \"NOOP\" }");
    let out = here.join("muster.toml").display().to_string();
    let run = || {
        let args = ["import", "fleetspeak", "--components", &components, "--services", &services, "--out", &out];
        muster().args(args).output().unwrap()
    };
    let first = run();
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    assert!(muster().args(["config", "check", "--config", &out]).status().unwrap().success());
    assert_eq!(std::fs::read_to_string(here.join("agents.key")).unwrap(), key);
    assert_eq!(failed(&run()).0, 6);
}

#[test]
fn a_server_takes_nothing_that_another_user_could_have_made() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let first = Server::start();
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    std::fs::create_dir(&data).unwrap();
    for name in ["ca.pem", "admin.token"] {
        std::fs::copy(first.data().join(name), data.join(name)).unwrap();
    }
    std::fs::write(data.join("muster.db"), "another's").unwrap();
    mode(&data, 0o777);
    let path = data.display().to_string();
    let doors = ["--agents", "127.0.0.1:0", "--operators", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let refused = |args: &[&str], words: &str| {
        let output = muster().args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && text.contains(words) && text.contains(&path), "{args:?}: {text}");
    };
    let serve = [&["serve", "--data", &path][..], &doors].concat();
    let backup = root.path().join("copy.db").display().to_string();
    refused(&serve, "could be written by others");
    refused(&["db", "status", "--data", &path], "can be written by others");
    refused(&["backup", "--offline", "--out", &backup, "--data", &path], "can be written by others");
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o777, "it is left as it was");
    // A private directory of another user; only root can give one away.
    if chown(&data, Some(2002), None).is_ok() {
        mode(&data, 0o700);
        refused(&serve, "belongs to user 2002");
        refused(&["db", "migrate", "--data", &path], "belongs to user 2002");
        refused(&["backup", "--offline", "--out", &backup, "--data", &path], "--reuid 2002");
    }
    let file = root.path().join("data.toml");
    std::fs::write(&file, "").unwrap();
    mode(&file, 0o666);
    let file = file.display().to_string();
    let output = muster().args(["config", "check", "--config", &file]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("can be written by others"), "{text}");
    mode(Path::new(&file), 0o644);
    assert!(muster().args(["config", "check", "--config", &file]).status().unwrap().success());
}

#[test]
fn root_looks_at_a_servers_directory_and_leaves_nothing_of_root_in_it() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    assert!(rustix::process::geteuid().is_root(), "only root gives files to others: run the tests as root");
    let first = Server::start();
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).unwrap();
    let (path, copy) = (data.display().to_string(), root.path().join("copy.db").display().to_string());
    first.text(&["backup", "--out", &copy]);
    let run = |args: &[&str]| {
        let output = muster().args(args).args(["--data", &path]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        (output.status.success(), text)
    };
    assert!(run(&["restore", &copy]).0);
    let entries = || std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
    // As the server's own account left it, without lock and log.
    std::fs::remove_file(data.join("muster.db.lock")).unwrap();
    for path in entries().chain([data.clone()]) {
        chown(&path, Some(2002), Some(2002)).unwrap();
    }
    let (is_right, text) = run(&["db", "status"]);
    assert!(is_right && text.contains("current"), "{text}");
    let (_, text) = run(&["doctor"]);
    assert!(text.contains("is user 2002's alone"), "{text}");
    for args in [&["db", "migrate"][..], &["restore", &copy], &["backup", "--offline", "--out", &format!("{copy}2")]] {
        let (is_right, text) = run(args);
        assert!(!is_right && text.contains("--reuid 2002"), "{args:?}: {text}");
    }
    for path in entries() {
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().uid(), 2002, "{}", path.display());
    }
    // The configuration is that account's, too, and so may a server of another account not be.
    let file = root.path().join("muster.toml");
    std::fs::write(&file, format!("data = {path:?}\n")).unwrap();
    for (owner, is_right) in [(2002, true), (2003, false), (0, true)] {
        chown(&file, Some(owner), None).unwrap();
        let output = muster().args(["config", "check", "--config"]).arg(&file).output().unwrap();
        assert_eq!(output.status.success(), is_right, "{owner}: {output:?}");
    }
    chown(&file, Some(2002), None).unwrap();
    let output = muster().args(["serve", "--config"]).arg(&file).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("belongs to user 2002"), "{output:?}");
}

#[test]
fn an_agents_configuration_is_written_for_both_programs() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = Server::start();
    for format in ["muster", "fleetspeak"] {
        let out = server.directory.path().join(format);
        let dir = out.display().to_string();
        let args = ["agent", "config", "--format", format, "--server", "muster.example:4443", "--out", &dir];
        let written = server.json(&args)["written"].as_array().unwrap().clone();
        let first = PathBuf::from(written[0].as_str().unwrap());
        let text = std::fs::read_to_string(&first).unwrap();
        assert!(text.contains("muster.example:4443"), "{text}");
        assert_eq!(std::fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // Both kinds of tokens look alike, and a person's own would lie on every machine.
    let (out, token) = (
        server.directory.path().join("own").display().to_string(),
        format!("@{}/admin.token", server.data().display()),
    );
    let args = [
        "agent",
        "config",
        "--format",
        "muster",
        "--server",
        "muster.example:4443",
        "--out",
        &out,
        "--enrol-token",
        &token,
    ];
    let (code, text) = server.fails(&args);
    assert!(code == 2 && text.contains("your own access token") && !text.contains("muster_"), "{code}: {text}");
    assert!(!Path::new(&out).exists());
    // What is there is not overwritten unasked.
    let (out, other) = (server.directory.path().join("muster").display().to_string(), "other.example:4443");
    let args = ["agent", "config", "--format", "muster", "--server", other, "--out", &out];
    let (code, text) = server.fails(&args);
    assert!(code == 6 && text.contains("config.toml") && text.contains("--replace"), "{code}: {text}");
    server.text(&[&args[..], &["--replace"]].concat());
    let config = server.directory.path().join("fleetspeak/config.textproto");
    assert!(std::fs::read_to_string(config).unwrap().contains("BEGIN CERTIFICATE"));
}

#[test]
fn out_replaces_nothing_in_silence_and_no_pipe_or_device_at_all() {
    use std::os::unix::fs::FileTypeExt as _;
    let server = Server::start();
    let at = |name: &str| server.directory.path().join(name).display().to_string();
    std::fs::write(at("r"), "rules").unwrap();
    server.text(&["file", "put", "S", &at("r")]);
    let new =
        |out: &str| ["action", "new", "--name", "q", "--target", "true", "--out", out, "mounts"].map(str::to_owned);
    let get = |out: &str| ["file", "get", "S", "r", "--out", out].map(str::to_owned);
    let trust = |out: &str| {
        let about = ["trust", "new", "administrators", "--fleet", "lab", "--threshold", "1", "--version", "1"];
        [&about.map(str::to_owned)[..], &["--out", out, &key("first.asc")].map(str::to_owned)].concat()
    };
    let backup = |out: &str| ["backup", "--out", out].map(str::to_owned);
    std::fs::write(at("mine"), "mine").unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/full", at("full")).unwrap();
    let commands = |out: &str| [&new(out)[..], &get(out), &trust(out), &backup(out)].map(<[String]>::to_vec);
    for command in commands(&at("mine")) {
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        let (code, text) = server.fails(&command);
        assert!(code == 6 && text.contains("--replace") && text.contains("mine"), "{command:?}: {code}: {text}");
        assert_eq!(std::fs::read(at("mine")).unwrap(), b"mine", "{command:?}");
    }
    for command in commands(&at("full")) {
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        let (code, text) = server.fails(&command);
        assert!(code == 1 && text.contains("No space left"), "{command:?}: {code}: {text}");
    }
    for command in commands(&at("pipe")) {
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        let mut child = server.command(&command).spawn().unwrap();
        assert!(!std::fs::read(at("pipe")).unwrap().is_empty(), "{command:?}");
        assert!(child.wait().unwrap().success(), "{command:?}");
        assert!(std::fs::metadata(at("pipe")).unwrap().file_type().is_fifo());
    }
    for command in commands("-").iter().chain(&commands("/dev/stdout")) {
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        let output = server.run(&command);
        assert!(output.status.success() && !output.stdout.is_empty(), "{command:?}");
    }
    assert!(!Path::new("-").exists());
    server.text(&["action", "new", "--replace", "--name", "q", "--target", "true", "--out", &at("mine"), "mounts"]);
    assert!(std::fs::read_to_string(at("mine")).unwrap().contains("mounts"));
}

#[test]
fn a_backup_restores_into_another_directory() {
    let server = Server::start();
    let path = in_directory(server.directory.path(), "f", b"kept");
    server.text(&["file", "put", "S", &path]);
    let copy = server.directory.path().join("copy.db").display().to_string();
    server.text(&["backup", "--out", &copy]);
    let second = server.directory.path().join("second.db").display().to_string();
    let (exit, said) = server.fails(&["backup", "--offline", "--out", &second]);
    assert_eq!(exit, 6, "{said}");

    let other = server.directory.path().join("other").display().to_string();
    let run = |args: &[&str]| muster().args(["--data", &other]).args(args).output().unwrap();
    assert_eq!(run(&["db", "status"]).status.code(), Some(1));
    let restored = run(&["restore", &copy]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    assert!(run(&["db", "status"]).status.success());
    let again = server.directory.path().join("again.db").display().to_string();
    assert!(run(&["backup", "--offline", "--out", &again]).status.success());
    assert_eq!(run(&["restore", "/no/such/file"]).status.code(), Some(3));
}

#[test]
fn files_of_any_bytes_go_in_and_come_out() {
    let server = Server::start();
    let here = server.directory.path();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[(n % 3) as usize]).collect();
    let path = in_directory(here, "rules.bin", &bytes);
    server.text(&["file", "put", "Updates", &path]);
    let out = here.join("copy").display().to_string();
    server.text(&["file", "get", "Updates", "rules.bin", "--out", &out]);
    assert_eq!(std::fs::read(&out).unwrap(), bytes);
    assert_eq!(server.run(&["file", "get", "Updates", "rules.bin", "--out", "-"]).stdout, bytes);

    let odd = "a b/ü?#%2e..";
    let mut put = server.command(&["file", "put", "Updates", "-", "--name", odd]);
    let mut put = put.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    assert!(put.wait().unwrap().success());
    assert_eq!(server.run(&["file", "get", "Updates", odd, "--out", "-"]).stdout, b"from a pipe");
    let names: Vec<_> = server.json(&["file", "list", "--service", "Updates"])["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, [odd, "rules.bin"]);
    server.text(&["file", "delete", "Updates", odd]);
    assert_eq!(server.fails(&["file", "get", "Updates", odd, "--out", "-"]).0, 3);
}
