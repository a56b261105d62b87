//! Weights as the server counts them: what an investigator is worth on a machine, and the least that a module demands
//! there. They make previews right and machines verify for themselves.

use crate::access::{Caller, Permission};
use crate::engine::{Engine, OperatorError};
use muster_core::{AgentId, limits, text};
use muster_store::investigators::ModuleWeight;

impl Engine {
    /// Sets what an investigator is worth on a machine; a weight of `None` takes it away.
    ///
    /// # Errors
    ///
    /// When the caller may not, the weight is not between 1 and [`limits::WEIGHT_MAX`], or investigator or machine are not
    /// known.
    pub async fn module_weight_set(&self, weight: ModuleWeight, caller: &Caller) -> Result<(), OperatorError> {
        let cause = caller.require(Permission::TrustWrite)?;
        check(&weight.module, weight.weight)?;
        let set = self.inner.store.module_weight_set(weight, self.now(), cause).await;
        set.map_err(|failure| self.inner.operator_error("set the weight", failure))
    }

    /// Sets the least weight that a machine demands for a module; `None` takes it away.
    ///
    /// # Errors
    ///
    /// When the caller may not, the weight is not between 1 and [`limits::WEIGHT_MAX`], or the machine is not known.
    pub async fn module_minimum_set(
        &self,
        agent: AgentId,
        module: &str,
        minimum: Option<i64>,
        caller: &Caller,
    ) -> Result<(), OperatorError> {
        let cause = caller.require(Permission::TrustWrite)?;
        check(module, minimum)?;
        let set = self.inner.store.module_minimum_set(agent, module, minimum, self.now(), cause).await;
        set.map_err(|failure| self.inner.operator_error("set the weight", failure))
    }
}

fn check(module: &str, weight: Option<i64>) -> Result<(), OperatorError> {
    let max = i64::from(limits::WEIGHT_MAX);
    if weight.is_some_and(|weight| !(1..=max).contains(&weight)) {
        return Err(OperatorError::Invalid(format!("a weight must be a whole number from 1 to {max}")));
    }
    text::name("module", module).map_err(|error| OperatorError::Invalid(error.to_string()))
}
