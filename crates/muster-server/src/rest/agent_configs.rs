//! What an agent needs to trust and find this server, as files for its directory.

use super::Rest;
use super::input::Json as Body;
use super::layers::Caller;
use super::problem::Failure;
use crate::agent_config::{AgentConfig, agent_config};
use axum::Json;
use axum::extract::State;
use muster_api::server::{AgentConfigRequest, ConfigFile};

/// Makes the files of an agent's configuration, for muster-agent or for the original fleetspeak-client.
#[utoipa::path(post, path = "/api/v1/agent-configs", tag = "enrolment", request_body = AgentConfigRequest,
    responses((status = 200, body = Vec<ConfigFile>)))]
pub(crate) async fn agent_config_create(
    State(rest): State<Rest>,
    _caller: Caller,
    Body(request): Body<AgentConfigRequest>,
) -> Result<Json<Vec<ConfigFile>>, Failure> {
    let files =
        agent_config(&wanted(request, &rest.trust_pem)?).map_err(|error| Failure::invalid(error.to_string()))?;
    Ok(Json(files.into_iter().map(|file| ConfigFile { name: file.name, text: file.text }).collect()))
}

fn wanted(request: AgentConfigRequest, trust_pem: &str) -> Result<AgentConfig, Failure> {
    let format = request
        .format
        .parse()
        .map_err(|error: crate::agent_config::AgentConfigError| Failure::invalid(error.to_string()))?;
    let deflate = match request.compression.as_deref() {
        None => None,
        Some("none") => Some(false),
        Some("deflate") => Some(true),
        Some(other) => return Err(Failure::invalid(format!("compression: {other:?} is neither none nor deflate"))),
    };
    Ok(AgentConfig {
        streaming: request.streaming,
        labels: request.labels,
        deflate,
        http2: request.http2,
        enrol_token: request.enrol_token,
        ..AgentConfig::new(format, request.servers, request.directory, trust_pem.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_words_are_named() {
        let request = |format: &str, compression: &str| AgentConfigRequest {
            format: format.into(),
            compression: Some(compression.into()),
            ..AgentConfigRequest::default()
        };
        assert!(wanted(request("mig", "none"), "").unwrap_err().detail.contains("muster or fleetspeak"));
        assert!(wanted(request("muster", "gzip"), "").unwrap_err().detail.starts_with("compression: "));
        assert_eq!(wanted(request("muster", "deflate"), "").unwrap().deflate, Some(true));
    }
}
