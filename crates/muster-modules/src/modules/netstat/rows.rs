//! The rows of the kernel's tables of neighbours and sockets.
//!
//! Stays true: each row is read by itself, so a bad one costs itself only; a hardware address is what the kernel writes, of
//! whatever length; a state that is not known here is shown by its number and left out of no answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr as _;

/// The flag of a neighbour whose hardware address is known.
const COMPLETE: u32 = 0x2;
/// The flag of a neighbour that this machine answers for.
const PUBLISHED: u32 = 0x8;

/// What a table of sockets is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// How far a socket has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Listening,
    Connected,
    Closed,
    /// The number of a state that a newer kernel has: it may listen or be connected.
    Unknown(u8),
}

impl State {
    /// Reads the kernel's number, see `include/net/tcp_states.h`.
    fn of(protocol: Protocol, number: u8) -> Self {
        match (protocol, number) {
            // A UDP socket without a partner takes packets from everybody.
            (Protocol::Tcp, 0x0A) | (Protocol::Udp, 0x07) => Self::Listening,
            (Protocol::Tcp, 0x07) => Self::Closed,
            (Protocol::Tcp, 0x01..=0x0C) | (Protocol::Udp, 0x01) => Self::Connected,
            _ => Self::Unknown(number),
        }
    }
}

/// One row of a table of sockets. `None` when it is none.
pub(super) fn socket(row: &[u8], protocol: Protocol) -> Option<(SocketAddr, SocketAddr, State)> {
    let mut words = std::str::from_utf8(row).ok()?.split_ascii_whitespace();
    let (number, local, remote, state) = (words.next()?, words.next()?, words.next()?, words.next()?);
    // Numbers of rows have as many digits as they need.
    let is_number = number.strip_suffix(':').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let state = u8::from_str_radix(digits(state, 2)?, 16).ok()?;
    is_number.then_some((address(local)?, address(remote)?, State::of(protocol, state)))
}

/// Reads an address as the kernel writes it: words of 32 bits in the machine's own order, and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(digits(port, 4)?, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(digits(address.get(at..at + 8)?, 8)?, 16).ok().map(u32::to_ne_bytes);
    let address: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at * 8)?);
            }
            // One of version 4 that a socket of version 6 shows is one of version 4.
            IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

fn digits(text: &str, count: usize) -> Option<&str> {
    (text.len() == count && text.bytes().all(|digit| digit.is_ascii_hexdigit())).then_some(text)
}

/// What a row of the table of neighbours says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NeighbourRow {
    pub(super) address: IpAddr,
    pub(super) hardware: String,
    pub(super) state: &'static str,
}

/// One row of the table of neighbours. `None` when it is none.
pub(super) fn neighbour(row: &[u8]) -> Option<NeighbourRow> {
    let words: Vec<&str> = std::str::from_utf8(row).ok()?.split_ascii_whitespace().collect();
    // A tunnel's neighbours have no hardware address, and the column is blank.
    let (address, kind, flags, hardware) = match words[..] {
        [address, kind, flags, hardware, _mask, _device] => (address, kind, flags, hardware),
        [address, kind, flags, _mask, _device] => (address, kind, flags, ""),
        _ => return None,
    };
    let number = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let (_, flags) = (number(kind)?, number(flags)?);
    let state = match (flags & COMPLETE != 0, flags & PUBLISHED != 0) {
        (_, true) => "published",
        (true, false) => "",
        (false, false) => "incomplete",
    };
    Some(NeighbourRow { address: IpAddr::from_str(address).ok()?, hardware: hardware.to_owned(), state })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_row_is_none() {
        for row in [
            "",
            "x",
            "0: 0100007F:0016 00000000:0000",
            "0: 0100007F:0016 00000000:0000 A",
            "0: 0100007F:16 00000000:0000 0A",
            "0: 0100007F 00000000:0000 0A",
            "0: 0100007:0016 00000000:0000 0A",
            "0: +100007F:0016 00000000:0000 0A",
            ": 0100007F:0016 00000000:0000 0A",
            "0 0100007F:0016 00000000:0000 0A",
            "0: ä0007F:0016 00000000:0000 0A",
        ] {
            assert_eq!(socket(row.as_bytes(), Protocol::Tcp), None, "{row}");
        }
        for row in
            ["", "192.0.2.1", "x 0x1 0x2 a * eth0", "192.0.2.1 1 0x2 a * eth0", "192.0.2.1 0x1 0x2 a * eth0 more"]
        {
            assert_eq!(neighbour(row.as_bytes()), None, "{row}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(row in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120)) {
            let _ = socket(&row, Protocol::Tcp);
            let _ = neighbour(&row);
        }
    }
}
