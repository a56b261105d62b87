//! Whether results are those of their machines: each machine signs what it sends with its own key.
//!
//! Stays true: nothing that the server says is believed for it but the text of the results; the machine's id follows
//! from its key, and the order's digest from what people signed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_api::actions::CommandRow;
use muster_core::AgentId;
use muster_core::action::{CommandStatus, refusal_of, refusal_text, result_text};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::default_provider;
use sha2::{Digest, Sha256};

/// What comes before the point in the key of a machine (DER SubjectPublicKeyInfo): the words for P-256.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// What a result's signature says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// The machine signed this result of this order.
    Holds,
    /// There is no result, or none that its machine signed.
    None,
    /// It is said that the machine refused a copy of the order, for this reason, which no machine signs: anybody can spoil
    /// a copy. Whether the order ran there is not known from it.
    Copy(String),
    /// There is a signature, and it is not this machine's under this result of this order.
    Broken(&'static str),
}

/// Checks the result of one machine; `order` is the SHA-256 of the text that people signed.
pub(crate) fn check(row: &CommandRow, order: &[u8; 32]) -> Proof {
    let Some(results) = row.results.as_ref() else { return Proof::None };
    let refusal = refusal_of(results.get()).map(|refusal| reason(&refusal));
    let Some(proof) = row.proof.as_ref() else { return refusal.map_or(Proof::None, Proof::Copy) };
    let (Ok(signature), Ok(key)) = (STANDARD.decode(&proof.signature), STANDARD.decode(&proof.key)) else {
        return Proof::Broken("its signature cannot be read");
    };
    let agent = AgentId::of_key(&key);
    if agent.to_string() != row.agent {
        return Proof::Broken("it is signed by the key of another machine");
    }
    let Some(point) = key.strip_prefix(&P256) else {
        return Proof::Broken("its key is of a kind that machines do not sign with");
    };
    let Ok(status) = row.status.parse::<CommandStatus>() else {
        return Proof::Broken("its status is none that a machine signs");
    };
    let results = Sha256::digest(results.get().as_bytes()).into();
    let known = default_provider().signature_verification_algorithms;
    let kinds = known.mapping.iter().find(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256);
    let signed = |text: String| {
        kinds.is_some_and(|(_, kinds)| {
            kinds.iter().any(|kind| kind.verify_signature(point, text.as_bytes(), &signature).is_ok())
        })
    };
    match refusal {
        Some(_) if signed(refusal_text(agent, order, status, &results)) => Proof::Holds,
        // Agents of before signed the refusal of any copy as what came of the order.
        Some(refusal) if signed(result_text(agent, order, status, &results)) => Proof::Copy(refusal),
        None if signed(result_text(agent, order, status, &results)) => Proof::Holds,
        _ => Proof::Broken("its machine did not sign this result of this action"),
    }
}

/// Returns code and reason of a refusal's text, `refused (weight): too light`.
fn reason(refusal: &str) -> String {
    let parts = refusal.strip_prefix("refused (").and_then(|rest| rest.split_once("): "));
    parts.map_or_else(|| refusal.to_owned(), |(code, reason)| format!("{code}: {reason}"))
}

/// Returns the SHA-256 of the key that a result shows, in hexadecimal; the id of its machine is the beginning of it.
pub(crate) fn key_sha256(row: &CommandRow) -> Option<String> {
    let key = STANDARD.decode(&row.proof.as_ref()?.key).ok()?;
    Some(hex::encode(Sha256::digest(key)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use muster_core::action::refused_results;
    use serde_json::{Value, json};

    /// Made by OpenSSL: a key, and its signature under a result of the order 02…02.
    const KEY: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEUYLgxXr7x2phdi/NPUY5+GZGShVDJEbLO2t4+V0uIqmM7/itP6YIg2Flqap8T/Q9LiU8NlHcSvGWhXaVefsCtg==";
    const SIGNATURE: &str =
        "MEUCIQC5BqklEWx15fnANjVUc37WT7+sa0ykqJn4rvEWDNSAPwIgMBiwPkwTEpelpEpZ3qi4aWhK5/FGHPXVhMo6FlUyGMI=";
    pub(crate) const ORDER: [u8; 32] = [2; 32];

    /// A row whose proof holds, with `changes`.
    pub(crate) fn row(changes: &[(&str, serde_json::Value)]) -> CommandRow {
        let mut row = json!({
            "id": 1, "action": 1, "agent": "2403f56c0a72054a", "hostname": null, "status": "success",
            "handed_out": true, "started": "2026-01-02T03:04:05Z", "finished": null, "found": true,
            "results": [{"foundanything": true}], "proof": {"signature": SIGNATURE, "key": KEY},
        });
        for (name, value) in changes {
            row[*name] = value.clone();
        }
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn a_refusal_that_no_machine_signed_is_that_of_a_copy() {
        let refused = |proof: Value| {
            let results: Value = serde_json::from_str(&refused_results("weight", "too light")).unwrap();
            check(&row(&[("status", json!("failed")), ("results", results), ("proof", proof)]), &ORDER)
        };
        assert_eq!(refused(json!(null)), Proof::Copy("weight: too light".to_owned()));
        // A signature that is another's is worse than none.
        assert!(matches!(refused(json!({"signature": SIGNATURE, "key": KEY})), Proof::Broken(_)));
    }

    /// Made by OpenSSL: another key, and its signatures under a refusal, and under a result that reads as one.
    const REFUSER: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2o3drBITs/6EoLsTxZvHmBS43Wut975+uAGNYNEJByqDdfQ2BThKCoJeBPwqPXtf77OFoZpX8CahkxQuExO3AQ==";
    const AS_REFUSAL: &str =
        "MEQCIB4h25XFRHJcZJUmDMByMDo2KCyIlh1tbE89u3GGu62VAiA13/I6jzZ97cdHl2nORLLSfoR4wNRB0WABRguWiKx7DA==";
    const AS_RESULT: &str =
        "MEQCIE+j8tIvTlNbSjfcwE+Y9tXIgJsQtukK1aY0YNmtedVyAiAcG8i9+dIFMRMDNbemTCIzJxA2BNUhDHpxSkAU72DPvQ==";

    #[test]
    fn a_signed_refusal_holds_under_words_of_its_own_alone() {
        let refused: Value = serde_json::from_str(&refused_results("weight", "too light")).unwrap();
        let refused = |signature: &str| {
            let proof = json!({"signature": signature, "key": REFUSER});
            let status = ("status", json!("failed"));
            let agent = ("agent", json!("ea708ea2c635f5ef"));
            check(&row(&[status, agent, ("results", refused.clone()), ("proof", proof)]), &ORDER)
        };
        assert_eq!(refused(AS_REFUSAL), Proof::Holds);
        assert_eq!(refused(AS_RESULT), Proof::Copy("weight: too light".to_owned()));
    }

    #[test]
    fn what_a_machine_signed_holds_and_nothing_else_does() {
        assert_eq!(check(&row(&[]), &ORDER), Proof::Holds);
        assert_eq!(check(&row(&[("proof", json!(null))]), &ORDER), Proof::None);
        assert_eq!(check(&row(&[("results", json!(null))]), &ORDER), Proof::None);
        assert!(matches!(check(&row(&[]), &[3; 32]), Proof::Broken(_)), "another order");
        let proof = |signature: &str, key: &str| json!({"signature": signature, "key": key});
        for (name, value) in [
            ("results", json!([{"foundanything": false}])),
            ("results", json!([])),
            ("status", json!("failed")),
            ("status", json!("no status")),
            ("agent", json!("2403f56c0a72054b")),
            ("proof", proof("AAAA", KEY)),
            ("proof", proof("", KEY)),
            ("proof", proof("%", KEY)),
            ("proof", proof(SIGNATURE, "AAAA")),
            ("proof", proof(SIGNATURE, "")),
        ] {
            let changed = row(&[(name, value.clone())]);
            assert!(matches!(check(&changed, &ORDER), Proof::Broken(_)), "{name}: {value}");
        }
    }
}
