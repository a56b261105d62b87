//! The definition of the commands, as people see it.

use super::*;
use clap::{ArgAction, Command as Definition};
use std::collections::BTreeMap;
use std::path::Path;

fn each(command: &Definition, path: &str, visit: &mut dyn FnMut(&str, &Definition)) {
    visit(path, command);
    for sub in command.get_subcommands() {
        each(sub, &format!("{path} {}", sub.get_name()), visit);
    }
}

fn built() -> Definition {
    let mut command = definition();
    command.build();
    command
}

#[test]
fn the_definition_is_sound() {
    definition().debug_assert();
}

#[test]
fn every_flag_is_an_environment_variable_and_no_two_share_one() {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    each(&built(), "muster", &mut |path, command| {
        for arg in command.get_arguments().filter(|arg| arg.get_long().is_some() && !arg.is_global_set()) {
            let helps = [ArgAction::Help, ArgAction::HelpShort, ArgAction::HelpLong, ArgAction::Version];
            let helps =
                helps.iter().any(|action| std::mem::discriminant(action) == std::mem::discriminant(arg.get_action()));
            if helps {
                continue;
            }
            let flag = arg.get_long().unwrap();
            let name = arg.get_env().unwrap_or_else(|| panic!("{path} --{flag} has no variable")).to_str().unwrap();
            assert!(name.starts_with("MUSTER_"), "{name}");
            // One variable may stand for the same flag of several commands, never for two different ones.
            let first = seen.entry(name.to_owned()).or_insert_with(|| flag.to_owned());
            assert_eq!(first, flag, "{path}: {name}");
        }
    });
    assert_eq!(seen.get("MUSTER_AGENT_LIST_STATE").map(String::as_str), Some("state"));
}

#[test]
fn no_variable_of_a_flag_is_taken_for_a_key_of_the_configuration() {
    each(&built(), "muster", &mut |_, command| {
        for name in command.get_arguments().filter_map(|arg| arg.get_env()).filter_map(|name| name.to_str()) {
            let loaded = muster_server::Config::load(
                None,
                [(name.to_owned(), "127.0.0.1:0".to_owned())],
                &muster_server::config::Overrides::default(),
            );
            let taken = loaded.is_err_and(|errors| errors.to_string().contains("no such key"));
            assert!(!taken, "{name}");
        }
    });
}

#[test]
fn every_command_has_a_summary_and_every_noun_examples() {
    each(&built(), "muster", &mut |path, command| {
        assert!(command.get_about().is_some(), "{path}");
        let noun = path.split(' ').count() == 2;
        let simple = ["help", "version", "reference"].contains(&command.get_name());
        let examples = command.get_after_help().is_some_and(|text| text.to_string().contains("Examples:"));
        assert!(!noun || simple || examples, "{path}");
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            assert!(arg.get_help().is_some(), "{path}: {}", arg.get_id());
        }
    });
}

#[test]
fn the_help_names_every_exit_code() {
    let text = AFTER_HELP.split_once("Exit codes: ").unwrap().1.replace('\n', " ");
    let named: Vec<_> = text.split(", ").map(|code| code.split(' ').next().unwrap().parse::<u8>().unwrap()).collect();
    assert_eq!(named, Exit::ALL.map(|(exit, _)| exit.code()));
}

#[test]
fn every_help_fits_a_terminal_of_eighty_columns() {
    let mut wide = Vec::new();
    each(&built(), "muster", &mut |path, command| {
        for text in [command.clone().render_help(), command.clone().render_long_help()] {
            // A word that is longer than a line is broken nowhere, nor is the line of usage.
            let is_whole = |line: &str| line.starts_with("Usage: ") || !line.trim().contains(' ');
            let is_wide = |line: &&str| line.chars().count() > 80 && !is_whole(line);
            wide.extend(text.to_string().lines().filter(is_wide).map(|line| format!("{path}: {line}")));
        }
    });
    assert!(wide.is_empty(), "{wide:#?}");
}

/// Parses a command line as `main` does, to its end: a name that two arguments share shows only then.
fn parse(args: Vec<&str>, place: &str) {
    let parsed = definition().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    assert!(parsed.is_ok(), "{place}: {}", parsed.unwrap_err());
}

#[test]
fn every_example_is_a_command_that_there_is() {
    let mut examples = Vec::new();
    each(&built(), "muster", &mut |path, command| {
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default().replace("\\\n     ", "");
        for line in text.lines().filter(|line| line.starts_with("  ")) {
            let example = line.split_once("muster ").map(|(_, example)| example.to_owned());
            examples.extend(example.map(|example| (path.to_owned(), example)));
        }
    });
    assert!(examples.len() > 40, "{}", examples.len());
    for (path, line) in examples {
        let line = line.split("   ").next().unwrap_or_default().split(" > ").next().unwrap_or_default();
        // As a shell splits it.
        let words = shlex::split(line).unwrap_or_else(|| panic!("{path}: the quotes of {line} do not end"));
        let args = std::iter::once("muster").chain(words.iter().map(String::as_str)).collect();
        parse(args, &format!("{path}: {line}"));
    }
}

#[test]
fn the_reference_page_is_written_from_the_program() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
    let wanted = book::reference(definition());
    if std::env::var_os("MUSTER_UPDATE_DOCS").is_some() {
        std::fs::write(&page, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&page).unwrap();
    assert!(found == wanted, "docs/reference/cli.md is old: run this test with MUSTER_UPDATE_DOCS=1");
}

#[test]
fn man_pages_and_completions_are_made_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let pages = book::man(definition(), dir.path()).unwrap();
    for page in ["muster.1", "muster-agent-list.1muster", "muster-message-send.1muster"] {
        let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
    let names: Vec<_> = pages.iter().map(|page| page.file_name().unwrap().to_str().unwrap()).collect();
    assert!(!names.iter().any(|name| name.contains("muster-reference")));
    // Those are the pages of the program muster-agent.
    assert_eq!(names.iter().filter(|name| name.ends_with(".1")).collect::<Vec<_>>(), [&"muster.1"]);
    let main = std::fs::read_to_string(dir.path().join("muster.1")).unwrap();
    assert!(main.contains(".TH muster 1 ") && main.contains("muster\\-agent(1muster)"), "{main}");
    assert!(std::fs::read_to_string(dir.path().join("muster.1")).unwrap().contains("EXIT STATUS"));
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let script = String::from_utf8(book::completion(definition(), shell)).unwrap();
        assert!(script.contains("enrol-token"), "{shell}");
    }
}

/// Returns the lines of the shell blocks of a page that call `muster`.
fn calls(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let blocks = text.split("```").skip(1).step_by(2).filter(|block| block.starts_with("sh\n"));
    let lines = blocks.flat_map(str::lines).map(str::trim);
    lines.filter(|line| line.starts_with("muster ")).map(str::to_owned).collect()
}

#[test]
fn every_command_in_the_book_is_one_that_there_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("README.md")];
    pages.extend(std::fs::read_dir(root.join("docs/operate")).unwrap().map(|entry| entry.unwrap().path()));
    let mut seen = 0;
    for page in pages {
        for line in calls(&page) {
            let line = line.split(['#', '>']).next().unwrap_or_default().replace(['"', '\''], " ");
            let mut args: Vec<_> = line.split_whitespace().collect();
            if let Some(reason) = args.iter().position(|word| *word == "--reason") {
                args.truncate(reason + 2);
            }
            parse(args, &format!("{}: {line}", page.display()));
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn every_page_of_the_book_is_in_its_summary_and_there() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    for link in summary.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(docs.join(link).is_file(), "{link}");
    }
    for entry in std::fs::read_dir(docs.join("operate")).unwrap() {
        let link = format!("(operate/{})", entry.unwrap().file_name().display());
        assert!(summary.contains(&link), "{link} is not in docs/SUMMARY.md");
    }
}
