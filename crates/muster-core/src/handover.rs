//! From one key to the next: what a machine signs with its old key when it was asked for a new one, and what it shows
//! of itself when a server does not know its key yet.

use crate::{AgentId, Facts, MessageId, Timestamp};

/// The old key's word for the new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// The whole old key (DER SubjectPublicKeyInfo).
    pub old_key: Vec<u8>,
    /// The id of the message in which a server demanded a new key. It is the server's own and given once, so a handover
    /// counts for this server and this demand only.
    pub demand: MessageId,
    /// When it was signed, by the machine's clock.
    pub made: Timestamp,
    /// ECDSA over P-256 with SHA-256, in ASN.1, over [`handover_text`].
    pub signature: Vec<u8>,
}

impl Handover {
    /// Returns the id that the machine had.
    pub fn old_agent(&self) -> AgentId {
        AgentId::of_key(&self.old_key)
    }
}

/// Returns the text that the old key signs: `new_key` is the whole new key (DER SubjectPublicKeyInfo). Whoever holds the
/// old key can make it for any new key; a server takes one for each demand.
pub fn handover_text(old_key: &[u8], new_key: &[u8], demand: &MessageId, made: Timestamp) -> String {
    let (old, new) = (hex::encode(old_key), hex::encode(new_key));
    format!("muster handover 1\nold {old}\nnew {new}\ndemand {demand}\nmade {}\n", made.as_nanos())
}

/// What a machine shows of itself at a contact with a server that may not know its key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Introduction {
    /// A few facts: those by which people recognise a machine.
    pub facts: Facts,
    /// Its old key's word, when it was asked for a new one.
    pub handover: Option<Handover>,
}

/// The facts that a machine shows with its first contact, when it has them: those of docs/reference/facts.md by which
/// people recognise it.
pub const INTRODUCED: [&str; 9] = [
    "addresses",
    "agent_version",
    "architecture",
    "fqdn",
    "hostname",
    "kernel",
    "machine_id",
    "os_name",
    "virtualisation",
];

/// The fact by which two keys of one machine are found out.
pub const MACHINE_ID: &str = "machine_id";

/// The fact, `true`, of an agent that can vouch for its next key with [`Handover`].
pub const VOUCHES: &str = "agent_vouches";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_handover_is_in_its_text() {
        let (one, other) = (MessageId::from_bytes([1; 32]), MessageId::from_bytes([2; 32]));
        let text = handover_text(&[1], &[2], &one, Timestamp::from_secs(3));
        let demand = "01".repeat(32);
        assert_eq!(text, format!("muster handover 1\nold 01\nnew 02\ndemand {demand}\nmade 3000000000\n"));
        for changed in [
            handover_text(&[2], &[2], &one, Timestamp::from_secs(3)),
            handover_text(&[1], &[1], &one, Timestamp::from_secs(3)),
            handover_text(&[1], &[2], &other, Timestamp::from_secs(3)),
            handover_text(&[1], &[2], &one, Timestamp::from_secs(4)),
        ] {
            assert_ne!(changed, text);
        }
    }
}
