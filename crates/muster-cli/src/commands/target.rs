//! `muster target`: expressions that pick machines.

use super::action::consent;
use super::named::{self, Kept};
use super::{Stake, confirm};
use crate::output::{Table, machine_name, safe, time, yes};
use crate::{Context, Exit, Failure, resolve};
use muster_api::Page;
use muster_api::targets::{
    NamedTargetRequest, NamedTargetRow, TargetCheck, TargetCheckRequest, TargetMistake, TargetQuestion,
};
use muster_core::target::{Case, Comparison, Operand, Target, TargetError, Test};
use reqwest::Method;

/// `muster target`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster target check \"environment->>'os' = 'linux' AND name LIKE 'web%'\"
  muster target check \"tags->>'operator' = 'IT'\" --agent 1122334455667788
  muster target save web \"name LIKE 'web%' OR tags->>'role' = 'web'\"    on this machine, for what you sign
  muster target put web \"name LIKE 'web%'\" --description 'all web servers'    on the server
  muster target check \"@web AND status = 'online'\"

What a server says that a name means is signed only when you agree to it at the terminal.
docs/reference/targets.md lists columns, operators and regular expressions.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show whom a target picks and why, or where its mistake is
    Check {
        /// The target; @NAME stands for one that you keep (`muster target save`), else for the server's of that name
        target: String,
        /// Look at this machine, whether it matches or not; may be given several times
        #[arg(long = "agent", value_name = "ID")]
        agents: Vec<String>,
        /// How many machines that match are shown; where none does, the three that come nearest
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100))]
        limit: u32,
    },
    /// Keep a target under a name on this machine: what you sign with @NAME means this, whatever a server says
    Save {
        /// Its name: letters, digits, _ - and .
        name: String,
        /// The target; that of the server under this name, if you agree to it, unless told
        target: Option<String>,
    },
    /// List the targets that are kept on this machine
    Saved,
    /// Forget a target that is kept on this machine
    Forget {
        /// Its name
        name: String,
    },
    /// List the targets that have names on the server
    List,
    /// Keep a target under a name on the server, for everybody to look up, in the place of an older one
    Put {
        /// Its name: letters, digits, _ - and .
        name: String,
        /// The target
        target: String,
        /// What it is for
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        description: String,
    },
    /// Delete a named target; what was signed with it goes on
    Delete {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

impl Args {
    /// Runs the command without a server; `None`: it needs one.
    pub fn run_offline(&self, out: crate::Output) -> Option<Result<(), Failure>> {
        match &self.command {
            Command::Save { name, target: Some(target) } => Some(save(out, name, target)),
            Command::Saved => Some(saved(out)),
            Command::Forget { name } => Some(Kept::read().and_then(|kept| kept.forget(name))),
            _ => None,
        }
    }

    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Check { target, agents: named, limit } => {
                let mut agents = Vec::new();
                for text in &named {
                    agents.push(resolve::agent(context, text).await?);
                }
                // What a name means here is what it means to the person who signs it here.
                let (target, _) =
                    named::looked_up("could not check the target", target, || Ok(context.clone())).await?;
                check(context, TargetCheckRequest { target, agents, limit: Some(limit) }).await
            }
            Command::Save { name, target: Some(target) } => save(context.out, &name, &target),
            Command::Save { name, target: None } => save_theirs(context, &name).await,
            Command::Saved => saved(context.out),
            Command::Forget { name } => Kept::read()?.forget(&name),
            Command::List => run_list(context).await,
            Command::Put { name, target, description } => {
                let what = format!("could not keep target {name}");
                let request = NamedTargetRequest { expression: target, description };
                let answer = context.api.send(&what, Method::PUT, &["named-targets", &name], &request).await?;
                context.out.note(&format!("{}  kept, write @{0} for it", safe(&name)));
                if context.out.json { context.out.json(&answer) } else { Ok(()) }
            }
            Command::Delete { name, yes } => {
                confirm(&format!("Delete target {name}?"), yes, Stake::Else).await?;
                let what = format!("could not delete target {name}");
                context.api.order(&what, Method::DELETE, &["named-targets", &name]).await?;
                context.out.note(&format!("{}  deleted", safe(&name)));
                Ok(())
            }
        }
    }
}

fn save(out: crate::Output, name: &str, target: &str) -> Result<(), Failure> {
    let kept = Kept::read()?.save(name, target)?;
    out.note(&format!("{}  kept in {}, write @{0} for it", safe(name), kept.path().display()));
    if out.json { out.json(&serde_json::json!({ "name": name, "target": target })) } else { Ok(()) }
}

/// Keeps what the server says that a name means, if the person agrees to it.
async fn save_theirs(context: &Context, name: &str) -> Result<(), Failure> {
    let what = format!("could not keep target {name}");
    let meaning = named::of_server(context, &what).await?.remove(name).ok_or_else(|| {
        Failure::new(Exit::NotFound, &what, "the server has no target of this name").next("muster target list")
    })?;
    consent::say(&[format!("The server says that @{} means: {}", safe(name), safe(&meaning))]);
    consent::ask("Is this what you mean?", "read it, and write it: muster target save NAME TARGET").await?;
    save(context.out, name, &meaning)
}

fn saved(out: crate::Output) -> Result<(), Failure> {
    let kept = Kept::read()?;
    if out.json {
        let row = |(name, target): (&String, &String)| serde_json::json!({ "name": name, "target": target });
        return out.items(&kept.targets().iter().map(row).collect::<Vec<_>>());
    }
    let mut table = Table::new(&["NAME", "TARGET"]);
    for (name, target) in kept.targets() {
        table.row([name.clone(), target.clone()]);
    }
    out.table(&table, "No targets are kept on this machine.")
}

async fn check(context: &Context, request: TargetCheckRequest) -> Result<(), Failure> {
    const WHAT: &str = "could not check the target";
    let answer = context.api.send(WHAT, Method::POST, &["targets", "check"], &request).await?;
    let checked: TargetCheck = context.api.read(WHAT, &answer)?;
    if context.out.json {
        context.out.json(&answer)?;
    }
    if let Some(mistake) = checked.error {
        context.out.note(&pointed(&checked.target, &mistake));
        let failure = Failure::new(Exit::Usage, "this is no target", mistake.message);
        return Err(failure.next(mistake.hint.unwrap_or_default()));
    }
    if context.out.json {
        return Ok(());
    }
    if checked.target != request.target {
        context.out.note(&format!("With names written out: {}", safe(&checked.target)));
    }
    let TargetCheck { matched, reached, .. } = checked;
    let machines = if matched == 1 { "machine matches" } else { "machines match" };
    context.out.note(&format!("{matched} enrolled {machines}, {reached} online or idle."));
    if matched == 0 && request.agents.is_empty() {
        context.out.note(&looked_at(&checked));
    }
    if matched == 0
        && let Some(hint) = case_hint(context, &checked.target).await
    {
        context.out.note(&safe(&format!("Hint: {hint}")));
    }
    let mut table = Table::new(&["AGENT", "NAME", "STATUS", "PICKED", "QUESTION", "ANSWER", "VALUE"]);
    for machine in checked.machines {
        // A target without questions has a row all the same.
        let mut head = [machine.agent, machine.name, machine.status, yes(machine.picked)];
        let mut questions = machine.questions.into_iter();
        let mut next = questions.next();
        loop {
            let [question, answer, value] = next.take().map_or_else(Default::default, |asked| {
                let answer = asked.answer.map_or_else(|| "neither".to_owned(), yes);
                [asked.question, answer, asked.value.unwrap_or_else(|| "-".to_owned())]
            });
            let [agent, name, status, picked] = std::mem::take(&mut head);
            table.row([agent, name, status, picked, question, answer, value]);
            next = questions.next();
            if next.is_none() {
                break;
            }
        }
    }
    context.out.table(&table, "No machines to show.")
}

/// Says how many machines a target was held against that picks none, and that those which are shown are the nearest.
fn looked_at(checked: &TargetCheck) -> String {
    let TargetCheck { enrolled, compared, .. } = checked;
    match (enrolled, compared) {
        (0, 0) => "No machine is enrolled.".to_owned(),
        (enrolled, 0) => format!("{enrolled} are enrolled."),
        (enrolled, compared) => {
            let of = if enrolled > compared { format!(" of {enrolled}") } else { String::new() };
            let machines = if *compared == 1 { "machine was" } else { "machines were" };
            format!(
                "{compared}{of} enrolled {machines} looked at: those that come nearest, with what is not true of them:"
            )
        }
    }
}

/// Says why a target picks no machine that is reached: what is not true of the one that comes nearest, or that those it picks
/// are away. Nothing when that cannot be asked.
pub(crate) async fn why_nobody(context: &Context, target: &str) -> Option<String> {
    const WHAT: &str = "could not check the target";
    let request = TargetCheckRequest { target: target.to_owned(), agents: Vec::new(), limit: Some(1) };
    let answer = context.api.send(WHAT, Method::POST, &["targets", "check"], &request).await.ok()?;
    let checked: TargetCheck = context.api.read(WHAT, &answer).ok()?;
    if checked.matched > 0 {
        return Some(format!("{} match, and none of them is online or idle", checked.matched));
    }
    let nearest = checked.machines.first()?;
    let untrue = |asked: &TargetQuestion| {
        let has = asked.value.as_ref().map_or_else(|| "nothing".to_owned(), |value| format!("{value:?}"));
        format!("{} (it has {has})", asked.question)
    };
    let untrue: Vec<_> = nearest.questions.iter().filter(|asked| asked.answer != Some(true)).map(untrue).collect();
    if untrue.is_empty() {
        return None;
    }
    let looked_at = match checked.compared {
        1 => "1 machine was".to_owned(),
        compared => format!("{compared} machines were"),
    };
    let (name, agent, untrue) = (machine_name(&nearest.name), &nearest.agent, untrue.join("; "));
    Some(format!("{looked_at} looked at, and of the nearest, {name} ({agent}), this is not true: {untrue}"))
}

/// Says which machines a target that picks none would pick if case did not count: values such as `os` are in lower case.
/// Nothing when that picks none either, or cannot be asked.
pub(crate) async fn case_hint(context: &Context, target: &str) -> Option<String> {
    let parsed = Target::parse(target).ok()?;
    let without_case = any_case(&parsed);
    if without_case == parsed {
        return None;
    }
    let request = TargetCheckRequest { target: without_case.to_string(), agents: Vec::new(), limit: Some(0) };
    let answer = context.api.send("could not check the target", Method::POST, &["targets", "check"], &request).await;
    let checked: TargetCheck = context.api.read("could not check the target", &answer.ok()?).ok()?;
    let hint = |matched| {
        format!(
            "texts are compared with their case, and values such as os are in lower case: {matched} would match {}",
            request.target
        )
    };
    (checked.error.is_none() && checked.matched > 0).then(|| hint(checked.matched))
}

/// Returns a target whose questions after equal texts pass over case.
fn any_case(target: &Target) -> Target {
    let all = |parts: &[Target]| parts.iter().map(any_case).collect();
    match target {
        Target::And(parts) => Target::And(all(parts)),
        Target::Or(parts) => Target::Or(all(parts)),
        Target::Not(part) => Target::Not(Box::new(any_case(part))),
        Target::Test(Test::Compare { left, comparison: Comparison::Equal, right }) => match (left, right) {
            (value, Operand::Text(text)) | (Operand::Text(text), value)
                if text.chars().any(|c| c.is_ascii_alphabetic()) =>
            {
                Target::Test(like_any_case(value, text))
            }
            _ => target.clone(),
        },
        Target::Test(Test::In { value, list, negated: false }) if list.len() <= IN_LIST_MAX => {
            let texts: Option<Vec<_>> = list
                .iter()
                .map(|item| match item {
                    Operand::Text(text) => Some(Target::Test(like_any_case(value, text))),
                    _ => None,
                })
                .collect();
            match texts {
                Some(mut texts) if texts.len() == 1 => texts.remove(0),
                Some(texts) => Target::Or(texts),
                None => target.clone(),
            }
        }
        _ => target.clone(),
    }
}

/// Values of a list that are asked for one by one.
const IN_LIST_MAX: usize = 16;

fn like_any_case(value: &Operand, text: &str) -> Test {
    let mut pattern = String::new();
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    Test::Like { value: value.clone(), pattern, case: Case::Ignored, negated: false }
}

/// The part of the target around its mistake, with a caret below it.
fn pointed(target: &str, mistake: &TargetMistake) -> String {
    let position = usize::try_from(mistake.position).unwrap_or(usize::MAX).min(target.chars().count());
    let error = TargetError { message: String::new(), position, hint: None };
    error.pointed(target).lines().map(safe).collect::<Vec<_>>().join("\n")
}

async fn run_list(context: &Context) -> Result<(), Failure> {
    const WHAT: &str = "could not list the named targets";
    let answer = context.api.get(WHAT, &["named-targets"], &()).await?;
    if context.out.json {
        return context.out.json(&answer);
    }
    let mut table = Table::new(&["NAME", "TARGET", "DESCRIPTION", "CHANGED", "BY"]);
    for row in context.api.read::<Page<NamedTargetRow>>(WHAT, &answer)?.items {
        table.row([row.name, row.expression, row.description, time(&row.changed), row.changed_by]);
    }
    context.out.table(&table, "No named targets.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_without_case_asks_the_same_of_any_case() {
        for (with, without) in [
            ("os = 'Linux'", "os ILIKE 'Linux'"),
            ("'A_b%' = name AND id = 7", "name ILIKE 'A\\_b\\%' AND id = 7"),
            ("NOT (os IN ('Linux', 'BSD') OR true)", "NOT ((os ILIKE 'Linux' OR os ILIKE 'BSD') OR true)"),
        ] {
            let without = Target::parse(without).unwrap();
            assert_eq!(any_case(&Target::parse(with).unwrap()), without, "{with}");
            assert_eq!(Target::parse(&without.to_string()).unwrap(), without, "{without}");
        }
        for same in ["id = 7", "agentid = '0011223344556677'", "os <> 'Linux'", "os NOT IN ('A')", "name LIKE 'A%'"] {
            let target = Target::parse(same).unwrap();
            assert_eq!(any_case(&target), target, "{same}");
        }
    }

    fn checked(matched: u64, machines: &[serde_json::Value]) -> serde_json::Value {
        serde_json::json!({"target": "t", "matched": matched, "reached": 0, "enrolled": 12, "compared": 12,
            "machines": machines})
    }

    #[test]
    fn a_target_that_picks_none_says_what_it_was_held_against() {
        let said = |enrolled: u64, compared: u64| {
            let mut answer = checked(0, &[]);
            (answer["enrolled"], answer["compared"]) = (enrolled.into(), compared.into());
            looked_at(&serde_json::from_value(answer).unwrap())
        };
        assert_eq!(said(0, 0), "No machine is enrolled.");
        assert_eq!(said(7, 0), "7 are enrolled.");
        assert!(said(1, 1).starts_with("1 enrolled machine was looked at"), "{}", said(1, 1));
        assert!(said(700, 100).starts_with("100 of 700 enrolled machines were looked at"), "{}", said(700, 100));
    }

    #[tokio::test]
    async fn why_nobody_is_picked_is_what_is_not_true_of_the_nearest() {
        use axum::response::Json;
        use axum::routing::post;
        let why = async |answer: serde_json::Value| {
            let routes = axum::Router::new().route("/api/v1/targets/check", post(move || async move { Json(answer) }));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
            tokio::spawn(async move { axum::serve(listener, routes).await });
            let door = crate::connect::Door { url, token: None, trust: crate::connect::Trust::System };
            let api = crate::Api::new(door, std::time::Duration::from_secs(5)).unwrap();
            let out = crate::Output { json: false, terminal: false, color: false };
            why_nobody(&Context { api, out }, "t").await
        };
        let asked = |question: &str, answer: Option<bool>, value: Option<&str>| serde_json::json!({"question": question, "answer": answer, "value": value});
        let questions = [
            asked("fleet = 'x'", Some(false), Some("lab")),
            asked("status = 'online'", Some(true), Some("online")),
            asked("tags->>'a' = 'b'", None, None),
        ];
        let near = serde_json::json!({"agent": "1122334455667788", "name": "web-1", "status": "online", "picked": false,
            "questions": questions});
        assert_eq!(
            why(checked(0, &[near])).await.unwrap(),
            "12 machines were looked at, and of the nearest, web-1 (1122334455667788), this is not true: \
             fleet = 'x' (it has \"lab\"); tags->>'a' = 'b' (it has nothing)"
        );
        assert_eq!(why(checked(3, &[])).await.unwrap(), "3 match, and none of them is online or idle");
        assert_eq!(why(checked(0, &[])).await, None);
        assert_eq!(why(serde_json::json!("no answer")).await, None, "it is said without a reason then");
    }

    #[test]
    fn a_caret_stands_under_the_mistake() {
        let mistake = |position| TargetMistake { message: String::new(), position, hint: None };
        assert_eq!(pointed("name == 'x'", &mistake(5)), "name == 'x'\n     ^");
        assert_eq!(pointed("é\u{1b}= x", &mistake(4)), "é = x\n    ^");
        // A server that is not ours may say anything.
        assert_eq!(pointed("a", &mistake(u64::MAX)), "a\n ^");
    }
}
