//! The work on an action, one bounded step after the other.
//!
//! Stays true: whoever works holds the job under its number, and every step begins by proving that; what a step did and
//! where the next begins are one transaction, so that a crash loses nothing and doubles nothing.

use super::action_ends::{cancel_step, completed_step, expire_step, finish};
use super::action_rows::status_number;
use super::results::complete;
use super::targets::{Matching, matching, states};
use crate::StoreError;
use crate::actions::{ActionJob, Next, WorkLimits, Worked};
use crate::db::Tx;
use crate::db::value::{Fields, params};
use crate::targets::Reach;
use muster_core::action::{ActionId, ActionStatus};
use muster_core::target::Target;
use muster_core::{AgentId, ServerId, Timestamp};
use std::time::Duration;

const CLAIM: &str = "UPDATE action_jobs SET owner = $1, fence = fence + 1, due = $2 WHERE action = (SELECT action \
     FROM action_jobs WHERE due <= $3 ORDER BY due LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING action, fence";
const SCHEDULE: &str = "UPDATE action_rows SET status = 2, updated = $2 WHERE number = $1 AND status = 1 \
     AND valid_from <= $2 AND expire_after > $2";
const HOLD: &str = "UPDATE action_jobs SET due = $4 WHERE action = $1 AND owner = $2 AND fence = $3 \
     RETURNING ring, ring_sent, after, upto, ended";
const STATE: &str = "SELECT status, target, valid_from, expire_after, created, standing, hosts_max, rings, \
     halt_percent, halted, matched, sent, success, failed, timeout, expired, cancelled FROM action_rows \
     WHERE number = $1 FOR UPDATE";
const LAST_MACHINE: &str = "SELECT COALESCE(max(number), 0) FROM machines";
const START: &str = "UPDATE action_rows SET status = 3, started = $2, updated = $2, matched = $3 WHERE number = $1";
const SET_UPTO: &str = "UPDATE action_jobs SET upto = $2 WHERE action = $1";
const LAST_COMMAND: &str = "SELECT COALESCE(max(agent), 0) FROM command_rows WHERE action = $1 AND agent <= $2";
const SET_AFTER: &str = "UPDATE action_jobs SET after = $2 WHERE action = $1";
const COUNT: &str = "UPDATE action_rows SET sent = sent + $2, updated = $3, \
     matched = CASE WHEN matched < sent + $2 THEN sent + $2 ELSE matched END WHERE number = $1";
const INFLIGHT: &str = "UPDATE action_rows SET status = 4, expanded = $2, updated = $3 WHERE number = $1";
const HALT: &str = "UPDATE action_rows SET halted = $2, reason = $3, updated = $2 WHERE number = $1";
const NEXT_RING: &str = "UPDATE action_jobs SET ring = ring + 1, \
     ring_sent = (SELECT sent FROM action_rows WHERE number = $1) WHERE action = $1";
const RECOUNT: &str = "UPDATE action_rows SET matched = CASE WHEN sent > $2 THEN sent ELSE $2 END WHERE number = $1";
const FROM_THE_FIRST: &str = "UPDATE action_jobs SET after = 0, upto = $2 WHERE action = $1";
const SET_STATUS: &str = "UPDATE action_rows SET status = $2, updated = $3 WHERE number = $1";
const GIVE_BACK: &str = "UPDATE action_jobs SET due = $2, owner = NULL WHERE action = $1";
const WAKE: &str = "SELECT agent_id, streaming_to FROM machines WHERE number > $2 AND number <= $3 \
     AND streaming_to <> '' AND EXISTS (SELECT 1 FROM command_rows WHERE command_rows.action = $1 \
     AND command_rows.agent = machines.number AND command_rows.state < 2 AND command_rows.state = 0)";

/// Conditions besides that of the target.
const EVERY: &str = "TRUE";
/// Neither under its present key nor under one before: what it ran, or was handed, under an old key is answered there.
/// State 6 is that of a command that was cancelled, as those of a deleted machine are.
const NOT_YET: &str = "NOT EXISTS (SELECT 1 FROM command_rows WHERE command_rows.action = $1 \
     AND command_rows.agent = machines.number) AND (machines.predecessor IS NULL OR NOT EXISTS (WITH RECURSIVE \
     earlier AS (SELECT p.number, p.predecessor FROM machines p WHERE p.agent_id = machines.predecessor UNION \
     SELECT p.number, p.predecessor FROM machines p JOIN earlier ON p.agent_id = earlier.predecessor) \
     SELECT 1 FROM earlier JOIN command_rows ON command_rows.agent = earlier.number WHERE command_rows.action = $1 \
     AND command_rows.state <> 6))";

pub(super) async fn claim(
    tx: &mut Tx,
    (owner, lease, now): &(ServerId, Duration, Timestamp),
) -> Result<Option<ActionJob>, StoreError> {
    let Some(row) = tx.query_opt(CLAIM, params![owner, now.plus(*lease), *now]).await? else { return Ok(None) };
    let mut fields = row.fields("action_jobs");
    let job = ActionJob { action: fields.take()?, owner: *owner, fence: fields.take()? };
    tx.execute(SCHEDULE, params![job.action, *now]).await?;
    Ok(Some(job))
}

pub(super) fn worked(status: ActionStatus, commands: u64, next: Next) -> Worked {
    Worked { status, commands, wake: Vec::new(), next }
}

/// An action under work.
pub(super) struct Work {
    pub(super) id: ActionId,
    pub(super) now: Timestamp,
    pub(super) limits: WorkLimits,
    /// How many shares were given out, and how many commands there were when the one that is under way began.
    ring: i64,
    ring_sent: i64,
    /// The last machine that was looked at, and the last that is to be.
    after: i64,
    upto: i64,
    /// The last machine whose command was ended.
    pub(super) ended: i64,
    pub(super) status: ActionStatus,
    target: String,
    valid_from: Timestamp,
    pub(super) expire_after: Timestamp,
    pub(super) created: Timestamp,
    standing: bool,
    hosts_max: Option<i64>,
    rings: Vec<i64>,
    halt_percent: i64,
    halted: Option<Timestamp>,
    matched: i64,
    sent: i64,
    failures: i64,
    done: i64,
}

impl Work {
    fn read(
        id: ActionId,
        now: Timestamp,
        limits: WorkLimits,
        job: &mut Fields,
        row: &mut Fields,
    ) -> Result<Self, StoreError> {
        let [ring, ring_sent, after, upto, ended] = [job.take()?, job.take()?, job.take()?, job.take()?, job.take()?];
        let (status, target) = (row.take()?, row.take()?);
        let (valid_from, expire_after, created) = (row.take()?, row.take()?, row.take()?);
        let (standing, hosts_max) = (row.take()?, row.take()?);
        let rings: String = row.take()?;
        let rings = super::message_rows::from_json(row, &rings)?;
        let (halt_percent, halted, matched) = (row.take()?, row.take()?, row.take()?);
        let [sent, success, failed, timeout, expired, cancelled]: [i64; 6] =
            [row.take()?, row.take()?, row.take()?, row.take()?, row.take()?, row.take()?];
        Ok(Self {
            id,
            now,
            limits,
            ring,
            ring_sent,
            after,
            upto,
            ended,
            status,
            target,
            valid_from,
            expire_after,
            created,
            standing,
            hosts_max,
            rings,
            halt_percent,
            halted,
            matched,
            sent,
            failures: failed + timeout,
            done: success + failed + timeout + expired + cancelled,
        })
    }

    /// Its target, or why it has none.
    fn target(&self) -> Result<Target, String> {
        Target::parse(&self.target).map_err(|error| format!("the target cannot be read: {error}"))
    }

    /// Which machines it may be given to, besides those that its target picks.
    fn reach(&self) -> Reach {
        if self.standing { Reach::Enrolled } else { Reach::Active }
    }

    /// The share that is under way, in per cent; `None` for the last, which is all the others.
    fn share(&self) -> Option<i64> {
        self.rings.get(usize::try_from(self.ring).unwrap_or(usize::MAX)).copied()
    }

    /// How many more commands the share that is under way has.
    fn share_room(&self) -> Option<i64> {
        // Rounded up, so that a share of few machines is one machine. Those of a standing action may all come later: none of
        // its shares is nobody.
        let least = if self.standing { self.ring_sent + 1 } else { 0 };
        self.share().map(|share| ((self.matched * share + 99) / 100).max(least) - self.sent).map(|room| room.max(0))
    }

    /// Whether the share that is under way waits for its first machine, as only one of a standing action does.
    fn is_share_empty(&self) -> bool {
        self.standing && self.share().is_some() && self.sent <= self.ring_sent
    }

    /// Which machines of a pass over all are given it, besides what its target says.
    fn besides(&self) -> &'static str {
        // A later share of a standing action begins again with the first machine.
        if self.standing { NOT_YET } else { EVERY }
    }

    /// How many more commands there may be for now.
    fn room(&self) -> Option<i64> {
        let share = self.share_room();
        let hosts = self.hosts_max.map(|hosts| hosts - self.sent);
        share.into_iter().chain(hosts).min().map(|room| room.max(0))
    }
}

pub(super) async fn work(
    tx: &mut Tx,
    (job, limits, now): &(ActionJob, WorkLimits, Timestamp),
) -> Result<Worked, StoreError> {
    let held = params![job.action, &job.owner, job.fence, now.plus(limits.lease)];
    let lost = Worked { status: ActionStatus::Pending, commands: 0, wake: Vec::new(), next: Next::Lost };
    let Some(held) = tx.query_opt(HOLD, held).await? else { return Ok(lost) };
    let state = tx.query_one(STATE, params![job.action]).await?;
    let (mut held, mut state) = (held.fields("action_jobs"), state.fields("action_rows"));
    let work = Work::read(job.action, *now, *limits, &mut held, &mut state)?;
    let done = step(tx, &work).await?;
    if let Next::At(due) = done.next {
        tx.execute(GIVE_BACK, params![work.id, due]).await?;
    }
    Ok(done)
}

async fn step(tx: &mut Tx, work: &Work) -> Result<Worked, StoreError> {
    let is_over = work.now >= work.expire_after;
    match work.status {
        ActionStatus::Waiting if is_over => {
            finish(tx, work, ActionStatus::Invalid, "expired while it waited for signatures").await
        }
        ActionStatus::Waiting => Ok(worked(work.status, 0, Next::At(work.expire_after))),
        ActionStatus::Pending | ActionStatus::Scheduled if is_over => {
            finish(tx, work, ActionStatus::Invalid, "expired before it was started").await
        }
        ActionStatus::Pending if work.now < work.valid_from => Ok(worked(work.status, 0, Next::At(work.valid_from))),
        ActionStatus::Pending | ActionStatus::Scheduled => start(tx, work).await,
        ActionStatus::Preparing | ActionStatus::Inflight if is_over => expire_step(tx, work).await,
        ActionStatus::Preparing => expand(tx, work).await,
        ActionStatus::Inflight => look(tx, work).await,
        ActionStatus::Cancelled => cancel_step(tx, work).await,
        ActionStatus::Completed => completed_step(tx, work).await,
        ActionStatus::Invalid => finish(tx, work, work.status, "").await,
    }
}

async fn start(tx: &mut Tx, work: &Work) -> Result<Worked, StoreError> {
    let target = match work.target() {
        Ok(target) => target,
        Err(why) => return finish(tx, work, ActionStatus::Invalid, &why).await,
    };
    let upto: i64 = tx.query_one(LAST_MACHINE, &[]).await?.only("machines")?;
    let mut matched = 0;
    // Counting costs a walk over all machines, which is needed only where the number decides something.
    if work.hosts_max.is_some() || !work.rings.is_empty() {
        matched = count(tx, work, &target, upto).await?;
        if matched == 0 && !work.standing {
            return nobody(tx, work, target).await;
        }
        if let Some(most) = work.hosts_max.filter(|most| !work.standing && matched > *most) {
            let why = format!("{matched} machines match, more than the {most} it may have");
            return finish(tx, work, ActionStatus::Invalid, &why).await;
        }
    }
    tx.execute(START, params![work.id, work.now, matched]).await?;
    tx.execute(SET_UPTO, params![work.id, upto]).await?;
    Ok(worked(ActionStatus::Preparing, 0, Next::Now))
}

/// Counts the machines up to number `upto` that an action may be given to.
async fn count(tx: &mut Tx, work: &Work, target: &Target, upto: i64) -> Result<i64, StoreError> {
    let Matching { from, condition, values } = matching(tx, target, work.reach(), work.now, vec![upto.into()]).await?;
    let sql = format!("SELECT count(*) FROM {from} WHERE number <= $1 AND {condition}");
    tx.query_one_made(&sql, &values).await?.only("machines")
}

/// Gives an action to a page of machines.
async fn expand(tx: &mut Tx, work: &Work) -> Result<Worked, StoreError> {
    let target = match work.target() {
        Ok(target) => target,
        Err(why) => return finish(tx, work, ActionStatus::Invalid, &why).await,
    };
    if work.share_room() == Some(0) {
        // Of few machines, a share may be no more than the one before, whose results were judged.
        tx.execute(NEXT_RING, params![work.id]).await?;
        return Ok(worked(work.status, 0, Next::Now));
    }
    let room = work.room();
    let last = work.upto.min(work.after.saturating_add(i64::from(work.limits.rows.max(1))));
    let limit = room.unwrap_or(i64::MAX);
    let inserted = insert(tx, work, last, limit, (&target, work.besides())).await?;
    let is_full = room.is_some_and(|room| inserted >= room.cast_unsigned());
    let reached = if is_full && inserted > 0 {
        tx.query_one(LAST_COMMAND, params![work.id, last]).await?.only("command_rows")?
    } else if is_full {
        work.after
    } else {
        last
    };
    tx.execute(SET_AFTER, params![work.id, reached]).await?;
    if inserted > 0 {
        tx.execute(COUNT, params![work.id, inserted.cast_signed(), work.now]).await?;
    }
    let mut done = if is_full || reached >= work.upto {
        if work.sent == 0 && inserted == 0 && !work.standing {
            return nobody(tx, work, target).await;
        }
        pass_over(tx, work, inserted, is_full).await?
    } else {
        worked(work.status, inserted, Next::Now)
    };
    done.wake = wake(tx, work, (work.after, reached), inserted).await?;
    Ok(done)
}

/// Gives an action to the machines of a page that `target` and the condition `besides` pick, `limit` of them at most.
async fn insert(
    tx: &mut Tx,
    work: &Work,
    last: i64,
    limit: i64,
    (target, besides): (&Target, &str),
) -> Result<u64, StoreError> {
    if limit == 0 || last <= work.after {
        return Ok(0);
    }
    let values = vec![work.id.into(), work.now.into(), work.after.into(), last.into(), limit.into()];
    let Matching { from, condition, values } = matching(tx, target, work.reach(), work.now, values).await?;
    // One statement for a page: nothing travels to this program and back.
    let sql = format!(
        "INSERT INTO command_rows (action, agent, state, created) SELECT CAST($1 AS BIGINT), machines.number, 0, \
         CAST($2 AS BIGINT) FROM {from} WHERE machines.number > $3 AND machines.number <= $4 AND {besides} \
         AND {condition} ORDER BY machines.number LIMIT $5 ON CONFLICT DO NOTHING"
    );
    tx.execute_made(&sql, &values).await
}

async fn wake(
    tx: &mut Tx,
    work: &Work,
    (after, last): (i64, i64),
    inserted: u64,
) -> Result<Vec<(AgentId, String)>, StoreError> {
    if inserted == 0 {
        return Ok(Vec::new());
    }
    let mut wake = Vec::new();
    for row in tx.query(WAKE, params![work.id, after, last]).await? {
        let mut fields = row.fields("machines");
        wake.push((fields.take()?, fields.take()?));
    }
    Ok(wake)
}

/// Ends an action that could be given to no machine, and says of those that it means why not.
async fn nobody(tx: &mut Tx, work: &Work, target: Target) -> Result<Worked, StoreError> {
    let states = states(tx, &(target, work.now)).await?;
    finish(tx, work, ActionStatus::Invalid, &states.to_string()).await
}

/// Ends a pass over the machines: the last one of all, or the one of a share.
async fn pass_over(tx: &mut Tx, work: &Work, inserted: u64, is_full: bool) -> Result<Worked, StoreError> {
    let sent = work.sent + inserted.cast_signed();
    let hosts_full = work.hosts_max.is_some_and(|most| sent >= most);
    // When all that matched were given it, there is no further share to wait for or to halt before.
    let has_share = work.share().is_some() && is_full && sent < work.matched;
    let goes_on = (has_share || work.standing) && !hosts_full;
    tx.execute(INFLIGHT, params![work.id, !goes_on, work.now]).await?;
    if !goes_on && complete(tx, work.id, work.now).await? {
        return Ok(worked(ActionStatus::Completed, inserted, Next::Never));
    }
    let due = if goes_on { work.now.plus(work.limits.look_again).min(work.expire_after) } else { work.expire_after };
    Ok(worked(ActionStatus::Inflight, inserted, Next::At(due)))
}

/// Looks whether an action in flight needs more: its next share, or machines that are new.
async fn look(tx: &mut Tx, work: &Work) -> Result<Worked, StoreError> {
    let later = Next::At(work.now.plus(work.limits.look_again).min(work.expire_after));
    if work.halted.is_some() {
        return Ok(worked(work.status, 0, Next::At(work.expire_after)));
    }
    // What failed before a share began was looked at then.
    if work.share().is_some() && !work.is_share_empty() {
        if work.done < work.sent {
            return Ok(worked(work.status, 0, later));
        }
        if work.failures * 100 > work.halt_percent * work.done {
            let why = format!("halted: {} of {} commands failed or timed out", work.failures, work.done);
            tx.execute(HALT, params![work.id, work.now, why]).await?;
            return Ok(worked(work.status, 0, Next::At(work.expire_after)));
        }
        return next_share(tx, work).await;
    }
    if !work.standing || work.hosts_max.is_some_and(|most| work.sent >= most) {
        return Ok(worked(work.status, 0, Next::At(work.expire_after)));
    }
    newcomers(tx, work, later).await
}

/// Begins the next share.
async fn next_share(tx: &mut Tx, work: &Work) -> Result<Worked, StoreError> {
    if work.standing {
        let target = match work.target() {
            Ok(target) => target,
            Err(why) => return finish(tx, work, ActionStatus::Invalid, &why).await,
        };
        // Of the machines that match by now, among which are those that came since.
        let upto: i64 = tx.query_one(LAST_MACHINE, &[]).await?.only("machines")?;
        let matched = count(tx, work, &target, upto).await?;
        tx.execute(RECOUNT, params![work.id, matched]).await?;
        tx.execute(FROM_THE_FIRST, params![work.id, upto]).await?;
    }
    tx.execute(NEXT_RING, params![work.id]).await?;
    tx.execute(SET_STATUS, params![work.id, status_number(ActionStatus::Preparing), work.now]).await?;
    Ok(worked(ActionStatus::Preparing, 0, Next::Now))
}

/// Gives a standing action to machines that it can be given to by now: first those that were enrolled since it was looked
/// last, then a part of all others, because any of them may have been approved or unblocked since, or have reported
/// other facts. A part each time, so that what this costs does not grow with the fleet.
async fn newcomers(tx: &mut Tx, work: &Work, later: Next) -> Result<Worked, StoreError> {
    let target = match work.target() {
        Ok(target) => target,
        Err(why) => return finish(tx, work, ActionStatus::Invalid, &why).await,
    };
    let newest: i64 = tx.query_one(LAST_MACHINE, &[]).await?.only("machines")?;
    let upto = newest.min(work.upto.saturating_add(i64::from(work.limits.rows.max(1)))).max(work.upto);
    let new = Work { after: work.upto, upto, ..copy(work) };
    let mut done = further(tx, &new, &target).await?;
    tx.execute(SET_UPTO, params![work.id, upto]).await?;
    if upto < newest {
        return Ok(Worked { next: Next::Now, ..done });
    }
    // Behind the last machine begins the next round, at the first.
    let after = if work.after >= work.upto { 0 } else { work.after };
    let last = work.upto.min(after.saturating_add(i64::from(work.limits.walk_rows.max(1))));
    let sent = work.sent + done.commands.cast_signed();
    let known = Work { after, upto: last, sent, ..copy(work) };
    let found = further(tx, &known, &target).await?;
    tx.execute(SET_AFTER, params![work.id, last]).await?;
    done.commands += found.commands;
    done.wake.extend(found.wake);
    Ok(Worked { next: later, ..done })
}

/// Gives a standing action to those machines of the part `after` to `upto` that have not had it.
async fn further(tx: &mut Tx, part: &Work, target: &Target) -> Result<Worked, StoreError> {
    let room = part.room().unwrap_or(i64::MAX);
    let inserted = insert(tx, part, part.upto, room, (target, NOT_YET)).await?;
    if inserted > 0 {
        tx.execute(COUNT, params![part.id, inserted.cast_signed(), part.now]).await?;
    }
    let mut done = worked(part.status, inserted, Next::Now);
    done.wake = wake(tx, part, (part.after, part.upto), inserted).await?;
    Ok(done)
}

fn copy(work: &Work) -> Work {
    Work { target: work.target.clone(), rings: work.rings.clone(), ..*work }
}
