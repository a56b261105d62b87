//! Hashes of files, several in one reading.

use super::check::Kind;
use crate::module::Stop;
use md5::Md5;
use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Sha256, Sha384, Sha512};
use sha3::{Sha3_224, Sha3_256, Sha3_384, Sha3_512};
use std::collections::BTreeMap;
use std::io::{self, Read};

/// A hash that a search can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha384,
    Sha512,
    Sha3_224,
    Sha3_256,
    Sha3_384,
    Sha3_512,
}

impl Algorithm {
    /// Returns the hash of a family that has `digits` hexadecimal digits.
    pub(super) fn of(family: Kind, digits: usize) -> Option<Self> {
        Some(match (family, digits) {
            (Kind::Md5, 32) => Self::Md5,
            (Kind::Sha1, 40) => Self::Sha1,
            (Kind::Sha2, 64) => Self::Sha256,
            (Kind::Sha2, 96) => Self::Sha384,
            (Kind::Sha2, 128) => Self::Sha512,
            (Kind::Sha3, 56) => Self::Sha3_224,
            (Kind::Sha3, 64) => Self::Sha3_256,
            (Kind::Sha3, 96) => Self::Sha3_384,
            (Kind::Sha3, 128) => Self::Sha3_512,
            _ => return None,
        })
    }

    fn begin(self) -> Box<dyn DynDigest> {
        match self {
            Self::Md5 => Box::new(Md5::default()),
            Self::Sha1 => Box::new(Sha1::default()),
            Self::Sha256 => Box::new(Sha256::default()),
            Self::Sha384 => Box::new(Sha384::default()),
            Self::Sha512 => Box::new(Sha512::default()),
            Self::Sha3_224 => Box::new(Sha3_224::default()),
            Self::Sha3_256 => Box::new(Sha3_256::default()),
            Self::Sha3_384 => Box::new(Sha3_384::default()),
            Self::Sha3_512 => Box::new(Sha3_512::default()),
        }
    }
}

/// Reads to the end and returns the hashes asked for, in capitals as MIG writes them.
pub(super) fn hash(
    mut from: impl Read,
    algorithms: impl IntoIterator<Item = Algorithm>,
    stop: &Stop,
) -> io::Result<BTreeMap<Algorithm, String>> {
    let mut hashes: BTreeMap<_, _> = algorithms.into_iter().map(|algorithm| (algorithm, algorithm.begin())).collect();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        if stop.is_asked() {
            return Err(super::content::stopped());
        }
        let bytes = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for hash in hashes.values_mut() {
            hash.update(&buffer[..bytes]);
        }
    }
    Ok(hashes.into_iter().map(|(algorithm, hash)| (algorithm, hex::encode_upper(hash.finalize()))).collect())
}
