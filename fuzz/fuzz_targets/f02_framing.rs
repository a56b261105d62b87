//! F-02: however a stream is split, the same records come out, or the same error.
//!
//! The first byte says how many bytes each piece has; the rest is the stream.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use muster_proto::framing::{FrameError, FrameReader};

const RECORD_BYTES_MAX: usize = 1000;

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Bytes>, Option<FrameError>) {
    let mut reader = FrameReader::new(RECORD_BYTES_MAX);
    let mut records = Vec::new();
    for piece in pieces {
        reader.push(Bytes::copy_from_slice(piece));
        loop {
            match reader.record_next() {
                Ok(Some(record)) => records.push(record),
                Ok(None) => break,
                Err(error) => return (records, Some(error)),
            }
        }
    }
    (records, reader.finish().err())
}

fuzz_target!(|input: &[u8]| {
    let Some((size, bytes)) = input.split_first() else { return };
    let whole = read(std::iter::once(bytes));
    assert_eq!(whole, read(bytes.chunks(usize::from(*size).max(1))));
    assert!(whole.0.iter().all(|record| record.len() <= RECORD_BYTES_MAX));
});
