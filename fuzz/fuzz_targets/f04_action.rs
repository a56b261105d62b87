//! F-04: an order as delivered is read, checked and turned into the text that is signed; what is signed is a fixed point.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_core::Action;
use muster_trust::{go_json, signed_text};

fuzz_target!(|bytes: &[u8]| {
    let Ok(action) = Action::parse(bytes) else { return };
    let _ = action.check(muster_core::Timestamp::EPOCH);
    let Ok(text) = signed_text(&action) else { return };
    let written = serde_json::to_vec(&action).expect("an action can be written");
    // Escapes may make it longer than may be read.
    if let Ok(again) = Action::parse(&written) {
        assert_eq!(signed_text(&again).as_deref(), Ok(text.as_str()));
    }
    for operation in &action.operations {
        let signed = go_json(operation.parameters.as_str()).expect("it was signed");
        assert_eq!(go_json(&signed), Ok(signed.clone()));
    }
});
