//! `muster module`: the modules that machines have, run on this machine.
//!
//! Stays true: no server is asked and nothing leaves this machine; a module runs with the rights of whoever runs the
//! command.

use crate::output::{Table, safe};
use crate::{Exit, Failure, Output, values};
use muster_core::{Clock, Timestamp};
use muster_modules::{ArgumentError, Context, Effect, Lines, Module, Stop, help, params_from_args, registry, run_here};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// `muster module`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster module list
  muster module help file
  muster module run file -path /etc -name '^passwd$'
  muster module run netstat --lp 22
  muster module params pkg --name '^openssl'       parameters as an action holds them

Flags of `run` may stand before or after the module, unless the module has one of that name: then it is the module's.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
enum Command {
    /// List the modules, the least weight that signatures of them must have, and whether they change anything
    List,
    /// Explain what a module takes; without a name, list the modules
    Help {
        /// The module
        name: Option<String>,
    },
    /// Run a module on this machine
    Run(RunArgs),
    /// Print the parameters that a command line makes, as JSON
    Params {
        /// The module
        name: String,
        /// The module's own arguments; `help` explains them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Print only what was found, and errors: no statistics
    #[arg(long)]
    found: bool,
    /// How long the module may take
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = "5m")]
    limit: Duration,
    /// Take the parameters from JSON instead of arguments, or from @FILE
    #[arg(long, value_name = "JSON")]
    parameters: Option<String>,
    /// The module
    name: String,
    /// The module's own arguments; `help` explains them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        values::now()
    }
}

impl Args {
    /// Runs the command.
    pub fn run(self, out: Output) -> Result<(), Failure> {
        match self.command {
            Command::List | Command::Help { name: None } => list(out),
            Command::Help { name: Some(name) } => out.help(&help(find(&name)?)),
            Command::Params { name, arguments } => match params_from_args(&name, &arguments) {
                Ok(parameters) => out.json(&parameters),
                Err(error) => explain(out, &name, &error),
            },
            Command::Run(args) => args.run(out),
        }
    }
}

fn find(name: &str) -> Result<&'static dyn Module, Failure> {
    registry::find(name).ok_or_else(|| {
        Failure::new(Exit::NotFound, "could not find the module", registry::missing(name)).next("muster module list")
    })
}

fn list(out: Output) -> Result<(), Failure> {
    let modules = registry::built_in().iter().map(|module| module.info());
    if out.json {
        return out.items(&modules.collect::<Vec<_>>());
    }
    let mut table = Table::new(&["MODULE", "WEIGHT", "CHANGES", "WHAT IT ANSWERS"]);
    for info in modules {
        let changes = if info.effect == Effect::Changes { "yes" } else { "no" };
        table.row([info.name.to_owned(), info.weight_min.to_string(), changes.to_owned(), info.summary.to_owned()]);
    }
    out.table(&table, "No modules.")
}

/// Prints help that was asked for, or fails.
fn explain(out: Output, name: &str, error: &ArgumentError) -> Result<(), Failure> {
    let next =
        if registry::find(name).is_some() { format!("muster module help {name}") } else { "muster module list".into() };
    match error {
        ArgumentError::Help(text) => out.help(text),
        other if registry::find(name).is_none() => {
            Err(Failure::new(Exit::NotFound, "could not make the module's parameters", other.to_string()).next(next))
        }
        other => Err(Failure::usage("could not make the module's parameters", other.to_string()).next(next)),
    }
}

impl RunArgs {
    fn run(self, out: Output) -> Result<(), Failure> {
        let module = find(&self.name)?;
        let parameters = match self.given() {
            Ok(parameters) => parameters?,
            Err(error) => return explain(out, &self.name, &error),
        };
        let context = Context { stop: Stop::after(self.limit), ..Context::new(Arc::new(SystemClock)) };
        let result = run_here(module, &parameters, &context);
        if out.json {
            out.json(&result)?;
        } else {
            let lines = if self.found { Lines::Found } else { Lines::All };
            for text in module.lines(&result, lines) {
                for line in shown(&self.name, &text) {
                    out.line(&line)?;
                }
            }
            // Where something was not looked at or cut, what was found is not all.
            for error in result.errors().iter().filter(|_| self.found) {
                out.note(&safe(error));
            }
        }
        let limited = |failure: Failure| {
            let failure = failure.on(&self.name);
            if !context.stop.is_asked() {
                return failure;
            }
            let limit = muster_modules::gotext::duration(self.limit);
            failure.next(format!(
                "it was stopped at its --limit of {limit}: allow more, or ask for less, such as a narrower path or a smaller maxdepth"
            ))
        };
        if result.success {
            return match result.errors().len() {
                0 => Ok(()),
                count => {
                    let why = format!("its answer has {count} {}", if count == 1 { "error" } else { "errors" });
                    Err(limited(Failure::new(Exit::Partial, "the module did not look at everything", why)))
                }
            };
        }
        let why = result.errors().last().cloned().unwrap_or_else(|| "it says that it did not succeed".to_owned());
        Err(limited(Failure::new(Exit::Failed, "the module failed", safe(&why))))
    }

    /// Returns the parameters, from JSON or from the module's own arguments.
    fn given(&self) -> Result<Result<Value, Failure>, ArgumentError> {
        const WHAT: &str = "could not read the module's parameters";
        let Some(text) = &self.parameters else { return params_from_args(&self.name, &self.arguments).map(Ok) };
        if !self.arguments.is_empty() {
            return Ok(Err(Failure::usage(WHAT, "they are given twice: by --parameters and by arguments")));
        }
        let text = match text.strip_prefix('@').map(|path| (path, std::fs::read_to_string(path))) {
            None => Ok(text.clone()),
            Some((_, Ok(text))) => Ok(text),
            Some((path, Err(error))) => Err(Failure::local(WHAT, path, &error)),
        };
        Ok(text.and_then(|text| serde_json::from_str(&text).map_err(|error| Failure::usage(WHAT, error.to_string()))))
    }
}

/// The module whose long form of a result has several lines.
const WITH_LONG_FORM: &str = "scribe";

/// Returns the lines that a text of a module is shown as. A line break in it is a name's or a value's, which must not look
/// like a line of its own.
fn shown(module: &str, text: &str) -> Vec<String> {
    let safe_between_tabs = |line: &str| line.split('\t').map(safe).collect::<Vec<_>>().join("\t");
    if module == WITH_LONG_FORM { text.lines().map(safe_between_tabs).collect() } else { vec![safe_between_tabs(text)] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        globals: crate::Globals,
        #[command(flatten)]
        args: Args,
    }

    fn run(words: &[&str]) -> Result<(), Failure> {
        let cli = Cli::try_parse_from(["module"].iter().chain(words)).unwrap_or_else(|error| panic!("{error}"));
        cli.args.run(Output { json: cli.globals.json, terminal: false, color: false })
    }

    fn code(words: &[&str]) -> Exit {
        run(words).unwrap_err().exit
    }

    #[test]
    fn a_modules_own_arguments_are_not_taken_for_the_commands() {
        let cli = Cli::try_parse_from(["m", "run", "--found", "file", "-path", "/etc", "-name", "x", "--mode", "y"]);
        let Command::Run(args) = cli.unwrap().args.command else { panic!() };
        assert!(args.found && args.name == "file");
        assert_eq!(args.arguments, ["-path", "/etc", "-name", "x", "--mode", "y"]);
    }

    #[test]
    fn a_name_with_a_line_break_makes_no_line_of_its_own() {
        assert_eq!(shown("file", "/tmp/a\n/etc/shadow [size:1]"), ["/tmp/a\\n/etc/shadow [size:1]"]);
        assert_eq!(shown("scribe", "master result: true\n\ttag: a\u{1b}"), ["master result: true", "\ttag: a\\u{1b}"]);
    }

    #[test]
    fn modules_run_here_and_say_how_they_ended() {
        assert!(run(&["list"]).is_ok() && run(&["--json", "list"]).is_ok() && run(&["help", "file"]).is_ok());
        assert!(run(&["help"]).is_ok());
        assert!(run(&["run", "timedrift"]).is_ok());
        assert!(run(&["params", "file", "help"]).is_ok());
        assert!(run(&["run", "--parameters", "{\"drift\": \"\"}", "timedrift"]).is_ok());
        assert_eq!(code(&["help", "nosuch"]), Exit::NotFound);
        assert_eq!(code(&["run", "nosuch"]), Exit::NotFound);
        assert_eq!(code(&["run", "file", "-nosuch", "x"]), Exit::Usage);
        // What the time was too short for names the time.
        let cut = ["run", "--limit", "1ns", "file", "-path", "/usr", "-name", "^none$"];
        let failure = run(&cut).unwrap_err();
        assert!(failure.next.contains("--limit of 1ns"), "{failure}");
        assert_eq!(code(&["run", "--parameters", "{", "file"]), Exit::Usage);
        assert_eq!(code(&["run", "--parameters", "{}", "timedrift", "-drift", "5s"]), Exit::Usage);
        assert_eq!(code(&["run", "--parameters", "@/nonexistent", "file"]), Exit::Failed);
        assert_eq!(code(&["run", "--parameters", "{\"drift\": \"soon\"}", "timedrift"]), Exit::Failed);
    }
}
