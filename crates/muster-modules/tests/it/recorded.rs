//! What the original's modules answered, recorded, beside what ours answer to an equivalent question, from real processes:
//! the same fields, of the same kinds, in the same places, and the same outcome. Where they differ is said in a row.

use crate::{ask, built_in, host, seconds};
use muster_modules::ModuleResult;
use muster_modules::host::Ended;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How an answer of ours stands to the recorded one.
enum Is {
    /// It has the same form and outcome.
    Alike,
    /// It is an answer, where the original failed by a defect: of the form of this other recording.
    Mended(&'static str),
    /// There is no such module here.
    Absent,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn recorded(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join(format!("{name}.json"))).unwrap()).unwrap()
}

/// The things on this machine that the questions are about.
struct Machine {
    directory: tempfile::TempDir,
    listener: TcpListener,
    _connection: TcpStream,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("hello.txt"), "hello world").unwrap();
        let home = directory.path().join("home");
        std::fs::create_dir(&home).unwrap();
        for key in ["ed25519.pub", "rsa_pem", "rsa_pem_locked"] {
            std::fs::copy(fixtures().join("keys").join(key), home.join(key)).unwrap();
        }
        std::fs::copy(fixtures().join("keys/ed25519.pub"), home.join("authorized_keys")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Self { directory, listener, _connection: connection }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    fn file(&self, search: &Value) -> (&'static str, Value) {
        let mut searches = json!({"s1": search});
        if searches["s1"]["paths"].is_null() {
            searches["s1"]["paths"] = json!([self.directory.path()]);
        }
        ("file", json!({"searches": searches}))
    }

    /// Returns the module, the question and how the answer stands to the recording of this name.
    fn row(&self, recording: &str) -> ((&'static str, Value), Is) {
        let ping = |port: u16| {
            ("ping", json!({"destination": "127.0.0.1", "destinationport": port, "protocol": "tcp", "count": 1}))
        };
        let question = match recording {
            "agentdestroy_invalid" => ("agentdestroy", json!({"pid": 1, "version": "x"})),
            "file_invalid" => self.file(&json!({"paths": [], "names": ["x"]})),
            "file_matchall" => {
                self.file(&json!({"names": ["hello"], "options": {"matchall": true, "returnsha256": true}}))
            }
            "file_matchany" => self.file(&json!({"names": ["hello", "nothere"], "sizes": [">1k", "11"]})),
            "file_none" => self.file(&json!({"names": ["nothere"], "options": {"matchall": true}})),
            "netstat" => {
                let port = self.port().to_string();
                let (range, address) = (["127.0.0.0/8"], ["127.0.0.1"]);
                ("netstat", json!({"localip": range, "connectedip": address, "listeningport": [port]}))
            }
            "ping_tcp" => ping(self.port()),
            "ping_refused" => return (ping(closed_port()), Is::Mended("ping_tcp")),
            "pkg" => ("pkg", json!({"pkgmatch": {"matches": ["^bash$"]}})),
            "scribe" => {
                let objects = json!([{"object": "bash", "package": {"name": "bash"}}]);
                let evr = json!({"operation": "<", "value": "999"});
                let tests = json!([{"test": "bash old", "object": "bash", "evr": evr}]);
                ("scribe", json!({"scribedoc": {"objects": objects, "tests": tests}}))
            }
            "sshkey" => ("sshkey", json!({"paths": [self.directory.path()], "maxdepth": 8})),
            "timedrift" => ("timedrift", json!({"drift": ""})),
            "unknown_module" => return (("nosuch", Value::Null), Is::Absent),
            "fswatch_nosock" => return (("fswatch", Value::Null), Is::Absent),
            other => panic!("nothing is asked about the recording {other}: write its row"),
        };
        (question, Is::Alike)
    }
}

fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Asks a module as another program would: `muster-module -m NAME`.
fn by_name(module: &str, parameters: &Value) -> ModuleResult {
    let mut command = Command::new(host().program);
    let mut child = command.args(["-m", module]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let line = json!({"class": "parameters", "parameters": parameters}).to_string();
    // One that is not there does not read.
    let _ = std::io::Write::write_all(child.stdin.as_mut().unwrap(), format!("{line}\n").as_bytes());
    let output = child.wait_with_output().unwrap();
    let answer = String::from_utf8(output.stdout).unwrap();
    assert!(answer.lines().count() == 1 && answer.ends_with('\n'), "an answer is one line: {answer:?}");
    serde_json::from_str(&answer).unwrap()
}

/// Demands the same fields of the same kinds. Elements of a list are like one of those recorded; where the names of
/// fields are what was asked for (a label, a port), they may differ.
fn same_form(at: &str, have: &Value, want: &Value) {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) if at.ends_with(".listeningport") => {
            assert_eq!(have.len(), want.len(), "{at}");
            have.values().zip(want.values()).for_each(|(have, want)| same_form(&format!("{at}.*"), have, want));
        }
        (Value::Object(have), Value::Object(want)) => {
            assert_eq!(have.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "fields at {at:?}");
            for (field, want) in want {
                same_form(&format!("{at}.{field}"), &have[field], want);
            }
        }
        (Value::Array(have), Value::Array(want)) => {
            assert_eq!(have.is_empty(), want.is_empty(), "{at}: {have:?}");
            for have in have {
                let like =
                    |want: &Value| std::panic::catch_unwind(|| same_form(&format!("{at}[]"), have, want)).is_ok();
                assert!(want.iter().any(like), "{at}: none of those recorded is like {have}");
            }
        }
        _ => assert_eq!(std::mem::discriminant(have), std::mem::discriminant(want), "{at}: {have} and {want}"),
    }
}

#[test]
fn every_recorded_answer_of_the_original_has_its_like_here() {
    let machine = Machine::new();
    let recordings: BTreeSet<String> = std::fs::read_dir(fixtures())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str().unwrap().strip_suffix(".json").map(str::to_owned))
        .collect();
    assert_eq!(recordings.len(), 14);
    for recording in recordings {
        let ((module, parameters), is) = machine.row(&recording);
        let have = by_name(module, &parameters);
        let mut want = recorded(&recording);
        match is {
            Is::Absent => {
                assert_eq!(have, ModuleResult::failed(format!("module '{module}' is not available")));
                continue;
            }
            Is::Mended(like) => {
                want = recorded(like);
                assert!(have.success && !have.foundanything, "{recording}: {have:?}");
                want["foundanything"] = json!(false);
                want["elements"]["failures"] = json!(null);
            }
            Is::Alike => {}
        }
        let have = serde_json::to_value(&have).unwrap();
        for field in ["foundanything", "success", "errors"] {
            assert_eq!(have[field], want[field], "{field} of {recording}: {have:#}");
        }
        same_form(&recording, &have, &want);
        // Another program's host and our own get the same.
        let Ended::Answered(hosted) = ask(&built_in(module), &parameters, seconds(60)) else { panic!("{recording}") };
        same_form(&recording, &serde_json::to_value(hosted).unwrap(), &want);
    }
}
