//! LIKE, with the meaning it has in PostgreSQL.

use super::Case;

enum Piece {
    Any,
    One,
    Letter(char),
}

/// Whether `text` is like `pattern`: `%` is any text, `_` one character, a backslash takes the meaning from what
/// follows. Takes time in proportion to the product of both lengths at most.
pub fn like(pattern: &str, text: &str, case: Case) -> bool {
    let fold = |letter: char| if case == Case::Ignored { letter.to_ascii_lowercase() } else { letter };
    let mut pieces = Vec::new();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        pieces.push(match letter {
            '%' => Piece::Any,
            '_' => Piece::One,
            '\\' => Piece::Letter(fold(letters.next().unwrap_or('\\'))),
            letter => Piece::Letter(fold(letter)),
        });
    }
    let text: Vec<char> = text.chars().map(fold).collect();
    let (mut piece, mut letter) = (0, 0);
    // After the last %: where it stands, and how far it reaches.
    let mut any: Option<(usize, usize)> = None;
    while letter < text.len() {
        match pieces.get(piece) {
            Some(Piece::Any) => {
                any = Some((piece, letter));
                piece += 1;
            }
            Some(Piece::One) => (piece, letter) = (piece + 1, letter + 1),
            Some(Piece::Letter(wanted)) if *wanted == text[letter] => (piece, letter) = (piece + 1, letter + 1),
            _ => {
                let Some((start, reach)) = any else { return false };
                any = Some((start, reach + 1));
                (piece, letter) = (start + 1, reach + 1);
            }
        }
    }
    pieces[piece.min(pieces.len())..].iter().all(|piece| matches!(piece, Piece::Any))
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
