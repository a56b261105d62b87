//! What signatures are worth: for each module a minimum weight, and who brings how much. MIG's `acl.cfg`.
//!
//! Stays true: an investigator counts once per operation, whatever keys and spellings; every operation must pass; a
//! module that nothing permits is refused; a list that could be misread is refused whole when it is loaded.

mod central;
mod read;
#[cfg(test)]
mod tests;

pub use central::{Grant, Requirement, acl_of};

use crate::keyring::Keyring;
use muster_core::action::Fingerprint;
use std::collections::{BTreeMap, BTreeSet};

/// The entry for modules that have none of their own.
pub const DEFAULT: &str = "default";

/// Who may run what: by module, and [`DEFAULT`]. The empty one permits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl {
    modules: BTreeMap<String, Permission>,
}

/// What one module demands, and of whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// The least sum of weights, from 1.
    pub minimum_weight: u32,
    /// Who counts, by the name that the list gives them.
    pub investigators: BTreeMap<String, Weight>,
}

/// What one investigator brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weight {
    /// Their primary keys: one in MIG's files, several where one person has several. Any of them counts, all of them
    /// count once.
    pub fingerprints: Vec<Fingerprint>,
    /// From 1.
    pub weight: u32,
}

/// Why a list of weights cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// Longer than it may be.
    #[error("the ACL has {have} bytes, at most {max} are allowed", max = muster_core::limits::TRUST_DOCUMENT_BYTES_MAX)]
    TooLong {
        /// Bytes found.
        have: usize,
    },
    /// Not JSON of the form `{module: {minimumweight, investigators: {name: {fingerprint, weight}}}}`.
    #[error("the ACL cannot be read: {0}")]
    Json(String),
    /// A weight outside 1…1,000,000.
    #[error("the ACL gives {what} of {module:?} the weight {have}: it must be from 1 to {max}", max = muster_core::limits::WEIGHT_MAX)]
    Weight {
        /// The module.
        module: String,
        /// The minimum, or an investigator's name.
        what: String,
        /// What stands there.
        have: i64,
    },
    /// An investigator without a key, or with one that is no fingerprint.
    #[error("the ACL gives {investigator:?} of {module:?} no usable key: {problem}")]
    Key {
        /// The module.
        module: String,
        /// The name.
        investigator: String,
        /// What is wrong.
        problem: String,
    },
    /// One key under two names: its signature would count twice.
    #[error("the ACL lists the key {fingerprint} twice for {module:?}: it would count twice")]
    KeyTwice {
        /// The module.
        module: String,
        /// The key.
        fingerprint: Fingerprint,
    },
    /// A key that is not in the keyring.
    #[error("the ACL lists the key {fingerprint} for {module:?}, which is not in the keyring: add it, or take it out")]
    KeyUnknown {
        /// The module.
        module: String,
        /// The key.
        fingerprint: Fingerprint,
    },
}

/// How one operation stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessment {
    /// The module.
    pub module: String,
    /// The least weight; `None` when nothing permits the module at all.
    pub need: Option<u64>,
    /// What the signers bring.
    pub have: u64,
}

impl Assessment {
    /// Returns whether the operation may run.
    pub fn passes(&self) -> bool {
        self.need.is_some_and(|need| need > 0 && self.have >= need)
    }
}

/// Why signatures do not suffice. MIG's words, which its users know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeightError {
    /// Signed by nobody that is known.
    #[error("permission denied, no valid signature")]
    Nobody,
    /// No entry for the module and no default.
    #[error("permission denied for operation {module}, the module is not in the ACL and there is no default")]
    NotListed {
        /// The module.
        module: String,
    },
    /// Too little.
    #[error("permission denied for operation {module}, insufficient signatures weight (need {need}, got {have})")]
    Insufficient {
        /// The module.
        module: String,
        /// The least weight.
        need: u64,
        /// What the signers bring.
        have: u64,
    },
}

impl Acl {
    /// Reads MIG's `acl.cfg`. Either the whole of it is accepted or nothing.
    pub fn parse(json: &[u8]) -> Result<Self, AclError> {
        read::parse(json)
    }

    /// Takes entries that were made elsewhere, under the same rules as a file.
    pub fn new(modules: BTreeMap<String, Permission>) -> Result<Self, AclError> {
        for (module, permission) in &modules {
            permission.check(module)?;
        }
        Ok(Self { modules })
    }

    /// Returns the entries, by module.
    pub fn modules(&self) -> &BTreeMap<String, Permission> {
        &self.modules
    }

    /// Returns the greatest weight that the list gives this key for any module, 0 when it gives none.
    pub fn heaviest(&self, key: &Fingerprint) -> u32 {
        let investigators = self.modules.values().flat_map(|permission| permission.investigators.values());
        let its = investigators.filter(|investigator| investigator.fingerprints.contains(key));
        its.map(|investigator| investigator.weight).max().unwrap_or_default()
    }

    /// Checks that every key of the list is in the keyring; an unknown one is a mistake in one of the two.
    pub fn keys_check(&self, keyring: &Keyring) -> Result<(), AclError> {
        for (module, permission) in &self.modules {
            let keys = permission.investigators.values().flat_map(|investigator| &investigator.fingerprints);
            if let Some(unknown) = keys.into_iter().find(|key| keyring.get(key).is_none()) {
                return Err(AclError::KeyUnknown { module: module.clone(), fingerprint: unknown.clone() });
            }
        }
        Ok(())
    }

    /// Says how each operation stands with these signers.
    ///
    /// `modules` are the operations' modules, each with the least weight that the module itself declares. An entry of
    /// the list for that very module decides alone; under the default entry, the module's own demand holds too, so that
    /// a module that changes something is never had for the price of one that looks.
    pub fn assess<'a>(
        &self,
        modules: impl IntoIterator<Item = (&'a str, u32)>,
        signers: &BTreeSet<Fingerprint>,
    ) -> Vec<Assessment> {
        modules.into_iter().map(|(module, declared)| self.assess_one(module, declared, signers)).collect()
    }

    fn assess_one(&self, module: &str, declared: u32, signers: &BTreeSet<Fingerprint>) -> Assessment {
        let own = self.modules.get(module).map(|permission| (permission, permission.minimum_weight));
        let default = || {
            let permission = self.modules.get(DEFAULT)?;
            Some((permission, permission.minimum_weight.max(declared)))
        };
        let Some((permission, need)) = own.or_else(default) else {
            return Assessment { module: module.to_owned(), need: None, have: 0 };
        };
        let signed = permission.investigators.values().filter(|investigator| investigator.signed(signers));
        let have = signed.map(|investigator| u64::from(investigator.weight)).sum();
        Assessment { module: module.to_owned(), need: Some(u64::from(need)), have }
    }

    /// Accepts operations if every one of them has enough weight behind it; the first that has not is named.
    pub fn permit<'a>(
        &self,
        modules: impl IntoIterator<Item = (&'a str, u32)>,
        signers: &BTreeSet<Fingerprint>,
    ) -> Result<(), WeightError> {
        if signers.is_empty() {
            return Err(WeightError::Nobody);
        }
        match self.assess(modules, signers).into_iter().find(|assessment| !assessment.passes()) {
            None => Ok(()),
            Some(Assessment { module, need: None, .. }) => Err(WeightError::NotListed { module }),
            Some(Assessment { module, need: Some(need), have }) => {
                Err(WeightError::Insufficient { module, need, have })
            }
        }
    }
}

impl Permission {
    fn check(&self, module: &str) -> Result<(), AclError> {
        weight_check(module, "the minimum", i64::from(self.minimum_weight))?;
        let mut seen = BTreeSet::new();
        for (name, investigator) in &self.investigators {
            weight_check(module, name, i64::from(investigator.weight))?;
            if investigator.fingerprints.is_empty() {
                let problem = "there is none".to_owned();
                return Err(AclError::Key { module: module.to_owned(), investigator: name.clone(), problem });
            }
            if let Some(twice) = investigator.fingerprints.iter().find(|key| !seen.insert(*key)) {
                return Err(AclError::KeyTwice { module: module.to_owned(), fingerprint: twice.clone() });
            }
        }
        Ok(())
    }
}

impl Weight {
    fn signed(&self, signers: &BTreeSet<Fingerprint>) -> bool {
        self.fingerprints.iter().any(|key| signers.contains(key))
    }
}

fn weight_check(module: &str, what: &str, have: i64) -> Result<(), AclError> {
    if (1..=i64::from(muster_core::limits::WEIGHT_MAX)).contains(&have) {
        return Ok(());
    }
    Err(AclError::Weight { module: module.to_owned(), what: what.to_owned(), have })
}
