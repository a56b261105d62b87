//! `muster agent weights` and `minimum`: what is noted of the weights that a machine demands.

use crate::commands::ReasonArgs;
use crate::list::{ListArgs, Rows};
use crate::output::{Table, safe};
use crate::{Context, Failure, resolve};
use muster_api::Page;
use muster_api::investigators::{InvestigatorRow, MinimumRequest, ModuleRuleRow};
use reqwest::Method;
use serde_json::Value;
use std::collections::BTreeMap;

/// `muster agent minimum`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Machines decide by the weights that they hold themselves (`muster trust`); the server notes weights for previews.")]
pub(super) struct MinimumCommand {
    /// Its id
    id: String,
    /// How much signatures must weigh together; 0 takes the note away
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    minimum: i64,
    /// For which module
    #[arg(long, default_value = "default")]
    module: String,
    #[command(flatten)]
    reason: ReasonArgs,
}

impl MinimumCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let id = resolve::agent(context, &self.id).await?;
        let what = format!("could not note what agent {id} demands");
        let minimum = Some(self.minimum).filter(|minimum| *minimum > 0);
        let request = MinimumRequest { minimum, reason: self.reason.reason };
        let path = ["agents", &id, "modules", &self.module];
        let answer = context.api.send(&what, Method::PUT, &path, &request).await?;
        let noted = minimum.map_or_else(|| "no minimum".to_owned(), |minimum| format!("minimum {minimum}"));
        context.out.note(&format!("{id}  {noted} noted for {}", safe(&self.module)));
        show(context, &what, &answer).await
    }
}

/// Shows what is noted of the machine that `id` names.
pub(super) async fn list(context: &Context, id: &str) -> Result<(), Failure> {
    let id = resolve::agent(context, id).await?;
    let what = format!("could not list the weights of agent {id}");
    let answer = context.api.get(&what, &["agents", &id, "modules"], &()).await?;
    show(context, &what, &answer).await
}

async fn show(context: &Context, what: &str, answer: &Value) -> Result<(), Failure> {
    if context.out.json {
        return context.out.json(answer);
    }
    let Page { items: rows, .. }: Page<ModuleRuleRow> = context.api.read(what, answer)?;
    let names = names(context, &rows).await;
    let mut table = Table::new(&["MODULE", "MINIMUM", "WEIGHTS"]);
    for row in rows {
        let name = |number: i64| names.get(&number).cloned().unwrap_or_else(|| format!("investigator {number}"));
        let weights = row.weights.iter().map(|one| format!("{}: {}", name(one.investigator), one.weight));
        let minimum = row.minimum.map_or_else(|| "-".to_owned(), |minimum| minimum.to_string());
        table.row([row.module, minimum, weights.collect::<Vec<_>>().join(", ")]);
    }
    context.out.table(&table, "Nothing is noted.")
}

/// Returns who the investigators in `rows` are. Where that cannot be had, numbers do.
async fn names(context: &Context, rows: &[ModuleRuleRow]) -> BTreeMap<i64, String> {
    if rows.iter().all(|row| row.weights.is_empty()) {
        return BTreeMap::new();
    }
    let what = "could not look up the investigators";
    let all = ListArgs { all: true, ..ListArgs::default() };
    let people = Rows::fetch(context, what, &["investigators"], &(), &all).await;
    let people = people.and_then(|rows| rows.read::<InvestigatorRow>(context, what)).unwrap_or_default();
    people.into_iter().map(|row| (row.id, format!("{} ({})", row.name, row.id))).collect()
}
