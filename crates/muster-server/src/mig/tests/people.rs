//! Investigators: added, changed, and who is let in.

use super::{ALL, FIRST, Lab, SECOND, answer, form_of, message, token, value};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_api::Page;
use muster_api::server::JournalRow;
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn an_investigator_is_added_in_parts_and_shown_with_the_key() {
    let lab = Lab::start().await;
    let part = |head: &str, body: &str| format!("--xx\r\nContent-Disposition: form-data; {head}\r\n\r\n{body}\r\n");
    let permissions = json!({ "search": true, "action": true, "manifest_sign": false }).to_string();
    let body = [
        part("name=\"name\"", "Bob Kelso"),
        part("name=\"permissions\"", &permissions),
        part("name=\"publickey\"; filename=\"publickey\"", SECOND.1),
        "--xx--\r\n".to_owned(),
    ];
    let request = lab.asked(Method::POST, "/investigator/create/").body(body.concat());
    let (status, created) = answer(request.header("content-type", "multipart/form-data; boundary=xx")).await;
    assert_eq!(status, 201, "{created}");
    let shown = value(&created, 0);
    let id = shown["id"].as_i64().unwrap();
    assert_eq!(created["collection"]["items"][0]["data"][0]["name"], format!("Investigator ID {id}"));
    let key = String::from_utf8(STANDARD.decode(shown["publickey"].as_str().unwrap()).unwrap()).unwrap();
    assert!(key.starts_with("-----BEGIN PGP PUBLIC KEY BLOCK-----"), "{key}");
    let given = shown["permissions"].as_object().unwrap();
    let names: Vec<_> = given.iter().filter(|(_, given)| **given == true).map(|(name, _)| name.as_str()).collect();
    assert_eq!((given.len(), names), (19, vec!["action", "search"]));
    let fingerprint = shown["pgpfingerprint"].as_str().unwrap();
    let text = lab.request(Method::GET, &format!("/publickey/{fingerprint}")).send().await.unwrap();
    assert_eq!((text.status().as_u16(), text.text().await.unwrap()), (200, key));
    for unknown in ["0000000000000000000000000000000000000000", "x", "%00"] {
        let none = lab.request(Method::GET, &format!("/publickey/{unknown}")).send().await.unwrap();
        assert_eq!(none.status(), 404, "{unknown}");
    }
    let (status, again) = lab.post("/investigator/create/", &[("name", "Other"), ("publickey", SECOND.1)]).await;
    assert_eq!(status, 409, "{again}");
    for form in [
        &[][..],
        &[("name", "")],
        &[("name", "x"), ("permissions", "7")],
        &[("name", "x"), ("permissions", "{\"fly\":true}")],
    ] {
        assert_eq!(lab.post("/investigator/create/", form).await.0, 400, "{form:?}");
    }
    let journal: Page<JournalRow> = lab.live.get("/api/v1/journal").await;
    let line = journal.items.iter().find(|line| line.action == "investigator.create" && line.subject == id.to_string());
    assert_eq!(line.unwrap().actor, "investigator 1 (ops)");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_is_shown_once_and_opens_what_its_owner_may() {
    let lab = Lab::start().await;
    let id = lab.add("asker", SECOND, 1).await.to_string();
    let (status, changed) = lab.post("/investigator/update/", &[("id", &id), ("apikey", "active")]).await;
    assert_eq!(status, 200);
    let key = value(&changed, 0)["apikey"].as_str().unwrap().to_owned();
    assert_eq!(key.len(), 32);
    assert_eq!(value(&lab.got(&format!("/investigator?investigatorid={id}")).await, 0)["apikey"], "set");
    let by_key = async |path: &str, key: &str| answer(lab.request(Method::GET, path).header("X-MIGAPIKEY", key)).await;
    assert_eq!(by_key("/search?type=investigator", &key).await.0, 200);
    let (status, denied) = by_key("/dashboard", &key).await;
    assert_eq!((status.as_u16(), message(&denied)), (401, "Insufficient permissions to access endpoint"));
    for wrong in ["", "x", &key[1..], &key.to_lowercase()] {
        assert_eq!(by_key("/search", wrong).await.0, 401, "{wrong}");
    }
    let (_, withdrawn) = lab.post("/investigator/update/", &[("id", &id), ("apikey", "disabled")]).await;
    assert_eq!(value(&withdrawn, 0).get("apikey"), None);
    assert_eq!(by_key("/search", &key).await.0, 401);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_add_people_gives_them_no_more_than_he_has() {
    let lab = Lab::start().await;
    lab.add("helper", SECOND, 131_072 | 1).await;
    let as_helper = async |name: &str, permissions: Value| {
        let request = lab.request(Method::POST, "/investigator/create/").header("X-PGPAUTHORIZATION", token(SECOND));
        answer(form_of(request, &[("name", name), ("permissions", &permissions.to_string())])).await
    };
    let (status, refused) = as_helper("A", json!({ "search": true, "investigator_update": true })).await;
    assert_eq!(status, 403);
    assert_eq!(
        message(&refused),
        "you cannot grant permissions you do not have: investigator_update (you are investigator 2 (helper))"
    );
    assert_eq!(as_helper("B", json!({ "search": true, "action": false })).await.0, 201);
    let all = json!({ "search": true, "investigator_update": true, "action_create": true }).to_string();
    let (status, _) = lab.post("/investigator/create/", &[("name", "C"), ("permissions", &all)]).await;
    assert_eq!(status, 201);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_investigator_is_changed_and_the_last_administrator_stays() {
    let lab = Lab::start().await;
    let id = lab.add("asker", SECOND, 1).await.to_string();
    let some = json!({ "search": true, "manifest_status": true }).to_string();
    let (status, changed) = lab.post("/investigator/update/", &[("id", &id), ("permissions", &some)]).await;
    assert_eq!((status.as_u16(), &value(&changed, 0)["permissions"]["manifest_status"]), (200, &json!(true)));
    for form in [[("status", "disabled")], [("permissions", "{}")]] {
        let form = [("id", "1"), form[0]];
        let (status, refused) = lab.post("/investigator/update/", &form).await;
        assert_eq!((status.as_u16(), message(&refused)), (409, "will not remove last admin"));
    }
    let as_second = async |path: &str, form: &[(&str, &str)]| {
        let request = lab.request(Method::POST, path).header("X-PGPAUTHORIZATION", token(SECOND));
        answer(form_of(request, form)).await
    };
    // The original's check forgot this permission and let nobody in.
    let (status, unknown) = as_second("/manifest/status/", &[("manifestid", "7"), ("status", "staged")]).await;
    assert_eq!((status.as_u16(), message(&unknown)), (404, "Manifest ID '7' not found"));
    assert_eq!(as_second("/manifest/sign/", &[("manifestid", "7")]).await.0, 401);
    let (status, disabled) = lab.post("/investigator/update/", &[("id", &id), ("status", "disabled")]).await;
    assert_eq!((status.as_u16(), &value(&disabled, 0)["status"]), (200, &json!("disabled")));
    assert_eq!(as_second("/manifest/status/", &[("manifestid", "7")]).await.0, 401);
    let id = id.as_str();
    let wrong: [(&[(&str, &str)], u16); 6] = [
        (&[("status", "active")], 400),
        (&[("id", "0"), ("status", "active")], 400),
        (&[("id", "99"), ("status", "active")], 404),
        (&[("id", id)], 400),
        (&[("id", id), ("status", "asleep")], 400),
        (&[("id", id), ("apikey", "maybe")], 400),
    ];
    for (form, status) in wrong {
        assert_eq!(lab.post("/investigator/update/", form).await.0, status, "{form:?}");
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_one_request() {
    let lab = Lab::start().await;
    let token = token(FIRST);
    let show = async |token: &str| {
        answer(lab.request(Method::GET, "/search?type=investigator").header("X-PGPAUTHORIZATION", token)).await
    };
    // MIG's programs that one person starts within a second make the same token; what they ask is the same, too.
    for _ in 0..3 {
        assert_eq!(show(&token).await.0, 200);
    }
    let other = lab.request(Method::GET, "/search?type=action").header("X-PGPAUTHORIZATION", &token);
    let (status, refused) = answer(other).await;
    assert_eq!(status, 401);
    let changing = lab.request(Method::POST, "/investigator/create/").header("X-PGPAUTHORIZATION", &token);
    assert_eq!(answer(changing).await.0, 401);
    assert!(message(&refused).starts_with("Authorization verification failed with error '"), "{refused}");
    let events: Page<muster_api::agents::EventRow> = lab.live.get("/api/v1/events").await;
    assert!(events.items.iter().any(|event| event.code == "token_replayed"), "{events:?}");
    for wrong in ["", "1;2;3", &token.replacen("1;", "2;", 1), &format!("{token}x"), &"1".repeat(20_000)] {
        assert_eq!(show(wrong).await.0, 401, "{wrong:.40}");
    }
    let (status, none) = answer(lab.request(Method::GET, "/search")).await;
    assert_eq!((status.as_u16(), message(&none)), (401, "Valid authentication header not found"));
    let both = lab.asked(Method::GET, "/search").header("X-MIGAPIKEY", "x");
    assert_eq!(answer(both).await.0, 401);
    let twice = lab.asked(Method::GET, "/search").header("X-PGPAUTHORIZATION", super::token(FIRST));
    assert_eq!(answer(twice).await.0, 401);
    assert_eq!(ALL.count_ones(), 19);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_good_is_no_wrong_one_and_reads_again_where_that_is_configured() {
    let show = async |lab: &Lab, token: &str, method: Method, path: &str| {
        answer(lab.request(method, path).header("X-PGPAUTHORIZATION", token)).await.0.as_u16()
    };
    let lab = Lab::with("[limits]\nwrong_tokens_per_minute = 2\n").await;
    let token = super::token(FIRST);
    let mut shown = Vec::new();
    for path in ["/dashboard", "/search", "/search", "/dashboard"] {
        shown.push(show(&lab, &token, Method::GET, path).await);
    }
    assert_eq!(shown, [200, 401, 401, 200], "never 429");
    lab.stop().await;
    let lab = Lab::with("[mig]\nrepeated_reads = true\n").await;
    let token = super::token(FIRST);
    assert_eq!(show(&lab, &token, Method::GET, "/dashboard").await, 200);
    assert_eq!(show(&lab, &token, Method::GET, "/dashboard").await, 200);
    assert_eq!(show(&lab, &token, Method::POST, "/action/create/").await, 401, "it changes something");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_shows_wrong_tokens_is_told_to_wait() {
    let lab = Lab::with("[limits]\nwrong_tokens_per_minute = 2\n").await;
    let wrong = async || answer(lab.request(Method::GET, "/search").header("X-MIGAPIKEY", "wrong")).await.0.as_u16();
    assert_eq!([wrong().await, wrong().await, wrong().await], [401, 401, 429]);
    lab.stop().await;
}
