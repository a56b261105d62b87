//! What targets ask of a database in words that the two do not share.
//!
//! PostgreSQL's own operators set the meaning; SQLite gets functions with the same meaning, which every connection has.
//! Text is compared by its bytes, and case is that of ASCII: in PostgreSQL this is the collation "C".

use super::dialect::sqlite_error as refuse;
use crate::StoreError;
use muster_core::target::{Case, Form, Like, Path, Step, number, path_read, path_text, regex};
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
    pub(crate) fn path(self, document: &Source, path: &Path, place: &mut dyn FnMut(PathValue) -> usize) -> String {
        let kept = document.lists.iter().find(|(key, _)| is_text_of(path, key));
        match (self, kept) {
            // The whole document, which is kept as the evaluator prints it. The sign keeps SQLite from putting a text that
            // it is compared with in its place elsewhere, where a document is looked into that this text is not.
            (Self::Sqlite, _) if is_whole(path) => return format!("(+{})", document.text),
            (Self::Postgres, _) if is_whole(path) => return document.text.to_owned(),
            (Self::Postgres, Some((_, column))) => return (*column).to_owned(),
            _ => {}
        }
        if self == Self::Sqlite {
            let steps = serde_json::to_string(&(&path.steps, &path.form)).expect("steps are JSON");
            return format!("muster_path({}, ${})", document.text, place(PathValue::Text(steps)));
        }
        let mut arrows = |step: &Step| match step {
            Step::Key(key) => Arrows::key(place(PathValue::Text(key.clone()))),
            Step::Index(index) => Arrows::index(place(PathValue::Index(*index))),
        };
        let steps: Vec<Arrows> = path.steps.iter().map(&mut arrows).collect();
        let written = steps.iter().fold(format!("({})::JSON", document.text), |sql, step| sql + &step.written);
        let last = match &path.form {
            Form::Json => return format!("({written})"),
            Form::Raw => return format!("({written})::TEXT"),
            Form::Text(last) => arrows(last),
            // The keys hold neither commas nor braces nor quotes: the parser sees to that.
            Form::Deep(steps) => Arrows::deep(place(PathValue::Text(format!("{{{}}}", steps.join(","))))),
        };
        let written = format!("({written}{})", last.written_text);
        let Some(parsed) = document.parsed else { return written };
        let parsed = steps.iter().fold(parsed.to_owned(), |sql, step| sql + &step.parsed);
        let (piece, text) = (format!("{parsed}{}", last.parsed), format!("({parsed}{})", last.parsed_text));
        // A list or an object is written with spaces and in an order of its own once it was parsed.
        format!("CASE WHEN jsonb_typeof({piece}) IN ('array', 'object') THEN {written} ELSE {text} END")
    }
}

/// Where a document is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    /// Its JSON, as written.
    pub(crate) text: &'static str,
    /// The same as PostgreSQL keeps it once it was parsed, if it does: ten times as fast to look into.
    pub(crate) parsed: Option<&'static str>,
    /// Keys at its top whose lists PostgreSQL keeps as texts too, with the columns.
    pub(crate) lists: &'static [(&'static str, &'static str)],
}

impl Source {
    /// A document of which only its JSON is kept.
    pub(crate) fn written(text: &'static str) -> Self {
        Self { text, parsed: None, lists: &[] }
    }
}

/// Whether a path asks for the text of the whole document.
fn is_whole(path: &Path) -> bool {
    path.steps.is_empty() && path.form == Form::Raw
}

/// Whether a path asks for the text of what stands under `key` at the top.
fn is_text_of(path: &Path, key: &str) -> bool {
    path.steps.is_empty()
        && match &path.form {
            Form::Text(Step::Key(last)) => last == key,
            Form::Deep(steps) => steps[..] == [key],
            _ => false,
        }
}

/// A step in PostgreSQL's words: into JSON as written and as parsed, for a piece and for its text.
struct Arrows {
    written: String,
    written_text: String,
    parsed: String,
    parsed_text: String,
}

impl Arrows {
    fn key(place: usize) -> Self {
        let (piece, text) = (format!(" -> ${place}::TEXT"), format!(" ->> ${place}::TEXT"));
        Self { written: piece.clone(), written_text: text.clone(), parsed: piece, parsed_text: text }
    }

    /// Parsed, a lone text counts as a list of one for `->`, but not for `#>`.
    fn index(place: usize) -> Self {
        let index = format!("ARRAY[${place}::INT]::TEXT[]");
        Self {
            written: format!(" -> ${place}::INT"),
            written_text: format!(" ->> ${place}::INT"),
            parsed: format!(" #> {index}"),
            parsed_text: format!(" #>> {index}"),
        }
    }

    fn deep(place: usize) -> Self {
        let (piece, text) = (format!(" #> ${place}::TEXT::TEXT[]"), format!(" #>> ${place}::TEXT::TEXT[]"));
        Self { written: piece.clone(), written_text: text.clone(), parsed: piece, parsed_text: text }
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
    let pattern =
        context.get_or_create_aux(1, |pattern| -> Result<_, Failure> { Ok(Like::new(pattern.as_str()?, case)) })?;
    Ok(text(context, 0)?.map(|text| pattern.matches(text)))
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
