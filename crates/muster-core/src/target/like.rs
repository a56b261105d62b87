//! LIKE, with the meaning it has in PostgreSQL.

use super::Case;
use std::str::Chars;

enum Piece {
    Any,
    One,
    Letter(char),
}

/// A pattern, read once: `%` is any text, `_` one character, a backslash takes the meaning from what follows.
pub struct Like {
    pieces: Vec<Piece>,
    case: Case,
}

impl Like {
    /// Reads `pattern`.
    pub fn new(pattern: &str, case: Case) -> Self {
        let mut pieces = Vec::with_capacity(pattern.len());
        let mut letters = pattern.chars();
        while let Some(letter) = letters.next() {
            pieces.push(match letter {
                '%' => Piece::Any,
                '_' => Piece::One,
                '\\' => Piece::Letter(fold(letters.next().unwrap_or('\\'), case)),
                letter => Piece::Letter(fold(letter, case)),
            });
        }
        Self { pieces, case }
    }

    /// Whether `text` is like the pattern. Takes time in proportion to the product of both lengths at most.
    pub fn matches(&self, text: &str) -> bool {
        let (mut piece, mut rest) = (0, text.chars());
        // After the last %: where it stands, and what follows what it holds.
        let mut any: Option<(usize, Chars<'_>)> = None;
        loop {
            let mut after = rest.clone();
            let Some(letter) = after.next() else {
                return self.pieces[piece..].iter().all(|piece| matches!(piece, Piece::Any));
            };
            match self.pieces.get(piece) {
                Some(Piece::Any) => {
                    any = Some((piece, rest.clone()));
                    piece += 1;
                }
                Some(Piece::One) => (piece, rest) = (piece + 1, after),
                Some(Piece::Letter(wanted)) if *wanted == fold(letter, self.case) => (piece, rest) = (piece + 1, after),
                _ => {
                    let Some((start, reach)) = &mut any else { return false };
                    reach.next();
                    (piece, rest) = (*start + 1, reach.clone());
                }
            }
        }
    }
}

fn fold(letter: char, case: Case) -> char {
    if case == Case::Ignored { letter.to_ascii_lowercase() } else { letter }
}

/// Whether `text` is like `pattern`; for who asks once. See [`Like`].
pub fn like(pattern: &str, text: &str, case: Case) -> bool {
    Like::new(pattern, case).matches(text)
}

/// Returns `pattern`, whose escape character is `escape` (none: no character is), with backslashes instead. `None` when
/// it ends in its escape character.
pub(super) fn with_backslashes(pattern: &str, escape: Option<char>) -> Option<String> {
    let mut out = String::with_capacity(pattern.len());
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        if Some(letter) == escape {
            out.push('\\');
            out.push(letters.next()?);
        } else {
            if letter == '\\' {
                out.push('\\');
            }
            out.push(letter);
        }
    }
    Some(out)
}
