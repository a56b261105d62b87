//! `muster trust`: keyrings and weights of machines as documents that administrators sign.
//!
//! Stays true: documents are drafted, signed and verified on this machine without a server; what is sent carries the
//! signatures of people, and each machine judges it for itself.

mod revocations;

use super::ReasonArgs;
use super::action::verify::{keyring, read_acl};
use super::agent::label;
use super::investigator::read_key;
use crate::output::{Table, safe};
use crate::save::{self, ReplaceArgs};
use crate::signing::{SignArgs, name_of, read_file};
use crate::values::{self, duration};
use crate::{Context, Exit, Failure, Globals, Output, resolve};
use muster_api::Page;
use muster_api::trust::{TrustDocumentRequest, TrustDocumentSent, TrustQuery, TrustRevocations, TrustRow};
use muster_core::{Timestamp, limits};
use muster_trust::document::{self, Administrators, Content, DocumentError, Draft, Kind, Look, Receiver};
use muster_trust::{AclError, Certificate, Keyring, SignatureError, TargetMatch, verify};
use reqwest::Method;
use revocations::RevokeArgs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `muster trust`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster trust new investigators --fleet site-1 --version 1 --acl acl.cfg --out people.json alice.asc bob.asc
  muster trust new investigators --fleet site-1 --version 2 --target \"name = 'lab1'\" --acl lab.cfg alice.asc
  muster trust new administrators --fleet site-1 --version 1 --threshold 2 --out admins.json dora.asc emil.asc
  muster trust new clock --fleet site-1 --version 1 --target \"agentid = '0011223344556677'\" --expires-in 1h
  muster trust new revocations --fleet site-1 --version 1 --out revoked.json old-ca.pem
  muster trust sign people.json                            each administrator, on their own machine
  muster trust verify people.json --administrators ./administrators --threshold 2
  muster trust send people.json --reason 'Bob joins'       to all machines, also those that enrol later
  muster trust send people.json --agent 17aa
  muster trust status

Machines take a document when enough of the administrators in their own configuration signed it, when it names their fleet
and a target that they match by what they know themselves, when it has not expired, and when its version is higher than
that of the one in force. --agent and --label only say whom the server sends it to. docs/reference/trust.md has the format.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write a document, without signatures
    New(NewArgs),
    /// Add your signature, as an administrator
    Sign {
        /// The document's file
        file: PathBuf,
        #[command(flatten)]
        with: SignArgs,
    },
    /// Show what a document says, and whose signatures it has
    Verify {
        /// The document's file
        file: PathBuf,
        /// Administrators' public keys: a file, or a directory of such files
        #[arg(long, value_name = "PATH", required = true)]
        administrators: Vec<PathBuf>,
        /// How many of them must sign
        #[arg(long, value_name = "NUMBER", default_value_t = 2)]
        threshold: usize,
    },
    /// Give a signed document to the server, which hands it to machines
    Send {
        /// The document's file
        file: PathBuf,
        /// Only to this machine
        #[arg(long, value_name = "ID", conflicts_with = "labels")]
        agent: Option<String>,
        /// Only to machines with this label (SERVICE:LABEL); several must all be there
        #[arg(long = "label", value_name = "LABEL", value_parser = label)]
        labels: Vec<String>,
        /// How many administrators must have signed: with fewer signatures it is not sent, since every machine refuses it
        #[arg(long, value_name = "NUMBER", default_value_t = 2)]
        threshold: usize,
        #[command(flatten)]
        reason: ReasonArgs,
    },
    /// Say what machines believe: which keys, which weights, and what they refused
    Status {
        /// Only machines that this target picks
        #[arg(long, value_name = "EXPRESSION")]
        target: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct NewArgs {
    /// What it is about: investigators (whose orders count, and what they weigh), administrators (who signs documents),
    /// clock (that machines whose clock was ahead believe it again), or revocations (which certificates of servers and
    /// authorities they never trust again)
    #[arg(value_parser = kind)]
    kind: Kind,
    /// Public keys: of investigators, or of administrators; certificates that are revoked
    #[arg(value_name = "KEY")]
    keys: Vec<PathBuf>,
    /// The fleet that it is for, as `fleet` in the configuration of its machines says
    #[arg(long, env = "MUSTER_FLEET", value_name = "NAME", value_parser = values::fleet)]
    fleet: String,
    /// Only machines that match this by what they know themselves
    #[arg(long, value_name = "EXPRESSION", default_value = "true")]
    target: String,
    /// Higher than that of the document in force
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    version: u64,
    /// The weights, in the format of MIG's acl.cfg
    #[arg(long, value_name = "FILE")]
    acl: Option<PathBuf>,
    /// How many administrators must sign from then on
    #[arg(long, value_name = "NUMBER")]
    threshold: Option<usize>,
    #[command(flatten)]
    revoke: RevokeArgs,
    /// How long it counts; then machines permit nothing until a newer one of investigators comes (what is revoked stays so)
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "365d")]
    expires_in: Duration,
    /// The file to write; standard output unless told
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    replace: ReplaceArgs,
}

const NEW: &str = "could not write the document";

impl Args {
    /// Runs the command.
    pub async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let out = Output::new(globals.json);
        match self.command {
            Command::New(new) => new.run(out).await,
            Command::Sign { file, with } => sign(out, &file, &with).await,
            Command::Verify { file, administrators, threshold } => run_verify(out, &file, &administrators, threshold),
            Command::Send { file, agent, labels, threshold, reason } => {
                let (text, look) = read(&file)?;
                signatures_check(&file, &look, threshold)?;
                let context = Context::new(globals)?;
                let agent = match agent {
                    Some(agent) => Some(resolve::agent(&context, &agent).await?),
                    None => None,
                };
                let request = TrustDocumentRequest { document: text, agent, labels, reason: reason.reason };
                send(&context, &request).await
            }
            Command::Status { target } => status(&Context::new(globals)?, &TrustQuery { target }).await,
        }
    }
}

impl NewArgs {
    async fn run(self, out: Output) -> Result<(), Failure> {
        let now = values::now();
        let issued = Timestamp::from_secs(now.to_parts().0);
        let content = self.content()?;
        let draft = Draft {
            kind: self.kind,
            version: self.version,
            fleet: &self.fleet,
            target: &self.target,
            issued,
            expires: issued.plus(self.expires_in),
            content: &content,
        };
        let payload = document::payload(&draft).map_err(|error| {
            let failure = Failure::usage(NEW, error.to_string());
            match error {
                DocumentError::Acl(AclError::KeyUnknown { .. }) => failure.next("give that key's file, too"),
                DocumentError::Target(_) | DocumentError::Open(_) => failure.on(&self.target),
                _ => failure,
            }
        })?;
        let text = document::envelope(&payload, &[]) + "\n";
        let path = save::named(self.out.as_deref());
        save::write(out, NEW, path, &text, self.replace).await?;
        if let Some(path) = path {
            out.note(&format!("{0}  written; next: muster trust sign {0}", path.display()));
        }
        Ok(())
    }

    fn content(&self) -> Result<String, Failure> {
        let wrong = |why: &str, next: &str| Err(Failure::usage(NEW, why).next(next));
        match (self.kind, &self.acl, self.threshold) {
            (Kind::Revocations, None, None) => return self.revoke.content(&self.keys),
            (Kind::Revocations, ..) => return wrong("it says only what is revoked", "leave out --acl and --threshold"),
            _ if self.revoke.is_given() => {
                let why = "--fingerprint, --serial and --cut-off are for revocations";
                return wrong(why, "muster trust new revocations");
            }
            _ => {}
        }
        let keys = able(&self.keys)?;
        match (self.kind, &self.acl, self.threshold) {
            (Kind::Clock, None, None) if keys.is_empty() => Ok("{}".to_owned()),
            (Kind::Clock, ..) => wrong("it says only that clocks are right", "leave out keys, --acl and --threshold"),
            _ if keys.is_empty() => wrong("it would hold no key", "give the files with their public keys"),
            (Kind::Investigators, Some(path), None) => {
                read_acl(path)?;
                let bytes = read_file(NEW, path, limits::TRUST_DOCUMENT_BYTES_MAX)?;
                Ok(document::investigators_content(&keys, &String::from_utf8_lossy(&bytes)))
            }
            (Kind::Investigators, None, _) => {
                wrong("it must say what each key weighs: keys and weights are one document", "--acl acl.cfg")
            }
            (Kind::Investigators, ..) => wrong("--threshold is for administrators", "muster trust new administrators"),
            (_, Some(_), _) => wrong("--acl is for investigators", "muster trust new investigators"),
            (_, None, Some(threshold)) => Ok(document::administrators_content(&keys, threshold)),
            (_, None, None) => wrong("it must say how many administrators must sign", "--threshold 2"),
        }
    }
}

/// Reads keys that can sign. Copies of one are put together; one that will never sign anything that counts is refused, with
/// the reason: in a document it would look like somebody whose signatures count.
fn able(paths: &[PathBuf]) -> Result<Vec<Certificate>, Failure> {
    let keys = paths.iter().map(|path| read_key(path)).collect::<Result<Vec<Certificate>, _>>()?;
    let named: Vec<_> = paths.iter().zip(keys.iter().map(|key| key.fingerprint().clone())).collect();
    let keyring = Keyring::new(keys).map_err(|error| Failure::usage(NEW, error.to_string()))?;
    for key in keyring.certificates() {
        let Err(error) = key.signing_keys(values::now()) else { continue };
        // A key of a clock that was ahead signs in its time.
        if error == SignatureError::KeyTooYoung {
            continue;
        }
        let of_key = named.iter().filter(|(_, fingerprint)| fingerprint == key.fingerprint());
        let files = of_key.map(|(path, _)| path.display().to_string()).collect::<Vec<_>>().join(", ");
        let why = format!("no signature of {} would count: {error}", key.fingerprint());
        return Err(Failure::usage(NEW, why).on(files).next("leave it out, or give a key that can sign"));
    }
    Ok(keyring.certificates().to_vec())
}

/// Reads the kind of a document.
fn kind(word: &str) -> Result<Kind, String> {
    match word {
        "investigators" => Ok(Kind::Investigators),
        "administrators" => Ok(Kind::Administrators),
        "clock" => Ok(Kind::Clock),
        "revocations" => Ok(Kind::Revocations),
        "keyring" | "acl" => {
            Err("keys and weights are one document, so that nobody can mix those of two days: `new investigators --acl FILE \
                 KEY…`"
                .to_owned())
        }
        _ => Err("a document is about investigators, administrators, clock or revocations".to_owned()),
    }
}

/// Refuses to send what every machine would refuse.
fn signatures_check(path: &Path, look: &Look, threshold: usize) -> Result<(), Failure> {
    let have = look.signatures.len();
    if have >= threshold {
        return Ok(());
    }
    let why = format!("it has {have} of {threshold} signatures: every machine that wants {threshold} would refuse it");
    Err(Failure::usage("could not send the document", why).on(path.display()).next(
        "let another administrator sign it with `muster trust sign`; --threshold 1 if administrators_min of your machines is 1",
    ))
}

/// Reads a document, and its text.
fn read(path: &Path) -> Result<(String, Look), Failure> {
    const WHAT: &str = "could not read the document";
    let bytes = read_file(WHAT, path, limits::TRUST_DOCUMENT_BYTES_MAX)?;
    let look = document::look(&bytes).map_err(|error| Failure::usage(WHAT, error.to_string()).on(path.display()))?;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), look))
}

async fn sign(out: Output, path: &Path, with: &SignArgs) -> Result<(), Failure> {
    let (_, look) = read(path)?;
    show(out, &look);
    let after = "let another administrator sign it, or send it: `muster trust send`";
    let made = with.sign(&document::signing_text(&look.payload), &look.signatures, after).await?;
    let signatures = [&look.signatures[..], &[made.line]].concat();
    let text = document::envelope(&look.payload, &signatures) + "\n";
    // The file gains a signature, and loses nothing.
    let replace = ReplaceArgs { replace: true };
    save::write(out, "could not write the signed document", Some(path), &text, replace).await?;
    out.note(&format!("{}  signed by {}, {} in all", path.display(), safe(&made.signer), signatures.len()));
    Ok(())
}

fn run_verify(out: Output, path: &Path, administrators: &[PathBuf], threshold: usize) -> Result<(), Failure> {
    const WHAT: &str = "machines would not take the document";
    let (text, look) = read(path)?;
    show(out, &look);
    let (keyring, now) = (keyring(out, administrators)?, values::now());
    let signed = document::signing_text(&look.payload);
    for (number, line) in (1..).zip(&look.signatures) {
        out.line(&match verify(&keyring, line, signed.as_bytes(), now) {
            Ok(signed) => format!("signature {number}  good, by {}", signer(&keyring, &signed)),
            Err(error) => format!("signature {number}  does not count: {}", safe(&error.to_string())),
        })?;
    }
    let failure =
        |error: &dyn std::error::Error| Failure::new(Exit::Failed, WHAT, error.to_string()).on(path.display());
    let administrators = Administrators::new(keyring, threshold).map_err(|error| failure(&error))?;
    let receiver = Receiver { fleet: &look.fleet, target: &|_| TargetMatch::Matches };
    document::accept(text.as_bytes(), &administrators, |_| None, &receiver, now).map_err(|error| failure(&error))?;
    out.line("Machines of its fleet and target with these administrators take it, unless they have a newer one.")
}

fn signer(keyring: &Keyring, signed: &muster_trust::Signed) -> String {
    keyring.get(&signed.signer).map_or_else(|| signed.signer.to_string(), |key| safe(&name_of(key)))
}

/// Shows on standard error what a document says: its content decides who may order what.
fn show(out: Output, look: &Look) {
    let what: Vec<String> = match &look.content {
        Content::Investigators(keyring, acl) => {
            let keys = keyring.certificates().iter().map(|key| format!("key {}", name_of(key)));
            let weights = acl.modules().iter().map(|(module, permission)| {
                let people = permission.investigators.iter().map(|(name, one)| format!("{name} {}", one.weight));
                let people = people.collect::<Vec<_>>().join(", ");
                format!("{module}: {} of {people}", permission.minimum_weight)
            });
            keys.chain(weights).collect()
        }
        Content::Administrators(people) => people.keyring().certificates().iter().map(name_of).collect(),
        Content::Clock => vec!["what machines remember of later times than their clock's is forgotten".to_owned()],
        Content::Revocations(revocations) => revocations::lines(revocations),
        // Nothing of before comes so far.
        Content::Keyring(_) | Content::Acl(_) => Vec::new(),
    };
    let Look { kind, version, expires, fleet, target, .. } = look;
    out.note(&format!("{}, version {version}, counts until {expires}", kind.as_str()));
    out.note(&format!("for the fleet {}, machines with {}", safe(fleet), safe(target)));
    for line in what {
        out.note(&format!("  {}", safe(&line)));
    }
    out.note(&format!("SHA-256 {}", look.digest));
}

async fn send(context: &Context, request: &TrustDocumentRequest) -> Result<(), Failure> {
    const WHAT: &str = "could not send the document";
    let answer = context.api.send(WHAT, Method::POST, &["trust-documents"], request).await?;
    if context.out.json {
        return context.out.json(&answer);
    }
    let sent: TrustDocumentSent = context.api.read(WHAT, &answer)?;
    let way = match (&sent.message, &sent.broadcast) {
        (Some(message), _) => format!("message {message}"),
        (_, Some(broadcast)) => format!("broadcast {broadcast}"),
        (None, None) => String::new(),
    };
    context.out.line(&safe(&format!("{} version {}  {way}", sent.kind, sent.version)))?;
    context.out.note("`muster trust status` shows which machines took it.");
    Ok(())
}

async fn status(context: &Context, query: &TrustQuery) -> Result<(), Failure> {
    const WHAT: &str = "could not look what machines believe";
    let answer = context.api.get(WHAT, &["trust"], query).await?;
    if context.out.json {
        return context.out.json(&answer);
    }
    let Page { items: rows, .. }: Page<TrustRow> = context.api.read(WHAT, &answer)?;
    context.out.table(&believed(rows), "No machines.")
}

/// What machines report that they believe, as a table.
fn believed(rows: Vec<TrustRow>) -> Table {
    let mut table = Table::new(&["MACHINES", "KEYRING", "KEYS", "WEIGHTS", "REVOKED", "MODULES", "REFUSED", "SUCH AS"]);
    let version = |number: u64| if number == 0 { "files".to_owned() } else { format!("version {number}") };
    for row in rows {
        let cells = match row.told {
            Some(told) => [
                version(told.keyring_version),
                told.keyring.len().to_string(),
                version(told.acl_version),
                revoked(told.revocations.as_ref()),
                told.modules.len().to_string(),
                told.refusal.unwrap_or_else(|| "-".to_owned()),
            ],
            None => ["not told", "-", "-", "-", "-", "-"].map(str::to_owned),
        };
        let [keyring, keys, weights, revoked, modules, refused] = cells;
        table.row([row.agents.to_string(), keyring, keys, weights, revoked, modules, refused, row.example]);
    }
    table
}

/// Which document of revocations is in force, and how much it revokes. That an agent does not report it is not that nothing
/// is revoked there.
fn revoked(revocations: Option<&TrustRevocations>) -> String {
    match revocations {
        None => "not reported".to_owned(),
        Some(TrustRevocations { version: 0, .. }) => "nothing".to_owned(),
        Some(TrustRevocations { version, serials, fingerprints }) => {
            format!("version {version} ({serials} by serial, {fingerprints} by fingerprint)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = include_str!("agent/keys/one.asc");

    #[test]
    fn what_is_revoked_is_a_column_and_what_is_not_reported_is_not_nothing() {
        let revocations = |version| Some(TrustRevocations { version, serials: 2, fingerprints: 1 });
        assert_eq!(revoked(revocations(3).as_ref()), "version 3 (2 by serial, 1 by fingerprint)");
        assert_eq!(revoked(revocations(0).as_ref()), "nothing");
        // A server or an agent of before reports nothing of it.
        let row = serde_json::json!({"agents": 3, "example": "17aa", "told": {
            "keyring_version": 1, "keyring": [], "acl_version": 1, "acl": "{}", "modules": []}});
        let row: TrustRow = serde_json::from_value(row).unwrap();
        assert_eq!(revoked(row.told.as_ref().unwrap().revocations.as_ref()), "not reported");
        let table = format!("{:?}", believed(vec![row]));
        assert!(table.contains("REVOKED") && table.contains("not reported"), "{table}");
    }

    fn new(dir: &Path, kind: Kind) -> NewArgs {
        let path = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let keys = vec![path("alice.asc", ALICE)];
        let acl = Some(path("acl.cfg", "{\"default\":{\"minimumweight\":1,\"investigators\":{}}}\n"));
        let common = NewArgs {
            kind,
            keys,
            fleet: "lab".to_owned(),
            target: "tags->>'site' = 'berlin'".to_owned(),
            version: 3,
            acl: None,
            threshold: None,
            revoke: RevokeArgs::default(),
            expires_in: Duration::from_hours(1),
            out: Some(dir.join("document.json")),
            replace: ReplaceArgs { replace: true },
        };
        match kind {
            Kind::Investigators => NewArgs { acl, ..common },
            Kind::Administrators => NewArgs { threshold: Some(1), ..common },
            _ => NewArgs { keys: Vec::new(), ..common },
        }
    }

    #[tokio::test]
    async fn what_is_written_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let out = Output::new(false);
        for kind in [Kind::Investigators, Kind::Administrators, Kind::Clock, Kind::Revocations] {
            new(dir.path(), kind).run(out).await.unwrap();
            let (_, look) = read(&dir.path().join("document.json")).unwrap();
            assert_eq!((look.kind, look.version, look.signatures.len()), (kind, 3, 0), "{kind:?}");
            assert_eq!((&*look.fleet, &*look.target), ("lab", "tags->>'site' = 'berlin'"));
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_together_is_refused_with_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let out = Output::new(false);
        let with = async |kind: Kind, change: fn(&mut NewArgs)| {
            let mut args = new(dir.path(), kind);
            change(&mut args);
            args.run(out).await.unwrap_err()
        };
        for failure in [
            with(Kind::Investigators, |args| args.keys.clear()).await,
            with(Kind::Investigators, |args| args.threshold = Some(1)).await,
            with(Kind::Investigators, |args| args.acl = None).await,
            with(Kind::Administrators, |args| args.threshold = None).await,
            with(Kind::Clock, |args| args.threshold = Some(1)).await,
            with(Kind::Revocations, |args| args.threshold = Some(1)).await,
            with(Kind::Clock, |args| args.revoke.cut_off = true).await,
        ] {
            assert!(!failure.next.is_empty(), "{failure:?}");
        }
        assert!(with(Kind::Administrators, |args| args.threshold = Some(2)).await.why.contains("threshold"));
        let open = with(Kind::Investigators, |args| "id = 7".clone_into(&mut args.target)).await;
        assert!(open.why.contains("only the server could say, or could change (id = 7)"), "{open:?}");
        let old = kind("acl").unwrap_err();
        assert!(old.contains("investigators"), "{old}");
    }

    #[tokio::test]
    async fn what_too_few_signed_is_not_sent() {
        let dir = tempfile::tempdir().unwrap();
        new(dir.path(), Kind::Investigators).run(Output::new(false)).await.unwrap();
        let path = dir.path().join("document.json");
        let (_, mut look) = read(&path).unwrap();
        look.signatures.push("a line".to_owned());
        let failure = signatures_check(&path, &look, 2).unwrap_err();
        assert!(failure.why.contains("1 of 2 signatures") && failure.next.contains("trust sign"), "{failure:?}");
        assert!(signatures_check(&path, &look, 1).is_ok());
    }

    #[tokio::test]
    async fn case_16_a_key_that_can_never_sign_is_in_no_document() {
        let dir = tempfile::tempdir().unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../muster-trust/tests/fixtures/case-16");
        let with = async |files: &[&str]| {
            let keys = files.iter().map(|file| fixtures.join(file)).collect();
            NewArgs { keys, ..new(dir.path(), Kind::Investigators) }.run(Output::new(false)).await
        };
        for (file, why) in [
            ("brain.asc", "brainpoolP256r1"),
            ("secp.asc", "secp256k1"),
            ("dsa.asc", "DSA of 2048 bits"),
            ("unknown-algorithm.asc", "number 99"),
            ("no-name.asc", "has no name"),
            ("critical.asc", "must-know@example.org"),
            ("version-6.asc", "version 6"),
            ("a-renewed-old.asc", "expired"),
            ("gone-revoked.asc", "revoked"),
            ("certonly.asc", "not for signing"),
        ] {
            let Err(failure) = with(&["nist.asc", file]).await else { panic!("{file} was taken") };
            assert!(failure.why.contains(why) && failure.on.contains(file), "{file}: {failure}");
        }
        // Two copies of one key are one, and it is the renewed one.
        for files in [["a-renewed-old.asc", "z-renewed-new.asc"], ["z-renewed-new.asc", "a-renewed-old.asc"]] {
            with(&files).await.unwrap();
            let (_, look) = read(&dir.path().join("document.json")).unwrap();
            let Content::Investigators(keyring, _) = look.content else { panic!("it holds keys") };
            assert_eq!(keyring.certificates().len(), 1);
        }
        with(&["plain.asc", "nist.asc", "sub.asc", "future.asc"]).await.unwrap();
    }

    #[test]
    fn nobody_signs_what_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        std::fs::write(&path, "{\"payload\":\"{}\",\"signatures\":[]}").unwrap();
        assert!(read(&path).unwrap_err().why.contains("missing field"));
    }
}
