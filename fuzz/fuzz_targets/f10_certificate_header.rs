//! F-10: a certificate header is read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_server::transport::{pem_certificate, xfcc_certificate};

fuzz_target!(|text: &str| {
    let _ = pem_certificate(text);
    if let Ok(pem) = xfcc_certificate(text) {
        let _ = pem_certificate(&pem);
    }
});
