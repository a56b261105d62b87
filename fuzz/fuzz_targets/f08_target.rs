//! F-08: any text is a target or is refused with its place; what is printed is read as the same target; a machine judges
//! it without failing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_core::target::{Endpoint, OwnRow, Target, expand};
use muster_core::{AgentId, Facts, Timestamp};

fuzz_target!(|text: &str| {
    // A name that is kept stands for a condition; others are refused.
    let text = expand(text, |name| name.starts_with('w').then(|| "name LIKE 'w%'".to_owned()));
    let Ok(text) = text else { return };
    let target = match Target::parse(&text) {
        Ok(target) => target,
        Err(error) => {
            assert!(error.position <= text.chars().count(), "{error}");
            assert_eq!(error.pointed(&text).lines().count(), 2);
            return;
        }
    };
    let printed = target.to_string();
    // Words written out may make it longer than may be read.
    if let Ok(again) = Target::parse(&printed) {
        assert_eq!(again, target, "{printed}");
    }
    let endpoint = Endpoint::observed(AgentId::from_bytes([1; 8]), &Facts::new());
    let tags = muster_core::target::tags(["operator:IT", "web"]);
    let _ = target.evaluate(&OwnRow { endpoint, tags }, Timestamp::EPOCH).verdict();
});
