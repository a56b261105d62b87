//! Which algorithms are strong enough, in the OpenPGP library's terms, and how times are handed to it.

use muster_core::Timestamp;
use sequoia_openpgp::policy::{AsymmetricAlgorithm, StandardPolicy};
use sequoia_openpgp::types::HashAlgorithm;
use std::time::{Duration, SystemTime};

/// Hashes that a signature may use, over data and over keys.
const HASHES: [HashAlgorithm; 5] = [
    HashAlgorithm::SHA256,
    HashAlgorithm::SHA384,
    HashAlgorithm::SHA512,
    HashAlgorithm::SHA3_256,
    HashAlgorithm::SHA3_512,
];

/// Keys that may sign: RSA of 2048 bits or more, ECDSA on the curves of NIST, Ed25519.
const KEYS: [AsymmetricAlgorithm; 8] = [
    AsymmetricAlgorithm::RSA2048,
    AsymmetricAlgorithm::RSA3072,
    AsymmetricAlgorithm::RSA4096,
    AsymmetricAlgorithm::NistP256,
    AsymmetricAlgorithm::NistP384,
    AsymmetricAlgorithm::NistP521,
    AsymmetricAlgorithm::EdDSA,
    AsymmetricAlgorithm::Ed25519,
];

/// Returns whether a signature's hash is strong enough.
pub(crate) fn is_strong(hash: HashAlgorithm) -> bool {
    HASHES.contains(&hash)
}

/// Returns the rules for keys and for the signatures that bind their parts.
///
/// The library's own cut-off dates are compared with `now`, never with what a signature says of itself.
pub(crate) fn policy(now: Timestamp) -> StandardPolicy<'static> {
    let mut policy = StandardPolicy::at(system_time(now));
    policy.reject_all_hashes();
    for hash in HASHES {
        policy.accept_hash(hash);
    }
    policy.reject_all_asymmetric_algos();
    for key in KEYS {
        policy.accept_asymmetric_algo(key);
    }
    policy
}

/// Returns the library's form of a moment, in whole seconds as OpenPGP has them; what lies before 1970 becomes 1970.
pub(crate) fn system_time(moment: Timestamp) -> SystemTime {
    let (seconds, _) = moment.to_parts();
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Returns our form of a moment of the library.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::EPOCH.plus(since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sequoia_openpgp::policy::HashAlgoSecurity;

    #[test]
    fn keys_that_are_weak_foreign_or_not_for_signing_are_refused_at_all_times() {
        use AsymmetricAlgorithm as Key;
        let policy = policy(Timestamp::from_secs(1_800_000_000));
        let refused = |key: &Key| policy.asymmetric_algo_cutoff(*key).is_some();
        let good = [Key::RSA2048, Key::RSA3072, Key::RSA4096, Key::NistP256, Key::NistP521, Key::EdDSA, Key::Ed25519];
        assert!(!good.iter().any(refused));
        // The library itself would take several of these.
        for key in [Key::RSA1024, Key::DSA1024, Key::DSA2048, Key::DSA4096, Key::ElGamal4096, Key::BrainpoolP256] {
            assert!(refused(&key), "{key:?}");
        }
        for key in [Key::BrainpoolP512, Key::Cv25519, Key::X25519, Key::Ed448, Key::X448, Key::Unknown] {
            assert!(refused(&key), "{key:?}");
        }
    }

    #[test]
    fn hashes_that_are_weak_bind_no_key_at_any_time() {
        let policy = policy(Timestamp::from_secs(0));
        for security in [HashAlgoSecurity::CollisionResistance, HashAlgoSecurity::SecondPreImageResistance] {
            for weak in [HashAlgorithm::MD5, HashAlgorithm::SHA1, HashAlgorithm::RipeMD, HashAlgorithm::SHA224] {
                assert!(policy.hash_cutoff(weak, security).is_some(), "{weak} for {security:?}");
            }
            for strong in [HashAlgorithm::SHA256, HashAlgorithm::SHA512] {
                assert!(policy.hash_cutoff(strong, security).is_none(), "{strong} for {security:?}");
            }
        }
    }
}
