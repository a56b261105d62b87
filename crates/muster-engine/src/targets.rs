//! Targets for operators: what a text means, whom it picks and why, and targets kept under a name.
//!
//! Stays true: names are written out here, before anything is signed; what is kept under a name is a target by itself.
//! Not here: the language (muster-core), conditions of SQL (muster-store).

use crate::engine::{Inner, OperatorError};
use muster_core::target::{self, Leaf, Target, TargetError, Verdict};
use muster_core::{AgentId, Cause, limits, text};
use muster_store::targets::{NamedTarget, Reach, TargetQuery};
use std::collections::HashMap;

/// What a text means as a target.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetChecked {
    /// The text with its names written out, as it is signed. The place of an error counts in it.
    pub text: String,
    /// Whom it picks, or why it is no target.
    pub found: Result<TargetFound, TargetError>,
}

/// Whom a target picks.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetFound {
    /// How many enrolled machines.
    pub matched: u64,
    /// How many of them are online or idle.
    pub reached: u64,
    /// How many machines are enrolled.
    pub enrolled: u64,
    /// Where it picks none, how many of the enrolled machines were looked at for those that come nearest.
    pub compared: u64,
    /// Some machines: those that were named, or the first that it picks, or those that come nearest.
    pub machines: Vec<TargetSeen>,
}

/// A machine as a target sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetSeen {
    /// Which machine.
    pub agent: AgentId,
    /// Its name.
    pub name: String,
    /// `online`, `idle`, `offline` or `destroyed`.
    pub status: String,
    /// Whether the target picks it.
    pub is_picked: bool,
    /// Each question with its answer.
    pub leaves: Vec<Leaf>,
}

impl Inner {
    /// Writes out the names in `text`, and reads it. An error's place counts in the text that comes with it.
    pub(crate) async fn target_read(&self, text: &str) -> Result<(String, Result<Target, TargetError>), OperatorError> {
        let mut named = HashMap::new();
        if text.contains('@') {
            let all = self.store.named_target_list().await;
            let all = all.map_err(|error| self.operator_error("read the named targets", error))?;
            named.extend(all.into_iter().map(|target| (target.name, target.expression)));
        }
        Ok(match target::expand(text, |name| named.get(name).cloned()) {
            Ok(text) => {
                let target = Target::parse(&text);
                (text, target)
            }
            Err(error) => (text.to_owned(), Err(error)),
        })
    }

    pub(crate) async fn target_check(
        &self,
        text: &str,
        agents: &[AgentId],
        limit: u32,
    ) -> Result<TargetChecked, OperatorError> {
        let most = limits::TARGET_MACHINES_SHOWN_MAX;
        if agents.len() > most as usize {
            return Err(OperatorError::Invalid(format!("at most {most} machines are judged at once")));
        }
        let (text, target) = self.target_read(text).await?;
        let found = match target {
            Ok(target) => Ok(self.target_found(target, agents, limit.min(most)).await?),
            Err(error) => Err(error),
        };
        Ok(TargetChecked { text, found })
    }

    async fn target_found(&self, target: Target, agents: &[AgentId], limit: u32) -> Result<TargetFound, OperatorError> {
        let failed = |error| self.operator_error("look whom the target picks", error);
        let now = self.now();
        let all = TargetQuery { target: target.clone(), now, reach: Reach::Enrolled };
        let matched = self.store.target_count(all.clone()).await.map_err(failed)?;
        let active = TargetQuery { reach: Reach::Active, ..all.clone() };
        let reached = self.store.target_count(active).await.map_err(failed)?;
        let everything = TargetQuery { target: Target::Literal(true), ..all.clone() };
        let enrolled = self.store.target_count(everything.clone()).await.map_err(failed)?;
        let is_near = matched == 0 && agents.is_empty() && limit > 0;
        let mut shown = agents.to_vec();
        if shown.is_empty() && limit > 0 {
            let (query, most) = if is_near { (everything, limits::TARGET_MACHINES_SHOWN_MAX) } else { (all, limit) };
            let page = self.store.target_page(query, 0, most).await.map_err(failed)?;
            shown.extend(page.into_iter().map(|(_, agent)| agent));
        }
        let mut machines = Vec::with_capacity(shown.len());
        for agent in shown {
            let row = self.store.target_row(agent, target.findings(), now).await.map_err(failed)?;
            let Some(row) = row else {
                if agents.is_empty() {
                    // It was deleted since the page was read.
                    continue;
                }
                return Err(OperatorError::NotFound(format!("agent {agent} is not known")));
            };
            let seen = TargetSeen {
                agent,
                is_picked: target.evaluate(&row, now).verdict() == Verdict::Matches,
                leaves: target.explain(&row, now),
                name: row.name.clone(),
                status: row.status.clone(),
            };
            machines.push((target.distance(&row, now), seen));
        }
        let compared = if is_near { machines.len() as u64 } else { 0 };
        if is_near {
            machines.sort_by_key(|(distance, _)| *distance);
            machines.truncate(limit.min(limits::TARGET_NEAREST_SHOWN) as usize);
        }
        let machines = machines.into_iter().map(|(_, seen)| seen).collect();
        Ok(TargetFound { matched, reached, enrolled, compared, machines })
    }

    pub(crate) async fn named_target_put(
        &self,
        name: &str,
        expression: &str,
        description: &str,
        cause: &Cause,
    ) -> Result<NamedTarget, OperatorError> {
        let invalid = |error: &dyn std::fmt::Display| OperatorError::Invalid(error.to_string());
        target::check_name(name).map_err(|error| invalid(&error))?;
        text::free("the description", description, limits::TARGET_DESCRIPTION_BYTES_MAX)
            .map_err(|error| invalid(&error))?;
        Target::parse(expression).map_err(|error| invalid(&format!("the expression is no target: {error}")))?;
        let target = NamedTarget {
            name: name.to_owned(),
            expression: expression.to_owned(),
            description: description.to_owned(),
            changed: self.now(),
            changed_by: cause.actor.clone(),
        };
        let put = self.store.named_target_put(target.clone(), cause).await;
        put.map_err(|error| self.operator_error("keep the target", error))?;
        Ok(target)
    }

    pub(crate) async fn named_target_delete(&self, name: &str, cause: &Cause) -> Result<(), OperatorError> {
        let deleted = self.store.named_target_delete(name, self.now(), cause).await;
        if deleted.map_err(|error| self.operator_error("delete the named target", error))? {
            return Ok(());
        }
        Err(OperatorError::NotFound(format!("no target has the name {name:?}")))
    }
}
