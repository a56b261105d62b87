//! What is done with the spool's files, and what is remembered of them between two looks.
//!
//! Stays true: a dropped file is read once for each content it has; it goes away only as the content that was read; one
//! that is refused is put aside once, with its reason beside it; names of the form `NUMBER.json` are the mirror's.
//! Everything here blocks.

use super::tree::{Identity, Place, Tree, shown, with};
use metrics::counter;
use muster_core::action::{Action, ActionId};
use muster_core::{Timestamp, limits};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use tracing::warn;

/// A dropped file that can be looked into.
#[derive(Debug)]
pub(super) struct Dropped {
    pub(super) name: OsString,
    pub(super) identity: Identity,
    /// The action, and its bytes.
    pub(super) action: Box<Action>,
    pub(super) json: Vec<u8>,
}

/// What came of a dropped file.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is in the database.
    Taken,
    /// It is no action that can be taken, and why.
    Refused(String),
}

/// A file of the mirror, as it shall be.
#[derive(Debug)]
pub(super) struct Card {
    pub(super) place: Place,
    pub(super) name: OsString,
    pub(super) content: Vec<u8>,
    /// Why the action never began.
    pub(super) reason: Option<String>,
}

/// Which files of the mirror there shall be.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) actions: BTreeMap<OsString, Place>,
    pub(super) commands: BTreeMap<OsString, Place>,
}

/// The spool's files.
#[derive(Debug)]
pub(super) struct Desk {
    root: PathBuf,
    /// Files in `action/new` that the mirror wrote.
    own: HashMap<OsString, Identity>,
    /// Files there that cannot be read as actions, and since when they are as they are.
    unread: HashMap<OsString, (Identity, Timestamp)>,
}

const REASON: &str = ".reason";

/// Returns the name of an action's file.
pub(super) fn action_name(id: ActionId) -> OsString {
    format!("{id}.json").into()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a name is one of the mirror's for an action.
fn is_action_name(name: &OsStr) -> bool {
    name.to_str().and_then(|name| name.strip_suffix(".json")).is_some_and(is_number)
}

/// Whether a name is one of the mirror's for a command.
fn is_command_name(name: &OsStr) -> bool {
    let parts = name.to_str().and_then(|name| name.strip_suffix(".json")?.split_once('-'));
    parts.is_some_and(|(action, command)| is_number(action) && is_number(command))
}

fn reason_of(name: &OsStr) -> Option<&OsStr> {
    name.as_bytes().strip_suffix(REASON.as_bytes()).map(OsStr::from_bytes)
}

/// Returns the name under which a refused file is kept: its own, unless that could be taken for one of the mirror's or
/// for a reason, or leaves no room for the name of its reason.
fn kept_name(name: &OsStr) -> OsString {
    let mut bytes = name.as_bytes().to_vec();
    if is_action_name(name) || reason_of(name).is_some() {
        bytes.splice(..0, *b"dropped-");
        bytes.extend(if reason_of(name).is_some() { &b".file"[..] } else { b"" });
    }
    if bytes.len() > limits::SPOOL_NAME_BYTES_MAX {
        let hash = hex::encode(&Sha256::digest(&bytes)[..8]);
        bytes.truncate(limits::SPOOL_NAME_BYTES_MAX - 17);
        bytes.push(b'-');
        bytes.extend(hash.as_bytes());
    }
    OsString::from_vec(bytes)
}

/// Keeps the first error of several pieces of work, none of which stops the others.
#[derive(Default)]
struct First(Option<io::Error>);

impl First {
    fn note<T>(&mut self, done: io::Result<T>) -> Option<T> {
        match done {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.get_or_insert(error);
                None
            }
        }
    }

    fn end(self) -> io::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

impl Desk {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, own: HashMap::new(), unread: HashMap::new() }
    }

    /// Opened for each piece of work: whoever removes a directory and makes it again is not served the old one.
    fn tree(&self) -> io::Result<Tree> {
        Tree::open(&self.root)
    }

    /// Reads what was dropped, some files of it; puts aside what cannot be an action. The second value says whether
    /// there is more.
    pub(super) fn collect(&mut self, now: Timestamp) -> io::Result<(Vec<Dropped>, bool)> {
        let tree = self.tree()?;
        let names = tree.names(Place::New, limits::SPOOL_NAMES_MAX)?;
        let mut unread = std::mem::take(&mut self.unread);
        let (mut dropped, mut first, mut is_more) = (Vec::new(), First::default(), false);
        for name in names {
            if dropped.len() == limits::SPOOL_FILES_AT_ONCE {
                is_more = true;
                break;
            }
            let Some(Some(identity)) = first.note(tree.look(Place::New, &name)) else { continue };
            if self.own.get(&name) == Some(&identity) {
                continue;
            }
            let known = unread.remove(&name).filter(|(known, _)| *known == identity);
            match first.note(judge(&tree, &name, identity, known.map(|(_, since)| since), now)) {
                None | Some(Judged::Gone) => {}
                Some(Judged::Action(action, json)) => dropped.push(Dropped { name, identity, action, json }),
                Some(Judged::Wait) => _ = self.unread.insert(name, (identity, known.map_or(now, |(_, since)| since))),
                Some(Judged::Refused(reason)) => _ = first.note(put_aside(&tree, &name, &reason, now)),
            }
        }
        if is_more {
            // What was not looked at keeps the time since when it waits.
            self.unread.extend(unread);
        }
        first.end()?;
        Ok((dropped, is_more))
    }

    /// Takes dropped files away, whose outcomes are known. A file that is another by now stays.
    pub(super) fn settle(&mut self, outcomes: Vec<(OsString, Identity, Outcome)>, now: Timestamp) -> io::Result<()> {
        let tree = self.tree()?;
        let mut first = First::default();
        for (name, identity, outcome) in outcomes {
            if first.note(tree.look(Place::New, &name)).flatten() != Some(identity) {
                continue;
            }
            match outcome {
                Outcome::Taken => {
                    if first.note(tree.remove(Place::New, &name)).is_some() {
                        counter!("muster_spool_files_total", "outcome" => "imported").increment(1);
                    }
                }
                Outcome::Refused(reason) => _ = first.note(put_aside(&tree, &name, &reason, now)),
            }
        }
        first.end()
    }

    /// Writes files of the mirror, and removes those of the same names from where they were before.
    pub(super) fn show(&mut self, cards: Vec<Card>, now: Timestamp) -> io::Result<()> {
        let tree = self.tree()?;
        let mut first = First::default();
        for card in cards {
            first.note(self.show_one(&tree, &card, now));
        }
        first.end()
    }

    fn show_one(&mut self, tree: &Tree, card: &Card, now: Timestamp) -> io::Result<()> {
        if card.place == Place::New {
            self.make_room(tree, &card.name, now)?;
        }
        if let Some(reason) = &card.reason {
            tree.write(card.place, &with(&card.name, REASON), format!("{reason}\n").as_bytes(), now)?;
        }
        let written = tree.write(card.place, &card.name, &card.content, now)?;
        counter!("muster_spool_files_total", "outcome" => "mirrored").increment(1);
        if card.place == Place::New {
            self.own.insert(card.name.clone(), written);
        }
        let is_action = Place::ACTIONS.contains(&card.place);
        for place in if is_action { Place::ACTIONS } else { Place::COMMANDS } {
            if place != card.place {
                self.remove(tree, place, &card.name)?;
            }
        }
        Ok(())
    }

    /// Moves a file away that somebody dropped under a name of the mirror, or that an earlier run left: it is read like
    /// any other.
    fn make_room(&self, tree: &Tree, name: &OsStr, now: Timestamp) -> io::Result<()> {
        let there = tree.look(Place::New, name)?;
        if there.is_none() || there.as_ref() == self.own.get(name) {
            return Ok(());
        }
        let mut aside = OsString::from(format!("dropped-{}-", now.as_nanos()));
        aside.push(name);
        if tree.rename((Place::New, name), (Place::New, &aside))? {
            return Ok(());
        }
        Err(io::Error::other(format!("{} and {} are both in the way", shown(name), shown(&aside))))
    }

    /// Removes a file of the mirror, if it is that.
    fn remove(&mut self, tree: &Tree, place: Place, name: &OsStr) -> io::Result<()> {
        if place == Place::New {
            let Some(identity) = self.own.remove(name) else { return Ok(()) };
            if tree.look(place, name)? != Some(identity) {
                return Ok(());
            }
        }
        tree.remove(place, name)?;
        if place == Place::Invalid { tree.remove(place, &with(name, REASON)) } else { Ok(()) }
    }

    /// Removes files of the mirror that shall not be, and refused files of before `keep_since`. Returns the names of
    /// files that shall be and are not.
    pub(super) fn sweep(&mut self, wanted: &Wanted, keep_since: Timestamp) -> io::Result<Vec<OsString>> {
        let tree = self.tree()?;
        let mut missing = Vec::new();
        for place in Place::ALL {
            let is_action = Place::ACTIONS.contains(&place);
            let of = if is_action { &wanted.actions } else { &wanted.commands };
            let is_ours = if is_action { is_action_name } else { is_command_name };
            let there = tree.names(place, limits::SPOOL_NAMES_MAX)?;
            for name in there.iter().filter(|name| is_ours(name) && of.get(*name) != Some(&place)) {
                self.remove(&tree, place, name)?;
            }
            for (name, _) in of.iter().filter(|(_, at)| **at == place) {
                let identity = tree.look(place, name)?;
                if identity.is_none() || place == Place::New && identity.as_ref() != self.own.get(name) {
                    missing.push(name.clone());
                }
            }
        }
        sweep_refused(&tree, keep_since)?;
        Ok(missing)
    }
}

/// What a dropped file is.
enum Judged {
    /// It is not there any more.
    Gone,
    /// It may still be written.
    Wait,
    /// It can be tried.
    Action(Box<Action>, Vec<u8>),
    /// It never will be.
    Refused(String),
}

/// Reads a dropped file that is as it is since `since`.
fn judge(
    tree: &Tree,
    name: &OsStr,
    identity: Identity,
    since: Option<Timestamp>,
    now: Timestamp,
) -> io::Result<Judged> {
    if !identity.is_file() {
        return Ok(Judged::Refused("this is no regular file: links, directories and pipes are not followed".into()));
    }
    let max = limits::ACTION_BYTES_MAX;
    if identity.bytes > max as u64 {
        return Ok(Judged::Refused(format!("the file has {} bytes, an action at most {max}", identity.bytes)));
    }
    let is_settled = since.is_some_and(|since| now.since(since) >= limits::SPOOL_SETTLE);
    if since.is_some() && !is_settled {
        return Ok(Judged::Wait);
    }
    let (read, content) = match tree.read(Place::New, name, max) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Judged::Gone),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Ok(Judged::Refused(format!("the server may not read the file: {error}")));
        }
        Err(error) => return Err(error),
    };
    if read != identity {
        return Ok(Judged::Wait);
    }
    match Action::parse(&content) {
        Ok(action) => Ok(Judged::Action(Box::new(action), content)),
        Err(_) if !is_settled => Ok(Judged::Wait),
        Err(_) if content.is_empty() => Ok(Judged::Refused("the file is empty".into())),
        Err(error) => Ok(Judged::Refused(error.to_string())),
    }
}

/// Puts a refused file aside: first its reason, so that there is none without.
fn put_aside(tree: &Tree, name: &OsStr, reason: &str, now: Timestamp) -> io::Result<()> {
    let kept = kept_name(name);
    let other = with(&kept, &format!("-{}", now.as_nanos()));
    for kept in [kept, other] {
        if tree.look(Place::Invalid, &kept)?.is_some() {
            continue;
        }
        tree.write(Place::Invalid, &with(&kept, REASON), format!("{reason}\n").as_bytes(), now)?;
        if tree.rename((Place::New, name), (Place::Invalid, &kept))? {
            counter!("muster_spool_files_total", "outcome" => "refused").increment(1);
            warn!(file = %shown(name), reason, "the spool refused {}: {reason}", shown(name));
            return Ok(());
        }
    }
    Err(io::Error::other(format!("no free name was found for the refused file {}", shown(name))))
}

/// Removes refused files that are older than they are kept, and the oldest of too many.
fn sweep_refused(tree: &Tree, keep_since: Timestamp) -> io::Result<()> {
    let mut kept = Vec::new();
    for reason in tree.names(Place::Invalid, limits::SPOOL_NAMES_MAX)? {
        let Some(name) = reason_of(&reason) else { continue };
        if is_action_name(name) {
            // It goes with its action's file.
            if tree.look(Place::Invalid, name)?.is_none() {
                tree.remove(Place::Invalid, &reason)?;
            }
            continue;
        }
        let Some(identity) = tree.look(Place::Invalid, &reason)? else { continue };
        kept.push((identity.modified(), name.to_owned(), reason.clone()));
    }
    kept.sort();
    let too_many = kept.len().saturating_sub(limits::SPOOL_REFUSED_MAX);
    for (index, (at, name, reason)) in kept.iter().enumerate() {
        if *at >= keep_since && index >= too_many {
            break;
        }
        // A directory that holds something stays until somebody has looked at it.
        match tree.remove(Place::Invalid, name) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            other => {
                other?;
                tree.remove(Place::Invalid, reason)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_file_keeps_its_name_where_it_can_be_told_from_others() {
        let kept = |name: &str| kept_name(OsStr::new(name)).into_string().unwrap();
        for name in ["a.json", "12", "12.json.bak", "-", "x.reason.json"] {
            assert_eq!(kept(name), name);
        }
        assert_eq!(kept("12.json"), "dropped-12.json");
        assert_eq!(kept("a.reason"), "dropped-a.reason.file");
        assert_eq!(kept("12.json.reason"), "dropped-12.json.reason.file");
        let (one, two) = (kept(&"x".repeat(255)), kept(&"x".repeat(254)));
        assert!(one.len() == limits::SPOOL_NAME_BYTES_MAX && one != two, "{one}");
    }

    #[test]
    fn names_of_the_mirror_are_numbers() {
        assert!(is_action_name(OsStr::new("12.json")) && !is_action_name(OsStr::new("12-3.json")));
        assert!(is_command_name(OsStr::new("12-3.json")) && !is_command_name(OsStr::new("12.json")));
        assert!(!is_action_name(OsStr::new(".json")) && !is_command_name(OsStr::new("-.json")));
    }
}
