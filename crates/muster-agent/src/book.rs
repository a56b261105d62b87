//! What is written from the definition of the commands: man pages and shell completion.

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;
use std::path::Path;

/// Writes one man page for each command into `out`, which is made if need be. Returns how many there are.
pub(crate) fn man(command: Command, out: &Path) -> anyhow::Result<usize> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the directory {}", out.display()))?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let name = command.get_name().to_owned();
    pages(&command, &name, out).with_context(|| format!("cannot write man pages into {}", out.display()))
}

fn pages(command: &Command, name: &str, out: &Path) -> std::io::Result<usize> {
    // clap keeps the name for the program's life.
    let title: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone().name(title)).render(&mut text)?;
    std::fs::write(out.join(format!("{name}.1")), text)?;
    let mut written = 1;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        written += pages(sub, &format!("{name}-{}", sub.get_name()), out)?;
    }
    Ok(written)
}

/// Returns the completion script for a shell.
pub(crate) fn completion(mut command: Command, shell: Shell) -> Vec<u8> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}
