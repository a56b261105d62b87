//! Signatures by others: GnuPG with several kinds of keys, and the original in Go.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use muster_core::{Action, Timestamp};
use muster_trust::{Certificate, Keyring, SecretKey, SignatureError, signature, signed_text, verify};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

fn keyring(key: &[u8]) -> Keyring {
    Keyring::new(vec![Certificate::parse(key).unwrap()]).unwrap()
}

/// A GnuPG home of its own, whose clock stands at 2026-10-01T00:00:00Z unless told.
struct Gpg {
    home: tempfile::TempDir,
}

/// 2026-10-01T00:00:00Z and a minute.
const NOW: Timestamp = Timestamp::from_secs(1_790_812_860);
const THEN: &str = "20261001T000000!";
const DATA: &[u8] = b"name=x;target=y;";

impl Gpg {
    fn new() -> Self {
        Self {
            home: tempfile::Builder::new().prefix("gpg").permissions(Permissions::from_mode(0o700)).tempdir().unwrap(),
        }
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let path = self.home.path().join("input");
        std::fs::write(&path, input).unwrap();
        let mut command = Command::new("gpg");
        command.env("GNUPGHOME", self.home.path()).args(["--batch", "--quiet", "--faked-system-time", THEN]);
        command.args(["--pinentry-mode", "loopback", "--passphrase", "secret"]).args(arguments);
        command.stdin(std::fs::File::open(&path).unwrap()).stderr(Stdio::piped());
        let output = command.output().expect("gpg is installed: cargo xtask install");
        assert!(output.status.success(), "gpg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn with_key(kind: &str, usage: &str) -> Self {
        let gpg = Self::new();
        gpg.run(&["--quick-generate-key", "Kelso <kelso@example.net>", kind, usage, "1y"], b"");
        gpg
    }

    fn keyring(&self) -> Keyring {
        keyring(&self.run(&["--armor", "--export"], b""))
    }

    fn fingerprint(&self) -> String {
        let listing = String::from_utf8(self.run(&["--with-colons", "--list-keys"], b"")).unwrap();
        let line = listing.lines().find(|line| line.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    /// As MIG keeps it: one line.
    fn sign(&self, options: &[&str]) -> String {
        let arguments: Vec<&str> = options.iter().copied().chain(["--armor", "--detach-sign"]).collect();
        signature::one_line(&self.run(&arguments, DATA)).unwrap()
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").env("GNUPGHOME", self.home.path()).args(["--kill", "gpg-agent"]).status();
    }
}

#[test]
fn the_originals_signature_over_the_torture_action_is_good() {
    let action = Action::parse(include_bytes!("fixtures/torture.signed.json")).unwrap();
    let ring = keyring(include_bytes!("fixtures/signer.asc"));
    let now = "2026-11-20T13:40:00Z".parse().unwrap();
    let text = signed_text(&action).unwrap();
    let signed = verify(&ring, &action.pgp_signatures[0], text.as_bytes(), now).unwrap();
    assert_eq!(signed.signer.to_string(), "8894E30A79A7CC6BBDCB080E5CA8F578DCAF275C");
    let bytes = text.into_bytes();
    for place in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[place] ^= 1;
        let outcome = verify(&ring, &action.pgp_signatures[0], &bad, now);
        assert_eq!(outcome, Err(SignatureError::Mismatch), "byte {place}");
    }
}

#[test]
fn the_originals_line_reads_back_byte_for_byte() {
    let action = Action::parse(include_bytes!("fixtures/torture.signed.json")).unwrap();
    let line = &action.pgp_signatures[0];
    assert_eq!(signature::encode(&signature::decode(line).unwrap()), *line);
}

#[test]
fn an_rsa_signature_that_begins_with_a_zero_byte_is_good() {
    let packet = include_bytes!("fixtures/short_rsa.sig");
    // The number is written in 255 bytes or fewer, where the key has 256.
    let ring = keyring(include_bytes!("fixtures/short_rsa.asc"));
    let data = include_bytes!("fixtures/short_rsa.txt");
    let line = signature::one_line(packet).unwrap();
    assert!(verify(&ring, &line, data, NOW).is_ok());
    assert_eq!(verify(&ring, &line, b"order 278", NOW), Err(SignatureError::Mismatch));
}

/// The fixtures were made by Go's OpenPGP package, which says of every number of an RSA signature that it begins with its
/// highest bit: `high` does, `low` and `zero` do not, and nor does the signature that binds the key to its name.
#[test]
fn a_key_and_signatures_made_by_go_are_good_whatever_their_numbers_begin_with() {
    let ring = keyring(include_bytes!("fixtures/go_rsa.asc"));
    let signatures = [
        (include_str!("fixtures/go_rsa.high.sig"), include_str!("fixtures/go_rsa.high.txt"), 0x80..=0xFF),
        (include_str!("fixtures/go_rsa.low.sig"), include_str!("fixtures/go_rsa.low.txt"), 0x01..=0x3F),
        (include_str!("fixtures/go_rsa.zero.sig"), include_str!("fixtures/go_rsa.zero.txt"), 0x00..=0x00),
    ];
    for (armored, text, begins) in signatures {
        let packet = signature::decode(armored).unwrap();
        let number = packet.len() - 256;
        assert_eq!(packet[number - 2..number], 2048_u16.to_be_bytes(), "as Go writes it");
        assert!(begins.contains(&packet[number]), "{begins:?}");
        // As it came, so that whoever reads it next may do so in Go.
        let line = signature::one_line(armored.as_bytes()).unwrap();
        assert_eq!(signature::decode(&line).unwrap(), packet);
        let signed = verify(&ring, &line, text.as_bytes(), NOW).unwrap_or_else(|error| panic!("{begins:?}: {error}"));
        assert_eq!(signed.signer.to_string(), "0CE05C38AC5C39A70F585FC88A948CD93825C145");
        assert_eq!(verify(&ring, &line, b"another", NOW), Err(SignatureError::Mismatch));
    }
}

#[test]
fn every_kind_of_key_that_gpg_makes_and_the_policy_accepts() {
    for kind in ["rsa2048", "rsa3072", "ed25519", "nistp256"] {
        let gpg = Gpg::with_key(kind, "sign");
        let signed =
            verify(&gpg.keyring(), &gpg.sign(&[]), DATA, NOW).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(signed.signer.to_string(), gpg.fingerprint(), "{kind}");
        assert_eq!(verify(&gpg.keyring(), &gpg.sign(&[]), b"other", NOW), Err(SignatureError::Mismatch), "{kind}");
    }
}

#[test]
fn weak_and_foreign_keys_of_gpg_are_refused() {
    for kind in ["rsa1024", "dsa2048", "secp256k1", "brainpoolP256r1"] {
        let gpg = Gpg::with_key(kind, "sign");
        let outcome = verify(&gpg.keyring(), &gpg.sign(&["--digest-algo", "SHA256"]), DATA, NOW);
        // Of a curve that the library does not compute, not even what binds the key can be checked; its name is told.
        let Err(SignatureError::KeyAlgorithm(named)) = &outcome else { panic!("{kind}: {outcome:?}") };
        let digits: String = kind.chars().filter(char::is_ascii_digit).collect();
        assert!(named.contains(&digits) || named.contains(kind), "{kind}: {named}");
    }
}

#[test]
fn gpgs_subkeys_notations_and_comments_are_accepted() {
    let gpg = Gpg::with_key("ed25519", "cert");
    let fingerprint = gpg.fingerprint();
    gpg.run(&["--quick-add-key", &fingerprint, "rsa2048", "sign", "1y"], b"");
    let line = gpg.sign(&["--comment", "by hand", "--sig-notation", "why@example.net=test"]);
    let signed = verify(&gpg.keyring(), &line, DATA, NOW).unwrap();
    assert_eq!(signed.signer.to_string(), fingerprint);
    assert_ne!(signed.key, signed.signer);
    let line = gpg.sign(&["--sig-notation", "!why@example.net=test"]);
    assert_eq!(verify(&gpg.keyring(), &line, DATA, NOW), Err(SignatureError::Critical));
}

#[test]
fn gpgs_weak_hash_text_mode_inline_and_expiring_signatures_are_refused() {
    let gpg = Gpg::with_key("rsa2048", "sign");
    let check = |options: &[&str], now| verify(&gpg.keyring(), &gpg.sign(options), DATA, now).map(|_| ());
    let sha1 = ["--allow-weak-key-signatures", "--digest-algo", "SHA1"];
    assert_eq!(check(&sha1, NOW), Err(SignatureError::HashWeak));
    assert_eq!(check(&["--textmode"], NOW), Err(SignatureError::Type));
    assert_eq!(check(&["--default-sig-expire", "1d"], NOW), Ok(()));
    let later = NOW.plus(std::time::Duration::from_secs(86_400));
    // GnuPG marks the expiry as critical, which is understood.
    assert_eq!(check(&["--default-sig-expire", "1d"], later), Err(SignatureError::Expired));
    let inline = gpg.run(&["--sign"], DATA);
    assert_eq!(verify(&gpg.keyring(), &signature::encode(&inline), DATA, NOW), Err(SignatureError::Malformed));
}

#[test]
fn a_key_that_gpg_revoked_or_let_expire_is_refused() {
    let gpg = Gpg::with_key("ed25519", "sign");
    let line = gpg.sign(&[]);
    assert!(verify(&gpg.keyring(), &line, DATA, NOW).is_ok());
    let in_two_years = NOW.plus(std::time::Duration::from_secs(2 * 366 * 86_400));
    assert_eq!(verify(&gpg.keyring(), &line, DATA, in_two_years), Err(SignatureError::KeyExpired));
    let certificate = format!("openpgp-revocs.d/{}.rev", gpg.fingerprint());
    let text = std::fs::read_to_string(gpg.home.path().join(Path::new(&certificate))).unwrap();
    // GnuPG puts a colon before the block, so that nobody imports it by accident.
    gpg.run(&["--import"], text.replace(":-----BEGIN", "-----BEGIN").as_bytes());
    assert_eq!(verify(&gpg.keyring(), &line, DATA, NOW), Err(SignatureError::KeyRevoked));
}

#[test]
fn a_key_file_that_gpg_exported_signs_what_gpg_verifies() {
    for kind in ["rsa2048", "ed25519"] {
        let gpg = Gpg::with_key(kind, "sign");
        let file = gpg.run(&["--armor", "--export-secret-keys"], b"");
        let mut key = SecretKey::open(&file, Some("secret"), NOW).unwrap();
        assert!(SecretKey::open(&file, None, NOW).is_err());
        let line = key.sign(DATA, NOW.minus(std::time::Duration::from_secs(30))).unwrap();
        assert!(verify(&gpg.keyring(), &line, DATA, NOW).is_ok());
        let path = gpg.home.path().join("signature");
        std::fs::write(&path, signature::decode(&line).unwrap()).unwrap();
        gpg.run(&["--ignore-time-conflict", "--verify", path.to_str().unwrap(), "-"], DATA);
    }
}
