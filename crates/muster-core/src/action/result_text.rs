//! What a machine signs of a result, so that whoever reads it later sees that it is the machine's.

use super::CommandStatus;
use crate::AgentId;
use sha2::{Digest, Sha256};

/// Returns the text under a result that the machine `agent` signs with its own key. `order` is the SHA-256 of the text
/// that people signed, `results` the JSON array as it is stored. A server or a database that changes a result, or shows
/// it for another action or machine, cannot make the signature.
pub fn result_text(agent: AgentId, order: &[u8; 32], status: CommandStatus, results: &str) -> String {
    let digest = hex::encode(Sha256::digest(results.as_bytes()));
    format!("muster result 1\nagent {agent}\norder {}\nstatus {status}\nresults {digest}\n", hex::encode(order))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_result_is_in_its_text() {
        let agent = |n| AgentId::from_bytes([n; 8]);
        let text = result_text(agent(1), &[2; 32], CommandStatus::Success, "[]");
        let digest = "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945";
        let order = "02".repeat(32);
        assert_eq!(
            text,
            format!("muster result 1\nagent 0101010101010101\norder {order}\nstatus success\nresults {digest}\n")
        );
        for other in [
            result_text(agent(2), &[2; 32], CommandStatus::Success, "[]"),
            result_text(agent(1), &[3; 32], CommandStatus::Success, "[]"),
            result_text(agent(1), &[2; 32], CommandStatus::Failed, "[]"),
            result_text(agent(1), &[2; 32], CommandStatus::Success, "[ ]"),
        ] {
            assert_ne!(other, text);
        }
    }
}
