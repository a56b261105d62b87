//! Ids that were written short, and host names in their place.
//!
//! Stays true: what could be an id is looked for among ids first, because machines choose their host names themselves; a
//! host name stands for the one machine that has it, and which that is is said; what fits two is refused, and both are
//! named. Not here: what is signed, which names machines by their ids alone.

use crate::list::{ListArgs, Rows};
use crate::{Context, Exit, Failure};
use muster_api::agents::AgentQuery;
use muster_core::{AgentId, BroadcastId, MessageId};
use serde_json::Value;

/// Digits that a short id must have.
const DIGITS_MIN: usize = 4;
/// Newest messages among which a short message id is looked for.
const MESSAGES_MAX: u32 = 10_000;
/// Characters that a host name has at most.
const HOST_CHARS_MAX: usize = 253;
/// Ids named when a short one fits several.
const NAMED_MAX: usize = 8;

struct Kind {
    noun: &'static str,
    list: &'static str,
    digits: usize,
}

const AGENT: Kind = Kind { noun: "agent", list: "muster agent list", digits: AgentId::BYTES * 2 };
const BROADCAST: Kind = Kind { noun: "broadcast", list: "muster broadcast list", digits: BroadcastId::BYTES * 2 };
const MESSAGE: Kind = Kind { noun: "message", list: "muster message list", digits: MessageId::BYTES * 2 };

impl Kind {
    /// Lower-case digits, and whether they are all of them.
    fn check(&self, text: &str) -> Result<(String, bool), Failure> {
        let digits = text.to_ascii_lowercase();
        let fits = (DIGITS_MIN..=self.digits).contains(&digits.len());
        if fits && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            let whole = digits.len() == self.digits;
            return Ok((digits, whole));
        }
        let why = format!("an id has {} hexadecimal digits; the first {DIGITS_MIN} or more will do", self.digits);
        Err(Failure::usage(format!("{text:?} is no {} id", self.noun), why).next(format!("see `{}`", self.list)))
    }

    fn pick(&self, prefix: &str, rows: &Rows) -> Result<String, Failure> {
        let id = |row: &Value| row.get("id").and_then(Value::as_str).map(str::to_owned);
        let mut found: Vec<String> = rows.items.iter().filter_map(id).filter(|id| id.starts_with(prefix)).collect();
        found.sort_unstable();
        found.dedup();
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(Failure::new(
                Exit::NotFound,
                format!("there is no {} {prefix}…", self.noun),
                "no id that is listed begins so",
            )
            .next(format!("see `{}`, or write the whole id", self.list))),
            many => {
                let named = found[..many.min(NAMED_MAX)].join(", ");
                let why = format!("{many} ids begin so: {named}");
                Err(Failure::usage(format!("{prefix} is not one {}", self.noun), why).next("write more digits"))
            }
        }
    }
}

/// Returns the whole id of the agent that `text` names: by its id, by the first digits of it, or by a host name that no
/// other machine has.
pub(crate) async fn agent(context: &Context, text: &str) -> Result<String, Failure> {
    let digits = match AGENT.check(text) {
        Ok((digits, true)) => return Ok(digits),
        Ok((digits, false)) => Some(digits),
        Err(failure) if !is_host_name(text) => return Err(failure),
        Err(_) => None,
    };
    let filter = AgentQuery { text: Some(text.to_owned()), ..AgentQuery::default() };
    let all = ListArgs { all: true, ..ListArgs::default() };
    let rows = Rows::fetch(context, "could not look up the agent", &["agents"], &filter, &all).await?;
    if let Some(digits) = digits {
        match AGENT.pick(&digits, &rows) {
            Err(failure) if failure.exit == Exit::NotFound && !named(text, &rows).is_empty() => {}
            outcome => return outcome,
        }
    }
    let id = host(text, &rows)?;
    context.out.note(&format!("{} is agent {id}.", crate::output::safe(text)));
    Ok(id)
}

/// Whether a text can be the name of a machine (RFC 1123, and the underscores that are found in the field).
fn is_host_name(text: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    text.len() <= HOST_CHARS_MAX && text.split('.').all(is_part)
}

/// Returns the ids of the machines that have this host name, in whatever case of its letters.
fn named(name: &str, rows: &Rows) -> Vec<String> {
    let word = |row: &Value, key: &str| row.get(key).and_then(Value::as_str).map(str::to_owned);
    let fits = |row: &&Value| word(row, "hostname").is_some_and(|host| host.eq_ignore_ascii_case(name));
    let mut found: Vec<_> = rows.items.iter().filter(fits).filter_map(|row| word(row, "id")).collect();
    found.sort_unstable();
    found
}

/// Returns the id of the one machine that has this host name.
fn host(name: &str, rows: &Rows) -> Result<String, Failure> {
    let mut found = named(name, rows);
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(nobody(name, rows)),
        many => {
            let named = found[..many.min(NAMED_MAX)].join(", ");
            let why = format!("{many} machines have this host name: {named}");
            Err(Failure::usage(format!("{name} is not one agent"), why).next("write the id"))
        }
    }
}

/// The failure where no machine has this host name. What is too short for an id may be the beginning of some.
fn nobody(name: &str, rows: &Rows) -> Failure {
    let what = format!("there is no agent {name}");
    let see = format!("see `{}`", AGENT.list);
    if name.len() >= DIGITS_MIN || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Failure::new(Exit::NotFound, what, "no machine has this host name, and it is no id").next(see);
    }
    let begins = |id: &&str| id.starts_with(&name.to_ascii_lowercase());
    let ids: Vec<_> = rows.items.iter().filter_map(|row| row.get("id")?.as_str()).filter(begins).collect();
    let more = if ids.len() > NAMED_MAX { " …" } else { "" };
    let (why, next) = match ids.len() {
        0 => ("no id that is listed begins so".to_owned(), see),
        _ => (
            format!("an id is taken from its first {DIGITS_MIN} digits on"),
            format!("write more digits of one of these: {}{more}", ids[..ids.len().min(NAMED_MAX)].join(", ")),
        ),
    };
    Failure::new(Exit::NotFound, what, format!("no machine has this host name, and {why}")).next(next)
}

/// Returns the whole id of the broadcast that `text` names.
pub(crate) async fn broadcast(context: &Context, text: &str) -> Result<String, Failure> {
    let (digits, whole) = BROADCAST.check(text)?;
    if whole {
        return Ok(digits);
    }
    let all = ListArgs { all: true, ..ListArgs::default() };
    let rows = Rows::fetch(context, "could not look up the broadcast", &["broadcasts"], &(), &all).await?;
    BROADCAST.pick(&digits, &rows)
}

/// Returns the whole id of the message that `text` names, among the newest.
pub(crate) async fn message(context: &Context, text: &str) -> Result<String, Failure> {
    let (digits, whole) = MESSAGE.check(text)?;
    if whole {
        return Ok(digits);
    }
    let newest = ListArgs { limit: MESSAGES_MAX, ..ListArgs::default() };
    let rows = Rows::fetch(context, "could not look up the message", &["messages"], &(), &newest).await?;
    MESSAGE.pick(&digits, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(ids: &[&str]) -> Rows {
        Rows { items: ids.iter().map(|id| json!({ "id": id })).collect(), next: None }
    }

    #[test]
    fn a_short_id_is_one_or_none_or_refused() {
        let rows = rows(&["1122334455667788", "1122999999999999", "aa22334455667788"]);
        assert_eq!(AGENT.pick("aa22", &rows).unwrap(), "aa22334455667788");
        assert_eq!(AGENT.pick("ffff", &rows).unwrap_err().exit, Exit::NotFound);
        let two = AGENT.pick("1122", &rows).unwrap_err();
        assert_eq!(two.exit, Exit::Usage);
        assert!(two.why.contains("1122334455667788, 1122999999999999"), "{two}");
    }

    #[test]
    fn a_host_name_is_one_machine_or_none_or_refused() {
        let row = |id: &str, host: &str| json!({ "id": id, "hostname": host });
        let items = vec![row("1122", "web-1"), row("3344", "db"), row("5566", "DB"), row("7788", "web-10")];
        let rows = Rows { items, next: None };
        assert_eq!(host("WEB-1", &rows).unwrap(), "1122");
        assert_eq!(host("web", &rows).unwrap_err().exit, Exit::NotFound);
        // What is too short for an id names those that begin so.
        let short = host("33", &rows).unwrap_err();
        assert!(short.exit == Exit::NotFound && short.next.ends_with("one of these: 3344"), "{short}");
        assert!(short.why.contains("from its first 4 digits on"), "{short}");
        assert!(host("9a", &rows).unwrap_err().why.contains("no id that is listed begins so"));
        let two = host("db", &rows).unwrap_err();
        assert!(two.exit == Exit::Usage && two.why.contains("3344, 5566"), "{two}");
    }

    #[test]
    fn what_cannot_be_a_host_name_is_none() {
        assert!(is_host_name("web-1") && is_host_name("a_b.example.org"));
        for text in ["", ".", "a..b", "../x", "a b", "a/b", "ü", &"x".repeat(254)] {
            assert!(!is_host_name(text), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_an_id_is_refused_before_asking() {
        for text in ["", "112", "web-1", "../x", "11223344556677889", "11 2"] {
            assert_eq!(AGENT.check(text).unwrap_err().exit, Exit::Usage, "{text}");
        }
        assert_eq!(AGENT.check("AABB").unwrap(), ("aabb".to_owned(), false));
        assert!(AGENT.check("1122334455667788").unwrap().1);
    }
}
