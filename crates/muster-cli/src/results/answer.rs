//! What one machine answered, and what of it is the machine's own word.
//!
//! Stays true: whether something was found, went wrong or is missing is read from the text that the machine signed, and
//! from nothing that a server says of it; what is the server's word stands apart (`server` in JSON).

use super::Late;
use crate::commands::action::order::Order;
use crate::known::{Book, Standing, plain};
use crate::output::machine_name;
use muster_api::actions::{CommandRow, ResultProof};
use muster_modules::{Lines, ModuleResult, missing, registry};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeSet;

/// Returns what stands behind what only the server says of a machine.
fn unproven(is_proven: bool) -> &'static str {
    if is_proven { "" } else { "; unproven" }
}

/// The answer of one machine.
#[derive(Debug, Clone)]
pub(crate) struct Answer<'a> {
    pub(super) row: &'a CommandRow,
    /// Whether the machine's signature under it was verified.
    pub(super) is_proven: bool,
    /// How its machine stands in the person's book.
    pub(super) standing: Standing,
    /// What the book calls the machine; empty when it does not.
    name: String,
    /// The server's name for the machine, as a book would keep it; empty when it has none.
    servers: String,
    /// The id of another machine that a person approved under the name that this one is shown by.
    name_of: Option<String>,
    /// What its machine said after its command had ended.
    late: Option<Late>,
    /// Why its machine is said to have refused a copy of the order, which it did not sign.
    refused: Option<String>,
    heads: Option<Vec<Head>>,
}

/// What every module says of its run, whatever it found.
#[derive(Debug, Clone, Deserialize)]
struct Head {
    #[serde(default)]
    foundanything: Option<bool>,
    #[serde(default)]
    success: Option<bool>,
    #[serde(default)]
    errors: Option<Vec<String>>,
    #[serde(default)]
    statistics: serde_json::Value,
}

/// What a machine did whose command was called back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obedience {
    /// It did not begin, or stopped.
    Obeyed,
    /// It ran it all the same.
    Ran,
    /// It was given the command, and has not said what it did.
    Unknown,
    /// It was never given the command.
    NotHandedOut,
}

impl Obedience {
    /// For programs.
    fn word(self) -> &'static str {
        match self {
            Self::Obeyed => "obeyed",
            Self::Ran => "ran",
            Self::Unknown => "unknown",
            Self::NotHandedOut => "not_handed_out",
        }
    }

    /// For people.
    fn words(self) -> &'static str {
        match self {
            Self::Obeyed => "and the machine obeyed",
            Self::Ran => "and the machine ran it anyway",
            Self::Unknown => "and the machine has not said what it did",
            Self::NotHandedOut => "before it was handed out",
        }
    }
}

impl<'a> Answer<'a> {
    pub(super) fn new(row: &'a CommandRow, is_proven: bool, book: &Book) -> Self {
        let heads = row.results.as_ref().map(|text| serde_json::from_str(text.get()).ok());
        let standing = book.standing(&row.agent);
        let name = book.machine(&row.agent).map(|machine| machine.name.clone()).unwrap_or_default();
        let servers = plain(row.hostname.as_deref().unwrap_or_default());
        let shown = if name.is_empty() { &servers } else { &name };
        // What a person approved under the same name is that person's word.
        let other = book.other_of_name(&row.agent, shown).filter(|_| standing != Standing::Approved);
        Self {
            row,
            is_proven,
            standing,
            name_of: other.map(str::to_owned),
            name,
            servers,
            late: None,
            refused: None,
            heads: heads.unwrap_or_default(),
        }
    }

    /// The same, whose machine said something after its command had ended.
    pub(super) fn with_late(self, late: Option<Late>) -> Self {
        Self { late, ..self }
    }

    /// The same, of a machine that is said to have refused a copy of the order, which it did not sign.
    pub(super) fn with_refusal(self, refused: Option<String>) -> Self {
        Self { refused, ..self }
    }

    /// What a machine did that was called back; `None` for others.
    fn obedience(&self) -> Option<Obedience> {
        if self.row.status != "cancelled" {
            return None;
        }
        Some(match &self.late {
            // A machine reports a result of this status when it was stopped, or had not begun.
            _ if self.row.results.is_some() => Obedience::Obeyed,
            Some(late) if late.status == "cancelled" || late.is_refused => Obedience::Obeyed,
            Some(_) => Obedience::Ran,
            None if self.row.handed_out => Obedience::Unknown,
            None => Obedience::NotHandedOut,
        })
    }

    /// Whether it is a machine's word, or is said to be one. That a machine has not answered is the server's.
    pub(super) fn is_of_machine(&self) -> bool {
        self.row.results.is_some() || !matches!(self.row.status.as_str(), "sent" | "expired" | "cancelled")
    }

    /// Whether something was found, by the results themselves; `None` when there are none that can be read.
    pub(super) fn found(&self) -> Option<bool> {
        Some(self.heads.as_ref()?.iter().any(|head| head.foundanything == Some(true)))
    }

    /// Whether the machine did all that was asked and left nothing out, by its own word.
    pub(super) fn is_whole(&self) -> bool {
        let is_done = |head: &Head| head.success == Some(true) && head.errors.as_ref().is_none_or(Vec::is_empty);
        self.row.status == "success" && self.heads.as_ref().is_some_and(|heads| heads.iter().all(is_done))
    }

    /// Paths of the question that are not on the machine, by its own word, each once. That nothing was found there is an
    /// answer, and a misspelt path looks the same.
    pub(super) fn missing(&self) -> BTreeSet<&str> {
        self.heads.iter().flatten().flat_map(|head| missing(&head.statistics)).collect()
    }

    /// What the machine is called: by the book, else by the server.
    pub(super) fn host(&self) -> &str {
        if self.name.is_empty() { &self.servers } else { &self.name }
    }

    /// Says that the server calls the machine otherwise than the book does.
    pub(super) fn other_name(&self) -> Option<String> {
        let (servers, own) = (&self.servers, &self.name);
        let differs = !servers.is_empty() && !own.is_empty() && !servers.eq_ignore_ascii_case(own);
        differs.then(|| {
            let (servers, own) = (machine_name(servers), machine_name(own));
            format!("{}: the server calls it {servers}, known here as {own}", self.row.agent)
        })
    }

    /// Says that the name by which it is shown is that of another machine; `None` where it is not.
    pub(super) fn stolen_name(&self) -> Option<String> {
        let other = self.name_of.as_ref()?;
        let (agent, name) = (&self.row.agent, machine_name(self.host()));
        Some(format!("{agent}: {name} is the name that you gave to {other}, which is another machine"))
    }

    /// How its machine stands, and whose name it has if that is another's: as CSV has it.
    pub(super) fn mark(&self) -> String {
        let name_of = self.name_of.as_ref().map(|other| format!("name of {other}"));
        let words = [Some(self.word().to_owned()).filter(|word| !word.is_empty()), name_of];
        words.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// How its machine stands, in one word; empty where no machine has spoken.
    pub(super) fn word(&self) -> &'static str {
        match (self.is_of_machine(), self.is_proven) {
            (false, _) => "",
            (true, false) => "unproven",
            (true, true) => self.standing.word(),
        }
    }

    /// Returns how the machine is shown: by what it is called, its id, and what is to be known before that is believed.
    pub(super) fn name(&self) -> String {
        let mark = match self.mark() {
            mark if mark.is_empty() || mark == Standing::Approved.word() => String::new(),
            mark => format!(", {mark}"),
        };
        match self.host() {
            "" if mark.is_empty() => self.row.agent.clone(),
            "" => format!("({}{mark})", self.row.agent),
            name => format!("{} ({}{mark})", machine_name(name), self.row.agent),
        }
    }

    /// Returns it as a line of JSON: what the machine said, which order it answers, and apart from that the server's word.
    pub(super) fn json(&self, order: &Order) -> serde_json::Result<String> {
        let CommandRow { id, action, hostname, handed_out, started, finished, found, .. } = self.row;
        serde_json::to_string(&Line {
            agent: &self.row.agent,
            name: Some(self.name.as_str()).filter(|name| !name.is_empty()),
            known: self.standing != Standing::New,
            approved: self.standing == Standing::Approved,
            standing: self.word(),
            name_of: self.name_of.as_deref(),
            proven: self.is_proven,
            status: &self.row.status,
            found: self.found(),
            whole: self.is_whole(),
            missing: self.missing(),
            order: order.digest.map(|digest| OrderLine {
                name: &order.name,
                signed_sha256: hex::encode(digest),
                signers: &order.signers,
            }),
            results: self.row.results.as_deref(),
            proof: self.row.proof.as_ref(),
            cancelled: self.obedience().map(Obedience::word),
            server: Server {
                id: Some(*id).filter(|id| *id > 0),
                action: Some(*action).filter(|id| *id > 0),
                hostname,
                handed_out: *handed_out,
                started: Some(started.as_str()).filter(|started| !started.is_empty()),
                finished,
                found: *found,
                late: self.late.as_ref(),
            },
        })
    }

    /// Returns what the machine answered, one text for each thing it found, each once. That nothing was found is said
    /// beside errors, too: they do not say so.
    pub(super) fn values(&self, modules: &[String]) -> BTreeSet<String> {
        if let Some(refused) = &self.refused {
            return BTreeSet::from([format!("(refused, unproven: {refused})")]);
        }
        let mut values = BTreeSet::new();
        let results = self.row.results.as_ref().map(|text| serde_json::from_str::<Vec<serde_json::Value>>(text.get()));
        let results = results.transpose().unwrap_or_else(|error| {
            values.insert(format!("(unreadable: {error})"));
            None
        });
        let (mut has_errors, mut found_nothing) = (false, self.row.status == "success");
        for (at, result) in results.iter().flatten().enumerate() {
            let Ok(read) = ModuleResult::deserialize(result) else {
                values.insert(result.to_string());
                found_nothing = false;
                continue;
            };
            has_errors |= !read.errors().is_empty();
            values.extend(read.errors().iter().map(|error| format!("(error) {error}")));
            let module = modules.get(at).and_then(|module| registry::find(module));
            let before = values.len();
            match module {
                Some(module) => values.extend(module.lines(&read, Lines::Found)),
                None if read.foundanything => _ = values.insert(read.elements.to_string()),
                None => {}
            }
            // A module that ended with an error did not look to the end.
            found_nothing &= read.success && !read.foundanything && values.len() == before;
        }
        // Why a machine failed says that it did.
        if self.row.status != "success" && !(self.row.status == "failed" && has_errors) {
            let more = match (self.obedience(), &self.late) {
                (Some(obedience), Some(late)) if obedience == Obedience::Ran => {
                    format!(", {}: {} came late{}", obedience.words(), late.status, unproven(late.is_proven))
                }
                (Some(obedience), late) => {
                    let is_proven = self.is_proven || late.as_ref().is_some_and(|late| late.is_proven);
                    format!(", {}{}", obedience.words(), unproven(is_proven))
                }
                (None, Some(late)) => format!(", {} came late{}", late.status, unproven(late.is_proven)),
                (None, None) => String::new(),
            };
            values.insert(format!("({}{more})", self.row.status));
        }
        if (found_nothing && results.is_some()) || values.is_empty() {
            values.insert("(nothing found)".to_owned());
        }
        values.extend(self.missing().into_iter().map(|path| format!("(not on this machine) {path}")));
        values
    }
}

/// A line of `--json`; docs/reference/cli.md and docs/operate/investigations.md say what its fields mean.
#[derive(Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field that programs read")]
struct Line<'a> {
    agent: &'a str,
    name: Option<&'a str>,
    known: bool,
    approved: bool,
    standing: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_of: Option<&'a str>,
    proven: bool,
    status: &'a str,
    found: Option<bool>,
    whole: bool,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    missing: BTreeSet<&'a str>,
    order: Option<OrderLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<&'a ResultProof>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled: Option<&'static str>,
    server: Server<'a>,
}

/// The order that was verified here.
#[derive(Serialize)]
struct OrderLine<'a> {
    name: &'a str,
    signed_sha256: String,
    signers: &'a [String],
}

/// What only the server says.
#[derive(Serialize)]
struct Server<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<i64>,
    hostname: &'a Option<String>,
    handed_out: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<&'a str>,
    finished: &'a Option<String>,
    found: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    late: Option<&'a Late>,
}
