//! F-09: a certificate or a key is accepted or refused; what is accepted is read the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_server::tls::{certificate_key, key_check};
use rustls_pki_types::CertificateDer;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(key) = certificate_key(&CertificateDer::from(bytes)) {
        assert_eq!(key_check(&key), Ok(()));
    }
    let _ = key_check(bytes);
});
