//! Addresses and ranges of them.

use crate::module::Refused;
use std::net::IpAddr;

/// All addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    first: IpAddr,
    bits: u32,
}

impl Range {
    /// Reads an address, or a range such as `10.0.0.0/8`.
    pub(super) fn parse(text: &str) -> Result<Self, Refused> {
        let shown: String = text.chars().take(64).collect();
        let Some((address, bits)) = text.split_once('/') else {
            let invalid = |_| Refused(format!("invalid IPv{{4,6}} {shown}. Must be an IP or a CIDR."));
            let first: IpAddr = text.parse().map_err(invalid)?;
            return Ok(Self { first: first.to_canonical(), bits: u32::MAX });
        };
        let invalid = || {
            let why = format!("invalid CIDR address: {shown}");
            Refused(format!("invalid IPv{{4,6}} CIDR {shown}: {why}. Must be an IP or a CIDR."))
        };
        let first: IpAddr = address.parse().map_err(|_| invalid())?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits = bits.parse().ok().filter(|given| *given <= most && bits.bytes().all(|b| b.is_ascii_digit()));
        Ok(Self { first, bits: bits.ok_or_else(invalid)? })
    }

    /// Tells whether the range holds addresses of version 6 alone.
    pub(super) fn is_of_version_6(&self) -> bool {
        self.first.is_ipv6()
    }

    /// Tells whether `address` is in the range.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                same(first.to_bits().into(), address.to_bits().into(), self.bits, 32)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => same(first.to_bits(), address.to_bits(), self.bits, 128),
            _ => false,
        }
    }
}

/// Tells whether the first `bits` of numbers of `width` bits are the same.
fn same(a: u128, b: u128, bits: u32, width: u32) -> bool {
    let differing = width.saturating_sub(bits);
    (a ^ b).checked_shr(differing).unwrap_or(0) == 0
}
