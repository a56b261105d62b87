//! What is written from the definition of the commands: shell completion, man pages, the reference page, and the
//! environment variable of every flag.

use crate::failure::{Exit, Failure};
use clap::{Arg, ArgAction, Command};
use clap_complete::Shell;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Gives every flag that has no environment variable of its own one: `MUSTER_`, the commands that lead to it, and its
/// name, in capitals and joined by underscores, such as `MUSTER_AGENT_LIST_STATE`.
#[must_use]
pub fn with_environment(command: Command) -> Command {
    fill(command, &["MUSTER".to_owned()])
}

fn fill(command: Command, path: &[String]) -> Command {
    let mut command = command.mut_args(|arg| with_variable(arg, path));
    if let Some(text) = command.get_after_help().map(|text| paragraphs(&text.to_string())) {
        command = command.after_help(text);
    }
    command.mut_subcommands(|sub| {
        let mut path = path.to_vec();
        path.push(capitals(sub.get_name()));
        fill(sub, &path)
    })
}

/// Makes one line of each paragraph of prose, because a terminal breaks lines by its own width. Examples stay as they
/// are.
fn paragraphs(text: &str) -> String {
    let is_prose = |block: &str| block.lines().all(|line| !line.starts_with(' ') && !line.ends_with(':'));
    let blocks =
        text.split("\n\n").map(|block| if is_prose(block) { block.replace('\n', " ") } else { block.to_owned() });
    blocks.collect::<Vec<_>>().join("\n\n")
}

fn with_variable(arg: Arg, path: &[String]) -> Arg {
    let Some(long) = arg.get_long().map(capitals) else { return arg };
    if matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpLong | ArgAction::HelpShort | ArgAction::Version) {
        return arg;
    }
    let switch = matches!(arg.get_action(), ArgAction::SetTrue);
    // A switch in the environment is on unless it says no; clap's own parser would know true and false only.
    let arg = if switch { arg.value_parser(clap::builder::FalseyValueParser::new()) } else { arg };
    if arg.get_env().is_some() {
        return arg;
    }
    let name = format!("{}_{long}", path.join("_"));
    // The names live as long as the program, and there are a few hundred.
    let name: &'static str = Box::leak(name.into_boxed_str());
    arg.env(name).hide_env(true)
}

fn capitals(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

/// Returns the completion script for a shell.
pub fn completion(mut command: Command, shell: Shell) -> Vec<u8> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}

/// The section of the pages of commands. The plain section would give `muster agent` the page of the program
/// `muster-agent`; `man muster-agent-list` finds a page in either.
const COMMANDS_SECTION: &str = "1muster";

/// Writes one man page per command into `out`: the program's own in section 1, those of its commands in a section of
/// their own, so that they take no other program's. Returns their paths.
pub fn man(command: Command, out: &Path) -> Result<Vec<PathBuf>, Failure> {
    const WHAT: &str = "could not write the man pages";
    std::fs::create_dir_all(out).map_err(|error| Failure::local(WHAT, out.display(), &error))?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut written = Vec::new();
    pages(&command, command.get_name(), out, &mut written)
        .map_err(|error| Failure::local(WHAT, out.display(), &error))?;
    Ok(written)
}

fn pages(command: &Command, name: &str, out: &Path, written: &mut Vec<PathBuf>) -> std::io::Result<()> {
    // clap keeps the name for the program's life.
    let title: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let is_command = name.contains('-');
    // A page names those of its commands by its own section.
    let page = clap_mangen::Man::new(command.clone().name(title)).section(COMMANDS_SECTION);
    let mut text = Vec::new();
    page.render(&mut text)?;
    let mut section = COMMANDS_SECTION;
    if !is_command {
        section = "1";
        let titles = [COMMANDS_SECTION, section].map(|section| format!(".TH {name} {section} "));
        let page = String::from_utf8_lossy(&text).replacen(&titles[0], &titles[1], 1);
        text = (page + &exit_status()).into_bytes();
    }
    let path = out.join(format!("{name}.{section}"));
    std::fs::write(&path, text)?;
    written.push(path);
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        pages(sub, &format!("{name}-{}", sub.get_name()), out, written)?;
    }
    Ok(())
}

fn exit_status() -> String {
    let mut text = ".SH \"EXIT STATUS\"\n".to_owned();
    for (exit, meaning) in Exit::ALL {
        let _ = writeln!(text, ".TP\n{}\n{meaning}", exit.code());
    }
    text
}

/// Returns the reference page of all commands, as Markdown.
pub fn reference(command: Command) -> String {
    let mut command = command.disable_help_subcommand(true).term_width(100);
    command.build();
    let mut text = String::from(
        "# Commands\n\n\
         This page is written from the program; a test compares the two.\n\n\
         Results go to standard output, everything else to standard error. `--json` prints the API's own JSON; lists \
         are one page with `items`, and `next` when there is more. Results of actions are one line for each machine, which \
         keeps what the machine signed apart from what the server says (docs/operate/investigations.md). A failure says what failed, on what, why, and what \
         to do next; with `--json` it is one line of JSON under `error`. Times are in UTC. `NO_COLOR` is honoured.\n\n\
         Every flag is also an environment variable. Where the help names none, it is `MUSTER_`, the commands that \
         lead to the flag, and its name: `muster agent list --state` is `MUSTER_AGENT_LIST_STATE`. A switch is on \
         unless its variable is empty, `0`, `n`, `no`, `f`, `false` or `off`.\n\n\
         ## Exit codes\n\n| code | meaning |\n|---|---|\n",
    );
    for (exit, meaning) in Exit::ALL {
        let _ = writeln!(text, "| {} | {meaning} |", exit.code());
    }
    chapters(&mut command, "muster", &mut text);
    text
}

fn chapters(command: &mut Command, name: &str, text: &mut String) {
    let help = command.render_help().to_string();
    let _ = write!(text, "\n## {name}\n\n```text\n");
    for line in help.lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.push_str("```\n");
    for sub in command.get_subcommands_mut() {
        if !sub.is_hide_set() {
            let name = format!("{name} {}", sub.get_name());
            chapters(sub, &name, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_one_line_a_paragraph_and_examples_stay() {
        let text = "Examples:\n  muster a\n  muster b\n\nOne thing,\nand another.\n\nThe end.";
        assert_eq!(paragraphs(text), "Examples:\n  muster a\n  muster b\n\nOne thing, and another.\n\nThe end.");
    }
}
