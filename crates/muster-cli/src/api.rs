//! The REST API, as the commands speak it.
//!
//! Stays true: every request has a time limit; a redirect is never followed, because it would carry the token; what
//! goes into a path is one segment of it, whatever it holds; what the server answered is kept as it was for `--json`, and no
//! answer is read into memory without a ceiling.

use crate::connect::{Door, Trust};
use crate::failure::{Exit, Failure};
use crate::trusted;
use crate::unreachable::Unreachable;
use muster_api::Problem;
use muster_core::limits::{ANSWER_BYTES_MAX, PROBLEM_BYTES_MAX};
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use url::Url;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How often a connection on which nothing happens is tried.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Characters of an answer that is no problem document, shown as the reason of a failure.
const ANSWER_CHARS_MAX: usize = 300;

fn authorities(what: &str, path: &Path) -> Result<Vec<reqwest::Certificate>, Failure> {
    let pem = std::fs::read(path).map_err(|error| Failure::local(what, path.display(), &error))?;
    reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| Failure::local(what, path.display(), &error))
}

/// A client of one server.
#[derive(Debug, Clone)]
pub struct Api {
    http: reqwest::Client,
    door: Door,
    timeout: Duration,
}

impl Api {
    /// Prepares to speak with the server behind `door`. Nothing is sent yet.
    pub fn new(door: Door, timeout: Duration) -> Result<Self, Failure> {
        const WHAT: &str = "could not prepare the connection";
        // Whoever installed a provider before has the same one; there is only one in the program.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            // Bodies of any size have no limit of their own; a peer that is gone is noticed below them.
            .tcp_keepalive(KEEPALIVE)
            .tcp_user_timeout(KEEPALIVE * 4)
            .redirect(reqwest::redirect::Policy::none());
        if door.url.scheme() == "https" {
            builder = match &door.trust {
                Trust::System => builder,
                Trust::Besides(path) => builder.tls_certs_merge(authorities(WHAT, path)?),
                Trust::Only(path) => builder.tls_backend_preconfigured(trusted::only(WHAT, path)?),
            };
        }
        let http = builder.build().map_err(|error| Failure::local(WHAT, &door.url, &error))?;
        Ok(Self { http, door, timeout })
    }

    /// The server's address.
    pub fn url(&self) -> &Url {
        &self.door.url
    }

    /// Says whether this is the token by which the server knows who asks.
    pub(crate) fn is_token(&self, text: &str) -> bool {
        self.door.token.as_deref() == Some(text)
    }

    /// Asks for something.
    pub async fn get(&self, what: &str, path: &[&str], query: &impl Serialize) -> Result<Value, Failure> {
        let url = self.path(what, path, query)?;
        self.value(what, self.http.request(Method::GET, url).timeout(self.timeout)).await
    }

    /// Sends something; an answer without a body is `null`.
    pub async fn send(
        &self,
        what: &str,
        method: Method,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<Value, Failure> {
        let url = self.path(what, path, &())?;
        self.value(what, self.http.request(method, url).timeout(self.timeout).json(body)).await
    }

    /// Orders something that needs no words.
    pub async fn order(&self, what: &str, method: Method, path: &[&str]) -> Result<Value, Failure> {
        let url = self.path(what, path, &())?;
        self.value(what, self.http.request(method, url).timeout(self.timeout)).await
    }

    /// Sends a body of any size, as it comes.
    pub async fn upload(&self, what: &str, path: &[&str], body: reqwest::Body) -> Result<Value, Failure> {
        let url = self.path(what, path, &())?;
        self.value(what, self.http.request(Method::PUT, url).body(body)).await
    }

    /// Asks for a body of any size, to be taken as it comes. Whatever the server does before the first byte may take as
    /// long as it takes.
    pub async fn download(&self, what: &str, method: Method, path: &[&str]) -> Result<Response, Failure> {
        let url = self.path(what, path, &())?;
        self.answer(what, self.http.request(method, url)).await
    }

    /// Asks for lines of JSON of any number, to be taken as they come.
    pub async fn lines(&self, what: &str, path: &[&str], query: &impl Serialize) -> Result<Response, Failure> {
        let url = self.path(what, path, query)?;
        self.answer(what, self.http.request(Method::GET, url)).await
    }

    /// Asks whether anybody answers at all, without a token.
    pub async fn health(&self, what: &str, path: &str) -> Result<Response, Failure> {
        let mut url = self.door.url.clone();
        url.set_path(path);
        let sent = self.http.get(url).timeout(self.timeout).send().await;
        sent.map_err(|error| self.unreachable(what, &error))
    }

    fn path(&self, what: &str, path: &[&str], query: &impl Serialize) -> Result<Url, Failure> {
        let mut url = self.door.url.clone();
        if let Some(odd) = path.iter().find(|part| matches!(**part, "." | ".." | "")) {
            let why = format!("the name {odd:?} cannot stand in an address");
            return Err(Failure::usage(what, why).on(&self.door.url).next("use another name"));
        }
        {
            let mut segments = url.path_segments_mut().expect("an http address has a path");
            segments.pop_if_empty().extend(muster_api::ROOT.split('/').filter(|part| !part.is_empty())).extend(path);
        }
        let query = serde_json::to_value(query).map_err(|error| Failure::local(what, &self.door.url, &error))?;
        if let Value::Object(pairs) = query {
            for (name, value) in pairs {
                match value {
                    Value::Null => {}
                    Value::String(text) => _ = url.query_pairs_mut().append_pair(&name, &text),
                    other => _ = url.query_pairs_mut().append_pair(&name, &other.to_string()),
                }
            }
        }
        Ok(url)
    }

    /// Asks for something whose parts are to be read as they were sent, such as text that somebody signed.
    pub async fn get_as_sent<T: DeserializeOwned>(
        &self,
        what: &str,
        path: &[&str],
        query: &impl Serialize,
    ) -> Result<T, Failure> {
        let url = self.path(what, path, query)?;
        let body = self.body(what, self.http.request(Method::GET, url).timeout(self.timeout)).await?;
        serde_json::from_slice(&body).map_err(|error| self.strange(what, &error))
    }

    async fn value(&self, what: &str, request: RequestBuilder) -> Result<Value, Failure> {
        let body = self.body(what, request).await?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|error| self.strange(what, &error))
    }

    async fn body(&self, what: &str, request: RequestBuilder) -> Result<Vec<u8>, Failure> {
        let answer = self.answer(what, request).await?;
        let (body, is_whole) = read(answer, ANSWER_BYTES_MAX).await.map_err(|error| self.unreachable(what, &error))?;
        if !is_whole {
            let why = format!("the answer has more than {ANSWER_BYTES_MAX} bytes, and was not read to its end");
            return Err(Failure::new(Exit::Failed, what, why)
                .on(&self.door.url)
                .next("is it a Muster server? ask for fewer rows at once (--limit) if it is"));
        }
        Ok(body)
    }

    async fn answer(&self, what: &str, mut request: RequestBuilder) -> Result<Response, Failure> {
        if let Some(token) = &self.door.token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.map_err(|error| self.unreachable(what, &error))?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.refused(what, answer).await) }
    }

    fn unreachable(&self, what: &str, error: &reqwest::Error) -> Failure {
        let Unreachable { why, next } = Unreachable::of(&self.door.url, error);
        Failure::new(Exit::Unreachable, what, why).on(&self.door.url).next(next)
    }

    fn strange(&self, what: &str, error: &serde_json::Error) -> Failure {
        Failure::new(Exit::Failed, what, format!("the answer is not what this program understands: {error}"))
            .on(&self.door.url)
            .next("is it a Muster server, and of this version? compare `muster version` with `muster server status`")
    }

    async fn refused(&self, what: &str, answer: Response) -> Failure {
        let status = answer.status();
        // Whatever the server says beyond that is no reason that anybody reads.
        let (text, _) = read(answer, PROBLEM_BYTES_MAX).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let problem = serde_json::from_str::<Problem>(&text).ok();
        let why = match &problem {
            Some(problem) if problem.detail.is_empty() => problem.title.clone(),
            Some(problem) => problem.detail.clone(),
            None if text.trim().is_empty() => format!("the server answered {status}"),
            None => format!("the server answered {status}: {}", muster_core::text::cut(text.trim(), ANSWER_CHARS_MAX)),
        };
        let next = match (status.as_u16(), &self.door.token) {
            (401, None) => {
                "give an access token: --token, MUSTER_TOKEN, or --data DIR of a server on this machine".into()
            }
            (401, Some(_)) => "the token is unknown or has lapsed: make one with `muster token create`".into(),
            (403, _) => {
                "`muster token list` shows what tokens may do; make another with `muster token create NAME --role ROLE`"
                    .into()
            }
            (422, _) => "`muster investigator list` shows whose keys the server takes".into(),
            (429, _) => "wait a little and try again".into(),
            (300..=399, _) => "give the address itself; redirects are not followed".into(),
            (500.., _) => match problem.as_ref().map(|problem| problem.request.as_str()) {
                Some(request) if !request.is_empty() => format!("look for request {request} in the server's log"),
                _ => "look into the server's log; `muster doctor` looks closer".into(),
            },
            _ => String::new(),
        };
        Failure::new(Exit::of_status(status.as_u16()), what, why).on(&self.door.url).next(next)
    }

    /// Reads an answer as what the API says it is.
    pub fn read<T: DeserializeOwned>(&self, what: &str, value: &Value) -> Result<T, Failure> {
        T::deserialize(value).map_err(|error| self.strange(what, &error))
    }
}

/// Reads at most `most` bytes of an answer, and says whether that was all of it.
async fn read(mut answer: Response, most: usize) -> Result<(Vec<u8>, bool), reqwest::Error> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        let room = most - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() > room {
            return Ok((body, false));
        }
    }
    Ok((body, true))
}

#[cfg(test)]
mod tests;
