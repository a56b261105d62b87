//! What a module is.
//!
//! Stays true: everything a module needs of the world comes with its [`Context`]; a module looks at [`Context::stop`]
//! in every loop whose length a stranger decides, and notes in [`Context::progress`] what may hang and what it has found.

use crate::arguments::{ArgumentError, Flag, Given};
use crate::parameters;
use crate::result::ModuleResult;
use crate::sandbox::Needs;
use muster_core::Clock;
use muster_core::limits::MODULE_PARAMETERS_BYTES_MAX;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Whether a module leaves the machine as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It only looks.
    Reads,
    /// It changes the machine.
    Changes,
}

/// What a module's process may do beyond what anybody may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Privilege {
    /// Nothing: it runs as nobody.
    None,
    /// Read every file, and change none.
    ReadFiles,
    /// Read every file and look at every process.
    ReadProcesses,
    /// Send and receive raw packets.
    RawSockets,
    /// All that the agent may.
    Agent,
}

/// What is known of a module without running it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ModuleInfo {
    /// The name that actions use.
    pub name: &'static str,
    /// What it answers, in a few words.
    pub summary: &'static str,
    /// The least weight that signatures must have together, unless the agent's configuration asks for more.
    pub weight_min: u32,
    /// Whether it changes anything.
    pub effect: Effect,
    /// What its process keeps of the agent's privileges.
    pub privilege: Privilege,
    /// What it needs of the machine; the kernel keeps the rest from it.
    pub needs: Needs,
}

/// Why parameters are not accepted, or what ended a module: a text that MIG's users know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// A wish that a module end soon, from another thread or by a moment.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    wish: Arc<(Mutex<bool>, Condvar)>,
    deadline: Option<Instant>,
}

impl Stop {
    /// Returns a stop that comes by itself after `time`.
    pub fn after(time: Duration) -> Self {
        Self { deadline: Instant::now().checked_add(time), ..Self::default() }
    }

    /// Asks the module to end.
    pub fn ask(&self) {
        *self.wish.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wish.1.notify_all();
    }

    /// Tells whether the module should end.
    pub fn is_asked(&self) -> bool {
        let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        late || *self.wish.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `time`, or until the module should end; tells whether it should.
    pub fn wait(&self, time: Duration) -> bool {
        let time = self.remaining().map_or(time, |left| left.min(time));
        let asked = self.wish.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.wish.1.wait_timeout_while(asked, time, |asked| !*asked);
        drop(waited);
        self.is_asked()
    }

    /// Returns how long is left until the moment to end, when there is one.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

/// The agent that asks a module, as far as modules care.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// The agent's process.
    pub pid: i32,
    /// The agent's program.
    pub executable: PathBuf,
}

/// What a module has come to, for whoever has to answer when it hangs.
#[derive(Clone, Default)]
pub struct Progress(Arc<Mutex<Step>>);

/// Makes the result of what was found so far.
type SoFar = Arc<dyn Fn() -> ModuleResult + Send + Sync>;

#[derive(Default)]
struct Step {
    doing: String,
    so_far: Option<SoFar>,
}

impl Progress {
    /// Notes what is about to be done, such as `reading /home`, before a call of the system that may never return.
    pub fn doing(&self, what: impl FnOnce() -> String) {
        let what = what();
        self.step().doing = what;
    }

    /// Returns what was noted last.
    pub(crate) fn now(&self) -> String {
        self.step().doing.clone()
    }

    /// Notes how to make a result of what was found so far. It is called from another thread, while the module hangs.
    pub fn so_far(&self, result: impl Fn() -> ModuleResult + Send + Sync + 'static) {
        self.step().so_far = Some(Arc::new(result));
    }

    /// Returns the result of a module that hangs: what it found so far, and what it was doing. It is no success.
    pub(crate) fn unfinished(&self, name: &str) -> ModuleResult {
        let (doing, so_far) = {
            let step = self.step();
            (step.doing.clone(), step.so_far.clone())
        };
        let result = so_far.map(|so_far| so_far()).unwrap_or_default();
        let at = if doing.is_empty() { String::new() } else { format!(" while {doing}") };
        let why = format!("module '{name}' was stopped before its end: it hangs{at}; what it found until then is here");
        ModuleResult { success: false, ..result }.with_errors(vec![why])
    }

    fn step(&self) -> MutexGuard<'_, Step> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Progress").field(&self.step().doing).finish()
    }
}

/// The world around a module.
#[derive(Debug, Clone)]
pub struct Context {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// When to end early.
    pub stop: Stop,
    /// Where the machine's files begin: `/`, or a tree of its own in a test.
    pub root: PathBuf,
    /// The agent that asks; `None` when a person runs the module.
    pub asker: Option<Asker>,
    /// Where the module notes what it has come to.
    pub progress: Progress,
}

impl Context {
    /// Returns the world of this machine.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, stop: Stop::default(), root: PathBuf::from("/"), asker: None, progress: Progress::default() }
    }

    /// Returns where an absolute path of the machine lies.
    pub fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        self.root.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }
}

/// Which lines of a result to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// Only what was found.
    Found,
    /// Also what was not found, errors and statistics.
    All,
}

/// A module, whatever its parameters are.
pub trait Module: Send + Sync {
    /// Returns what is known of the module without running it.
    fn info(&self) -> &'static ModuleInfo;
    /// Returns what its command line takes.
    fn flags(&self) -> &'static [Flag];
    /// Returns a command line that makes sense, for its help.
    fn example(&self) -> &'static str;
    /// Makes parameters of what a command line said.
    fn parameters(&self, given: &Given) -> Result<Value, ArgumentError>;
    /// Tells whether the module would take these parameters.
    fn validate(&self, parameters: &Value) -> Result<(), Refused>;
    /// Answers. Parameters that are not valid make a result that says so.
    fn run(&self, parameters: &Value, context: &Context) -> ModuleResult;
    /// Writes a result as lines for people.
    fn lines(&self, result: &ModuleResult, lines: Lines) -> Vec<String>;
}

/// A module with parameters of its own type. Whatever is one is a [`Module`] too.
pub trait Typed: Send + Sync {
    /// What it is asked.
    type Parameters: DeserializeOwned + Serialize;
    /// What is known of it without running it.
    const INFO: ModuleInfo;
    /// A command line that makes sense, for its help.
    const EXAMPLE: &'static str;
    /// What its command line takes.
    const FLAGS: &'static [Flag];
    /// Makes parameters of what a command line said.
    fn from_flags(given: &Given) -> Result<Self::Parameters, ArgumentError>;
    /// Tells whether it would take these parameters.
    fn validate(parameters: &Self::Parameters) -> Result<(), Refused>;
    /// Answers parameters that are valid.
    fn answer(parameters: Self::Parameters, context: &Context) -> Result<ModuleResult, Refused>;
    /// Writes a result as lines for people.
    fn lines(result: &ModuleResult, lines: Lines) -> Vec<String>;

    /// Returns the result of a question that could not be answered; some modules fill in more.
    fn failure(refused: Refused) -> ModuleResult {
        ModuleResult::failed(refused.0)
    }
}

fn read<T: Typed>(parameters: &Value) -> Result<T::Parameters, Refused> {
    let mut parameters = parameters.clone();
    if parameters.is_null() {
        parameters = Value::Object(serde_json::Map::new());
    }
    without_nulls(&mut parameters);
    let read: T::Parameters =
        parameters::read(&parameters).map_err(|error| Refused(format!("ReadInputParameters() -> {error}")))?;
    T::validate(&read)?;
    Ok(read)
}

/// Takes away what is `null`: MIG's clients write it for "nothing said".
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(values) => values.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

impl<T: Typed> Module for T {
    fn info(&self) -> &'static ModuleInfo {
        &T::INFO
    }

    fn flags(&self) -> &'static [Flag] {
        T::FLAGS
    }

    fn example(&self) -> &'static str {
        T::EXAMPLE
    }

    fn parameters(&self, given: &Given) -> Result<Value, ArgumentError> {
        let parameters = T::from_flags(given)?;
        T::validate(&parameters).map_err(|Refused(why)| ArgumentError::Refused { module: T::INFO.name, why })?;
        Ok(crate::result::to_value(parameters))
    }

    fn validate(&self, parameters: &Value) -> Result<(), Refused> {
        if parameters.to_string().len() > MODULE_PARAMETERS_BYTES_MAX {
            return Err(Refused(format!("the parameters are longer than {MODULE_PARAMETERS_BYTES_MAX} bytes")));
        }
        read::<T>(parameters).map(drop)
    }

    fn run(&self, parameters: &Value, context: &Context) -> ModuleResult {
        read::<T>(parameters).and_then(|read| T::answer(read, context)).unwrap_or_else(T::failure)
    }

    fn lines(&self, result: &ModuleResult, lines: Lines) -> Vec<String> {
        T::lines(result, lines)
    }
}
