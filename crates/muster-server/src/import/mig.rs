//! MIG's white list of agents, taken as labels that let machines in.
//!
//! Stays true: a line that cannot be read is an error with its number, because who was let in yesterday must not be kept out
//! in silence, nor the other way round. In MIG an agent names its own queue location, and here a machine claims its own
//! label: either proves as much.

use super::Imported;
use crate::Config;
use crate::config::Policy;
use muster_core::label::LabelPattern;
use muster_core::text;

/// Why a white list was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhiteListError {
    /// A line that is neither a queue location nor an expression.
    #[error("line {line}: {why}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// There is no line: MIG would let nobody in, or everybody, by its version.
    #[error("it names nobody: leave the white list away to let everybody in, or use the policy \"closed\"")]
    Empty,
}

/// Reads a white list: one queue location per line, or `re:` and an expression that fits all of one.
pub fn white_list(list: &str) -> Result<Imported, WhiteListError> {
    let mut labels = Vec::new();
    let mut expressions = 0;
    for (line, text) in (1..).zip(list.lines().map(str::trim)).filter(|(_, text)| !text.is_empty()) {
        let wrong = |why: String| WhiteListError::Line { line, why };
        if let Some(pattern) = text.strip_prefix(LabelPattern::PREFIX) {
            LabelPattern::parse(pattern).map_err(wrong)?;
            expressions += 1;
        }
        text::name("queue location", text).map_err(|error| wrong(error.to_string()))?;
        if !labels.iter().any(|label| label == text) {
            labels.push(text.to_owned());
        }
    }
    if labels.is_empty() {
        return Err(WhiteListError::Empty);
    }
    let mut notes = vec![
        "each machine claims its queue location of MIG as a label: in its config.toml, labels = [\"linux.ID\"] with the ID \
         of its file .migagtid"
            .to_owned(),
    ];
    if expressions > 0 {
        notes.push(format!(
            "{expressions} expressions let in whoever claims a label that fits: as in MIG, that proves nothing"
        ));
    }
    let mut config = Config::default();
    config.enrolment.policy = Policy::Label;
    config.enrolment.labels = labels;
    Ok(Imported { config, files: Vec::new(), notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_labels_and_expressions_stay_some() {
        let list = "linux.abc123\r\n\nre:^linux\\.(web|db)[0-9]+$\n  darwin.x \nlinux.abc123\n";
        let taken = white_list(list).unwrap();
        assert_eq!(taken.config.enrolment.policy, Policy::Label);
        assert_eq!(taken.config.enrolment.labels, ["linux.abc123", "re:^linux\\.(web|db)[0-9]+$", "darwin.x"]);
        assert_eq!(taken.notes.len(), 2);
        // What is written is read back as it was.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("muster.toml");
        std::fs::write(&path, taken.config.to_text()).unwrap();
        let read = Config::load(Some(&path), [], &crate::config::Overrides::default()).unwrap();
        assert_eq!(read.enrolment.labels, taken.config.enrolment.labels);
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        let error = white_list("linux.a\nre:(\n").unwrap_err();
        assert!(matches!(error, WhiteListError::Line { line: 2, .. }), "{error}");
        assert!(matches!(white_list("a\u{1}b").unwrap_err(), WhiteListError::Line { line: 1, .. }));
        assert_eq!(white_list(" \n\n").unwrap_err(), WhiteListError::Empty);
    }
}
