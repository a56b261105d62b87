//! The mirror: how actions and commands stand in the database, as files.
//!
//! Stays true: what is shown is read from the database; what was shown before is remembered only so that nothing is
//! written twice, and a server that starts anew writes everything again.

use super::card::{action_card, action_place, command_card, command_name, command_place};
use super::desk::{Card, Wanted, action_name};
use super::tree::Place;
use super::{Spool, SpoolError};
use muster_core::action::{ActionId, ActionStatus, CommandId, CommandStatus};
use muster_core::{Timestamp, limits};
use muster_store::actions::{ActionMark, CommandFilter, CommandRow};
use std::collections::BTreeMap;

/// An action that has a file.
#[derive(Debug)]
pub(super) struct ShownAction {
    status: ActionStatus,
    updated: Timestamp,
    finished: Option<Timestamp>,
    name: String,
    /// Its commands that have files.
    commands: BTreeMap<CommandId, (Place, CommandStatus)>,
}

impl Spool {
    /// Writes the files of actions that changed since the last look.
    pub(super) async fn mirror_actions(&mut self, now: Timestamp) -> Result<(), SpoolError> {
        let since = self.since.unwrap_or_else(|| now.minus(self.options.keep));
        let mut changed = self.marks(since).await?;
        changed.retain(|mark| {
            let shown = self.shown.get(&mark.id);
            shown.is_none_or(|shown| (shown.status, shown.updated) != (mark.status, mark.updated))
        });
        // Oldest first: of too many, the newest stay.
        changed.reverse();
        let mut done = Ok(());
        for part in changed.chunks(limits::SPOOL_FILES_AT_ONCE) {
            done = done.and(self.mirror_some(part, now).await);
        }
        done?;
        self.since = Some(now.minus(limits::SPOOL_OVERLAP).max(now.minus(self.options.keep)));
        Ok(())
    }

    /// Where actions stand that are not done with, or that ended at `since` or later; of too many, the newest.
    async fn marks(&self, since: Timestamp) -> Result<Vec<ActionMark>, SpoolError> {
        let mut marks: Vec<ActionMark> = Vec::new();
        while marks.len() < limits::SPOOL_ACTIONS_MAX {
            let before = marks.last().map(|mark| mark.id);
            let page = self.engine.store().action_marks(since, before, limits::PAGE_ROWS_MAX).await;
            let page = page.map_err(|source| SpoolError::Store { doing: "look for actions that changed", source })?;
            let is_last = page.len() < limits::PAGE_ROWS_MAX as usize;
            marks.extend(page);
            if is_last {
                break;
            }
        }
        marks.truncate(limits::SPOOL_ACTIONS_MAX);
        Ok(marks)
    }

    async fn mirror_some(&mut self, marks: &[ActionMark], now: Timestamp) -> Result<(), SpoolError> {
        let (mut cards, mut read) = (Vec::with_capacity(marks.len()), Vec::with_capacity(marks.len()));
        for mark in marks {
            let row = self.engine.store().action_get(mark.id).await;
            let row = row.map_err(|source| SpoolError::Store { doing: "read an action", source })?;
            let Some(row) = row else { continue };
            cards.push(action_card(mark.id, &row));
            read.push((mark.id, row));
        }
        self.desk("write files of actions", move |desk| desk.show(cards, now)).await?;
        for (id, row) in read {
            let commands = self.shown.remove(&id).map(|shown| shown.commands).unwrap_or_default();
            let (status, updated, finished) = (row.status, row.updated, row.finished);
            self.shown.insert(id, ShownAction { status, updated, finished, name: row.action.name, commands });
        }
        Ok(())
    }

    /// Brings the files of commands up to date, newest actions first, as far as there is room for them.
    pub(super) async fn mirror_commands(&mut self, now: Timestamp) -> Result<(), SpoolError> {
        let mut room = limits::SPOOL_COMMANDS_MAX;
        let ids: Vec<ActionId> = self.shown.keys().rev().copied().collect();
        for id in ids {
            let Some(shown) = self.shown.get(&id) else { continue };
            let limit = limits::SPOOL_COMMANDS_PER_ACTION_MAX.min(u32::try_from(room).unwrap_or(u32::MAX));
            let is_done = |(place, _): &(Place, CommandStatus)| *place == Place::CommandDone;
            let is_settled = shown.status.is_final() && !shown.commands.is_empty();
            if is_settled && shown.commands.len() <= room && shown.commands.values().all(is_done) {
                room -= shown.commands.len();
                continue;
            }
            let rows = if limit == 0 { Vec::new() } else { self.commands_of(id, limit).await? };
            room = room.saturating_sub(rows.len());
            self.mirror_commands_of(id, rows, now).await?;
        }
        Ok(())
    }

    async fn commands_of(&self, action: ActionId, limit: u32) -> Result<Vec<CommandRow>, SpoolError> {
        let filter = CommandFilter { action: Some(action), ..CommandFilter::default() };
        let page = self.engine.store().command_page(filter, None, limit, false).await;
        page.map(|page| page.commands).map_err(|source| SpoolError::Store { doing: "list commands", source })
    }

    async fn mirror_commands_of(
        &mut self,
        action: ActionId,
        rows: Vec<CommandRow>,
        now: Timestamp,
    ) -> Result<(), SpoolError> {
        let Some(shown) = self.shown.get(&action) else { return Ok(()) };
        let (status, name) = (shown.status, shown.name.clone());
        let mut there = BTreeMap::new();
        for row in rows {
            let is = (command_place(&row, status), row.status);
            let before = shown_before(self.shown.get(&action), row.id);
            let id = row.id;
            if before != Some(is) {
                // Results are large: each is read, written and let go by itself.
                let card = self.command_card(row, &name, is.0).await?;
                self.desk("write a command's file", move |desk| desk.show(vec![card], now)).await?;
            }
            there.insert(id, is);
        }
        if let Some(shown) = self.shown.get_mut(&action) {
            // What is not there any more goes with the next sweep.
            shown.commands = there;
        }
        Ok(())
    }

    async fn command_card(&self, row: CommandRow, name: &str, place: Place) -> Result<Card, SpoolError> {
        let row = if row.found.is_some() {
            let whole = self.engine.store().command_get(row.id).await;
            whole.map_err(|source| SpoolError::Store { doing: "read a command", source })?.unwrap_or(row)
        } else {
            row
        };
        Ok(command_card(&row, name, place))
    }

    /// Removes files whose time is over. Those that are missing are written again at the next look.
    pub(super) async fn sweep(&mut self, now: Timestamp) -> Result<(), SpoolError> {
        let keep_since = now.minus(self.options.keep);
        self.shown.retain(|_, shown| shown.finished.is_none_or(|finished| finished >= keep_since));
        while self.shown.len() > limits::SPOOL_ACTIONS_MAX {
            self.shown.pop_first();
        }
        let wanted = self.wanted();
        let missing = self.desk("remove files whose time is over", move |desk| desk.sweep(&wanted, keep_since)).await?;
        for name in missing {
            self.forget(&name);
        }
        Ok(())
    }

    fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        for (id, shown) in &self.shown {
            wanted.actions.insert(action_name(*id), action_place(shown.status));
            for (command, (place, _)) in &shown.commands {
                wanted.commands.insert(command_name(*id, *command), *place);
            }
        }
        wanted
    }

    /// Forgets that a file was written.
    fn forget(&mut self, name: &std::ffi::OsStr) {
        let numbers = name.to_str().and_then(|name| name.strip_suffix(".json")).unwrap_or_default();
        let (action, command) = numbers.split_once('-').map_or((numbers, None), |(one, two)| (one, Some(two)));
        let Ok(action) = action.parse::<ActionId>() else { return };
        match command {
            None => _ = self.shown.remove(&action),
            Some(command) => {
                let shown = self.shown.get_mut(&action).zip(command.parse::<CommandId>().ok());
                if let Some((shown, command)) = shown {
                    shown.commands.remove(&command);
                }
            }
        }
        // An action that ended before the last look is found again only by a look at all.
        self.since = None;
    }
}

fn shown_before(shown: Option<&ShownAction>, command: CommandId) -> Option<(Place, CommandStatus)> {
    shown?.commands.get(&command).copied()
}
