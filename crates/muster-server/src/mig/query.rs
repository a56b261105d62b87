//! Parameters of a request, as MIG's programs write them: numbers as floating point, values half encoded.

use super::envelope::Refused;
use axum::extract::FromRequestParts;
use http::request::Parts;
use std::convert::Infallible;
use url::form_urlencoded;

/// Names with their values, from a query or a form.
#[derive(Debug, Clone, Default)]
pub(super) struct Params(pub(super) Vec<(String, String)>);

impl Params {
    /// Reads `name=value&…`.
    pub(super) fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    /// Returns the first value of a parameter; `None` when it is missing or empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let first = self.0.iter().find(|(known, _)| known == name)?;
        Some(first.1.as_str()).filter(|value| !value.is_empty())
    }

    /// Returns a parameter that must be there.
    pub(super) fn need(&self, name: &str) -> Result<&str, Refused> {
        self.get(name).ok_or_else(|| Refused::invalid(format!("Missing parameter '{name}'")))
    }

    /// Returns the id of a `thing` that must be there.
    pub(super) fn id(&self, name: &str, thing: &str) -> Result<i64, Refused> {
        let text = self.need(name)?;
        let id = whole(name, text)?;
        if id <= 0 { Err(Refused::invalid(format!("Invalid {thing} ID '{id}'"))) } else { Ok(id) }
    }

    /// The parameters again, one of them with another value.
    pub(super) fn with(&self, name: &str, value: &str) -> String {
        let others = self.0.iter().filter(|(known, _)| known != name);
        let mut text = form_urlencoded::Serializer::new(String::new());
        text.extend_pairs(others).append_pair(name, value).finish()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default().as_bytes()))
    }
}

/// Reads a whole number below 2^53, which Go's programs may have written as a floating point.
pub(super) fn whole(name: &str, text: &str) -> Result<i64, Refused> {
    const BEYOND: f64 = 9_007_199_254_740_992.0;
    let number = text.parse::<f64>().ok().filter(|number| number.fract() == 0.0 && number.abs() < BEYOND);
    #[expect(clippy::cast_possible_truncation, reason = "whole, and below 2^53")]
    let number = number.map(|number| number as i64);
    let shown: String = text.chars().take(64).collect();
    number.ok_or_else(|| Refused::invalid(format!("the parameter '{name}' must be a whole number, not '{shown}'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_writes_them() {
        for (text, want) in [("37", 37), ("-1", -1), ("1e+06", 1_000_000), ("28044305170465", 28_044_305_170_465)] {
            assert_eq!(whole("n", text).ok(), Some(want), "{text}");
        }
        for text in ["", "x", "1.5", "NaN", "inf", "9007199254740992", "1e300", "1;2"] {
            assert!(whole("n", text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_query_is_written_again_with_another_value() {
        let params = Params::parse(b"type=agent&target=a%20%3D+'b'&offset=1&offset=2");
        assert_eq!((params.get("target"), params.get("offset"), params.get("x")), (Some("a = 'b'"), Some("1"), None));
        assert_eq!(params.with("offset", "38"), "type=agent&target=a+%3D+%27b%27&offset=38");
    }
}
