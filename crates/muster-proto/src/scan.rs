//! Counts what repeats in a message before it is decoded.
//!
//! An empty element of a list costs two bytes on the wire and hundreds in memory, so the lists of strangers are counted
//! on the raw bytes first. Stays true: no memory is taken, no byte is read twice per level, groups are refused.

/// A list that may hold so many elements, counted over the whole message.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) what: &'static str,
    pub(crate) max: usize,
    have: usize,
}

impl Bound {
    pub(crate) const fn new(what: &'static str, max: usize) -> Self {
        Self { what, max, have: 0 }
    }

    /// How many there were.
    pub(crate) const fn have(&self) -> usize {
        self.have
    }
}

/// What is known of one message type: which of its fields are counted, by index into the bounds, and which are looked
/// into.
pub(crate) struct Shape {
    pub(crate) counted: &'static [(u64, usize)],
    pub(crate) entered: &'static [(u64, &'static Shape)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScanError {
    #[error("it is not a protocol buffer")]
    Malformed,
    #[error("it contains more than {max} {what}, only {max} allowed")]
    TooMany { what: &'static str, max: usize },
}

/// Walks `bytes` as `shape`, adding to `bounds` and failing at the first that is exceeded.
pub(crate) fn scan(mut bytes: &[u8], shape: &Shape, bounds: &mut [Bound]) -> Result<(), ScanError> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let field = key >> 3;
        if let Some((_, index)) = shape.counted.iter().find(|(counted, _)| *counted == field) {
            let bound = &mut bounds[*index];
            bound.have += 1;
            if bound.have > bound.max {
                return Err(ScanError::TooMany { what: bound.what, max: bound.max });
            }
        }
        match key & 7 {
            0 => drop(varint(&mut bytes)?),
            1 => drop(take(&mut bytes, 8)?),
            2 => {
                let length = varint(&mut bytes)?;
                let body = take(&mut bytes, length)?;
                if let Some((_, inner)) = shape.entered.iter().find(|(entered, _)| *entered == field) {
                    scan(body, inner, bounds)?;
                }
            }
            5 => drop(take(&mut bytes, 4)?),
            _ => return Err(ScanError::Malformed),
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, ScanError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(ScanError::Malformed)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            // The tenth byte has room for one bit.
            return if shift == 63 && byte > 1 { Err(ScanError::Malformed) } else { Ok(value) };
        }
    }
    Err(ScanError::Malformed)
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], ScanError> {
    let length = usize::try_from(length).map_err(|_| ScanError::Malformed)?;
    let (head, rest) = bytes.split_at_checked(length).ok_or(ScanError::Malformed)?;
    *bytes = rest;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INNER: Shape = Shape { counted: &[(1, 1)], entered: &[] };
    const OUTER: Shape = Shape { counted: &[(2, 0)], entered: &[(2, &INNER)] };

    fn check(bytes: &[u8]) -> Result<(), ScanError> {
        scan(bytes, &OUTER, &mut [Bound::new("outer", 2), Bound::new("inner", 3)])
    }

    #[test]
    fn lists_are_counted_at_both_levels() {
        assert_eq!(check(b""), Ok(()));
        assert_eq!(check(b"\x12\x00\x12\x00"), Ok(()));
        assert_eq!(check(b"\x12\x00\x12\x00\x12\x00"), Err(ScanError::TooMany { what: "outer", max: 2 }));
        assert_eq!(check(b"\x12\x04\x0a\x00\x0a\x00\x12\x02\x0a\x00"), Ok(()));
        assert_eq!(
            check(b"\x12\x04\x0a\x00\x0a\x00\x12\x04\x0a\x00\x0a\x00"),
            Err(ScanError::TooMany { what: "inner", max: 3 })
        );
    }

    #[test]
    fn broken_bytes_are_told_from_whole_ones() {
        for bytes in [
            &b"\x12"[..],
            b"\x12\x05ab",
            b"\x0b\x0c",
            b"\x0c",
            b"\x0e\x00",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x09\x00\x00",
        ] {
            assert_eq!(check(bytes), Err(ScanError::Malformed), "{bytes:x?}");
        }
        assert_eq!(check(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x0d\0\0\0\0\x09\0\0\0\0\0\0\0\0"), Ok(()));
    }
}
