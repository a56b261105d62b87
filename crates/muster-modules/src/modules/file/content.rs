//! Content checks: which expressions match which lines of a file.
//!
//! Stays true: memory does not grow with a file's lines; a line is one line however long it is; reading ends as soon as
//! every check is decided.

use super::long_line::LongLine;
use crate::module::Stop;
use flate2::bufread::MultiGzDecoder;
use muster_core::limits::LINE_BYTES_MAX;
use regex::Regex;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

/// Lines between two looks whether to stop.
const LINES_BETWEEN_LOOKS: u64 = 64;

/// One expression on its way through a file.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "two say what is asked, two what was seen; each pair is independent")]
pub(super) struct Expression<'a> {
    pub(super) regex: &'a Regex,
    /// Every line counts, not only the first that matches.
    pub(super) all_lines: bool,
    /// Lines that match are those that are not wanted.
    pub(super) inverse: bool,
    any: bool,
    none_failed: bool,
}

impl<'a> Expression<'a> {
    pub(super) fn new(regex: &'a Regex, all_lines: bool, inverse: bool) -> Self {
        Self { regex, all_lines, inverse, any: false, none_failed: true }
    }

    /// Tells, after `lines` lines, whether some line matched; with `all_lines`, whether each line did (or did not, when
    /// inverse). A file without lines has none that matches.
    pub(super) fn matched(&self, lines: u64) -> bool {
        if self.all_lines { self.none_failed && (self.inverse || lines > 0) } else { self.any }
    }

    /// Tells whether a line that was seen decides that some line matched, whatever follows.
    pub(super) fn is_certain(&self) -> bool {
        self.any && !self.all_lines
    }

    fn is_decided(&self) -> bool {
        if self.all_lines { !self.none_failed } else { self.any }
    }

    fn see(&mut self, line: &str) {
        if !self.is_decided() {
            self.count(self.regex.is_match(line));
        }
    }

    fn count(&mut self, matched: bool) {
        self.any |= matched;
        self.none_failed &= matched != self.inverse;
    }
}

/// Reads lines until every expression is decided or the file ends; returns how many there were.
pub(super) fn scan(from: impl Read, expressions: &mut [Expression<'_>], stop: &Stop) -> io::Result<u64> {
    let mut from = BufReader::with_capacity(64 * 1024, from);
    let mut line = Vec::new();
    let mut lines = 0_u64;
    while !expressions.iter().all(Expression::is_decided) {
        if lines.is_multiple_of(LINES_BETWEEN_LOOKS) && stop.is_asked() {
            return Err(stopped());
        }
        line.clear();
        if from.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        lines += 1;
        if line.len() == LINE_BYTES_MAX && !line.ends_with(b"\n") {
            long_line(&mut from, &mut line, expressions, stop)?;
            continue;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = String::from_utf8_lossy(text.strip_suffix(b"\r").unwrap_or(text));
        for expression in expressions.iter_mut() {
            expression.see(&text);
        }
    }
    Ok(lines)
}

/// Follows a line that is longer than what is kept of one, of which the first piece was read, to its end.
fn long_line(
    from: &mut impl BufRead,
    piece: &mut Vec<u8>,
    expressions: &mut [Expression<'_>],
    stop: &Stop,
) -> io::Result<()> {
    let mut open: Vec<_> = expressions.iter_mut().filter(|expression| !expression.is_decided()).collect();
    let texts = open.iter().map(|expression| expression.regex.as_str());
    let mut line = LongLine::new(texts).map_err(io::Error::other)?;
    loop {
        let is_end = piece.last() == Some(&b'\n') || piece.is_empty();
        line.feed(piece.strip_suffix(b"\n").unwrap_or(piece));
        if is_end {
            break;
        }
        if stop.is_asked() {
            return Err(stopped());
        }
        piece.clear();
        from.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', piece)?;
    }
    for (expression, matched) in open.iter_mut().zip(line.end()) {
        expression.count(matched);
    }
    Ok(())
}

pub(super) fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "stopped")
}

/// A file as long as it was when it was opened, and a piece more: what grows as fast as it is read would have no end.
/// Files of the kernel have no length before they are read, and some have no end.
#[derive(Debug)]
pub(super) struct Whole {
    file: File,
    left: u64,
    most: u64,
}

impl Whole {
    /// Bytes that a file may grow by while it is read.
    const GROWTH_BYTES: u64 = 256 * 1024 * 1024;

    /// `length` is that of the file when it was opened.
    pub(super) fn of(file: File, length: u64) -> Self {
        let most = length.saturating_add(Self::GROWTH_BYTES);
        Self { file, left: most, most }
    }
}

impl Read for Whole {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        if room == 0 && !into.is_empty() {
            return match self.file.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(io::Error::other(format!("it has no end: {} bytes of it were read", self.most))),
            };
        }
        let bytes = self.file.read(&mut into[..room])?;
        self.left -= bytes as u64;
        Ok(bytes)
    }
}

/// Whether to look into a packed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum View {
    /// The bytes as they are.
    Raw,
    /// What gzip packed, when it did.
    Unpacked,
}

/// Returns what to read of a file.
pub(super) fn view<'a>(file: impl Read + 'a, view: View) -> io::Result<Box<dyn Read + 'a>> {
    if view == View::Raw {
        return Ok(Box::new(file));
    }
    let mut file = BufReader::with_capacity(64 * 1024, file);
    let packed = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(if packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}
