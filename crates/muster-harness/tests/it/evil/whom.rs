//! For whom people signed: documents of other fleets and other machines, and orders of which only the server could say
//! whom they mean.

use super::documents::{Draft, signed, told};
use super::people::Order;
use super::{PEOPLE, Stage};
use muster_harness::evil::Seen;
use serde_json::{Value, json};

/// What is tried, a word of the reason it is refused with, and the document, which both administrators signed.
type Row = (&'static str, &'static str, fn(&mut Draft));

pub(super) const ROWS: &[Row] = &[
    ("weights for the lab, in production", "does not", |draft| draft.target = "tags->>'site' = 'elsewhere'"),
    ("weights for another fleet", "belongs to lab", |draft| draft.fleet = "production"),
    ("weights for whom the server says", "only the server could say", |draft| draft.target = "id = 7"),
    ("weights for machines that are online", "only the server could say", |draft| draft.target = "status = 'online'"),
    ("weights with a target that is none", "cannot be read", |draft| draft.target = "everybody"),
    ("weights for the machine of another key", "does not", |draft| draft.target = "agentid = '0011223344556677'"),
    ("weights for a fleet without a name", "fleet must not be empty", |draft| draft.fleet = ""),
    ("weights alone, as before", "weights alone", |draft| {
        draft.kind = "acl";
        draft.content = draft.content["weights"].clone();
    }),
    ("a keyring alone, as before", "weights alone", |draft| {
        draft.kind = "keyring";
        draft.content = json!({"keys": draft.content["keys"]});
    }),
    ("keys without weights", "cannot be read", |draft| draft.content = json!({"keys": draft.content["keys"]})),
];

/// What is tried: orders for whom only the server knows. The module changes the machine.
pub(super) const ORDERS: &[(&str, &str)] = &[
    ("an order for a number, at another machine", "id = 424242"),
    ("an order for a number that is offline, at one that is online", "id = 424242 AND status = 'offline'"),
    ("an order for what another order found", FOUND),
    ("an order for an address that only the server saw", "environment->>'publicip' = '192.0.2.1'"),
    ("an order for machines that were not in contact", "heartbeattime < NOW() - INTERVAL '1 day'"),
    ("an order for a process that another start makes another", "pid <> 1"),
    ("an order for agents that were not started again", "starttime < NOW() + INTERVAL '1 day'"),
];

/// What is tried once the server demanded another key: orders for all machines but this one, under the id that it had. `X`
/// stands for that id, `Y` for the new one.
pub(super) const RENAMED: &[(&str, &str)] = &[
    ("an order for all machines but this one, under its former id", "agentid <> 'X'"),
    ("an order for none of these, among them its former id", "agentid NOT IN ('X', '0011223344556677')"),
    ("an order for all queues but its former one", "NOT queueloc = 'linux.X'"),
    ("an order for all names but its former id, with its own", "name <> 'X' AND agentid !~ '^X'"),
    ("an order for its new id, which people may take for another machine", "agentid = 'Y'"),
];

const FOUND: &str = "id IN (SELECT agentid FROM commands, json_array_elements(commands.results) AS r WHERE actionid = 5 AND \
                     r#>>'{foundanything}' = 'true')";

#[tokio::test]
async fn documents_count_only_on_the_machines_that_they_name() {
    let mut stage = Stage::new().await;
    let files = stage.machine.trust_files().unwrap();
    let before = |payload: &str| {
        let mut payload: Value = serde_json::from_str(payload).unwrap();
        payload.as_object_mut().unwrap().retain(|name, _| name != "fleet" && name != "target");
        signed(&payload.to_string(), &[&PEOPLE.dora, &PEOPLE.emil])
    };
    let unaddressed =
        ("weights for nobody, as before", "does not say for which fleet", before(&Draft::light(&PEOPLE).payload()));
    let rows = ROWS.iter().map(|(what, word, change)| {
        let mut draft = Draft::light(&PEOPLE);
        change(&mut draft);
        (*what, *word, draft.signed(&[&PEOPLE.dora, &PEOPLE.emil]))
    });
    for (what, word, document) in rows.chain([unaddressed]) {
        let trust = told(&stage, &document).await;
        let refusal = trust.document_refusal.unwrap_or_else(|| panic!("{what}: it was taken"));
        assert!(refusal.code == "document" && refusal.reason.contains(word), "{what}: {}", refusal.reason);
        assert_eq!((trust.acl_version, trust.keyring_version), (0, 0), "{what}");
        assert_eq!(stage.machine.trust_files().unwrap(), files, "{what}: something is left of it");
        stage.refused(what, Order::new(what).signed(&[&PEOPLE.bob]).as_bytes(), "weight").await;
    }
    // For this fleet and this machine it is taken, so all of the above could have been.
    let id = stage.agent_id();
    let target: &'static str = format!("agentid = '{id}' AND fleet = 'lab'").leak();
    let light = Draft { target, ..Draft::light(&PEOPLE) }.signed(&[&PEOPLE.dora, &PEOPLE.emil]);
    let trust = told(&stage, &light).await;
    assert_eq!((trust.document_refusal, trust.acl_version), (None, trust.keyring_version));
    assert_eq!(stage.ordered(Order::new("light").signed(&[&PEOPLE.bob]).as_bytes()).await.refusal, None);
    stage.runs += 1;
    // A machine that is given to another fleet believes nothing that was signed for the one before.
    stage.machine.kill().unwrap();
    stage.machine.configure("fleet = \"lab\"", "fleet = \"production\"").unwrap();
    stage.machine.start(&stage.evil).await.unwrap();
    stage.refused("moved", Order::new("moved").signed(&[&PEOPLE.alice]).as_bytes(), "trust-expired").await;
    stage.machine.kill().unwrap();
    stage.machine.configure("fleet = \"production\"", "fleet = \"lab\"").unwrap();
    stage.machine.start(&stage.evil).await.unwrap();
    stage.end().await;
}

#[tokio::test]
async fn what_changes_a_machine_never_runs_on_the_servers_word_of_whom_it_means() {
    let mut stage = Stage::new().await;
    for (what, target) in ORDERS {
        let order = Order::with(what, |order| (*target).clone_into(&mut order.target));
        stage.refused(what, order.signed(&[&PEOPLE.alice]).as_bytes(), "target-undecidable").await;
    }
    let id = stage.agent_id();
    let order = Order::with("by its key", |order| order.target = format!("agentid = '{id}'"));
    assert_eq!(stage.ordered(order.signed(&[&PEOPLE.alice]).as_bytes()).await.refusal, None);
    stage.runs += 1;
    let other = Order::with("by another key", |order| order.target = "agentid = '0011223344556677'".to_owned());
    stage.refused("by another key", other.signed(&[&PEOPLE.alice]).as_bytes(), "not-for-this-agent").await;
    stage.end().await;
}

#[tokio::test]
async fn a_machine_that_was_made_to_change_its_id_is_not_one_of_all_the_others() {
    let mut stage = Stage::new().await;
    let first = stage.agent_id();
    let to = |target: &str, signer| {
        let target = target.to_owned();
        Order::with(&target.clone(), |order| order.target = target).signed(&[signer])
    };
    let others = format!("agentid <> '{first}'");
    stage.refused("as itself", to(&others, &PEOPLE.alice).as_bytes(), "not-for-this-agent").await;
    stage.evil.send("system", "RekeyRequest", None);
    let second = |seen: &Seen| seen.agents.iter().map(ToString::to_string).find(|id| *id != first);
    let second = stage.evil.wait("the machine under its new id", second).await.unwrap();
    stage.evil.is_answered().await.unwrap();
    for is_restarted in [false, true] {
        if is_restarted {
            stage.machine.kill().unwrap();
            stage.machine.start(&stage.evil).await.unwrap();
        }
        for (what, target) in RENAMED {
            let target = target.replace('X', &first).replace('Y', &second);
            // Each is another order, also after the restart.
            let order = Order::with(&format!("{what} {is_restarted}"), |order| order.target = target);
            let result = stage.ordered(order.signed(&[&PEOPLE.alice]).as_bytes()).await;
            let refusal = result.refusal.unwrap_or_else(|| panic!("{what}: it was run"));
            assert_eq!(refusal.code, "target-undecidable", "{what}: {}", refusal.reason);
            assert!(
                refusal.reason.contains(&first) && refusal.reason.contains("every id"),
                "{what}: {}",
                refusal.reason
            );
            stage.nothing_ran(what);
        }
        // A document for all the others is not for this machine either.
        let target: &'static str = others.clone().leak();
        let light = Draft { target, ..Draft::light(&PEOPLE) }.signed(&[&PEOPLE.dora, &PEOPLE.emil]);
        let trust = told(&stage, &light).await;
        let reason = trust.document_refusal.expect("it was taken").reason;
        assert!(reason.contains("could change") && trust.acl_version == 0, "{reason}");
    }
    // An order for this machine, under whichever id, reaches it.
    let both = to(&format!("agentid IN ('{first}', '{second}')"), &PEOPLE.alice);
    assert_eq!(stage.ordered(both.as_bytes()).await.refusal, None);
    stage.runs += 1;
    stage.end().await;
}
