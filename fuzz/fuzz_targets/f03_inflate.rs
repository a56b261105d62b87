//! F-03: an inflater keeps its ceilings, whatever it is fed and however that is split.
//!
//! The first byte says how many bytes each piece has; the rest is what is inflated, and what is deflated and back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_proto::inflate::{InflateError, Inflater, STEP_BYTES, deflate};

const BYTES_MAX: usize = 100_000;

fn inflate<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, InflateError> {
    let mut inflater = Inflater::new(BYTES_MAX as u64);
    let mut output = Vec::new();
    for piece in pieces {
        let result = inflater.all(piece, &mut output);
        assert!(output.len() <= BYTES_MAX + STEP_BYTES);
        result?;
    }
    inflater.finish().map(|()| output)
}

fuzz_target!(|input: &[u8]| {
    let Some((size, bytes)) = input.split_first() else { return };
    let size = usize::from(*size).max(1);
    // Which of two faults is met first depends on the pieces; whether there is one does not.
    assert_eq!(inflate(std::iter::once(bytes)).ok(), inflate(bytes.chunks(size)).ok());
    if bytes.len() <= BYTES_MAX {
        assert_eq!(inflate(deflate(bytes).chunks(size)).as_deref(), Ok(bytes));
    }
});
