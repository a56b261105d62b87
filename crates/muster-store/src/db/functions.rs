//! What targets ask of a database in words that the two do not share.
//!
//! PostgreSQL's own operators set the meaning; SQLite gets functions with the same meaning, which every connection has.
//! Text is compared by its bytes, and case is that of ASCII: in PostgreSQL this is the collation "C".

use super::dialect::sqlite_error as refuse;
use crate::StoreError;
use muster_core::target::{Case, Form, Path, Step, like, number, path_read, path_text, regex};
use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};

/// Which database is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    Sqlite,
    Postgres,
}

impl Words {
    /// A parameter that is a text, a number, a moment.
    pub(crate) fn place(self, number: usize, kind: &str) -> String {
        match self {
            Self::Sqlite => format!("${number}"),
            Self::Postgres => format!("${number}::{kind}"),
        }
    }

    /// Whether `text` is like the pattern in parameter `pattern`.
    pub(crate) fn like(self, text: &str, pattern: usize, case: Case) -> String {
        match (self, case) {
            (Self::Sqlite, case) => format!("muster_like({text}, ${pattern}, {})", i32::from(case == Case::Ignored)),
            (Self::Postgres, Case::Counts) => format!("({text} COLLATE \"C\") LIKE ${pattern}::TEXT"),
            (Self::Postgres, Case::Ignored) => format!("({text} COLLATE \"C\") ILIKE ${pattern}::TEXT"),
        }
    }

    /// Whether the regular expression in parameter `pattern` is found in `text`.
    pub(crate) fn matches(self, text: &str, pattern: usize, case: Case) -> String {
        match (self, case) {
            (Self::Sqlite, case) => format!("muster_regex({text}, ${pattern}, {})", i32::from(case == Case::Ignored)),
            (Self::Postgres, Case::Counts) => format!("({text} COLLATE \"C\") ~ ${pattern}::TEXT"),
            (Self::Postgres, Case::Ignored) => format!("({text} COLLATE \"C\") ~* ${pattern}::TEXT"),
        }
    }

    /// The number that `text` writes, or NULL.
    pub(crate) fn number(self, text: &str) -> String {
        match self {
            Self::Sqlite => format!("muster_number({text})"),
            Self::Postgres => format!(
                "CASE WHEN ({text} COLLATE \"C\") ~ '^-?[0-9]{{1,15}}([.][0-9]{{1,15}})?$' \
                 THEN ({text})::DOUBLE PRECISION END"
            ),
        }
    }

    /// A test as it is, of which the database does not guess how rarely it holds. PostgreSQL takes a comparison with
    /// what stands in a document to hold for one row in two hundred, and then looks through the whole fleet for every
    /// page: eight times as long where it holds for many.
    pub(crate) fn unguessed(self, test: &str) -> String {
        match self {
            Self::Sqlite => format!("({test})"),
            Self::Postgres => format!("COALESCE({test}, NULL)"),
        }
    }

    /// What stands in `document` at `path`. `place` takes a value and returns its parameter.
    pub(crate) fn path(self, document: &str, path: &Path, place: &mut dyn FnMut(PathValue) -> usize) -> String {
        if self == Self::Sqlite {
            let steps = serde_json::to_string(&(&path.steps, &path.form)).expect("steps are JSON");
            return format!("muster_path({document}, ${})", place(PathValue::Text(steps)));
        }
        let mut step = |step: &Step| match step {
            Step::Key(key) => format!("${}::TEXT", place(PathValue::Text(key.clone()))),
            Step::Index(index) => format!("${}::INT", place(PathValue::Index(*index))),
        };
        let mut sql = format!("({document})::JSON");
        for part in &path.steps {
            sql = format!("{sql} -> {}", step(part));
        }
        match &path.form {
            Form::Json => format!("({sql})"),
            Form::Raw => format!("({sql})::TEXT"),
            Form::Text(last) => format!("({sql} ->> {})", step(last)),
            // The keys hold neither commas nor braces nor quotes: the parser sees to that.
            Form::Deep(steps) => {
                format!("({sql} #>> ${}::TEXT::TEXT[])", place(PathValue::Text(format!("{{{}}}", steps.join(",")))))
            }
        }
    }
}

/// A parameter that is part of a path.
pub(crate) enum PathValue {
    Text(String),
    Index(i32),
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Gives a connection the functions.
pub(super) fn register(connection: &Connection) -> Result<(), StoreError> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    let add = |name: &str, count, function: fn(&Context<'_>) -> rusqlite::Result<Option<bool>>| {
        connection.create_scalar_function(name, count, flags, function).map_err(refuse)
    };
    add("muster_like", 3, sqlite_like)?;
    add("muster_regex", 3, sqlite_regex)?;
    let number = |context: &Context<'_>| Ok(text(context, 0)?.and_then(number));
    connection.create_scalar_function("muster_number", 1, flags, number).map_err(refuse)?;
    connection.create_scalar_function("muster_path", 2, flags, sqlite_path).map_err(refuse)
}

fn text<'a>(context: &'a Context<'_>, index: usize) -> rusqlite::Result<Option<&'a str>> {
    context.get_raw(index).as_str_or_null().map_err(|error| rusqlite::Error::UserFunctionError(error.into()))
}

fn case(context: &Context<'_>) -> rusqlite::Result<Case> {
    Ok(if context.get::<i64>(2)? == 1 { Case::Ignored } else { Case::Counts })
}

fn sqlite_like(context: &Context<'_>) -> rusqlite::Result<Option<bool>> {
    let case = case(context)?;
    let (text, pattern) = (text(context, 0)?, text(context, 1)?);
    Ok(text.zip(pattern).map(|(text, pattern)| like(pattern, text, case)))
}

fn sqlite_regex(context: &Context<'_>) -> rusqlite::Result<Option<bool>> {
    let case = case(context)?;
    let compiled =
        context.get_or_create_aux(1, |pattern| -> Result<_, Failure> { Ok(regex(pattern.as_str()?, case)?) })?;
    Ok(text(context, 0)?.map(|text| compiled.is_match(text)))
}

fn sqlite_path(context: &Context<'_>) -> rusqlite::Result<Option<String>> {
    let path = context.get_or_create_aux(1, |path| -> Result<(Vec<Step>, Form), Failure> {
        Ok(serde_json::from_str(path.as_str()?)?)
    })?;
    let Some(document) = text(context, 0)? else { return Ok(None) };
    let document = path_read(document, &path.0, &path.1);
    let document = document.map_err(|error| rusqlite::Error::UserFunctionError(error.into()))?;
    Ok(path_text(&document, &path.0, &path.1).map(std::borrow::Cow::into_owned))
}
