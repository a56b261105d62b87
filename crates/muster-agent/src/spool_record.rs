//! One record of a spool file, and how a file is read when parts of it are damaged.

use crate::spool::SpoolId;
use muster_core::limits;
use std::ops::Range;

/// Kind of a record that lists delivered messages instead of holding one.
pub(crate) const ACKNOWLEDGED: u8 = 0x80;
/// Bytes before the body: mark 8, length 4, CRC 4, id 16, kind 1.
pub(crate) const HEADER_BYTES: usize = 33;

/// A record that was found whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    pub(crate) offset: usize,
    pub(crate) id: SpoolId,
    pub(crate) kind: u8,
    pub(crate) body: &'a [u8],
}

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Scan<'a> {
    pub(crate) records: Vec<Found<'a>>,
    pub(crate) damaged: Vec<Range<usize>>,
}

/// Writes a record.
pub(crate) fn encode(mark: [u8; 8], id: &SpoolId, kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a body is at most 2 MiB").to_le_bytes();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&mark);
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&checksum(mark, length, id, kind, body).to_le_bytes());
    bytes.extend_from_slice(id);
    bytes.push(kind);
    bytes.extend_from_slice(body);
    bytes
}

/// Reads a whole file. What is no record is reported as damaged, up to where the next record begins.
pub(crate) fn scan(bytes: &[u8], mark: [u8; 8]) -> Scan<'_> {
    let mut scan = Scan::default();
    let mut at = 0;
    let mut damage_from = None;
    while at < bytes.len() {
        if let Some(found) = decode(bytes, at, mark) {
            if let Some(start) = damage_from.take() {
                scan.damaged.push(start..at);
            }
            at += HEADER_BYTES + found.body.len();
            scan.records.push(found);
        } else {
            damage_from.get_or_insert(at);
            at = find_mark(bytes, at + 1, mark);
        }
    }
    scan.damaged.extend(damage_from.map(|start| start..bytes.len()));
    scan
}

fn decode(bytes: &[u8], offset: usize, mark: [u8; 8]) -> Option<Found<'_>> {
    let record = &bytes[offset..];
    let (header, rest) = record.split_at_checked(HEADER_BYTES)?;
    if header[..8] != mark {
        return None;
    }
    let length: [u8; 4] = header[8..12].try_into().expect("four bytes are four bytes");
    let sum = u32::from_le_bytes(header[12..16].try_into().expect("four bytes are four bytes"));
    let id: SpoolId = header[16..32].try_into().expect("sixteen bytes are sixteen bytes");
    let kind = header[32];
    let size = u32::from_le_bytes(length) as usize;
    if size > limits::MESSAGE_BYTES_MAX {
        return None;
    }
    let body = rest.get(..size)?;
    (checksum(mark, length, &id, kind, body) == sum).then_some(Found { offset, id, kind, body })
}

fn find_mark(bytes: &[u8], from: usize, mark: [u8; 8]) -> usize {
    let found = bytes[from..].windows(8).position(|window| window == mark);
    found.map_or(bytes.len(), |position| from + position)
}

fn checksum(mark: [u8; 8], length: [u8; 4], id: &SpoolId, kind: u8, body: &[u8]) -> u32 {
    let mut head = [0; 29];
    head[..8].copy_from_slice(&mark);
    head[8..12].copy_from_slice(&length);
    head[12..28].copy_from_slice(id);
    head[28] = kind;
    crc32c::crc32c_append(crc32c::crc32c(&head), body)
}
