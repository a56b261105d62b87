//! The REST API, as a test uses it: one method per verb, answers as the shared types.

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_api::agents::{AgentDetail, AgentSummary};
use muster_api::messages::{MessageRequest, MessageRow};
use muster_api::server::ServerStatus;
use muster_api::{Page, Problem, ROOT};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Once;
use std::time::Duration;

const REQUEST_CEILING: Duration = Duration::from_secs(30);

/// A client of one server.
#[derive(Debug, Clone)]
pub struct Rest {
    http: reqwest::Client,
    base: String,
    token: String,
}

/// What an answer was, when it was not the expected one.
#[derive(Debug, thiserror::Error)]
#[error("{method} {path} was answered {status} {kind}: {detail}")]
pub struct Refused {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// The status.
    pub status: StatusCode,
    /// The stable word of the problem.
    pub kind: String,
    /// Its text.
    pub detail: String,
}

impl Rest {
    /// Prepares a client for the operators' door at `address` (`ip:port`).
    pub fn new(address: &str, token: &str) -> Result<Self> {
        static PROVIDER: Once = Once::new();
        // The second of two tests in one process finds it installed, which is as good.
        PROVIDER.call_once(|| drop(rustls::crypto::aws_lc_rs::default_provider().install_default()));
        let http = reqwest::Client::builder().timeout(REQUEST_CEILING).no_proxy().build().context("a HTTP client")?;
        Ok(Self { http, base: format!("http://{address}"), token: token.to_owned() })
    }

    /// Shows another token from now on.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// Sends a request below `/api/v1` and returns the answer whatever it is.
    pub async fn raw(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<reqwest::Response> {
        let mut request = self.http.request(method, format!("{}{ROOT}{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        request.send().await.with_context(|| format!("asking {path}"))
    }

    /// Fetches a path outside of the API, such as `/readyz`.
    pub async fn outside(&self, path: &str) -> Result<(StatusCode, String)> {
        let answer = self.http.get(format!("{}{path}", self.base)).send().await?;
        Ok((answer.status(), answer.text().await?))
    }

    async fn call<A: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<A> {
        let answer = self.accepted(method, path, body).await?;
        let text = answer.text().await.with_context(|| format!("reading the answer of {path}"))?;
        serde_json::from_str(&text).with_context(|| format!("{path} was answered with something else: {text}"))
    }

    async fn accepted(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<reqwest::Response> {
        let answer = self.raw(method.clone(), path, body).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.unwrap_or_default();
        let problem = serde_json::from_str::<Problem>(&text);
        let (kind, detail) = problem.map_or((String::new(), text), |problem| (problem.kind, problem.detail));
        bail!(Refused { method, path: path.to_owned(), status, kind, detail })
    }

    /// Gets.
    pub async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A> {
        self.call(Method::GET, path, None).await
    }

    /// Posts a body and reads the answer.
    pub async fn post<A: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<A> {
        self.call(Method::POST, path, Some(serde_json::to_vec(body)?)).await
    }

    /// Does something that answers nothing.
    pub async fn done(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<()> {
        self.accepted(method, path, body).await.map(drop)
    }

    /// Gets every row of a list, page by page. `path` ends in `?` or in a parameter.
    pub async fn all<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>> {
        let mut rows = Vec::new();
        let (sign, mut cursor) = (if path.contains('?') { '&' } else { '?' }, String::new());
        loop {
            let page: Page<T> = self.get(&format!("{path}{sign}limit=1000{cursor}")).await?;
            rows.extend(page.items);
            let Some(next) = page.next else { return Ok(rows) };
            cursor = format!("&cursor={next}");
        }
    }

    /// Lists all machines.
    pub async fn agents(&self) -> Result<Vec<AgentSummary>> {
        self.all("/agents").await
    }

    /// Shows how the server stands.
    pub async fn server(&self) -> Result<ServerStatus> {
        self.get("/server").await
    }

    /// Shows one machine.
    pub async fn agent(&self, id: &str) -> Result<AgentDetail> {
        self.get(&format!("/agents/{id}")).await
    }

    /// Sends plain bytes to a service of a machine.
    pub async fn send(&self, agent: &str, service: &str, message_type: &str, data: &[u8]) -> Result<MessageRow> {
        let request = MessageRequest {
            agent: Some(agent.to_owned()),
            service: service.to_owned(),
            message_type: message_type.to_owned(),
            data: Some(STANDARD.encode(data)),
            ..MessageRequest::default()
        };
        self.post("/messages", &request).await
    }

    /// Sends a protobuf message to a service of a machine.
    pub async fn send_typed(
        &self,
        agent: &str,
        service: &str,
        message_type: &str,
        body: &prost_types::Any,
    ) -> Result<MessageRow> {
        let request = MessageRequest {
            agent: Some(agent.to_owned()),
            service: service.to_owned(),
            message_type: message_type.to_owned(),
            type_url: Some(body.type_url.clone()),
            data: Some(STANDARD.encode(&body.value)),
            ..MessageRequest::default()
        };
        self.post("/messages", &request).await
    }

    /// Shows one message.
    pub async fn message(&self, id: &str) -> Result<MessageRow> {
        self.get(&format!("/messages/{id}")).await
    }
}

/// Returns the body of a message as bytes.
pub fn data(message: &MessageRow) -> Result<Vec<u8>> {
    let text = message.data.as_deref().with_context(|| format!("message {} has no data", message.id))?;
    STANDARD.decode(text).with_context(|| format!("the data of message {} is not base64", message.id))
}
