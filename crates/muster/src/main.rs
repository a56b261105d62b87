//! The program `muster`: the server, and every command for it.
//!
//! Stays true: this file only says which commands there are and who runs them; a command that speaks with a server is
//! muster-cli's, one that starts a server or opens its database is a file beside this one.

mod config;
mod database;
mod dev;
mod import;
mod serve;
mod usage;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;
use muster_cli::{Context, Exit, Failure, Globals, Operator, Output, book, commands, tell};
use std::path::PathBuf;
use std::process::ExitCode;

/// One server for a fleet of machines: enrols them by key, carries messages to and from them, loses nothing
#[derive(Debug, Parser)]
#[command(name = "muster", version, long_version = LONG_VERSION, arg_required_else_help = true, after_help = AFTER_HELP)]
#[command(max_term_width = 80)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// The version with the commit it was built from.
const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("MUSTER_COMMIT"), ")");

const AFTER_HELP: &str = "\
First steps:
  muster dev                     a server and this machine's agent, in a scratch directory
  muster serve                   a server with an embedded database in /var/lib/muster
  muster agent list              the machines it knows

Every flag is also an environment variable: MUSTER_, the commands that lead to it, and its name, unless its help
names another. Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused, 5 unreachable, 6 conflict, 7 timed out,
8 answers with errors or not whole, 130 interrupted.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server
    Serve(serve::ServeArgs),
    /// Try it: run a server and this machine's agent in a scratch directory
    Dev(dev::DevArgs),
    #[command(flatten)]
    Operator(Operator),
    /// Signed actions: write, sign, verify, launch, and what came back
    Action(commands::action::Args),
    /// Documents of trust, which tell machines whose orders to run: write, sign, send, compare
    Trust(commands::trust::Args),
    /// Modules, which answer questions about a machine: look, run on this machine
    Module(commands::module::Args),
    /// Look for what is wrong with the server and the way to it
    #[command(after_help = "\
Examples:
  muster doctor
  muster doctor --url https://muster.example:8080 --token @admin.token --json

Looks at this machine's files, the connection, the token and the clocks; then the server looks at its certificates,
database, doors, disk and file limit. Ends with 1 when something is wrong, or with the code of what kept it from looking.")]
    Doctor(config::DoctorArgs),
    /// Copy everything into one file, while the server runs
    #[command(after_help = "\
Examples:
  muster backup --out /backup/muster-2026-01-02.db
  muster backup --out copy.db --offline --data /var/lib/muster

The copy is one consistent moment, an SQLite file whichever database the server has. It holds the keys of the server:
keep it as safe as the server.")]
    Backup(database::BackupArgs),
    /// Fill an empty database from a backup, while no server runs
    #[command(after_help = "\
Examples:
  muster restore /backup/muster-2026-01-02.db --data /var/lib/muster
  muster restore copy.db --database postgresql://muster@db1/muster

A database that holds machines is refused. Backups can be restored into either kind of database.")]
    Restore(database::RestoreArgs),
    /// The database's schema
    Db(database::DbArgs),
    /// The server's configuration
    Config(config::ConfigArgs),
    /// Take over the configuration of another system
    Import(import::ImportArgs),
    /// Print the completion script for a shell
    #[command(after_help = "\
Examples:
  muster completion bash > /etc/bash_completion.d/muster
  muster completion fish > ~/.config/fish/completions/muster.fish")]
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Write the man pages
    #[command(after_help = "\
Examples:
  muster man --out /usr/local/share/man/man1")]
    Man {
        /// The directory to write into; it is made if need be
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Write the reference page of all commands
    #[command(hide = true)]
    Reference,
    /// Print the version
    Version,
}

/// Returns the definition of all commands.
fn definition() -> clap::Command {
    book::with_environment(Cli::command())
}

fn main() -> ExitCode {
    let definition = definition();
    let words = commands::ask::arrange(&definition, std::env::args_os().collect());
    let is_json = usage::is_json(&words);
    let parsed = definition.try_get_matches_from(words).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage::end(&error, is_json),
    };
    let json = cli.globals.json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(tell(&failure, json)),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { globals, command } = cli;
    let out = Output::new(globals.json);
    match command {
        Command::Serve(args) => serving()?.block_on(args.run(&globals)),
        Command::Dev(args) => asking()?.block_on(args.run(&globals)),
        Command::Operator(command) => operate(command, &globals, out),
        Command::Action(args) => interruptible(args.run(&globals)),
        Command::Trust(args) => interruptible(args.run(&globals)),
        Command::Module(args) => args.run(out),
        Command::Doctor(args) => {
            let offline = || args.offline(&globals);
            asking()?.block_on(commands::doctor::run(&globals, offline))
        }
        Command::Backup(args) => interruptible(args.run(&globals)),
        Command::Restore(args) => asking()?.block_on(args.run(&globals)),
        Command::Db(args) => asking()?.block_on(args.run(&globals)),
        Command::Config(args) => args.run(&globals),
        Command::Import(args) => args.run(&globals),
        Command::Completion { shell } => out.bytes(&book::completion(definition(), shell)),
        Command::Man { out: dir } => man(out, &dir),
        Command::Reference => out.bytes(book::reference(definition()).as_bytes()),
        Command::Version => version(out),
    }
}

/// Runs a command that speaks with a server, unless it turns out to need none.
fn operate(command: Operator, globals: &Globals, out: Output) -> Result<(), Failure> {
    let offline = match &command {
        Operator::Ask(args) => args.module_help().map(|help| out.help(&help)),
        Operator::Agent(args) => args.run_offline(out),
        Operator::Target(args) => args.run_offline(out),
        _ => None,
    };
    if let Some(result) = offline {
        return result;
    }
    let context = Context::new(globals)?;
    interruptible(command.run(&context))
}

fn man(out: Output, dir: &std::path::Path) -> Result<(), Failure> {
    let written = book::man(definition(), dir)?;
    if out.json {
        let paths: Vec<_> = written.iter().map(|path| path.display().to_string()).collect();
        return out.json(&paths);
    }
    out.line(&format!("{} pages in {}", written.len(), dir.display()))
}

fn version(out: Output) -> Result<(), Failure> {
    if out.json {
        let facts = [("version", env!("CARGO_PKG_VERSION")), ("commit", env!("MUSTER_COMMIT"))];
        return out.json(&std::collections::BTreeMap::from(facts));
    }
    out.line(&format!("muster {LONG_VERSION}"))
}

/// The runtime of a server: every core.
fn serving() -> Result<tokio::runtime::Runtime, Failure> {
    started(tokio::runtime::Builder::new_multi_thread().enable_all().build())
}

/// The runtime of a command that waits for others: one thread starts at once.
fn asking() -> Result<tokio::runtime::Runtime, Failure> {
    started(tokio::runtime::Builder::new_current_thread().enable_all().build())
}

/// Runs a command that Ctrl-C ends in order and at once.
fn interruptible(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = asking()?;
    let result = runtime.block_on(until_interrupted(command));
    if result.as_ref().is_err_and(|failure| failure.exit == Exit::Interrupted) {
        // What blocks in a thread of its own, such as the look-up of a name, keeps nobody waiting.
        runtime.shutdown_background();
    }
    result
}

/// Lets Ctrl-C end a command in order, so that half a file is not left behind.
async fn until_interrupted(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::select! {
        // A command that minds being interrupted itself knows better what to say.
        biased;
        result = command => result,
        Ok(()) = tokio::signal::ctrl_c() => {
            Err(Failure::new(Exit::Interrupted, "interrupted", "if anything was asked of the server, it may still happen"))
        }
    }
}

fn started(runtime: std::io::Result<tokio::runtime::Runtime>) -> Result<tokio::runtime::Runtime, Failure> {
    runtime.map_err(|error| Failure::new(Exit::Failed, "could not start", error.to_string()))
}

#[cfg(test)]
mod tests;
