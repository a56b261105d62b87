//! Results that came after their command had ended: after the action was called back, or after its window.
//!
//! Stays true: what the server lists as late carries no signature, so that nothing here is proven, and nothing is printed as
//! if it were; of machines that were called back it says which ones ran all the same.

use crate::list::{ListArgs, Rows};
use crate::output::{Table, time};
use crate::results::Late;
use crate::{Context, Failure};
use muster_api::actions::LateResultRow;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Asks for what came late, newest first.
async fn rows(context: &Context, what: &str, id: i64) -> Result<Rows, Failure> {
    let all = ListArgs { all: true, ..ListArgs::default() };
    Rows::fetch(context, what, &["actions", &id.to_string(), "late-results"], &(), &all).await
}

/// Returns what each machine said late, its first word.
pub(super) async fn of(context: &Context, what: &str, id: i64) -> Result<BTreeMap<String, Late>, Failure> {
    let rows = rows(context, what, id).await?.read::<LateResultRow>(context, what)?;
    let late = |row: LateResultRow| {
        let is_refused = is_refused(row.results.get());
        (row.agent, Late { status: row.status, received: row.received, is_refused })
    };
    // The newest comes first: an earlier one of the same machine takes its place.
    Ok(rows.into_iter().map(late).collect())
}

/// Whether results are those of a machine that refused: it ran nothing.
fn is_refused(results: &str) -> bool {
    #[derive(Deserialize)]
    struct Refused {
        errors: Option<Vec<String>>,
    }
    let all: Vec<Refused> = serde_json::from_str(results).unwrap_or_default();
    matches!(all.as_slice(), [Refused { errors: Some(errors) }] if errors.iter().any(|error| error.starts_with("refused (")))
}

/// Lists them.
pub(super) async fn list(context: &Context, what: &str, id: i64) -> Result<(), Failure> {
    let rows = rows(context, what, id).await?;
    if context.out.json {
        return rows.json(context);
    }
    let mut table = Table::new(&["AGENT", "STATUS", "RECEIVED", "RESULTS"]);
    for row in rows.read::<LateResultRow>(context, what)? {
        table.row([row.agent, row.status, time(&row.received), row.results.get().to_owned()]);
    }
    context.out.table(&table, "No result came late.")?;
    context.out.note("The server keeps late results without the machines' signatures: they are its word.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_an_answer() {
        assert!(is_refused(&muster_core::action::refused_results("expired", "its time is over")));
        for answer in ["[]", "x", r#"[{"errors": null}]"#, r#"[{"errors": ["no such file"]}]"#] {
            assert!(!is_refused(answer), "{answer}");
        }
    }
}
