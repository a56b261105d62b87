//! `muster agent show`: one machine with its facts.

use crate::output::{Table, label_names, machine_name, safe, size, time, time_or_dash, yes};
use crate::{Context, Failure, resolve};
use muster_api::agents::{AgentDetail, Lookalike};
use serde_json::Value;

/// Shows the machine that `id` names.
pub(super) async fn run(context: &Context, id: &str) -> Result<(), Failure> {
    let id = resolve::agent(context, id).await?;
    let what = format!("could not show agent {id}");
    let answer = context.api.get(&what, &["agents", &id], &()).await?;
    if context.out.json {
        return context.out.json(&answer);
    }
    let detail: AgentDetail = context.api.read(&what, &answer)?;
    let summary = &detail.summary;
    context.out.pairs(&[
        ("Id", summary.id.clone()),
        ("Host", summary.hostname.as_deref().map(machine_name).unwrap_or_default()),
        ("State", summary.state.clone()),
        ("Why", summary.state_note.clone()),
        ("Was", summary.predecessor.clone().unwrap_or_default()),
        ("Goes on as", summary.successor.clone().unwrap_or_default()),
        ("New key asked", summary.rekey_asked.as_deref().map(time).unwrap_or_default()),
        ("Labels", label_names(&summary.labels)),
        ("First seen", time(&summary.created)),
        ("Last contact", time(&summary.last_contact)),
        ("Stopped", summary.left.as_deref().map(time).unwrap_or_default()),
        ("From", summary.last_address.clone()),
        ("Its clock then", detail.last_clock.as_deref().map(time).unwrap_or_default()),
        ("Stream", yes(summary.streaming)),
        ("Messages waiting", detail.pending_messages.to_string()),
        ("Cloned?", summary.clone_suspected.as_deref().map(|at| format!("suspected {}", time(at))).unwrap_or_default()),
        ("Nonce chain", nonces(&detail)),
        ("Looks like", lookalikes(&detail).join("; ")),
    ])?;
    if detail.facts.is_empty() {
        context.out.note("It has told no facts.");
        return Ok(());
    }
    context.out.line(&format!("\nFacts of {}", safe(&time_or_dash(detail.facts_at.as_ref()))))?;
    let mut table = Table::new(&["FACT", "VALUE"]);
    for (name, value) in &detail.facts {
        for (name, value) in flat(name, value) {
            table.row([name, value]);
        }
    }
    context.out.table(&table, "")
}

/// Machines that look like this one, a line for each.
pub(super) fn lookalikes(detail: &AgentDetail) -> Vec<String> {
    let line = |other: &Lookalike| {
        let what = match (other.same_machine_id, other.same_hostname) {
            (true, true) => "machine id and host name",
            (true, false) => "machine id",
            _ => "host name",
        };
        format!("{} {}, {}: same {what}", other.id, machine_name(&other.hostname), other.state)
    };
    detail.lookalikes.iter().map(line).collect()
}

fn nonces(detail: &AgentDetail) -> String {
    match (detail.nonce_splits, detail.nonce_skips) {
        (0, 0) => String::new(),
        (splits, skips) => format!("{splits} splits, {skips} skips"),
    }
}

/// Returns a fact as lines of name and value: objects and lists of objects by their parts, lists of plain values in one
/// line.
pub(super) fn flat(name: &str, value: &Value) -> Vec<(String, String)> {
    let below = |key: &str, value: &Value| flat(&format!("{name}.{key}"), value);
    match value {
        Value::Object(parts) if !parts.is_empty() => parts.iter().flat_map(|(key, part)| below(key, part)).collect(),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().enumerate().flat_map(|(number, item)| below(&number.to_string(), item)).collect()
        }
        Value::Array(items) => vec![(name.to_owned(), items.iter().map(plain).collect::<Vec<_>>().join(" "))],
        Value::Number(bytes) if name.ends_with("_bytes") => {
            let size = bytes.as_u64().map(|bytes| format!(" ({})", size(bytes))).unwrap_or_default();
            vec![(name.to_owned(), format!("{bytes}{size}"))]
        }
        other => vec![(name.to_owned(), plain(other))],
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn facts_are_flattened_to_lines() {
        let value = json!({"disks": [{"name": "sda", "bytes": 5}], "addresses": ["10.0.0.1", "::1"], "load": null,
            "swap_bytes": 2048});
        let lines: Vec<_> = flat("host", &value).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            lines,
            [
                "host.addresses=10.0.0.1 ::1",
                "host.disks.0.bytes=5",
                "host.disks.0.name=sda",
                "host.load=-",
                "host.swap_bytes=2048 (2.0 KiB)"
            ]
        );
    }
}
