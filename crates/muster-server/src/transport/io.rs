//! What lies between a socket and HTTP: bytes that were read too early, a watch for readers that take nothing, and a
//! stricter look at HTTP/1 heads than the parser's.

use super::connection::Connection;
use bytes::{Buf, Bytes};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A socket of which some bytes were read already.
#[derive(Debug)]
pub(super) struct Prefixed<I> {
    pub(super) prefix: Bytes,
    pub(super) io: I,
}

impl<I: AsyncRead + Unpin> AsyncRead for Prefixed<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let bytes = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..bytes]);
        self.prefix.advance(bytes);
        if self.prefix.is_empty() {
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Prefixed<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A connection as HTTP sees it.
#[derive(Debug)]
pub(super) struct Watched<I> {
    pub(super) io: I,
    pub(super) connection: Arc<Connection>,
    pub(super) head: HeadGuard,
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if matches!(polled, Poll::Ready(Ok(()))) {
            if self.connection.head_expected() {
                self.head.restart();
            }
            self.head.check(&mut buf.filled_mut()[before..]);
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.connection.wrote(polled.is_ready());
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.connection.wrote(polled.is_ready());
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Looks at the head of an HTTP/1 request for what lets two programs disagree on where the request ends: a line break
/// without its carriage return, two lengths, a length and a transfer encoding. hyper forgives all of them; what is found
/// here is spoiled with a zero byte, which hyper answers with 400.
#[derive(Debug, Default)]
pub(super) struct HeadGuard {
    state: State,
    name: Vec<u8>,
    lengths: u8,
    last: u8,
    /// Never looks at anything. HTTP/2 frames are binary: a 0x0a in a body is no line break, and to spoil it would be
    /// to change what an agent says.
    off: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// In the request line.
    #[default]
    Request,
    /// In a header's name.
    Name,
    /// In a header's value.
    Value,
    /// After the head.
    Over,
}

/// Bytes of the longer of the two names that matter.
const NAME_BYTES: usize = "transfer-encoding".len();

impl HeadGuard {
    /// A guard that looks at nothing, for HTTP/2.
    pub(super) fn off() -> Self {
        Self { state: State::Over, off: true, ..Self::default() }
    }

    /// Looks at the next head, if it looks at heads at all.
    fn restart(&mut self) {
        if !self.off {
            *self = Self::default();
        }
    }

    fn check(&mut self, bytes: &mut [u8]) {
        if self.state == State::Over {
            return;
        }
        for byte in bytes {
            match *byte {
                b'\n' if self.last != b'\r' => *byte = 0,
                b'\n' => self.line_over(),
                b':' if self.state == State::Name && self.name_over() => *byte = 0,
                other if self.state == State::Name && self.name.len() <= NAME_BYTES => {
                    self.name.push(other.to_ascii_lowercase());
                }
                _ => {}
            }
            self.last = *byte;
            if self.state == State::Over {
                self.name = Vec::new();
                return;
            }
        }
    }

    fn line_over(&mut self) {
        // A name that holds nothing but the carriage return is the empty line.
        let is_empty = self.state == State::Name && self.name == b"\r";
        self.state = if is_empty { State::Over } else { State::Name };
        self.name.clear();
    }

    /// Whether the name that ends here is one length too many.
    fn name_over(&mut self) -> bool {
        self.state = State::Value;
        if self.name == b"content-length" || self.name == b"transfer-encoding" {
            self.lengths = self.lengths.saturating_add(1);
        }
        self.lengths > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of `head` after the guard has seen it in pieces of `size` bytes.
    fn spoiled(head: &str, size: usize) -> bool {
        let mut bytes = head.as_bytes().to_vec();
        let mut guard = HeadGuard::default();
        for piece in bytes.chunks_mut(size) {
            guard.check(piece);
        }
        bytes != head.as_bytes()
    }

    #[test]
    fn only_ambiguous_heads_are_spoiled() {
        let post = "POST /message HTTP/1.1\r\nHost: a\r\n";
        for size in [1, 7, 1000] {
            assert!(!spoiled(&format!("{post}Content-Length: 3\r\n\r\na\nb\nContent-Length: 5\n"), size));
            assert!(!spoiled(&format!("{post}X-Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"), size));
            assert!(spoiled(&format!("{post}Content-Length: 3\r\ncontent-length: 3\r\n\r\n"), size));
            assert!(spoiled(&format!("{post}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"), size));
            assert!(spoiled(&format!("{post}transfer-encoding: chunked\r\nContent-Length: 3\r\n\r\n"), size));
            assert!(spoiled("POST / HTTP/1.1\nHost: a\r\n\r\n", size));
            assert!(spoiled(&format!("{post}A: b\n\r\n"), size));
        }
    }

    #[test]
    fn a_guard_that_is_off_stays_off_when_the_next_request_begins() {
        let mut guard = HeadGuard::off();
        let mut frame = *b"\x0a\x20 a frame \n of HTTP/2";
        guard.restart();
        guard.check(&mut frame);
        assert_eq!(&frame, b"\x0a\x20 a frame \n of HTTP/2");
        let mut guard = HeadGuard::default();
        guard.restart();
        guard.check(&mut frame);
        assert_ne!(&frame, b"\x0a\x20 a frame \n of HTTP/2");
    }
}
