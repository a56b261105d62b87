//! The lines of the ledger of orders: what each says, and its checksum.
//!
//! Not here: what they mean together, and the file (ledger).

use muster_core::Timestamp;
use serde::{Deserialize, Serialize};

/// SHA-256 of the text that was signed.
pub(crate) type OrderKey = [u8; 32];

/// An order that was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// SHA-256 of the text that was signed, in hexadecimal.
    #[serde(with = "hex_key")]
    pub(crate) key: OrderKey,
    /// When it was taken.
    pub(crate) at: Timestamp,
    /// The server's number for the action.
    pub(crate) action_id: i64,
    /// The server's number for this machine's copy, or 0.
    pub(crate) command_id: i64,
    /// The message it came in, in hexadecimal.
    pub(crate) message: String,
    /// What its author calls it.
    pub(crate) name: String,
    /// Which machines it is for.
    pub(crate) target: String,
    /// What it runs.
    pub(crate) modules: Vec<String>,
    /// Who signed it: fingerprints.
    pub(crate) signers: Vec<String>,
    /// From when it may run.
    pub(crate) valid_from: Timestamp,
    /// Until when it may begin.
    pub(crate) expire_after: Timestamp,
    /// What its signatures say is past: no clock is believed that lies before it.
    pub(crate) floor: Timestamp,
    /// What came of it; `None` while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<Outcome>,
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// When it was over.
    pub(crate) at: Timestamp,
    /// `success`, `failed`, `timeout`, `cancelled` or `interrupted`.
    pub(crate) status: String,
    /// Operations that found something.
    pub(crate) found: usize,
}

/// An order that was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RefusedOrder {
    /// When.
    pub(crate) at: Timestamp,
    /// The server's number for the action.
    pub(crate) action_id: i64,
    /// What its author calls it, as far as that could be read. Nobody vouches for it.
    pub(crate) name: String,
    /// Why, as a word.
    pub(crate) code: String,
    /// Why, for people.
    pub(crate) reason: String,
}

/// Why a ledger begins where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// The machine had no identity before.
    New,
    /// The machine had an identity, but no readable ledger.
    Lost,
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) since: Timestamp,
    pub(super) origin: Origin,
    pub(super) floor: Timestamp,
    /// Orders forgotten, and the hash up to them.
    pub(super) forgotten: u64,
    /// The latest end of the window of whatever was forgotten, orders and cancellations. Ledgers of before do not say.
    #[serde(default)]
    pub(super) forgotten_until: Option<Timestamp>,
    #[serde(with = "hex_key")]
    pub(super) head: [u8; 32],
    /// Bytes that the file had when something was last promised: with fewer it was cut. Always of one width, so that the
    /// line can be written again in its place.
    #[serde(with = "wide_number")]
    pub(super) promised: u64,
    /// Whether a server was reached since: until then the clock may be anything. Ledgers of before do not say.
    #[serde(default = "was_in_contact")]
    pub(super) in_contact: bool,
}

fn was_in_contact() -> bool {
    true
}

/// A line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Line {
    Header(Header),
    Begun(Order),
    Finished {
        #[serde(with = "hex_key")]
        key: OrderKey,
        #[serde(flatten)]
        outcome: Outcome,
    },
    Refused(RefusedOrder),
    /// A cancellation that somebody signed.
    Recalled {
        #[serde(with = "hex_key")]
        key: OrderKey,
        /// Fingerprint.
        signer: String,
        /// The order may begin until then.
        until: Timestamp,
        /// The greatest weight that the signer had here when it came. Ledgers of before do not say.
        #[serde(default)]
        weight: u32,
    },
    /// A cancellation that found no room: no order that its signer may call back runs until then.
    RecallsFull {
        until: Timestamp,
        /// Fingerprint. Ledgers of before do not say whose it was.
        #[serde(default)]
        signer: String,
    },
    /// A moment that somebody who is trusted vouched for, or that this machine's own clock showed.
    Floor {
        at: Timestamp,
    },
    /// A cancellation as it was before: without a signature.
    Cancelled {
        at: Timestamp,
        action_id: i64,
        /// SHA-256 of the signed text in hexadecimal, or nothing.
        signed: String,
    },
}

/// Writes a line, with its checksum and its end.
pub(super) fn write_line(line: &Line) -> Vec<u8> {
    let json = serde_json::to_string(line).expect("text and numbers are JSON");
    format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes())).into_bytes()
}

/// Reads a line. `None`: it is damaged.
pub(super) fn read_line(bytes: &[u8]) -> Option<Line> {
    let (sum, json) = bytes.split_at_checked(9).filter(|(sum, _)| sum[8] == b' ')?;
    let sum = u32::from_str_radix(std::str::from_utf8(&sum[..8]).ok()?, 16).ok()?;
    let line = (crc32c::crc32c(json) == sum).then(|| serde_json::from_slice(json))?;
    line.ok()
}

/// Keys as text.
mod hex_key {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(key: &[u8; 32], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(key))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(d)?;
        let bytes = hex::decode(text).map_err(D::Error::custom)?;
        bytes.try_into().map_err(|_| D::Error::custom("a key has 32 bytes"))
    }
}

/// Numbers as texts of twenty digits.
mod wide_number {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
    pub(super) fn serialize<S: Serializer>(number: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format!("{number:020}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}
