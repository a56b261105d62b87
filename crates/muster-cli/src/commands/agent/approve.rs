//! `muster agent approve`: who it is that waits, shown before it is let in.

use super::{Change, one_or_all, show, unchanged};
use crate::commands::{Stake, confirm};
use crate::output::machine_name;
use crate::{Context, Failure, resolve};
use muster_api::agents::AgentDetail;
use reqwest::Method;
use serde_json::Value;
use std::io::IsTerminal as _;

/// Facts by which people recognise a machine.
const SHOWN: [&str; 6] = ["fqdn", "os_name", "architecture", "virtualisation", "machine_id", "addresses"];

/// Shows the machines and lets them in.
pub(super) async fn run(context: &Context, change: &Change, yes: bool) -> Result<(), Failure> {
    let mut answers = Vec::new();
    for text in &change.ids {
        let id = resolve::agent(context, text).await?;
        let what = format!("could not approve agent {id}");
        let detail = context.api.get(&what, &["agents", &id], &()).await?;
        let detail: AgentDetail = context.api.read(&what, &detail)?;
        for line in lines(&detail) {
            context.out.note(&crate::output::safe(&line));
        }
        // Scripts that approve what they know go on as they did.
        let is_in = detail.summary.state == "enrolled";
        if !is_in && !yes && std::io::stdin().is_terminal() {
            confirm(&format!("Let {id} in?"), false, Stake::Machines).await?;
        }
        let answer = context.api.send(&what, Method::POST, &["agents", &id, "approve"], &change.reason.body()).await?;
        if let Some(note) = unchanged(&id, &detail.summary.state, &answer) {
            context.out.note(&crate::output::safe(&note));
        }
        if !context.out.json {
            let state = answer.get("state").and_then(Value::as_str).unwrap_or_default();
            context.out.line(&crate::output::safe(&format!("{id}  {state}")))?;
        }
        answers.push(answer);
    }
    if context.out.json { one_or_all(context, answers) } else { Ok(()) }
}

/// What a person looks at before a machine is let in.
fn lines(detail: &AgentDetail) -> Vec<String> {
    let summary = &detail.summary;
    let host = summary.hostname.as_deref().map_or_else(|| "no host name told".to_owned(), machine_name);
    let mut lines = vec![format!("{}  {host}, from {}", summary.id, summary.last_address)];
    if !summary.state_note.is_empty() {
        lines.push(format!("  NOTE: {}", summary.state_note));
    }
    for (name, value) in detail.facts.iter().filter(|(name, _)| SHOWN.contains(&name.as_str())) {
        lines.extend(show::flat(name, value).into_iter().map(|(name, value)| format!("  {name}: {value}")));
    }
    if detail.facts.is_empty() {
        lines.push("  It told nothing of itself.".to_owned());
    }
    lines.extend(show::lookalikes(detail).into_iter().map(|line| format!("  LOOKS LIKE {line}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_person_sees_host_address_facts_and_lookalikes() {
        let detail: AgentDetail = serde_json::from_value(json!({
            "id": "0000000000000002", "state": "waiting", "hostname": "laptop", "labels": [], "created": "2026-01-01T00:00:00Z",
            "last_contact": "2026-01-01T00:00:00Z", "last_address": "192.0.2.9:4", "streaming": true, "clone_suspected": null,
            "state_note": "it has the machine id of agent 0000000000000001 (laptop), which is blocked",
            "public_key": "", "last_clock": null, "nonce_splits": 0, "nonce_skips": 0, "pending_messages": 0,
            "facts": {"machine_id": "ab", "os_name": "Debian", "load": 1}, "facts_at": null,
            "lookalikes": [{"id": "0000000000000001", "state": "blocked", "hostname": "laptop", "same_machine_id": true,
                "same_hostname": true, "last_contact": "2026-01-01T00:00:00Z"}],
        }))
        .unwrap();
        assert_eq!(
            lines(&detail),
            [
                "0000000000000002  laptop, from 192.0.2.9:4",
                "  NOTE: it has the machine id of agent 0000000000000001 (laptop), which is blocked",
                "  machine_id: ab",
                "  os_name: Debian",
                "  LOOKS LIKE 0000000000000001 laptop, blocked: same machine id and host name",
            ]
        );
    }

    #[test]
    fn a_host_name_says_nothing_but_itself() {
        let detail: AgentDetail = serde_json::from_value(json!({
            "id": "0000000000000002", "state": "waiting", "hostname": "web-1, from 192.0.2.1:4  (known)", "labels": [],
            "created": "2026-01-01T00:00:00Z", "last_contact": "2026-01-01T00:00:00Z", "last_address": "192.0.2.9:4",
            "streaming": true, "clone_suspected": null, "state_note": "", "public_key": "", "last_clock": null,
            "nonce_splits": 0, "nonce_skips": 0, "pending_messages": 0, "facts": {}, "facts_at": null,
            "lookalikes": [{"id": "0000000000000001", "state": "blocked", "hostname": "a, enrolled: same", "same_machine_id": true,
                "same_hostname": true, "last_contact": "2026-01-01T00:00:00Z"}],
        }))
        .unwrap();
        let lines = lines(&detail);
        assert_eq!(lines[0], "0000000000000002  \"web-1,␣from␣192.0.2.1:4␣␣(known)\", from 192.0.2.9:4");
        let alike = "  LOOKS LIKE 0000000000000001 \"a,␣enrolled:␣same\", blocked: same machine id and host name";
        assert_eq!(lines.last().unwrap(), alike);
    }
}
