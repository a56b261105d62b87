//! The PROXY protocol: a balancer's word, at the start of a connection, on where it comes from.

use bytes::{Bytes, BytesMut};
use ppp::{HeaderResult, PartialResult, v1, v2};
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of the longest header that is read.
const HEADER_BYTES_MAX: usize = 4096;
/// Bytes of the longest header of version 1.
const TEXT_BYTES_MAX: usize = 107;
const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Why a header cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("the connection ended in its PROXY header")]
    Ended(#[from] std::io::Error),
    #[error("the PROXY header is broken")]
    Broken,
}

/// What a connection started with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// A header that names a source, or none (a balancer's own check).
    Header(Option<SocketAddr>),
    /// Something else.
    Nothing,
}

/// Reads a PROXY header, if the connection starts with one, and returns the bytes that were read beyond it.
pub(super) async fn header_read(io: &mut (impl AsyncRead + Unpin)) -> Result<(Start, Bytes), ProxyError> {
    let mut buffer = BytesMut::new();
    loop {
        let read = io.read_buf(&mut buffer).await?;
        if let Some(start) = judge(&buffer)? {
            let (start, length) = start;
            let _ = buffer.split_to(length);
            return Ok((start, buffer.freeze()));
        }
        if read == 0 || buffer.len() > HEADER_BYTES_MAX {
            return Err(ProxyError::Broken);
        }
    }
}

/// Says what `bytes` start with and how long that is; `None` when more are needed.
fn judge(bytes: &[u8]) -> Result<Option<(Start, usize)>, ProxyError> {
    let may_start = |start: &[u8]| bytes.starts_with(&start[..start.len().min(bytes.len())]);
    if !may_start(V1_START) && !may_start(V2_START) {
        return Ok(Some((Start::Nothing, 0)));
    }
    // The parser takes half a word of the text form for a wrong one, so it gets whole lines.
    let is_text = bytes.first() == Some(&b'P');
    if is_text && !bytes.contains(&b'\n') {
        return if bytes.len() > TEXT_BYTES_MAX { Err(ProxyError::Broken) } else { Ok(None) };
    }
    let parsed = HeaderResult::parse(bytes);
    match &parsed {
        HeaderResult::V1(Ok(header)) => {
            let source = match &header.addresses {
                v1::Addresses::Unknown => None,
                v1::Addresses::Tcp4(ends) => Some(SocketAddr::from((ends.source_address, ends.source_port))),
                v1::Addresses::Tcp6(ends) => Some(SocketAddr::from((ends.source_address, ends.source_port))),
            };
            Ok(Some((Start::Header(source), header.header.len())))
        }
        HeaderResult::V2(Ok(header)) => {
            let source = match (&header.command, &header.addresses) {
                (v2::Command::Proxy, v2::Addresses::IPv4(ends)) => {
                    Some(SocketAddr::from((ends.source_address, ends.source_port)))
                }
                (v2::Command::Proxy, v2::Addresses::IPv6(ends)) => {
                    Some(SocketAddr::from((ends.source_address, ends.source_port)))
                }
                _ => None,
            };
            Ok(Some((Start::Header(source), header.header.len())))
        }
        incomplete if !is_text && incomplete.is_incomplete() => Ok(None),
        _ => Err(ProxyError::Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Option<(Start, Vec<u8>)> {
        // One byte at a time, to meet every border.
        let mut io = tokio_test_io(bytes);
        let (start, mut rest) = header_read(&mut io).await.ok().map(|(start, rest)| (start, rest.to_vec()))?;
        io.read_to_end(&mut rest).await.unwrap();
        Some((start, rest))
    }

    fn tokio_test_io(bytes: &[u8]) -> impl AsyncRead + Unpin {
        let pieces: Vec<_> =
            bytes.chunks(1).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece))).collect();
        tokio_util::io::StreamReader::new(tokio_stream::iter(pieces))
    }

    #[tokio::test]
    async fn both_versions_name_the_source() {
        let source = |text: &str| Start::Header(Some(text.parse().unwrap()));
        let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\r\n\x16\x03\x01";
        assert_eq!(read(v1).await, Some((source("192.0.2.1:5000"), b"\x16\x03\x01".to_vec())));
        let v6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 5000 443\r\nGET";
        assert_eq!(read(v6).await, Some((source("[2001:db8::1]:5000"), b"GET".to_vec())));
        assert_eq!(read(b"PROXY UNKNOWN\r\nx").await, Some((Start::Header(None), b"x".to_vec())));
        let v2 = [V2_START, b"\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x13\x88\x01\xbbrest"].concat();
        assert_eq!(read(&v2).await, Some((source("192.0.2.1:5000"), b"rest".to_vec())));
        let local = [V2_START, b"\x20\x00\x00\x00rest"].concat();
        assert_eq!(read(&local).await, Some((Start::Header(None), b"rest".to_vec())));
    }

    #[tokio::test]
    async fn a_connection_without_a_header_is_left_as_it_is() {
        for start in [&b"\x16\x03\x01\x00"[..], b"POST / HTTP/1.1\r\n", b"P", b"PROPFIND"] {
            let expected = if start == b"P" { None } else { Some((Start::Nothing, start.to_vec())) };
            assert_eq!(read(start).await, expected);
        }
    }

    #[tokio::test]
    async fn broken_headers_are_refused() {
        let long = format!("PROXY TCP4 {}", "1".repeat(200));
        let endless = [V2_START, b"\x21\x11\xff\xff", &[0; 5000]].concat();
        for start in [&b"PROXY TCP4 nonsense\r\n"[..], b"PROXY ", long.as_bytes(), &endless, V2_START] {
            assert_eq!(read(start).await, None, "{start:?}");
        }
    }
}
