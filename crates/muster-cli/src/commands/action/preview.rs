//! `muster action preview`: what would come of an action, for people.
//!
//! Stays true: nothing is promised that launching would refuse, and nobody is said to have signed what nobody signed yet.

use super::file::Place;
use super::spread::{PREVIEW, SpreadArgs, not_reached};
use crate::output::{machine_name, safe};
use crate::{Context, Failure, Globals};
use muster_api::actions::{Preview, PreviewDemand, Signer};
use muster_core::Action;

/// Whether the signatures that a preview speaks of are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signed {
    /// They are.
    Already,
    /// Its person has not agreed yet.
    NotYet,
}

#[derive(Debug, clap::Args)]
pub(super) struct PreviewArgs {
    /// The action, signed or not: a file, - for standard input, or the number of one on the server
    action: String,
    #[command(flatten)]
    spread: SpreadArgs,
}

impl PreviewArgs {
    pub(super) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        self.spread.check(PREVIEW)?;
        let context = Context::new(globals)?;
        let answer = match Place::of(&self.action) {
            Place::Server(id) => context.api.get(PREVIEW, &["actions", &id.to_string(), "preview"], &()).await?,
            place => {
                let action = place.read(globals, PREVIEW).await?;
                let signers = signers_of(&action)?;
                self.spread.ask(&context, &action, signers).await?
            }
        };
        if context.out.json {
            return context.out.json(&answer);
        }
        show_preview(&context, &context.api.read(PREVIEW, &answer)?, &self.spread.rings, Signed::Already);
        Ok(())
    }
}

/// Whose signatures an action says that it has: fingerprints or key ids.
pub(super) fn signers_of(action: &Action) -> Result<Vec<String>, Failure> {
    let mut signers = Vec::new();
    for (number, line) in (1..).zip(&action.pgp_signatures) {
        let issuers = muster_trust::signature::issuers(line).map_err(|error| {
            Failure::usage("could not read the action", format!("signature {number} does not count: {error}"))
        })?;
        signers.extend(issuers.into_iter().next());
    }
    Ok(signers)
}

/// Shows a preview on standard error.
pub(super) fn show_preview(context: &Context, preview: &Preview, rings: &[u8], when: Signed) {
    let Preview { matched, willing, unknown, .. } = preview;
    let name = |signer: &Signer| format!("{} ({})", signer.name, signer.fingerprint);
    let signed = match (preview.signers.is_empty(), preview.problems.is_empty()) {
        (true, true) => "nobody yet".to_owned(),
        (true, false) => "nobody that the server knows".to_owned(),
        (false, _) => preview.signers.iter().map(name).collect::<Vec<_>>().join(", "),
    };
    let word = match when {
        Signed::Already => "Signed by",
        Signed::NotYet => "To be signed by",
    };
    context.out.note(&format!("{word} {}.", safe(&signed)));
    let asked = if preview.asked < *matched { format!(", {} of them looked at", preview.asked) } else { String::new() };
    let machines = if *matched == 1 { "machine matches" } else { "machines match" };
    context
        .out
        .note(&format!("{matched} {machines}{asked}: {willing} would run it, {unknown} never said what they demand."));
    if *matched > 0 {
        let beyond = not_reached(&preview.beyond);
        if !beyond.is_empty() {
            context.out.note(&format!("More match and are not asked ({beyond}): a standing action reaches them."));
        }
    }
    for refusal in &preview.refusals {
        let examples = named(&refusal.examples);
        context.out.note(&format!(
            "  {} would refuse: {} ({})",
            refusal.agents,
            safe(&refusal.reason),
            safe(&examples)
        ));
    }
    for demand in preview.demands.iter().filter(|demand| !demand.met) {
        context.out.note(&format!("  {}", demanded(demand)));
    }
    if preview.changes {
        context.out.note(&spread_of(rings));
    }
    if let Some(outlook) = outlook(preview) {
        context.out.note(&safe(&outlook));
    }
}

/// Says in which shares an action reaches machines that it changes.
pub(super) fn spread_of(rings: &[u8]) -> String {
    let shares: Vec<_> = rings.iter().filter(|share| **share < 100).map(|share| format!("{share} %")).collect();
    match (rings, shares.is_empty()) {
        ([], _) => "It changes machines: it goes to 1 %, to 10 %, then to all (--rings says otherwise).".to_owned(),
        (_, true) => "It changes machines: it goes to all at once, as --rings says.".to_owned(),
        (_, false) => {
            format!("It changes machines: it goes to {}, then to all, as --rings says.", shares.join(", to "))
        }
    }
}

/// Says what keeps an action from starting at once.
pub(super) fn outlook(preview: &Preview) -> Option<String> {
    match preview.problems.as_slice() {
        [] if preview.signers.is_empty() => Some("It needs signatures before it can be launched.".to_owned()),
        [] if preview.ready => None,
        [] => Some("It would wait for more signatures.".to_owned()),
        // One signature that does not count spoils the whole: the server takes an action as it is, or not at all.
        problems => Some(format!("Launching it would be refused: {}.", problems.join("; "))),
    }
}

/// Words what machines demand, and that a note of the server is not the machine's word.
fn demanded(demand: &PreviewDemand) -> String {
    let operations = demand.operations.iter().map(|operation| match operation.need {
        Some(need) => format!("{} weight {need} (has {})", operation.module, operation.have),
        None => format!("{} permitted by nobody", operation.module),
    });
    let operations = operations.collect::<Vec<_>>().join(", ");
    let (agents, examples) = (demand.agents, named(&demand.examples));
    let who = match demand.said_by.as_str() {
        "server" => format!("{agents} never said; the server notes of them, which they need not share,"),
        _ => format!("{agents} demand"),
    };
    format!("{who} {} ({})", safe(&operations), safe(&examples))
}

/// Names machines by what the server calls them: none of their names can be taken for two, or for what stands around it.
fn named(machines: &[String]) -> String {
    machines.iter().map(|name| machine_name(name)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_of_the_preview_is_one_word() {
        let demand: PreviewDemand = serde_json::from_value(serde_json::json!({
            "agents": 2, "examples": ["web-1", "x) 9 demand file weight 0 (y"], "said_by": "agent", "met": false,
            "operations": [{"module": "file", "need": 2, "have": 1, "permitted": true}],
        }))
        .unwrap();
        let said = demanded(&demand);
        assert!(said.ends_with("(web-1 \"x)␣9␣demand␣file␣weight␣0␣(y\")"), "{said}");
    }
}
