//! The permissions that there are, and sets of them.

use std::fmt;

macro_rules! permissions {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// One thing that a caller may do, by a name such as `agents.block`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Permission { $($(#[doc = $doc])+ $name,)+ }

        impl Permission {
            /// Every permission, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name that tokens, tables and errors show.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What it allows, in a sentence or two.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

permissions! {
    /// See agents, their labels, facts, contacts and usage, reports about them, and whom a target picks.
    AgentsRead = "agents.read",
    /// Let a waiting agent in.
    AgentsApprove = "agents.approve",
    /// Block an agent, and take the block back.
    AgentsBlock = "agents.block",
    /// Demand a new key of an agent, or forget that two machines seemed to share one.
    AgentsRekey = "agents.rekey",
    /// Give commands to the agent program itself: end it, restart one of its services. What a machine obeys of these its
    /// `[server_may]` says.
    AgentsControl = "agents.control",
    /// Delete agents.
    AgentsDelete = "agents.delete",
    /// Give agents labels and take them away, also by enrolment tokens. Broadcasts ask for labels; targets of actions do
    /// not see them.
    LabelsWrite = "labels.write",
    /// See messages and what answered them.
    MessagesRead = "messages.read",
    /// Send a message to a service of an agent. A service that runs what it is sent obeys without signatures. Those to the
    /// agent program itself need `agents.control` or `agents.rekey` besides, those to its actions `actions.launch`.
    MessagesSend = "messages.send",
    /// Cancel messages that wait. Orders and their cancellations take `actions.cancel` as well, messages to the service `system` `agents.rekey`.
    MessagesCancel = "messages.cancel",
    /// See broadcasts.
    BroadcastsRead = "broadcasts.read",
    /// Create broadcasts and switch them off. Needs `messages.send` besides, and what a message to the same service needs.
    BroadcastsWrite = "broadcasts.write",
    /// List and download the files that agents may fetch.
    FilesRead = "files.read",
    /// Store and delete the files that agents may fetch. The list of revoked certificates needs `trust.write` instead.
    FilesWrite = "files.write",
    /// See actions, their commands and what would come of them.
    ActionsRead = "actions.read",
    /// See what machines answered, and pick machines by what they found.
    ResultsRead = "results.read",
    /// Hand in actions and signatures, and let a halted one go on. What runs is decided by signatures, not by this.
    ActionsLaunch = "actions.launch",
    /// Stop handing an action out.
    ActionsCancel = "actions.cancel",
    /// Keep and delete named targets.
    TargetsWrite = "targets.write",
    /// Search over actions, commands, agents and investigators at MIG's API, and read what is found, as in MIG.
    Search = "search",
    /// See investigators and their public keys.
    InvestigatorsRead = "investigators.read",
    /// Add investigators.
    InvestigatorsAdd = "investigators.add",
    /// Change investigators: status, key, API key, permissions. Includes giving any permission of MIG's API, because who
    /// may change people could give it to themselves.
    InvestigatorsChange = "investigators.change",
    /// See which documents of trust, weights and modules agents have.
    TrustRead = "trust.read",
    /// Hand in signed documents of trust; set weights and module rules as the server counts them. Agents verify for
    /// themselves.
    TrustWrite = "trust.write",
    /// See enrolment tokens, without their secrets.
    EnrolmentRead = "enrolment.read",
    /// Make and withdraw enrolment tokens.
    EnrolmentWrite = "enrolment.write",
    /// See security events and dead letters.
    EventsRead = "events.read",
    /// Read and verify the journal.
    JournalRead = "journal.read",
    /// See the server's state, its doctor, services and metrics.
    ServerRead = "server.read",
    /// See access tokens, without their secrets.
    TokensRead = "tokens.read",
    /// Make access tokens that hold no more than one's own and last no longer, and withdraw such tokens.
    TokensWrite = "tokens.write",
    /// Take a backup. It holds every secret of the server, the authority's key among them.
    BackupTake = "backup.take",
    /// See MIG's loaders. There are none here; the permission is kept for people who have it.
    LoadersRead = "loaders.read",
    /// Change the status of MIG's loaders. There are none here.
    LoadersStatus = "loaders.status",
    /// Say what MIG's loaders expect. There are none here.
    LoadersExpect = "loaders.expect",
    /// Replace keys of MIG's loaders. There are none here.
    LoadersKey = "loaders.key",
    /// Add MIG's loaders. There are none here.
    LoadersAdd = "loaders.add",
    /// See MIG's manifests. There are none here.
    ManifestsRead = "manifests.read",
    /// Sign MIG's manifests. There are none here.
    ManifestsSign = "manifests.sign",
    /// Change the status of MIG's manifests. There are none here.
    ManifestsStatus = "manifests.status",
    /// Add MIG's manifests. There are none here.
    ManifestsAdd = "manifests.add",
    /// See which loaders a manifest of MIG's fits. There are none here.
    ManifestsLoaders = "manifests.loaders",
}

impl Permission {
    /// Whether it only reads.
    pub fn is_reading(self) -> bool {
        self == Self::Search || self.as_str().strip_suffix(".read").is_some()
    }

    /// Reads a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|permission| permission.as_str() == name)
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions(u64);

// One bit for each, checked when this is compiled.
const _: () = assert!(Permission::ALL.len() <= 64, "a set of permissions has 64 bits");

impl Permissions {
    /// None at all.
    pub const NONE: Self = Self(0);

    /// These permissions.
    pub const fn of(permissions: &[Permission]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < permissions.len() {
            bits |= 1 << permissions[index] as u32;
            index += 1;
        }
        Self(bits)
    }

    /// All that there are.
    pub const fn all() -> Self {
        Self::of(Permission::ALL)
    }

    /// What either holds.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What this holds and `other` does not.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether `permission` is among these.
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u32) != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them, in the order in which they are shown.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.iter().copied().filter(move |permission| self.contains(*permission))
    }

    /// Returns what the permissions of an investigator at MIG's API (`investigators.permissions`, its bits) hold.
    pub fn of_mig(bits: u32) -> Self {
        let given = MIG_PERMISSIONS.iter().filter(|(_, bit, _)| bits & bit != 0);
        given.fold(Self::NONE, |all, (_, _, permission)| all.union(Self::of(&[*permission])))
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        permissions.into_iter().fold(Self::NONE, |all, one| all.union(Self::of(&[one])))
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, permission) in self.iter().enumerate() {
            write!(f, "{}{permission}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

use Permission::{
    ActionsLaunch, ActionsRead, AgentsRead, InvestigatorsAdd, InvestigatorsChange, InvestigatorsRead, LoadersAdd,
    LoadersExpect, LoadersKey, LoadersRead, LoadersStatus, ManifestsAdd, ManifestsLoaders, ManifestsRead,
    ManifestsSign, ManifestsStatus, ResultsRead, Search, ServerRead,
};

/// MIG's permissions: the name in its API, the bit in its database, and what it is here. In the order of MIG's answers.
pub const MIG_PERMISSIONS: [(&str, u32, Permission); 19] = [
    ("search", 1, Search),
    ("action", 2, ActionsRead),
    ("action_create", 4, ActionsLaunch),
    ("command", 8, ResultsRead),
    ("agent", 16, AgentsRead),
    ("dashboard", 32, ServerRead),
    ("loader", 64, LoadersRead),
    ("loader_status", 128, LoadersStatus),
    ("loader_expect", 256, LoadersExpect),
    ("loader_key", 512, LoadersKey),
    ("loader_new", 1024, LoadersAdd),
    ("manifest", 2048, ManifestsRead),
    ("manifest_sign", 4096, ManifestsSign),
    ("manifest_status", 16384, ManifestsStatus),
    ("manifest_new", 8192, ManifestsAdd),
    ("manifest_loaders", 32768, ManifestsLoaders),
    ("investigator", 65536, InvestigatorsRead),
    ("investigator_create", 131_072, InvestigatorsAdd),
    ("investigator_update", 262_144, InvestigatorsChange),
];

#[cfg(test)]
mod tests {
    use super::*;
    use muster_store::investigators::{PERMISSIONS_ADMIN, PERMISSIONS_ALL};
    use std::collections::BTreeSet;

    #[test]
    fn names_are_read_as_they_are_shown_and_none_stands_twice() {
        let names: BTreeSet<_> = Permission::ALL.iter().map(|permission| permission.as_str()).collect();
        assert_eq!(names.len(), Permission::ALL.len());
        for permission in Permission::ALL {
            assert_eq!(Permission::from_name(permission.as_str()), Some(*permission));
        }
        assert_eq!(Permission::from_name("agents"), None);
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        let set: Permissions = [AgentsRead, Search].into_iter().collect();
        assert_eq!(set.to_string(), "agents.read,search");
        assert!(set.contains(AgentsRead) && !set.contains(ActionsRead));
        assert_eq!(set.without(Permissions::of(&[AgentsRead])), Permissions::of(&[Search]));
        assert_eq!(Permissions::all().iter().count(), Permission::ALL.len());
        assert!(Permissions::NONE.is_empty() && !set.is_empty());
    }

    #[test]
    fn each_bit_of_mig_is_one_permission() {
        let all = MIG_PERMISSIONS.iter().fold(0, |all, (_, bit, _)| all | bit);
        let sum = MIG_PERMISSIONS.iter().map(|(_, bit, _)| bit).sum::<u32>();
        assert_eq!((all, sum), (PERMISSIONS_ALL, PERMISSIONS_ALL));
        let people = MIG_PERMISSIONS.iter().filter(|(name, ..)| name.starts_with("investigator"));
        assert_eq!(people.map(|(_, bit, _)| bit).sum::<u32>(), PERMISSIONS_ADMIN);
        assert_eq!(Permissions::of_mig(1 | 4), Permissions::of(&[Search, ActionsLaunch]));
        assert_eq!(Permissions::of_mig(0), Permissions::NONE);
    }
}
