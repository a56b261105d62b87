//! Callers: who asks for something at a listener, and what they may do.

use super::permission::{Permission, Permissions};
use super::role::{Grant, Role};
use muster_core::{Cause, Timestamp};
use std::collections::BTreeSet;

/// Somebody who asks for something: a person or a program, after a listener found out who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    cause: Cause,
    permissions: Permissions,
    /// The roles that were given by name.
    roles: BTreeSet<Role>,
    /// When what says who the caller is ends, if ever.
    ends: Option<Timestamp>,
}

/// A caller does not hold what a command needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessDenied {
    /// A permission is missing.
    #[error("{caller} does not have the permission {needs}: use a token that has it ({})", roles_with(*.needs))]
    Missing {
        /// Who asked, by the name of the token.
        caller: String,
        /// What the command needs.
        needs: Permission,
    },
    /// Somebody wanted to give others more than they hold.
    #[error("you cannot grant permissions you do not have: {beyond} (you are {caller})")]
    Beyond {
        /// Who asked.
        caller: String,
        /// What they do not hold, as the listener names it.
        beyond: String,
    },
}

fn roles_with(permission: Permission) -> String {
    let roles = Role::ALL.into_iter().filter(|role| role.permissions().contains(permission));
    format!("role {}", roles.map(Role::as_str).collect::<Vec<_>>().join(" or "))
}

impl Caller {
    /// Somebody of this name with these permissions, in the request `request` (as the logs name it; empty outside one).
    pub fn new(name: impl Into<String>, permissions: Permissions, request: impl Into<String>) -> Self {
        Self { cause: Cause::new(name, request), permissions, roles: BTreeSet::new(), ends: None }
    }

    /// The holder of a token that gives `grant` until `ends`.
    pub fn of_token(name: &str, grant: &Grant, ends: Option<Timestamp>, request: &str) -> Self {
        Self { roles: grant.roles().collect(), ends, ..Self::new(name, grant.permissions(), request) }
    }

    /// The server itself, for what it does without a person (an import, a set-up, a test). May do everything.
    pub fn server() -> Self {
        Self { cause: Cause::server(), ..Self::new("", Permissions::all(), "") }
    }

    /// The same caller with the reason that they gave, for the journal.
    #[must_use]
    pub fn because(&self, reason: &str) -> Self {
        Self { cause: Cause { reason: reason.to_owned(), ..self.cause.clone() }, ..self.clone() }
    }

    /// The name in the journal.
    pub fn name(&self) -> &str {
        &self.cause.actor
    }

    /// Whether the caller holds `permission`.
    pub fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(permission)
    }

    /// Returns what the journal says about a change that needs `permission`.
    ///
    /// # Errors
    ///
    /// [`AccessDenied::Missing`] when the caller does not hold it.
    pub fn require(&self, permission: Permission) -> Result<&Cause, AccessDenied> {
        if self.may(permission) {
            return Ok(&self.cause);
        }
        Err(AccessDenied::Missing { caller: self.cause.actor.clone(), needs: permission })
    }

    /// Checks that the caller may give `grant` to a token: nobody gives what they do not hold. A role by its name, which
    /// grows with later versions, is given by those who have that role, or everything.
    ///
    /// # Errors
    ///
    /// [`AccessDenied::Beyond`] with what is missing.
    pub fn may_grant(&self, grant: &Grant) -> Result<(), AccessDenied> {
        self.beyond(grant.permissions().without(self.permissions), |beyond| beyond.to_string())?;
        let is_held = |role: &Role| self.roles.contains(role) || self.permissions == Permissions::all();
        match grant.roles().find(|role| !is_held(role)) {
            Some(role) => {
                let beyond = format!("role {} (name its permissions instead)", role.as_str());
                Err(AccessDenied::Beyond { caller: self.cause.actor.clone(), beyond })
            }
            None => Ok(()),
        }
    }

    /// Checks that what the caller makes may last until `ends`: nobody makes what outlives what lets them make it.
    ///
    /// # Errors
    ///
    /// [`AccessDenied::Beyond`] with the end that is allowed.
    pub fn may_last(&self, ends: Option<Timestamp>) -> Result<(), AccessDenied> {
        match self.ends {
            Some(own) if ends.is_none_or(|ends| ends > own) => {
                let beyond = format!("your token ends at {own}, give an earlier end (expires_in)");
                Err(AccessDenied::Beyond { caller: self.cause.actor.clone(), beyond })
            }
            _ => Ok(()),
        }
    }

    /// Checks that the caller may give an investigator the permissions `bits` of MIG's API. Who may change investigators
    /// could give each of them to themselves, and so may give any.
    ///
    /// # Errors
    ///
    /// [`AccessDenied::Beyond`] with what is missing, by MIG's names.
    pub fn may_grant_mig(&self, bits: u32) -> Result<(), AccessDenied> {
        if self.may(Permission::InvestigatorsChange) {
            return Ok(());
        }
        self.beyond(Permissions::of_mig(bits).without(self.permissions), |beyond| {
            let named = super::permission::MIG_PERMISSIONS.iter();
            let named = named.filter(|(_, bit, of)| bits & bit != 0 && beyond.contains(*of));
            named.map(|(name, ..)| *name).collect::<Vec<_>>().join(", ")
        })
    }

    fn beyond(&self, beyond: Permissions, named: impl Fn(Permissions) -> String) -> Result<(), AccessDenied> {
        if beyond.is_empty() {
            return Ok(());
        }
        Err(AccessDenied::Beyond { caller: self.cause.actor.clone(), beyond: named(beyond) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(role: Role) -> Caller {
        Caller::new("ci", role.permissions(), "r1")
    }

    #[test]
    fn a_change_gets_its_cause_from_a_permission_that_is_held() {
        let caller = of(Role::Operator).because("stolen");
        let cause = caller.require(Permission::AgentsBlock).unwrap();
        assert_eq!((&*cause.actor, &*cause.request, &*cause.reason), ("ci", "r1", "stolen"));
        let denied = caller.require(Permission::AgentsDelete).unwrap_err();
        assert_eq!(
            denied.to_string(),
            "ci does not have the permission agents.delete: use a token that has it (role admin)"
        );
    }

    #[test]
    fn nobody_gives_what_they_do_not_hold() {
        assert_eq!(of(Role::Admin).may_grant(&Role::Admin.into()), Ok(()));
        let ends = Timestamp::from_secs(100);
        let grant: Grant = "viewer,auditor,tokens.write".parse().unwrap();
        let maker = Caller::of_token("ci", &grant, Some(ends), "");
        assert_eq!(maker.may_grant(&Role::Viewer.into()), Ok(()));
        let alike = Caller::new("ci", grant.permissions(), "");
        let denied = alike.may_grant(&Role::Viewer.into()).unwrap_err().to_string();
        assert!(denied.contains("role viewer"), "a role grows: {denied}");
        assert_eq!(alike.may_grant(&"agents.read".parse().unwrap()), Ok(()));
        assert_eq!((maker.may_last(Some(ends)), alike.may_last(None)), (Ok(()), Ok(())));
        for later in [None, Some(Timestamp::from_secs(101))] {
            assert!(maker.may_last(later).is_err(), "{later:?}");
        }
        let denied = maker.may_grant(&"viewer,agents.block".parse().unwrap()).unwrap_err();
        assert_eq!(denied.to_string(), "you cannot grant permissions you do not have: agents.block (you are ci)");
    }

    #[test]
    fn who_changes_investigators_may_give_any_permission_of_migs() {
        let adds = Caller::new("a", Permissions::of(&[Permission::InvestigatorsAdd, Permission::Search]), "");
        assert_eq!(adds.may_grant_mig(1), Ok(()));
        let denied = adds.may_grant_mig(1 | 4 | 64).unwrap_err();
        assert!(denied.to_string().contains(": action_create, loader (you"), "{denied}");
        let changes = Caller::new("a", Permissions::of(&[Permission::InvestigatorsChange]), "");
        assert_eq!(changes.may_grant_mig(1 | 4 | 64), Ok(()));
    }
}
