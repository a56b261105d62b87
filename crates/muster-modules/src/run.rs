//! One question in one process: parameters in on one line, the result out on one line.

use crate::message::{self, CLASS_STOP};
use crate::module::{Context, Module, Refused};
use crate::result::ModuleResult;
use serde_json::Value;
use std::io::{BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often is looked whether a module should have ended.
const LOOK: Duration = Duration::from_millis(20);
/// How long a module that was asked to stop may take to end by itself. After that it hangs.
const HANG_TIME: Duration = Duration::from_secs(1);
/// Bytes of stack of the thread that a module runs in, as much as a program's first thread has.
const STACK_BYTES: usize = 8 * 1024 * 1024;
/// The name of that thread.
const THREAD: &str = "module";

/// Reads a question from `input`, answers it with `module` and writes the result to `output` as one line.
///
/// While the module works, `input` is read for a message of class `stop`, which makes the module end early with what it
/// has. The thread that reads ends with `input`, which for a process is its own end.
///
/// # Errors
/// The result could not be written. Everything else that fails is in the result.
pub fn run<R, W>(
    module: &'static dyn Module,
    input: R,
    mut output: W,
    context: &Context,
) -> std::io::Result<ModuleResult>
where
    R: Read + Send + 'static,
    W: Write,
{
    let mut input = BufReader::new(input);
    let result = match message::read_parameters(&mut input) {
        Err(Refused(why)) => ModuleResult::failed(why),
        Ok(parameters) => {
            let stop = context.stop.clone();
            std::thread::spawn(move || {
                while let Ok(message) = message::read_message(&mut input) {
                    if message.class == CLASS_STOP {
                        stop.ask();
                        return;
                    }
                }
            });
            run_here(module, &parameters, context)
        }
    };
    let mut line = serde_json::to_vec(&result)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()?;
    Ok(result)
}

/// Answers, at the latest [`HANG_TIME`] after the module was asked to stop: one that hangs then is left behind in a thread
/// of its own, and its answer is what it had found, with what it was doing. A defect of the module makes a result that says
/// so. Whoever calls this ends the process soon, because nothing else ends such a thread.
pub fn run_here(module: &'static dyn Module, parameters: &Value, context: &Context) -> ModuleResult {
    keep_defects_quiet();
    let (answer, answered) = mpsc::channel();
    let (asked, theirs) = (parameters.clone(), context.clone());
    let thread = std::thread::Builder::new().name(THREAD.to_owned()).stack_size(STACK_BYTES);
    let started = thread.spawn(move || {
        // A question must have an answer, also when it finds a defect: the asker waits for every machine.
        let result = catch_unwind(AssertUnwindSafe(|| module.run(&asked, &theirs)));
        // Nobody waits for the answer of one that was taken for hanging.
        let _ = answer.send(result.ok());
    });
    let name = module.info().name;
    if let Err(error) = started {
        return ModuleResult::failed(format!(
            "module '{name}' could not be started: {}",
            crate::gotext::reason(&error)
        ));
    }
    let mut stopped: Option<Instant> = None;
    loop {
        match answered.recv_timeout(LOOK) {
            Ok(Some(result)) => return result,
            Ok(None) | Err(RecvTimeoutError::Disconnected) => {
                return ModuleResult::failed(format!("module '{name}' ended by a defect of its own"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if context.stop.is_asked() && stopped.get_or_insert_with(Instant::now).elapsed() >= HANG_TIME {
            return context.progress.unfinished(name);
        }
    }
}

/// Keeps what a defect would print, with the place in the source where it was built, away from whoever reads answers.
fn keep_defects_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name() != Some(THREAD) {
                before(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{ArgumentError, Flag, Given};
    use crate::module::{Effect, Lines, ModuleInfo, Privilege, Stop, Typed};
    use crate::modules::testing::context;
    use serde_json::json;
    use std::path::Path;

    /// A module that finds something and then hangs, or breaks.
    struct Odd;

    #[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
    #[serde(default)]
    struct Parameters {
        breaks: bool,
    }

    impl Typed for Odd {
        type Parameters = Parameters;
        const INFO: ModuleInfo = ModuleInfo {
            name: "odd",
            summary: "",
            weight_min: 1,
            effect: Effect::Reads,
            privilege: Privilege::None,
            needs: crate::Needs::SYSTEM,
        };
        const EXAMPLE: &'static str = "";
        const FLAGS: &'static [Flag] = &[];

        fn from_flags(_: &Given) -> Result<Parameters, ArgumentError> {
            Ok(Parameters::default())
        }

        fn validate(_: &Parameters) -> Result<(), Refused> {
            Ok(())
        }

        fn answer(parameters: Parameters, context: &Context) -> Result<ModuleResult, Refused> {
            assert!(!parameters.breaks, "a text with a place in it");
            context
                .progress
                .so_far(|| ModuleResult::ran(true, json!(["one"]), ()).with_errors(vec!["first".to_owned()]));
            context.progress.doing(|| "reading /far".to_owned());
            // Nothing ever sends: it hangs as a call of the system would.
            let (_open, never) = mpsc::channel::<()>();
            let _ = never.recv();
            Ok(ModuleResult::default())
        }

        fn lines(_: &ModuleResult, _: Lines) -> Vec<String> {
            Vec::new()
        }
    }

    #[test]
    fn a_module_that_hangs_answers_with_what_it_found_and_what_it_was_doing() {
        let begun = Instant::now();
        let context = Context { stop: Stop::after(Duration::from_millis(100)), ..context(Path::new("/")) };
        let result = run_here(&Odd, &json!({}), &context);
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert!(result.foundanything && !result.success && result.elements == json!(["one"]), "{result:?}");
        let hangs =
            "module 'odd' was stopped before its end: it hangs while reading /far; what it found until then is here";
        assert_eq!(result.errors(), ["first", hangs]);
    }

    #[test]
    fn a_defect_is_said_in_words_of_ours() {
        let result = run_here(&Odd, &json!({"breaks": true}), &context(Path::new("/")));
        assert_eq!(result, ModuleResult::failed("module 'odd' ended by a defect of its own"));
    }
}
