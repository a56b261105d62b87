//! The values that keys of the configuration hold, each with the one text form that people write.
//!
//! Stays true: what a value prints is what it parses. Not here: which keys there are (`keys`, the parent), and which
//! values go together (`check`).

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Reads a length of time as people write it: `90s`, `2h`, `1h 30m`, `30d`, `2w`. A day has 24 hours. Months and years
/// have no fixed length and are refused, as are negative lengths and those beyond 100 years.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        let text: String = text.chars().take(64).collect();
        format!("a length of time is written like 90s, 2h, 1h 30m, 30d or 2w, not {text:?}")
    };
    let span: jiff::Span = text.trim().parse().map_err(|_| wrong())?;
    let length = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    let length = Duration::try_from(length).map_err(|_| wrong())?;
    if length > DURATION_MAX { Err(format!("{text} is longer than 100 years")) } else { Ok(length) }
}

/// The longest length of time that can be configured or asked for.
const DURATION_MAX: Duration = Duration::from_hours(100 * 366 * 24);

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0.as_secs();
        let parts = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
        match parts.into_iter().find(|(unit, _)| secs.is_multiple_of(*unit) && secs > 0) {
            Some((unit, word)) if self.0.subsec_nanos() == 0 => write!(f, "{}{word}", secs / unit),
            _ => write!(f, "{}ms", self.0.as_millis()),
        }
    }
}

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        duration(text).map(Self)
    }
}

/// Where a door listens, or that it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Listen {
    /// The door is switched off.
    #[default]
    Off,
    /// An address and port; port 0 takes a free one.
    At(SocketAddr),
}

impl Listen {
    /// The address, where there is one.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }

    /// Whether machines other than this one can reach it.
    pub fn is_public(self) -> bool {
        self.address().is_some_and(|address| !address.ip().is_loopback())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => write!(f, "{address}"),
        }
    }
}

impl FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| {
            format!("an address is written like 127.0.0.1:8080 or [::1]:8080 (port 0: any free one), or \"off\", not {text:?}")
        })
    }
}

/// Where everything is remembered.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Database {
    /// `muster.db` in the data directory.
    #[default]
    Embedded,
    /// A SQLite file.
    Sqlite(PathBuf),
    /// The URL of a PostgreSQL database, which may hold a password.
    Postgres(String),
}

impl Database {
    /// Returns the file of an embedded database, given the data directory.
    pub fn sqlite_path(&self, data: &Path) -> Option<PathBuf> {
        match self {
            Self::Embedded => Some(data.join("muster.db")),
            Self::Sqlite(path) => Some(path.clone()),
            Self::Postgres(_) => None,
        }
    }

    /// Whether it can be shared by several servers.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }
}

impl fmt::Display for Database {
    /// Writes the URL without its password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => Ok(()),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => f.write_str(&without_password(url)),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({self})")
    }
}

impl FromStr for Database {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::Embedded),
            _ if text.starts_with("postgres://") || text.starts_with("postgresql://") => {
                Ok(Self::Postgres(text.into()))
            }
            _ => match text.strip_prefix("sqlite:") {
                Some(path) if !path.is_empty() => Ok(Self::Sqlite(path.into())),
                // The text is not repeated: it may be a mistyped URL with a password.
                _ => {
                    Err("a database is written like postgresql://user@host/name or sqlite:/path/to/file; empty means \
                          muster.db in the data directory"
                        .into())
                }
            },
        }
    }
}

/// Replaces what stands between the user's name and the host, and a `password` parameter.
fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let authority = match authority.rsplit_once('@') {
        Some((user, hosts)) => format!("{}@{hosts}", user.split_once(':').map_or(user, |(name, _)| name)),
        None => authority.to_owned(),
    };
    let (path, query) = tail.split_once('?').map_or((tail, None), |(path, query)| (path, Some(query)));
    let query = query.map(|query| {
        let kept: Vec<_> = query.split('&').filter(|pair| !pair.starts_with("password=")).collect();
        if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) }
    });
    format!("{scheme}://{authority}{path}{}", query.unwrap_or_default())
}

/// Who is taken for a proxy that may speak for agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyIdentity {
    /// Whoever connects from this address.
    Address(IpAddr),
    /// Whoever shows a TLS certificate with this SHA-256 of its public key (DER SubjectPublicKeyInfo).
    Key([u8; 32]),
}

impl fmt::Display for ProxyIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Key(hash) => write!(f, "sha256:{}", hex::encode(hash)),
        }
    }
}

impl FromStr for ProxyIdentity {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "a proxy is named by its IP address or by sha256: and 64 hexadecimal digits of the hash of its public key, not {text:?}"
            )
        };
        if let Some(digits) = text.strip_prefix("sha256:") {
            let mut hash = [0; 32];
            hex::decode_to_slice(digits, &mut hash).map_err(|_| wrong())?;
            return Ok(Self::Key(hash));
        }
        text.parse().map(Self::Address).map_err(|_| wrong())
    }
}

macro_rules! as_text {
    ($($name:ident),+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(D::Error::custom)
            }
        }
    )+};
}
as_text!(Span, Listen, Database, ProxyIdentity);

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$word_doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// The word, as it is written in the configuration.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

words!(
    /// Who supplies the certificate of an agent.
    Frontend {
        /// The TLS handshake of the agent itself.
        Mtls = "mtls",
        /// A header that a proxy set, over TLS.
        HttpsHeader = "https-header",
        /// A header of the agent that a proxy vouches for with a checksum header, over TLS.
        HttpsHeaderChecksum = "https-header-checksum",
        /// A header that a proxy set, without TLS.
        CleartextHeader = "cleartext-header",
        /// A header of the agent that a proxy vouches for with a checksum header, without TLS.
        CleartextHeaderChecksum = "cleartext-header-checksum",
        /// Envoy's `x-forwarded-client-cert`, without TLS.
        CleartextXfcc = "cleartext-xfcc",
    }
);

impl Frontend {
    /// Whether the door itself ends TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Mtls | Self::HttpsHeader | Self::HttpsHeaderChecksum)
    }

    /// Whether a header names the agent, so that whoever connects must be a trusted proxy.
    pub fn is_header(self) -> bool {
        self != Self::Mtls
    }

    /// Whether a proxy vouches with a checksum header.
    pub fn has_checksum(self) -> bool {
        matches!(self, Self::HttpsHeaderChecksum | Self::CleartextHeaderChecksum)
    }
}

words!(
    /// Which accounts of this machine need no token at the admin listener.
    LocalCallers {
        /// Root, and the account that the server runs as.
        Owner = "owner",
        /// Every account.
        Anybody = "anybody",
    }
);

words!(
    /// Who may become an agent.
    Policy {
        /// Every key that reaches the door.
        Open = "open",
        /// Keys that show an enrolment token.
        Token = "token",
        /// Keys that claim one of the labels of `enrolment.labels`.
        Label = "label",
        /// Every key is known, but waits until somebody approves it.
        Approval = "approval",
        /// Only machines that are known already.
        Closed = "closed",
    }
);

words!(
    /// How a service of the server takes its messages.
    ServiceKind {
        /// A program that speaks `fleetspeak.grpcservice.Processor`.
        Grpc = "grpc",
        /// Takes and forgets.
        Noop = "noop",
        /// Writes messages as JSON lines into a directory.
        Spool = "spool",
    }
);

words!(
    /// How log lines are written.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        let secs = |text| duration(text).map(|length| length.as_secs());
        assert_eq!(secs("90s"), Ok(90));
        assert_eq!(secs("2h"), Ok(7200));
        assert_eq!(secs("1h 30m"), Ok(5400));
        assert_eq!(secs("30d"), Ok(30 * 86_400));
        assert_eq!(secs("2w"), Ok(14 * 86_400));
        for text in ["", "2", "-2h", "1 month", "1y", "soon", "9999999999d", "2h\0", "200000d"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_length_of_time_prints_as_it_is_read() {
        for text in ["90s", "2h", "14d", "10m", "250ms"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        for (url, shown) in [
            (
                "postgresql://u:s3cret@h1,h2:5/db?target_session_attrs=read-write",
                "postgresql://u@h1,h2:5/db?target_session_attrs=read-write",
            ),
            ("postgres://u:p@ss@h/db", "postgres://u@h/db"),
            ("postgres://h/db?password=s3cret", "postgres://h/db"),
            ("postgres://u@/db?host=/run", "postgres://u@/db?host=/run"),
        ] {
            let database: Database = url.parse().unwrap();
            assert_eq!(database.to_string(), shown);
            assert_eq!(format!("{database:?}"), format!("Database({shown})"));
        }
        assert!(!"u:s3cret@host".parse::<Database>().unwrap_err().contains("s3cret"));
    }

    #[test]
    fn a_door_is_an_address_or_off() {
        assert_eq!("off".parse(), Ok(Listen::Off));
        assert!("[::]:0".parse::<Listen>().unwrap().is_public());
        assert!(!"127.0.0.2:1".parse::<Listen>().unwrap().is_public());
        assert!("localhost:80".parse::<Listen>().unwrap_err().contains("127.0.0.1:8080"));
    }

    #[test]
    fn a_proxy_is_named_by_address_or_key() {
        assert!(matches!("10.0.0.5".parse(), Ok(ProxyIdentity::Address(_))));
        let key = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(key.parse::<ProxyIdentity>().unwrap().to_string(), key);
        assert!("sha256:ab".parse::<ProxyIdentity>().is_err());
        assert!("proxy.example".parse::<ProxyIdentity>().is_err());
    }
}
