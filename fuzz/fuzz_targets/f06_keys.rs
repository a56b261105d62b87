//! F-06: keys, armored or binary, and lists of weights are accepted or refused; what is accepted reads the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_core::Timestamp;
use muster_trust::{Acl, Certificate};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(certificate) = Certificate::parse(bytes) {
        let _ = certificate.signing_keys(Timestamp::from_secs(1_795_183_200));
        // Written with what the reader threw away left out, it may still be longer than what was read.
        if let Ok(again) = Certificate::parse(certificate.to_armored().as_bytes()) {
            assert_eq!(again.fingerprint(), certificate.fingerprint());
        }
    }
    if let Ok(acl) = Acl::parse(bytes) {
        assert_eq!(Acl::parse(acl.to_json().as_bytes()), Ok(acl));
    }
});
