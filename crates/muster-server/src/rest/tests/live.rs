//! The routes with a server around them: database, engine, sockets, and a client as anybody has one.

use crate::config::{Config, Overrides};
use crate::serve::Server;
use muster_api::Problem;
use muster_api::agents::Secret;
use muster_core::{AgentId, AgentState, Timestamp};
use muster_store::agents::Enrolment;
use muster_store::{AgentStore, SqlStore};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::Duration;
use tempfile::TempDir;

mod actions;
mod doors;
mod hostile;
mod routes;

/// A running server and somebody who talks to it.
pub(crate) struct Live {
    pub(crate) server: Server,
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) client: reqwest::Client,
    pub(crate) data: TempDir,
}

pub(crate) fn config(data: &TempDir, text: &str) -> Config {
    let flags = Overrides {
        data: Some(data.path().into()),
        agents: Some("127.0.0.1:0".into()),
        operators: Some("127.0.0.1:0".into()),
        admin: Some("127.0.0.1:0".into()),
        ..Overrides::default()
    };
    Config::from_parts(text, "test.toml", [], &flags).unwrap()
}

pub(crate) fn client() -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder().timeout(Duration::from_secs(20)).no_proxy().build().unwrap()
}

impl Live {
    pub(crate) async fn start() -> Self {
        Self::with("[[services]]\nname = \"sink\"\nkind = \"noop\"\n").await
    }

    pub(crate) async fn with(text: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        let server = Server::start(config(&data, text)).await.unwrap();
        let url = format!("http://{}", server.addresses().operators.unwrap());
        let token = std::fs::read_to_string(data.path().join("admin.token")).unwrap().trim().to_owned();
        Self { server, url, token, client: client(), data }
    }

    pub(crate) fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub(crate) fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(&self.token)
    }

    /// Sends a request of the admin and expects it to be done.
    pub(crate) async fn done(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        let request = self.admin(method.clone(), path);
        let request = if let Some(body) = body { request.json(&body) } else { request };
        let response = request.send().await.unwrap();
        let status = response.status();
        if status.is_success() {
            return response;
        }
        panic!("{method} {path}: {status}: {}", response.text().await.unwrap())
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        self.done(Method::GET, path, None).await.json().await.unwrap()
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: Value) -> T {
        self.done(Method::POST, path, Some(body)).await.json().await.unwrap()
    }

    pub(crate) async fn reader(&self) -> String {
        self.token_of("auditor").await
    }

    /// Makes a token that is given `grant`.
    pub(crate) async fn token_of(&self, grant: &str) -> String {
        let secret: Secret = self
            .post("/api/v1/tokens", json!({ "name": format!("of-{}", grant.replace(',', "+")), "role": grant }))
            .await;
        secret.token
    }

    pub(crate) fn store(&self) -> &SqlStore {
        self.server.store()
    }

    /// Makes a machine known, as if it had been in contact.
    pub(crate) async fn an_agent(&self, key: &[u8]) -> AgentId {
        let id = AgentId::of_key(key);
        let enrolment = Enrolment {
            id,
            key: key.to_vec(),
            labels: vec![],
            state: AgentState::Enrolled,
            token: None,
            facts: muster_core::Facts::new(),
            note: String::new(),
        };
        self.store().agent_enrol(enrolment, Timestamp::from_secs(1_700_000_000)).await.unwrap();
        id
    }
}

/// Reads the problem of a request that was refused, and checks its form.
pub(crate) async fn problem(request: RequestBuilder) -> Problem {
    let response = request.send().await.unwrap();
    let status = response.status();
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{status}");
    let request_id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let problem: Problem = response.json().await.unwrap();
    assert_eq!((problem.status, &problem.request), (status.as_u16(), &request_id));
    assert!(!problem.detail.is_empty() && !problem.title.is_empty());
    problem
}

pub(crate) fn is(problem: &Problem, status: StatusCode, kind: &str) {
    assert_eq!((problem.status, problem.kind.as_str()), (status.as_u16(), kind), "{}", problem.detail);
}
