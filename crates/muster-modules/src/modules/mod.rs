//! The modules, a file or a folder each.

pub(crate) mod agentdestroy;
pub(crate) mod file;
pub(crate) mod mounts;
pub(crate) mod netstat;
pub(crate) mod ping;
pub(crate) mod pkg;
pub(crate) mod process;
pub(crate) mod scribe;
pub(crate) mod services;
pub(crate) mod sshkey;
pub(crate) mod sysinfo;
pub(crate) mod timedrift;
pub(crate) mod users;

pub(crate) mod list;
mod packages;
mod program;

#[cfg(test)]
pub(crate) mod testing;
