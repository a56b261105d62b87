//! Every id that this machine ever had: they follow from its keys, and a server may have it make another key.
//!
//! Stays true: an id is on the disk before its key is used, and no id is ever taken out; where the file cannot be read, the
//! machine may have had any. Not here: what follows for targets (muster-core), keys.

use crate::durable::{self, Sync};
use muster_core::target::FormerIds;
use muster_core::{AgentId, limits};
use std::io;
use std::path::{Path, PathBuf};

/// The file in the state directory: one id a line, the oldest first.
const FILE: &str = "agent.ids";

/// Why an id is not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdsError {
    /// The file cannot be read or written, or holds what is no id.
    #[error("cannot {verb} the list of the ids that this machine had, {}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is no room.
    #[error(
        "this machine had {} ids already, which are as many as it remembers: it keeps the key that it has",
        limits::AGENT_IDS_MAX
    )]
    Full,
}

/// Reads the ids that the machine whose state is in `directory` had, the present one among them.
pub(crate) fn read(directory: &Path) -> FormerIds {
    match list(directory) {
        Ok(ids) => FormerIds::Known(ids),
        Err(error) => {
            tracing::error!(error = %crate::chain::Chain(&error), "targets that ask for an id are left undecided");
            FormerIds::Unknown
        }
    }
}

/// Returns the ids in `directory`, the oldest first; none before the agent's first start.
pub(crate) fn list(directory: &Path) -> Result<Vec<AgentId>, IdsError> {
    let path = directory.join(FILE);
    let failed = |source| IdsError::File { verb: "read", path: path.clone(), source };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let ids = text.lines().map(str::parse).collect::<Result<Vec<AgentId>, _>>();
    ids.map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// Keeps ids in `directory` that are not kept yet: they are on the disk when this returns. A list that cannot be read is
/// left as it is.
pub(crate) fn keep(directory: &Path, ids: &[AgentId]) -> Result<(), IdsError> {
    let mut all = list(directory)?;
    let known = all.len();
    for id in ids {
        if !all.contains(id) {
            all.push(*id);
        }
    }
    if all.len() == known {
        return Ok(());
    }
    if all.len() > limits::AGENT_IDS_MAX {
        return Err(IdsError::Full);
    }
    let text = all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n") + "\n";
    let path = directory.join(FILE);
    let written = durable::replace(&path, text.as_bytes(), Sync::Power);
    written.map_err(|source| IdsError::File { verb: "write", path, source })
}

/// Whether there is room for one more id.
pub(crate) fn room_check(directory: &Path) -> Result<(), IdsError> {
    if list(directory)?.len() < limits::AGENT_IDS_MAX { Ok(()) } else { Err(IdsError::Full) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> AgentId {
        AgentId::from_bytes((number as u64).to_be_bytes())
    }

    #[test]
    fn ids_are_kept_once_and_in_their_order_and_none_is_forgotten_for_another() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        assert_eq!(read(directory), FormerIds::Known(vec![]));
        keep(directory, &[id(2)]).unwrap();
        keep(directory, &[id(2), id(1)]).unwrap();
        assert_eq!(read(directory), FormerIds::Known(vec![id(2), id(1)]));
        for number in 3..=limits::AGENT_IDS_MAX {
            room_check(directory).unwrap();
            keep(directory, &[id(number)]).unwrap();
        }
        assert!(matches!(room_check(directory), Err(IdsError::Full)));
        assert!(matches!(keep(directory, &[id(9999)]), Err(IdsError::Full)));
        keep(directory, &[id(1)]).unwrap();
        assert_eq!(list(directory).unwrap().len(), limits::AGENT_IDS_MAX);
    }

    #[test]
    fn a_list_that_cannot_be_read_is_no_empty_one_and_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        for bad in ["0011223344556677\nx\n", "0011", "\u{fffd}"] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(read(directory.path()), FormerIds::Unknown, "{bad}");
            let error = keep(directory.path(), &[id(1)]).unwrap_err();
            assert!(error.to_string().contains(FILE), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), bad);
        }
    }
}
