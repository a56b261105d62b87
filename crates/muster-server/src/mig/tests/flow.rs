//! What MIG's programs do, in their order.

use super::{CEILING, FIRST, Lab, SECOND, draft, message, signed, value};
use muster_core::action::{ActionId, CommandStatus};
use muster_core::limits;
use muster_store::ActionStore;
use muster_store::actions::ResultPut;
use muster_store::agents::Effect;
use muster_store::investigators::{ModuleTold, TrustTold};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Numbers of the items that hold something under this name.
fn count(body: &Value, name: &str) -> usize {
    let items = body["collection"]["items"].as_array().unwrap();
    items.iter().filter(|item| item["data"][0]["name"] == name).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_of_more_than_a_page_is_counted_whole() {
    let lab = Lab::start().await;
    let page = usize::try_from(limits::PAGE_ROWS_MAX).unwrap();
    for n in 0..=page {
        lab.machine(&format!("vm{n}"), Vec::new()).await;
    }
    let asked = async |more: &str| {
        let body = lab.got(&format!("/search?type=agent&target=name+LIKE+%27vm%25%27{more}")).await;
        assert_eq!(body["collection"]["error"], json!({}));
        let items = body["collection"]["items"].as_array().unwrap();
        assert_eq!(items.last().unwrap()["data"][0]["name"], "search parameters");
        let ids: BTreeSet<i64> = items.iter().filter_map(|item| item["data"][0]["value"]["id"].as_i64()).collect();
        assert_eq!(ids.len(), count(&body, "agent"));
        (ids.len(), count(&body, "pagination"))
    };
    assert_eq!(asked("&limit=1000000").await, (page + 1, 0));
    assert_eq!(asked(&format!("&limit={page}")).await, (page, 0));
    assert_eq!(asked("&limit=1000000&offset=1").await, (page, 1));
    assert_eq!(asked("").await, (100, 0));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mig_command_finds_agents_launches_polls_and_pages() {
    let lab = Lab::start().await;
    let agent = lab.machine("vm", Vec::new()).await;
    let agents = lab.got("/search?type=agent&limit=1000000&target=name%3D%27vm%27+AND+status%3D%27online%27").await;
    assert_eq!(count(&agents, "agent"), 1);
    let (status, none) = lab.get("/search?type=agent&limit=1000000&target=name%3D%27nobody%27").await;
    assert_eq!((status.as_u16(), message(&none)), (404, "no results found"));

    let (status, created) = lab.create(&signed(draft("file -path /etc", "name='vm'"), &[FIRST])).await;
    assert_eq!(status, 202);
    let action = value(&created, 0);
    let id = action["id"].as_i64().unwrap();
    assert_eq!(created["collection"]["items"][0]["data"][0]["name"], format!("action ID {id}"));
    assert_eq!(action["investigators"][0]["name"], "ops");

    let mut is_answered = false;
    let polls = async {
        loop {
            let body = lab.got(&format!("/action?actionid={id}")).await;
            let (status, counters) =
                (value(&body, 0)["status"].as_str().unwrap().to_owned(), &value(&body, 0)["counters"]);
            let number = |name: &str| counters[name].as_u64().unwrap_or(0);
            if number("done") >= number("sent") && number("sent") > 0 {
                return status;
            }
            assert!(["pending", "scheduled", "preparing", "inflight"].contains(&status.as_str()), "{status}");
            if number("sent") == 1 && !is_answered {
                let open = lab.got(&format!("/search?type=command&actionid={id}&status=sent")).await;
                assert_eq!(value(&open, 0)["finishtime"], "9998-01-11T11:11:11.000000011Z");
                assert_eq!(value(&open, 0)["results"], json!([]));
                let results =
                    r#"[{"foundanything":true,"success":true,"elements":null,"statistics":null,"errors":null}]"#;
                let put = ResultPut {
                    action: ActionId::new(id).unwrap(),
                    agent,
                    status: CommandStatus::Success,
                    found: true,
                    results: results.into(),
                    signature: Vec::new(),
                };
                lab.live.store().command_result_put(vec![put], super::now()).await.unwrap();
                is_answered = true;
            }
        }
    };
    assert_eq!(tokio::time::timeout(CEILING, polls).await.unwrap(), "completed");

    let page = |k: u32| format!("/search?type=command&limit=37&offset={}&actionid={id}&foundanything=true", k * 37);
    assert_eq!(count(&lab.got(&page(0)).await, "command"), 1);
    let (status, end) = lab.get(&page(1)).await;
    assert_eq!((status.as_u16(), message(&end)), (404, "no results found"));
    for status in ["cancelled", "expired", "failed", "timeout"] {
        let path = format!("/search?type=command&limit=37&offset=0&actionid={id}&status={status}");
        assert_eq!(lab.get(&path).await.0, 404, "{status}");
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_told_where_they_are_and_where_the_next_one_is() {
    let lab = Lab::start().await;
    for name in ["one", "two", "three"] {
        lab.machine(name, Vec::new()).await;
    }
    let first = lab.got("/search?type=agent&limit=2").await;
    assert_eq!((count(&first, "agent"), count(&first, "pagination"), count(&first, "search parameters")), (2, 0, 1));
    let second = lab.got("/search?type=agent&limit=2&offset=2").await;
    assert_eq!((count(&second, "agent"), count(&second, "pagination"), count(&second, "search parameters")), (1, 1, 1));
    let page = value(&second, 1);
    assert_eq!((&page["limit"], &page["offset"]), (&json!(2), &json!(2)));
    let next = page["next"].as_str().unwrap();
    assert!(next.starts_with(&lab.live.url) && next.contains("offset=4") && next.contains("type=agent"), "{next}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_waits_for_signatures_is_pending_in_migs_words() {
    let lab = Lab::start().await;
    lab.add("second", SECOND, 0).await;
    let keys: Vec<String> = {
        let rows: muster_api::Page<muster_api::investigators::InvestigatorRow> =
            lab.live.get("/api/v1/investigators").await;
        rows.items.into_iter().filter_map(|row| row.fingerprint).collect()
    };
    let acl = json!({ "default": { "minimumweight": 2, "investigators": {
        "one": { "fingerprint": keys[0], "weight": 1 }, "two": { "fingerprint": keys[1], "weight": 1 } } } });
    let told = TrustTold {
        keyring: keys,
        acl: acl.to_string(),
        modules: vec![ModuleTold { name: "file".into(), weight_min: 1, changes: false }],
        ..TrustTold::default()
    };
    lab.machine("vm", vec![Effect::Trust(Box::new(told))]).await;
    let (status, created) = lab.create(&signed(draft("alone", "name='vm'"), &[FIRST])).await;
    let action = value(&created, 0);
    assert_eq!((status.as_u16(), &action["status"], &action["counters"]), (202, &json!("pending"), &json!({})));
    assert_eq!(action["starttime"], "0009-01-11T11:11:11.000000011Z");
    assert_eq!(action["finishtime"], "9998-01-11T11:11:11.000000011Z");
    let id = action["id"].as_i64().unwrap();
    let row: muster_api::actions::ActionDetail = lab.live.get(&format!("/api/v1/actions/{id}")).await;
    assert_eq!(row.summary.status, "waiting");
    assert_eq!(value(&lab.got("/search?status=pend%25").await, 0)["id"], id);
    let (status, both) = lab.create(&signed(draft("together", "name='vm'"), &[FIRST, SECOND])).await;
    assert_eq!((status.as_u16(), value(&both, 0)["investigators"].as_array().unwrap().len()), (202, 2));
    let row: muster_api::actions::ActionDetail =
        lab.live.get(&format!("/api/v1/actions/{}", value(&both, 0)["id"])).await;
    assert_ne!(row.summary.status, "waiting");
    lab.stop().await;
}
