//! What a machine signs of a result, so that whoever reads it later sees that it is the machine's.

use super::CommandStatus;
use crate::{AgentId, limits, text};
use serde_json::json;

/// Returns the text under a result that the machine `agent` signs with its own key. `order` is the SHA-256 of the text
/// that people signed, `results` that of the JSON array as it is stored. A server or a database that changes a result, or
/// shows it for another action or machine, cannot make the signature.
pub fn result_text(agent: AgentId, order: &[u8; 32], status: CommandStatus, results: &[u8; 32]) -> String {
    let (order, results) = (hex::encode(order), hex::encode(results));
    format!("muster result 1\nagent {agent}\norder {order}\nstatus {status}\nresults {results}\n")
}

/// Returns the text under a refusal that the machine `agent` signs: it refused the order itself, whose copy was signed well
/// enough to be run or which it had run before. Its first line keeps it apart from [`result_text`]: a refusal is no outcome,
/// and the order may run later. What a machine says of a copy that anybody could have spoiled it does not sign.
pub fn refusal_text(agent: AgentId, order: &[u8; 32], status: CommandStatus, results: &[u8; 32]) -> String {
    let (order, results) = (hex::encode(order), hex::encode(results));
    format!("muster refusal 1\nagent {agent}\norder {order}\nstatus {status}\nresults {results}\n")
}

/// Returns why a machine refused, if these results are those of a refusal ([`refused_results`]): `refused (CODE): REASON`.
pub fn refusal_of(results: &str) -> Option<String> {
    let read: serde_json::Value = serde_json::from_str(results).ok()?;
    let error = read.get(0)?.get("errors")?.get(0)?.as_str()?;
    let (code, reason) = error.strip_prefix("refused (")?.split_once("): ")?;
    let same: serde_json::Value = serde_json::from_str(&refused_results(code, reason)).ok()?;
    (same == read).then(|| error.to_owned())
}

/// Returns the results of an order that a machine refused: one failed result that says why. The machine sends the word
/// and the reason and signs these; the server stores them.
pub fn refused_results(code: &str, reason: &str) -> String {
    let reason = text::cut(&text::without_nul(reason), limits::FAILED_REASON_CHARS_MAX);
    let error = format!("refused ({}): {reason}", text::cut(&text::without_nul(code), limits::NAME_BYTES_MAX));
    json!([{ "foundanything": false, "success": false, "elements": null, "statistics": null, "errors": [error] }])
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_result_is_in_its_text() {
        let agent = |n| AgentId::from_bytes([n; 8]);
        let text = result_text(agent(1), &[2; 32], CommandStatus::Success, &[3; 32]);
        let (order, results) = ("02".repeat(32), "03".repeat(32));
        assert_eq!(
            text,
            format!("muster result 1\nagent 0101010101010101\norder {order}\nstatus success\nresults {results}\n")
        );
        for other in [
            result_text(agent(2), &[2; 32], CommandStatus::Success, &[3; 32]),
            result_text(agent(1), &[3; 32], CommandStatus::Success, &[3; 32]),
            result_text(agent(1), &[2; 32], CommandStatus::Failed, &[3; 32]),
            result_text(agent(1), &[2; 32], CommandStatus::Success, &[2; 32]),
        ] {
            assert_ne!(other, text);
        }
    }

    #[test]
    fn a_refusal_reads_the_same_however_often_it_is_written() {
        let text = refused_results("weight", &format!("a\0b {}", "x".repeat(5000)));
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let error = read[0]["errors"][0].as_str().unwrap();
        assert!(error.starts_with("refused (weight): a\u{fffd}b xxx"), "{error}");
        let reason = error.strip_prefix("refused (weight): ").unwrap();
        assert_eq!(refused_results("weight", reason), text);
    }

    #[test]
    fn a_refusal_is_no_result_and_is_known_for_what_it_is() {
        let (agent, status) = (AgentId::from_bytes([1; 8]), CommandStatus::Failed);
        let refusal = refusal_text(agent, &[2; 32], status, &[3; 32]);
        assert_eq!(
            refusal,
            result_text(agent, &[2; 32], status, &[3; 32]).replace("muster result 1", "muster refusal 1")
        );
        let refused = refused_results("weight", "too light");
        assert_eq!(refusal_of(&refused).as_deref(), Some("refused (weight): too light"));
        for other in ["[]", "{}", "[{}]", &refused.replace("null", "1"), &refused.replace("refused", "gone")] {
            assert_eq!(refusal_of(other), None, "{other}");
        }
    }
}
