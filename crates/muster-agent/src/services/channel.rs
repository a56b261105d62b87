//! The local channel between the agent and a process of this machine: magic, then `size · message · magic` again and
//! again, all numbers little-endian.

use bytes::{BufMut, BytesMut};
use muster_core::limits;
use muster_proto::wire;
use prost::Message as _;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MAGIC: [u8; 4] = 0xF1EE_1001_u32.to_le_bytes();
/// How long the magic number, or the rest of a message that began, may take.
const SLOW_MAX: Duration = Duration::from_mins(5);

/// Why a channel cannot be used any further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    /// The other side ended, between two messages.
    #[error("the other side closed the channel")]
    Closed,
    /// Reading or writing failed.
    #[error("the channel failed: {0}")]
    Io(#[from] io::Error),
    /// The other side speaks something else.
    #[error("the other side sent {0:02x?} where the magic number 01 10 ee f1 must stand")]
    Magic([u8; 4]),
    /// The message is too large.
    #[error("the other side announced a message of {0} bytes; at most {max} are allowed", max = limits::MESSAGE_BYTES_MAX)]
    TooLarge(u32),
    /// It is no message.
    #[error("the other side sent bytes that are no message: {0}")]
    Decode(#[from] prost::DecodeError),
    /// It stopped in the middle.
    #[error("the other side stopped in the middle of a message")]
    Slow,
}

/// The side that is read.
#[derive(Debug)]
pub(crate) struct ChannelReader<R>(R);

/// The side that is written.
#[derive(Debug)]
pub(crate) struct ChannelWriter<W>(W);

impl<R: AsyncRead + Unpin> ChannelReader<R> {
    /// Waits for the magic number that opens the channel.
    pub(crate) async fn open(mut from: R) -> Result<Self, ChannelError> {
        in_time(read_magic(&mut from)).await?;
        Ok(Self(from))
    }

    /// Waits for the next message. Not to be dropped half-way: the place in the stream would be lost.
    pub(crate) async fn read(&mut self) -> Result<wire::Message, ChannelError> {
        let size = match self.0.read_u32_le().await {
            Ok(size) => size,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(ChannelError::Closed),
            Err(error) => return Err(error.into()),
        };
        if size as usize > limits::MESSAGE_BYTES_MAX {
            return Err(ChannelError::TooLarge(size));
        }
        let body = in_time(async {
            let mut body = vec![0; size as usize];
            self.0.read_exact(&mut body).await?;
            read_magic(&mut self.0).await?;
            Ok(body)
        });
        Ok(wire::Message::decode(&body.await?[..])?)
    }
}

impl<W: AsyncWrite + Unpin> ChannelWriter<W> {
    /// Opens the channel for writing.
    pub(crate) async fn open(mut to: W) -> Result<Self, ChannelError> {
        to.write_all(&MAGIC).await?;
        to.flush().await?;
        Ok(Self(to))
    }

    /// Writes a message.
    pub(crate) async fn write(&mut self, message: &wire::Message) -> Result<(), ChannelError> {
        let size = message.encoded_len();
        let announced = u32::try_from(size).unwrap_or(u32::MAX);
        if size > limits::MESSAGE_BYTES_MAX {
            return Err(ChannelError::TooLarge(announced));
        }
        let mut bytes = BytesMut::with_capacity(size + 8);
        bytes.put_u32_le(announced);
        message.encode(&mut bytes).expect("room was made");
        bytes.put_slice(&MAGIC);
        self.0.write_all(&bytes).await?;
        self.0.flush().await?;
        Ok(())
    }
}

async fn read_magic(from: &mut (impl AsyncRead + Unpin)) -> Result<(), ChannelError> {
    let mut magic = [0; 4];
    from.read_exact(&mut magic).await?;
    if magic == MAGIC { Ok(()) } else { Err(ChannelError::Magic(magic)) }
}

async fn in_time<T>(work: impl Future<Output = Result<T, ChannelError>>) -> Result<T, ChannelError> {
    tokio::time::timeout(SLOW_MAX, work).await.unwrap_or(Err(ChannelError::Slow))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> wire::Message {
        wire::Message { message_type: text.into(), ..wire::Message::default() }
    }

    #[tokio::test]
    async fn messages_come_through_in_order() {
        let (ours, theirs) = tokio::io::duplex(16);
        let writing = async {
            let mut writer = ChannelWriter::open(ours).await.unwrap();
            for text in ["one", "", "three, which is longer than the pipe"] {
                writer.write(&message(text)).await.unwrap();
            }
        };
        let reading = async {
            let mut reader = ChannelReader::open(theirs).await.unwrap();
            for text in ["one", "", "three, which is longer than the pipe"] {
                assert_eq!(reader.read().await.unwrap(), message(text));
            }
            assert!(matches!(reader.read().await, Err(ChannelError::Closed)));
        };
        tokio::join!(writing, reading);
    }

    #[tokio::test]
    async fn what_is_no_channel_is_refused() {
        let too_large = (3 * 1024 * 1024_u32).to_le_bytes();
        assert!(matches!(ChannelReader::open(&b"GET "[..]).await, Err(ChannelError::Magic(_))));
        let bytes = [&MAGIC[..], &too_large].concat();
        let mut reader = ChannelReader::open(&bytes[..]).await.unwrap();
        assert!(matches!(reader.read().await, Err(ChannelError::TooLarge(_))));
        let bytes = [&MAGIC[..], &[2, 0, 0, 0, 0, 0], b"nope"].concat();
        let mut reader = ChannelReader::open(&bytes[..]).await.unwrap();
        assert!(matches!(reader.read().await, Err(ChannelError::Magic(_))));
        let bytes = [&MAGIC[..], &[2, 0, 0, 0, 0xff, 0xff], &MAGIC].concat();
        let mut reader = ChannelReader::open(&bytes[..]).await.unwrap();
        assert!(matches!(reader.read().await, Err(ChannelError::Decode(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_never_ends_ends_the_channel() {
        let (mut ours, theirs) = tokio::io::duplex(64);
        ours.write_all(&[&MAGIC[..], &[9, 0, 0, 0, 1]].concat()).await.unwrap();
        let mut reader = ChannelReader::open(theirs).await.unwrap();
        assert!(matches!(reader.read().await, Err(ChannelError::Slow)));
    }
}
