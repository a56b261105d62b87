//! What the server notes of machines that never said what they demand: its tables `agtmodreq` and `invagtmodperm`.
//!
//! Stays true: notes are only told. A machine decides by its own weights, which may be others.

use super::preview::{Demands, SaidBy, weigh};
use crate::engine::{Inner, OperatorError};
use muster_core::action::{Action, Fingerprint, InvestigatorId};
use muster_core::{AgentId, limits};
use muster_store::investigators::ModuleRule;
use muster_store::targets::TargetQuery;
use muster_trust::weights::{Grant, Requirement, acl_of};
use std::collections::{BTreeMap, BTreeSet};

impl Inner {
    /// Adds what is noted of machines that `query` picks. Returns how many these are.
    pub(super) async fn noted_add(
        &self,
        query: TargetQuery,
        action: &Action,
        signers: &BTreeSet<Fingerprint>,
        demands: &mut Demands,
    ) -> Result<u64, OperatorError> {
        let noted = self.store.trust_noted(query, limits::PREVIEW_NOTED_MAX).await;
        let noted = noted.map_err(|failure| self.operator_error("look up what is noted of machines", failure))?;
        if noted.machines == 0 {
            return Ok(0);
        }
        let keys = self.keys().await?;
        let keys = keys.by_investigator();
        let mut by_machine: BTreeMap<AgentId, Vec<ModuleRule>> = BTreeMap::new();
        for rule in noted.rules {
            by_machine.entry(rule.agent).or_default().push(rule);
        }
        for (agent, rules) in by_machine {
            // The server does not know what a module demands itself.
            let modules = action.operations.iter().map(|operation| (operation.module.as_str(), 1));
            let (requirements, grants) = (requirements(&rules), grants(&rules, &keys));
            // Notes that make no list permit nothing, as on a machine.
            let acl = acl_of(&requirements, &grants).unwrap_or_default();
            demands.add(SaidBy::Server, weigh(&acl, modules, signers), 1, agent);
        }
        Ok(noted.machines)
    }
}

fn requirements(rules: &[ModuleRule]) -> Vec<Requirement> {
    let of = |rule: &ModuleRule| {
        let minimum_weight = u32::try_from(rule.minimum?).ok()?;
        Some(Requirement { module: rule.module.clone(), minimum_weight })
    };
    rules.iter().filter_map(of).collect()
}

/// What people are worth whose keys are known.
fn grants(rules: &[ModuleRule], keys: &BTreeMap<InvestigatorId, Fingerprint>) -> Vec<Grant> {
    let of = |rule: &ModuleRule, (who, weight): &(InvestigatorId, i64)| {
        let (weight, fingerprint) = (u32::try_from(*weight).ok()?, keys.get(who)?.clone());
        Some(Grant { module: rule.module.clone(), investigator: who.to_string(), fingerprint, weight })
    };
    rules.iter().flat_map(|rule| rule.weights.iter().filter_map(move |weight| of(rule, weight))).collect()
}
