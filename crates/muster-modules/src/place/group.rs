//! Whom the group's rights on a file belong to.
//!
//! Stays true: they are ours only when nobody else can have them, as far as the files of this machine say; what cannot be
//! read counts as somebody else. Not here: accounts of directory services.

use super::{Keeper, PlaceError, is_ours};
use rustix::fs::lgetxattr;
use rustix::io::Errno;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Where Linux keeps a file's access list, if it has more than its mode.
const LIST: &str = "system.posix_acl_access";
/// Where accounts are, and with which group each begins.
pub(super) const ACCOUNTS: &str = "/etc/passwd";
/// Where groups are, and who is in each beside.
const GROUPS: &str = "/etc/group";

/// Returns whether the rights that the mode gives to the group of a file are those of nobody but root and `keeper`: there is
/// no access list, for which these rights are the most that anybody on it gets, and the group is root's, or the keeper's own
/// with no other member. `path` is what `found` was read of, with no link followed.
///
/// # Errors
/// Whether there is an access list cannot be found out.
pub fn group_is_ours(keeper: &Keeper, path: &Path, found: &Metadata) -> Result<bool, PlaceError> {
    if has_list(path)? {
        return Ok(false);
    }
    let group = found.gid();
    Ok(group == 0 || Some(group) == keeper.group() && !has_others(group, keeper.user()))
}

/// Whether a file has an access list beyond its mode.
pub(super) fn has_list(path: &Path) -> Result<bool, PlaceError> {
    let mut start = [0_u8; 1];
    match lgetxattr(path, LIST, &mut start) {
        // A list is longer than this.
        Ok(_) | Err(Errno::RANGE) => Ok(true),
        // There is none, or the file system has no such lists.
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(error) => Err(PlaceError::Look { path: path.to_owned(), source: error.into() }),
    }
}

/// Whether anybody but root and user `us` is in a group.
fn has_others(group: u32, us: u32) -> bool {
    let read = |path: &str| match std::fs::read(path) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        // A container may have neither accounts nor groups.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(String::new()),
        Err(_) => None,
    };
    let (Some(accounts), Some(groups)) = (read(ACCOUNTS), read(GROUPS)) else { return true };
    has_others_in(group, us, &accounts, &groups)
}

/// As [`has_others`], with what stands in the files of accounts and groups.
fn has_others_in(group: u32, us: u32, accounts: &str, groups: &str) -> bool {
    let number = |field: Option<&str>| field?.parse::<u32>().ok();
    let mut own_names = Vec::new();
    for line in accounts.lines() {
        // More accounts come from elsewhere (NIS).
        if line.starts_with(['+', '-']) {
            return true;
        }
        let fields: Vec<_> = line.split(':').collect();
        let (Some(user), begins_in) = (number(fields.get(2).copied()), number(fields.get(3).copied())) else {
            continue;
        };
        if is_ours(user, us) {
            own_names.push(fields[0]);
        } else if begins_in == Some(group) {
            return true;
        }
    }
    groups.lines().any(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let members = fields.get(3).into_iter().flat_map(|members| members.split(',')).map(str::trim);
        let mut others = members.filter(|member| !member.is_empty() && !own_names.contains(member));
        line.starts_with(['+', '-']) || number(fields.get(2).copied()) == Some(group) && others.next().is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNTS: &str = "root:x:0:0::/root:/bin/sh\nkim:x:1000:1000::/people/kim:/bin/sh\n\
        alex:x:1001:100::/people/alex:/bin/sh\nchris:x:1002:100::/people/chris:/bin/sh\nkim2:x:1000:100::/:/bin/sh\n";
    const GROUPS: &str =
        "root:x:0:\nusers:x:100:\nkim:x:1000:kim,root\nteam:x:2000:kim,chris\nlone:x:2001:\nself:x:2002: kim , kim2\n";

    #[test]
    fn a_group_is_ours_only_without_other_members() {
        for (group, us, others) in [
            (1000, 1000, false),
            // It is where other accounts begin.
            (100, 1001, true),
            (100, 1000, true),
            (1000, 1001, true),
            // It has others beside.
            (2000, 1000, true),
            (2001, 1000, false),
            (2002, 1000, false),
            // No file knows it.
            (4000, 4000, false),
        ] {
            assert_eq!(has_others_in(group, us, ACCOUNTS, GROUPS), others, "group {group} of user {us}");
        }
        assert!(!has_others_in(4000, 4000, "", ""), "as in a container without accounts");
        assert!(has_others_in(4000, 4000, "+::::::\n", ""), "some accounts are elsewhere");
        assert!(has_others_in(4000, 4000, "", "+:::\n"), "some groups are elsewhere");
        assert!(!has_others_in(1000, 1000, &format!("# note\n\nbroken:x\n{ACCOUNTS}"), &format!("x\n{GROUPS}")));
    }
}
