//! Measures what one signature of an action costs whoever checks it: for each kind of key, with the signer's
//! certificate kept ready as server and agent keep it, and with a certificate that is read for the first time.
//!
//! `bench_signatures [--rounds N]`. Each line of the output is a JSON object. Every signature is checked once, because the
//! library remembers those it has checked.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

use muster_core::Timestamp;
use muster_trust::{Certificate, Keyring, SecretKey, verify};
use sequoia_openpgp::cert::{CertBuilder, CipherSuite};
use sequoia_openpgp::serialize::SerializeInto;
use sequoia_openpgp::types::KeyFlags;
use std::time::{Duration, Instant, SystemTime};

/// When keys are made.
const BORN: i64 = 1_790_000_000;
/// Bytes of the text that is signed, about those of an action with one operation.
const TEXT_BYTES: usize = 600;
/// Keys that are read for the first time, of each kind: making one of RSA takes seconds.
const NEW_KEYS: u32 = 3;

const KINDS: [(&str, CipherSuite); 4] = [
    ("RSA-2048", CipherSuite::RSA2k),
    ("RSA-4096", CipherSuite::RSA4k),
    ("Ed25519", CipherSuite::Cv25519),
    ("P-256", CipherSuite::P256),
];

fn key(suite: CipherSuite) -> Vec<u8> {
    let born = SystemTime::UNIX_EPOCH + Duration::from_secs(BORN.cast_unsigned());
    let builder = CertBuilder::new()
        .set_creation_time(born)
        .set_cipher_suite(suite)
        .add_userid("Somebody <somebody@example.net>")
        .set_primary_key_flags(KeyFlags::empty().set_certification().set_signing());
    builder.generate().unwrap().0.as_tsk().to_vec().unwrap()
}

fn text(number: u32) -> Vec<u8> {
    number.to_be_bytes().into_iter().cycle().take(TEXT_BYTES).collect()
}

#[derive(Default)]
struct Times {
    all: Vec<Duration>,
}

impl Times {
    fn take<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        self.all.push(start.elapsed());
        done
    }

    fn print(mut self, kind: &str, case: &str) {
        self.all.sort_unstable();
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let (median, longest) = (self.all[self.all.len() / 2], self.all[self.all.len() - 1]);
        println!(
            "{{\"bench\":\"signatures\",\"key\":\"{kind}\",\"case\":\"{case}\",\"checks\":{},\"median_us\":{:.0},\
             \"longest_us\":{:.0},\"goal_us\":50000}}",
            self.all.len(),
            micros(median),
            micros(longest),
        );
    }
}

fn measure(kind: &str, suite: CipherSuite, rounds: u32) {
    let now = Timestamp::from_secs(BORN + 1000);
    let mut first = Times::default();
    for number in 0..NEW_KEYS {
        let mut secret = SecretKey::open(&key(suite), None, now).unwrap();
        let armored = secret.certificate().to_armored();
        let signature = secret.sign(&text(number), now).unwrap();
        first.take(|| {
            let keyring = Keyring::new(vec![Certificate::parse(armored.as_bytes()).unwrap()]).unwrap();
            verify(&keyring, &signature, &text(number), now).unwrap()
        });
    }
    first.print(kind, "certificate read for the first time");
    let mut secret = SecretKey::open(&key(suite), None, now).unwrap();
    let keyring = Keyring::new(vec![secret.certificate().clone()]).unwrap();
    let mut kept = Times::default();
    for number in 0..rounds {
        let (text, signature) = (text(number), secret.sign(&text(number), now).unwrap());
        kept.take(|| verify(&keyring, &signature, &text, now).unwrap());
    }
    kept.print(kind, "certificate kept");
}

fn main() {
    let mut rounds = 200;
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--rounds" => rounds = value.parse().unwrap(),
            other => panic!("{other} is not known: --rounds N"),
        }
    }
    for (kind, suite) in KINDS {
        measure(kind, suite, rounds);
    }
}
