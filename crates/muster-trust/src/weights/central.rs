//! The ACL that the server's tables describe: what an agent demands for a module (`agtmodreq`) and what an investigator
//! is worth there (`invagtmodperm`).
//!
//! The tables become one [`Acl`] for each agent, and are judged like any other: once by the server, to say beforehand
//! who will refuse, and by the agent when that list reaches it as a signed document. The server's opinion alone makes
//! nothing run.

use super::{Acl, AclError, Permission, Weight};
use muster_core::action::Fingerprint;
use std::collections::BTreeMap;

/// What one agent demands for one module: a row of `agtmodreq`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The module, or [`super::DEFAULT`].
    pub module: String,
    /// The least weight.
    pub minimum_weight: u32,
}

/// What one investigator is worth for one module on that agent: a row of `invagtmodperm`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The module, or [`super::DEFAULT`].
    pub module: String,
    /// What tells the person from others; rows of one person have one name.
    pub investigator: String,
    /// One of the person's primary keys.
    pub fingerprint: Fingerprint,
    /// The weight.
    pub weight: u32,
}

/// Makes one agent's list of its rows. A module without a requirement has no entry, and grants for it count for nothing:
/// without an entry and without a default, it is denied. Two rows of one person for one module give the person two keys
/// and the smaller weight.
pub fn acl_of(requirements: &[Requirement], grants: &[Grant]) -> Result<Acl, AclError> {
    let mut modules = BTreeMap::new();
    for requirement in requirements {
        let permission = modules.entry(requirement.module.clone()).or_insert_with(|| Permission {
            minimum_weight: requirement.minimum_weight,
            investigators: BTreeMap::new(),
        });
        permission.minimum_weight = permission.minimum_weight.max(requirement.minimum_weight);
    }
    for grant in grants {
        let Some(permission) = modules.get_mut(&grant.module) else { continue };
        let investigator = permission.investigators.entry(grant.investigator.clone());
        let investigator = investigator.or_insert_with(|| Weight { fingerprints: Vec::new(), weight: grant.weight });
        investigator.weight = investigator.weight.min(grant.weight);
        if !investigator.fingerprints.contains(&grant.fingerprint) {
            investigator.fingerprints.push(grant.fingerprint.clone());
        }
    }
    Acl::new(modules)
}
