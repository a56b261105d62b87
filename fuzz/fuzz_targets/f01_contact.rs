//! F-01: whatever bytes an agent posts become a contact within its limits, or an error.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use muster_core::limits;
use muster_proto::contact::{contact_decode, data_decode};

fuzz_target!(|bytes: &[u8]| {
    let body = Bytes::copy_from_slice(bytes);
    if let Ok(received) = contact_decode(body.clone()) {
        assert!(received.data.messages.len() <= limits::CONTACT_MESSAGES_MAX);
        assert!(received.signatures.len() <= limits::CONTACT_SIGNATURES_MAX);
        assert!(received.signatures.iter().all(|signature| !signature.certificate.is_empty()));
    }
    if let Ok(data) = data_decode(body) {
        assert!(data.messages.len() <= limits::CONTACT_MESSAGES_MAX);
        assert!(data.allowed.is_none_or(|allowed| allowed.len() <= limits::CONTACT_SERVICES_MAX));
    }
});
