//! Labels: short names on a machine, each owned by a service.

use std::fmt;

/// The service that owns what machines claim about themselves. Labels of any other service are given by the server.
pub const CLIENT: &str = "client";
/// The service that owns the labels that operators give.
pub const OPERATOR: &str = "operator";

/// A name that a service put on a machine. Compared byte by byte; there is no case folding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Label {
    /// Who owns it: [`CLIENT`] for what the machine claims (never proof of anything), else a service of the server.
    pub service: String,
    /// The name itself.
    pub label: String,
}

impl Label {
    /// Puts a label together.
    pub fn new(service: impl Into<String>, label: impl Into<String>) -> Self {
        Self { service: service.into(), label: label.into() }
    }

    /// A label that the machine claims about itself.
    pub fn client(label: impl Into<String>) -> Self {
        Self::new(CLIENT, label)
    }

    /// Reads `service:label`; a text without a colon is a label given by an operator.
    pub fn parse(text: &str) -> Result<Self, crate::text::TextError> {
        let (service, label) = text.split_once(':').unwrap_or((OPERATOR, text));
        crate::text::name("label service", service)?;
        crate::text::name("label", label)?;
        Ok(Self::new(service, label))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.label)
    }
}

/// An expression for labels, which fits all of one or nothing of it, as in MIG's white list of agents.
#[derive(Debug, Clone)]
pub struct LabelPattern(regex_lite::Regex);

impl LabelPattern {
    /// What stands before an expression where labels are listed.
    pub const PREFIX: &'static str = "re:";

    /// Reads an expression. An error says what is wrong with it.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        let anchored = format!("^(?:{pattern})$");
        regex_lite::Regex::new(&anchored)
            .map(Self)
            .map_err(|error| format!("{pattern:?} is no regular expression: {error}"))
    }

    /// Whether all of a label fits.
    pub fn fits(&self, label: &str) -> bool {
        self.0.is_match(label)
    }
}

/// Whether `have` holds every label of `required`.
pub fn all_present(required: &[Label], have: &[Label]) -> bool {
    required.iter().all(|label| have.contains(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_a_service_is_an_operators_label() {
        assert_eq!(Label::parse("web"), Ok(Label::new("operator", "web")));
        assert_eq!(Label::parse("client:linux"), Ok(Label::client("linux")));
        assert!(Label::parse("client:").is_err());
        assert!(Label::parse("a\0b").is_err());
    }

    #[test]
    fn an_expression_fits_all_of_a_label() {
        let pattern = LabelPattern::parse("linux\\.web[0-9]+|darwin").unwrap();
        for (label, fits) in [("linux.web1", true), ("darwin", true), ("xlinux.web1", false), ("linux.web1x", false)] {
            assert_eq!(pattern.fits(label), fits, "{label}");
        }
        assert!(LabelPattern::parse("^linux$").unwrap().fits("linux"));
        assert!(LabelPattern::parse("(").is_err());
    }

    #[test]
    fn every_required_label_must_be_there() {
        let have = [Label::client("linux"), Label::client("amd64")];
        assert!(all_present(&[], &have));
        assert!(all_present(&[Label::client("linux")], &have));
        assert!(!all_present(&[Label::client("linux"), Label::new("operator", "linux")], &have));
    }
}
