//! One question in one process: parameters in on one line, the result out on one line.

use crate::message::{self, CLASS_STOP};
use crate::module::{Context, Module, Refused};
use crate::result::ModuleResult;
use serde_json::Value;
use std::io::{BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Reads a question from `input`, answers it with `module` and writes the result to `output` as one line.
///
/// While the module works, `input` is read for a message of class `stop`, which makes the module end early with what it
/// has. The thread that reads ends with `input`, which for a process is its own end.
///
/// # Errors
/// The result could not be written. Everything else that fails is in the result.
pub fn run<R, W>(module: &dyn Module, input: R, mut output: W, context: &Context) -> std::io::Result<ModuleResult>
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

/// Answers in this thread. A defect of the module makes a result that says so.
pub fn run_here(module: &dyn Module, parameters: &Value, context: &Context) -> ModuleResult {
    // A question must have an answer, also when it finds a defect: the asker waits for every machine.
    let answer = catch_unwind(AssertUnwindSafe(|| module.run(parameters, context)));
    answer.unwrap_or_else(|_| {
        ModuleResult::failed(format!("module '{}' ended by a defect of its own", module.info().name))
    })
}
