//! Pages of messages for operators.
//!
//! Stays true: a page of one agent's messages walks that agent's rows and, of others, at most what waits for services of
//! the server, however many messages there are. Not here: the lists of pending messages that tools of the original ask
//! for (`messages.rs`).

use super::message_rows::{COLUMNS_OF_ROW, COLUMNS_WITHOUT_DATA, read_row};
use crate::StoreError;
use crate::db::Tx;
use crate::db::value::Value;
use crate::messages::{MessageFilter, MessageRow, MessageState};

/// One part of an agent's messages that an index of its own leads to.
struct Part {
    /// Which rows, the agent being $1.
    rows: &'static str,
    /// What they are ordered by.
    order: &'static str,
}

const NEWEST_FIRST: &str = "number DESC";

/// The messages from and to an agent that are on their way no more.
const ENDED: [Part; 2] = [
    Part { rows: "source_agent = $1 AND state <> 0", order: NEWEST_FIRST },
    Part {
        rows: "destination_agent = $1 AND state <> 0 AND (source_agent IS NULL OR source_agent <> $1)",
        order: NEWEST_FIRST,
    },
];

/// Those that are on their way. The plus keeps both databases from walking all messages in the order that is wanted,
/// for the sake of the few that are.
const PENDING: [Part; 3] = [
    Part { rows: "destination_agent = $1 AND state = 0", order: "+number DESC" },
    Part { rows: "source_agent = $1 AND state = 0 AND destination_agent <> $1", order: "+number DESC" },
    Part {
        rows: "source_agent = $1 AND state = 0 AND destination_agent IS NULL AND destination_service >= ''",
        order: "+number DESC",
    },
];

/// What a page is asked with.
pub(super) struct PageArgs {
    pub(super) filter: MessageFilter,
    pub(super) before: Option<i64>,
    pub(super) limit: u32,
}

/// Returns a page, newest first.
pub(super) async fn page(tx: &mut Tx, args: &PageArgs) -> Result<Vec<MessageRow>, StoreError> {
    let (sql, values) = statement(args);
    tx.query(sql, &values).await?.into_iter().map(read_row).collect()
}

/// Makes the statement of a page and its parameters.
fn statement(args: &PageArgs) -> (String, Vec<Value<'_>>) {
    let mut wheres = Vec::new();
    let mut values: Vec<Value<'_>> = args.filter.agent.iter().map(Value::from).collect();
    if let Some(service) = &args.filter.service {
        values.push(service.into());
        wheres.push(format!("destination_service = ${}", values.len()));
    }
    if let Some(state) = args.filter.state {
        values.push((state as i32).into());
        wheres.push(format!("state = ${}", values.len()));
    }
    if let Some(number) = args.before {
        values.push(number.into());
        wheres.push(format!("number < ${}", values.len()));
    }
    values.push(args.limit.into());
    let select = |rows: &str, order: &str| {
        let rows: Vec<&str> = std::iter::once(rows).chain(wheres.iter().map(String::as_str)).collect();
        format!(
            "SELECT {COLUMNS_WITHOUT_DATA}{COLUMNS_OF_ROW} FROM messages WHERE {} ORDER BY {order} LIMIT ${}",
            rows.join(" AND "),
            values.len()
        )
    };
    if args.filter.agent.is_none() {
        return (select("1 = 1", NEWEST_FIRST), values);
    }
    let parts = parts(args.filter.state).into_iter().zip('a'..);
    let parts = parts.map(|(part, name)| format!("SELECT * FROM ({}) AS {name}", select(part.rows, part.order)));
    let parts = parts.collect::<Vec<_>>().join(" UNION ALL ");
    (format!("{parts} ORDER BY {NEWEST_FIRST} LIMIT ${}", values.len()), values)
}

fn parts(state: Option<MessageState>) -> Vec<&'static Part> {
    match state {
        None => ENDED.iter().chain(&PENDING).collect(),
        Some(MessageState::Pending) => PENDING.iter().collect(),
        Some(_) => ENDED.iter().collect(),
    }
}

#[cfg(test)]
mod tests;
