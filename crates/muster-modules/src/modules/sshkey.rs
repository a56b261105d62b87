//! sshkey: which SSH keys lie on a machine, private, public and authorised, by their fingerprints.
//!
//! Stays true: of a private key only the fingerprint of its public half leaves the machine, and whether it is locked. Far
//! and automounted file systems are left out unless asked for; what could not be read is named.

mod der;
mod key;

use super::file::{self, FileSearch, FilesFound, Search};
use crate::arguments::{ArgumentError, Flag, Given};
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Stop, Typed};
use crate::reading;
use crate::result::ModuleResult;
use crate::sandbox::Needs;
use muster_core::limits::SEARCH_VALUES_MAX;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

pub(crate) struct Sshkey;

/// How long the files that were found may be read when the search itself hangs.
const LAST_TIME: Duration = Duration::from_millis(400);

/// Directories entered below a path unless told.
const DEPTH_DEFAULT: i64 = 8;
/// Files that are looked at, at most.
const FILES_MAX: f64 = 10_000.0;
/// Where people's keys lie.
const PATHS: &[&str] = &["/root", "/home"];
/// What a file that may be a key holds at the beginning of a line.
const CANDIDATE: &str = "^(-----BEGIN ((RSA|DSA|EC|OPENSSH|ENCRYPTED) )?PRIVATE KEY|(ssh-(rsa|dss|ed25519)|ecdsa-sha2-[a-z0-9]+|sk-[a-z0-9@.-]+) )";
/// Larger files are no keys.
const SIZE: &str = "<1m";
/// Names of files whose lines are keys, perhaps with options in front.
const AUTHORIZED: &[&str] = &["authorized_keys", "authorized_keys2"];

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Parameters {
    paths: Vec<String>,
    maxdepth: i64,
    /// Look into file systems of other machines and automounted ones, too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    remotefs: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Elements {
    keys: Vec<Key>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Key {
    fingerprint_md5: String,
    fingerprint_sha256: String,
    path: String,
    encrypted: bool,
    #[serde(rename = "type")]
    kind: String,
}

impl Typed for Sshkey {
    type Parameters = Parameters;
    const INFO: ModuleInfo = ModuleInfo {
        name: "sshkey",
        summary: "SSH keys: private, public and authorised, by fingerprint",
        weight_min: 1,
        effect: Effect::Reads,
        privilege: Privilege::ReadFiles,
        needs: Needs::FILES,
    };
    const EXAMPLE: &'static str = "-path /srv -maxdepth 4";
    const FLAGS: &'static [Flag] = &[
        Flag::texts("path", "PATH", "where to search; the homes of people unless told"),
        Flag::number("maxdepth", "how many directories deep to search: 1 is the path itself; 8 unless told"),
        Flag::switch("remotefs", "look into file systems of other machines and automounted ones, too"),
    ];

    fn from_flags(given: &Given) -> Result<Parameters, ArgumentError> {
        given.at_least_one("maxdepth", "a whole number from 1, which is the path itself (without it, 8)")?;
        file::paths_check(&given.texts("path"))?;
        #[expect(clippy::cast_possible_truncation, reason = "a cast saturates, and the range is checked")]
        let maxdepth = given.number("maxdepth", 0.0) as i64;
        Ok(Parameters { paths: given.texts("path"), maxdepth, remotefs: given.is_on("remotefs") })
    }

    fn validate(parameters: &Parameters) -> Result<(), Refused> {
        if !(0..=1000).contains(&parameters.maxdepth) {
            return Err(Refused("maxdepth should be specified from 0-1000".to_owned()));
        }
        if parameters.paths.len() > SEARCH_VALUES_MAX || parameters.paths.iter().any(|path| !path.starts_with('/')) {
            return Err(Refused(format!("there must be at most {SEARCH_VALUES_MAX} paths, each beginning with /")));
        }
        Ok(())
    }

    fn answer(parameters: Parameters, context: &Context) -> Result<ModuleResult, Refused> {
        let Parameters { mut paths, maxdepth, remotefs } = parameters;
        if paths.is_empty() {
            paths = PATHS.iter().map(|path| context.path(path).display().to_string()).collect();
        }
        let (depth, is_ours) = if maxdepth == 0 { (DEPTH_DEFAULT, true) } else { (maxdepth, false) };
        let searching = search(&paths, depth, remotefs).begin(context)?;
        let so_far = searching.so_far();
        context.progress.so_far(move || answer(so_far(), is_ours, &Stop::after(LAST_TIME)));
        Ok(answer(searching.walk(), is_ours, &context.stop))
    }

    fn lines(result: &ModuleResult, lines: Lines) -> Vec<String> {
        let elements: Elements = serde_json::from_value(result.elements.clone()).unwrap_or_default();
        let mut out: Vec<_> = elements.keys.iter().map(Key::line).collect();
        if lines == Lines::All {
            out.extend(result.errors().iter().cloned());
            out.extend(result.missing_line());
        }
        out
    }
}

impl Key {
    fn line(&self) -> String {
        let known = |fingerprint: &str| if fingerprint.is_empty() { "unknown".into() } else { fingerprint.to_owned() };
        let locked = if self.kind == "private" { format!(" encrypted={}", self.encrypted) } else { String::new() };
        let (md5, sha256) = (known(&self.fingerprint_md5), known(&self.fingerprint_sha256));
        format!("{} [{}]{locked} md5fp={md5} sha256fp={sha256}", self.path, self.kind)
    }
}

/// Returns the search for files that may hold keys: one walk, so that nothing is touched twice.
fn search(paths: &[String], depth: i64, remotefs: bool) -> FileSearch {
    let mut search = Search { paths: paths.to_vec(), ..Search::default() };
    #[expect(clippy::cast_precision_loss, reason = "the depth is at most 1000")]
    let depth = depth as f64;
    let options = &mut search.options;
    (options.maxdepth, options.matchlimit, options.matchall, options.remotefs) = (depth, FILES_MAX, true, remotefs);
    let (contents, sizes) = (vec![CANDIDATE.to_owned()], vec![SIZE.to_owned()]);
    let keys = Search { contents, sizes, ..search.clone() };
    // Lines with options in front do not begin as keys do, and sshd reads lists of any length.
    let lists = Search { names: vec![format!("^({})$", AUTHORIZED.join("|"))], ..search };
    let searches = [("keys".to_owned(), keys), ("lists".to_owned(), lists)].into();
    FileSearch::from(file::Parameters { searches })
}

/// Makes the answer of the files found. When a path could not be looked at, it is no success.
fn answer(found: FilesFound, is_depth_ours: bool, stop: &Stop) -> ModuleResult {
    let FilesFound { files, mut errors, cuts, missing, not_entered, mut has_searched } = found;
    let mut keys = Vec::new();
    for (path, left) in files.iter().zip((1..=files.len()).rev()) {
        if stop.is_asked() {
            has_searched = false;
            errors.push(format!("{left} files were not looked at when the time was over, such as {}", path.display()));
            break;
        }
        look(path, &mut keys, &mut errors);
    }
    let mut cuts: Vec<_> =
        cuts.first().map(|_| format!("stopped at {FILES_MAX} files: there may be more")).into_iter().collect();
    if is_depth_ours && not_entered > 0 {
        cuts.push(format!("stopped at maxdepth {DEPTH_DEFAULT}: {not_entered} directories below were not entered"));
    }
    cuts.extend(super::list::at_most(&mut keys));
    let result = ModuleResult::ran(!keys.is_empty(), Elements { keys }, ()).with_missing(&missing).with_cuts(cuts);
    ModuleResult { success: has_searched, ..result }.with_errors(errors)
}

fn look(path: &Path, keys: &mut Vec<Key>, errors: &mut Vec<String>) {
    let text = match reading::text(path) {
        Ok(text) => text,
        Err(error) => return errors.push(reading::open_error(path, &error)),
    };
    let shown = path.to_string_lossy().into_owned();
    let mut add = |kind: &str, public: Option<&[u8]>, encrypted: bool| {
        let (fingerprint_md5, fingerprint_sha256) = public.map(key::fingerprints).unwrap_or_default();
        keys.push(Key { fingerprint_md5, fingerprint_sha256, path: shown.clone(), encrypted, kind: kind.to_owned() });
    };
    if let Some(private) = key::private(&text) {
        return add("private", private.public.as_deref(), private.encrypted);
    }
    let authorized = path.file_name().is_some_and(|name| AUTHORIZED.iter().any(|known| name == *known));
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    if !authorized {
        // A list of keys may have any name, such as a copy of one.
        lines.into_iter().filter_map(key::public).for_each(|public| add("public", Some(&public), false));
        return;
    }
    let mut damaged = false;
    for line in lines {
        match key::public(line) {
            Some(public) => add("authorizedkeys", Some(&public), false),
            None => damaged = true,
        }
    }
    if damaged {
        errors.push(format!("{} contained unparsable data", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Module as _;
    use crate::modules::testing::{context, fixture, same_form};
    use serde_json::{Value, json};
    use std::fs;
    use std::path::PathBuf;

    fn keys() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/keys")
    }

    fn run(path: &Path) -> ModuleResult {
        Sshkey.run(&json!({"paths": [path], "maxdepth": 3}), &context(Path::new("/")))
    }

    fn element(result: &ModuleResult, name: &str) -> Value {
        let elements = result.elements["keys"].as_array().unwrap();
        let found = elements.iter().find(|key| key["path"].as_str().unwrap().ends_with(name));
        found.unwrap_or_else(|| panic!("{name} in {result:#?}")).clone()
    }

    #[test]
    fn fingerprints_are_those_that_ssh_keygen_tells() {
        let result = run(&keys());
        let told = fs::read_to_string(keys().join("fingerprints.txt")).unwrap();
        assert_eq!(told.lines().count(), 6);
        for line in told.lines() {
            let [name, sha256, md5] = line.split(' ').collect::<Vec<_>>()[..] else { panic!() };
            let public = element(&result, &format!("/{name}.pub"));
            assert_eq!((&public["fingerprint_sha256"], &public["type"]), (&json!(sha256), &json!("public")));
            assert_eq!(format!("MD5:{}", public["fingerprint_md5"].as_str().unwrap()), md5);
            let private = element(&result, &format!("/{name}"));
            assert_eq!((&private["type"], &private["encrypted"]), (&json!("private"), &json!(name.contains("locked"))));
            // What is locked whole does not show its public half.
            let hidden = name == "rsa_pem_locked";
            assert_eq!(private["fingerprint_sha256"], json!(if hidden { "" } else { sha256 }), "{name}");
        }
    }

    #[test]
    fn authorised_keys_are_found_line_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("kim/.ssh");
        fs::create_dir_all(&home).unwrap();
        let key = fs::read_to_string(keys().join("ed25519.pub")).unwrap();
        let other = fs::read_to_string(keys().join("rsa_pem.pub")).unwrap();
        let text =
            format!("# mine\ncommand=\"echo ssh-rsa AAAA \\\" x\",no-pty {key}\n{other}ssh-rsa AAAA\nnonsense\n");
        fs::write(home.join("authorized_keys"), text).unwrap();
        let result = run(dir.path());
        assert_eq!(result.elements["keys"].as_array().unwrap().len(), 2, "{result:#?}");
        assert_eq!(result.elements["keys"][0]["type"], json!("authorizedkeys"));
        let known = run(&keys());
        let same = |at: usize, name: &str| {
            assert_eq!(result.elements["keys"][at]["fingerprint_md5"], element(&known, name)["fingerprint_md5"]);
        };
        same(0, "/ed25519.pub");
        same(1, "/rsa_pem.pub");
        assert!(result.errors()[0].ends_with("authorized_keys contained unparsable data"));
        let mut want = fixture("sshkey");
        want.errors.clone_from(&result.errors);
        same_form(&result, &want);
    }

    #[test]
    fn no_key_hides_behind_others_or_in_a_long_list() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = ["ed25519.pub", "rsa_pem.pub"].map(|name| fs::read_to_string(keys().join(name)).unwrap());
        fs::write(dir.path().join("copy"), format!("{first}# note\n{second}")).unwrap();
        let padding = "# padding padding padding padding\n".repeat(40_000);
        fs::write(dir.path().join("authorized_keys"), format!("{padding}no-pty {second}")).unwrap();
        let result = run(dir.path());
        let found = result.elements["keys"].as_array().unwrap().iter();
        let found: Vec<_> = found.map(|key| (key["type"].clone(), key["fingerprint_md5"].clone())).collect();
        let known = run(&keys());
        let [first, second] =
            ["/ed25519.pub", "/rsa_pem.pub"].map(|name| element(&known, name)["fingerprint_md5"].clone());
        let want = [("authorizedkeys", &second), ("public", &first), ("public", &second)];
        assert_eq!(found, want.map(|(kind, print)| (json!(kind), print.clone())));
    }

    #[test]
    fn files_that_time_was_too_short_for_are_named() {
        let found = FilesFound {
            files: ["ed25519.pub", "rsa_pem.pub"].map(|name| keys().join(name)).into(),
            has_searched: true,
            ..FilesFound::default()
        };
        let result = answer(found.clone(), false, &Stop::after(Duration::ZERO));
        assert!(!result.success && result.errors()[0].starts_with("2 files were not looked at"), "{result:?}");
        assert!(answer(found, false, &Stop::default()).success);
    }

    #[test]
    fn what_could_not_be_looked_at_is_no_answer_and_what_is_not_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::os::unix::fs::symlink("circle", at("circle")).unwrap();
        let result = run(&at("circle"));
        assert!(!result.success && result.errors()[0].contains("too many levels of symbolic links"), "{result:?}");
        // Links that lead nowhere hold no keys, whatever they are called.
        fs::create_dir(at("links")).unwrap();
        for name in ["id_rsa", "authorized_keys"] {
            std::os::unix::fs::symlink("nowhere", at("links").join(name)).unwrap();
        }
        let result = run(&at("links"));
        assert!(result.success && !result.foundanything && result.errors().is_empty(), "{result:?}");
        std::os::unix::fs::symlink("authorized_keys2", at("links/authorized_keys2")).unwrap();
        assert!(run(&at("links")).errors()[0].contains("too many levels of symbolic links"));
        let result = run(&at("nosuch"));
        assert!(result.success && result.errors().is_empty(), "{result:?}");
        assert_eq!(result.statistics["missing"], json!([at("nosuch")]));
        let lines = <Sshkey as Typed>::lines(&result, Lines::All);
        assert_eq!(lines, [format!("Not on this machine: {}", at("nosuch").display())]);
        // Deeper than nobody asked for, and deeper than somebody did.
        fs::create_dir_all(at("1/2/3/4/5/6/7/8")).unwrap();
        let run = |depth: u8| Sshkey.run(&json!({"paths": [dir.path()], "maxdepth": depth}), &context(Path::new("/")));
        let deep = "stopped at maxdepth 8: 1 directories below were not entered";
        assert!(run(0).errors().contains(&deep.to_owned()), "{:?}", run(0));
        assert_eq!(run(0).statistics["cut"], json!([deep]));
        assert!(run(3).statistics.get("cut").is_none());
        for words in [["-maxdepth", "0"], ["-path", "/srv/*"]] {
            assert!(crate::params_from_args("sshkey", &words.map(String::from)).is_err(), "{words:?}");
        }
    }

    #[test]
    fn what_looks_like_a_key_and_is_none_ends_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("short", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"),
            ("open", "-----BEGIN OPENSSH PRIVATE KEY-----\n"),
            ("empty", "ssh-rsa \n"),
            ("lies", "ssh-rsa AAAAB3NzaC1kc3M=\n"),
            ("binary", "ssh-dss \u{0}\u{fffd}\n"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let result = run(dir.path());
        assert!(result.success && result.errors.is_none(), "{result:#?}");
        // A private key that cannot be read is still one that lies there.
        let kinds: Vec<_> = result.elements["keys"].as_array().unwrap().iter().map(|key| &key["type"]).collect();
        assert_eq!(kinds, ["private", "private"]);
    }

    #[test]
    fn results_are_printed_as_the_originals_are() {
        let lines = <Sshkey as Typed>::lines(&fixture("sshkey"), Lines::Found);
        assert!(
            lines[3].ends_with("/testkey2 [private] encrypted=true md5fp=unknown sha256fp=unknown"),
            "{}",
            lines[3]
        );
        assert!(lines[1].contains("testkey3.pub [public] md5fp=14:0f:ed:33:"), "{}", lines[1]);
    }

    #[test]
    fn a_depth_out_of_range_is_refused() {
        let refused = Sshkey.validate(&json!({"maxdepth": 1001})).unwrap_err();
        assert_eq!(refused.0, "maxdepth should be specified from 0-1000");
        assert_eq!(crate::params_from_args("sshkey", &[]), Ok(json!({"paths": [], "maxdepth": 0})));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(
            text in ".{0,80}",
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120),
        ) {
            use base64::Engine as _;
            let encoded = base64::engine::general_purpose::STANDARD.encode(&bytes);
            let _ = key::public(&text);
            let _ = key::public(&format!("ssh-rsa {encoded}"));
            for kind in ["RSA ", "DSA ", "EC ", "OPENSSH ", ""] {
                let _ = key::private(&format!("-----BEGIN {kind}PRIVATE KEY-----\n{encoded}\n-----END {kind}PRIVATE KEY-----\n"));
            }
        }
    }
}
