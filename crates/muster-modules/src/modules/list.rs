//! What modules share that list things of a machine: choosing by expressions, and a ceiling for what is named.

use crate::module::Refused;
use crate::pattern;
use muster_core::limits::{MODULE_FOUND_MAX, SEARCH_VALUES_MAX};
use regex::Regex;

/// Expressions of which one must match; none given: everything does. A leading `!` turns an expression round.
#[derive(Debug)]
pub(super) struct Wanted(Vec<(bool, Regex)>);

impl Wanted {
    pub(super) fn new(expressions: &[String]) -> Result<Self, Refused> {
        if expressions.len() > SEARCH_VALUES_MAX {
            return Err(Refused(format!("there are more than {SEARCH_VALUES_MAX} values of one kind")));
        }
        expressions.iter().map(|expression| one(expression)).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn wants(&self, text: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|(inverse, regex)| regex.is_match(text) != *inverse)
    }
}

fn one(expression: &str) -> Result<(bool, Regex), Refused> {
    if expression.is_empty() {
        return Err(Refused("Empty values are not permitted".to_owned()));
    }
    let (inverse, expression) = match expression.strip_prefix('!') {
        Some(rest) if !rest.is_empty() => (true, rest),
        _ => (false, expression),
    };
    let invalid = |why| {
        let shown: String = expression.chars().take(256).collect();
        Refused(format!("Invalid regexp '{shown}'. Must be a regexp. Compilation failed with '{why}'"))
    };
    pattern::compile(expression).map(|regex| (inverse, regex)).map_err(invalid)
}

/// Keeps as many as may be named, and says how many are not.
pub(super) fn at_most<T>(found: &mut Vec<T>, errors: &mut Vec<String>) {
    if found.len() > MODULE_FOUND_MAX {
        errors.push(format!("{} more were found and are not named", found.len() - MODULE_FOUND_MAX));
        found.truncate(MODULE_FOUND_MAX);
    }
}
