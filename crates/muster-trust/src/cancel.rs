//! Cancellations: who may call an order back, and the text that such a person signs.
//!
//! Stays true: a cancellation names an order by what was signed, never by a server's number; it is one of a fleet; nobody can
//! take a signature over it for one over an order or a document, nor the other way round. Not here: where cancellations
//! are remembered, and for how long.

use crate::keyring::Keyring;
use crate::ledger::LedgerKey;
use crate::signature::{SignatureError, Signed, verify};
use crate::weights::Acl;
use muster_core::Timestamp;
use muster_core::action::Fingerprint;
use std::collections::BTreeSet;

/// A cancellation, before it is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancellation<'a> {
    /// The fleet in which it counts; empty: in every one.
    pub fleet: &'a str,
    /// The order: SHA-256 of its signed text.
    pub order: &'a [u8; 32],
    /// Until when the order may begin: no machine need remember the cancellation for longer. Whole seconds.
    pub until: Timestamp,
}

impl<'a> Cancellation<'a> {
    /// Cancels the order with the signed text `text`, which may begin until `until`.
    pub fn of(order: &'a LedgerKey, fleet: &'a str, until: Timestamp) -> Self {
        Self { fleet, order: order.as_bytes(), until: Timestamp::from_secs(until.to_parts().0) }
    }

    /// Returns the text that is signed.
    pub fn signing_text(&self) -> String {
        let (fleet, order, until) = (self.fleet, hex::encode(self.order), self.until.to_parts().0);
        format!("muster cancel 1\nfleet {fleet}\norder {order}\nuntil {until}\n")
    }

    /// Verifies a signature over it, a line as in an action.
    pub fn verify(&self, keyring: &Keyring, signature: &str, now: Timestamp) -> Result<Signed, SignatureError> {
        verify(keyring, signature, self.signing_text().as_bytes(), now)
    }
}

/// Whether `canceller` may call back an order of these modules that `signers` signed: one of them may, if this machine gives
/// that key any weight, and so may a key that weighs in each of its modules at least as much as the lightest of them that weighs
/// anything there.
///
/// `had` is the greatest weight that `canceller` had when its cancellation was accepted, 0 for one that is accepted only now.
/// Where that was taken or lowered since, the cancellation counts with it in every module: what somebody called back rightly
/// stays called back after that person is gone, and the few orders that it reaches beyond those are refused, not run.
pub fn may_cancel(
    acl: &Acl,
    modules: &[String],
    signers: &BTreeSet<Fingerprint>,
    canceller: &Fingerprint,
    had: u32,
) -> bool {
    let has = acl.heaviest(canceller);
    if signers.contains(canceller) {
        return has.max(had) > 0;
    }
    let lost = if had > has { u64::from(had) } else { 0 };
    let weight = |module: &str, who: &Fingerprint| {
        let assessed = acl.assess([(module, 0)], &BTreeSet::from([who.clone()]));
        assessed.first().map_or(0, |assessment| assessment.have)
    };
    let as_heavy = |module: &String| {
        let lightest = signers.iter().map(|signer| weight(module, signer)).filter(|weight| *weight > 0).min();
        let have = weight(module, canceller).max(lost);
        have > 0 && lightest.is_some_and(|lightest| have >= lightest)
    };
    !modules.is_empty() && modules.iter().all(as_heavy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Person, at, keyring};
    use serde_json::json;

    #[test]
    fn what_is_signed_names_the_fleet_the_order_and_its_end() {
        let key = LedgerKey::of("abc");
        let half = std::time::Duration::from_millis(500);
        let cancel = Cancellation::of(&key, "lab", at(0).plus(half));
        let text = format!("muster cancel 1\nfleet lab\norder {key}\nuntil 1790000000\n");
        assert_eq!(cancel.signing_text(), text);
        let (ann, eve) = (Person::new(), Person::new());
        let ring = keyring(&[&ann]);
        let line = ann.sign(text.as_bytes(), 100);
        assert_eq!(cancel.verify(&ring, &line, at(200)).unwrap().signer, ann.fingerprint());
        assert!(cancel.verify(&ring, &eve.sign(text.as_bytes(), 100), at(200)).is_err());
        let (other, later) = (LedgerKey::of("abd"), at(1));
        for changed in [
            Cancellation { fleet: "production", ..cancel },
            Cancellation { fleet: "", ..cancel },
            Cancellation { order: other.as_bytes(), ..cancel },
            Cancellation { until: later, ..cancel },
        ] {
            assert_eq!(changed.verify(&ring, &line, at(200)), Err(SignatureError::Mismatch), "{changed:?}");
        }
    }

    #[test]
    fn those_who_signed_may_and_those_who_weigh_as_much() {
        let key = |digit: char| digit.to_string().repeat(40).parse::<Fingerprint>().unwrap();
        let people = json!({
            "heavy": {"fingerprint": key('A'), "weight": 3}, "middle": {"fingerprint": key('B'), "weight": 2},
            "light": {"fingerprint": key('C'), "weight": 1},
        });
        let list = json!({
            "file": {"minimumweight": 2, "investigators": people},
            "ping": {"minimumweight": 1, "investigators": {"light": {"fingerprint": key('C'), "weight": 1}}},
        });
        let acl = Acl::parse(list.to_string().as_bytes()).unwrap();
        let had = |modules: &[&str], signers: &str, canceller, had| {
            let modules: Vec<String> = modules.iter().map(|module| (*module).to_owned()).collect();
            may_cancel(&acl, &modules, &signers.chars().map(key).collect(), &key(canceller), had)
        };
        let may = |modules: &[&str], signers: &str, canceller| had(modules, signers, canceller, 0);
        assert!(may(&["file"], "B", 'B') && may(&["ping"], "A", 'A'), "one's own order");
        assert!(!may(&["ping"], "CF", 'F'), "a signature without weight calls nothing back");
        assert!(may(&["file"], "B", 'A') && !may(&["file"], "B", 'C'));
        assert!(may(&["file"], "BC", 'C'), "one of two who were needed together");
        assert!(!may(&["file", "ping"], "BC", 'A'), "nothing in one of its modules");
        assert!(!may(&["file"], "B", 'F') && !may(&["file"], "F", 'A') && !may(&["none"], "B", 'A'));
        assert!(!may(&[], "B", 'A'));
        // Who had weight and has none any more keeps back what it called back.
        assert!(had(&["file"], "B", 'F', 2) && !had(&["file"], "B", 'F', 1));
        assert!(had(&["ping"], "CF", 'F', 1) && !had(&["none"], "B", 'F', 9) && !had(&[], "B", 'F', 9));
        // Who has as much as then has what the list says, module by module.
        assert!(!had(&["file", "ping"], "BC", 'A', 3) && had(&["file", "ping"], "BC", 'A', 4));
    }
}
