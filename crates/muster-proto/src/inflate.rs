//! Inflating what strangers deflated (`Content-Encoding: deflate`, which means zlib, RFC 1950).
//!
//! Stays true: one call gives at most [`STEP_BYTES`], so whoever calls decides after each of them whether to go on, and
//! sets memory aside for it. What bounds a bomb is that, and the ceiling on what comes out; not how often the bytes were
//! folded: zlib makes a thousandth of one log line repeated, and an honest machine sends that. Not here: which encodings
//! are known (muster-server).

use flate2::{Decompress, FlushDecompress, Status};
/// Bytes that one step gives at most.
pub const STEP_BYTES: usize = 16 * 1024;

/// Why deflated bytes are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// They are no zlib stream, or a broken one.
    #[error("the body is not a whole zlib stream")]
    Broken,
    /// They end before the zlib stream does.
    #[error("the body ends before its zlib stream does")]
    Truncated,
    /// They go on after the zlib stream.
    #[error("the body goes on after its zlib stream")]
    Trailing,
    /// They need a dictionary that nobody has.
    #[error("the zlib stream needs a preset dictionary")]
    Dictionary,
    /// They inflate to more than the ceiling.
    #[error("the body inflates to more than {0} bytes")]
    TooLong(u64),
}

impl InflateError {
    /// Whether it is the size that is refused, and not the form.
    pub fn is_size(&self) -> bool {
        matches!(self, Self::TooLong(_))
    }
}

/// An inflater for one body.
#[derive(Debug)]
pub struct Inflater {
    zlib: Decompress,
    bytes_max: u64,
    ended: bool,
}

impl Inflater {
    /// Starts an inflater that gives at most `bytes_max` bytes in all (`u64::MAX` for a stream, whose records have
    /// their own ceiling).
    pub fn new(bytes_max: u64) -> Self {
        Self { zlib: Decompress::new(true), bytes_max, ended: false }
    }

    /// Inflates some of `input` onto the end of `output`, at most [`STEP_BYTES`]. Returns the rest of `input`, and whether
    /// there may be more to come from it: repeat until not.
    pub fn step<'a>(&mut self, input: &'a [u8], output: &mut Vec<u8>) -> Result<(&'a [u8], More), InflateError> {
        if self.ended {
            return if input.is_empty() { Ok((input, More::No)) } else { Err(InflateError::Trailing) };
        }
        let (read_before, given_before) = (self.zlib.total_in(), self.zlib.total_out());
        let mut step = [0; STEP_BYTES];
        let status = self.zlib.decompress(input, &mut step, FlushDecompress::None).map_err(|error| {
            if error.needs_dictionary().is_some() { InflateError::Dictionary } else { InflateError::Broken }
        })?;
        let (read, given) = (self.zlib.total_in() - read_before, self.zlib.total_out() - given_before);
        let read = usize::try_from(read).expect("no more than was given to it");
        let given = usize::try_from(given).expect("no more than a step");
        self.check()?;
        output.extend_from_slice(&step[..given]);
        let rest = &input[read..];
        self.ended = status == Status::StreamEnd;
        if self.ended {
            return if rest.is_empty() { Ok((rest, More::No)) } else { Err(InflateError::Trailing) };
        }
        // A step that is not full has given all there was. One that is full may have more in store even when all of
        // the input is read.
        let more = if given == STEP_BYTES || (read > 0 && !rest.is_empty()) { More::Maybe } else { More::No };
        if more == More::No && !rest.is_empty() {
            return Err(InflateError::Broken);
        }
        Ok((rest, more))
    }

    /// Inflates all of `input` onto the end of `output`.
    pub fn all(&mut self, mut input: &[u8], output: &mut Vec<u8>) -> Result<(), InflateError> {
        loop {
            let (rest, more) = self.step(input, output)?;
            if more == More::No {
                return Ok(());
            }
            input = rest;
        }
    }

    /// Checks that the zlib stream has ended, once its body has. A body without a byte is whole, too.
    pub fn finish(&self) -> Result<(), InflateError> {
        if self.ended || self.zlib.total_in() == 0 { Ok(()) } else { Err(InflateError::Truncated) }
    }

    fn check(&self) -> Result<(), InflateError> {
        let is_over = self.zlib.total_out() > self.bytes_max;
        if is_over { Err(InflateError::TooLong(self.bytes_max)) } else { Ok(()) }
    }
}

/// Whether a step left something in store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    /// Call again with the rest.
    Maybe,
    /// All is given that can be given without further input.
    No,
}

/// Deflates `bytes` as one zlib stream.
pub fn deflate(bytes: &[u8]) -> Vec<u8> {
    deflate_with(bytes, flate2::Compression::fast())
}

fn deflate_with(bytes: &[u8], compression: flate2::Compression) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), compression);
    encoder.write_all(bytes).expect("a Vec takes everything");
    encoder.finish().expect("a Vec takes everything")
}

/// Deflates a body piece by piece; every piece can be inflated as soon as it has arrived.
#[derive(Debug)]
pub struct Deflater(flate2::Compress);

impl Default for Deflater {
    fn default() -> Self {
        Self(flate2::Compress::new(flate2::Compression::fast(), true))
    }
}

impl Deflater {
    /// Returns the deflated form of `bytes`, ending where an inflater can give all of them.
    pub fn piece(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.run(bytes, flate2::FlushCompress::Sync)
    }

    /// Returns the end of the zlib stream.
    pub fn finish(mut self) -> Vec<u8> {
        self.run(&[], flate2::FlushCompress::Finish)
    }

    fn run(&mut self, mut bytes: &[u8], flush: flate2::FlushCompress) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() / 2 + 64);
        loop {
            let before = self.0.total_in();
            let status = self.0.compress_vec(bytes, &mut out, flush).expect("deflating cannot fail");
            let read = usize::try_from(self.0.total_in() - before).expect("no more than was given to it");
            bytes = &bytes[read..];
            // Room that is left over means that everything was flushed.
            if status == flate2::Status::StreamEnd || (bytes.is_empty() && out.len() < out.capacity()) {
                return out;
            }
            out.reserve(out.len().max(64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn inflate(pieces: &[&[u8]], bytes_max: u64) -> Result<Vec<u8>, InflateError> {
        let mut inflater = Inflater::new(bytes_max);
        let mut output = Vec::new();
        for piece in pieces {
            inflater.all(piece, &mut output)?;
        }
        inflater.finish().map(|()| output)
    }

    proptest! {
        #[test]
        fn what_was_deflated_comes_back_however_it_is_split(
            bytes in prop::collection::vec(any::<u8>(), 0..5000),
            times in 1_usize..40,
            size in 1_usize..700,
        ) {
            let bytes = bytes.repeat(times);
            let deflated = deflate(&bytes);
            let pieces: Vec<_> = deflated.chunks(size).collect();
            prop_assert_eq!(inflate(&pieces, u64::MAX), Ok(bytes));
        }

        #[test]
        fn pieces_arrive_as_they_are_sent(pieces in prop::collection::vec(prop::collection::vec(0_u8..4, 0..9000), 1..6)) {
            let mut deflater = Deflater::default();
            let mut inflater = Inflater::new(u64::MAX);
            for piece in &pieces {
                let mut output = Vec::new();
                inflater.all(&deflater.piece(piece), &mut output).unwrap();
                prop_assert_eq!(&output, piece);
            }
            prop_assert!(inflater.finish().is_err());
            inflater.all(&deflater.finish(), &mut Vec::new()).unwrap();
            prop_assert_eq!(inflater.finish(), Ok(()));
        }

        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>) {
            drop(inflate(&[&bytes], 1000));
        }
    }

    #[test]
    fn broken_streams_are_told_apart() {
        let good = deflate(b"hello hello hello hello");
        let mut bad_adler = good.clone();
        *bad_adler.last_mut().unwrap() ^= 1;
        let trailing = [&good[..], b"x"].concat();
        let doubled = [&good[..], &good].concat();
        assert_eq!(inflate(&[&good[..good.len() - 1]], 100), Err(InflateError::Truncated));
        assert_eq!(inflate(&[&good[..1]], 100), Err(InflateError::Truncated));
        assert_eq!(inflate(&[&bad_adler], 100), Err(InflateError::Broken));
        assert_eq!(inflate(&[&trailing], 100), Err(InflateError::Trailing));
        assert_eq!(inflate(&[&good, b"x"], 100), Err(InflateError::Trailing));
        assert_eq!(inflate(&[&doubled], 100), Err(InflateError::Trailing));
        assert_eq!(inflate(&[b"plain text"], 100), Err(InflateError::Broken));
        // Header with FDICT set and an (arbitrary) dictionary id.
        assert_eq!(inflate(&[b"\x78\xbb\x00\x00\x00\x01\x03\x00\x00\x00\x00\x01"], 100), Err(InflateError::Dictionary));
        assert_eq!(inflate(&[], 100), Ok(vec![]));
    }

    #[test]
    fn a_body_may_inflate_to_its_ceiling_and_no_further() {
        let body = vec![7; 1000];
        assert_eq!(inflate(&[&deflate(&body)], 1000), Ok(body.clone()));
        assert_eq!(inflate(&[&deflate(&body)], 999), Err(InflateError::TooLong(999)));
    }

    #[test]
    fn a_bomb_is_refused_at_its_ceiling_and_what_is_only_regular_is_not() {
        const CEILING: usize = 20 << 20;
        let best = |body: &[u8]| deflate_with(body, flate2::Compression::best());
        let mut inflater = Inflater::new(CEILING as u64);
        let mut output = Vec::new();
        assert_eq!(inflater.all(&best(&vec![0; 50 << 20]), &mut output), Err(InflateError::TooLong(CEILING as u64)));
        assert!(output.len() <= CEILING, "{}", output.len());
        // Zeros to the last byte, a thousand to one, and a line of a log again and again.
        let line = b"Dec  1 00:00:00 host kernel: usb 1-1: device not accepting address 5, error -71\n";
        for body in [vec![0; CEILING], line.repeat(CEILING / line.len())] {
            let deflated = best(&body);
            assert!(body.len() > 200 * deflated.len(), "{}", deflated.len());
            assert_eq!(inflate(&[&deflated], CEILING as u64).map(|found| found == body), Ok(true));
        }
    }
}
