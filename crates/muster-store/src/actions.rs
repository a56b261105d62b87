//! Signed actions: what was ordered, by whom, on which machines, and what came back.
//!
//! Stays true: the row of an action, its signatures and its journal line are one transaction; an action has at most one
//! command on each machine; its counts change in the transaction that changes its commands; of the results of a command
//! the first counts, and later ones are kept as such. Not here: whether signatures hold and what they are worth.

use crate::StoreError;
use async_trait::async_trait;
use muster_core::action::{Action, ActionId, ActionStatus, CommandId, CommandStatus, Counters, InvestigatorId};
use muster_core::{AgentId, Cause, Payload, ServerId, Timestamp};
use std::time::Duration;

/// How an action spreads over its machines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spread {
    /// Also for machines that are offline now, and for those that come to match before it expires: enrolled, approved
    /// or unblocked by then, or with other facts. Otherwise only for those that are enrolled, and online or idle, when its
    /// target is expanded.
    pub standing: bool,
    /// If it matches more machines than this, it becomes invalid and none is given it. A standing action stops there.
    pub hosts_max: Option<u64>,
    /// Shares of the matching machines, in per cent, that are given it one after the other, such as `[1, 10]`; all the
    /// others come last. Each share waits until the one before is done. Empty: all at once.
    pub rings: Vec<u8>,
    /// Halts before the next share when more than so many per cent of the commands that are done have failed or timed
    /// out. Without shares it means nothing.
    pub halt_percent: u8,
}

/// An action that comes in, checked by whoever hands it in.
#[derive(Debug, Clone)]
pub struct ActionPut {
    /// What is ordered. Its id is one of [`ActionStore::action_id_take`]; its signatures are those below.
    pub action: Action,
    /// SHA-256 of the bytes that the signatures cover: one action, whatever else is written around it.
    pub signed: [u8; 32],
    /// Who signed, and how, as one line each.
    pub signatures: Vec<(InvestigatorId, String)>,
    /// Whether the signatures suffice: then it is pending, otherwise it waits for more.
    pub is_ready: bool,
    /// What each agent is sent.
    pub order: Payload,
    /// How it spreads.
    pub spread: Spread,
}

/// A cancellation that somebody signed.
#[derive(Debug, Clone)]
pub struct CancelPut {
    /// Who.
    pub investigator: InvestigatorId,
    /// The fleet in which it counts; empty: in every one.
    pub fleet: String,
    /// When it was signed, as the signer's clock said.
    pub made: Timestamp,
    /// What each agent is sent.
    pub body: Payload,
}

/// What came of calling an action back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelTaken {
    /// It is handed out no more from now on, or machines that may have it are sent one more cancellation.
    Taken,
    /// It was called back before, by this cancellation or a later one of the same signer and fleet, or now by none.
    Known,
    /// Nothing was left to call back: no machine may have its order any more, as far as this database knows.
    Over,
}

/// A further signature.
#[derive(Debug, Clone)]
pub struct SignaturePut {
    /// Under which action.
    pub action: ActionId,
    /// Whose.
    pub investigator: InvestigatorId,
    /// The signature, as one line.
    pub signature: String,
    /// How many other signatures `order` holds.
    pub others: u32,
    /// Whether the signatures suffice now.
    pub is_ready: bool,
    /// What each agent is sent, with all signatures.
    pub order: Payload,
}

/// How an action was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionTaken {
    /// It is new, and has this id.
    New(ActionId),
    /// The same bytes were signed and stored before. Nothing was done.
    Again(ActionId),
}

impl ActionTaken {
    /// Returns its id.
    pub fn id(self) -> ActionId {
        match self {
            Self::New(id) | Self::Again(id) => id,
        }
    }
}

/// An action as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionRow {
    /// What is ordered, with its id and its signatures.
    pub action: Action,
    /// SHA-256 of the signed bytes.
    pub signed: [u8; 32],
    /// Who signed, in the order of `action.pgp_signatures`.
    pub signers: Vec<InvestigatorId>,
    /// Where it stands.
    pub status: ActionStatus,
    /// Why it is invalid, cancelled or halted; empty otherwise.
    pub reason: String,
    /// When it came in.
    pub created: Timestamp,
    /// When its target was expanded.
    pub started: Option<Timestamp>,
    /// When it reached its last status.
    pub finished: Option<Timestamp>,
    /// When anything of it changed last.
    pub updated: Timestamp,
    /// How it spreads.
    pub spread: Spread,
    /// When it halted between two shares, if it stands still now.
    pub halted: Option<Timestamp>,
    /// How many machines matched when it was started.
    pub matched: u64,
    /// How its commands stand.
    pub counters: Counters,
    /// Results that came after the first one of their command, or after its end.
    pub late: u64,
}

/// Where an action stands, without what it orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActionMark {
    /// Which.
    pub id: ActionId,
    /// Where it stands.
    pub status: ActionStatus,
    /// When anything of it changed last.
    pub updated: Timestamp,
}

/// Which actions a page holds. Empty: all.
#[derive(Debug, Clone, Default)]
pub struct ActionFilter {
    /// Only with this status.
    pub status: Option<ActionStatus>,
    /// Only signed by this investigator.
    pub investigator: Option<InvestigatorId>,
    /// Only with a name that holds this text, without regard to the case of ASCII letters.
    pub name: String,
}

/// The right to work on an action until it falls due again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActionJob {
    /// Which action.
    pub action: ActionId,
    /// Who holds it.
    pub owner: ServerId,
    /// Grows with each claim; work under an old number is refused.
    pub fence: i64,
}

/// How one step of work on an action is bounded.
#[derive(Debug, Clone, Copy)]
pub struct WorkLimits {
    /// Machines looked at, or commands ended, in one step.
    pub rows: u32,
    /// How long the job stays with its holder after this step.
    pub lease: Duration,
    /// After how long new machines are looked for, and whether a share is done.
    pub look_again: Duration,
    /// Machines known before that a standing action looks at again, each time that it looks for new ones. All others come
    /// next, so that it has looked at `n` machines after `n / walk_rows` times `look_again`.
    pub walk_rows: u32,
}

impl Default for WorkLimits {
    fn default() -> Self {
        Self { rows: 20_000, lease: Duration::from_secs(30), look_again: Duration::from_secs(2), walk_rows: 5_000 }
    }
}

/// When an action is to be worked on next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// At once, under the same job.
    Now,
    /// The job was given back and falls due then.
    At(Timestamp),
    /// Never: the action is done with.
    Never,
    /// Another server holds the job: nothing was done.
    Lost,
}

/// What one step of work did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worked {
    /// Where the action stands now.
    pub status: ActionStatus,
    /// Commands that were created, expired or cancelled.
    pub commands: u64,
    /// Agents with a stream that something waits for now, with the wake-up URLs of their servers.
    pub wake: Vec<(AgentId, String)>,
    /// What is left to do.
    pub next: Next,
}

/// One agent's copy of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRow {
    /// Which.
    pub id: CommandId,
    /// Of which action.
    pub action: ActionId,
    /// On which machine.
    pub agent: AgentId,
    /// The machine's number, which MIG calls the agent's id.
    pub agent_number: i64,
    /// The machine's host name in lower case; empty when it told none.
    pub host_name: String,
    /// Where it stands.
    pub status: CommandStatus,
    /// Whether the agent was given it.
    pub is_handed_out: bool,
    /// When it was created.
    pub started: Timestamp,
    /// When it reached its last status.
    pub finished: Option<Timestamp>,
    /// Whether its result found something.
    pub found: Option<bool>,
    /// The results of its operations, as JSON; `None` without a result, or when not asked for.
    pub results: Option<String>,
    /// What proves that they are the machine's; `None` without results, or when the machine did not sign them.
    pub proof: Option<ResultProof>,
}

/// What proves that results are a machine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultProof {
    /// The machine's signature, see [`muster_core::action::result_text`] and [`muster_core::action::refusal_text`].
    pub signature: Vec<u8>,
    /// The machine's public key (DER SubjectPublicKeyInfo), from which its id follows.
    pub key: Vec<u8>,
}

/// A page of commands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandPage {
    /// In their order.
    pub commands: Vec<CommandRow>,
    /// Whether it ends before the next one's results would have been too much.
    pub is_full: bool,
}

/// Which commands a page holds.
#[derive(Debug, Clone, Default)]
pub struct CommandFilter {
    /// Only of this action. One of action and agent must be given.
    pub action: Option<ActionId>,
    /// Only on this machine.
    pub agent: Option<AgentId>,
    /// Only with this status.
    pub status: Option<CommandStatus>,
    /// Only whose result found something, or nothing.
    pub found: Option<bool>,
}

/// A result that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultPut {
    /// Of which action.
    pub action: ActionId,
    /// Whose key signed it. What comes with a contact counts only as the sender's, or as that of the machine it was under
    /// its key before.
    pub agent: AgentId,
    /// How the command ended, anything but sent.
    pub status: CommandStatus,
    /// Whether it found something.
    pub found: bool,
    /// The results of its operations, a JSON array.
    pub results: String,
    /// The machine's signature, see [`muster_core::action::result_text`] and [`muster_core::action::refusal_text`]; empty
    /// without one.
    pub signature: Vec<u8>,
}

/// How a result was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultTaken {
    /// It is the command's result.
    First,
    /// The same result was stored before. Nothing was done.
    Again,
    /// The command was done already. It is kept as a late one, if there is room for it.
    Late,
    /// The agent has no such command. Nothing was done.
    Unknown,
}

/// A result that came too late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateResult {
    /// Its number; later ones have greater ones.
    pub number: i64,
    /// Whose.
    pub agent: AgentId,
    /// What it says.
    pub status: CommandStatus,
    /// When it came.
    pub received: Timestamp,
    /// The results of its operations, as JSON.
    pub results: String,
    /// What proves that they are its machine's; `None` when it did not sign them.
    pub proof: Option<ResultProof>,
}

/// A page of late results.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LatePage {
    /// Newest first.
    pub late: Vec<LateResult>,
    /// Whether it ends before the next one would have been too much.
    pub is_full: bool,
}

/// How old what may become before retention deletes it.
#[derive(Debug, Clone, Copy)]
pub struct ActionRetention {
    /// Results of actions that finished before this moment go.
    pub results_before: Timestamp,
    /// Commands of actions that finished before this moment go, and their results. The actions themselves stay.
    pub commands_before: Timestamp,
    /// Sessions of agents that were last seen before this moment go, but for each machine's current one.
    pub sessions_before: Timestamp,
    /// Statistics from before this moment go.
    pub stats_before: Timestamp,
}

/// Late results kept for each command.
pub const LATE_RESULTS_MAX: u32 = 4;

/// Signed actions and what comes of them.
#[async_trait]
pub trait ActionStore: Send + Sync {
    /// Takes a number for an action that is about to be stored. A number that is not used is lost.
    async fn action_id_take(&self) -> Result<ActionId, StoreError>;

    /// Stores an action with its signatures: pending, or waiting for more. Twice is once, by the signed bytes.
    /// Invalid: it has no id. Exists: its id was used. Refused: a signer is unknown, not active, or named twice; then nothing is stored.
    async fn action_put(&self, put: ActionPut, now: Timestamp, cause: &Cause) -> Result<ActionTaken, StoreError>;

    /// Adds a signature to an action that waits for signatures, and makes it pending when they suffice. Returns where
    /// it stands. Not found: the action. Exists: this investigator's signature. Refused: the action does not wait, or
    /// the investigator is not active, or somebody else signed since `order` was made.
    async fn action_signature_put(
        &self,
        put: SignaturePut,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<ActionStatus, StoreError>;

    /// Returns an action.
    async fn action_get(&self, id: ActionId) -> Result<Option<ActionRow>, StoreError>;

    /// Returns the action whose signed bytes have this SHA-256.
    async fn action_find(&self, signed: [u8; 32]) -> Result<Option<ActionRow>, StoreError>;

    /// Returns a page of actions, newest first, with ids below `before`.
    async fn action_page(
        &self,
        filter: ActionFilter,
        before: Option<ActionId>,
        limit: u32,
    ) -> Result<Vec<ActionRow>, StoreError>;

    /// Says where actions stand that are not done with, or that reached their last status at `since` or later: newest
    /// first, with ids below `before`, `limit` at most.
    async fn action_marks(
        &self,
        since: Timestamp,
        before: Option<ActionId>,
        limit: u32,
    ) -> Result<Vec<ActionMark>, StoreError>;

    /// Calls an action back, whatever of it is not done: nobody is handed it any more. With `signed`, a cancellation that
    /// somebody signed, agents that may have its order are sent that, also when the action was called back before or
    /// ended without their answers. One of each signer and fleet is kept, that which was made last, and none for those
    /// of others: see [`limits::ACTION_CANCELS_PER_SIGNER_MAX`] and [`limits::ACTION_CANCELS_OF_OTHERS_MAX`]. The
    /// commands end in steps of [`ActionStore::action_work`]. Not found: the action. Refused: the signer is not active,
    /// or there is no room for the cancellation; then nothing is done.
    async fn action_cancel(
        &self,
        id: ActionId,
        signed: Option<CancelPut>,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<CancelTaken, StoreError>;

    /// Lets a halted action go on with its next share. `false`: it is not halted. Not found: the action.
    async fn action_resume(&self, id: ActionId, now: Timestamp, cause: &Cause) -> Result<bool, StoreError>;

    /// Takes the action that is longest due for work, for `lease`. `None`: nothing is due.
    async fn action_claim_due(
        &self,
        owner: ServerId,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Option<ActionJob>, StoreError>;

    /// Does one bounded step of what an action needs: starts it, gives it to a page of machines, looks whether a share
    /// is done, expires it, or ends what was called back. One transaction; a crash before its end changes nothing, and
    /// the next holder goes on where the last step ended.
    async fn action_work(&self, job: ActionJob, limits: WorkLimits, now: Timestamp) -> Result<Worked, StoreError>;

    /// Returns a command.
    async fn command_get(&self, id: CommandId) -> Result<Option<CommandRow>, StoreError>;

    /// Returns a page of commands after `after`: of an action in the order of machines' numbers, else of a machine,
    /// newest action first. With results it is full, and ends early, when the next would bring them over
    /// [`limits::PAGE_RESULT_BYTES_MAX`]. Invalid: neither action nor agent.
    async fn command_page(
        &self,
        filter: CommandFilter,
        after: Option<CommandId>,
        limit: u32,
        want_results: bool,
    ) -> Result<CommandPage, StoreError>;

    /// Takes results, in one transaction with the counts of their actions. One answer for each, in their order.
    /// Invalid: a status that is no end. Results that come again change nothing.
    async fn command_result_put(&self, results: Vec<ResultPut>, now: Timestamp)
    -> Result<Vec<ResultTaken>, StoreError>;

    /// Returns a page of late results of an action, newest first, those with numbers below `before`; it is full as a
    /// page of commands is.
    async fn command_late(&self, action: ActionId, before: Option<i64>, limit: u32) -> Result<LatePage, StoreError>;

    /// Deletes up to `limit` old rows of each kind. Returns how many; 0 when nothing is left to delete.
    async fn action_retention_sweep(&self, retention: ActionRetention, limit: u32) -> Result<u64, StoreError>;
}
