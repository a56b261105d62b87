//! A line of any length, matched piece by piece.
//!
//! Stays true: an expression matches exactly when it would match the whole line at once, wherever the pieces part; what is
//! kept is the state of each expression and a few bytes. Bytes that are no text count as replacement characters.

use regex_automata::Anchored;
use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::start;

use muster_core::limits::PATTERN_COMPILED_BYTES_MAX;

/// The line on its way through all expressions.
pub(super) struct LongLine {
    expressions: Vec<Matching>,
    /// The last bytes of what was fed, while it is open what they mean: part of a letter, or the end of the line.
    held: Vec<u8>,
}

struct Matching {
    dfa: DFA,
    cache: Cache,
    state: LazyStateID,
    /// Once it is known, whether the expression matches.
    matched: Option<bool>,
}

impl LongLine {
    /// Begins a line. `expressions` are texts that the library that compiled them takes.
    ///
    /// # Errors
    /// An expression that cannot be matched so, with the reason.
    pub(super) fn new<'a>(expressions: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let expressions = expressions.map(Matching::new).collect::<Result<_, _>>()?;
        Ok(Self { expressions, held: Vec::new() })
    }

    /// Takes the next bytes of the line.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut piece = std::mem::take(&mut self.held);
        piece.extend_from_slice(bytes);
        let held = held(&piece);
        self.held = piece.split_off(piece.len() - held);
        self.see(&piece);
    }

    /// Ends the line; tells of each expression whether it matched.
    pub(super) fn end(mut self) -> Vec<bool> {
        let held = std::mem::take(&mut self.held);
        self.see(held.strip_suffix(b"\r").unwrap_or(&held));
        self.expressions.into_iter().map(Matching::end).collect()
    }

    fn see(&mut self, bytes: &[u8]) {
        for chunk in bytes.utf8_chunks() {
            let replaced = if chunk.invalid().is_empty() { "" } else { "\u{FFFD}" };
            for text in [chunk.valid(), replaced] {
                self.expressions.iter_mut().for_each(|expression| expression.see(text.as_bytes()));
            }
        }
    }
}

/// Returns how many bytes at the end mean something only with what follows.
fn held(bytes: &[u8]) -> usize {
    if bytes.ends_with(b"\r") {
        return 1;
    }
    // A letter has at most four bytes, so the first of one that is not whole is among the last three.
    let last = &bytes[bytes.len().saturating_sub(3)..];
    let begins = last.iter().rposition(|byte| *byte >= 0xC0);
    begins.map_or(0, |at| match std::str::from_utf8(&last[at..]) {
        Err(error) if error.error_len().is_none() => last.len() - at,
        _ => 0,
    })
}

impl Matching {
    fn new(expression: &str) -> Result<Self, String> {
        let nfa = thompson::Config::new().nfa_size_limit(Some(PATTERN_COMPILED_BYTES_MAX));
        // Large expressions are slow rather than refused.
        let config = DFA::config().skip_cache_capacity_check(true);
        let dfa =
            DFA::builder().thompson(nfa).configure(config).build(expression).map_err(|error| error.to_string())?;
        let mut cache = dfa.create_cache();
        let begin = start::Config::new().anchored(Anchored::No);
        let state = dfa.start_state(&mut cache, &begin).map_err(|error| error.to_string())?;
        Ok(Self { dfa, cache, state, matched: None })
    }

    fn see(&mut self, bytes: &[u8]) {
        if self.matched.is_some() {
            return;
        }
        for byte in bytes {
            self.state =
                self.dfa.next_state(&mut self.cache, self.state, *byte).expect("the cache is emptied, never given up");
            if self.state.is_tagged() {
                if self.state.is_match() {
                    self.matched = Some(true);
                    return;
                }
                if self.state.is_dead() {
                    self.matched = Some(false);
                    return;
                }
            }
        }
    }

    fn end(mut self) -> bool {
        self.matched.unwrap_or_else(|| {
            let end = self.dfa.next_eoi_state(&mut self.cache, self.state);
            end.expect("the cache is emptied, never given up").is_match()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern;
    use proptest::prelude::*;

    fn in_pieces(pattern: &str, line: &[u8], pieces: &[usize]) -> bool {
        let regex = pattern::compile(pattern).unwrap();
        let mut long = LongLine::new(std::iter::once(regex.as_str())).unwrap();
        let mut rest = line;
        for piece in pieces {
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            long.feed(now);
            rest = later;
        }
        long.feed(rest);
        long.end()[0]
    }

    fn at_once(pattern: &str, line: &[u8]) -> bool {
        let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
        pattern::compile(pattern).unwrap().is_match(&text)
    }

    const PATTERNS: &[&str] =
        &["marker", "^a", "a$", "^$", "a.*b", r"\bab\b", "é", "[^a]b", "(?i)AB", "a{2,}b", "\u{FFFD}", "", "b\\r"];

    #[test]
    fn a_match_is_found_wherever_the_pieces_part() {
        let line = b"aaaamarkerb";
        for cut in 0..=line.len() {
            assert!(in_pieces("marker", line, &[cut]) && !in_pieces("^m|r$", line, &[cut]), "{cut}");
        }
        assert!(in_pieces("b$", b"ab\r", &[2]) && in_pieces("b\\r$", b"ab\r\r", &[3]));
    }

    proptest! {
        #[test]
        fn pieces_match_as_the_whole_does(
            line in proptest::collection::vec(proptest::sample::select(vec![b'a', b'b', b' ', b'\r', 0xC3, 0xA9, 0xFF, 0xE2, 0x82]), 0..24),
            pieces in proptest::collection::vec(0_usize..6, 0..8),
        ) {
            for pattern in PATTERNS {
                prop_assert_eq!(in_pieces(pattern, &line, &pieces), at_once(pattern, &line), "{} in {:?}", pattern, line);
            }
        }
    }
}
