//! What this machine ran, when, by whose order and with what result, for the machine's owner: in a terminal and on a page
//! of this machine.
//!
//! Stays true: it is read from the ledger's file, so it can be seen whether the agent runs or not; nothing can be changed
//! here. What a stranger wrote is shown as text and never as anything else.

use super::Believed;
use super::ledger::{self, Order, RefusedOrder};
use crate::config::Config;
use crate::keys;
use muster_core::Timestamp;
use muster_trust::document::Kind;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Orders and refusals shown unless all are asked for.
const SHOWN: usize = 20;

/// Where the ledger of orders is.
pub(crate) fn ledger_path(config: &Config) -> PathBuf {
    config.state_dir.join("orders")
}

/// Where accepted documents are.
pub(crate) fn documents_path(config: &Config) -> PathBuf {
    config.state_dir.join("documents.json")
}

/// All that is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The machine's id; `None` before its first start.
    agent: Option<String>,
    /// Whose orders count.
    keyring: Vec<Key>,
    /// The version of the keyring's document, 0 when files count.
    keyring_version: u64,
    /// The version of the weights' document, 0 when a file counts.
    acl_version: u64,
    /// When the first of these documents expires.
    documents_expire: Option<String>,
    /// Since when orders are remembered.
    remembered_since: Option<String>,
    /// Orders that were run, newest first.
    orders: Vec<Ran>,
    /// Orders that were refused, newest first.
    refused: Vec<Refused>,
}

#[derive(Debug, Serialize)]
struct Key {
    fingerprint: String,
    names: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Ran {
    at: String,
    finished: Option<String>,
    status: String,
    found: usize,
    action: i64,
    name: String,
    target: String,
    modules: Vec<String>,
    signers: Vec<String>,
    signed_sha256: String,
}

#[derive(Debug, Serialize)]
struct Refused {
    at: String,
    action: i64,
    name: String,
    code: String,
    reason: String,
}

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// The latest.
    Latest,
    /// Whatever is remembered.
    All,
}

impl Report {
    /// Reads everything.
    pub(crate) fn read(config: &Config, show: Show) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let path = ledger_path(config);
        let content = ledger::look(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let believed = Believed::load(config, &documents_path(config));
        let most = if show == Show::All { usize::MAX } else { SHOWN };
        let content = content.as_ref();
        let keys = believed.keyring.certificates().iter();
        let keyring =
            keys.map(|key| Key { fingerprint: key.fingerprint().to_string(), names: key.user_ids() }).collect();
        Ok(Self {
            agent: keys::load(&config.state_dir)?.map(|identity| identity.id.to_string()),
            keyring,
            keyring_version: believed.version(Kind::Keyring),
            acl_version: believed.version(Kind::Acl),
            documents_expire: believed.expires.map(second),
            remembered_since: content.map(|content| second(content.since().0)),
            orders: content.map_or_else(Vec::new, |content| content.orders().rev().take(most).map(ran).collect()),
            refused: content.map_or_else(Vec::new, |content| content.refused().rev().take(most).map(refused).collect()),
        })
    }

    /// Writes it for a terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            text.push_str(&plain(&line));
            text.push('\n');
        };
        line(format!("agent       {}", self.agent.as_deref().unwrap_or("none yet")));
        let version = |version: u64| if version == 0 { "files".to_owned() } else { format!("version {version}") };
        line(format!("keyring     {} ({} keys)", version(self.keyring_version), self.keyring.len()));
        for key in &self.keyring {
            line(format!("            {}  {}", key.fingerprint, key.names.join(", ")));
        }
        line(format!("weights     {}", version(self.acl_version)));
        if let Some(expire) = &self.documents_expire {
            line(format!("expire      {expire}"));
        }
        line(format!("since       {}", self.remembered_since.as_deref().unwrap_or("nothing is remembered yet")));
        line(format!("\norders that ran: {}", if self.orders.is_empty() { "none" } else { "" }));
        for order in &self.orders {
            line(format!("  {}  {:<11}  {} found  {:?}", order.at, order.status, order.found, order.name));
            line(format!("      {} for {}", order.modules.join(", "), order.target));
            line(format!("      signed by {}", order.signers.join(", ")));
        }
        line(format!("\norders that were refused: {}", if self.refused.is_empty() { "none" } else { "" }));
        for refused in &self.refused {
            line(format!("  {}  {}  {:?}: {}", refused.at, refused.code, refused.name, refused.reason));
        }
        text
    }

    /// Writes it as a page.
    pub(crate) fn html(&self) -> String {
        let mut html = String::from(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>muster-agent</title>\n\
             <h1>What this machine was asked</h1>\n",
        );
        let agent = escape(self.agent.as_deref().unwrap_or("none yet"));
        let _ = writeln!(html, "<p>This machine is <code>{agent}</code>. It acts for these keys only:</p>\n<ul>");
        for key in &self.keyring {
            let (fingerprint, names) = (escape(&key.fingerprint), escape(&key.names.join(", ")));
            let _ = writeln!(html, "<li><code>{fingerprint}</code> {names}</li>");
        }
        html.push_str("</ul>\n<h2>Orders that ran</h2>\n<table><tr><th>when<th>result<th>found<th>name<th>modules<th>signed by</tr>\n");
        for order in &self.orders {
            let cells = [
                order.at.clone(),
                order.status.clone(),
                order.found.to_string(),
                order.name.clone(),
                order.modules.join(", "),
                order.signers.join(", "),
            ];
            html.push_str(&row(&cells));
        }
        html.push_str("</table>\n<h2>Orders that were refused</h2>\n<table><tr><th>when<th>code<th>name<th>why</tr>\n");
        for refused in &self.refused {
            let cells = [refused.at.clone(), refused.code.clone(), refused.name.clone(), refused.reason.clone()];
            html.push_str(&row(&cells));
        }
        html.push_str("</table>\n</html>\n");
        html
    }
}

fn ran(order: &Order) -> Ran {
    let outcome = order.outcome.as_ref();
    Ran {
        at: second(order.at),
        finished: outcome.map(|outcome| second(outcome.at)),
        status: outcome.map_or_else(|| "running".to_owned(), |outcome| outcome.status.clone()),
        found: outcome.map_or(0, |outcome| outcome.found),
        action: order.action_id,
        name: order.name.clone(),
        target: order.target.clone(),
        modules: order.modules.clone(),
        signers: order.signers.clone(),
        signed_sha256: hex::encode(order.key),
    }
}

fn refused(refused: &RefusedOrder) -> Refused {
    Refused {
        at: second(refused.at),
        action: refused.action_id,
        name: refused.name.clone(),
        code: refused.code.clone(),
        reason: refused.reason.clone(),
    }
}

/// A moment without its fraction.
fn second(moment: Timestamp) -> String {
    Timestamp::from_secs(moment.to_parts().0).to_string()
}

/// Takes away what would move a terminal's cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn row(cells: &[String]) -> String {
    let cells = cells.iter().map(|cell| format!("<td>{}", escape(cell)));
    format!("<tr>{}</tr>\n", cells.collect::<String>())
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actions::ledger::OrderLedger;

    fn hostile() -> RefusedOrder {
        RefusedOrder {
            at: Timestamp::from_secs(1_800_000_000),
            action_id: 7,
            name: "<script>alert(1)</script>\u{1b}[2J".into(),
            code: "weight".into(),
            reason: "\"'&".into(),
        }
    }

    #[test]
    fn what_was_refused_is_shown_as_text_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let config = Config { state_dir: directory.path().into(), ..Config::default() };
        let config = Config { keyring_dir: "".into(), acl_file: "".into(), administrators_dir: "".into(), ..config };
        let empty = Report::read(&config, Show::Latest).unwrap();
        assert!(empty.text().contains("orders that ran: none") && empty.agent.is_none());
        let now = Timestamp::from_secs(1_800_000_000);
        OrderLedger::open(&ledger_path(&config), false, now).unwrap().refuse(hostile()).unwrap();
        let report = Report::read(&config, Show::Latest).unwrap();
        let text = report.text();
        assert!(text.contains("2027-01-15T08:00:00Z  weight") && !text.contains('\u{1b}'), "{text}");
        let html = report.html();
        assert!(html.contains("&lt;script&gt;") && !html.contains("<script"), "{html}");
        assert!(html.contains("&quot;&#39;&amp;") && !html.contains('\u{1b}'));
    }
}
