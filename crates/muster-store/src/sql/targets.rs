//! Targets as conditions of SQL, and targets kept under a name.
//!
//! Stays true: what a person wrote reaches a database as parameters only. The text of a statement is made of this file's
//! and [`Words`]' own words, one for each node of the tree; it is prepared once and forgotten, because there are as many
//! as there are targets.

use super::journal;
use crate::db::Tx;
use crate::db::functions::{PathValue, Source, Words};
use crate::db::value::{Row, Value, params};
use crate::error::ErrorKind;
use crate::targets::{NamedTarget, Reach, TargetQuery, TargetStates, TargetStore};
use crate::{SqlStore, StoreError};
use async_trait::async_trait;
use muster_core::target::{Case, Column, Document, FleetRow, Form, Kind, Operand, Path, Step, Target, Test};
use muster_core::{AgentId, Cause, Timestamp, limits};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

const TIMES: &str = "SELECT idle_after, offline_after FROM agent_times WHERE one = 1";
/// The address without its port, and without the brackets around one of version 6.
const PUBLIC_IP: &str = "NULLIF(ltrim(rtrim(rtrim(rtrim(machines.last_address, '0123456789'), ':'), ']'), '['), '')";
pub(super) const ENVIRONMENT: &str =
    "(SELECT e.environment FROM machine_environments e WHERE e.machine = machines.number)";
const MACHINES: &str = "machines";
/// Joined, because PostgreSQL looks one by one for what a condition selects by itself, and never side by side. Every
/// machine has an environment from its enrolment on, so that the database may begin with either table.
const WITH_ENVIRONMENTS: &str = "machines JOIN machine_environments e ON e.machine = machines.number";
const FOUND: &str = "SELECT 1 FROM result_rows WHERE action = $1 AND agent = $2 AND late = 0 AND found = $3";
const NAMED_PUT: &str = "INSERT INTO named_targets (name, expression, description, changed, changed_by) \
     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name) DO UPDATE SET expression = excluded.expression, \
     description = excluded.description, changed = excluded.changed, changed_by = excluded.changed_by";
const NAMED_COUNT: &str = "SELECT count(*) FROM named_targets WHERE name <> $1";
const NAMED_LIST: &str = "SELECT name, expression, description, changed, changed_by FROM named_targets ORDER BY name";
const NAMED_DELETE: &str = "DELETE FROM named_targets WHERE name = $1";

/// From when on a machine that was in contact is online, and idle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Since {
    pub(super) online: Timestamp,
    pub(super) idle: Timestamp,
}

impl Since {
    pub(super) async fn read(tx: &mut Tx, now: Timestamp) -> Result<Self, StoreError> {
        let mut fields = tx.query_one(TIMES, &[]).await?.fields("agent_times");
        let (idle_after, offline_after): (u64, u64) = (fields.take()?, fields.take()?);
        let since = |nanos| now.minus(Duration::from_nanos(nanos));
        Ok(Self { online: since(idle_after), idle: since(offline_after) })
    }
}

/// A condition under construction: its words, and its values.
struct Condition<'a> {
    words: Words,
    now: Timestamp,
    since: Since,
    values: Vec<Value<'a>>,
    /// The table of machines, with what is joined to it.
    from: &'static str,
    /// Whether the test under construction looks into a document.
    in_document: bool,
}

/// Which machines are meant: `SELECT … FROM {from} WHERE {condition}`, with the values of its parameters.
pub(super) struct Matching<'a> {
    pub(super) from: &'static str,
    pub(super) condition: String,
    pub(super) values: Vec<Value<'a>>,
}

impl<'a> Condition<'a> {
    /// Begins after the parameters in `values`.
    fn new(tx: &Tx, now: Timestamp, since: Since, values: Vec<Value<'a>>) -> Self {
        let words = if matches!(tx, Tx::Sqlite(_)) { Words::Sqlite } else { Words::Postgres };
        Self { words, now, since, values, from: MACHINES, in_document: false }
    }

    /// Returns the condition on rows of `machines` that holds for those that `reach` and `target` pick.
    fn of(&mut self, target: &'a Target, reach: Reach) -> String {
        let active = match reach {
            Reach::Active => {
                let idle = self.place(self.since.idle, "BIGINT");
                format!(
                    " AND machines.last_contact >= {idle} AND machines.left_at IS NULL AND machines.destroyed IS NULL"
                )
            }
            Reach::Enrolled => String::new(),
        };
        format!("machines.state = 0{active} AND {}", self.target(target))
    }

    fn place(&mut self, value: impl Into<Value<'a>>, kind: &str) -> String {
        self.values.push(value.into());
        self.words.place(self.values.len(), kind)
    }

    fn target(&mut self, target: &'a Target) -> String {
        match target {
            Target::Literal(true) => "TRUE".to_owned(),
            Target::Literal(false) => "FALSE".to_owned(),
            Target::And(parts) => self.row(parts, " AND "),
            Target::Or(parts) => self.row(parts, " OR "),
            Target::Not(part) => format!("(NOT {})", self.target(part)),
            Target::Test(test) => {
                self.in_document = false;
                let sql = self.test(test);
                if self.in_document { self.words.unguessed(&sql) } else { format!("({sql})") }
            }
        }
    }

    fn row(&mut self, parts: &'a [Target], word: &str) -> String {
        let parts: Vec<String> = parts.iter().map(|part| self.target(part)).collect();
        format!("({})", parts.join(word))
    }

    fn test(&mut self, test: &'a Test) -> String {
        let not = |negated: bool, sql: String| if negated { format!("NOT ({sql})") } else { sql };
        match test {
            Test::Compare { left, comparison, right } => {
                let (left, right) = (self.compared(left), self.compared(right));
                format!("{left} {} {right}", comparison.sign())
            }
            Test::Between { value, low, high, negated } => {
                let sides = (self.compared(value), self.compared(low), self.compared(high));
                not(*negated, format!("{} BETWEEN {} AND {}", sides.0, sides.1, sides.2))
            }
            Test::In { value, list, negated } => {
                let sql = self.is_in(value, list);
                not(*negated, sql)
            }
            Test::IsNull { value, negated } => {
                let not = if *negated { "NOT " } else { "" };
                format!("{} IS {not}NULL", self.operand(value))
            }
            Test::Like { value, pattern, case, negated } => {
                let sql = self.pattern(value, pattern, *case, Words::like);
                not(*negated, sql)
            }
            Test::Matches { value, pattern, case, negated } => {
                let sql = self.pattern(value, pattern, *case, Words::matches);
                not(*negated, sql)
            }
            Test::Found { action, found, negated } => {
                let action = i64::try_from(*action).unwrap_or(i64::MAX);
                let (action, found) = (self.place(action, "BIGINT"), self.place(*found, "BIGINT"));
                let sql = format!(
                    "EXISTS (SELECT 1 FROM result_rows r WHERE r.action = {action} AND r.agent = machines.number \
                     AND r.late = 0 AND r.found = {found})"
                );
                not(*negated, sql)
            }
        }
    }

    fn pattern(
        &mut self,
        value: &'a Operand,
        pattern: &'a str,
        case: Case,
        words: fn(Words, &str, usize, Case) -> String,
    ) -> String {
        let value = self.operand(value);
        self.values.push(pattern.into());
        words(self.words, &value, self.values.len(), case)
    }

    fn is_in(&mut self, value: &'a Operand, list: &'a [Operand]) -> String {
        let texts: Option<Vec<&str>> =
            list.iter().map(|item| if let Operand::Text(text) = item { Some(&**text) } else { None }).collect();
        if let Some(texts) = texts {
            let value = self.operand(value);
            self.values.push(texts.into());
            return format!("{value} = ANY(${})", self.values.len());
        }
        let one = |item| format!("{} = {}", self.operand(value), self.operand(item));
        list.iter().map(one).collect::<Vec<_>>().join(" OR ")
    }

    /// An operand whose order is that of bytes, if it is a text.
    fn compared(&mut self, operand: &'a Operand) -> String {
        let sql = self.operand(operand);
        if operand.kind() == Kind::Text { format!("({sql} COLLATE \"C\")") } else { sql }
    }

    fn operand(&mut self, operand: &'a Operand) -> String {
        match operand {
            Operand::Column(column) => self.column(*column),
            Operand::Path(path) => self.path(path),
            Operand::Cast(inner) => {
                let text = self.operand(inner);
                self.words.number(&text)
            }
            Operand::Text(text) => self.place(text, "TEXT"),
            Operand::Number(number) => self.place(*number, "DOUBLE PRECISION"),
            Operand::Now(_) | Operand::Moment(_) => {
                let moment = operand.moment(self.now).unwrap_or(self.now);
                self.place(moment, "BIGINT")
            }
        }
    }

    fn column(&mut self, column: Column) -> String {
        let plain = match column {
            Column::Status => return self.status(),
            Column::Id => "machines.number",
            Column::AgentId => "machines.id_text",
            Column::Name => "machines.name",
            Column::QueueLoc => "machines.queueloc",
            Column::Mode => "machines.mode",
            Column::Version => "machines.version",
            Column::Pid => "machines.pid",
            Column::LoaderName => "machines.loader_name",
            Column::StartTime => "COALESCE(machines.started, machines.created)",
            Column::DestructionTime => "COALESCE(machines.destroyed, 9223372036854775807)",
            Column::HeartbeatTime => "machines.last_contact",
            Column::RefreshTime => "COALESCE(machines.refreshed, machines.created)",
            Column::PublicIp => PUBLIC_IP,
        };
        plain.to_owned()
    }

    fn status(&mut self) -> String {
        let (online, idle) = (self.place(self.since.online, "BIGINT"), self.place(self.since.idle, "BIGINT"));
        status_of(&online, &idle)
    }

    fn path(&mut self, path: &'a Path) -> String {
        if let Some(column) = common(path) {
            return column.to_owned();
        }
        self.in_document = true;
        let document = match path.document {
            Document::Environment => {
                self.from = WITH_ENVIRONMENTS;
                let lists = &[("addresses", "e.addresses"), ("modules", "e.modules")];
                Source { text: "e.environment", parsed: Some("e.parsed"), lists }
            }
            Document::Tags => Source::written("machines.tags"),
        };
        let values = &mut self.values;
        self.words.path(&document, path, &mut |value| {
            values.push(match value {
                PathValue::Text(text) => text.into(),
                PathValue::Index(index) => index.into(),
            });
            values.len()
        })
    }
}

/// The word for how a machine stands, given the parameters of [`Since`].
pub(super) fn status_of(online: &str, idle: &str) -> String {
    format!(
        "CASE WHEN machines.destroyed IS NOT NULL THEN 'destroyed' WHEN machines.left_at IS NOT NULL THEN 'offline' \
         WHEN machines.last_contact >= {online} THEN 'online' WHEN machines.last_contact >= {idle} THEN 'idle' ELSE 'offline' END"
    )
}

/// The columns of `machines` that [`fleet_row`] reads.
pub(super) fn fleet_columns(status: &str) -> String {
    format!(
        "number, id_text, name, queueloc, mode, version, {status}, loader_name, {PUBLIC_IP}, pid, COALESCE(started, created), \
         destroyed, last_contact, COALESCE(refreshed, created), {ENVIRONMENT}, tags"
    )
}

/// Reads a machine as targets see it, without what actions found there.
pub(super) fn fleet_row(row: Row) -> Result<FleetRow, StoreError> {
    let mut fields = row.fields("machines");
    Ok(FleetRow {
        number: fields.take()?,
        agent_id: fields.take()?,
        name: fields.take()?,
        queueloc: fields.take()?,
        mode: fields.take()?,
        version: fields.take()?,
        status: fields.take()?,
        loader_name: fields.take()?,
        public_ip: fields.take()?,
        pid: fields.take()?,
        started: fields.take()?,
        destroyed: fields.take()?,
        last_contact: fields.take()?,
        refreshed: fields.take()?,
        environment: json(&fields.take::<Option<String>>()?.unwrap_or_else(|| "{}".to_owned()))?,
        tags: json(&fields.take::<String>()?)?,
        found: BTreeMap::new(),
    })
}

/// Returns which rows of `machines` are meant. The condition's parameters come after those in `values`.
pub(super) async fn matching<'a>(
    tx: &mut Tx,
    target: &'a Target,
    reach: Reach,
    now: Timestamp,
    values: Vec<Value<'a>>,
) -> Result<Matching<'a>, StoreError> {
    let since = Since::read(tx, now).await?;
    let mut condition = Condition::new(tx, now, since, values);
    let sql = condition.of(target, reach);
    Ok(Matching { from: condition.from, condition: sql, values: condition.values })
}

/// The column of `machines` that holds what stands at a path, if there is one.
fn common(path: &Path) -> Option<&'static str> {
    let key = match &path.form {
        Form::Text(Step::Key(key)) => key,
        Form::Deep(steps) => match &steps[..] {
            [key] => key,
            _ => return None,
        },
        _ => return None,
    };
    if path.document != Document::Environment || !path.steps.is_empty() {
        return None;
    }
    match key.as_str() {
        "os" => Some("machines.os"),
        "arch" => Some("machines.arch"),
        "ident" => Some("machines.ident"),
        "init" => Some("machines.init"),
        _ => None,
    }
}

/// Words what becomes of a target that takes too long.
pub(super) fn in_time<T>(result: Result<T, StoreError>) -> Result<T, StoreError> {
    result.map_err(|error| match error {
        error if error.kind() == ErrorKind::Unavailable && crate::db::dialect::is_cancelled(&error) => {
            let seconds = limits::TARGET_TIME_MAX.as_secs();
            StoreError::Refused(format!("the target took longer than {seconds} s: make it simpler"))
        }
        error => error,
    })
}

async fn page(tx: &mut Tx, (query, after, limit): &(TargetQuery, i64, u32)) -> Result<Vec<(i64, AgentId)>, StoreError> {
    let values = vec![(*after).into(), (*limit).into()];
    let Matching { from, condition, values } = matching(tx, &query.target, query.reach, query.now, values).await?;
    let sql = format!(
        "SELECT machines.number, machines.agent_id FROM {from} WHERE machines.number > $1 AND {condition} \
         ORDER BY machines.number LIMIT $2"
    );
    let rows = in_time(tx.query_once(&sql, &values, limits::TARGET_TIME_MAX).await)?;
    let read = |row: Row| {
        let mut fields = row.fields("machines");
        Ok((fields.take()?, fields.take()?))
    };
    rows.into_iter().map(read).collect()
}

async fn count(tx: &mut Tx, query: &TargetQuery) -> Result<u64, StoreError> {
    let Matching { from, condition, values } = matching(tx, &query.target, query.reach, query.now, Vec::new()).await?;
    let sql = format!("SELECT count(*) FROM {from} WHERE {condition}");
    let mut rows = in_time(tx.query_once(&sql, &values, limits::TARGET_TIME_MAX).await)?;
    let row = rows.pop().ok_or_else(|| StoreError::Statement("a count gave no row".into()))?;
    row.only("machines")
}

/// Returns the statement that counts how the machines stand that `target` picks, and its values.
async fn states_sql<'a>(
    tx: &mut Tx,
    target: &'a Target,
    now: Timestamp,
) -> Result<(String, Vec<Value<'a>>), StoreError> {
    let since = Since::read(tx, now).await?;
    let mut condition = Condition::new(tx, now, since, vec![since.idle.into()]);
    let picked = condition.target(target);
    let active = "machines.last_contact >= $1 AND machines.left_at IS NULL AND machines.destroyed IS NULL";
    let sql = format!(
        "SELECT count(CASE WHEN machines.state = 0 AND {active} THEN 1 END), count(CASE WHEN machines.state = 0 \
         THEN 1 END), count(CASE WHEN machines.state = 1 THEN 1 END), count(CASE WHEN machines.state = 2 THEN 1 END), \
         count(CASE WHEN machines.state = 4 THEN 1 END) FROM {} WHERE machines.state IN (0, 1, 2, 4) AND {picked}",
        condition.from
    );
    Ok((sql, condition.values))
}

fn states_read(row: Row) -> Result<TargetStates, StoreError> {
    let mut fields = row.fields(MACHINES);
    let (active, enrolled): (u64, u64) = (fields.take()?, fields.take()?);
    let offline = enrolled.saturating_sub(active);
    Ok(TargetStates { active, offline, waiting: fields.take()?, blocked: fields.take()?, rekeying: fields.take()? })
}

/// How the machines stand that a target picks, however long that takes.
pub(super) async fn states(tx: &mut Tx, (target, now): &(Target, Timestamp)) -> Result<TargetStates, StoreError> {
    let (sql, values) = states_sql(tx, target, *now).await?;
    states_read(tx.query_one_made(&sql, &values).await?)
}

async fn states_in_time(tx: &mut Tx, (target, now): &(Target, Timestamp)) -> Result<TargetStates, StoreError> {
    let (sql, values) = states_sql(tx, target, *now).await?;
    let mut rows = in_time(tx.query_once(&sql, &values, limits::TARGET_TIME_MAX).await)?;
    states_read(rows.pop().ok_or_else(|| StoreError::Statement("a count gave no row".into()))?)
}

async fn row(
    tx: &mut Tx,
    (id, findings, now): &(AgentId, Vec<(u64, bool)>, Timestamp),
) -> Result<Option<FleetRow>, StoreError> {
    let since = Since::read(tx, *now).await?;
    let mut condition = Condition::new(tx, *now, since, vec![id.into()]);
    let status = condition.status();
    let sql = format!("SELECT {} FROM machines WHERE agent_id = $1 AND state <> 3", fleet_columns(&status));
    let Some(row) = tx.query_opt(sql, &condition.values).await? else { return Ok(None) };
    let mut row = fleet_row(row)?;
    for (action, found) in findings {
        let number = i64::try_from(*action).unwrap_or(i64::MAX);
        let is_so = tx.query_opt(FOUND, params![number, row.number, *found]).await?.is_some();
        row.found.insert((*action, *found), is_so);
    }
    Ok(Some(row))
}

pub(super) fn json(text: &str) -> Result<serde_json::Value, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Inconsistent { table: "machines", id: "a document".to_owned() })
}

async fn named_put(tx: &mut Tx, (target, cause): &(NamedTarget, Cause)) -> Result<(), StoreError> {
    let others: u64 = tx.query_one(NAMED_COUNT, params![&target.name]).await?.only("named_targets")?;
    if others >= limits::NAMED_TARGETS_MAX as u64 {
        return Err(StoreError::Refused(format!("there are {others} named targets already: delete one first")));
    }
    let NamedTarget { name, expression, description, changed, changed_by } = target;
    tx.execute(NAMED_PUT, params![name, expression, description, *changed, changed_by]).await?;
    journal::write(tx, *changed, cause, "target.put", name, &json!({ "expression": expression })).await
}

async fn named_list(tx: &mut Tx, (): &()) -> Result<Vec<NamedTarget>, StoreError> {
    let mut targets = Vec::new();
    for row in tx.query(NAMED_LIST, &[]).await? {
        let mut fields = row.fields("named_targets");
        targets.push(NamedTarget {
            name: fields.take()?,
            expression: fields.take()?,
            description: fields.take()?,
            changed: fields.take()?,
            changed_by: fields.take()?,
        });
    }
    Ok(targets)
}

async fn named_delete(tx: &mut Tx, (name, now, cause): &(String, Timestamp, Cause)) -> Result<bool, StoreError> {
    if tx.execute(NAMED_DELETE, params![name]).await? == 0 {
        return Ok(false);
    }
    journal::write(tx, *now, cause, "target.delete", name, &json!({})).await?;
    Ok(true)
}

#[async_trait]
impl TargetStore for SqlStore {
    async fn target_page(&self, query: TargetQuery, after: i64, limit: u32) -> Result<Vec<(i64, AgentId)>, StoreError> {
        self.read((query, after, limit), |tx, args| Box::pin(page(tx, args))).await
    }

    async fn target_count(&self, query: TargetQuery) -> Result<u64, StoreError> {
        self.read(query, |tx, args| Box::pin(count(tx, args))).await
    }

    async fn target_states(&self, target: Target, now: Timestamp) -> Result<TargetStates, StoreError> {
        self.read((target, now), |tx, args| Box::pin(states_in_time(tx, args))).await
    }

    async fn target_row(
        &self,
        id: AgentId,
        findings: Vec<(u64, bool)>,
        now: Timestamp,
    ) -> Result<Option<FleetRow>, StoreError> {
        self.read((id, findings, now), |tx, args| Box::pin(row(tx, args))).await
    }

    async fn named_target_put(&self, target: NamedTarget, cause: &Cause) -> Result<(), StoreError> {
        self.write((target, cause.clone()), |tx, args| Box::pin(named_put(tx, args))).await
    }

    async fn named_target_list(&self) -> Result<Vec<NamedTarget>, StoreError> {
        self.read((), |tx, args| Box::pin(named_list(tx, args))).await
    }

    async fn named_target_delete(&self, name: &str, now: Timestamp, cause: &Cause) -> Result<bool, StoreError> {
        let call = (name.to_owned(), now, cause.clone());
        self.write(call, |tx, args| Box::pin(named_delete(tx, args))).await
    }
}
