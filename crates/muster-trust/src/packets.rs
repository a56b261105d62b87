//! Packets as other programs write them, made as the library reads them.
//!
//! Go's OpenPGP package says of every RSA and DSA number in a signature that it begins with its highest bit; half of them
//! do not. GnuPG and Go read that, the library wants the exact length (RFC 9580 section 3.2). These lengths are in no
//! hash, so setting them right changes nothing of what was signed or by whom.
//! Stays true: what is not understood here is left as it is, for the library to judge.

use std::borrow::Cow;

/// The tag of a signature packet.
pub(crate) const SIGNATURE: u8 = 2;

/// The header of a packet (RFC 9580 section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) tag: u8,
    /// Bytes of the header itself.
    pub(crate) bytes: usize,
    /// Bytes of what follows.
    pub(crate) body: usize,
}

/// Reads the header that `bytes` begin with. `None`: there is none, or it does not say how long the packet is.
pub(crate) fn header(bytes: &[u8]) -> Option<Header> {
    let first = *bytes.first()?;
    let be = |count: usize| {
        let digits = bytes.get(1..=count)?;
        Some(digits.iter().fold(0_usize, |sum, byte| sum * 256 + usize::from(*byte)))
    };
    match first {
        0xC0.. => {
            let (length, body) = match *bytes.get(1)? {
                short @ 0..192 => (1, usize::from(short)),
                first @ 192..224 => (2, ((usize::from(first) - 192) << 8) + usize::from(*bytes.get(2)?) + 192),
                255 => (5, bytes.get(2..6)?.iter().fold(0, |sum, byte| sum * 256 + usize::from(*byte))),
                // A length in pieces, which only data may have.
                _ => return None,
            };
            Some(Header { tag: first & 0x3F, bytes: 1 + length, body })
        }
        0x80..0xC0 => {
            let length = match first & 3 {
                0 => 1,
                1 => 2,
                2 => 4,
                // To the end of whatever holds it.
                _ => return None,
            };
            Some(Header { tag: (first >> 2) & 0x0F, bytes: 1 + length, body: be(length)? })
        }
        _ => None,
    }
}

/// Returns the packets with the numbers of their signatures written as they should be.
pub(crate) fn exact(bytes: &[u8]) -> Cow<'_, [u8]> {
    let (mut rest, mut out, mut is_changed) = (bytes, Vec::new(), false);
    while let Some(header) = header(rest) {
        let Some((packet, after)) = rest.split_at_checked(header.bytes + header.body) else { break };
        let body = &packet[header.bytes..];
        match exact_signature(body).filter(|new| header.tag == SIGNATURE && new != body) {
            Some(new) => {
                write(&new, &mut out);
                is_changed = true;
            }
            None => out.extend_from_slice(packet),
        }
        rest = after;
    }
    if !is_changed {
        return Cow::Borrowed(bytes);
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

/// Writes a signature packet: its tag in the new form, and a length of four bytes.
fn write(body: &[u8], out: &mut Vec<u8>) {
    out.extend([0xC2, 255]);
    out.extend(u32::try_from(body.len()).expect("what was read from memory is short").to_be_bytes());
    out.extend_from_slice(body);
}

/// Returns the body of a signature of version 4 with its numbers as they should be.
fn exact_signature(body: &[u8]) -> Option<Vec<u8>> {
    let [4, _, algorithm, _, ..] = *body else { return None };
    // RSA has one number, DSA and the curves of that time two (RFC 9580 section 5.2.3).
    let numbers = match algorithm {
        1 | 3 => 1,
        17 | 19 | 22 => 2,
        _ => return None,
    };
    let area = |at: usize| Some(at + 2 + usize::from(u16::from_be_bytes(*body.get(at..)?.first_chunk()?)));
    // Behind both areas stand two bytes of the hash.
    let (fixed, mut rest) = body.split_at_checked(area(area(4)?)? + 2)?;
    let mut out = fixed.to_vec();
    for _ in 0..numbers {
        let (bits, after) = rest.split_first_chunk::<2>()?;
        let (value, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*bits)).div_ceil(8))?;
        let zeros = value.iter().take_while(|byte| **byte == 0).count();
        let value = &value[zeros..];
        let bits = value.len() * 8 - value.first().map_or(0, |byte| byte.leading_zeros() as usize);
        out.extend(u16::try_from(bits).ok()?.to_be_bytes());
        out.extend_from_slice(value);
        rest = after;
    }
    rest.is_empty().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A signature with areas of three and no bytes, of these numbers.
    fn signature(algorithm: u8, numbers: &[&[u8]]) -> Vec<u8> {
        let fixed = [4, 0, algorithm, 8, 0, 3, 9, 9, 9, 0, 0, 7, 7];
        [&fixed[..], &numbers.concat()].concat()
    }

    fn packet(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write(body, &mut out);
        out
    }

    #[test]
    fn headers_of_both_forms_are_read() {
        let read = |bytes: &[u8]| header(bytes).map(|header| (header.tag, header.bytes, header.body));
        assert_eq!(read(&[0xC2, 5]), Some((2, 2, 5)));
        assert_eq!(read(&[0xC2, 191]), Some((2, 2, 191)));
        assert_eq!(read(&[0xC6, 192, 0]), Some((6, 3, 192)));
        assert_eq!(read(&[0xC2, 223, 255]), Some((2, 3, 8383)));
        assert_eq!(read(&[0xC2, 255, 0, 1, 2, 3]), Some((2, 6, 0x1_0203)));
        assert_eq!(read(&[0x88, 7]), Some((2, 2, 7)));
        assert_eq!(read(&[0x89, 1, 2]), Some((2, 3, 258)));
        assert_eq!(read(&[0x99, 1, 2]), Some((6, 3, 258)));
        assert_eq!(read(&[0x8A, 0, 0, 1, 0]), Some((2, 5, 256)));
        let none: [&[u8]; 8] =
            [&[], &[0xC2], &[0xC2, 192], &[0xC2, 224], &[0xC2, 255, 0, 0, 0], &[0x8B, 1], &[0x89, 1], &[0x7F, 1]];
        for none in none {
            assert_eq!(read(none), None, "{none:?}");
        }
    }

    #[test]
    fn numbers_get_their_exact_lengths() {
        let go = signature(1, &[&[0, 16, 0x26, 1]]);
        assert_eq!(exact(&packet(&go)), packet(&signature(1, &[&[0, 14, 0x26, 1]])));
        let zero = signature(3, &[&[0, 24, 0, 0, 1]]);
        assert_eq!(exact(&packet(&zero)), packet(&signature(3, &[&[0, 1, 1]])));
        let nothing = signature(1, &[&[0, 8, 0]]);
        assert_eq!(exact(&packet(&nothing)), packet(&signature(1, &[&[0, 0]])));
        for algorithm in [17, 19, 22] {
            let two = signature(algorithm, &[&[0, 8, 0x80], &[0, 8, 1]]);
            assert_eq!(exact(&packet(&two)), packet(&signature(algorithm, &[&[0, 8, 0x80], &[0, 1, 1]])));
        }
    }

    #[test]
    fn signatures_among_other_packets_are_found() {
        let (key, short) = ([0x99, 0, 2, 4, 4], packet(&signature(1, &[&[0, 8, 1]])));
        let long = [&[0x88, 16][..], &signature(1, &[&[0, 8, 1]])].concat();
        let all = [&key[..], &long, &key, &short, b"\x7f tail"].concat();
        let good = packet(&signature(1, &[&[0, 1, 1]]));
        assert_eq!(exact(&all), [&key[..], &good, &key, &good, b"\x7f tail"].concat());
    }

    #[test]
    fn what_is_right_or_not_understood_stays_as_it_is() {
        let good = packet(&signature(1, &[&[0, 8, 0x80]]));
        assert!(matches!(exact(&good), Cow::Borrowed(_)));
        let short = signature(1, &[&[0, 8, 1]]);
        let version_3 = [&[3], &short[1..]].concat();
        let other_tag = [&[0xC6, 16][..], &short].concat();
        let strange = [
            packet(&version_3),
            other_tag,
            packet(&signature(2, &[&[0, 8, 1]])),
            packet(&signature(17, &[&[0, 8, 1]])),
            packet(&signature(1, &[&[0, 8, 1], &[0]])),
            packet(&signature(1, &[&[0, 9, 1]])),
            packet(&signature(1, &[&[0]])),
            packet(&[4, 0, 1, 8, 0, 99]),
            packet(&[4, 0, 1, 8, 0]),
            packet(&[4]),
            packet(&[]),
            packet(&short)[..9].to_vec(),
            vec![0xC2, 224, 1, 1],
            Vec::new(),
        ];
        for bytes in strange {
            assert_eq!(exact(&bytes), bytes, "{bytes:?}");
        }
    }
}
