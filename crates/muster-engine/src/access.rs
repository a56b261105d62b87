//! Who may do what at the operators' and the admin door.

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Looking.
    Reader,
    /// Looking and changing.
    Admin,
}

impl Role {
    /// Reads the stored word.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "reader" => Some(Self::Reader),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }

    /// The word as it is stored and shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Admin => "admin",
        }
    }
}

/// Somebody whose token was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The token's name, which the journal shows.
    pub name: String,
    /// What it allows.
    pub role: Role,
}
