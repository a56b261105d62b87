//! Broadcasts and the shares that servers take of their limits.

use crate::StoreError;
use async_trait::async_trait;
use muster_core::{
    Allocation, AllocationId, Broadcast, BroadcastId, BroadcastLimit, Cause, ContactId, Message, Timestamp,
};

/// How the attempt to send a broadcast to one machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BroadcastSent {
    /// The message is stored and counted.
    Yes,
    /// This machine has had it.
    Before,
    /// The broadcast, or the allocation, is gone or switched off.
    Disabled,
    /// The allocation is used up or has lapsed.
    Exhausted,
}

/// What the store knows of broadcasts.
///
/// At every instant: units sent + units promised to allocations ≤ the limit, whatever servers do at once.
#[async_trait]
pub trait BroadcastStore: Send + Sync {
    /// Creates a broadcast with nothing sent. With a group, active broadcasts of the same group, source, destination and
    /// labels are disabled in the same transaction. Exists: the id, with other content (with the same, twice is once).
    async fn broadcast_create(&self, broadcast: Broadcast, now: Timestamp, cause: &Cause) -> Result<(), StoreError>;

    /// Changes a limit. Never below what is sent and promised: it is raised to that. Not found: the broadcast.
    async fn broadcast_limit_set(
        &self,
        id: BroadcastId,
        limit: BroadcastLimit,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError>;

    /// Switches broadcasts off: limit 0, allocations deleted, their sent units added, their promises taken back. Unknown
    /// ids are passed over.
    async fn broadcast_disable(&self, ids: &[BroadcastId], now: Timestamp, cause: &Cause) -> Result<(), StoreError>;

    /// Returns those with sent < limit that have not expired, by id; `source` restricts to one source service.
    async fn broadcast_active(&self, source: Option<&str>, now: Timestamp) -> Result<Vec<Broadcast>, StoreError>;

    /// Returns a page of all broadcasts, newest first (created before `before`, or then with a smaller id). `sent`
    /// counts the units of open allocations too.
    async fn broadcast_page(
        &self,
        before: Option<(Timestamp, BroadcastId)>,
        limit: u32,
    ) -> Result<Vec<Broadcast>, StoreError>;

    /// Returns one broadcast; `sent` counts the units of open allocations too.
    async fn broadcast_get(&self, id: BroadcastId) -> Result<Option<Broadcast>, StoreError>;

    /// Takes a share of what is left, [`muster_core::broadcast::share`] large; for an unlimited broadcast an allocation
    /// without a record. `None`: nothing is left, or the broadcast is gone. `id` is the new allocation's.
    async fn allocation_take(
        &self,
        broadcast: BroadcastId,
        id: AllocationId,
        fraction: f32,
        expires: Timestamp,
    ) -> Result<Option<Allocation>, StoreError>;

    /// Stores `message` as handed out at `now` (due again after [`muster_core::limits::AGENT_RETRY`]), linked to
    /// `contact`, and counts it against the allocation. Without one only an unlimited broadcast can be sent, and its
    /// units are counted when they are handed to [`BroadcastStore::allocation_end`]: a row that every machine of the
    /// fleet counts on would be the narrowest place of all. One transaction; unless the answer is `Yes`, nothing is
    /// stored. Not found: the agent. Exists: the message.
    async fn broadcast_send(
        &self,
        broadcast: BroadcastId,
        allocation: Option<AllocationId>,
        message: Message,
        contact: Option<ContactId>,
        now: Timestamp,
    ) -> Result<BroadcastSent, StoreError>;

    /// Returns which broadcasts a machine has had.
    async fn broadcast_had(&self, agent: muster_core::AgentId) -> Result<Vec<BroadcastId>, StoreError>;

    /// Ends an allocation: `sent` units are added to the broadcast, the promise is taken back. A missing allocation
    /// changes nothing and is no error. `None` for the allocation only adds (unlimited broadcasts). Inconsistent: the
    /// allocation is larger than all that its broadcast says is allocated; nothing is changed, and it lapses by itself.
    async fn allocation_end(
        &self,
        broadcast: BroadcastId,
        allocation: Option<AllocationId>,
        sent: u64,
    ) -> Result<(), StoreError>;

    /// Ends every allocation that lapsed before `now`, counting what its own row says was sent: the shares of servers
    /// that died. Returns how many.
    async fn allocation_reclaim(&self, now: Timestamp) -> Result<u64, StoreError>;
}
