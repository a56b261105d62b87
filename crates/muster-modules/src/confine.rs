//! How a module's process gives up what it does not need, before it reads a word.
//!
//! Stays true: it happens in the process itself, while it has one thread, so nothing runs with more; what cannot be given
//! up ends the process with a result that says so. A process that is not root keeps its user and loses nothing it has
//! not. A module of this program becomes nobody; another program becomes a user of its own, so that all it ever starts
//! can be told from everything else, and ended ([`crate::user`]).

use crate::module::{Effect, Privilege};
use crate::sandbox::Walls;
use crate::user::{self, Users};
use muster_core::limits::{MODULE_FILES_MAX, MODULE_MEMORY_BYTES_MAX, MODULE_PROCESSES_MAX, MODULE_PROCESSOR_S_MAX};
use rustix::io;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, getrlimit, set_dumpable_behavior, set_parent_process_death_signal,
    setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capabilities, configure_capability_in_ambient_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use serde::{Deserialize, Serialize};

/// The user and group that own nothing.
const NOBODY: u32 = 65_534;

/// What a process that only reads keeps of the capabilities of an agent whose user it keeps.
const READING: CapabilitySet = CapabilitySet::DAC_READ_SEARCH.union(CapabilitySet::SYS_PTRACE);

/// What a module's process may use of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of address space.
    pub memory_bytes: u64,
    /// Seconds of processor time.
    pub processor_s: u64,
    /// Files open at once.
    pub files: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_bytes: MODULE_MEMORY_BYTES_MAX, processor_s: MODULE_PROCESSOR_S_MAX, files: MODULE_FILES_MAX }
    }
}

/// Whose code the process is going to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// A module of this program.
    Ours,
    /// Another program, which is executed as one of these users.
    Foreign(Users),
}

/// What a process gives up before it is a module.
#[derive(Debug)]
pub(crate) struct Confinement<'a> {
    pub(crate) limits: &'a Limits,
    pub(crate) privilege: Privilege,
    pub(crate) effect: Effect,
    pub(crate) code: Code,
    /// What the kernel keeps from it beside; `None`: nothing.
    pub(crate) walls: Option<Walls>,
}

/// What could not be given up.
#[derive(Debug, thiserror::Error)]
#[error("could not {step} for a module's process")]
pub struct ConfineError {
    /// The step that failed.
    pub step: &'static str,
    /// What the system answered.
    #[source]
    pub source: io::Errno,
}

/// Why a process is no module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LowerError {
    /// A limit or a privilege that could not be lowered.
    #[error("{0}: {source}", source = .0.source)]
    Step(#[from] ConfineError),
    /// The kernel can keep something from it, and refused to.
    #[error("{0}")]
    Walls(String),
}

fn step<T>(step: &'static str, result: io::Result<T>) -> Result<T, ConfineError> {
    result.map_err(|source| ConfineError { step, source })
}

/// Gives up what a module of this privilege and effect does not need. Called while the process has one thread.
///
/// # Errors
/// Something that could not be given up. The process must not go on then.
pub(crate) fn lower(confinement: &Confinement<'_>) -> Result<(), LowerError> {
    let Confinement { limits, privilege, effect, code, ref walls } = *confinement;
    // When the machine has no memory left, the module goes and never the agent. A system without the file goes without.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    limit("limit memory", Resource::As, limits.memory_bytes)?;
    limit("limit processor time", Resource::Cpu, limits.processor_s)?;
    limit("limit open files", Resource::Nofile, limits.files)?;
    limit("forbid core files", Resource::Core, 0)?;
    if effect == Effect::Reads {
        // Pipes are no files to this limit: the result can still be written.
        limit("forbid writing files", Resource::Fsize, 0)?;
    }
    if rustix::process::geteuid().is_root() && privilege != Privilege::Agent {
        become_somebody(needed(privilege), code)?;
    } else if privilege == Privilege::Agent && effect == Effect::Reads {
        keep_only(permitted(READING)?, true)?;
    }
    // After the change of user, which forgets it: a module does not outlive the agent that asked.
    step("tie the process to the agent", set_parent_process_death_signal(Some(Signal::KILL)))?;
    step("forbid new privileges", set_no_new_privs(true))?;
    walls.as_ref().map_or(Ok(()), Walls::put_up).map_err(LowerError::Walls)
}

fn limit(what: &'static str, resource: Resource, most: u64) -> Result<(), ConfineError> {
    // Never above what the process was given: raising is not ours to do, and fails without privileges.
    let most = getrlimit(resource).maximum.map_or(most, |given| given.min(most));
    step(what, setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }))
}

fn needed(privilege: Privilege) -> CapabilitySet {
    match privilege {
        Privilege::None | Privilege::Agent => CapabilitySet::empty(),
        Privilege::ReadFiles => CapabilitySet::DAC_READ_SEARCH,
        Privilege::ReadProcesses => CapabilitySet::DAC_READ_SEARCH | CapabilitySet::SYS_PTRACE,
        Privilege::RawSockets => CapabilitySet::NET_RAW,
    }
}

fn become_somebody(needed: CapabilitySet, code: Code) -> Result<(), ConfineError> {
    let keep = permitted(needed)?;
    let number = match code {
        Code::Ours => NOBODY,
        // Counted by user, which is why it must be a user of its own.
        Code::Foreign(users) => {
            limit("limit processes", Resource::Nproc, MODULE_PROCESSES_MAX)?;
            user::free(users)
        }
    };
    let (user, group) = (Uid::from_raw(number), Gid::from_raw(number));
    step("keep capabilities", set_keep_capabilities(true))?;
    step("leave the groups", set_thread_groups(&[]))?;
    step("change the group", set_thread_res_gid(group, group, group))?;
    step("change the user", set_thread_res_uid(user, user, user))?;
    let is_foreign = code != Code::Ours;
    keep_only(keep, is_foreign)?;
    if is_foreign {
        // The change of user closed /proc/self to the process, where the program to execute is named.
        step("open the process to itself", set_dumpable_behavior(DumpableBehavior::Dumpable))?;
    }
    Ok(())
}

/// Returns those of `needed` that there are: an agent that was itself given less than a module needs lets it do what it can.
fn permitted(needed: CapabilitySet) -> Result<CapabilitySet, ConfineError> {
    Ok(needed & step("look at capabilities", capabilities(None))?.permitted)
}

/// Gives up all capabilities but `keep`. A program that is executed later has those when they are handed on; it gets no
/// others back, as root neither, since the process can gain no privileges then.
fn keep_only(keep: CapabilitySet, hand_on: bool) -> Result<(), ConfineError> {
    let inheritable = if hand_on { keep } else { CapabilitySet::empty() };
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable };
    step("drop capabilities", set_capabilities(None, sets))?;
    for capability in inheritable.iter() {
        step("hand capabilities on", configure_capability_in_ambient_set(capability, true))?;
    }
    Ok(())
}
