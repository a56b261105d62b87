//! What a server may have this machine do without anybody's signature, and how often: the section `[server_may]` of the
//! configuration.
//!
//! Fleetspeak's protocol has three such words: end, start a service again, make a new key. A server that was taken over
//! can say them, too.

use crate::config::Span;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Rates in one allowance.
const RATES_MAX: usize = 4;
/// The most that one rate may allow in its time.
pub(crate) const COUNT_MAX: usize = 1000;

/// The section. The sample file says what each key is for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerMay {
    /// How often one service may be started again.
    pub(crate) restart_services: Allowance,
    /// How often a new key may be demanded.
    pub(crate) rekey: Allowance,
    /// How long the agent stays away when it is told to end.
    pub(crate) die: Absence,
}

impl Default for ServerMay {
    fn default() -> Self {
        let rate = |count, seconds| Rate { count, within: Span::seconds(seconds) };
        Self {
            restart_services: Allowance::Rates(vec![rate(1, 60), rate(6, 3600)]),
            rekey: Allowance::Rates(vec![rate(1, 86_400)]),
            die: Absence::For(Span::seconds(3600)),
        }
    }
}

/// So many times within so long a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) count: usize,
    pub(crate) within: Span,
}

/// How often something may happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// Not at all.
    Never,
    /// As often as the server likes.
    Always,
    /// Within each of these rates.
    Rates(Vec<Rate>),
}

impl FromStr for Allowance {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("must be \"never\", \"always\" or rates such as \"1 per 1m, 6 per 1h\", not {text:?}");
        match text.trim() {
            "never" => return Ok(Self::Never),
            "always" => return Ok(Self::Always),
            _ => {}
        }
        let rate = |text: &str| {
            let (count, within) = text.split_once(" per ")?;
            let count = count.trim().parse().ok().filter(|count| (1..=COUNT_MAX).contains(count))?;
            let within: Span = within.trim().parse().ok()?;
            (within.0 >= Duration::from_secs(1)).then_some(Rate { count, within })
        };
        let rates: Option<Vec<Rate>> = text.split(',').map(rate).collect();
        rates.filter(|rates| rates.len() <= RATES_MAX).map(Self::Rates).ok_or_else(wrong)
    }
}

impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::Always => f.write_str("always"),
            Self::Rates(rates) => {
                let rates: Vec<_> = rates.iter().map(|rate| format!("{} per {}", rate.count, rate.within)).collect();
                f.write_str(&rates.join(", "))
            }
        }
    }
}

/// How long the agent stays away when a server told it to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    /// It does not end.
    None,
    /// For so long, and not beyond the machine's next boot.
    For(Span),
    /// Until the machine boots again.
    UntilBoot,
}

impl FromStr for Absence {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "never" => Ok(Self::None),
            "until-boot" => Ok(Self::UntilBoot),
            text => text.parse().map(Self::For).map_err(|_| {
                format!("must be \"never\", \"until-boot\" or the time that the agent stays away, such as \"1h\", not {text:?}")
            }),
        }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("never"),
            Self::For(span) => span.fmt(f),
            Self::UntilBoot => f.write_str("until-boot"),
        }
    }
}

macro_rules! as_text {
    ($($kind:ty),*) => {$(
        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
as_text!(Allowance, Absence);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_may_is_read_and_written() {
        for text in ["never", "always", "1 per 1m, 6 per 1h", "1000 per 24h"] {
            assert_eq!(text.parse::<Allowance>().unwrap().to_string(), text);
        }
        for bad in ["", "often", "0 per 1m", "1 per 0s", "1 per", "per 1m", "-1 per 1m", "1 per 1m,", "1001 per 1h"] {
            assert!(bad.parse::<Allowance>().is_err(), "{bad:?}");
        }
        for text in ["never", "until-boot", "1h", "10m"] {
            assert_eq!(text.parse::<Absence>().unwrap().to_string(), text);
        }
        assert!("always".parse::<Absence>().is_err() && "".parse::<Absence>().is_err());
        let defaults = ServerMay::default();
        assert_eq!(toml::from_str::<ServerMay>(&toml::to_string(&defaults).unwrap()).unwrap(), defaults);
    }
}
