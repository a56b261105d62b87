//! Results on their way: one JSON array, small enough for a message.

use bytes::Bytes;
use flate2::write::ZlibEncoder;
use muster_modules::ModuleResult;
use muster_proto::wire::actions::Packing;
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
}

/// Packs results. As long as they are too large, the largest one is replaced by a failed one that says so.
pub(crate) fn pack(mut results: Vec<ModuleResult>) -> Packed {
    loop {
        let json = serde_json::to_vec(&results).expect("results are text, truth values and JSON");
        let plain_bytes = json.len() as u64;
        let packed = if json.len() < PACK_FROM_BYTES {
            Packed { bytes: json.into(), packing: Packing::None, plain_bytes }
        } else {
            let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&json).expect("memory can be written to");
            let bytes = encoder.finish().expect("memory can be written to").into();
            Packed { bytes, packing: Packing::Deflate, plain_bytes }
        };
        if packed.bytes.len() <= PACKED_BYTES_MAX && plain_bytes <= muster_core::limits::RESULT_BYTES_MAX {
            return packed;
        }
        let size = |result: &ModuleResult| serde_json::to_vec(result).map_or(0, |json| json.len());
        let largest = results.iter_mut().max_by_key(|result| size(result)).expect("no results are small");
        let was = size(largest);
        let found = largest.foundanything;
        *largest = ModuleResult::failed(format!("the result has {was} bytes and does not fit into a message"));
        largest.foundanything = found;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn plain(packed: &Packed) -> Vec<ModuleResult> {
        let mut json = Vec::new();
        match packed.packing {
            Packing::None => json.extend_from_slice(&packed.bytes),
            Packing::Deflate => drop(flate2::read::ZlibDecoder::new(&packed.bytes[..]).read_to_end(&mut json).unwrap()),
        }
        assert_eq!(json.len() as u64, packed.plain_bytes);
        serde_json::from_slice(&json).unwrap()
    }

    #[test]
    fn small_results_travel_plain_and_large_ones_packed() {
        let small = vec![ModuleResult::ran(true, "x", 1)];
        let packed = pack(small.clone());
        assert_eq!((packed.packing, plain(&packed)), (Packing::None, small));
        let large = vec![ModuleResult::ran(true, "x".repeat(5_000_000), 1)];
        let packed = pack(large.clone());
        assert!(packed.bytes.len() < 100_000);
        assert_eq!((packed.packing, plain(&packed)), (Packing::Deflate, large));
    }

    #[test]
    fn results_that_no_server_unpacks_are_too_large_however_well_they_pack() {
        let results = vec![ModuleResult::ran(true, "x".repeat(7_000_000), 1); 3];
        let plain = plain(&pack(results.clone()));
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
        let packed = pack(results.clone());
        let plain = plain(&packed);
        assert_eq!(plain[0], results[0]);
        assert!(plain[1].errors()[0].contains("does not fit") && plain[1].foundanything && !plain[1].success);
    }
}
