//! `muster ask`: a question to machines in one line, signed on this machine.
//!
//! Stays true: nothing signed leaves this machine before its person saw the text that is signed, who signs it and what
//! would come of it, and agreed; what could not run is not signed.

use super::ReasonArgs;
use super::action::consent::{self, ConsentArgs, Origin, checks_before_signing};
use super::action::file;
use super::action::life::{again, launch, stands};
use super::action::new::{Draft, PART, Words, draft, of_words};
use super::action::order::Order;
use super::action::preview::Signed;
use super::action::results::HowArgs;
use super::action::shown::Shown;
use super::action::sign::sign;
use super::action::spread::SpreadArgs;
use super::named::{of_fleet, written_out};
use crate::output::safe;
use crate::signing::SignArgs;
use crate::values::duration;
use crate::{Context, Failure, values};
use muster_modules::arguments::{Flag, Takes};
use muster_modules::registry;
use std::ffi::OsString;
use std::time::Duration;

const WHAT: &str = "could not ask";

/// `muster ask`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster ask file --path /etc --name '^passwd$' --target \"os='linux'\"
  muster ask pkg --name '^openssl' --format csv
  muster ask timedrift --target \"@web AND status='online'\"
  muster ask netstat --lp 22 --found --yes
  muster ask --key alice.key timedrift

What is asked is shown with whose key will sign it and what would come of it, and signed only when you say yes to that:
at the terminal, or by --yes. Without a terminal a question that changes nothing is signed all the same, unless a lone `n`
stands on standard input, which is not read; one that may change machines is not signed without --yes. It ends with 0 when
every machine that was asked answered, with 1 when all refused or failed or the question was called back, with 8 when some
have not answered or answers have errors or are not whole, and with 4 when further investigators must sign it first.
A mark behind its name (#3f9a1c) makes each question one of its own.

Flags of this command may stand before or after the module, unless the module has one of that name: then it is the
module's. `muster module help NAME` explains a module's arguments.")]
pub struct Args {
    /// Which machines: an expression; @NAME stands for one that you keep (`muster target save`), signed as written out, and
    /// with --fleet for machines of that fleet alone
    #[arg(long, value_name = "EXPRESSION", default_value = "status='online'")]
    target: String,
    /// What it is for, in your words; the question itself unless told
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// How long machines may start it
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "15m")]
    expires_in: Duration,
    #[command(flatten)]
    with: SignArgs,
    #[command(flatten)]
    spread: SpreadArgs,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    reason: ReasonArgs,
    #[command(flatten)]
    consent: ConsentArgs,
    /// A module and its own arguments; `--` parts several
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "MODULE ARGUMENTS")]
    words: Vec<String>,
}

impl Args {
    /// Returns the help of the module, if that is all that is asked for; no server is needed for it.
    pub fn module_help(&self) -> Option<String> {
        match of_words(&self.words) {
            Err(Words::Help(text)) => Some(text),
            _ => None,
        }
    }

    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let operations = match of_words(&self.words) {
            Ok(operations) => operations,
            Err(Words::Help(text)) => return context.out.help(&text),
            Err(Words::Wrong(failure)) => return Err(*failure),
        };
        self.how.check(context.out)?;
        self.spread.check(WHAT)?;
        let name = of_its_own(&self.title.unwrap_or_else(|| title(&self.words)));
        let target = written_out(WHAT, self.target, || Ok(context.clone())).await?;
        let target = of_fleet(target, self.how.book.fleet.as_deref());
        let question = Draft { name, target, operations, expires_in: self.expires_in };
        let mut action = draft(question, None, values::now())?;
        file::window_check(WHAT, &action)?;
        let signer = self.with.signer().await?;
        let preview = self.spread.preview(context, &action, vec![signer.fingerprint()]).await?;
        let text = file::check(WHAT, &action, values::now())?;
        let shown = Shown::of(&action, &text);
        let notes = checks_before_signing(&action, &shown, Origin::Own)?;
        consent::show(&shown, &notes);
        self.spread.foresee(context, &action, &preview, Signed::NotYet).await?;
        let question = format!("Sign it as {} and launch it?", signer.name());
        consent::agree(&question, &self.consent, shown.changes || preview.changes).await?;
        sign(&self.with, &signer, &mut action, &text).await?;
        let (_, launched) = launch(context, &self.spread.request(&action, &self.reason)).await?;
        let id = launched.action.summary.id;
        if launched.again {
            context.out.note(&safe(&again(&launched.action.summary)));
        }
        // What waits is answered by nobody, and needs no watching.
        if launched.action.summary.status == "waiting" {
            return stands(&launched.action.summary);
        }
        let note = format!("action {id}: {}", shown.digest);
        let order = Order::own(&action).signed_by(vec![signer.name()]);
        self.how.follow_noted(context, id, &order, Some(&note)).await
    }
}

/// Characters of a name that is the question itself.
const TITLE_CHARS_MAX: usize = 120;

/// Returns a name that no other question has, whoever asks the same within the same second: signatures cover whole
/// seconds, and the same signed text is the same action, whose old answer would come.
fn of_its_own(title: &str) -> String {
    use std::hash::BuildHasher as _;
    // A hasher's keys are random; a mark that two questions share by accident (1 : 16 million) joins them, no more.
    let mark = std::hash::RandomState::new().hash_one(std::process::id()) & 0x00ff_ffff;
    format!("{title} #{mark:06x}")
}

fn title(words: &[String]) -> String {
    let clean: String = words.join(" ").chars().map(|c| if muster_core::text::steers(c) { ' ' } else { c }).collect();
    // What parts the fields of a signed text cannot stand in a name.
    muster_core::text::cut(&clean.replace(';', ","), TITLE_CHARS_MAX)
}

/// The commands that end in a module and its own arguments.
const WITH_MODULE: [&[&str]; 2] = [&["ask"], &["module", "run"]];

/// Puts flags of `muster ask` and `muster module run` that stand behind the module in front of it, so that
/// `ask file --path /etc --target …` is read as it is meant. Flags that the module has too stay the module's. Other command
/// lines are left as they are.
pub fn arrange(command: &clap::Command, words: Vec<OsString>) -> Vec<OsString> {
    let Some((own, start)) = WITH_MODULE.iter().find_map(|path| led_to(command, path, &words)) else { return words };
    let known = Known { own, global: command };
    let module_at = known.skip(&words, start);
    let (mut front, mut back) = (words[..module_at].to_vec(), Vec::new());
    let mut module = true;
    let mut flags: &[Flag] = &[];
    let mut rest = words[module_at..].iter();
    while let Some(word) = rest.next() {
        let name = text(word);
        if std::mem::replace(&mut module, name == PART) {
            flags = registry::find(&name).map(muster_modules::Module::flags).unwrap_or_default();
            back.push(word.clone());
            continue;
        }
        let bare = name.trim_start_matches('-');
        let of_module = flags.iter().find(|flag| flag.name == bare.split('=').next().unwrap_or_default());
        let (side, takes) = match (of_module, known.takes(&name)) {
            // What follows is this flag's value, whatever it looks like.
            (Some(flag), _) => (&mut back, flag.takes != Takes::Nothing && !bare.contains('=')),
            (None, Some(takes)) => (&mut front, takes),
            (None, None) => (&mut back, false),
        };
        side.push(word.clone());
        side.extend(takes.then(|| rest.next().cloned()).flatten());
    }
    front.extend(back);
    front
}

fn text(word: &OsString) -> String {
    word.to_str().map(str::to_owned).unwrap_or_default()
}

/// Returns the command at the end of `path` and where its own words begin, if the words call it.
fn led_to<'a>(command: &'a clap::Command, path: &[&str], words: &[OsString]) -> Option<(&'a clap::Command, usize)> {
    let (mut own, mut at) = (command, 1);
    for name in path {
        at = Known { own, global: command }.skip(words, at);
        if words.get(at).map(text).as_deref() != Some(*name) {
            return None;
        }
        own = own.find_subcommand(name)?;
        at += 1;
    }
    Some((own, at))
}

/// The flags that a command takes: its own, and those that every command has.
struct Known<'a> {
    own: &'a clap::Command,
    global: &'a clap::Command,
}

impl Known<'_> {
    /// Returns whether the word behind a flag is its value; `None` for what is no flag of these.
    fn takes(&self, word: &str) -> Option<bool> {
        let (flag, joined) = word.split_once('=').map_or((word, false), |(flag, _)| (flag, true));
        let is_meant = |arg: &&clap::Arg| match (flag.strip_prefix("--"), flag.strip_prefix('-')) {
            (Some(long), _) => arg.get_long() == Some(long),
            (None, Some(short)) => arg.get_short().is_some_and(|letter| short.chars().eq([letter])),
            (None, None) => false,
        };
        let arg = [self.own, self.global].into_iter().find_map(|command| command.get_arguments().find(is_meant))?;
        Some(arg.get_action().takes_values() && !joined)
    }

    /// Returns where the flags that begin at `at` end.
    fn skip(&self, words: &[OsString], mut at: usize) -> usize {
        while let Some(word) = words.get(at).map(text).filter(|word| word.starts_with('-') && word != PART) {
            at += if self.takes(&word) == Some(true) { 2 } else { 1 };
        }
        at.min(words.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser};

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        globals: crate::Globals,
        #[command(subcommand)]
        command: super::super::Operator,
    }

    fn arranged(words: &[&str]) -> Vec<String> {
        let words = ["muster"].iter().chain(words).map(OsString::from).collect();
        let module = <super::super::module::Args as clap::Args>::augment_args(clap::Command::new("module"));
        let command = Cli::command().subcommand(module);
        arrange(&command, words).into_iter().skip(1).map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn flags_of_ask_behind_the_module_are_put_in_front_of_it() {
        let words =
            ["ask", "file", "--path", "/etc", "--target", "os='linux'", "--yes", "--name", "^x$", "--format=csv"];
        let wanted =
            ["ask", "--target", "os='linux'", "--yes", "--format=csv", "file", "--path", "/etc", "--name", "^x$"];
        assert_eq!(arranged(&words), wanted);
        assert_eq!(arranged(&["ask", "timedrift", "--json"]), ["ask", "--json", "timedrift"]);
        let before = ["--url", "ask", "ask", "-u", "ping", "--key", "k", "ping", "-d", "x", "--wait", "1s"];
        let wanted = ["--url", "ask", "ask", "-u", "ping", "--key", "k", "--wait", "1s", "ping", "-d", "x"];
        assert_eq!(arranged(&before), wanted);
    }

    #[test]
    fn short_flags_and_those_of_module_run_are_found_behind_the_module_too() {
        let (words, wanted) = (["ask", "timedrift", "-y", "-u", "bob"], ["ask", "-y", "-u", "bob", "timedrift"]);
        assert_eq!(arranged(&words), wanted);
        // What ping has itself, and the value of a flag of the module, stay where they are.
        let words = ["ask", "ping", "-d", "10.0.0.1", "-p", "-y"];
        assert_eq!(arranged(&words), words);
        let words = ["--json", "module", "run", "file", "-path", "/etc", "--found", "-name", "--json", "--limit", "9s"];
        let wanted =
            ["--json", "module", "run", "--found", "file", "-path", "/etc", "-name", "--json", "--limit", "9s"];
        let of_file = registry::find("file").unwrap().flags().iter().any(|flag| flag.name == "limit");
        if of_file {
            assert_eq!(arranged(&words), wanted);
        } else {
            let front = ["--json", "module", "run", "--found", "--limit", "9s", "file"];
            assert_eq!(arranged(&words), [&front[..], &["-path", "/etc", "-name", "--json"]].concat());
        }
    }

    #[test]
    fn all_else_stays_as_it_is() {
        for words in [
            &["agent", "list", "--limit", "1"][..],
            &["ask"],
            &["ask", "file", "-path", "/etc", "-name", "x"],
            &["ask", "file", "-path", "/etc", "--", "pkg", "--name", "--target"],
            &["action", "new", "--name", "ask", "ask", "--target", "x"],
            &["module", "help", "file", "--json"],
            &["module"],
        ] {
            assert_eq!(arranged(words), words);
        }
    }

    #[test]
    fn a_question_is_read_with_its_flags_on_both_sides() {
        let words = ["muster", "ask", "--title", "q", "file", "-path", "/etc", "-name", "x", "--expires-in", "2m"];
        let cli = Cli::try_parse_from(arrange(&Cli::command(), words.map(OsString::from).to_vec())).unwrap();
        let super::super::Operator::Ask(args) = cli.command else { panic!() };
        assert_eq!((args.title.as_deref(), args.expires_in), (Some("q"), Duration::from_mins(2)));
        assert_eq!(args.words, ["file", "-path", "/etc", "-name", "x"]);
    }

    #[test]
    fn the_same_question_twice_is_two() {
        let (one, other) = (of_its_own("timedrift"), of_its_own("timedrift"));
        assert!(one.starts_with("timedrift #") && one.len() == "timedrift #123456".len(), "{one}");
        assert_ne!(one, other);
        assert!(muster_core::action::name_check(&one).is_ok());
    }

    #[test]
    fn a_title_is_one_line_that_parts_nothing() {
        let words = ["file", "-name", "a\nb;target=c"].map(str::to_owned);
        assert_eq!(title(&words), "file -name a b,target=c");
        assert!(muster_core::action::name_check(&title(&["x".repeat(5000)])).is_ok());
    }
}
