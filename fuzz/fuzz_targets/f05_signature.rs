//! F-05: no bytes make a signature over a text that nobody signed, and none make the library end the process.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_core::Timestamp;
use muster_trust::{Certificate, Keyring, signature, verify};
use std::sync::LazyLock;

static KEYRING: LazyLock<Keyring> = LazyLock::new(|| {
    let key = include_bytes!("../../crates/muster-trust/tests/fixtures/signer.asc");
    Keyring::new(vec![Certificate::parse(key).expect("the fixture is a key")]).expect("one key is a keyring")
});

fuzz_target!(|bytes: &[u8]| {
    // 2026-11-20T14:00:00Z, when the fixture's key is valid.
    let now = Timestamp::from_secs(1_795_183_200);
    assert!(verify(&KEYRING, &signature::encode(bytes), b"an order that nobody signed", now).is_err());
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(verify(&KEYRING, text, b"an order that nobody signed", now).is_err());
    }
});
