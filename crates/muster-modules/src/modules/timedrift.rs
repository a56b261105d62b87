//! timedrift: the machine's own time, and how far it is from that of the network.
//!
//! Stays true: without `drift` no packet leaves the machine; the first server that answers decides.

use crate::arguments::{ArgumentError, Flag, Given};
use crate::gotext;
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Typed};
use crate::reading;
use crate::result::ModuleResult;
use crate::sandbox::Needs;
use muster_core::Timestamp;
use serde::{Deserialize, Serialize};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

pub(crate) struct Timedrift;

/// Servers that are asked when the machine names none, or none of its own answers.
const SERVERS: &[&str] = &["time.nist.gov", "0.pool.ntp.org", "1.pool.ntp.org", "2.pool.ntp.org", "3.pool.ntp.org"];
/// How long one server may take.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Where a machine names the servers that it asks itself.
const NTP_CONF: &str = "/etc/ntp.conf";
/// Servers taken from the machine's configuration, at most.
const SERVERS_MAX: usize = 16;
/// Seconds from 1900, where the protocol begins, to 1970.
const NTP_TO_UNIX_S: i64 = 2_208_988_800;
/// The shortest packet, which holds all that is needed.
const PACKET_BYTES: usize = 48;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Parameters {
    drift: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Elements {
    hascheckeddrift: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    iswithindrift: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    drifts: Vec<String>,
    localtime: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Statistics {
    exectime: String,
    /// Which servers are asked, where the machine names none.
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ntpstats: Vec<Server>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Server {
    host: String,
    time: String,
    latency: String,
    drift: String,
    reachable: bool,
}

impl Typed for Timedrift {
    type Parameters = Parameters;
    const INFO: ModuleInfo = ModuleInfo {
        name: "timedrift",
        summary: "the machine's time, and how far it is from network time",
        weight_min: 1,
        effect: Effect::Reads,
        privilege: Privilege::None,
        needs: Needs::NETWORK,
    };
    const EXAMPLE: &'static str = "-drift 5s";
    const FLAGS: &'static [Flag] = &[Flag::text(
        "drift",
        "DURATION",
        "how far the time may be from that of NTP servers, such as 5s; without it only the local time is told",
    )];

    fn from_flags(given: &Given) -> Result<Parameters, ArgumentError> {
        Ok(Parameters { drift: given.text("drift").unwrap_or_default() })
    }

    fn validate(parameters: &Parameters) -> Result<(), Refused> {
        if parameters.drift.is_empty() {
            return Ok(());
        }
        gotext::parse_duration(&parameters.drift).map(drop).map_err(Refused)
    }

    fn answer(parameters: Parameters, context: &Context) -> Result<ModuleResult, Refused> {
        let begun = Instant::now();
        let mut elements = Elements { localtime: context.clock.now().to_string(), ..Elements::default() };
        let mut statistics = Statistics::default();
        let mut errors = Vec::new();
        let mut found = true;
        if !parameters.drift.is_empty() {
            let allowed = gotext::parse_duration(&parameters.drift).map_err(Refused)?;
            let Servers { all, own, note } = servers(context, &mut errors);
            statistics.note = note;
            check(&all, allowed, context, &mut elements, &mut statistics);
            // Without an answer it is neither within nor out of what is allowed.
            found = elements.hascheckeddrift && !elements.iswithindrift;
            if elements.hascheckeddrift {
                errors.extend(statistics.own_silence(own));
            } else {
                let asked = statistics.ntpstats.len();
                errors.push(format!("none of {asked} servers answered, so how far the time is off is not known"));
            }
        }
        statistics.exectime = gotext::duration(begun.elapsed());
        let asked = !parameters.drift.is_empty();
        let result = ModuleResult::ran(found, &elements, statistics).with_errors(errors);
        Ok(ModuleResult { success: !asked || elements.hascheckeddrift, ..result })
    }

    fn lines(result: &ModuleResult, lines: Lines) -> Vec<String> {
        // A result that failed has none, and nothing is known then.
        let elements: Option<Elements> = serde_json::from_value(result.elements.clone()).unwrap_or_default();
        let mut out = elements.map_or_else(Vec::new, Elements::into_lines);
        if lines == Lines::Found {
            return out;
        }
        out.extend(result.errors().iter().map(|error| format!("error: {error}")));
        let statistics: Option<Statistics> = serde_json::from_value(result.statistics.clone()).unwrap_or_default();
        if let Some(statistics) = statistics {
            out.push(format!("stat: execution time was {}", statistics.exectime));
            out.extend(Some(statistics.note).filter(|note| !note.is_empty()).map(|note| format!("stat: {note}")));
            out.extend(statistics.ntpstats.iter().map(Server::line));
        }
        let ended = if result.success { "succeeded" } else { "failed" };
        out.push(format!("timedrift module has {ended}"));
        out
    }
}

impl Elements {
    fn into_lines(self) -> Vec<String> {
        let mut out = vec![format!("local time is {}", self.localtime)];
        if self.hascheckeddrift && self.iswithindrift {
            out.push("local time is within acceptable drift from NTP servers".to_owned());
        } else if self.hascheckeddrift {
            out.push("local time is out of sync from NTP servers".to_owned());
            out.extend(self.drifts);
        }
        out
    }
}

impl Statistics {
    /// Says that none of the machine's `own` servers, which are asked first, answered; `None` where one did, or there are none.
    fn own_silence(&self, own: usize) -> Option<String> {
        let is_silent = own > 0 && self.ntpstats.iter().take(own).all(|server| !server.reachable);
        let other = self.ntpstats.iter().find(|server| server.reachable).filter(|_| is_silent)?;
        Some(format!("none of the {own} servers in {NTP_CONF} answered: the time is compared with {}", other.host))
    }
}

impl Server {
    fn line(&self) -> String {
        if !self.reachable {
            return format!("stat: {} was unreachable", self.host);
        }
        let time = self.time.parse().map_or_else(|_| self.time.clone(), gotext::moment);
        let Self { host, latency, drift, .. } = self;
        format!("stat: {host} responded in {latency} with time {time}. local time drifts by {drift}")
    }
}

/// Whom to ask for the time.
#[derive(Debug, PartialEq, Eq)]
struct Servers {
    /// In this order.
    all: Vec<String>,
    /// How many of them the machine itself names.
    own: usize,
    /// What is to be known of them; empty when nothing is.
    note: String,
}

/// Returns the servers that the machine itself asks, then the well-known ones. Most machines have no such file, and that is
/// no error; one that cannot be read may name servers.
fn servers(context: &Context, errors: &mut Vec<String>) -> Servers {
    let mut all = Vec::new();
    let mut note = String::new();
    let path = context.path(NTP_CONF);
    match reading::text(&path) {
        Ok(text) => all.extend(configured(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            note = format!("there is no {NTP_CONF}: well-known servers are asked");
        }
        Err(error) => {
            errors.push(format!("{}: well-known servers are asked instead", reading::open_error(&path, &error)));
        }
    }
    let own = all.len();
    all.extend(SERVERS.iter().map(|name| (*name).to_owned()));
    Servers { all, own, note }
}

fn configured(text: &str) -> impl Iterator<Item = String> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "server").then(|| words.next().map(str::to_owned))?
    });
    named.take(SERVERS_MAX)
}

fn check(
    servers: &[String],
    allowed: Duration,
    context: &Context,
    elements: &mut Elements,
    statistics: &mut Statistics,
) {
    for host in servers {
        if context.stop.is_asked() {
            return;
        }
        context.progress.doing(|| format!("asking {host} for the time"));
        let Some((time, latency)) = ask(&format!("{host}:123")) else {
            // MIG writes the first moment of its calendar for a time it does not know.
            let time = "0001-01-01T00:00:00Z".to_owned();
            statistics.ntpstats.push(Server { host: host.clone(), time, ..Server::default() });
            continue;
        };
        let drift = i128::from(context.clock.now().as_nanos()) - i128::from(time.as_nanos());
        elements.iswithindrift = drift.unsigned_abs() <= allowed.as_nanos();
        if !elements.iswithindrift {
            let side = if drift < 0 { "behind" } else { "ahead of" };
            let by = gotext::signed_duration(drift.abs());
            elements.drifts.push(format!("Local time is {side} ntp host {host} by {by}"));
        }
        statistics.ntpstats.push(Server {
            host: host.clone(),
            time: time.to_string(),
            latency: gotext::duration(latency),
            drift: gotext::signed_duration(drift),
            reachable: true,
        });
        elements.hascheckeddrift = true;
        return;
    }
}

/// Asks one server what time it is.
fn ask(address: &str) -> Option<(Timestamp, Duration)> {
    let socket = UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0")).ok()?;
    socket.set_read_timeout(Some(ANSWER_TIME)).ok()?;
    socket.connect(address).or_else(|_| retry_v4(address, &socket)).ok()?;
    let mut packet = [0_u8; PACKET_BYTES];
    // Version 3, mode client.
    packet[0] = 3 << 3 | 3;
    let begun = Instant::now();
    socket.send(&packet).ok()?;
    let bytes = socket.recv(&mut packet).ok()?;
    (bytes == PACKET_BYTES).then(|| transmitted(&packet)).flatten().map(|time| (time, begun.elapsed()))
}

/// A socket of both families reaches an old address by its mapped form only.
fn retry_v4(address: &str, socket: &UdpSocket) -> std::io::Result<()> {
    use std::net::{IpAddr, ToSocketAddrs};
    let mut last = Err(std::io::Error::from(std::io::ErrorKind::NotFound));
    for mut found in address.to_socket_addrs()? {
        if let IpAddr::V4(v4) = found.ip() {
            found.set_ip(v4.to_ipv6_mapped().into());
        }
        last = socket.connect(found);
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Reads the moment at which the server sent its answer.
fn transmitted(packet: &[u8; PACKET_BYTES]) -> Option<Timestamp> {
    let word = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    let (seconds, fraction) = (word(40), word(44));
    if seconds == 0 || fraction == 0 {
        return None;
    }
    // The 32 bits of seconds begin again in 2036; what lies before 1968 is meant to lie after it.
    let era = if seconds & 0x8000_0000 == 0 { 1_i64 << 32 } else { 0 };
    let nanos = i32::try_from((u64::from(fraction) * 1_000_000_000) >> 32).ok()?;
    Timestamp::from_parts(i64::from(seconds) + era - NTP_TO_UNIX_S, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::testing::{context, fixture, same_form};
    use serde_json::json;

    #[test]
    fn without_a_drift_it_tells_the_local_time_as_mig_does() {
        let dir = tempfile::tempdir().unwrap();
        let result = crate::registry::find("timedrift").unwrap().run(&json!({"drift": ""}), &context(dir.path()));
        let want = fixture("timedrift");
        same_form(&result, &want);
        assert_eq!(result.elements["localtime"], "2026-11-20T13:39:47Z");
        let lines = Timedrift::lines(&want, Lines::Found);
        assert_eq!(lines, ["local time is 2026-11-20T13:39:47.721187502Z"]);
    }

    #[test]
    fn the_machines_own_servers_are_asked_first() {
        let text = "# server old\nserver ntp1.example iburst\npool x\nserver\n  server ntp2.example\n";
        assert_eq!(configured(text).collect::<Vec<_>>(), ["ntp1.example", "ntp2.example"]);
    }

    #[test]
    fn a_machine_without_a_list_of_servers_is_whole_and_one_that_cannot_be_read_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let asked = || {
            let mut errors = Vec::new();
            let Servers { all, own, note } = servers(&context(dir.path()), &mut errors);
            assert_eq!(all[own..], *SERVERS);
            (own, note, errors)
        };
        assert_eq!(asked(), (0, "there is no /etc/ntp.conf: well-known servers are asked".to_owned(), Vec::new()));
        let conf = dir.path().join("etc/ntp.conf");
        std::fs::create_dir_all(&conf).unwrap();
        let (own, note, errors) = asked();
        assert!((own, note.as_str()) == (0, "") && errors[0].contains("ntp.conf"), "{errors:?}");
        std::fs::remove_dir(&conf).unwrap();
        std::fs::write(&conf, "server ntp1.example\n").unwrap();
        assert_eq!(asked(), (1, String::new(), Vec::new()));
    }

    #[test]
    fn that_none_of_the_machines_own_servers_answered_is_an_error() {
        let of = |reachable: &[bool]| {
            let server = |(reachable, host): (&bool, _)| Server { reachable: *reachable, host, ..Server::default() };
            let names = ["a", "b", "c"].map(str::to_owned);
            Statistics { ntpstats: reachable.iter().zip(names).map(server).collect(), ..Statistics::default() }
        };
        let silent = of(&[false, false, true]).own_silence(2).unwrap();
        assert_eq!(silent, "none of the 2 servers in /etc/ntp.conf answered: the time is compared with c");
        assert_eq!(of(&[false, true]).own_silence(2), None);
        assert_eq!(of(&[false, true]).own_silence(0), None, "it names none");
        let noted = Statistics { note: "n".to_owned(), ..of(&[true]) };
        let result = ModuleResult::ran(false, Elements::default(), &noted);
        assert!(Timedrift::lines(&result, Lines::All).contains(&"stat: n".to_owned()));
    }

    #[test]
    fn a_server_that_answers_decides() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap().to_string();
        let answering = std::thread::spawn(move || {
            let mut packet = [0_u8; 64];
            let (bytes, from) = server.recv_from(&mut packet).unwrap();
            assert_eq!((bytes, packet[0]), (48, 27));
            packet[40..44].copy_from_slice(&4_004_170_787_u32.to_be_bytes());
            packet[44..48].copy_from_slice(&0x8000_0000_u32.to_be_bytes());
            server.send_to(&packet[..48], from).unwrap();
        });
        let (time, _) = ask(&address).unwrap();
        answering.join().unwrap();
        assert_eq!(time.to_string(), "2026-11-20T13:39:47.5Z");
    }

    #[test]
    fn without_an_answer_the_time_is_neither_right_nor_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let (mut elements, mut statistics) = (Elements::default(), Statistics::default());
        // No name, so nobody is asked.
        let servers = [String::new()];
        check(&servers, Duration::from_secs(5), &context(dir.path()), &mut elements, &mut statistics);
        assert!(!elements.hascheckeddrift && !elements.iswithindrift && statistics.ntpstats.len() == 1);
        let stopped = Context { stop: crate::Stop::after(Duration::ZERO), ..context(dir.path()) };
        let result = crate::registry::find("timedrift").unwrap().run(&json!({"drift": "5s"}), &stopped);
        assert!(!result.success && !result.foundanything, "{result:?}");
        assert!(result.errors().iter().any(|error| error.contains("none of 0 servers answered")), "{result:?}");
        assert_eq!(result.elements.get("iswithindrift"), None);
    }

    #[test]
    fn an_answer_without_a_time_is_none() {
        assert_eq!(transmitted(&[0; PACKET_BYTES]), None);
        let mut late = [0; PACKET_BYTES];
        late[43] = 1;
        late[47] = 1;
        assert!(transmitted(&late).unwrap().to_string().starts_with("2036-02-07T"), "a new era began");
    }

    #[test]
    fn a_result_without_elements_prints_nothing_that_was_not_measured() {
        crate::modules::testing::prints_no_more_than_errors::<Timedrift>(&["timedrift module has failed"]);
    }
}
