//! A process that is one module: it gives up what it does not need, reads one question and answers it.
//!
//! Stays true: nothing is read before limits and privileges are lowered; the answer is one line, also when it is that
//! something failed. A program that can be a module calls [`entry`] first thing in `main`, before it has threads.

use crate::confine::{self, Code, Confinement};
use crate::foreign::{Plan, open_program};
use crate::module::Context;
use crate::registry;
use crate::result::ModuleResult;
use crate::sandbox::Walls;
use crate::user;
use muster_core::Clock;
use std::ffi::{CStr, OsString};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::sync::Arc;

/// The first argument of a process that is to be a module; the second is its [`Plan`].
pub const ARGUMENT: &str = "module-process";

/// The name of such a process in tables of processes.
pub(crate) const PROCESS_NAME: &CStr = c"muster-module";

/// Becomes a module, or what ends the processes that one left, when that is what the process was started for; otherwise
/// returns `None`, having done nothing.
///
/// `arguments` are those of the process, with its own name first.
pub fn entry(arguments: impl IntoIterator<Item = OsString>, clock: Arc<dyn Clock>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter().skip(1);
    let first = arguments.next()?;
    if first == user::END_ARGUMENT {
        return Some(user::be_ender(arguments.next(), arguments.next()));
    }
    if first != ARGUMENT {
        return None;
    }
    // The program is started by a name that the system made: without this, tables of processes would show `exe`. A name
    // that cannot be set changes nothing else.
    let _ = rustix::thread::set_name(PROCESS_NAME);
    let plan = arguments.next().and_then(|plan| serde_json::from_str(plan.to_str()?).ok());
    let ended = plan.ok_or_else(|| "the plan of the module's process is missing or damaged".to_owned());
    Some(match ended.and_then(|plan| be(&plan, clock)) {
        Ok(code) => code,
        Err(why) => tell(&ModuleResult::failed(why)),
    })
}

fn be(plan: &Plan, clock: Arc<dyn Clock>) -> Result<ExitCode, String> {
    if plan.foreign.is_some() {
        return Err(be_foreign(plan));
    }
    let module = registry::find(&plan.module).ok_or_else(|| registry::missing(&plan.module))?;
    let info = module.info();
    let (limits, walls) = (&plan.limits, Walls::of_ours(info.needs));
    let (privilege, effect) = (info.privilege, info.effect);
    confine::lower(&Confinement { limits, privilege, effect, code: Code::Ours, walls }).map_err(|e| e.to_string())?;
    let context = Context { asker: plan.asker.clone(), ..Context::new(clock) };
    // An answer that cannot be written has nobody left to read it.
    Ok(match crate::run(module, std::io::stdin(), std::io::stdout().lock(), &context) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

/// Becomes another program. Returns only when that fails.
fn be_foreign(plan: &Plan) -> String {
    let Some(foreign) = &plan.foreign else { return registry::missing(&plan.module) };
    let program = match open_program(foreign) {
        Ok(program) => program,
        Err(why) => return why,
    };
    let (limits, walls, code) = (&plan.limits, foreign.walls(), Code::Foreign(plan.users));
    let (privilege, effect) = (foreign.privilege, foreign.effect);
    if let Err(error) = confine::lower(&Confinement { limits, privilege, effect, code, walls }) {
        return error.to_string();
    }
    // The program is executed through the file that was hashed, not through its name again. A script's interpreter opens
    // that file once more, so it stays open in the new program.
    if let Err(error) = rustix::io::fcntl_setfd(&program, rustix::io::FdFlags::empty()) {
        return format!("could not hand on {}: {error}", foreign.path.display());
    }
    let opened = format!("/proc/self/fd/{}", program.as_raw_fd());
    let error = Command::new(opened).arg0(&foreign.path).args(&foreign.arguments).exec();
    format!("could not run {}: {}", foreign.path.display(), crate::gotext::reason(&error))
}

fn tell(result: &ModuleResult) -> ExitCode {
    let line = serde_json::to_string(result).expect("a result is text, truth values and JSON");
    let told = writeln!(std::io::stdout().lock(), "{line}");
    if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
