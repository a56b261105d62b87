//! Identifiers: who and what, as fixed-length bytes with one text form each.
//!
//! Stays true: an identifier is parsed before it is used, so no path, query or log line ever holds a raw one.

use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// Why a text or a byte string is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The bytes are not as many as this kind of identifier has.
    #[error("{kind} must be {want} bytes, this one has {have}")]
    Length {
        /// What kind of identifier was expected.
        kind: &'static str,
        /// Bytes wanted.
        want: usize,
        /// Bytes found.
        have: usize,
    },
    /// The text is not lower-case or upper-case hexadecimal of the right length.
    #[error("{kind} must be {digits} hexadecimal digits, not {text:?}")]
    Text {
        /// What kind of identifier was expected.
        kind: &'static str,
        /// Hexadecimal digits wanted.
        digits: usize,
        /// What was given, cut to 64 characters.
        text: String,
    },
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// How many bytes one has.
            pub const BYTES: usize = $bytes;

            /// Takes the bytes as they are.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// Takes a slice, if it has the right length.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, IdError> {
                bytes.try_into().map(Self).map_err(|_| IdError::Length {
                    kind: $kind,
                    want: $bytes,
                    have: bytes.len(),
                })
            }

            /// Returns the bytes.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| IdError::Text {
                    kind: $kind,
                    digits: $bytes * 2,
                    text: text.chars().take(64).collect(),
                })?;
                Ok(Self(bytes))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

byte_id!(
    /// A machine: the first 8 bytes of the SHA-256 of its public key (DER SubjectPublicKeyInfo).
    ///
    /// The id alone proves nothing: whoever accepts a contact compares the whole public key with the stored one,
    /// because 64 bits can be met by somebody who tries many keys against many machines.
    AgentId, 8, "an agent id"
);
byte_id!(
    /// A message: 32 bytes. From an agent it is derived ([`MessageId::derive`]), so that a message sent again has the
    /// same one; made on a server it starts with the time ([`MessageId::ordered`]), so that indexes grow at one end.
    MessageId, 32, "a message id"
);
byte_id!(
    /// A broadcast: 8 bytes, chosen by its creator or drawn at random.
    BroadcastId, 8, "a broadcast id"
);
byte_id!(
    /// A server's share of a broadcast's limit.
    AllocationId, 8, "an allocation id"
);
byte_id!(
    /// One run of one server process; a restarted server has a new one.
    ServerId, 8, "a server id"
);

impl AgentId {
    /// Returns the id of the key whose DER SubjectPublicKeyInfo is `spki`.
    pub fn of_key(spki: &[u8]) -> Self {
        let digest = Sha256::digest(spki);
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        Self(id)
    }
}

impl MessageId {
    /// Returns the id of a message that `agent` sent from `service` under its own name `source_message_id`:
    /// SHA-256 over the three, parted by zero bytes. The agent's id has a fixed length and a service's name holds no
    /// zero byte, so no two triples share their bytes.
    pub fn derive(agent: AgentId, service: &str, source_message_id: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(agent.as_bytes());
        hash.update([0]);
        hash.update(service.as_bytes());
        hash.update([0]);
        hash.update(source_message_id);
        Self(hash.finalize().into())
    }

    /// Returns an id that sorts by `now`: 8 bytes of time, then 24 of `random`.
    pub fn ordered(now: crate::Timestamp, random: [u8; 24]) -> Self {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&now.as_nanos().to_be_bytes());
        id[8..].copy_from_slice(&random);
        Self(id)
    }
}

/// One contact of one agent, as the store numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ContactId(pub i64);

impl fmt::Display for ContactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    #[test]
    fn an_agent_id_is_the_head_of_the_hash_of_its_key() {
        // SHA-256 of the empty string starts e3b0c44298fc1c14.
        assert_eq!(AgentId::of_key(b"").to_string(), "e3b0c44298fc1c14");
    }

    #[test]
    fn a_text_of_another_shape_is_refused_with_a_reason() {
        for text in ["", "nil", "../clients/server", "e3b0c44298fc1c1", "e3b0c44298fc1c14 ", "g3b0c44298fc1c14"] {
            let error = text.parse::<AgentId>().unwrap_err();
            assert!(error.to_string().contains("16 hexadecimal digits"), "{text}: {error}");
        }
        assert!(AgentId::from_slice(&[0; 9]).is_err());
    }

    #[test]
    fn ids_made_later_sort_later() {
        let early = MessageId::ordered(Timestamp::from_nanos(5), [255; 24]);
        let late = MessageId::ordered(Timestamp::from_nanos(6), [0; 24]);
        assert!(early < late);
    }

    #[test]
    fn derived_ids_differ_wherever_any_part_differs() {
        let agent = AgentId::from_bytes([1; 8]);
        let id = |service: &str, source: &[u8]| MessageId::derive(agent, service, source);
        assert_eq!(id("a", b"\0b"), id("a", b"\0b"));
        assert_ne!(id("a", b"\0b"), id("a\u{1}", b"b"));
        assert_ne!(id("a", b"b"), id("ab", b""));
        assert_ne!(id("a", b"b"), MessageId::derive(AgentId::from_bytes([2; 8]), "a", b"b"));
    }

    proptest::proptest! {
        #[test]
        fn s01_no_two_messages_of_machines_share_an_id(
            one in (proptest::array::uniform8(0_u8..2), "[^\0]{0,3}", proptest::collection::vec(0_u8..2, 0..=64)),
            other in (proptest::array::uniform8(0_u8..2), "[^\0]{0,3}", proptest::collection::vec(0_u8..2, 0..=64)),
            split in 0_usize..64,
        ) {
            let id = |(agent, service, source): &([u8; 8], String, Vec<u8>)| {
                MessageId::derive(AgentId::from_bytes(*agent), service, source)
            };
            proptest::prop_assert_eq!(id(&one) == id(&other), one == other);
            // What hashes could be moved between the parts: a name never holds a zero byte, so its end is where it is.
            let source = &one.2;
            let (head, tail) = source.split_at(split.min(source.len()));
            if let Ok(head) = std::str::from_utf8(head) {
                let moved = (one.0, format!("{}{}", one.1, head.replace('\0', "x")), tail.to_vec());
                proptest::prop_assert_eq!(id(&one) == id(&moved), one == moved);
            }
        }
    }
}
