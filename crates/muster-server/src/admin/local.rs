//! Which account of this machine is at the other end of a connection.
//!
//! Stays true: the kernel says it, never the other end; what the kernel does not say for certain is nobody. A socket whose
//! process has gone is no answer: the kernel shows it as root's.

use muster_core::text::cut;
use rustix::process::geteuid;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The kernel's tables of TCP sockets. A socket of version 6 may speak version 4.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// The state of a connection that both ends hold.
const ESTABLISHED: &str = "01";
/// What the kernel writes for an account that has no number here.
const OVERFLOW: u32 = 65_534;

/// Tells whether an account may act as the server itself: it is root, or the account that the server runs as.
pub(super) fn is_owner(user: u32) -> bool {
    // An account without a number here and one that the server has by accident look alike.
    user == 0 || (user == geteuid().as_raw() && user != OVERFLOW)
}

/// Returns the account that holds the other end of a connection over a loopback address: `peer` as this end sees it,
/// `own` this end's address. `None`: the kernel does not say.
pub(super) fn account(peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    TABLES.iter().find_map(|table| find(&std::fs::read_to_string(table).ok()?, peer, own))
}

fn find(table: &str, peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    table.lines().skip(1).find_map(|row| {
        // The other end's own row: what is the peer here is local there.
        let fields: Vec<&str> = row.split_whitespace().collect();
        let [_, local, remote, state, _, _, _, user, _, inode, ..] = fields[..] else { return None };
        let is_it = address(local)? == canonical(peer) && address(remote)? == canonical(own);
        // Without a process that holds it, a socket is shown as root's.
        let is_held = state == ESTABLISHED && inode.parse().is_ok_and(|inode: u64| inode > 0);
        (is_it && is_held).then(|| user.parse().ok())?
    })
}

fn canonical(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// Reads an address of the kernel's: words of 32 bits in this machine's order, and a port.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some((ip.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

/// Says why an account of this machine is not let in without a token.
pub(super) fn refusal(user: Option<u32>) -> String {
    let who = user.map_or_else(|| "an account that the kernel does not name".to_owned(), |user| format!("user {user}"));
    cut(
        &format!(
            "over loopback only root and the server's own user ({}) need no token, and this is {who}: send metadata \
             `authorization: Bearer TOKEN`, or set admin.local = \"anybody\"",
            geteuid().as_raw()
        ),
        512,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_kernel_says_who_holds_the_other_end() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(listen) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, peer) = listener.accept().unwrap();
            let own = accepted.local_addr().unwrap();
            assert_eq!(account(peer, own), Some(geteuid().as_raw()), "{listen}");
            let other: SocketAddr = (peer.ip(), peer.port().wrapping_add(1)).into();
            assert_eq!(account(other, own), None);
            assert_eq!(account(own, peer), Some(geteuid().as_raw()), "this end is the same account here");
            drop(client);
            assert_eq!(account(peer, own), None, "an end that nobody holds is nobody's");
        }
    }

    #[test]
    fn rows_are_read_as_kernels_write_them() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:A0F6 0100007F:2382 01 00000000:00000000 00:00000000 00000000 65534        0 12345 1 0 20 4 30 10 -1\n   \
             1: 0100007F:A0F7 0100007F:2382 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0\n   \
             2: 0100007F:A0F8 0100007F:2382 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0\n   \
             3: 0000000000000000FFFF00000100007F:A0F9 0000000000000000FFFF00000100007F:2382 01 0:0 0:0 0 1000 0 7 1 0\n\
             broken\n";
        let own: SocketAddr = "127.0.0.1:9090".parse().unwrap();
        let of = |port: u16| find(table, (Ipv4Addr::LOCALHOST, port).into(), own);
        if cfg!(target_endian = "little") {
            assert_eq!(of(0xA0F6), Some(65_534));
            assert_eq!(of(0xA0F7), None, "it waits for nothing but time");
            assert_eq!(of(0xA0F8), None, "nobody holds it");
            assert_eq!(of(0xA0F9), Some(1000), "version 4 inside version 6");
            assert_eq!(of(1), None);
        }
        let words = refusal(Some(65_533));
        assert!(words.contains("user 65533") && words.contains("admin.local = \"anybody\""), "{words}");
        assert!(is_owner(0) && is_owner(geteuid().as_raw()) && !is_owner(12_345) && !is_owner(OVERFLOW));
    }
}
