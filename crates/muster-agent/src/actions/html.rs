//! How the page of this machine looks.
//!
//! Stays true: what a stranger wrote is text on it and never markup; there is no script, nothing is loaded from anywhere,
//! and the style is the one that the page's policy names by its hash. It reads on a phone as on a desk.

use super::status::{Key, Part, Ran, Refused, Report, Requested};
use base64::Engine as _;
use muster_core::text;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --dim: #767676; --good: #1a7f37; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --dim: #9a9a9a; --good: #4ac26b; --bad: #ff8578; } }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
p { margin: .4rem 0; }
code { font-family: ui-monospace, monospace; font-size: .875em; overflow-wrap: anywhere; }
ul { padding-left: 1.2rem; margin: .4rem 0; }
article { border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; margin: .75rem 0; }
article > header { display: flex; flex-wrap: wrap; gap: .25rem 1rem; justify-content: space-between; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
time, .dim, summary { color: var(--dim); font-size: .9rem; }
.good { color: var(--good); }
.bad { color: var(--bad); }
.mark { border: 1px solid currentColor; border-radius: .75rem; padding: 0 .5rem; font-size: .8rem; white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .75rem; margin: .5rem 0 0; }
dt { color: var(--dim); }
dd { margin: 0; overflow-wrap: anywhere; }
details { margin-top: .5rem; }
.none { background: var(--soft); border-radius: .5rem; padding: .75rem 1rem; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; gap: 0; } dt { margin-top: .35rem; font-size: .85rem; } }
";

/// Returns what a browser is told that the page may do: show itself in its own style, and nothing else.
pub(super) fn policy() -> String {
    let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// Writes the page.
pub(super) fn page(report: &Report) -> String {
    let mut html = String::new();
    // Writing into a string cannot fail.
    let _ = write_page(&mut html, report);
    html
}

fn write_page(html: &mut String, report: &Report) -> std::fmt::Result {
    let agent = report
        .agent
        .as_deref()
        .map_or_else(|| "which has no id yet".to_owned(), |id| format!("<code>{}</code>", escape(id)));
    writeln!(
        html,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>What this machine was asked</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>What this machine was asked</h1>\n\
         <p>An agent on this machine ({agent}, muster-agent {}) runs what investigators ask of it, when enough of them \
         signed it. Each order that it ran or refused is listed here{}. Times are UTC.</p>",
        report.version,
        report.remembered_since.as_ref().map_or_else(String::new, |since| format!(", since {}", time(since))),
    )?;
    section(html, "Orders that ran", &report.orders, "Nothing was run yet.", order)?;
    section(html, "Orders that were refused", &report.refused, "Nothing was refused yet.", refusal)?;
    if !report.requests.is_empty() {
        section(html, "What the server asked without a signature", &report.requests, "", request)?;
    }
    who(html, report)?;
    html.push_str("</body>\n</html>\n");
    Ok(())
}

fn section<T>(
    html: &mut String,
    title: &str,
    rows: &[T],
    none: &str,
    row: fn(&mut String, &T) -> std::fmt::Result,
) -> std::fmt::Result {
    writeln!(html, "<h2>{title}</h2>")?;
    if rows.is_empty() {
        return writeln!(html, "<p class=\"none\">{none}</p>");
    }
    rows.iter().try_for_each(|one| row(html, one))
}

fn order(html: &mut String, order: &Ran) -> std::fmt::Result {
    let mood = match order.status.as_str() {
        "success" => "good",
        "running" => "dim",
        _ => "bad",
    };
    head(html, &order.at, &order.name)?;
    let outcome = escape(&order.outcome());
    writeln!(html, "<dl>\n<dt>Result</dt><dd class=\"{mood}\">{outcome}</dd>")?;
    for part in &order.parts {
        let Part { module, summary, changes } = part;
        let (what, mark) = if *changes {
            ("Ran", " <span class=\"mark bad\">may change the machine</span>")
        } else {
            ("Looked for", "")
        };
        writeln!(html, "<dt>{what}</dt><dd>{summary} <span class=\"dim\">({})</span>{mark}</dd>", escape(module))?;
    }
    let signers: Vec<_> = order.signers.iter().map(|key| escape(&key.owner())).collect();
    writeln!(html, "<dt>Signed by</dt><dd>{}</dd>\n</dl>", signers.join("<br>"))?;
    let finished = order.finished.as_deref().map_or_else(|| "not yet".to_owned(), time);
    writeln!(
        html,
        "<details><summary>More</summary>\n<dl>\n<dt>For machines</dt><dd><code>{}</code></dd>\n\
         <dt>Action</dt><dd>{}</dd>\n<dt>Finished</dt><dd>{finished}</dd>\n\
         <dt>SHA-256 of what was signed</dt><dd><code>{}</code></dd>",
        escape(&order.target),
        order.action,
        escape(&order.signed_sha256),
    )?;
    for Key { fingerprint, .. } in &order.signers {
        writeln!(html, "<dt>Key</dt><dd><code>{}</code></dd>", escape(fingerprint))?;
    }
    html.push_str("</dl>\n</details>\n</article>\n");
    Ok(())
}

fn refusal(html: &mut String, refused: &Refused) -> std::fmt::Result {
    head(html, &refused.at, &refused.name)?;
    let (code, reason) = (escape(&refused.code), escape(&refused.reason));
    writeln!(html, "<dl>\n<dt>Refused</dt><dd>{reason} <span class=\"mark dim\">{code}</span></dd>")?;
    writeln!(html, "<dt>Action</dt><dd>{}</dd>\n</dl>\n</article>", refused.action)
}

fn request(html: &mut String, asked: &Requested) -> std::fmt::Result {
    head(html, &asked.at, &asked.request)?;
    writeln!(html, "<p>{}</p>\n</article>", escape(&asked.outcome()))
}

fn head(html: &mut String, at: &str, name: &str) -> std::fmt::Result {
    let name = if name.is_empty() { "<span class=\"dim\">without a name</span>".to_owned() } else { escape(name) };
    writeln!(html, "<article>\n<header><h3>{name}</h3>{}</header>", time(at))
}

/// Whose orders count.
fn who(html: &mut String, report: &Report) -> std::fmt::Result {
    let (keys, weights) = report.sources();
    html.push_str("<h2>Who may ask</h2>\n");
    for problem in &report.problems {
        writeln!(html, "<p class=\"bad\">{}</p>", escape(problem))?;
    }
    if report.keyring.is_empty() {
        return html.write_str("<p class=\"none\">Nobody: this machine knows no investigator's key.</p>\n");
    }
    writeln!(
        html,
        "<p>Only orders signed with these keys are looked at; the keys come {keys}, and their weights {weights}."
    )?;
    if let Some(expire) = &report.documents_expire {
        writeln!(html, "The documents expire {}; nothing runs after that.", time(expire))?;
    }
    html.push_str("</p>\n<ul>\n");
    for key in &report.keyring {
        let (names, fingerprint) = (escape(&key.names.join(", ")), escape(&key.fingerprint));
        writeln!(html, "<li>{names}<br><code>{fingerprint}</code></li>")?;
    }
    html.push_str("</ul>\n");
    Ok(())
}

/// Writes a moment as people and programs read it.
fn time(moment: &str) -> String {
    let moment = escape(moment);
    format!("<time datetime=\"{moment}\">{}</time>", moment.replace('T', " ").trim_end_matches('Z'))
}

pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if text::is_unseen(c) => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
