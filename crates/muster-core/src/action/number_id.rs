//! Numbers that name rows: whole, positive, and below 2^53, because MIG's programs read them as floating point.

use std::fmt;
use std::str::FromStr;

/// Why a number or a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be a whole number from 1 to 9007199254740991, not {text:?}")]
pub struct NumberIdError {
    kind: &'static str,
    text: String,
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(i64);

        impl $name {
            /// The largest one: 2^53 - 1.
            pub const MAX: i64 = (1 << 53) - 1;

            /// Takes a number from 1 to [`Self::MAX`].
            pub fn new(number: i64) -> Result<Self, NumberIdError> {
                if (1..=Self::MAX).contains(&number) {
                    return Ok(Self(number));
                }
                Err(NumberIdError { kind: $kind, text: number.to_string() })
            }

            /// Returns the number.
            pub const fn get(self) -> i64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = NumberIdError;
            fn from_str(text: &str) -> Result<Self, NumberIdError> {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let number = if digits { text.parse().ok() } else { None };
                number.and_then(|number| Self::new(number).ok()).ok_or_else(|| NumberIdError {
                    kind: $kind,
                    text: text.chars().take(64).collect(),
                })
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(i64::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

number_id!(
    /// An action.
    ActionId, "an action id"
);
number_id!(
    /// One agent's copy of an action.
    CommandId, "a command id"
);
number_id!(
    /// A person who signs.
    InvestigatorId, "an investigator id"
);
