//! Runs operations: each in a process of its own, several at once, none longer than its order allows.
//!
//! Stays true: a module's process has its limits before it reads a word; whatever it does, an operation ends with a
//! result, and its process is gone then; a thread waits for each process, never the agent's own. What an order's
//! operations answer is kept as text, and is no more together than a server takes. Not here: who may ask.

use super::pack::Part;
use muster_core::limits;
use muster_modules::confine::Limits;
use muster_modules::foreign::{Catalogue, ForeignModule};
use muster_modules::host::{Ended, Host, Patience};
use muster_modules::module::Asker;
use muster_modules::{ModuleResult, Stop};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Processes at once, over all orders.
const PROCESSES_MAX: usize = 8;
/// How often a call that waits for its turn looks whether it was called back.
const LOOK: Duration = Duration::from_millis(200);
/// Stack of a thread that waits for a process.
const STACK_BYTES: usize = 512 * 1024;
/// Bytes of one answer: what is larger would not fit into a message anyway, however well it is packed.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of all answers to one order: what the server takes.
#[expect(clippy::cast_possible_truncation, reason = "16 MiB fit every pointer")]
const ANSWERS_BYTES_MAX: usize = limits::RESULT_BYTES_MAX as usize;

/// One call of a module.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Which module.
    pub(crate) module: String,
    /// What it is told, or why that cannot be read.
    pub(crate) parameters: Result<Value, String>,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// The module answered, and says that it ran well.
    Success,
    /// It did not, or there is no answer.
    Failed,
    /// It took too long.
    Timeout,
    /// It was called back.
    Cancelled,
}

impl Status {
    /// Returns MIG's word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How long a call may take, and by whose word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TimeLimit {
    /// As long as the agent's configuration allows.
    Configured(Duration),
    /// Until the order's window ends, which is sooner.
    Window(Duration),
}

impl TimeLimit {
    fn time(self) -> Duration {
        match self {
            Self::Configured(time) | Self::Window(time) => time,
        }
    }

    /// Says what ended a module before it was done, and what can be done about it.
    fn reason(self) -> String {
        match self {
            Self::Configured(time) => format!(
                "this agent gives an operation {} (module_timeout): ask for less at once, such as a narrower path or a smaller \
                 maxdepth, or set a longer module_timeout in the agent's configuration",
                muster_modules::gotext::duration(time)
            ),
            Self::Window(_) => {
                "the order's window ended, which leaves an operation no more time: ask again with a longer one \
                 (--expires-in)"
                    .to_owned()
            }
        }
    }
}

/// Runs operations.
#[derive(Debug)]
pub(crate) struct Runner {
    host: Host,
    catalogue: Catalogue,
    limits: Limits,
    time_max: Duration,
    places: Arc<Semaphore>,
    is_private: bool,
}

impl Runner {
    /// Puts one together. `time_max`: how long one operation may take.
    pub(crate) fn new(catalogue: Catalogue, time_max: Duration) -> Self {
        // The running program itself, also when its file was replaced by a newer one.
        let host = Host { program: "/proc/self/exe".into(), arguments: Vec::new() };
        let places = Arc::new(Semaphore::new(PROCESSES_MAX));
        // Who allows more time allows more work: a module that is killed for it loses all that it found.
        let processor_s = limits::MODULE_PROCESSOR_S_MAX.max(time_max.as_secs());
        let limits = Limits { processor_s, ..Limits::default() };
        Self { host, catalogue, limits, time_max, places, is_private: false }
    }

    /// Says whether results keep the names of files to themselves.
    pub(crate) fn private(self, is_private: bool) -> Self {
        Self { is_private, ..self }
    }

    /// The modules of this machine.
    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Runs calls side by side and returns their results in the same order. None takes longer than `left`.
    pub(crate) async fn run(&self, calls: Vec<Call>, left: Duration, stop: &Stop) -> Vec<(Status, Part)> {
        let limit = if left < self.time_max { TimeLimit::Window(left) } else { TimeLimit::Configured(self.time_max) };
        let room = Room::new(ANSWERS_BYTES_MAX);
        let run = |call| async {
            let (status, part) = self.run_one(call, limit, stop).await;
            if room.take(part.bytes()) { (status, part) } else { (Status::Failed, part.replaced(&no_room())) }
        };
        futures_util::future::join_all(calls.into_iter().map(run)).await
    }

    async fn run_one(&self, call: Call, limit: TimeLimit, stop: &Stop) -> (Status, Part) {
        let time = limit.time();
        let due = tokio::time::Instant::now() + time;
        let place = tokio::select! {
            place = Arc::clone(&self.places).acquire_owned() => Ok(place.expect("the semaphore is never closed")),
            () = tokio::time::sleep_until(due) => Err(Ended::TimedOut(time)),
            () = asked_to_stop(stop) => Err(Ended::Stopped),
        };
        match place {
            Ok(place) => {
                let left = due.saturating_duration_since(tokio::time::Instant::now());
                let ended = self.ask(call, (left, limit), stop.clone()).await;
                drop(place);
                ended
            }
            Err(ended) => Told { name: &call.module, stop, limit, is_private: self.is_private }.part(ended),
        }
    }

    /// Makes a call that has `time` left of its `limit`.
    async fn ask(&self, call: Call, (time, limit): (Duration, TimeLimit), stop: Stop) -> (Status, Part) {
        let name = call.module.clone();
        let is_private = self.is_private;
        let told = Told { name: &name, stop: &stop, limit, is_private };
        // What keeps one call from being made is its answer, and no other's.
        let failed = |why: String| told.part(Ended::Answered(ModuleResult::failed(why)));
        let not_started = |why: String| told.part(Ended::NotStarted(why));
        if stop.is_asked() {
            return told.part(Ended::Stopped);
        }
        let executable = std::env::current_exe().unwrap_or_default();
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        let asker = Some(Asker { pid, executable });
        let Some(plan) = self.catalogue.plan(&call.module, self.limits, asker) else {
            return failed(muster_modules::registry::missing(&call.module));
        };
        let parameters = match call.parameters {
            Ok(parameters) => parameters,
            Err(why) => return failed(why),
        };
        let (host, patience) = (self.host.clone(), Patience { time, output_bytes: ANSWER_BYTES_MAX });
        let (answer, answered) = oneshot::channel();
        let thread = std::thread::Builder::new().name("module".into()).stack_size(STACK_BYTES);
        let wish = stop.clone();
        let started = thread.spawn(move || {
            let ended = host.ask(&plan, &parameters, patience, &wish);
            // Nobody waits for the answer any more when the agent is ending.
            let _ = answer.send(Told { name: &call.module, stop: &wish, limit, is_private }.part(ended));
        });
        match started {
            Ok(_) => answered.await.unwrap_or_else(|_| not_started("the thread that waited for it died".into())),
            Err(error) => not_started(format!("there is no thread for it: {error}")),
        }
    }
}

/// What is known of a call when it has ended.
struct Told<'a> {
    name: &'a str,
    stop: &'a Stop,
    limit: TimeLimit,
    is_private: bool,
}

impl Told<'_> {
    /// Returns the state of the call, and its result as it travels.
    fn part(&self, ended: Ended) -> (Status, Part) {
        let name = self.name;
        if matches!(ended, Ended::Left(_)) {
            tracing::error!(module = name, "processes that a module started could not be ended and are still there");
        }
        let status = match &ended {
            Ended::Answered(result) | Ended::AnsweredLate(result) if result.success => Status::Success,
            // A module that was asked to stop answers with what it has.
            Ended::Answered(_) | Ended::AnsweredLate(_) | Ended::Stopped if self.stop.is_asked() => Status::Cancelled,
            Ended::Stopped => Status::Cancelled,
            Ended::TimedOut(_) => Status::Timeout,
            _ => Status::Failed,
        };
        let is_late = is_late(&ended);
        let mut result = ended.into_result(name);
        // One that came to its end in the last moment left nothing out.
        if is_late && !(result.success && result.errors().is_empty()) {
            result = result.with_errors(vec![self.limit.reason()]);
        }
        if self.is_private {
            muster_modules::privacy::mask(name, &mut result);
        }
        (status, Part::of(&result))
    }
}

/// Whether the end of its time ended it.
fn is_late(ended: &Ended) -> bool {
    match ended {
        Ended::TimedOut(_) | Ended::AnsweredLate(_) => true,
        Ended::Left(ended) => is_late(ended),
        _ => false,
    }
}

/// Room for the answers of one order.
#[derive(Debug)]
struct Room(AtomicUsize);

impl Room {
    fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    /// Takes room for an answer, with what stands between it and the next. Returns whether there is so much.
    fn take(&self, bytes: usize) -> bool {
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes + 1));
        taken.is_ok()
    }
}

fn no_room() -> String {
    format!("does not fit any more: all answers to one order have at most {ANSWERS_BYTES_MAX} bytes together")
}

/// Returns soon after somebody asked to stop.
async fn asked_to_stop(stop: &Stop) {
    while !stop.is_asked() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Reads which programs of others are modules: a TOML file with a table for each. An empty path is none.
pub(crate) fn read_catalogue(path: &Path) -> anyhow::Result<Catalogue> {
    use anyhow::Context as _;
    if path.as_os_str().is_empty() {
        return Ok(Catalogue::default());
    }
    let reading = || format!("cannot read modules_file {}", path.display());
    let text = std::fs::read_to_string(path).with_context(reading)?;
    let modules: BTreeMap<String, ForeignModule> = toml::from_str(&text).with_context(reading)?;
    Catalogue::new(modules).with_context(reading)
}

/// Reads an operation's parameters as they were signed: JSON, or base64 of gzip of JSON.
pub(crate) fn parameters(signed: &str, is_compressed: bool) -> Result<Value, String> {
    let value: Value = serde_json::from_str(signed).map_err(|error| format!("the parameters are no JSON: {error}"))?;
    if !is_compressed {
        return Ok(value);
    }
    let unreadable = |why: String| format!("the parameters are not base64 of gzip of JSON: {why}");
    let text = value.as_str().ok_or_else(|| unreadable("they are no text".into()))?;
    let packed = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text)
        .map_err(|error| unreadable(error.to_string()))?;
    let most = limits::MODULE_PARAMETERS_BYTES_MAX;
    let mut json = Vec::new();
    let mut reader = std::io::Read::take(flate2::read::GzDecoder::new(&packed[..]), most as u64 + 1);
    std::io::Read::read_to_end(&mut reader, &mut json).map_err(|error| unreadable(error.to_string()))?;
    if json.len() > most {
        return Err(unreadable(format!("they are longer than {most} bytes")));
    }
    serde_json::from_slice(&json).map_err(|error| unreadable(error.to_string()))
}

/// Returns the state of the whole: success, or the first that is none.
pub(crate) fn together(statuses: &[Status]) -> Status {
    statuses.iter().copied().find(|status| *status != Status::Success).unwrap_or(Status::Success)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use std::io::Write as _;

    fn packed(json: &[u8]) -> String {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(json).unwrap();
        let text = base64::engine::general_purpose::STANDARD.encode(encoder.finish().unwrap());
        serde_json::to_string(&text).unwrap()
    }

    #[test]
    fn parameters_are_unpacked_within_bounds() {
        let value = serde_json::json!({"paths": ["/etc"]});
        assert_eq!(parameters(r#"{"paths":["/etc"]}"#, false), Ok(value.clone()));
        assert_eq!(parameters(&packed(br#"{"paths": ["/etc"]}"#), true), Ok(value));
        let bomb = packed(&vec![b' '; limits::MODULE_PARAMETERS_BYTES_MAX + 1]);
        for (bad, why) in [
            ("{}", "no text"),
            ("\"*\"", "base64"),
            ("\"aGVsbG8=\"", "gzip"),
            (packed(b"{\"a\":").as_str(), "EOF"),
            (bomb.as_str(), "longer than"),
        ] {
            let error = parameters(bad, true).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_answers_to_one_order_have_so_much_room_and_no_more() {
        let room = Room::new(20);
        assert!(room.take(9) && !room.take(10) && room.take(9) && !room.take(0));
        let part = Part::of(&ModuleResult::ran(true, "x".repeat(1000), 1)).replaced(&no_room());
        assert!(part.found && part.bytes() < 300);
    }

    #[test]
    fn the_first_that_is_no_success_decides() {
        use Status::{Cancelled, Failed, Success, Timeout};
        assert_eq!(together(&[Success, Timeout, Failed]), Timeout);
        assert_eq!(together(&[Cancelled]), Cancelled);
        assert_eq!(together(&[Success, Success]), Success);
    }

    #[test]
    fn programs_of_others_are_read_from_a_file_and_never_take_a_built_in_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("modules.toml");
        std::fs::write(&path, "[count]\npath = \"/usr/bin/true\"\nweight_min = 3\n").unwrap();
        let catalogue = read_catalogue(&path).unwrap();
        assert_eq!(catalogue.facts("count").unwrap().weight_min, 3);
        std::fs::write(&path, "[timedrift]\npath = \"/usr/bin/true\"\n").unwrap();
        assert!(format!("{:#}", read_catalogue(&path).unwrap_err()).contains("built in"));
        assert!(read_catalogue(&directory.path().join("none")).is_err());
        assert_eq!(read_catalogue(Path::new("")).unwrap(), Catalogue::default());
    }
}
