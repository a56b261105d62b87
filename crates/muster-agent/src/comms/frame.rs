//! The frames of a stream: a magic number once, then records with their length before them.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use muster_core::limits;
use prost::encoding::{decode_varint, encode_varint};

/// The first four bytes of what a client streams.
pub(crate) const MAGIC: [u8; 4] = 0xF1EE_1001_u32.to_le_bytes();

/// Writes a record with its length before it.
pub(crate) fn encode(record: &impl prost::Message, into: &mut BytesMut) {
    let length = record.encoded_len();
    into.reserve(length + 10);
    encode_varint(length as u64, into);
    record.encode(into).expect("room was made");
}

/// Finds records in bytes that arrive in pieces.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    waiting: BytesMut,
}

/// The length before a record cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record's length is larger than {} bytes or no number", limits::CONTACT_BYTES_MAX)]
pub(crate) struct FrameError;

impl Frames {
    /// Takes bytes as they came.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.waiting.put_slice(bytes);
    }

    /// Returns the next record, if it is there whole.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        let digits = self.waiting.iter().take(5).position(|byte| byte & 0x80 == 0);
        let Some(digits) = digits else {
            // Five bytes hold any length that is allowed.
            return if self.waiting.len() >= 5 { Err(FrameError) } else { Ok(None) };
        };
        let mut head = &self.waiting[..=digits];
        let length = decode_varint(&mut head).map_err(|_| FrameError)?;
        let length = usize::try_from(length).ok().filter(|length| *length <= limits::CONTACT_BYTES_MAX);
        let length = length.ok_or(FrameError)?;
        if self.waiting.len() < digits + 1 + length {
            return Ok(None);
        }
        self.waiting.advance(digits + 1);
        let record = self.waiting.split_to(length).freeze();
        if self.waiting.is_empty() {
            // An idle stream holds no buffer.
            self.waiting = BytesMut::new();
        }
        Ok(Some(record))
    }

    /// Whether part of a record waits for the rest.
    pub(crate) fn is_in_between(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::wire;
    use prost::Message as _;

    #[test]
    fn records_are_found_however_the_bytes_are_cut() {
        let contacts: Vec<_> = [0_u64, 1, 300, u64::MAX]
            .map(|ack_index| wire::ContactData { ack_index, ..wire::ContactData::default() })
            .into();
        let mut bytes = BytesMut::new();
        for contact in &contacts {
            encode(contact, &mut bytes);
        }
        for size in 1..=bytes.len() {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(size) {
                frames.push(piece);
                while let Some(record) = frames.next().unwrap() {
                    found.push(wire::ContactData::decode(record).unwrap());
                }
            }
            assert_eq!(found, contacts, "pieces of {size}");
            assert!(!frames.is_in_between());
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_kept_for_it() {
        for bytes in [&[0xff, 0xff, 0xff, 0xff, 0x7f][..], &[0xff; 11], &[0x81, 0x80, 0x80, 0x0a]] {
            let mut frames = Frames::default();
            frames.push(bytes);
            assert_eq!(frames.next(), Err(FrameError), "{bytes:?}");
        }
        assert_eq!(Frames::default().next(), Ok(None));
    }
}
