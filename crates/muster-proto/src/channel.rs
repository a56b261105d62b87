//! The local channel between an agent and a service that runs as a process of its own: over two pipes or a socket.
//!
//! Either side starts with the magic number of a stream; then each message is its length (4 bytes, little endian), its
//! bytes, and the magic number again. Stays true: no memory is taken for bytes that were only announced.

use crate::framing::MAGIC;
use crate::wire;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use muster_core::limits;
use prost::Message as _;

/// Environment variable that names the file descriptor from which a daemon reads.
pub const ENV_IN: &str = "FLEETSPEAK_COMMS_CHANNEL_INFD";
/// Environment variable that names the file descriptor to which a daemon writes.
pub const ENV_OUT: &str = "FLEETSPEAK_COMMS_CHANNEL_OUTFD";
/// Environment variable that holds the agent's id, in hexadecimal.
pub const ENV_ID: &str = "FLEETSPEAK_CLIENT_ID";

/// Type of a daemon's first message, to service `system`; its body is a `StartupData`.
pub const STARTUP: &str = "StartupData";
/// Type of a daemon's sign of life, to service `system`; it has no body.
pub const HEARTBEAT: &str = "Heartbeat";
/// Type of a socket service's word that it took a message.
pub const LOCAL_ACK: &str = "LocalAck";

/// Why a channel cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The magic number is not where it must be.
    #[error("the channel has lost its magic number")]
    Magic,
    /// A message is longer than [`limits::MESSAGE_BYTES_MAX`].
    #[error("a message of {0} bytes was announced on the channel, only {max} allowed", max = limits::MESSAGE_BYTES_MAX)]
    TooLong(u32),
    /// The bytes are no message.
    #[error("the channel carried something that is no message: {0}")]
    Malformed(String),
}

/// Reads messages from pieces of a channel.
#[derive(Debug, Default)]
pub struct ChannelReader {
    started: bool,
    buffer: BytesMut,
}

impl ChannelReader {
    /// Adds what was read.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// Returns the next whole message; `None` when more is needed. After an error the channel is of no more use.
    ///
    /// A message is given as soon as its bytes are there; the magic number behind it is checked with the next one.
    pub fn message_next(&mut self) -> Result<Option<wire::Message>, ChannelError> {
        if !self.started {
            if self.buffer.len() < MAGIC.len() {
                return Ok(None);
            }
            if self.buffer[..4] != MAGIC {
                return Err(ChannelError::Magic);
            }
            self.buffer.advance(4);
            self.started = true;
        }
        let Some(length) = self.buffer.get(..4) else { return Ok(None) };
        let length = u32::from_le_bytes(length.try_into().expect("four bytes were taken"));
        let bytes = usize::try_from(length).ok().filter(|bytes| *bytes <= limits::MESSAGE_BYTES_MAX);
        let bytes = bytes.ok_or(ChannelError::TooLong(length))?;
        if self.buffer.len() < 4 + bytes {
            return Ok(None);
        }
        self.buffer.advance(4);
        let body: Bytes = self.buffer.split_to(bytes).freeze();
        self.started = false;
        wire::Message::decode(body).map(Some).map_err(|error| ChannelError::Malformed(error.to_string()))
    }

    /// Whether the channel may end here.
    pub fn at_end(&self) -> bool {
        self.buffer.is_empty() || (!self.started && self.buffer[..] == MAGIC)
    }
}

/// What a side writes before its first message.
pub fn start() -> Bytes {
    Bytes::from_static(&MAGIC)
}

/// Returns the bytes of one message. Error: it is longer than [`limits::MESSAGE_BYTES_MAX`].
pub fn message_bytes(message: &wire::Message) -> Result<Bytes, ChannelError> {
    let bytes = message.encoded_len();
    let length = u32::try_from(bytes).unwrap_or(u32::MAX);
    if bytes > limits::MESSAGE_BYTES_MAX {
        return Err(ChannelError::TooLong(length));
    }
    let mut out = BytesMut::with_capacity(bytes + 8);
    out.put_u32_le(length);
    message.encode(&mut out).expect("the buffer grows");
    out.put_slice(&MAGIC);
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(data: &[u8]) -> wire::Message {
        wire::Message {
            message_type: "T".into(),
            source_message_id: Bytes::copy_from_slice(data),
            ..Default::default()
        }
    }

    fn read_all(pieces: &[&[u8]]) -> Result<Vec<wire::Message>, ChannelError> {
        let mut reader = ChannelReader::default();
        let mut messages = Vec::new();
        for piece in pieces {
            reader.push(piece);
            while let Some(message) = reader.message_next()? {
                messages.push(message);
            }
        }
        assert!(reader.at_end());
        Ok(messages)
    }

    proptest! {
        #[test]
        fn messages_come_back_however_they_are_split(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..6),
            size in 1_usize..50,
        ) {
            let messages: Vec<_> = bodies.iter().map(|body| message(body)).collect();
            let written = messages.iter().map(|message| message_bytes(message).unwrap());
            let bytes: Vec<u8> = std::iter::once(start()).chain(written).flatten().collect();
            let pieces: Vec<_> = bytes.chunks(size).collect();
            prop_assert_eq!(read_all(&pieces), Ok(messages));
        }
    }

    #[test]
    fn broken_channels_are_refused() {
        assert_eq!(read_all(&[b"\x01\x10\xee\xf2"]), Err(ChannelError::Magic));
        assert_eq!(read_all(&[b"\x01\x10\xee\xf1\x01\x00\x20\x00"]), Err(ChannelError::TooLong(2 * 1024 * 1024 + 1)));
        assert!(matches!(read_all(&[b"\x01\x10\xee\xf1\x01\x00\x00\x00\xff"]), Err(ChannelError::Malformed(_))));
        assert_eq!(read_all(&[b"\x01\x10\xee\xf1\x00\x00\x00\x00\x01\x10\xee\xf2"]), Err(ChannelError::Magic));
        assert!(message_bytes(&message(&vec![0; 2 * 1024 * 1024])).is_err());
    }
}
