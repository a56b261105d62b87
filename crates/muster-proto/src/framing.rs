//! Frames of a stream: `01 10 EE F1` once, then records, each after its length as an unsigned LEB128.
//!
//! Stays true: how the bytes are split on their way makes no difference; no memory is taken for bytes that were only
//! announced; a reader between two records holds none. Not here: what is in a record ([`crate::contact`]), sockets.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What the agent's side of a stream starts with: 0xF1EE1001, little endian.
pub const MAGIC: [u8; 4] = 0xF1EE_1001_u32.to_le_bytes();

/// Bytes of the longest length: 64 bits, seven to a byte.
const LENGTH_BYTES_MAX: u32 = 10;

/// Why a stream cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stream starts with something else than [`MAGIC`].
    #[error("the stream starts with a wrong magic number")]
    Magic,
    /// A length takes more than ten bytes or 64 bits.
    #[error("the length of a record is not a number of 64 bits")]
    Length,
    /// A record is longer than its ceiling.
    #[error("a record of {have} bytes was announced, only {max} allowed")]
    TooLong {
        /// Bytes announced.
        have: u64,
        /// Bytes allowed.
        max: usize,
    },
    /// The stream ended inside a record or its length.
    #[error("the stream ended in the middle of a record")]
    Truncated,
}

#[derive(Debug, Clone, Copy)]
enum Expect {
    Magic { have: usize },
    Length { value: u64, bytes: u32 },
    Body { length: usize },
}

const NEXT_LENGTH: Expect = Expect::Length { value: 0, bytes: 0 };

/// Reads records out of pieces of a stream.
#[derive(Debug)]
pub struct FrameReader {
    expect: Expect,
    record_bytes_max: usize,
    /// What was pushed and not read yet.
    piece: Bytes,
    /// The head of a record that came in several pieces.
    head: BytesMut,
}

impl FrameReader {
    /// Starts a reader for a stream that begins with [`MAGIC`], as an agent's does.
    pub fn new(record_bytes_max: usize) -> Self {
        Self { expect: Expect::Magic { have: 0 }, ..Self::without_magic(record_bytes_max) }
    }

    /// Starts a reader for a stream of bare records, as a server's answer is.
    pub fn without_magic(record_bytes_max: usize) -> Self {
        Self { expect: NEXT_LENGTH, record_bytes_max, piece: Bytes::new(), head: BytesMut::new() }
    }

    /// Adds a piece. All records of the piece before it must have been taken, until [`FrameReader::record_next`] gave `None`.
    pub fn push(&mut self, piece: Bytes) {
        debug_assert!(self.piece.is_empty(), "records of the last piece were not taken");
        self.piece = piece;
    }

    /// Returns the next whole record; `None` when more is needed. After an error the stream is of no more use.
    pub fn record_next(&mut self) -> Result<Option<Bytes>, FrameError> {
        while !self.piece.is_empty() {
            match self.expect {
                Expect::Magic { have } => self.magic(have)?,
                Expect::Length { value, bytes } => self.length(value, bytes)?,
                Expect::Body { length } => {
                    let record = self.body(length);
                    if record.is_some() {
                        return Ok(record);
                    }
                }
            }
            // A record without bytes is whole as soon as its length is.
            if matches!(self.expect, Expect::Body { length: 0 }) {
                self.expect = NEXT_LENGTH;
                return Ok(Some(Bytes::new()));
            }
        }
        // An empty slice would hold on to the buffer that it was cut from.
        self.piece = Bytes::new();
        Ok(None)
    }

    /// Checks that the stream may end here: after [`MAGIC`] and between two records.
    pub fn finish(&self) -> Result<(), FrameError> {
        match self.expect {
            Expect::Length { bytes: 0, .. } if self.piece.is_empty() => Ok(()),
            _ => Err(FrameError::Truncated),
        }
    }

    fn magic(&mut self, have: usize) -> Result<(), FrameError> {
        if self.piece.get_u8() != MAGIC[have] {
            return Err(FrameError::Magic);
        }
        let have = have + 1;
        self.expect = if have == MAGIC.len() { NEXT_LENGTH } else { Expect::Magic { have } };
        Ok(())
    }

    fn length(&mut self, value: u64, bytes: u32) -> Result<(), FrameError> {
        let byte = self.piece.get_u8();
        // The tenth byte has room for one bit.
        if bytes + 1 == LENGTH_BYTES_MAX && byte > 1 {
            return Err(FrameError::Length);
        }
        let value = value | u64::from(byte & 0x7f) << (7 * bytes);
        self.expect = if byte < 0x80 {
            let max = self.record_bytes_max;
            let length = usize::try_from(value).ok().filter(|length| *length <= max);
            Expect::Body { length: length.ok_or(FrameError::TooLong { have: value, max })? }
        } else {
            Expect::Length { value, bytes: bytes + 1 }
        };
        Ok(())
    }

    fn body(&mut self, length: usize) -> Option<Bytes> {
        let missing = length - self.head.len();
        if self.head.is_empty() && self.piece.len() >= missing {
            self.expect = NEXT_LENGTH;
            return Some(self.piece.split_to(length));
        }
        let part = self.piece.split_to(missing.min(self.piece.len()));
        self.head.extend_from_slice(&part);
        if self.head.len() < length {
            return None;
        }
        self.expect = NEXT_LENGTH;
        // Taken whole, so that an idle stream keeps no buffer.
        Some(std::mem::take(&mut self.head).freeze())
    }
}

/// Writes one record with its length.
pub fn record_put(record: &impl prost::Message, out: &mut impl BufMut) {
    record.encode_length_delimited(out).expect("the buffer grows");
}

/// Returns one record with its length.
pub fn record_bytes(record: &impl prost::Message) -> Bytes {
    record.encode_length_delimited_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(reader: &mut FrameReader, pieces: &[&[u8]]) -> Result<Vec<Bytes>, FrameError> {
        let mut records = Vec::new();
        for piece in pieces {
            reader.push(Bytes::copy_from_slice(piece));
            while let Some(record) = reader.record_next()? {
                records.push(record);
            }
        }
        Ok(records)
    }

    fn stream(records: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for record in records {
            prost::encoding::encode_varint(record.len() as u64, &mut bytes);
            bytes.extend_from_slice(record);
        }
        bytes
    }

    proptest! {
        #[test]
        fn splits_make_no_difference(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let bytes = stream(&records);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect();
            let mut reader = FrameReader::new(300);
            prop_assert_eq!(read_all(&mut reader, &pieces).unwrap(), records);
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn every_cut_off_stream_is_noticed(record in prop::collection::vec(any::<u8>(), 1..300), cut: prop::sample::Index) {
            let bytes = stream(&[record]);
            let cut = cut.index(bytes.len());
            let mut reader = FrameReader::new(300);
            prop_assert_eq!(read_all(&mut reader, &[&bytes[..cut]]).unwrap(), Vec::<Bytes>::new());
            prop_assert_eq!(reader.finish().is_ok(), cut == MAGIC.len());
        }

        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>) {
            drop(read_all(&mut FrameReader::without_magic(100), &[&bytes]));
        }
    }

    #[test]
    fn single_bytes_are_enough() {
        let bytes = stream(&[vec![1; 200], vec![], vec![2]]);
        let pieces: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(read_all(&mut FrameReader::new(200), &pieces).unwrap(), [&[1; 200][..], &[], &[2]]);
    }

    #[test]
    fn a_wrong_start_is_refused_at_its_first_wrong_byte() {
        assert_eq!(read_all(&mut FrameReader::new(9), &[b"\x01\x10\xee"]), Ok(vec![]));
        assert_eq!(read_all(&mut FrameReader::new(9), &[b"\x01\x10\xee\xf2"]), Err(FrameError::Magic));
        assert_eq!(read_all(&mut FrameReader::new(9), &[b"P"]), Err(FrameError::Magic));
    }

    #[test]
    fn announced_lengths_are_checked_before_anything_is_kept() {
        let with = |length: &[u8]| {
            let mut reader = FrameReader::without_magic(20);
            let result = read_all(&mut reader, &[length]);
            assert_eq!(reader.head.capacity(), 0);
            result
        };
        let too_long = |have| Err(FrameError::TooLong { have, max: 20 });
        assert_eq!(with(b"\x15"), too_long(21));
        assert_eq!(with(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), too_long(u64::MAX));
        assert_eq!(with(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), Err(FrameError::Length));
        assert_eq!(with(b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"), Err(FrameError::Length));
        // A length may be written with more bytes than it needs.
        assert_eq!(with(b"\x81\x80\x00x"), Ok(vec![Bytes::from_static(b"x")]));
    }

    #[test]
    fn a_reader_between_two_records_holds_nothing() {
        let mut reader = FrameReader::new(1 << 20);
        let bytes = stream(&[vec![7; 100_000]]);
        let (head, tail) = bytes.split_at(50_000);
        assert_eq!(read_all(&mut reader, &[head, tail]).unwrap().len(), 1);
        assert_eq!((reader.head.capacity(), reader.piece.len()), (0, 0));
    }

    #[test]
    fn what_is_written_is_read() {
        let record = crate::wire::ContactData { ack_index: 300, ..Default::default() };
        let mut bytes = record_bytes(&record).to_vec();
        record_put(&record, &mut bytes);
        let mut reader = FrameReader::without_magic(100);
        let records = read_all(&mut reader, &[&bytes]).unwrap();
        assert_eq!(records.len(), 2);
        for read in records {
            assert_eq!(<crate::wire::ContactData as prost::Message>::decode(read).unwrap(), record);
        }
    }
}
