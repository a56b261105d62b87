//! Results on their way: one JSON array, small enough for a message.

use bytes::Bytes;
use flate2::write::ZlibEncoder;
use muster_modules::ModuleResult;
use muster_proto::wire::actions::Packing;
use sha2::{Digest, Sha256};
use std::io::Write;

/// Bytes of results in one message, packed; a message has room for its other parts besides.
const PACKED_BYTES_MAX: usize = muster_core::limits::MESSAGE_BYTES_MAX - 256 * 1024;
/// Results smaller than this travel as they are.
const PACK_FROM_BYTES: usize = 4096;

/// Results, packed.
#[derive(Debug, PartialEq)]
pub(crate) struct Packed {
    /// As they travel.
    pub(crate) bytes: Bytes,
    /// How.
    pub(crate) packing: Packing,
    /// Bytes before packing.
    pub(crate) plain_bytes: u64,
    /// SHA-256 before packing.
    pub(crate) plain_sha256: [u8; 32],
}

/// The result of one operation, as it travels: its text takes a small part of the memory that its values do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    /// Whether something was found.
    pub(crate) found: bool,
    json: Vec<u8>,
}

impl Part {
    /// Writes a result.
    pub(crate) fn of(result: &ModuleResult) -> Self {
        let json = serde_json::to_vec(result).expect("results are text, truth values and JSON");
        Self { found: result.foundanything, json }
    }

    /// Returns how many bytes it has.
    pub(crate) fn bytes(&self) -> usize {
        self.json.len()
    }

    /// Returns a failed result in the place of this one.
    pub(crate) fn replaced(&self, why: &str) -> Self {
        let why = format!("the result has {} bytes and {why}", self.bytes());
        Self::of(&ModuleResult { foundanything: self.found, ..ModuleResult::failed(why) })
    }
}

/// Packs results. As long as they are too large, the largest one is replaced by a failed one that says so.
pub(crate) fn pack(mut parts: Vec<Part>) -> Packed {
    loop {
        let json = array(&parts);
        let plain_bytes = json.len() as u64;
        let plain_sha256 = Sha256::digest(&json).into();
        let packed = if json.len() < PACK_FROM_BYTES {
            Packed { bytes: json.into(), packing: Packing::None, plain_bytes, plain_sha256 }
        } else {
            let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&json).expect("memory can be written to");
            let bytes = encoder.finish().expect("memory can be written to").into();
            Packed { bytes, packing: Packing::Deflate, plain_bytes, plain_sha256 }
        };
        if packed.bytes.len() <= PACKED_BYTES_MAX && plain_bytes <= muster_core::limits::RESULT_BYTES_MAX {
            return packed;
        }
        let largest = parts.iter_mut().max_by_key(|part| part.bytes()).expect("no results are small");
        *largest = largest.replaced("does not fit into a message");
    }
}

/// Puts results together as one JSON array.
fn array(parts: &[Part]) -> Vec<u8> {
    let mut json = Vec::with_capacity(parts.iter().map(|part| part.bytes() + 1).sum::<usize>() + 2);
    json.push(b'[');
    for (number, part) in parts.iter().enumerate() {
        if number > 0 {
            json.push(b',');
        }
        json.extend_from_slice(&part.json);
    }
    json.push(b']');
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn pack(results: &[ModuleResult]) -> Packed {
        super::pack(results.iter().map(Part::of).collect())
    }

    fn plain(packed: &Packed) -> Vec<ModuleResult> {
        let mut json = Vec::new();
        match packed.packing {
            Packing::None => json.extend_from_slice(&packed.bytes),
            Packing::Deflate => drop(flate2::read::ZlibDecoder::new(&packed.bytes[..]).read_to_end(&mut json).unwrap()),
        }
        assert_eq!(json.len() as u64, packed.plain_bytes);
        assert_eq!(packed.plain_sha256, <[u8; 32]>::from(Sha256::digest(&json)));
        serde_json::from_slice(&json).unwrap()
    }

    #[test]
    fn small_results_travel_plain_and_large_ones_packed() {
        assert_eq!(&pack(&[]).bytes[..], b"[]");
        let small = vec![ModuleResult::ran(true, "x", 1), ModuleResult::failed("y")];
        let packed = pack(&small);
        assert_eq!((packed.packing, plain(&packed)), (Packing::None, small));
        let large = vec![ModuleResult::ran(true, "x".repeat(5_000_000), 1)];
        let packed = pack(&large);
        assert!(packed.bytes.len() < 100_000);
        assert_eq!((packed.packing, plain(&packed)), (Packing::Deflate, large));
    }

    #[test]
    fn results_that_no_server_unpacks_are_too_large_however_well_they_pack() {
        let results = vec![ModuleResult::ran(true, "x".repeat(7_000_000), 1); 3];
        let plain = plain(&pack(&results));
        assert_eq!(plain.iter().filter(|result| **result == results[0]).count(), 2);
        assert_eq!(plain.iter().filter(|result| !result.success && result.foundanything).count(), 1);
    }

    #[test]
    fn a_result_that_cannot_fit_is_replaced_and_the_others_stay() {
        // Random enough that packing does not help.
        let mut state = 1_u64;
        let noise: String = (0..4_000_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                char::from(b'!' + u8::try_from((state >> 33) % 90).unwrap())
            })
            .collect();
        let results = vec![ModuleResult::ran(false, "kept", 1), ModuleResult::ran(true, noise, 1)];
        let packed = pack(&results);
        let plain = plain(&packed);
        assert_eq!(plain[0], results[0]);
        assert!(plain[1].errors()[0].contains("does not fit") && plain[1].foundanything && !plain[1].success);
    }
}
