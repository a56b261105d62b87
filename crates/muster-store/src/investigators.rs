//! People who sign, and what their signatures are worth.

use crate::StoreError;
use crate::targets::TargetQuery;
use async_trait::async_trait;
use muster_core::action::{Fingerprint, InvestigatorId, InvestigatorStatus};
use muster_core::{AgentId, Cause, Timestamp};

/// The bits of an administrator: seeing, creating and changing investigators.
pub const PERMISSIONS_ADMIN: u32 = 65_536 | 131_072 | 262_144;
/// All bits that there are.
pub const PERMISSIONS_ALL: u32 = 524_287;

/// A person who signs, or may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvestigatorRow {
    /// Which.
    pub id: InvestigatorId,
    /// The person's name.
    pub name: String,
    /// The fingerprint of the person's primary key; `None` for somebody who only asks.
    pub fingerprint: Option<Fingerprint>,
    /// The key, armored.
    pub public_key: Option<String>,
    /// Whether signatures are taken.
    pub status: InvestigatorStatus,
    /// What the person may do, as MIG's bits.
    pub permissions: u32,
    /// When the person was added.
    pub created: Timestamp,
    /// When anything of the row changed last.
    pub modified: Timestamp,
    /// Whether the person has an API key.
    pub has_api_key: bool,
}

/// A person who is added.
#[derive(Debug, Clone)]
pub struct InvestigatorPut {
    /// The person's name.
    pub name: String,
    /// The fingerprint of the person's primary key.
    pub fingerprint: Option<Fingerprint>,
    /// The key, armored.
    pub public_key: Option<String>,
    /// What the person may do, as MIG's bits.
    pub permissions: u32,
}

/// What becomes of an investigator's API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ApiKeyChange {
    /// It stays as it is.
    #[default]
    Keep,
    /// This is the SHA-256 of the new one.
    Set([u8; 32]),
    /// There is none any more.
    Withdraw,
}

/// What is changed of an investigator, all of it or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InvestigatorChange {
    /// Whether signatures are taken.
    pub status: Option<InvestigatorStatus>,
    /// What the person may do, as MIG's bits.
    pub permissions: Option<u32>,
    /// What becomes of the API key.
    pub api_key: ApiKeyChange,
}

/// What an agent demands for a module, and what investigators are worth there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleRule {
    /// Whose.
    pub agent: AgentId,
    /// For which module.
    pub module: String,
    /// The least weight that a signed operation needs; `None`: not said.
    pub minimum: Option<i64>,
    /// Who is worth how much, by id.
    pub weights: Vec<(InvestigatorId, i64)>,
}

/// What a machine says that it believes and can do.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct TrustTold {
    /// Version of its keyring; 0: the files of its configuration.
    pub keyring_version: u64,
    /// Fingerprints of its keys.
    pub keyring: Vec<String>,
    /// Version of its weights; 0: the file of its configuration.
    pub acl_version: u64,
    /// The weights in force, in the format of MIG's `acl.cfg`.
    pub acl: String,
    /// Its modules.
    pub modules: Vec<ModuleTold>,
    /// Why it did not take the last document of trust; `None`: it did.
    pub refusal: Option<String>,
    /// What administrators revoked there; `None` from an agent that does not report it.
    // What was kept of an earlier report has no such member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocations: Option<RevocationsTold>,
}

/// The document of revocations that is in force on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct RevocationsTold {
    /// Its version; 0: there is none.
    pub version: u64,
    /// Serial numbers of certificates that it revokes.
    pub serials: u32,
    /// Fingerprints of certificates that it revokes.
    pub fingerprints: u32,
}

/// A module of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ModuleTold {
    /// Its name.
    pub name: String,
    /// The least weight that the module itself demands.
    pub weight_min: u32,
    /// Whether it changes the machine.
    pub changes: bool,
}

/// Machines that a target picks and that say the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustGroup {
    /// What they say; `None`: nothing yet, or these are beyond [`TRUST_GROUPS_MAX`].
    pub told: Option<TrustTold>,
    /// How many they are.
    pub agents: u64,
    /// One of them.
    pub example: AgentId,
}

/// Machines that a target picks, that never said what they demand, and of which the server's tables note something.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NotedMachines {
    /// What is noted: one rule for each machine and module.
    pub rules: Vec<ModuleRule>,
    /// How many machines these are of.
    pub machines: u64,
}

/// Groups of machines whose words are looked at.
pub const TRUST_GROUPS_MAX: usize = 256;

/// A signed token that was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenUse {
    /// The digest of the signer and of the signed text.
    pub digest: [u8; 32],
    /// The digest of the request, if it is one that may come again.
    pub request: Option<[u8; 32]>,
}

/// Whether a signed token was shown before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenUsed {
    /// Never.
    First,
    /// For the same request.
    Same,
    /// For another one, or for one that must not come again.
    Other,
}

/// People who sign.
#[async_trait]
pub trait InvestigatorStore: Send + Sync {
    /// Adds an investigator, active. Exists: somebody with this fingerprint. Invalid: an empty name.
    async fn investigator_put(
        &self,
        put: InvestigatorPut,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<InvestigatorId, StoreError>;

    /// Returns an investigator.
    async fn investigator_get(&self, id: InvestigatorId) -> Result<Option<InvestigatorRow>, StoreError>;

    /// Returns the investigator with this fingerprint, disabled ones too.
    async fn investigator_find(&self, fingerprint: &Fingerprint) -> Result<Option<InvestigatorRow>, StoreError>;

    /// Returns the investigator whose API key has this SHA-256, disabled ones too.
    async fn investigator_find_api_key(&self, sha256: [u8; 32]) -> Result<Option<InvestigatorRow>, StoreError>;

    /// Returns a page of investigators in the order of their ids, after `after`; of one status or all.
    async fn investigator_page(
        &self,
        status: Option<InvestigatorStatus>,
        after: Option<InvestigatorId>,
        limit: u32,
    ) -> Result<Vec<InvestigatorRow>, StoreError>;

    /// Lets an investigator's signatures be taken, or not. Twice is once. Not found: the investigator. Refused: it is
    /// the last active one with [`PERMISSIONS_ADMIN`].
    async fn investigator_status_set(
        &self,
        id: InvestigatorId,
        status: InvestigatorStatus,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError>;

    /// Sets what an investigator may do. Not found: the investigator. Refused: it is the last active one with
    /// [`PERMISSIONS_ADMIN`] and would lose them. Invalid: bits that there are not.
    async fn investigator_permissions_set(
        &self,
        id: InvestigatorId,
        permissions: u32,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError>;

    /// Replaces an investigator's key. Not found: the investigator. Exists: somebody else with this fingerprint.
    async fn investigator_key_set(
        &self,
        id: InvestigatorId,
        fingerprint: &Fingerprint,
        public_key: &str,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError>;

    /// Sets the SHA-256 of an investigator's API key, or takes the key away. Not found: the investigator.
    async fn investigator_api_key_set(
        &self,
        id: InvestigatorId,
        sha256: Option<[u8; 32]>,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError>;

    /// Changes several things of an investigator in one transaction. Not found: the investigator. Refused: it is the
    /// last active one with [`PERMISSIONS_ADMIN`]. Invalid: bits that there are not.
    async fn investigator_change(
        &self,
        id: InvestigatorId,
        change: InvestigatorChange,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError>;

    /// Notes that a signed token was shown, and keeps that until `expires`. Says whether it was shown before, on whichever
    /// server, and whether for the same request.
    async fn signed_token_use(
        &self,
        shown: TokenUse,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<TokenUsed, StoreError>;

    /// Sets the weight that an agent demands for a module, or takes the row away. Not found: the agent.
    async fn module_minimum_set(
        &self,
        agent: AgentId,
        module: &str,
        minimum: Option<i64>,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError>;

    /// Sets what an investigator is worth on an agent for a module, or takes the row away. Not found: the agent, or the
    /// investigator.
    async fn module_weight_set(&self, weight: ModuleWeight, now: Timestamp, cause: &Cause) -> Result<(), StoreError>;

    /// Returns what is said of modules for those of `agents` of which anything is said, by agent and module.
    async fn module_rules(&self, agents: &[AgentId]) -> Result<Vec<ModuleRule>, StoreError>;

    /// Returns what a machine said last of what it believes and can do, and when.
    async fn trust_get(&self, agent: AgentId) -> Result<Option<(TrustTold, Timestamp)>, StoreError>;

    /// Returns the machines that a target picks, grouped by what they say, most machines first. Refused: the target
    /// takes too long.
    async fn trust_groups(&self, query: TargetQuery) -> Result<Vec<TrustGroup>, StoreError>;

    /// Returns what `agtmodreq` and `invagtmodperm` note of machines that the target picks and that never said what they
    /// demand: of the first `limit` machines, by number, of which something is noted.
    async fn trust_noted(&self, query: TargetQuery, limit: u32) -> Result<NotedMachines, StoreError>;
}

/// What an investigator is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleWeight {
    /// Who.
    pub investigator: InvestigatorId,
    /// Where.
    pub agent: AgentId,
    /// For which module.
    pub module: String,
    /// How much; `None` takes the row away.
    pub weight: Option<i64>,
}
