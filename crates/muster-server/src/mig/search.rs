//! Searches, with every parameter that MIG's programs know.
//!
//! Stays true: what is found is never an error of the server: no filter at all is a question like any other, and
//! nothing found is 404 with the words that MIG's programs compare.

use super::access::Here;
use super::envelope::{self, Answer, Item, Refused};
use super::query::{Params, whole};
use super::{actions, agents, people};
use crate::rest::Rest;
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use muster_core::action::moment;
use muster_core::{Timestamp, limits};
use muster_store::StoreError;
use muster_store::searches::{Pattern, SearchFilter};
use muster_store::targets::{Reach, TargetQuery};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// What MIG's programs take for an empty answer.
const NOTHING: &str = "no results found";
/// How MIG shows that any number fits, and any text.
const ANY_NUMBER: &str = "∞";
const ANY_TEXT: &str = "%";
/// How far from now MIG looks unless told. Shown only: it is meant as "always", and we mean it.
const ALWAYS: Duration = Duration::from_hours(39_600);

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Action,
    Command,
    Agent,
    Investigator,
    /// Loaders and manifests, of which there are none.
    Absent,
}

/// A search as it was asked.
#[derive(Debug)]
struct Asked {
    kind: Kind,
    filter: SearchFilter,
    target: Option<String>,
    limit: i64,
    /// All parameters as they were understood.
    echo: Value,
}

/// Reads parameters and notes how each was understood.
struct Reader<'a> {
    params: &'a Params,
    echo: Map<String, Value>,
}

impl Reader<'_> {
    fn number(&mut self, name: &str) -> Result<Option<i64>, Refused> {
        let given = self.params.get(name).filter(|text| *text != ANY_NUMBER);
        let number = given.map(|text| whole(name, text)).transpose()?;
        let shown = number.map_or_else(|| ANY_NUMBER.to_owned(), |number| number.to_string());
        self.echo.insert(name.to_owned(), shown.into());
        Ok(number)
    }

    fn pattern(&mut self, name: &str) -> Result<Option<Pattern>, Refused> {
        let given = self.params.get(name).unwrap_or(ANY_TEXT);
        self.echo.insert(name.to_owned(), given.into());
        let pattern = Some(given).filter(|text| *text != ANY_TEXT).map(Pattern::new).transpose();
        pattern.map_err(|error| Refused::invalid(format!("the parameter '{name}': {error}")))
    }

    fn moment(&mut self, name: &str, unless: Timestamp) -> Result<Option<Timestamp>, Refused> {
        let given = self.params.get(name);
        let at = given.map(|text| moment(text).ok_or(text)).transpose().map_err(|text| {
            let text: String = text.chars().take(64).collect();
            Refused::invalid(format!("the parameter '{name}' must be written like 2026-01-02T03:04:05Z, not '{text}'"))
        })?;
        self.echo.insert(name.to_owned(), at.unwrap_or(unless).to_string().into());
        Ok(at)
    }

    fn count(&mut self, name: &str, unless: i64) -> Result<i64, Refused> {
        let count = self.params.get(name).map_or(Ok(unless), |text| whole(name, text))?;
        if count < 0 {
            return Err(Refused::invalid(format!("the parameter '{name}' must not be negative")));
        }
        self.echo.insert(name.to_owned(), count.into());
        Ok(count)
    }

    fn truth(&mut self, name: &str) -> Result<Option<bool>, Refused> {
        let given = match self.params.get(name) {
            None => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(_) => return Err(Refused::invalid(format!("the parameter '{name}' must be true or false"))),
        };
        self.echo.insert(name.to_owned(), given.unwrap_or(false).into());
        Ok(given)
    }

    fn text(&mut self, name: &str, unless: &str) -> String {
        let text = self.params.get(name).unwrap_or(unless).to_owned();
        self.echo.insert(name.to_owned(), text.clone().into());
        text
    }
}

impl Asked {
    fn read(params: &Params, now: Timestamp) -> Result<Self, Refused> {
        let mut reader = Reader { params, echo: Map::new() };
        let kind = match reader.text("type", "action").as_str() {
            "action" => Kind::Action,
            "command" => Kind::Command,
            "agent" => Kind::Agent,
            "investigator" => Kind::Investigator,
            "manifest" | "loader" => Kind::Absent,
            _ => return Err(Refused::invalid("search type is invalid")),
        };
        for (number, name) in [("manifestid", "manifestname"), ("loaderid", "loadername")] {
            reader.number(number)?;
            reader.pattern(name)?;
        }
        let (offset, limit) = (reader.count("offset", 0)?, reader.count("limit", limits::PAGE_ROWS_DEFAULT.into())?);
        let filter = SearchFilter {
            action: reader.number("actionid")?,
            command: reader.number("commandid")?,
            agent: reader.number("agentid")?,
            investigator: reader.number("investigatorid")?,
            action_name: reader.pattern("actionname")?,
            agent_name: reader.pattern("agentname")?,
            agent_version: reader.pattern("agentversion")?,
            investigator_name: reader.pattern("investigatorname")?,
            threat_family: reader.pattern("threatfamily")?,
            status: reader.pattern("status")?,
            found: reader.truth("foundanything")?,
            after: reader.moment("after", now.minus(ALWAYS))?,
            before: reader.moment("before", now.plus(ALWAYS))?,
            offset: offset.unsigned_abs(),
            limit: u32::try_from(limit).unwrap_or(u32::MAX).min(limits::SEARCH_ROWS_MAX),
        };
        reader.text("report", "");
        let target = Some(reader.text("target", "")).filter(|text| !text.is_empty());
        Ok(Self { kind, filter, target, limit, echo: Value::Object(reader.echo) })
    }
}

/// Searches.
pub(super) async fn search(
    State(rest): State<Rest>,
    Extension(here): Extension<Here>,
    params: Params,
) -> Result<Response, Refused> {
    let asked = Asked::read(&params, rest.clock.now())?;
    let (offset, limit) = (asked.filter.offset, asked.limit);
    let parameters = Item::at(here.href.clone()).with("search parameters", &asked.echo);
    let mut picked = match (asked.kind, &asked.target) {
        (Kind::Agent, Some(target)) => Some(Picked::read(&rest, &here, target, &asked).await?),
        _ => None,
    };
    let mut items = match &mut picked {
        Some(picked) => picked.next().await.map_err(|error| Refused::of_store("search", &error))?,
        None => found(&rest, &here, asked).await?,
    };
    if items.is_empty() {
        return Err(Refused::not_found(NOTHING).with(vec![parameters]));
    }
    let mut end = Vec::new();
    if offset > 0 {
        let after = offset.saturating_add(limit.unsigned_abs());
        let next = here.at(format_args!("/search?{}", params.with("offset", &after.to_string())));
        let page = json!({ "limit": limit, "offset": offset, "next": next });
        end.push(Item::at(here.href.clone()).with("pagination", &page));
    }
    end.push(parameters);
    if let Some(picked) = picked.filter(Picked::has_more) {
        let pages = stream::once(async { Ok(items) }).chain(picked.pages()).chain(stream::once(async { Ok(end) }));
        return Ok(envelope::streamed(&here.href, pages));
    }
    items.append(&mut end);
    Ok(Answer::of(items).into_response())
}

/// Machines that a target picks, page by page: `mig` asks for all of a fleet to count them.
struct Picked {
    rest: Rest,
    here: Here,
    query: TargetQuery,
    offset: u64,
    /// The number of the last machine that was given.
    after: i64,
    left: u64,
}

impl Picked {
    async fn read(rest: &Rest, here: &Here, target: &str, asked: &Asked) -> Result<Self, Refused> {
        let (_, target) = rest.engine.target_read(target).await?;
        let target = target.map_err(|error| Refused::invalid(format!("the target cannot be read: {error}")))?;
        let query = TargetQuery { target, now: rest.clock.now(), reach: Reach::Active };
        let left = asked.limit.unsigned_abs().min(limits::SEARCH_TARGET_ROWS_MAX);
        Ok(Self { rest: rest.clone(), here: here.clone(), query, offset: asked.filter.offset, after: 0, left })
    }

    fn has_more(&self) -> bool {
        self.left > 0
    }

    async fn next(&mut self) -> Result<Vec<Item>, StoreError> {
        let limit = u32::try_from(self.left).unwrap_or(u32::MAX).min(limits::PAGE_ROWS_MAX);
        let store = self.rest.engine.store();
        let rows = store.agent_search_target(self.query.clone(), self.after, self.offset, limit).await?;
        self.offset = 0;
        self.left = if rows.len() < limit as usize { 0 } else { self.left - u64::from(limit) };
        self.after = rows.last().map_or(self.after, |row| row.number);
        Ok(agents::items(&self.here, &rows))
    }

    fn pages(self) -> impl Stream<Item = Result<Vec<Item>, StoreError>> {
        stream::try_unfold(self, async |mut picked| {
            if !picked.has_more() {
                return Ok(None);
            }
            let items = picked.next().await.inspect_err(|error| {
                tracing::error!(error = %crate::observe::Chain(error), "could not go on with a search");
            })?;
            Ok(Some((items, picked)))
        })
    }
}

async fn found(rest: &Rest, here: &Here, asked: Asked) -> Result<Vec<Item>, Refused> {
    let (store, now) = (rest.engine.store(), rest.clock.now());
    let failed = |error| Refused::of_store("search", &error);
    let filter = asked.filter;
    Ok(match asked.kind {
        Kind::Action => actions::items(here, &store.action_search(filter).await.map_err(failed)?),
        Kind::Command => actions::command_items(here, &store.command_search(filter).await.map_err(failed)?),
        Kind::Agent => agents::items(here, &store.agent_search(filter, now).await.map_err(failed)?),
        Kind::Investigator => people::items(here, &store.investigator_search(filter).await.map_err(failed)?),
        Kind::Absent => Vec::new(),
    })
}
