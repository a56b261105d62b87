//! One TLS connection that speaks just enough HTTP/1.1 for polls and streams.
//!
//! Stays true: reading is safe to give up and take up again, so an agent can wait for the server and for its own pace
//! at once. Not here: what the records mean (swarm).

use crate::wire::{self, ContactData};
use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes, BytesMut};
use prost::Message as _;
use rustls_pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A connection that polls.
#[derive(Debug)]
pub struct Link {
    stream: TlsStream<TcpStream>,
    input: BytesMut,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
}

impl Link {
    /// Connects to `address` and shakes hands.
    pub async fn open(address: SocketAddr, tls: &Arc<rustls::ClientConfig>) -> Result<Self> {
        let socket = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        socket.set_nodelay(true).context("switching Nagle off")?;
        let name = ServerName::IpAddress(address.ip().into());
        let connecting = TlsConnector::from(Arc::clone(tls)).connect(name, socket);
        let stream = connecting.await.with_context(|| format!("shaking hands with {address}"))?;
        Ok(Self { stream, input: BytesMut::new() })
    }

    /// Sends a whole request head and body as they are.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await.context("writing a request")?;
        self.stream.flush().await.context("flushing a request")
    }

    /// Posts `body` to `/message` and returns the answer.
    pub async fn post(&mut self, extra_headers: &str, body: &[u8]) -> Result<Answer> {
        let length = body.len();
        let head = format!("POST /message HTTP/1.1\r\nHost: swarm\r\n{extra_headers}Content-Length: {length}\r\n\r\n");
        let mut request = Vec::with_capacity(head.len() + length);
        request.extend_from_slice(head.as_bytes());
        request.extend_from_slice(body);
        self.send_raw(&request).await?;
        self.answer().await
    }

    /// Polls with a contact and returns the server's, if it said 200.
    pub async fn poll(&mut self, contact: &ContactData, labels: &[String]) -> Result<ContactData> {
        let answer = self.post("", &wire::wrap(contact, labels)).await?;
        if answer.status != 200 {
            bail!("the poll was answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body).trim());
        }
        ContactData::decode(answer.body).context("decoding the answer of a poll")
    }

    /// Reads one answer.
    pub async fn answer(&mut self) -> Result<Answer> {
        let head = loop {
            if let Some(head) = Head::take(&mut self.input)? {
                break head;
            }
            if self.stream.read_buf(&mut self.input).await.context("reading an answer's head")? == 0 {
                bail!("the connection ended before an answer");
            }
        };
        let mut body = Body::new(&head);
        let mut whole = BytesMut::new();
        while !body.pull(&mut self.input, &mut whole)? {
            if self.stream.read_buf(&mut self.input).await.context("reading an answer's body")? == 0 {
                if body.ends_with_connection() {
                    break;
                }
                bail!("the connection ended within an answer");
            }
        }
        Ok(Answer { status: head.status, body: whole.freeze() })
    }

    /// Opens a stream with its first record and returns both directions and the server's first record.
    pub async fn stream(mut self, first: &ContactData, labels: &[String]) -> Result<(Up, Down, ContactData)> {
        // As the original's client says it; without `close`, the original's server waits for the end of the request.
        let head = "POST /streaming-message HTTP/1.1\r\nHost: swarm\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut opening = wire::MAGIC.to_vec();
        opening.extend(wire::framed(&wire::wrap(first, labels)));
        self.send_raw(&[head.as_bytes(), &chunk(&opening)].concat()).await?;
        let head = loop {
            if let Some(head) = Head::take(&mut self.input)? {
                break head;
            }
            if self.stream.read_buf(&mut self.input).await.context("reading the stream's head")? == 0 {
                bail!("the connection ended before the stream began");
            }
        };
        if head.status != 200 {
            bail!("the stream was answered {}", head.status);
        }
        let body = Body::new(&head);
        let (read, write) = tokio::io::split(self.stream);
        let mut down = Down { read, input: self.input, body, content: BytesMut::new() };
        let initial = down.next().await?.context("the stream ended before its first record")?;
        Ok((Up { write }, down, initial))
    }
}

/// The direction from an agent to the server.
#[derive(Debug)]
pub struct Up {
    write: WriteHalf<TlsStream<TcpStream>>,
}

impl Up {
    /// Sends one record.
    pub async fn send(&mut self, contact: &ContactData) -> Result<()> {
        let record = chunk(&wire::framed(&wire::wrap(contact, &[])));
        self.write.write_all(&record).await.context("writing a record")?;
        self.write.flush().await.context("flushing a record")
    }

    /// Ends the request, as an agent does that was told that nothing more will come.
    pub async fn finish(&mut self) -> Result<()> {
        self.write.write_all(b"0\r\n\r\n").await.context("ending the request")?;
        self.write.flush().await.context("flushing the end")
    }
}

/// The direction from the server to an agent.
#[derive(Debug)]
pub struct Down {
    read: ReadHalf<TlsStream<TcpStream>>,
    input: BytesMut,
    body: Body,
    content: BytesMut,
}

impl Down {
    /// Waits for the next record; `None` when the server ended the stream in order. May be given up at any time.
    pub async fn next(&mut self) -> Result<Option<ContactData>> {
        loop {
            if let Some(record) = take_record(&mut self.content)? {
                return ContactData::decode(record).map(Some).context("decoding a record");
            }
            let before = self.content.len();
            let ended = self.body.pull(&mut self.input, &mut self.content)?;
            if self.content.len() > before {
                continue;
            }
            if ended {
                return if self.content.is_empty() { Ok(None) } else { bail!("the stream ended within a record") };
            }
            if self.read.read_buf(&mut self.input).await.context("reading a stream")? == 0 {
                bail!("the connection ended within a stream");
            }
        }
    }
}

/// Takes a whole record off the front, if one is there.
pub(crate) fn take_record(content: &mut BytesMut) -> Result<Option<Bytes>> {
    let mut view = &content[..];
    let Ok(length) = prost::encoding::decode_varint(&mut view) else {
        return if content.len() < 10 { Ok(None) } else { bail!("a record's length is no number") };
    };
    let length = usize::try_from(length).context("a record's length does not fit memory")?;
    if view.len() < length {
        return Ok(None);
    }
    let head = content.len() - view.len();
    content.advance(head);
    Ok(Some(content.split_to(length).freeze()))
}

/// Puts bytes into one chunk of a body without a length.
pub(crate) fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

#[derive(Debug)]
struct Head {
    status: u16,
    length: Option<usize>,
    chunked: bool,
}

impl Head {
    fn take(input: &mut BytesMut) -> Result<Option<Self>> {
        loop {
            let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") else {
                if input.len() > HEAD_BYTES_MAX {
                    bail!("the answer's head does not end");
                }
                return Ok(None);
            };
            let bytes = input.split_to(end + 4);
            let text = std::str::from_utf8(&bytes).context("the answer's head is not text")?;
            let status: u16 = text.get(9..12).and_then(|code| code.parse().ok()).context("the answer has no status")?;
            // 100 Continue announces the answer, it is not one.
            if status == 100 {
                continue;
            }
            let headers = text.lines().filter_map(|line| line.split_once(':'));
            let mut head = Self { status, length: None, chunked: false };
            for (name, value) in headers {
                if name.eq_ignore_ascii_case("content-length") {
                    head.length = Some(value.trim().parse().context("Content-Length is no number")?);
                }
                head.chunked |= name.eq_ignore_ascii_case("transfer-encoding") && value.trim() == "chunked";
            }
            return Ok(Some(head));
        }
    }
}

/// How the end of a body is found.
#[derive(Debug)]
pub(crate) enum Body {
    Length { left: usize },
    Chunked { left: usize, state: ChunkState },
    UntilEnd,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ChunkState {
    Size,
    Data,
    DataEnd,
    Trailer,
    Done,
}

impl Body {
    fn new(head: &Head) -> Self {
        match (head.chunked, head.length) {
            (true, _) => Self::Chunked { left: 0, state: ChunkState::Size },
            (false, Some(left)) => Self::Length { left },
            (false, None) if matches!(head.status, 204 | 304) => Self::Length { left: 0 },
            (false, None) => Self::UntilEnd,
        }
    }

    fn ends_with_connection(&self) -> bool {
        matches!(self, Self::UntilEnd)
    }

    /// Moves what it can from `input` to `content`; true once the body is whole.
    pub(crate) fn pull(&mut self, input: &mut BytesMut, content: &mut BytesMut) -> Result<bool> {
        match self {
            Self::UntilEnd => {
                content.unsplit(input.split());
                Ok(false)
            }
            Self::Length { left } => {
                let part = (*left).min(input.len());
                content.extend_from_slice(&input.split_to(part));
                *left -= part;
                Ok(*left == 0)
            }
            Self::Chunked { left, state } => pull_chunks(left, state, input, content),
        }
    }
}

fn pull_chunks(left: &mut usize, state: &mut ChunkState, input: &mut BytesMut, content: &mut BytesMut) -> Result<bool> {
    loop {
        match state {
            ChunkState::Done => return Ok(true),
            ChunkState::Size => {
                let Some(line) = take_line(input) else { return Ok(false) };
                let digits = line[..].split(|byte| *byte == b';').next().unwrap_or_default();
                let digits = std::str::from_utf8(digits).context("a chunk's size is not text")?;
                *left = usize::from_str_radix(digits.trim(), 16).context("a chunk's size is no number")?;
                *state = if *left == 0 { ChunkState::Trailer } else { ChunkState::Data };
            }
            ChunkState::Data => {
                let part = (*left).min(input.len());
                content.extend_from_slice(&input.split_to(part));
                *left -= part;
                if *left > 0 {
                    return Ok(false);
                }
                *state = ChunkState::DataEnd;
            }
            ChunkState::DataEnd => {
                let Some(_) = take_line(input) else { return Ok(false) };
                *state = ChunkState::Size;
            }
            ChunkState::Trailer => {
                let Some(line) = take_line(input) else { return Ok(false) };
                if line.is_empty() {
                    *state = ChunkState::Done;
                }
            }
        }
    }
}

fn take_line(input: &mut BytesMut) -> Option<BytesMut> {
    let end = input.windows(2).position(|window| window == b"\r\n")?;
    let line = input.split_to(end);
    input.advance(2);
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of `step` bytes and returns status and body.
    fn read(text: &str, step: usize) -> Result<Option<(u16, String)>> {
        let (mut input, mut content, mut reading) = (BytesMut::new(), BytesMut::new(), None);
        for piece in text.as_bytes().chunks(step) {
            input.extend_from_slice(piece);
            if reading.is_none() {
                reading = Head::take(&mut input)?.map(|head| (head.status, Body::new(&head)));
            }
            if let Some((status, body)) = &mut reading
                && body.pull(&mut input, &mut content)?
            {
                return Ok(Some((*status, String::from_utf8(content.to_vec())?)));
            }
        }
        Ok(None)
    }

    #[test]
    fn answers_are_read_at_any_borders() {
        for (text, want) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Some((200, "abc"))),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 415 No\r\nContent-Length: 0\r\n\r\n", Some((415, ""))),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
                Some((200, "abcd")),
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", None),
        ] {
            for step in 1..=text.len() {
                let want = want.map(|(status, body)| (status, body.to_owned()));
                assert_eq!(read(text, step).unwrap(), want, "{text:?} by {step}");
            }
        }
        assert!(read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 9).is_err());
    }

    #[test]
    fn records_are_cut_from_a_stream_of_bytes() {
        let mut content = BytesMut::from(&[wire::framed(b"one"), wire::framed(&[7; 300])].concat()[..]);
        let rest = content.split_off(10);
        assert_eq!(take_record(&mut content).unwrap().unwrap(), b"one"[..]);
        assert_eq!(take_record(&mut content).unwrap(), None);
        content.unsplit(rest);
        assert_eq!(take_record(&mut content).unwrap().unwrap(), vec![7; 300]);
        assert!(take_record(&mut BytesMut::from(&[0xff; 11][..])).is_err());
    }
}
