//! Answers beside those that MIG's own API gave: the same envelope, keys, names and types.

use super::{ALL, CEILING, FIRST, Lab, draft, message, signed, value};
use muster_core::AgentId;
use muster_core::action::{ActionId, CommandStatus};
use muster_store::actions::ResultPut;
use muster_store::{ActionStore, ReportStore};
use serde_json::{Map, Value, json};

/// What came of the action of these tests, in the words of a module.
const RESULTS: &str =
    r#"[{"foundanything":true,"success":true,"elements":{"s1":[]},"statistics":{"openfailed":0},"errors":null}]"#;

fn recorded(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// An answer without its data: objects by their keys, texts and numbers by their type, names of data as they are, a list
/// of equals by its first.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let is_named = members.contains_key("name") && members.contains_key("value");
            let keep = |key: &str| (is_named && key == "name") || key == "rel" || key == "version" || key == "message";
            let one = |(key, value): (&String, &Value)| {
                let shown = if keep(key) { value.clone() } else { shape(value) };
                (key.clone(), shown)
            };
            Value::Object(members.iter().map(one).collect::<Map<_, _>>())
        }
        Value::Array(list) => {
            let shapes: Vec<Value> = list.iter().map(shape).collect();
            let are_equal = shapes.windows(2).all(|pair| pair[0] == pair[1]);
            if are_equal { shapes.into_iter().take(1).collect() } else { shapes.into() }
        }
        Value::String(_) => "text".into(),
        Value::Number(_) => "number".into(),
        Value::Bool(_) => "truth".into(),
        Value::Null => Value::Null,
    }
}

/// The shape of a recorded answer's first items, with versions, which are data in some places.
fn alike(have: &Value, want: &str) {
    alike_first(have, &recorded(want));
}

fn alike_first(have: &Value, want: &Value) {
    let version = |mut value: Value| {
        // The version of an agent or a count is data, that of the envelope is not.
        fn forget(value: &mut Value, depth: u32) {
            match value {
                Value::Object(members) => {
                    if depth > 1 && members.get("version").is_some_and(Value::is_string) {
                        members.insert("version".into(), "text".into());
                    }
                    members.values_mut().for_each(|value| forget(value, depth + 1));
                }
                Value::Array(list) => list.iter_mut().for_each(|value| forget(value, depth + 1)),
                _ => {}
            }
        }
        forget(&mut value, 0);
        shape(&value)
    };
    assert_eq!(version(have.clone()), version(want.clone()));
}

/// Lets the server give an action to its machine, and the machine answer.
async fn answered(lab: &Lab, id: i64, agent: AgentId) {
    let sent = async {
        while value(&lab.got(&format!("/action?actionid={id}")).await, 0)["counters"]["sent"] != 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(CEILING, sent).await.expect("the action reaches its machine");
    let result = ResultPut {
        action: ActionId::new(id).unwrap(),
        agent,
        status: CommandStatus::Success,
        found: true,
        results: RESULTS.into(),
        signature: Vec::new(),
    };
    lab.live.store().command_result_put(vec![result], super::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_look_like_those_that_were_recorded() {
    let lab = Lab::start().await;
    let agent = lab.machine("vm", Vec::new()).await;
    let order = signed(draft("spec proof <&> é", "status='online' AND name='vm'"), &[FIRST]);
    let (status, created) = lab.create(&order).await;
    assert_eq!(status, 202, "{created}");
    let id = value(&created, 0)["id"].as_i64().unwrap();
    answered(&lab, id, agent).await;

    let action = lab.got(&format!("/action?actionid={id}")).await;
    alike(&action, include_str!("recorded/action.json"));
    let want = recorded(include_str!("recorded/action.json"));
    assert_eq!(value(&action, 0)["operations"], value(&want, 0)["operations"], "what was signed is shown as it was");
    assert_eq!(value(&action, 0)["counters"], json!({ "sent": 1, "done": 1, "success": 1 }));
    assert_eq!(value(&action, 0)["status"], "completed");

    let number = lab.number(agent).await;
    alike(&lab.got(&format!("/agent?agentid={number}")).await, include_str!("recorded/agent.json"));
    alike(&lab.got("/investigator?investigatorid=1").await, include_str!("recorded/investigator.json"));
    alike(&lab.got("/heartbeat").await, include_str!("recorded/heartbeat.json"));

    let (status, nothing) = lab.get("/search?type=agent&agentname=nosuch").await;
    assert_eq!((status.as_u16(), message(&nothing)), (404, "no results found"));
    alike(&nothing, include_str!("recorded/search_nothing_404.json"));
    let (status, page) = lab.get(&format!("/search?type=command&actionid={id}&limit=1&offset=1")).await;
    assert_eq!(status, 404);
    alike(&page, include_str!("recorded/search_command_page.json"));
    let echo = |body: &Value| value(body, 0).as_object().unwrap().clone();
    let recorded_echo = echo(&recorded(include_str!("recorded/search_command_page.json")));
    for (key, shown) in echo(&page) {
        if !["actionid", "after", "before"].contains(&key.as_str()) {
            assert_eq!(shown, recorded_echo[&key], "{key}");
        }
    }

    lab.live.store().agents_stats_put(super::now()).await.unwrap();
    let first_two =
        |body: &Value| json!({ "collection": { "items": body["collection"]["items"].as_array().unwrap()[..2] } });
    let mut want = first_two(&recorded(include_str!("recorded/dashboard.json")));
    // There, two versions were online; here, one is.
    want["collection"]["items"][0]["data"][1]["value"].as_array_mut().unwrap().truncate(1);
    alike_first(&first_two(&lab.got("/dashboard").await), &want);
    assert_eq!(value(&lab.got("/dashboard").await, 0), 1);
    assert_eq!(ALL, 524_287);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_comes_with_its_action_its_agent_and_its_results() {
    let lab = Lab::start().await;
    let agent = lab.machine("vm", Vec::new()).await;
    let (_, created) = lab.create(&signed(draft("look", "name='vm'"), &[FIRST])).await;
    let id = value(&created, 0)["id"].as_i64().unwrap();
    answered(&lab, id, agent).await;
    let found = lab.got("/search?type=command&foundanything=true").await;
    let command = value(&found, 0);
    assert_eq!((&command["status"], &command["action"]["id"]), (&json!("success"), &json!(id)));
    assert_eq!(command["action"]["counters"], json!({ "sent": 1, "done": 1, "success": 1 }));
    assert_eq!(command["results"], recorded(RESULTS));
    let told = &command["agent"];
    assert_eq!((&told["name"], &told["tags"]), (&json!("vm"), &json!({ "operator": "ops" })));
    assert_eq!((&told["environment"]["os"], &told["starttime"]), (&json!("linux"), &json!("0001-01-01T00:00:00Z")));
    let links = &found["collection"]["items"][0]["links"];
    assert_eq!(links[0]["rel"], "action");
    assert!(links[0]["href"].as_str().unwrap().ends_with(&format!("/mig/api/v1/action?actionid={id}")));
    let alone = lab.got(&format!("/command?commandid={}", command["id"])).await;
    assert_eq!(alone["collection"]["items"][0], found["collection"]["items"][0]);
    lab.stop().await;
}
