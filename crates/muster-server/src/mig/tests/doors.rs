//! Which routes there are, and who may.

use super::super::permission::{Need, TABLE};
use super::{Lab, answer, form_of, message};
use crate::rest::tests::live::{Live, is, problem};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

async fn text(request: reqwest::RequestBuilder) -> (u16, String, String) {
    let response = request.send().await.unwrap();
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    (response.status().as_u16(), kind.unwrap_or_default(), response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_there_and_open_to_those_the_table_names() {
    let lab = Lab::with("[limits]\nwrong_tokens_per_minute = 1000\n").await;
    for (method, path, need) in TABLE {
        let method: Method = method.parse().unwrap();
        let path = path.replace("{fingerprint}", "x");
        let (anonymous, _, said) = text(lab.request(method.clone(), &path)).await;
        let wanted = need != Need::Nothing;
        assert_eq!(anonymous == 401, wanted, "{method} {path}: {said}");
        if need == Need::Loader {
            assert!(said.contains("X-LOADERKEY header not found"), "{said}");
            let (status, _, said) = text(lab.request(method, &path).header("X-LOADERKEY", "x")).await;
            assert!(status == 401 && said.contains("Loader authorization failed"), "{said}");
            continue;
        }
        let request = lab.asked(method.clone(), &path);
        let request = if method == Method::POST { form_of(request, &[]) } else { request };
        let (status, _, said) = text(request).await;
        assert!(status != 401 && status < 500 && !said.contains("page not found"), "{method} {path}: {status} {said}");
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_investigator_nothing_is_open() {
    let live = Live::start().await;
    for (method, path, need) in TABLE {
        if need != Need::Nothing {
            let path = format!("/mig/api/v1{path}");
            assert_eq!(text(live.anonymous(method.parse().unwrap(), &path)).await.0, 401, "{method} {path}");
        }
    }
    let admin = live.admin(Method::GET, "/mig/api/v1/search").send().await.unwrap();
    assert_eq!(admin.status(), 401, "a token of the REST API opens nothing here");
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_route_is_404_as_bare_text() {
    let lab = Lab::start().await;
    for (method, path) in [
        (Method::GET, "/nothing"),
        (Method::GET, "/action/"),
        (Method::GET, "/action/create/"),
        (Method::POST, "/action/create"),
        (Method::POST, "/search"),
        (Method::DELETE, "/investigator"),
        (Method::HEAD, "/search"),
        (Method::GET, "/actions?agent=1"),
        (Method::PUT, "/results"),
        (Method::POST, "/action/cancel/"),
    ] {
        let (status, kind, said) = text(lab.asked(method.clone(), path)).await;
        assert_eq!((status, kind.starts_with("text/plain")), (404, true), "{method} {path}");
        assert!(method == Method::HEAD || said == "404 page not found\n", "{said}");
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_can_be_switched_off() {
    let live = Live::with("[mig]\nenabled = false\n").await;
    let refused = problem(live.admin(Method::GET, "/mig/api/v1/heartbeat")).await;
    is(&refused, StatusCode::NOT_FOUND, "not_found");
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_in_answers_are_those_that_programs_reach() {
    let lab = Lab::with("[mig]\npublic_url = \"https://muster.example.org/\"\n").await;
    let (_, body) = answer(lab.request(Method::GET, "/heartbeat?x=1")).await;
    assert_eq!(body["collection"]["href"], "https://muster.example.org/mig/api/v1/heartbeat?x=1");
    lab.stop().await;
    let lab = Lab::start().await;
    let (_, body) = answer(lab.request(Method::GET, "/")).await;
    assert_eq!(body["collection"]["href"], format!("{}/mig/api/v1/", lab.live.url));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_heartbeat_is_answered_and_not_kept() {
    let lab = Lab::start().await;
    let beat = |mode: &str| {
        json!({ "name": "vm", "mode": mode, "version": "1", "pid": 7, "queueLoc": "linux.x",
            "startTime": super::now().to_string(), "environment": { "init": "systemd", "ident": "Debian",
            "os": "linux", "arch": "amd64", "publicIP": "127.0.0.1" } })
    };
    let send = async |body: String| {
        let response = lab.request(Method::POST, "/heartbeat").body(body).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    assert_eq!(send(beat("daemon").to_string()).await, (200, json!({ "error": null })));
    for wrong in [beat("other").to_string(), String::new(), "x".repeat(200_000)] {
        let (status, said) = send(wrong).await;
        assert!(status == 400 && said["error"].is_string(), "{said}");
    }
    let (status, none) = lab.get("/search?type=agent").await;
    assert_eq!((status.as_u16(), message(&none)), (404, "no results found"));
    let (status, _, said) = text(lab.request(Method::GET, "/ip")).await;
    assert_eq!((status, said.as_str()), (200, "127.0.0.1"));
    lab.stop().await;
}
