//! Whether something keeps orders from running on this machine, whatever signatures they bring.

use super::{Check, failed, ok, warning};
use crate::actions::status::{documents_path, ledger_path};
use crate::actions::{Believed, Standstill, ledger, standstills};
use crate::config::Config;
use muster_core::Timestamp;

const NAME: &str = "orders";

/// Looks at what keeps orders from running when the clock says `now`.
pub(super) fn look(config: &Config, now: Timestamp) -> Vec<Check> {
    let path = ledger_path(config);
    let content = match ledger::look(&path) {
        Ok(content) => content,
        Err(error) => {
            let found = format!("the ledger of orders {} cannot be read ({error}): nothing runs", path.display());
            return vec![failed(
                NAME,
                found,
                "look at the file and its disk; the agent's user must be able to read it",
            )];
        }
    };
    if content.is_none() && path.exists() {
        let found = format!("the ledger of orders {} is damaged: what may have run before is refused", path.display());
        let advice = "start the agent again: it puts the file aside and begins a new one; sign orders of before again";
        return vec![failed(NAME, found, advice)];
    }
    let believed = Believed::load(config, &documents_path(config));
    let halted = standstills(content.as_ref(), &believed, now);
    if halted.is_empty() {
        return vec![ok(NAME, "nothing keeps those from running that are signed well enough")];
    }
    let check = |halted: Standstill| {
        let make = if halted.is_whole { failed } else { warning };
        make(NAME, halted.found, halted.advice)
    };
    halted.into_iter().map(check).collect()
}
