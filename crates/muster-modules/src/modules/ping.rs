//! ping: whether this machine reaches another, by ICMP, TCP or UDP.

use crate::arguments::{ArgumentError, Flag, Given};
use crate::gotext::{self, number};
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Typed};
use crate::result::ModuleResult;
use crate::sandbox::Needs;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
use serde::{Deserialize, Serialize, Serializer};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

pub(crate) struct Ping;

/// How often to try unless told.
const COUNT_DEFAULT: f64 = 3.0;
/// How often one may try.
const COUNT_MAX: f64 = 1000.0;
/// Seconds to wait for one answer unless told.
const TIMEOUT_DEFAULT_S: f64 = 5.0;
/// Seconds one may wait for one answer.
const TIMEOUT_MAX_S: f64 = 300.0;
/// Between two tries, so that nobody is flooded.
const PAUSE: Duration = Duration::from_millis(100);
/// MIG's number for a try without an answer.
const TIMED_OUT: f64 = 9_999_999.0;
/// MIG's number for a refusal.
const REFUSED: f64 = -1.0;
const PAYLOAD: &[u8] = b"Ping!Ping!Ping!";

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Parameters {
    destination: String,
    #[serde(serialize_with = "number::serialize", skip_serializing_if = "is_zero")]
    destinationport: f64,
    protocol: String,
    #[serde(serialize_with = "number::serialize", skip_serializing_if = "is_zero")]
    count: f64,
    #[serde(serialize_with = "number::serialize", skip_serializing_if = "is_zero")]
    timeout: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands in a reference")]
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Elements {
    #[serde(serialize_with = "latencies")]
    latencies: Vec<f64>,
    protocol: String,
    resolvedhost: String,
    failures: Option<Vec<String>>,
}

fn latencies<S: Serializer>(values: &[f64], to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Number(#[serde(serialize_with = "number::serialize")] f64);
    to.collect_seq(values.iter().copied().map(Number))
}

impl Typed for Ping {
    type Parameters = Parameters;
    const INFO: ModuleInfo = ModuleInfo {
        name: "ping",
        summary: "whether the machine reaches another, by ICMP, TCP or UDP",
        weight_min: 1,
        effect: Effect::Reads,
        privilege: Privilege::RawSockets,
        needs: Needs::NETWORK,
    };
    const EXAMPLE: &'static str = "-d www.example.org -p tcp -dp 443";
    const FLAGS: &'static [Flag] = &[
        Flag::text("d", "HOST", "whom to reach: a name or an address"),
        Flag::number("dp", "the port, for tcp and udp; 80 unless told"),
        Flag::text("p", "PROTOCOL", "icmp, tcp or udp; icmp unless told"),
        Flag::number("c", "how often to try; 3 unless told"),
        Flag::number("t", "how many seconds to wait for each answer; 5 unless told"),
    ];

    fn from_flags(given: &Given) -> Result<Parameters, ArgumentError> {
        given.at_least_one("c", "a whole number from 1 (without it, 3)")?;
        if let Some(text) = given.text("t").filter(|text| !text.parse().is_ok_and(|seconds: f64| seconds > 0.0)) {
            let wants = "a number of seconds above 0 (without it, 5)";
            return Err(ArgumentError::WrongValue { flag: "t", wants, given: text });
        }
        let protocol = given.text("p").unwrap_or_else(|| "icmp".to_owned());
        let port = if protocol == "icmp" { 0.0 } else { 80.0 };
        Ok(Parameters {
            destination: given.text("d").unwrap_or_default(),
            destinationport: given.number("dp", port),
            protocol,
            count: given.number("c", COUNT_DEFAULT),
            timeout: given.number("t", TIMEOUT_DEFAULT_S),
        })
    }

    fn validate(parameters: &Parameters) -> Result<(), Refused> {
        let Parameters { destination, destinationport, protocol, count, timeout } = parameters;
        if !matches!(protocol.as_str(), "icmp" | "tcp" | "udp") {
            let shown: String = protocol.chars().take(64).collect();
            return Err(Refused(format!("{shown} is not a supported ping protocol")));
        }
        if protocol != "icmp" && !(0.0..=65_535.0).contains(destinationport) {
            return Err(Refused(format!(
                "{protocol} ping requires a valid destination port between 0 and 65535, got {destinationport:.0}"
            )));
        }
        if destination.is_empty() || destination.len() > 255 {
            return Err(Refused("the destination must have 1 to 255 characters".to_owned()));
        }
        if !(0.0..=COUNT_MAX).contains(count) {
            return Err(Refused(format!("the count must be between 0 and {COUNT_MAX}")));
        }
        if !(0.0..=TIMEOUT_MAX_S).contains(timeout) {
            return Err(Refused(format!("the timeout must be between 0 and {TIMEOUT_MAX_S} seconds")));
        }
        Ok(())
    }

    fn answer(parameters: Parameters, context: &Context) -> Result<ModuleResult, Refused> {
        let Parameters { destination, destinationport, protocol, count, timeout } = parameters;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be 0 to 65535")]
        let port = destinationport as u16;
        context.progress.doing(|| format!("looking up {destination}"));
        let address = resolve(&destination, port)?;
        let count = if count == 0.0 { COUNT_DEFAULT } else { count };
        let timeout = Duration::from_secs_f64(if timeout == 0.0 { TIMEOUT_DEFAULT_S } else { timeout });
        let shown = if protocol == "icmp" { destination } else { format!("{destination}:{port}") };
        let resolvedhost = format!("{shown} ({})", address.ip());
        let mut elements = Elements { protocol, resolvedhost, ..Elements::default() };
        let (mut found, mut sent) = (false, 0_u64);
        let mut number = 0_u16;
        context.progress.doing(|| format!("waiting for an answer of {}", elements.resolvedhost));
        while f64::from(number) < count {
            number += 1;
            let begun = Instant::now();
            let tried = match elements.protocol.as_str() {
                "tcp" => TcpStream::connect_timeout(&address, timeout).map(drop),
                "udp" => udp(address, timeout),
                _ => icmp(address.ip(), number, timeout),
            };
            sent += u64::from(tried.as_ref().err().is_none_or(is_answer));
            let latency = match tried {
                Ok(()) => begun.elapsed().as_secs_f64() * 1000.0,
                Err(error) => judge(&error, number, &mut elements),
            };
            // Without an answer, a UDP port may be open: nobody said that it is not.
            found |= latency > 0.0 && (latency < TIMED_OUT || elements.protocol == "udp");
            elements.latencies.push(latency);
            let so_far = crate::result::to_value(&elements);
            context.progress.so_far(move || ModuleResult::ran(found, so_far.clone(), ()));
            if context.stop.wait(PAUSE) {
                break;
            }
        }
        let is_cut = f64::from(number) < count;
        let cut = is_cut.then(|| format!("stopped before its end: only {number} of {count} were tried"));
        // Where nothing could be sent, nothing is known of the other side.
        let errors = if sent == 0 { elements.failures.clone().unwrap_or_default() } else { Vec::new() };
        let result = ModuleResult::ran(found, elements, ()).with_cuts(cut.into_iter().collect());
        Ok(ModuleResult { success: sent > 0, ..result }.with_errors(errors))
    }

    fn lines(result: &ModuleResult, lines: Lines) -> Vec<String> {
        // A result that failed has none: nothing was reached for, and so nothing was not reached.
        let elements: Option<Elements> = serde_json::from_value(result.elements.clone()).unwrap_or_default();
        let mut out = elements.map_or_else(Vec::new, |elements| elements.into_lines(result, lines));
        if lines == Lines::All {
            out.extend(result.errors().iter().cloned());
        }
        out
    }
}

impl Elements {
    /// That a machine cannot be reached is what a ping found out, like that it can. Where nothing could be sent, neither is known.
    fn into_lines(self, result: &ModuleResult, lines: Lines) -> Vec<String> {
        let Self { protocol, resolvedhost, .. } = &self;
        let mut out = Vec::new();
        match (result.foundanything, result.success) {
            (true, _) => out.push(format!("{protocol} ping of {resolvedhost} succeeded. Target is reachable.")),
            (false, true) => out.push(format!("{protocol} ping of {resolvedhost} failed. Target is unreachable.")),
            (false, false) if lines == Lines::Found => {}
            (false, false) => out.push(format!("{protocol} ping of {resolvedhost} could not be sent.")),
        }
        if lines == Lines::Found {
            return out;
        }
        out.extend(self.latencies.iter().zip(1..).map(|(latency, number)| self.line(number, *latency)));
        out.extend(self.failures.into_iter().flatten());
        out
    }

    fn line(&self, number: usize, latency: f64) -> String {
        if latency == REFUSED {
            format!("ping #{number} failed, target was unreachable")
        } else if latency == 0.0 {
            format!("ping #{number} failed, reason unknown")
        } else if latency == TIMED_OUT && self.protocol == "udp" {
            format!("ping #{number} may have succeeded (no udp response)")
        } else if latency == TIMED_OUT {
            format!("ping #{number} failed, connection timed out")
        } else {
            format!("ping #{number} succeeded in {latency:.0}ms")
        }
    }
}

/// Tells whether an error says something of the other side or of the way to it, and not only of this machine's own means.
fn is_answer(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut,
        WouldBlock,
    };
    matches!(
        error.kind(),
        TimedOut
            | WouldBlock
            | ConnectionRefused
            | ConnectionReset
            | ConnectionAborted
            | HostUnreachable
            | NetworkUnreachable
    )
}

/// Makes MIG's number of an error, and keeps one that has none.
fn judge(error: &io::Error, number: u16, elements: &mut Elements) -> f64 {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => TIMED_OUT,
        io::ErrorKind::ConnectionRefused => REFUSED,
        _ => {
            let failure = format!("ping #{number} failed with error: {}", gotext::reason(error));
            elements.failures.get_or_insert_default().push(failure);
            0.0
        }
    }
}

fn resolve(destination: &str, port: u16) -> Result<SocketAddr, Refused> {
    let invalid = || Refused(format!("destination IP is invalid: {destination}"));
    let mut addresses = (destination, port).to_socket_addrs().map_err(|_| invalid())?;
    addresses.next().ok_or_else(|| Refused("FQDN does not resolve to any known ip".to_owned()))
}

fn udp(to: SocketAddr, timeout: Duration) -> io::Result<()> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(PAYLOAD)?;
    socket.recv(&mut [0; 1500]).map(drop)
}

/// Which socket an echo goes through: one for everybody, where the system allows it, or a raw one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    ForEverybody,
    Raw,
}

fn icmp(to: IpAddr, sequence: u16, timeout: Duration) -> io::Result<()> {
    let (socket, kind) = icmp_socket(to)?;
    net::connect(&socket, &SocketAddr::new(to, 0))?;
    let [id_high, id_low, ..] = std::process::id().to_le_bytes();
    let packet = echo_request(to, [id_high, id_low], sequence);
    net::send(&socket, &packet, SendFlags::empty())?;
    let begun = Instant::now();
    loop {
        let left = timeout.checked_sub(begun.elapsed()).filter(|left| !left.is_zero());
        let left = left.ok_or(io::ErrorKind::TimedOut)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(left))?;
        let mut buffer = [0; 1500];
        let (bytes, _) = net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        // A raw socket hears everything that the other side sends, with the IP header in front when it is version 4.
        let skip = if kind == Echo::Raw && to.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
        let Some(reply) = buffer[..bytes].get(skip..).filter(|reply| reply.len() >= 8) else { continue };
        let right_type = reply[0] == if to.is_ipv4() { 0 } else { 129 };
        let right_id = kind == Echo::ForEverybody || reply[4..6] == [id_high, id_low];
        if right_type && right_id && reply[6..8] == sequence.to_be_bytes() {
            return Ok(());
        }
    }
}

fn icmp_socket(to: IpAddr) -> io::Result<(OwnedFd, Echo)> {
    let (family, protocol) =
        if to.is_ipv4() { (AddressFamily::INET, ipproto::ICMP) } else { (AddressFamily::INET6, ipproto::ICMPV6) };
    let open = |kind| net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol));
    match open(SocketType::DGRAM) {
        Ok(socket) => Ok((socket, Echo::ForEverybody)),
        Err(_) => Ok((open(SocketType::RAW)?, Echo::Raw)),
    }
}

fn echo_request(to: IpAddr, id: [u8; 2], sequence: u16) -> Vec<u8> {
    let [high, low] = sequence.to_be_bytes();
    let mut packet = vec![if to.is_ipv4() { 8 } else { 128 }, 0, 0, 0, id[0], id[1], high, low];
    packet.extend_from_slice(PAYLOAD);
    if to.is_ipv4() {
        // The system computes that of version 6, which covers addresses too.
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    packet
}

/// The Internet's checksum: the complement of the sum of 16-bit words.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Module as _;
    use crate::modules::testing::{context, fixture, same_form};
    use serde_json::json;
    use std::net::TcpListener;
    use std::path::Path;

    fn ping(parameters: &serde_json::Value) -> (ModuleResult, Vec<String>) {
        let result = Ping.run(parameters, &context(Path::new("/")));
        let lines = <Ping as Typed>::lines(&result, Lines::All);
        (result, lines)
    }

    #[test]
    fn an_open_port_is_reachable() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (result, lines) =
            ping(&json!({"destination": "127.0.0.1", "destinationport": port, "protocol": "tcp", "count": 1}));
        same_form(&result, &fixture("ping_tcp"));
        assert_eq!(lines[0], format!("tcp ping of 127.0.0.1:{port} (127.0.0.1) succeeded. Target is reachable."));
    }

    #[test]
    fn a_closed_port_is_an_answer_and_no_crash() {
        // The original ended with a nil pointer here.
        assert!(fixture("ping_refused").errors()[0].contains("nil pointer"));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (result, lines) =
            ping(&json!({"destination": "127.0.0.1", "destinationport": port, "protocol": "tcp", "count": 2}));
        assert!(result.success && !result.foundanything, "{result:?}");
        assert_eq!(result.elements["latencies"], json!([-1, -1]));
        assert_eq!(lines[1], "ping #1 failed, target was unreachable");
        let unreachable = format!("tcp ping of 127.0.0.1:{port} (127.0.0.1) failed. Target is unreachable.");
        assert_eq!(lines[0], unreachable);
        assert_eq!(<Ping as Typed>::lines(&result, Lines::Found), [unreachable], "it is what was found out");
    }

    #[test]
    fn what_could_not_be_sent_is_no_answer_of_the_other_side() {
        // The system lets nobody send to all machines who did not ask to.
        let parameters = json!({"destination": "255.255.255.255", "destinationport": 9, "protocol": "udp", "count": 2, "timeout": 1});
        let (result, lines) = ping(&parameters);
        assert!(!result.success && !result.foundanything && result.errors().len() == 2, "{result:?}");
        assert!(lines[0].ends_with(" could not be sent."), "{lines:?}");
        assert!(<Ping as Typed>::lines(&result, Lines::Found).is_empty(), "it is not known whether it can be reached");
        assert!(result.errors()[0].starts_with("ping #1 failed with error: "), "{result:?}");
        for words in [["-c", "0"], ["-t", "0"]] {
            let words: Vec<_> = ["-d", "host"].iter().chain(&words).map(|word| (*word).to_owned()).collect();
            assert!(crate::params_from_args("ping", &words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn a_silent_udp_port_may_be_open() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let parameters = json!({"destination": "127.0.0.1", "destinationport": port, "protocol": "udp", "count": 1,
            "timeout": 0.05});
        let (result, lines) = ping(&parameters);
        assert!(result.foundanything);
        assert_eq!(result.elements["latencies"], json!([9_999_999]));
        assert_eq!(lines[1], "ping #1 may have succeeded (no udp response)");
    }

    #[test]
    fn an_echo_comes_back_where_the_system_allows_asking() {
        let (result, lines) = ping(&json!({"destination": "127.0.0.1", "protocol": "icmp", "count": 1, "timeout": 5}));
        let allowed = icmp_socket([127, 0, 0, 1].into()).is_ok();
        assert_eq!(result.foundanything, allowed, "{lines:?}");
        assert!(result.success == allowed && lines.len() >= 2);
    }

    #[test]
    fn an_echo_request_is_as_the_protocol_says() {
        let packet = echo_request([127, 0, 0, 1].into(), [1, 2], 3);
        assert_eq!(packet[..2], [8, 0]);
        assert_eq!(packet[4..8], [1, 2, 0, 3]);
        assert_eq!(checksum(&packet), 0, "with its checksum in place, a packet sums up to nothing");
        assert_eq!(echo_request([0_u16, 0, 0, 0, 0, 0, 0, 1].into(), [1, 2], 3)[..4], [128, 0, 0, 0]);
    }

    #[test]
    fn what_cannot_be_reached_is_refused() {
        let refused = |parameters| Ping.validate(&parameters).unwrap_err().0;
        assert_eq!(refused(json!({"destination": "a", "protocol": "sctp"})), "sctp is not a supported ping protocol");
        let port = refused(json!({"destination": "a", "protocol": "tcp", "destinationport": 65_536}));
        assert_eq!(port, "tcp ping requires a valid destination port between 0 and 65535, got 65536");
        assert!(refused(json!({"destination": "a", "protocol": "icmp", "count": 1e9})).contains("count"));
        assert!(refused(json!({"destination": "a", "protocol": "icmp", "timeout": -1})).contains("timeout"));
        let (result, _) = ping(&json!({"destination": "not a name", "protocol": "icmp"}));
        assert_eq!(result.errors(), ["destination IP is invalid: not a name"]);
        let parameters = crate::params_from_args("ping", &["-d", "host", "-p", "tcp"].map(String::from)).unwrap();
        let want = json!({"destination": "host", "destinationport": 80, "protocol": "tcp", "count": 3, "timeout": 5});
        assert_eq!(parameters, want);
    }

    #[test]
    fn a_result_without_elements_prints_nothing_that_was_not_measured() {
        crate::modules::testing::prints_no_more_than_errors::<Ping>(&[]);
    }
}
