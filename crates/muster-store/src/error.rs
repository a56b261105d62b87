//! What can go wrong in the store, in kinds that are equal on both databases.

use std::error::Error;

/// The cause below a [`StoreError`], as the database driver gave it.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why a store method did not do what it was asked.
///
/// Whatever the kind, the transaction was rolled back as a whole. Only after [`StoreError::Unknown`] may it have been
/// committed all the same; the methods that say "twice is once" can simply be called again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The row that the method must have is not there. (A row that may be absent is an `Option`, never this.)
    #[error("{what} {id} is not known")]
    NotFound {
        /// What kind of row.
        what: &'static str,
        /// Which.
        id: String,
    },
    /// A row of that name is there already and is not the same.
    #[error("{what} {id} exists already")]
    Exists {
        /// What kind of row.
        what: &'static str,
        /// Which.
        id: String,
    },
    /// The rules of the store forbid it, in the state that the rows are in.
    #[error("{0}")]
    Refused(String),
    /// A value that the databases cannot hold alike: a zero byte in text, a number beyond 63 bits, a reversed range.
    #[error("{0}")]
    Invalid(String),
    /// The database cannot be reached or is too busy. Nothing was changed. Try again later.
    #[error("the database is not available")]
    Unavailable(#[source] Cause),
    /// The connection broke while committing: whether the change was made is not known.
    #[error("the database did not say whether it committed")]
    Unknown(#[source] Cause),
    /// There is no room on the disk. Nothing was changed. Reading still works.
    #[error("the disk of the database is full")]
    Full(#[source] Cause),
    /// Writing failed below the database (an I/O error, a failed sync, a damaged file). Nothing may be acknowledged any
    /// more; the process must end and recover.
    #[error("the database cannot write durably")]
    Broken(#[source] Cause),
    /// The schema is not the one this program speaks.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A row contradicts what the schema promises; it is named so that it can be looked at.
    #[error("table {table} holds a row that cannot be: {id}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The row's key and what is wrong with it.
        id: String,
    },
    /// A statement failed in a way that none of the above describes: a defect of this program.
    #[error("a statement of this program failed")]
    Statement(#[source] Cause),
}

/// How the schema of a database differs from the program's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SchemaError {
    /// There is a database without tables.
    #[error("the database is empty: run `muster db migrate` once, or start `muster serve` with an embedded database")]
    Empty,
    /// There are tables, in a schema that the URL does not look into.
    #[error(
        "the tables are in the schema {schema:?}, which this URL does not look into: sign in as the role {owner:?} or \
         as the server's, or write `options=-c search_path={schema}` into the URL"
    )]
    Elsewhere {
        /// The schema.
        schema: String,
        /// The role that owns the tables.
        owner: String,
    },
    /// The database is older than the program.
    #[error("the database has schema {have}, this program speaks {want}: run `muster db migrate` (back up first)")]
    Old {
        /// The database's version.
        have: i64,
        /// The program's version.
        want: i64,
    },
    /// The database is newer than the program, which therefore must not touch it.
    #[error("the database has schema {have}, which is newer than this program's {want}: install a newer Muster")]
    New {
        /// The database's version.
        have: i64,
        /// The program's version.
        want: i64,
    },
}

/// The kind of a [`StoreError`] without its details, for tests that compare two databases and for answers at the edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the variants of StoreError, and documented there")]
pub enum ErrorKind {
    NotFound,
    Exists,
    Refused,
    Invalid,
    Unavailable,
    Unknown,
    Full,
    Broken,
    Schema,
    Inconsistent,
    Statement,
}

impl StoreError {
    /// Returns the kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Exists { .. } => ErrorKind::Exists,
            Self::Refused(_) => ErrorKind::Refused,
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::Unavailable(_) => ErrorKind::Unavailable,
            Self::Unknown(_) => ErrorKind::Unknown,
            Self::Full(_) => ErrorKind::Full,
            Self::Broken(_) => ErrorKind::Broken,
            Self::Schema(_) => ErrorKind::Schema,
            Self::Inconsistent { .. } => ErrorKind::Inconsistent,
            Self::Statement(_) => ErrorKind::Statement,
        }
    }

    /// Whether the same call may succeed later without anybody changing anything about it.
    pub fn is_passing(&self) -> bool {
        matches!(self.kind(), ErrorKind::Unavailable | ErrorKind::Unknown | ErrorKind::Full)
    }
}
