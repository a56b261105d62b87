//! Lists that follow cursors.

use crate::{Context, Exit, Failure};
use muster_core::limits::{LIST_ROWS_MAX, PAGE_ROWS_MAX};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How much of a list is wanted.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ListArgs {
    /// How many rows at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    /// All rows, however many
    #[arg(long, conflicts_with = "limit")]
    pub(crate) all: bool,
    /// Go on where another list ended (the `next` of its JSON)
    #[arg(long)]
    pub(crate) cursor: Option<String>,
}

/// Rows of a list, as the API gave them.
#[derive(Debug)]
pub(crate) struct Rows {
    /// The rows.
    pub(crate) items: Vec<Value>,
    /// Where to go on; `None` when that was all.
    pub(crate) next: Option<String>,
}

impl Rows {
    /// Follows the list at `path` as far as wanted.
    pub(crate) async fn fetch(
        context: &Context,
        what: &str,
        path: &[&str],
        filter: &impl Serialize,
        list: &ListArgs,
    ) -> Result<Self, Failure> {
        let mut query = match serde_json::to_value(filter) {
            Ok(Value::Object(query)) => query,
            _ => serde_json::Map::new(),
        };
        let wanted = if list.all { usize::MAX } else { list.limit as usize };
        let mut rows = Self { items: Vec::new(), next: list.cursor.clone() };
        loop {
            let page = u32::try_from(wanted - rows.items.len()).unwrap_or(u32::MAX).min(PAGE_ROWS_MAX);
            query.insert("limit".to_owned(), page.into());
            if let Some(cursor) = &rows.next {
                query.insert("cursor".to_owned(), cursor.as_str().into());
            }
            let answer = context.api.get(what, path, &query).await?;
            let page: muster_api::Page<Value> = context.api.read(what, &answer)?;
            // A server that repeats a cursor would be followed for ever.
            let again = page.next.is_some() && page.next == rows.next;
            rows.next = page.next.filter(|_| !again);
            rows.items.extend(page.items);
            if rows.items.len() > LIST_ROWS_MAX {
                let why = format!("the list has more than {LIST_ROWS_MAX} rows");
                return Err(Failure::new(Exit::Failed, what, why)
                    .on(context.api.url())
                    .next("print it in parts: --limit N, then --cursor with the `next` of its JSON"));
            }
            if rows.next.is_none() || rows.items.len() >= wanted {
                return Ok(rows);
            }
        }
    }

    /// Reads the rows as what the API says they are.
    pub(crate) fn read<T: DeserializeOwned>(&self, context: &Context, what: &str) -> Result<Vec<T>, Failure> {
        self.items.iter().map(|row| context.api.read(what, row)).collect()
    }

    /// Writes the rows as one page of the API.
    pub(crate) fn json(&self, context: &Context) -> Result<(), Failure> {
        let mut page = json!({ "items": self.items });
        if let Some(next) = &self.next {
            page["next"] = next.as_str().into();
        }
        context.out.json(&page)
    }

    /// Says how to see more, when there is more.
    pub(crate) fn note_more(&self, context: &Context) {
        if let Some(next) = &self.next {
            context.out.note(&format!("There is more: add --all, or --cursor {}", crate::output::safe(next)));
        }
    }
}
