//! The server's side of one connection of an agent: just enough HTTP/1.1 for its three kinds of requests.

use crate::link::{Body, ChunkState, chunk, take_record};
use crate::wire::{ContactData, MAGIC, WrappedContactData};
use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes, BytesMut};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// What an agent says.
#[derive(Debug)]
pub(super) struct Ear {
    read: ReadHalf<TlsStream<TcpStream>>,
    input: BytesMut,
    body: Body,
    content: BytesMut,
    magic: bool,
}

/// What it is told.
#[derive(Debug)]
pub(super) struct Mouth(WriteHalf<TlsStream<TcpStream>>);

/// Takes a connection apart.
pub(super) fn split(stream: TlsStream<TcpStream>) -> (Ear, Mouth) {
    let (read, write) = tokio::io::split(stream);
    let body = Body::Length { left: 0 };
    let ear = Ear { read, input: BytesMut::new(), body, content: BytesMut::new(), magic: false };
    (ear, Mouth(write))
}

impl Ear {
    /// Returns the path of the next request; `None` when the agent is gone.
    pub(super) async fn request(&mut self) -> Result<Option<String>> {
        let end = loop {
            if let Some(end) = self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if self.read.read_buf(&mut self.input).await.context("reading a request's head")? == 0 {
                return Ok(None);
            }
        };
        let head = self.input.split_to(end + 4);
        let head = std::str::from_utf8(&head).context("a request's head is not text")?.to_ascii_lowercase();
        let path = head.split(' ').nth(1).context("a request has no path")?.to_owned();
        let header = |name: &str| {
            head.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let left = header("content-length").map_or(Ok(0), |length| length.trim().parse());
        self.body = match header("transfer-encoding") {
            Some(_) => Body::Chunked { left: 0, state: ChunkState::Size },
            None => Body::Length { left: left.context("a request's length is no number")? },
        };
        (self.content, self.magic) = (BytesMut::new(), false);
        Ok(Some(path))
    }

    /// Reads the request's body to its end.
    pub(super) async fn whole(&mut self) -> Result<Bytes> {
        while !self.body.pull(&mut self.input, &mut self.content)? {
            if self.read.read_buf(&mut self.input).await.context("reading a request's body")? == 0 {
                bail!("the connection ended within a request");
            }
        }
        Ok(self.content.split().freeze())
    }

    /// Waits for the next record of a stream; `None` when it ended. May be given up at any time.
    pub(super) async fn record(&mut self) -> Result<Option<Bytes>> {
        loop {
            if !self.magic && self.content.len() >= MAGIC.len() {
                if !self.content.starts_with(&MAGIC) {
                    bail!("a stream does not begin as streams do");
                }
                self.content.advance(MAGIC.len());
                self.magic = true;
            }
            if self.magic
                && let Some(record) = take_record(&mut self.content)?
            {
                return Ok(Some(record));
            }
            let before = self.content.len();
            if self.body.pull(&mut self.input, &mut self.content)? {
                return Ok(None);
            }
            if self.content.len() == before
                && self.read.read_buf(&mut self.input).await.context("reading a stream")? == 0
            {
                return Ok(None);
            }
        }
    }
}

impl Mouth {
    /// Answers a request as a whole.
    pub(super) async fn answer(&mut self, status: &str, body: &[u8]) -> Result<()> {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        self.write(&[head.as_bytes(), body].concat()).await
    }

    /// Begins the answer to a stream.
    pub(super) async fn begin(&mut self) -> Result<()> {
        self.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await
    }

    /// Says bytes of a stream, whatever they are.
    pub(super) async fn say(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(&chunk(bytes)).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).await.context("answering")?;
        self.0.flush().await.context("flushing an answer")
    }
}

/// Reads what an agent says in a contact.
pub(super) fn contact(wrapped: Bytes) -> Result<ContactData> {
    let wrapped = WrappedContactData::decode(wrapped).context("decoding what wraps a contact")?;
    ContactData::decode(&wrapped.contact_data[..]).context("decoding a contact")
}
