//! Roles: named sets of permissions, and what a token is given.

use super::permission::{Permission, Permissions};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// A named set of permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Sees the fleet and what was asked of it.
    Viewer,
    /// Runs the fleet: lets machines in, blocks and labels them, sends messages.
    Operator,
    /// Asks the fleet: hands in signed actions and reads what came back.
    Investigator,
    /// Sees everything, the journal and who has access among it, and changes nothing.
    Auditor,
    /// May do everything.
    Admin,
}

use Permission::{
    ActionsCancel, ActionsLaunch, ActionsRead, AgentsApprove, AgentsBlock, AgentsControl, AgentsRead, AgentsRekey,
    BroadcastsRead, BroadcastsWrite, EnrolmentRead, EnrolmentWrite, EventsRead, FilesRead, FilesWrite,
    InvestigatorsRead, JournalRead, LabelsWrite, LoadersRead, ManifestsRead, MessagesCancel, MessagesRead,
    MessagesSend, ResultsRead, Search, ServerRead, TargetsWrite, TokensRead, TrustRead,
};

const VIEWER: Permissions = Permissions::of(&[
    AgentsRead,
    MessagesRead,
    BroadcastsRead,
    FilesRead,
    ActionsRead,
    ResultsRead,
    Search,
    InvestigatorsRead,
    TrustRead,
    EventsRead,
    ServerRead,
]);

const OPERATOR: Permissions = VIEWER.union(Permissions::of(&[
    AgentsApprove,
    AgentsBlock,
    AgentsRekey,
    AgentsControl,
    LabelsWrite,
    MessagesSend,
    MessagesCancel,
    BroadcastsWrite,
    FilesWrite,
    ActionsCancel,
    TargetsWrite,
    EnrolmentRead,
    EnrolmentWrite,
]));

const INVESTIGATOR: Permissions = VIEWER.union(Permissions::of(&[ActionsLaunch, ActionsCancel]));

const AUDITOR: Permissions =
    VIEWER.union(Permissions::of(&[EnrolmentRead, JournalRead, TokensRead, LoadersRead, ManifestsRead]));

impl Role {
    /// Every role, least first.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Operator, Self::Investigator, Self::Auditor, Self::Admin];

    /// What it holds.
    pub const fn permissions(self) -> Permissions {
        match self {
            Self::Viewer => VIEWER,
            Self::Operator => OPERATOR,
            Self::Investigator => INVESTIGATOR,
            Self::Auditor => AUDITOR,
            Self::Admin => Permissions::all(),
        }
    }

    /// The name that is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Investigator => "investigator",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
        }
    }

    /// Reads a name. `reader` is what the auditor was called before there were five roles.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = if name == "reader" { Self::Auditor.as_str() } else { name };
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

/// What a token is given: roles, single permissions, or both, written with commas between them.
///
/// A role by its name grows with later versions; a permission by its name stays what it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grant {
    roles: BTreeSet<Role>,
    extra: Permissions,
}

/// Why a text is not a [`Grant`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// A name that is neither a role nor a permission.
    #[error(
        "{0:?} is neither a role (viewer, operator, investigator, auditor, admin) nor a permission such as agents.read"
    )]
    Unknown(String),
    /// There is nothing in it.
    #[error("a token needs a role, or permissions such as agents.read,labels.write")]
    Empty,
}

impl Grant {
    /// The roles that it gives by name, which grow with later versions.
    pub fn roles(&self) -> impl Iterator<Item = Role> {
        self.roles.iter().copied()
    }

    /// Everything that it gives.
    pub fn permissions(&self) -> Permissions {
        self.roles.iter().fold(self.extra, |all, role| all.union(role.permissions()))
    }
}

impl From<Role> for Grant {
    fn from(role: Role) -> Self {
        Self { roles: BTreeSet::from([role]), extra: Permissions::NONE }
    }
}

impl FromStr for Grant {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let mut grant = Self::default();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if let Some(role) = Role::from_name(name) {
                grant.roles.insert(role);
            } else if let Some(permission) = Permission::from_name(name) {
                grant.extra = grant.extra.union(Permissions::of(&[permission]));
            } else {
                return Err(GrantError::Unknown(name.chars().take(64).collect()));
            }
        }
        if grant == Self::default() { Err(GrantError::Empty) } else { Ok(grant) }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles = self.roles.iter().map(|role| role.as_str());
        let extra = self.extra.iter().map(Permission::as_str);
        for (index, name) in roles.chain(extra).enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    #[test]
    fn a_signed_question_needs_no_token_that_can_harm_the_fleet() {
        let harmful = [
            Permission::AgentsDelete,
            Permission::BackupTake,
            Permission::TokensWrite,
            Permission::MessagesSend,
            Permission::InvestigatorsAdd,
            Permission::TrustWrite,
        ];
        let held = Role::Investigator.permissions();
        assert!(held.contains(Permission::ActionsLaunch) && held.contains(Permission::ResultsRead));
        assert!(harmful.into_iter().all(|permission| !held.contains(permission)));
    }

    #[test]
    fn auditors_see_everything_and_change_nothing() {
        let held = Role::Auditor.permissions();
        for permission in Permission::ALL {
            assert_eq!(held.contains(*permission), permission.is_reading(), "{permission}");
        }
        let of = |role: Role| role.permissions();
        assert!(Role::ALL.into_iter().all(|role| of(Role::Viewer).without(of(role)).is_empty()), "all see the fleet");
        assert_eq!(of(Role::Admin), Permissions::all());
    }

    #[test]
    fn the_page_of_permissions_is_written_from_the_program() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/permissions.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (head, _) = page.split_once("| permission |").expect("the page has the table");
        let names: Vec<_> = Role::ALL.into_iter().map(Role::as_str).collect();
        let mut want =
            format!("{head}| permission | allows to | {} |\n|---|---|{}\n", names.join(" | "), "---|".repeat(5));
        for permission in Permission::ALL {
            let marks = Role::ALL.map(|role| if role.permissions().contains(*permission) { "yes" } else { "" });
            let meaning = permission.meaning().trim();
            writeln!(want, "| `{permission}` | {meaning} | {} |", marks.join(" | ")).unwrap();
        }
        if std::env::var_os("MUSTER_UPDATE_DOCS").is_some() {
            return std::fs::write(path, want).unwrap();
        }
        assert!(page == want, "docs/reference/permissions.md is not what the code says: run with MUSTER_UPDATE_DOCS=1");
    }

    #[test]
    fn a_grant_is_read_as_it_is_shown() {
        for text in ["viewer", "operator,investigator", "agents.read,labels.write", "viewer,journal.read"] {
            assert_eq!(text.parse::<Grant>().unwrap().to_string(), text);
        }
        let grant: Grant = " journal.read, viewer ".parse().unwrap();
        assert_eq!(grant.to_string(), "viewer,journal.read");
        assert_eq!(grant.permissions(), VIEWER.union(Permissions::of(&[JournalRead])));
        assert_eq!("reader".parse::<Grant>().unwrap(), Role::Auditor.into(), "tokens of the version before");
    }

    #[test]
    fn what_is_not_a_role_or_a_permission_is_refused_by_name() {
        assert_eq!("viewer,root".parse::<Grant>(), Err(GrantError::Unknown("root".into())));
        assert_eq!(" , ".parse::<Grant>(), Err(GrantError::Empty));
    }
}
