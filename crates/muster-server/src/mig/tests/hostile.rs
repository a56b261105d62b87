//! Questions and orders that are wrong, odd or hostile: each has an answer that says so, and none is the server's failure.

use super::{FIRST, Lab, SECOND, answer, draft, form_of, message, sign, signed, value};
use reqwest::Method;
use serde_json::{Value, json};

/// How many actions there are.
async fn actions(lab: &Lab) -> usize {
    let list: muster_api::Page<muster_api::actions::ActionSummary> = lab.live.get("/api/v1/actions").await;
    list.items.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_of_any_kind_with_any_or_no_condition_is_answered() {
    let lab = Lab::start().await;
    lab.machine("vm", Vec::new()).await;
    lab.create(&signed(draft("look", "name='vm'"), &[FIRST])).await;
    for kind in ["action", "command", "agent", "investigator", "manifest", "loader"] {
        let (status, _) = lab.get(&format!("/search?type={kind}")).await;
        assert!([200, 404].contains(&status.as_u16()), "{kind}: {status}");
        for condition in [
            "actionid=1",
            "commandid=67108865",
            "agentid=1",
            "investigatorid=1",
            "manifestid=1",
            "loaderid=1",
            "actionname=%25look%25",
            "agentname=vm",
            "agentversion=1.%25",
            "investigatorname=ops",
            "manifestname=x",
            "loadername=x",
            "status=%25",
            "status=pending",
            "status=online",
            "status=nothing",
            "threatfamily=test",
            "foundanything=true",
            "foundanything=false",
            "before=2000-01-01T00:00:00Z",
            "after=2099-01-01T00:00:00%2B01:00",
            "limit=0",
            "limit=1000000",
            "offset=1000000",
            "actionid=%E2%88%9E",
            "actionname=",
            "report=complianceitems",
            "actionname=%5C",
            "agentname=%27%20OR%20%271%27%3D%271",
            "unknown=1",
            "actionid=9007199254740991",
            "actionid=-1",
        ] {
            let (status, body) = lab.get(&format!("/search?type={kind}&{condition}")).await;
            assert!([200, 404].contains(&status.as_u16()), "{kind} {condition}: {status} {body}");
            let items = body["collection"]["items"].as_array().unwrap();
            assert_eq!(items.last().unwrap()["data"][0]["name"], "search parameters", "{kind} {condition}");
        }
        for wrong in [
            "actionid=x",
            "limit=-1",
            "limit=many",
            "offset=-1",
            "before=yesterday",
            "after=2026-01-01",
            "foundanything=maybe",
            "agentid=9007199254740992",
            "agentid=1.5",
            "actionname=%00",
            "offset=1e300",
        ] {
            let (status, body) = lab.get(&format!("/search?type={kind}&{wrong}")).await;
            assert_eq!(status, 400, "{kind} {wrong}: {body}");
        }
    }
    assert_eq!(value(&lab.got("/search?type=action&status=%25").await, 0)["name"], "look");
    let (status, refused) = lab.get("/search?type=weather").await;
    assert_eq!((status.as_u16(), message(&refused)), (400, "search type is invalid"));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_reaches_no_database_as_text() {
    let lab = Lab::start().await;
    let agent = lab.machine("vm", Vec::new()).await;
    let number = lab.number(agent).await;
    let before = value(&lab.got(&format!("/agent?agentid={number}")).await, 0)["tags"].clone();
    for target in [
        "name='vm'; UPDATE agents SET tags='{}'",
        "name='vm'; DROP TABLE machines; --",
        "1=1) UNION SELECT 1 --",
        "pg_sleep(600) IS NULL",
        "name='vm' AND pg_sleep(600) IS NULL",
        "(SELECT count(*) FROM investigators) > 0",
        "id IN (select agentid from commands)",
        "name='vm' /* x */",
        "name=$1",
        "name='",
        "",
        "name LIKE '%' ESCAPE '",
        "@nothing",
    ] {
        let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("target", target).finish();
        let (status, body) = lab.get(&format!("/search?type=agent&{query}")).await;
        let wanted = if target.is_empty() { 200 } else { 400 };
        assert_eq!(status, wanted, "{target}: {body}");
        assert!(target.is_empty() || message(&body).contains("at character"), "{target}: {body}");
    }
    assert_eq!(value(&lab.got(&format!("/agent?agentid={number}")).await, 0)["tags"], before);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_cannot_be_taken_leaves_nothing() {
    let lab = Lab::start().await;
    lab.add("second", SECOND, 0).await;
    let good = signed(draft("look", "name='vm'"), &[FIRST]);
    let refused = async |action: &Value, why: &str| {
        let (status, body) = lab.create(action).await;
        assert_eq!(status, 400, "{why}: {body}");
        assert!(message(&body).contains(why), "{why}: {body}");
        assert_eq!(actions(&lab).await, 0, "{why}");
    };
    let mut twice = good.clone();
    twice["pgpsignatures"] = json!([good["pgpsignatures"][0], good["pgpsignatures"][0]]);
    refused(&twice, "has signed before").await;
    refused(&signed(draft("look", "name='vm' AND"), &[FIRST]), "at character").await;
    refused(&signed(draft("look", "nme='vm'"), &[FIRST]), "at character 1)").await;
    let mut other = good.clone();
    other["target"] = "name LIKE '%'".into();
    refused(&other, "does not fit the data").await;
    let mut unsigned = good.clone();
    unsigned["pgpsignatures"] = json!([]);
    refused(&unsigned, "action pgpsignatures is empty").await;
    let mut mixed = good.clone();
    mixed["pgpsignatures"] = json!([good["pgpsignatures"][0], sign(SECOND, "something else")]);
    refused(&mixed, "signature 2 does not count").await;
    for (key, value, why) in [
        ("name", json!(""), "action name is empty"),
        ("target", json!(""), "action target is empty"),
        ("syntaxversion", json!(1), "wring syntax version, expected 2"),
        ("expireafter", json!("2020-01-01T00:00:00Z"), "action expireafter is set before action validfrom"),
        ("operations", Value::Null, "action operations is empty"),
    ] {
        let mut wrong = good.clone();
        wrong[key] = value;
        refused(&wrong, why).await;
    }
    for form in [&[][..], &[("action", "")], &[("action", "{")], &[("action", "[]")], &[("other", "{}")]] {
        assert_eq!(lab.post("/action/create/", form).await.0, 400, "{form:?}");
    }
    let huge = format!("{{\"name\":\"{}\"}}", "x".repeat(2_000_000));
    assert_eq!(lab.post("/action/create/", &[("action", &huge)]).await.0, 400);
    let body = lab.asked(Method::POST, "/action/create/").header("content-type", "application/json").body("{}");
    assert_eq!(answer(body).await.0, 400);
    assert_eq!(actions(&lab).await, 0);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_signature_covers_can_be_changed_once_and_the_first_stays() {
    let lab = Lab::start().await;
    let mut action = signed(draft("look", "name='vm'"), &[FIRST]);
    action["description"]["author"] = "somebody else".into();
    let (status, first) = lab.create(&action).await;
    assert_eq!((status.as_u16(), &value(&first, 0)["description"]["author"]), (202, &json!("somebody else")));
    action["description"]["author"] = "a third".into();
    let (status, again) = lab.create(&action).await;
    let same = |body: &Value| (value(body, 0)["id"].clone(), value(body, 0)["description"].clone());
    assert_eq!((status.as_u16(), same(&again)), (202, same(&first)), "the same signed bytes are the same action");
    assert_eq!(actions(&lab).await, 1);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_wrong_or_unknown_is_said_so() {
    let lab = Lab::start().await;
    for (route, thing) in [
        ("action", "Action"),
        ("command", "Command"),
        ("agent", "Agent"),
        ("investigator", "Investigator"),
        ("loader", "Loader"),
        ("manifest", "Manifest"),
    ] {
        let ask = async |id: &str| lab.get(&format!("/{route}{id}")).await;
        let (status, missing) = ask("").await;
        assert_eq!((status.as_u16(), message(&missing)), (400, format!("Missing parameter '{route}id'").as_str()));
        let (status, zero) = ask(&format!("?{route}id=0")).await;
        assert_eq!((status.as_u16(), message(&zero)), (400, format!("Invalid {thing} ID '0'").as_str()));
        let (status, none) = ask(&format!("?{route}id=123")).await;
        assert_eq!((status.as_u16(), message(&none)), (404, format!("{thing} ID '123' not found").as_str()));
        for id in ["x", "-1", "1e300", "%00", ""] {
            assert_eq!(ask(&format!("?{route}id={id}")).await.0, 400, "{route} {id}");
        }
    }
    for (path, id) in [("/loader/key/", "loaderid"), ("/loader/expect/", "loaderid"), ("/manifest/sign/", "manifestid")]
    {
        assert_eq!(lab.post(path, &[(id, "3")]).await.0, 404, "{path}");
        assert_eq!(lab.post(path, &[]).await.0, 400, "{path}");
    }
    let broken =
        lab.asked(Method::POST, "/investigator/create/").header("content-type", "multipart/form-data; boundary=x");
    assert_eq!(answer(broken.body("--x\r\n")).await.0, 400);
    let long = form_of(lab.asked(Method::POST, "/action/create/"), &[("action", &"x".repeat(4_000_000))]);
    assert_eq!(answer(long).await.0, 413);
    lab.stop().await;
}
