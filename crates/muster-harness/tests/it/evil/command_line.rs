//! A server gone bad against the command line: it gets no signature that its person did not give to the very text, and
//! what it says that machines answered is believed for nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_harness::evil::{Asked, Impostor};
use muster_harness::investigator::Investigator;
use muster_harness::programs;
use muster_harness::terminal::Terminal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::io::Write as _;
use std::process::{Output, Stdio};
use tempfile::TempDir;

const TIME: &str = "2026-01-02T03:04:05Z";

/// What a server says would come of an action.
fn foreseen(changes: &[(&str, Value)]) -> Value {
    let mut preview = json!({
        "signers": [{"investigator": 1, "name": "Alice", "fingerprint": "AA"}], "problems": [], "matched": 3, "asked": 3,
        "willing": 3, "unknown": 0, "refusals": [], "ready": true,
    });
    for (name, value) in changes {
        preview[*name] = value.clone();
    }
    preview
}

/// What a server says of an action number 7 with this file.
fn shown(file: &str, status: &str) -> Value {
    json!({
        "id": 7, "name": "harmless", "target": "os='linux'", "status": status, "reason": "", "valid_from": TIME,
        "expire_after": TIME, "created": TIME, "started": null, "finished": null, "updated": TIME, "halted": null,
        "matched": 1, "late": 0, "signers": [], "standing": false, "hosts_max": null, "rings": [], "halt_percent": 10,
        "counters": {"sent": 1, "done": 1, "inflight": 0, "success": 1, "cancelled": 0, "expired": 0, "failed": 0,
            "timeout": 0},
        "action": file, "signed_text": "name=harmless;", "signed_sha256": "00",
    })
}

/// An action of the server's that is valid now, written as the server likes.
fn waiting(name: &str, operations: &str) -> String {
    format!(
        r#"{{"name": {}, "target": "os='linux'", "validfrom": "2020-01-02T03:04:05Z", "expireafter":
            "2200-01-02T03:04:05Z", "operations": {operations}, "pgpsignatures": [], "syntaxversion": 2}}"#,
        json!(name)
    )
}

/// A server that has action 7 wait for a signature.
async fn waits(file: String) -> Impostor {
    let answer = move |asked: &Asked| match asked.line.as_str() {
        "GET /api/v1/actions/7" => Some(shown(&file, "waiting").to_string()),
        "POST /api/v1/actions/7/sign" => Some(json!({"status": "inflight"}).to_string()),
        _ => None,
    };
    Impostor::start(answer).await.unwrap()
}

/// How a person ended a command, and what they were shown.
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) text: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let [text, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Self { code: output.status.code(), text: format!("{text}{errors}") }
    }
}

pub(super) struct Stage {
    alice: Investigator,
    impostor: Impostor,
    home: TempDir,
}

impl Stage {
    fn before(impostor: Impostor) -> Self {
        Self::of(Investigator::new("Alice").unwrap(), impostor)
    }

    fn of(alice: Investigator, impostor: Impostor) -> Self {
        Self { alice, impostor, home: tempfile::tempdir().unwrap() }
    }

    fn command(&self, words: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(programs::program("muster").unwrap());
        command.env("MUSTER_URL", &self.impostor.url).env("MUSTER_TOKEN", "x").env("GNUPGHOME", self.alice.home());
        command.env("XDG_CONFIG_HOME", self.home.path()).args(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command without a terminal; `input` stands on its standard input.
    pub(super) async fn piped(&self, input: &str, words: &[&str]) -> Ended {
        let path = self.home.path().join("input");
        std::fs::write(&path, input).unwrap();
        let input = std::fs::File::open(path).unwrap();
        self.command(words).stdin(input).output().await.unwrap().into()
    }

    /// A directory of the person's.
    pub(super) fn directory(&self) -> &std::path::Path {
        self.home.path()
    }

    /// What the server was asked, each method with its path.
    pub(super) fn asked(&self) -> Vec<String> {
        self.impostor.asked().into_iter().map(|asked| asked.line).collect()
    }

    /// Runs a command at a terminal, where `typed` is typed.
    async fn typed(&self, typed: &str, words: &[&str]) -> Ended {
        let (terminal, stdin) = Terminal::typed(typed).unwrap();
        let ended = self.command(words).stdin(stdin).output().await.unwrap().into();
        drop(terminal);
        ended
    }

    /// Sees that the server holds no signature, and launched nothing.
    fn has_nothing(&self, what: &str) {
        assert!(self.impostor.signatures().is_empty(), "{what}: it has {:?}", self.impostor.signatures());
        let orders = ["POST /api/v1/actions", "POST /api/v1/actions/7/sign"];
        let asked = self.impostor.asked();
        assert!(asked.iter().all(|asked| !orders.contains(&asked.line.as_str())), "{what}: {asked:?}");
    }
}

const ASK: [&str; 7] = ["ask", "file", "--path", "/etc", "--name", "^passwd$", "--target=os='linux'"];

async fn previews(changes: &[(&str, Value)]) -> Stage {
    let preview = foreseen(changes).to_string();
    let web = json!({"name": "web", "expression": "true", "description": "", "changed": TIME, "changed_by": "x"});
    let named = json!({ "items": [web] });
    let answer = move |asked: &Asked| match asked.line.as_str() {
        "POST /api/v1/actions/preview" => Some(preview.clone()),
        "GET /api/v1/named-targets" => Some(named.to_string()),
        _ => None,
    };
    Stage::before(Impostor::start(answer).await.unwrap())
}

#[tokio::test]
async fn a_preview_steals_no_signature_from_whoever_says_no() {
    let stage = previews(&[]).await;
    let ended = stage.typed("n\n", &ASK).await;
    assert!(ended.code == Some(1) && ended.text.contains("not confirmed"), "{}", ended.text);
    assert!(ended.text.contains(&stage.alice.fingerprint().unwrap()), "who will sign is shown: {}", ended.text);
    assert!(stage.impostor.asked().iter().any(|asked| asked.line.ends_with("/preview")), "it was previewed");
    stage.has_nothing("n at the terminal");
    // Where there is no terminal, a no is a no as well.
    let ended = stage.piped("n\n", &ASK).await;
    assert!(ended.code == Some(1) && ended.text.contains("not confirmed"), "{}", ended.text);
    stage.has_nothing("n on standard input");
    // What changes machines is signed there only with --yes, whatever stands on standard input.
    let changes = ["ask", "--target", "true", "agentdestroy", "-pid", "12", "-version", "1"];
    for input in ["", "y\n"] {
        let ended = stage.piped(input, &changes).await;
        assert!(ended.code == Some(2) && ended.text.contains("pass --yes"), "{input:?}: {}", ended.text);
        stage.has_nothing("no terminal");
    }
    // With a yes it is signed, and given away.
    stage.typed("y\n", &ASK).await;
    assert_eq!(stage.impostor.signatures().len(), 1);
}

#[tokio::test]
async fn a_signed_file_is_previewed_without_its_signatures_and_given_away_only_with_a_yes() {
    let stage = previews(&[]).await;
    let file = stage.home.path().join("q.json").display().to_string();
    let new = ["action", "new", "--name", "q", "--target", "true", "--out", &file, "timedrift"];
    assert_eq!(stage.piped("", &new).await.code, Some(0));
    assert_eq!(stage.piped("", &["action", "sign", &file]).await.code, Some(0));
    let ended = stage.piped("", &["action", "preview", &file]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    let claimed: Value = serde_json::from_str(&stage.impostor.asked().pop().unwrap().body).unwrap();
    assert_eq!(claimed["signers"], json!([stage.alice.fingerprint().unwrap()]));
    stage.typed("n\n", &["action", "launch", &file]).await;
    stage.piped("n\n", &["action", "launch", &file]).await;
    stage.has_nothing("a file that was not launched");
    stage.piped("", &["action", "launch", &file, "--yes"]).await;
    assert_eq!(stage.impostor.signatures().len(), 1);
}

#[tokio::test]
async fn what_a_server_says_that_a_name_means_is_signed_only_with_a_yes_to_it() {
    let stage = previews(&[]).await;
    let ask = ["ask", "--target", "@web", "--yes", "timedrift"];
    let ended = stage.piped("", &ask).await;
    assert!(ended.code == Some(2) && ended.text.contains("target save web 'true'"), "{}", ended.text);
    let ended = stage.typed("n\n", &ask).await;
    assert!(ended.code == Some(1) && ended.text.contains("@web means: true"), "{}", ended.text);
    let new = ["action", "new", "--name", "q", "--target", "@web", "timedrift"];
    assert_eq!(stage.piped("", &new).await.code, Some(2), "nor is it written to be signed later");
    stage.has_nothing("a name of the server's");
    // What the person keeps under the name counts, and the server is not asked.
    let saved = stage.piped("", &["target", "save", "web", "name LIKE 'web%'"]).await;
    assert_eq!(saved.code, Some(0), "{}", saved.text);
    let before = stage.impostor.asked().len();
    let ended = stage.piped("", &new).await;
    assert!(ended.code == Some(0) && ended.text.contains("(name LIKE 'web%')"), "{}", ended.text);
    assert_eq!(stage.impostor.asked().len(), before);
}

#[tokio::test]
async fn raw_bytes_are_written_to_a_terminal_only_when_it_is_named() {
    let stage = previews(&[]).await;
    let (_terminal, side) = Terminal::typed("").unwrap();
    let backup = async |words: &[&str], side: std::fs::File| {
        let child = stage.command(words).stdout(side).stdin(Stdio::null()).spawn().unwrap();
        Ended::from(child.wait_with_output().await.unwrap())
    };
    let ended = backup(&["backup", "--out", "-"], side.try_clone().unwrap()).await;
    assert!(ended.code == Some(2) && ended.text.contains("/dev/stdout"), "{}", ended.text);
    assert!(stage.impostor.asked().is_empty(), "nothing was asked for");
    // Into a pipe, or to a terminal that is named, it goes: this server has none to give.
    assert_eq!(stage.piped("", &["backup", "--out", "-"]).await.code, Some(3));
    let ended = backup(&["backup", "--out", "/dev/stdout"], side).await;
    assert_eq!(ended.code, Some(3), "{}", ended.text);
}

/// What the server says, further flags, and how the command ends.
type Case<'a> = (&'a [(&'a str, Value)], &'a [&'a str], i32);

#[tokio::test]
async fn what_could_not_run_is_not_signed() {
    let refused =
        json!([{"code": "key_unknown", "reason": "the key is not in the keyring", "agents": 3, "examples": []}]);
    let cases: [Case<'_>; 5] = [
        (&[("matched", json!(30))], &["--hosts-max", "2"], 6),
        (&[("problems", json!(["nobody has the key"]))], &[], 4),
        (&[("willing", json!(0)), ("refusals", refused)], &[], 4),
        (&[("matched", json!(0)), ("willing", json!(0))], &[], 3),
        (&[], &["--expires-in", "10d"], 2),
    ];
    for (changes, more, code) in cases {
        let stage = previews(changes).await;
        // There is no gpg that could sign: whoever asked for it would fail another way.
        let ended = stage.piped("", &[&["ask", "--yes"][..], more, &ASK[1..]].concat()).await;
        assert_eq!(ended.code, Some(code), "{changes:?}: {}", ended.text);
        stage.has_nothing("what could not run");
    }
    // Flags are looked at before any key is.
    let stage = previews(&[]).await;
    for flags in [["--rings", "10,1"], ["--halt-percent", "101"], ["--hosts-max", "0"], ["--expires-in", "8d"]] {
        let words = [&["ask", "--yes", "--key", "/nonexistent"][..], &flags[..], &ASK[1..]].concat();
        let ended = stage.piped("", &words).await;
        assert!(ended.code == Some(2) && !ended.text.contains("nonexistent"), "{flags:?}: {}", ended.text);
    }
    assert!(stage.impostor.asked().is_empty());
}

#[tokio::test]
async fn blanks_hide_no_second_search_and_nothing_is_signed_unasked() {
    let blanks = " ".repeat(600);
    let file = waiting(
        "harmless",
        &format!(
            r#"[{{"module": "file", "parameters": {{"searches": {{"a": {{"paths": ["/etc"], "names": ["^passwd$"]}},{blanks}
                "b": {{"paths": ["/root", "/home"], "contents": ["PRIVATE KEY|password"]}}}}}}}}]"#
        ),
    );
    let stage = Stage::before(waits(file).await);
    for input in ["", "y\n"] {
        let ended = stage.piped(input, &["action", "sign", "7"]).await;
        assert!(ended.code == Some(2) && ended.text.contains("--digest"), "{}", ended.text);
        assert!(ended.text.contains("/root") && ended.text.contains("PRIVATE KEY|password"), "{}", ended.text);
        assert!(!ended.text.contains("signed by"), "{}", ended.text);
    }
    let ended = stage.typed("n\n", &["action", "sign", "7"]).await;
    assert!(ended.code == Some(1) && ended.text.contains("PRIVATE KEY|password"), "{}", ended.text);
    for digest in ["00".repeat(32), String::new()] {
        assert_ne!(stage.piped("", &["action", "sign", "7", "--digest", &digest]).await.code, Some(0));
    }
    // The digest that the server names is its own choice.
    let ended = stage.piped("", &["action", "sign", "7", "--digest", "00"]).await;
    assert_eq!(ended.code, Some(4), "{}", ended.text);
    // A yes that was said before anything was shown is none.
    assert_eq!(stage.piped("", &["action", "sign", "7", "--yes"]).await.code, Some(2));
    stage.has_nothing("a padded action");
    assert_eq!(stage.typed("y\n", &["action", "sign", "7"]).await.code, Some(0));
    assert_eq!(stage.impostor.signatures().len(), 1);
}

#[tokio::test]
async fn the_digest_that_signs_is_that_of_the_whole_text_and_of_no_other() {
    let good = waiting("harmless", r#"[{"module": "timedrift", "parameters": {}}]"#);
    let digest = |operations: &str| {
        let text = format!(
            "name=harmless;target=os='linux';validfrom=1577934245;expireafter=%!s(int64=7258215845);operations={operations};"
        );
        hex::encode(Sha256::digest(text))
    };
    let digest = digest(r#"[{"module":"timedrift","parameters":{}}]"#);
    let stage = Stage::before(waits(good).await);
    let ended = stage.piped("", &["action", "sign", "7", "--digest", &digest]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    // The server answers another one to the same number.
    let other = waiting(
        "harmless",
        r#"[{"module": "timedrift", "parameters": {}}, {"module": "agentdestroy", "parameters": {"pid": 2}}]"#,
    );
    let stage = Stage::before(waits(other).await);
    let ended = stage.piped("", &["action", "sign", "7", "--digest", &digest]).await;
    assert!(ended.code != Some(0), "{}", ended.text);
    stage.has_nothing("another action under the same number");
}

#[tokio::test]
async fn packed_parameters_are_shown_unpacked_or_need_a_word_of_their_own() {
    let packed = |json: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(json.as_bytes()).unwrap();
        STANDARD.encode(encoder.finish().unwrap())
    };
    let hidden = packed(r#"{"searches": {"a": {"paths": ["/root"], "contents": ["PRIVATE KEY"]}}}"#);
    let operation = |text: &str| format!(r#"[{{"module": "file", "is_compressed": true, "parameters": "{text}"}}]"#);
    let stage = Stage::before(waits(waiting("harmless", &operation(&hidden))).await);
    let ended = stage.typed("n\n", &["action", "sign", "7"]).await;
    assert!(ended.text.contains("PRIVATE KEY") && ended.text.contains("/root"), "{}", ended.text);
    stage.has_nothing("a packed action");
    // What cannot be unpacked is not signed at all, or not for a yes alone where the module is unknown.
    let stage = Stage::before(waits(waiting("harmless", &operation("H4sIAAAA"))).await);
    assert_eq!(stage.typed("y\n", &["action", "sign", "7", "--yes-unseen"]).await.code, Some(2));
    stage.has_nothing("parameters that no machine could unpack");
    let unknown = operation("H4sIAAAA").replace("\"file\"", "\"their-own\"");
    let stage = Stage::before(waits(waiting("harmless", &unknown)).await);
    let ended = stage.typed("y\n", &["action", "sign", "7"]).await;
    assert!(ended.code == Some(4) && ended.text.contains("--yes-unseen"), "{}", ended.text);
    stage.has_nothing("an action that cannot be unpacked");
    assert_eq!(stage.typed("y\n", &["action", "sign", "7", "--yes-unseen"]).await.code, Some(0));
}

#[tokio::test]
async fn a_module_that_is_unknown_here_is_said_to_change_machines_and_not_signed_unasked() {
    let operations = r#"[{"module": "their-own", "parameters": {"command": "rm -rf /"}}]"#;
    let stage = Stage::before(waits(waiting("harmless", operations)).await);
    let ended = stage.piped("", &["action", "sign", "7"]).await;
    assert!(ended.code == Some(2) && ended.text.contains("may change the machine"), "{}", ended.text);
    assert!(ended.text.contains("rm -rf /"), "{}", ended.text);
    stage.has_nothing("an unknown module");
}

#[tokio::test]
async fn names_that_read_otherwise_than_they_are_written_are_not_signed() {
    for name in ["look \u{202e}yortsedtnega", "a\u{2066}b", "a\u{61c}b", "a\u{200f}b"] {
        let stage = Stage::before(waits(waiting(name, r#"[{"module": "timedrift"}]"#)).await);
        let ended = stage.typed("y\n", &["action", "sign", "7"]).await;
        assert!(ended.code == Some(2) && ended.text.contains("direction of writing"), "{}", ended.text);
        assert!(!ended.text.contains(name), "nor shown as it is");
        stage.has_nothing("a name that turns");
    }
}

/// A server that has results of action 7, which Alice signed.
async fn answers(rows: Vec<Value>) -> Stage {
    let alice = Investigator::new("Alice").unwrap();
    let file = signed(&alice);
    answers_of(alice, file, rows).await
}

/// A server that has results of action 7, which is `file`.
pub(super) async fn answers_of(alice: Investigator, file: String, rows: Vec<Value>) -> Stage {
    let lines = rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let answer = move |asked: &Asked| match asked.line.as_str() {
        "GET /api/v1/actions/7" => Some(shown(&file, "completed").to_string()),
        line if line.starts_with("GET /api/v1/actions/7/results") => Some(lines.clone()),
        _ => None,
    };
    Stage::of(alice, Impostor::start(answer).await.unwrap())
}

fn row(results: &Value, proof: &Value) -> Value {
    json!({
        "id": 1, "action": 7, "agent": "2403f56c0a72054a", "hostname": "the-bank", "status": "success",
        "handed_out": true, "started": TIME, "finished": TIME, "found": true, "results": results, "proof": proof,
    })
}

/// An action that somebody signed.
fn signed(who: &Investigator) -> String {
    signed_for(who, "os='linux'").0
}

/// An action for these machines that somebody signed, and the SHA-256 of what was signed.
pub(super) fn signed_for(who: &Investigator, target: &str) -> (String, [u8; 32]) {
    let operations = r#"[{"module":"timedrift","parameters":{}}]"#;
    let text = format!(
        "name=harmless;target={target};validfrom=1577934245;expireafter=%!s(int64=7258215845);operations={operations};"
    );
    let armored = who.sign(text.as_bytes()).unwrap();
    let body = armored.split_once("\n\n").unwrap().1.split_once("-----END").unwrap().0.replace('\n', "");
    let file =
        waiting("harmless", operations).replace("\"pgpsignatures\": []", &format!("\"pgpsignatures\": [{body:?}]"));
    assert!(file.contains(&body));
    (file.replace("\"os='linux'\"", &json!(target).to_string()), Sha256::digest(text).into())
}

#[tokio::test]
async fn a_result_without_its_machines_proof_is_no_result() {
    let forged =
        json!([{"foundanything": true, "success": true, "elements": "forged", "statistics": {}, "errors": null}]);
    let broken = json!({"signature": "AAAA", "key": "AAAA"});
    for proof in [Value::Null, broken] {
        let stage = answers(vec![row(&forged, &proof)]).await;
        for format in ["table", "csv", "jsonl"] {
            let ended = stage.piped("", &["action", "results", "7", "--format", format]).await;
            assert!(ended.code == Some(1) && !ended.text.contains("forged"), "{format}: {}", ended.text);
        }
        let ended = stage.piped("", &["action", "watch", "7"]).await;
        assert!(ended.code == Some(1) && !ended.text.contains("\"forged\""), "{}", ended.text);
    }
    // That a machine found nothing is its own word, too.
    let nothing = row(&Value::Null, &Value::Null);
    let stage = answers(vec![nothing]).await;
    let ended = stage.piped("", &["action", "results", "7"]).await;
    assert!(ended.code == Some(1) && !ended.text.contains("nothing found"), "{}", ended.text);
    // Who wants it all the same sees the machine's id beside the name that the server made up.
    let stage = answers(vec![row(&forged, &Value::Null)]).await;
    let ended = stage.piped("", &["action", "results", "7", "--unproven"]).await;
    assert!(ended.code == Some(0) && ended.text.contains("the-bank (2403f56c0a72054a, unproven)"), "{}", ended.text);
}

#[tokio::test]
async fn results_of_an_action_that_nobody_signed_are_nobodys() {
    let forged =
        json!([{"foundanything": true, "success": true, "elements": "forged", "statistics": {}, "errors": null}]);
    let unsigned = waiting("harmless", r#"[{"module": "timedrift", "parameters": {}}]"#);
    // With signatures of somebody whom the person does not know, it is the same.
    let mallory = Investigator::new("Mallory").unwrap();
    let armored = mallory.sign(b"whatever").unwrap();
    let body = armored.split_once("\n\n").unwrap().1.split_once("-----END").unwrap().0.replace('\n', "");
    let by_mallory = unsigned.replace("\"pgpsignatures\": []", &format!("\"pgpsignatures\": [{body:?}]"));
    for file in [unsigned, by_mallory] {
        let stage = answers_of(Investigator::new("Alice").unwrap(), file, vec![row(&forged, &Value::Null)]).await;
        let ended = stage.piped("", &["action", "results", "7"]).await;
        assert!(ended.code == Some(4) && !ended.text.contains("forged"), "{}", ended.text);
        // Nor is it the action that the person holds.
        let path = stage.home.path().join("mine.json");
        std::fs::write(&path, signed(&stage.alice).replace("os='linux'", "os='windows'")).unwrap();
        let ended = stage.piped("", &["action", "results", "7", "--order", path.to_str().unwrap()]).await;
        assert!(ended.code == Some(6) && !ended.text.contains("forged"), "{}", ended.text);
    }
}
