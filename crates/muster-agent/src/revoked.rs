//! Which certificates a server said are not to be trusted any more.
//!
//! Stays true: a server's list narrows for a while and never for good. It counts until a newer list replaces it, and
//! [`LIFE`] at most; it never reaches a certificate that this machine's owner pinned; one that cannot be read or is too
//! large changes nothing. What is kept is bounded: of each serial number 8 bytes of its hash.

use crate::durable::{self, Sync};
use muster_core::Timestamp;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::Duration;

/// Bytes of a list that is read.
pub(crate) const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Serial numbers in a list that counts: as many as fit into [`LIST_BYTES_MAX`] when they are of the usual length.
const SERIALS_MAX: usize = 200_000;
/// How long a list counts that no newer one replaced.
const LIFE: Duration = Duration::from_hours(24);
/// How much longer than [`LIFE`] the end of a list may be away, by clocks that are read differently.
const SLACK: Duration = Duration::from_mins(1);
/// The file in the state directory.
pub(crate) const FILE: &str = "revoked.json";

/// The list that counts, shared by whoever fetches it and whoever checks certificates.
pub(crate) type Revoked = Arc<RwLock<RevokedList>>;

/// Why a list is ignored.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListError {
    /// It is not what it should be.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// It is too large.
    #[error("it names more than {SERIALS_MAX} certificates or is larger than {LIST_BYTES_MAX} bytes")]
    TooLarge,
}

/// A list of revoked certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RevokedList {
    /// Sorted, each once.
    serials: Vec<u64>,
    until: Timestamp,
}

impl Default for RevokedList {
    fn default() -> Self {
        Self { serials: Vec::new(), until: Timestamp::EPOCH }
    }
}

/// The list in the file.
#[derive(Serialize, Deserialize)]
struct Content {
    until: Timestamp,
    /// Hashes, 16 hexadecimal digits each.
    serials: Vec<String>,
}

impl RevokedList {
    /// Reads the list that a server gave at `now`: a `RevokedCertificateList` of the wire, taken apart in place, because
    /// decoded as a whole it could take many times its own size.
    pub(crate) fn parse(mut list: &[u8], now: Timestamp) -> Result<Self, ListError> {
        let unreadable = |error: prost::DecodeError| ListError::Unreadable(error.to_string());
        if list.len() > LIST_BYTES_MAX {
            return Err(ListError::TooLarge);
        }
        let mut serials = Vec::new();
        while !list.is_empty() {
            let (tag, wire_type) = decode_key(&mut list).map_err(unreadable)?;
            if (tag, wire_type) != (1, WireType::LengthDelimited) {
                skip_field(wire_type, tag, &mut list, DecodeContext::default()).map_err(unreadable)?;
                continue;
            }
            let length = decode_varint(&mut list).map_err(unreadable)?;
            let serial = usize::try_from(length).ok().and_then(|length| list.split_at_checked(length));
            let Some((serial, rest)) = serial else {
                return Err(ListError::Unreadable("a serial number is cut off".to_owned()));
            };
            list = rest;
            // The empty number is no certificate's.
            if !significant(serial).is_empty() {
                serials.push(hash(serial));
            }
        }
        serials.sort_unstable();
        serials.dedup();
        serials.shrink_to_fit();
        if serials.len() > SERIALS_MAX {
            return Err(ListError::TooLarge);
        }
        Ok(Self { serials, until: now.plus(LIFE) })
    }

    /// Reads the list of an earlier life of the agent. One that is damaged or missing is as none.
    pub(crate) fn load(directory: &Path) -> Self {
        let path = directory.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, path = %path.display(), "cannot read the list of revoked certificates");
                }
                return Self::default();
            }
        };
        let read = serde_json::from_slice(&bytes).ok().and_then(|content: Content| {
            let serial = |text: &String| u64::from_str_radix(text, 16).ok();
            let mut serials = content.serials.iter().map(serial).collect::<Option<Vec<_>>>()?;
            serials.sort_unstable();
            Some(Self { serials, until: content.until })
        });
        read.unwrap_or_else(|| {
            tracing::warn!(path = %path.display(), "the list of revoked certificates is damaged and does not count");
            Self::default()
        })
    }

    /// Writes the list for the next life of the agent.
    pub(crate) fn save(&self, directory: &Path) -> io::Result<()> {
        let path = directory.join(FILE);
        if self.serials.is_empty() {
            return match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let serials = self.serials.iter().map(|serial| format!("{serial:016x}")).collect();
        let content = Content { until: self.until, serials };
        let bytes = serde_json::to_vec(&content).expect("numbers and text are JSON");
        durable::replace(&path, &bytes, Sync::Power)
    }

    /// Whether a certificate with this serial number is not to be trusted at `now`.
    pub(crate) fn contains(&self, serial: &[u8], now: Timestamp) -> bool {
        // A clock that was set back does not make it count for longer; TLS knows the time by the second only.
        let counts = now < self.until && self.until.since(now) <= LIFE + SLACK;
        counts && self.serials.binary_search(&hash(serial)).is_ok()
    }

    /// Whether it names the same certificates as `other`.
    pub(crate) fn names_same(&self, other: &Self) -> bool {
        self.serials == other.serials
    }

    /// How many certificates it names.
    pub(crate) fn len(&self) -> usize {
        self.serials.len()
    }
}

/// Drops the leading zeros that DER puts before a number's high bit.
fn significant(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    &serial[zeros..]
}

/// What is kept of a serial number. A certificate that is not meant shares it with one of a full list once in 10^14.
fn hash(serial: &[u8]) -> u64 {
    let digest = Sha256::digest(significant(serial));
    u64::from_be_bytes(digest[..8].try_into().expect("a SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::wire::RevokedCertificateList;
    use prost::Message as _;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn list(serials: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
        RevokedCertificateList { serials: serials.into_iter().map(Into::into).collect() }.encode_to_vec()
    }

    #[test]
    fn a_list_counts_for_a_day_and_for_no_certificate_but_those_it_names() {
        let read = RevokedList::parse(&list([vec![0, 0xd7], vec![1, 2], vec![]]), NOW).unwrap();
        assert_eq!(read.len(), 2);
        assert!(read.contains(&[0xd7], NOW) && read.contains(&[0, 0, 1, 2], NOW));
        assert!(!read.contains(&[2], NOW) && !read.contains(&[], NOW) && !read.contains(&[0], NOW));
        assert!(read.contains(&[0xd7], NOW.plus(LIFE).minus(Duration::from_secs(1))));
        assert!(!read.contains(&[0xd7], NOW.plus(LIFE)));
        // A second that had begun when the list came.
        assert!(read.contains(&[0xd7], NOW.minus(Duration::from_millis(900))));
        // A clock that was a year ahead when the list came does not make it count for a year.
        assert!(!read.contains(&[0xd7], NOW.minus(Duration::from_hours(9000))));
    }

    #[test]
    fn ten_thousand_serials_hide_none_and_a_list_that_is_too_large_or_damaged_is_an_error() {
        let random = (0..10_000_u64).map(|number| Sha256::digest(number.to_be_bytes())[..20].to_vec());
        let read = RevokedList::parse(&list(random.chain([vec![0xd7]])), NOW).unwrap();
        assert_eq!((read.len(), read.contains(&[0xd7], NOW)), (10_001, true));
        let many = (0..200_001_u32).map(|number| (number + 1).to_be_bytes().to_vec());
        assert_eq!(RevokedList::parse(&list(many), NOW), Err(ListError::TooLarge));
        assert_eq!(RevokedList::parse(&vec![0; LIST_BYTES_MAX + 1], NOW), Err(ListError::TooLarge));
        let whole = list([vec![7; 20]]);
        for cut in 1..whole.len() {
            assert!(matches!(RevokedList::parse(&whole[..cut], NOW), Err(ListError::Unreadable(_))), "cut at {cut}");
        }
        assert!(RevokedList::parse(b"<html>no such file</html>", NOW).is_err());
        // Fields of a later version are passed over.
        assert_eq!(RevokedList::parse(&[0x10, 5, 0x0a, 1, 9], NOW).unwrap().len(), 1);
    }

    #[test]
    fn it_outlives_the_process_and_damage_is_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let read = RevokedList::parse(&list([vec![0xd7], vec![9]]), NOW).unwrap();
        read.save(directory.path()).unwrap();
        assert_eq!(RevokedList::load(directory.path()), read);
        std::fs::write(directory.path().join(FILE), "{\"until\":").unwrap();
        assert_eq!(RevokedList::load(directory.path()), RevokedList::default());
        RevokedList::default().save(directory.path()).unwrap();
        assert!(!directory.path().join(FILE).exists());
    }
}
