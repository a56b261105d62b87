//! Searches as statements, one for each kind of row.
//!
//! Stays true: the text of a statement is made of this file's own words, and what a person wrote reaches a database as
//! parameters only; a condition about another kind of row is one EXISTS that starts from an index.

use super::action_rows::{self, end_number, status_number};
use super::commands::Room;
use super::targets::{self, ENVIRONMENT, Matching, Since, fleet_columns, fleet_row, matching, status_of};
use super::{commands, investigators};
use crate::actions::ActionRow;
use crate::db::Tx;
use crate::db::functions::{PathValue, Source, Words};
use crate::db::value::{Row, Value, number, params};
use crate::error::ErrorKind;
use crate::investigators::InvestigatorRow;
use crate::searches::{ActionsFound, CommandFound, CommandsFound, Pattern, SearchFilter, SearchStore};
use crate::targets::TargetQuery;
use crate::{SqlStore, StoreError};
use async_trait::async_trait;
use muster_core::action::{AgentStatus, CommandId, CommandStatus, InvestigatorId, InvestigatorStatus};
use muster_core::target::{Case, Document, FleetRow, Form, Path, Step};
use muster_core::{Timestamp, limits};
use std::collections::BTreeSet;

/// What joins a command with what belongs to it.
const COMMANDS_FROM: &str = "FROM action_rows JOIN command_rows ON command_rows.action = action_rows.number \
     JOIN machines ON machines.number = command_rows.agent LEFT JOIN result_rows \
     ON result_rows.action = command_rows.action AND result_rows.agent = command_rows.agent AND result_rows.late = 0";

/// Conditions under construction, by the table that they are about.
struct Search<'a> {
    words: Words,
    values: Vec<Value<'a>>,
    actions: Vec<String>,
    commands: Vec<String>,
    machines: Vec<String>,
    people: Vec<String>,
}

impl<'a> Search<'a> {
    /// Takes the conditions that mean the same in every search.
    fn new(tx: &Tx, filter: &'a SearchFilter) -> Self {
        let words = if matches!(tx, Tx::Sqlite(_)) { Words::Sqlite } else { Words::Postgres };
        let none = Vec::new;
        let (values, actions, commands, machines, people) = (Vec::new(), none(), none(), none(), none());
        let mut search = Self { words, values, actions, commands, machines, people };
        for (column, id) in [("action_rows.number", filter.action), ("machines.number", filter.agent)] {
            if let Some(id) = id {
                let sql = format!("{column} = {}", search.place(id));
                if column.starts_with("action") { search.actions.push(sql) } else { search.machines.push(sql) }
            }
        }
        if let Some(id) = filter.investigator {
            let sql = format!("investigators.id = {}", search.place(id));
            search.people.push(sql);
        }
        if let Some(id) = filter.command {
            let sql = search.command(id);
            search.commands.push(sql);
        }
        if let Some(name) = &filter.action_name {
            let sql = search.like("action_rows.name", name);
            search.actions.push(sql);
        }
        if let Some(family) = &filter.threat_family {
            let sql = search.threat_family(family);
            search.actions.push(sql);
        }
        for (column, pattern) in [("machines.name", &filter.agent_name), ("machines.version", &filter.agent_version)] {
            if let Some(pattern) = pattern {
                let sql = search.like(column, pattern);
                search.machines.push(sql);
            }
        }
        if let Some(name) = &filter.investigator_name {
            let sql = search.like("investigators.name", name);
            search.people.push(sql);
        }
        search
    }

    fn place(&mut self, value: impl Into<Value<'a>>) -> String {
        self.values.push(value.into());
        self.words.place(self.values.len(), "BIGINT")
    }

    fn like(&mut self, column: &str, pattern: &'a Pattern) -> String {
        self.values.push(pattern.as_str().into());
        self.words.like(column, self.values.len(), Case::Ignored)
    }

    fn command(&mut self, id: i64) -> String {
        let Some((Some(action), agent)) = CommandId::new(id).ok().map(commands::parts) else {
            return "FALSE".to_owned();
        };
        let (action, agent) = (self.place(action), self.place(agent));
        format!("command_rows.action = {action} AND command_rows.agent = {agent}")
    }

    fn threat_family(&mut self, family: &'a Pattern) -> String {
        // The words for a place in a document ask for which document it is only to name a column of machines.
        let form = Form::Text(Step::Key("family".to_owned()));
        let path = Path { document: Document::Tags, steps: Vec::new(), form };
        let values = &mut self.values;
        let sql = self.words.path(&Source::written("action_rows.threat"), &path, &mut |value| {
            values.push(match value {
                PathValue::Text(text) => text.into(),
                PathValue::Index(index) => index.into(),
            });
            values.len()
        });
        self.like(&sql, family)
    }

    /// Adds a span of time, about two columns of one table.
    fn span(&mut self, filter: &SearchFilter, after: &str, before: &str) -> Vec<String> {
        let mut wheres = Vec::new();
        if let Some(moment) = filter.after {
            wheres.push(format!("{after} >= {}", self.place(moment)));
        }
        if let Some(moment) = filter.before {
            wheres.push(format!("{before} <= {}", self.place(moment)));
        }
        wheres
    }

    fn number_in(&mut self, column: &str, numbers: Vec<i64>) -> String {
        self.values.push(numbers.into());
        format!("{column} = ANY(${})", self.values.len())
    }

    /// That somebody signed an action whom the conditions on people pick.
    fn signed_by(&self) -> Option<String> {
        (!self.people.is_empty()).then(|| {
            format!(
                "EXISTS (SELECT 1 FROM signatures JOIN investigators ON investigators.id = signatures.investigatorid \
                 WHERE signatures.actionid = action_rows.number AND {})",
                self.people.join(" AND ")
            )
        })
    }

    /// That an action was given to a machine in a command, which the conditions on both pick.
    fn given_to(&self) -> Option<String> {
        let wheres = [&self.commands[..], &self.machines[..]].concat();
        (!wheres.is_empty()).then(|| {
            format!(
                "EXISTS (SELECT 1 FROM command_rows JOIN machines ON machines.number = command_rows.agent \
                 WHERE command_rows.action = action_rows.number AND {})",
                wheres.join(" AND ")
            )
        })
    }

    /// Ends a statement: conditions, order, and the part of the rows that is asked for.
    fn end(&mut self, wheres: &[String], order: &str, filter: &SearchFilter) -> Result<String, StoreError> {
        let wheres = if wheres.is_empty() { "TRUE".to_owned() } else { wheres.join(" AND ") };
        let limit = self.place(filter.limit.min(limits::SEARCH_ROWS_MAX));
        let offset = self.place(number("offset", filter.offset)?);
        Ok(format!("WHERE {wheres} ORDER BY {order} LIMIT {limit} OFFSET {offset}"))
    }
}

/// Words what becomes of a search that takes too long.
fn in_time<T>(result: Result<T, StoreError>) -> Result<T, StoreError> {
    result.map_err(|error| match error {
        error if error.kind() == ErrorKind::Unavailable && crate::db::dialect::is_cancelled(&error) => {
            let seconds = limits::SEARCH_TIME_MAX.as_secs();
            StoreError::Refused(format!("the search took longer than {seconds} s: ask for less"))
        }
        error => error,
    })
}

async fn rows(tx: &mut Tx, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
    in_time(tx.query_once(sql, values, limits::SEARCH_TIME_MAX).await)
}

async fn actions(tx: &mut Tx, filter: &SearchFilter) -> Result<ActionsFound, StoreError> {
    let mut search = Search::new(tx, filter);
    let mut wheres = search.actions.clone();
    if let Some(status) = &filter.status {
        let states = status.action_states().into_iter().map(status_number).collect();
        wheres.push(search.number_in("action_rows.status", states));
    }
    wheres.extend(search.span(filter, "action_rows.valid_from", "action_rows.expire_after"));
    wheres.extend(search.signed_by());
    wheres.extend(search.given_to());
    let of = search.end(&wheres, "action_rows.valid_from DESC, action_rows.number DESC", filter)?;
    let actions = in_time(action_rows::select_once(tx, &of, &search.values, limits::SEARCH_TIME_MAX).await)?;
    with_signers(tx, actions).await
}

async fn with_signers(tx: &mut Tx, actions: Vec<ActionRow>) -> Result<ActionsFound, StoreError> {
    let ids: BTreeSet<InvestigatorId> = actions.iter().flat_map(|action| action.signers.iter().copied()).collect();
    let signers = if ids.is_empty() {
        Vec::new()
    } else {
        let sql = format!("SELECT {} FROM investigators WHERE id = ANY($1) ORDER BY id", investigators::COLUMNS);
        let ids: Vec<i64> = ids.into_iter().map(InvestigatorId::get).collect();
        tx.query(sql, params![ids]).await?.into_iter().map(investigators::read).collect::<Result<_, _>>()?
    };
    Ok(ActionsFound { actions, signers })
}

/// A command as it was found, with the number and the length of its results.
struct Bare {
    found: CommandFound,
    results: Option<(i64, u64)>,
}

fn bare(row: Row) -> Result<Bare, StoreError> {
    let mut fields = row.fields("command_rows");
    let command = commands::read_bare(&mut fields)?;
    let (name, queueloc, mode, version) = (fields.take()?, fields.take()?, fields.take()?, fields.take()?);
    let environment: Option<String> = fields.take()?;
    let tags: String = fields.take()?;
    let results: Option<i64> = fields.take()?;
    let length: Option<u64> = fields.take()?;
    let found = CommandFound {
        command,
        left_out_bytes: None,
        name,
        queueloc,
        mode,
        version,
        environment: targets::json(environment.as_deref().unwrap_or("{}"))?,
        tags: targets::json(&tags)?,
    };
    Ok(Bare { found, results: results.zip(length) })
}

async fn commands(tx: &mut Tx, filter: &SearchFilter) -> Result<CommandsFound, StoreError> {
    let mut search = Search::new(tx, filter);
    let mut wheres = [&search.actions[..], &search.commands[..], &search.machines[..]].concat();
    if let Some(status) = &filter.status {
        let states = status.command_states();
        let has_sent = states.contains(&CommandStatus::Sent);
        let ready = has_sent.then_some(action_rows::READY);
        let numbers = states.into_iter().map(end_number).chain(ready).collect();
        wheres.push(search.number_in("command_rows.state", numbers));
    }
    if let Some(found) = filter.found {
        let (success, found) = (search.place(end_number(CommandStatus::Success)), search.place(found));
        wheres.push(format!("command_rows.state = {success} AND result_rows.found = {found}"));
    }
    wheres.extend(search.span(filter, "command_rows.created", "command_rows.created"));
    wheres.extend(search.signed_by());
    // Commands of an action are made together, so the order of actions is that of starts; and it is an index's.
    let of = search.end(&wheres, "command_rows.action DESC, command_rows.agent DESC", filter)?;
    let sql = format!(
        "SELECT {}, machines.name, machines.queueloc, machines.mode, machines.version, {ENVIRONMENT}, machines.tags, \
         result_rows.number, octet_length(result_rows.results) {COMMANDS_FROM} {of}",
        commands::COLUMNS
    );
    let found = rows(tx, &sql, &search.values).await?.into_iter().map(bare).collect::<Result<Vec<_>, _>>()?;
    let commands = with_results(tx, found).await?;
    let ids: BTreeSet<i64> = commands.iter().map(|found| found.command.action.get()).collect();
    let ids: Vec<i64> = ids.into_iter().collect();
    let actions = action_rows::select(tx, "WHERE number = ANY($1) ORDER BY number".to_owned(), params![ids]).await?;
    Ok(CommandsFound { commands, of: with_signers(tx, actions).await? })
}

/// Reads the results, as many as an answer may hold.
async fn with_results(tx: &mut Tx, found: Vec<Bare>) -> Result<Vec<CommandFound>, StoreError> {
    let mut room = Room::new(limits::SEARCH_RESULT_BYTES_MAX);
    let mut out = Vec::with_capacity(found.len());
    for Bare { mut found, results } in found {
        let taken = results.filter(|(number, bytes)| room.takes(*number, *bytes));
        found.left_out_bytes = results.filter(|_| taken.is_none()).map(|(_, bytes)| bytes);
        out.push((taken.map(|(number, _)| number), found));
    }
    let mut texts = room.texts(tx).await?;
    let whole = |(number, mut found): (Option<i64>, CommandFound)| {
        found.command.results = number.and_then(|number| texts.remove(&number));
        found
    };
    Ok(out.into_iter().map(whole).collect())
}

/// The condition that a machine stands in one of these ways.
fn stands(states: &[AgentStatus], online: &str, idle: &str) -> String {
    let one = |state: &AgentStatus| match state {
        AgentStatus::Online => {
            format!("(machines.destroyed IS NULL AND machines.left_at IS NULL AND machines.last_contact >= {online})")
        }
        AgentStatus::Idle => format!(
            "(machines.destroyed IS NULL AND machines.left_at IS NULL AND machines.last_contact < {online} \
             AND machines.last_contact >= {idle})"
        ),
        AgentStatus::Offline => {
            format!("(machines.destroyed IS NULL AND (machines.left_at IS NOT NULL OR machines.last_contact < {idle}))")
        }
        AgentStatus::Destroyed => "machines.destroyed IS NOT NULL".to_owned(),
    };
    let any: Vec<String> = states.iter().map(one).collect();
    if any.is_empty() { "FALSE".to_owned() } else { format!("({})", any.join(" OR ")) }
}

async fn machines(tx: &mut Tx, (filter, now): &(SearchFilter, Timestamp)) -> Result<Vec<FleetRow>, StoreError> {
    let since = Since::read(tx, *now).await?;
    let mut search = Search::new(tx, filter);
    let (online, idle) = (search.place(since.online), search.place(since.idle));
    let mut wheres = vec!["machines.state IN (0, 2, 4)".to_owned()];
    wheres.extend(search.machines.iter().cloned());
    if let Some(status) = &filter.status {
        wheres.push(stands(&status.agent_states(), &online, &idle));
    }
    wheres.extend(search.span(filter, "machines.last_contact", "machines.last_contact"));
    let signed_by = search.signed_by();
    let given: Vec<String> =
        [&search.commands[..], &search.actions[..]].concat().into_iter().chain(signed_by).collect();
    if !given.is_empty() {
        wheres.push(format!(
            "EXISTS (SELECT 1 FROM command_rows JOIN action_rows ON action_rows.number = command_rows.action \
             WHERE command_rows.agent = machines.number AND {})",
            given.join(" AND ")
        ));
    }
    let of = search.end(&wheres, "machines.last_contact DESC, machines.number DESC", filter)?;
    let sql = format!("SELECT {} FROM machines {of}", fleet_columns(&status_of(&online, &idle)));
    rows(tx, &sql, &search.values).await?.into_iter().map(fleet_row).collect()
}

async fn machines_of(
    tx: &mut Tx,
    (query, after, offset, limit): &(TargetQuery, i64, i64, u32),
) -> Result<Vec<FleetRow>, StoreError> {
    let since = Since::read(tx, query.now).await?;
    let limit = Value::from((*limit).min(limits::SEARCH_ROWS_MAX));
    let values = vec![since.online.into(), since.idle.into(), limit, Value::from(*offset), Value::from(*after)];
    let words = if matches!(tx, Tx::Sqlite(_)) { Words::Sqlite } else { Words::Postgres };
    let place = |n: usize| words.place(n, "BIGINT");
    let Matching { from, condition, values } = matching(tx, &query.target, query.reach, query.now, values).await?;
    let sql = format!(
        "SELECT {} FROM {from} WHERE machines.number > {} AND {condition} ORDER BY machines.number LIMIT {} OFFSET {}",
        fleet_columns(&status_of(&place(1), &place(2))),
        place(5),
        place(3),
        place(4)
    );
    let rows = targets::in_time(tx.query_once(&sql, &values, limits::TARGET_TIME_MAX).await)?;
    rows.into_iter().map(fleet_row).collect()
}

async fn people(tx: &mut Tx, filter: &SearchFilter) -> Result<Vec<InvestigatorRow>, StoreError> {
    let mut search = Search::new(tx, filter);
    let mut wheres = search.people.clone();
    if let Some(status) = &filter.status {
        let words: Vec<&str> = status.investigator_states().into_iter().map(InvestigatorStatus::as_str).collect();
        search.values.push(words.into());
        wheres.push(format!("investigators.status = ANY(${})", search.values.len()));
    }
    wheres.extend(search.span(filter, "investigators.modified", "investigators.modified"));
    let given_to = search.given_to();
    let signed: Vec<String> = search.actions.iter().cloned().chain(given_to).collect();
    if !signed.is_empty() {
        wheres.push(format!(
            "EXISTS (SELECT 1 FROM signatures JOIN action_rows ON action_rows.number = signatures.actionid \
             WHERE signatures.investigatorid = investigators.id AND {})",
            signed.join(" AND ")
        ));
    }
    let of = search.end(&wheres, "investigators.id", filter)?;
    let sql = format!("SELECT {} FROM investigators {of}", investigators::COLUMNS);
    rows(tx, &sql, &search.values).await?.into_iter().map(investigators::read).collect()
}

#[async_trait]
impl SearchStore for SqlStore {
    async fn action_search(&self, filter: SearchFilter) -> Result<ActionsFound, StoreError> {
        self.read(filter, |tx, filter| Box::pin(actions(tx, filter))).await
    }

    async fn command_search(&self, filter: SearchFilter) -> Result<CommandsFound, StoreError> {
        self.read(filter, |tx, filter| Box::pin(commands(tx, filter))).await
    }

    async fn agent_search(&self, filter: SearchFilter, now: Timestamp) -> Result<Vec<FleetRow>, StoreError> {
        self.read((filter, now), |tx, args| Box::pin(machines(tx, args))).await
    }

    async fn agent_search_target(
        &self,
        query: TargetQuery,
        after: i64,
        offset: u64,
        limit: u32,
    ) -> Result<Vec<FleetRow>, StoreError> {
        let args = (query, after, number("offset", offset)?, limit);
        self.read(args, |tx, args| Box::pin(machines_of(tx, args))).await
    }

    async fn investigator_search(&self, filter: SearchFilter) -> Result<Vec<InvestigatorRow>, StoreError> {
        self.read(filter, |tx, filter| Box::pin(people(tx, filter))).await
    }
}
