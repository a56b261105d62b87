//! Which names a listener of this machine alone answers to.
//!
//! Stays true: a page of the web that has its name changed to mean this machine ("DNS rebinding") gets nothing, neither what
//! needs no token. Where TLS is spoken, the certificate's names do that.

use super::Rest;
use super::problem::Failure;
use crate::config::Config;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{Version, header};
use muster_core::text::cut;
use std::net::IpAddr;

/// The layer: refuses requests that name another machine.
pub(crate) async fn check(State(rest): State<Rest>, request: Request, next: Next) -> Response {
    let operators = &rest.config.operators;
    let has_tls = operators.tls || operators.certificate.is_some();
    let is_guarded = !has_tls && !operators.address.is_public();
    match host(&request) {
        _ if !is_guarded => next.run(request).await,
        // Programs of old say no name, browsers always do.
        None if request.version() < Version::HTTP_11 => next.run(request).await,
        None => Failure::invalid("the request names no host").into_response(),
        Some(host) if is_ours(&host, &rest.config) => next.run(request).await,
        Some(host) => {
            let host = cut(&host, 128);
            let detail = format!(
                "this listener is for this machine alone, and the request names {host:?}: ask for 127.0.0.1 or localhost, \
                 or list the name in operators.names"
            );
            Failure::forbidden(detail).into_response()
        }
    }
}

/// Returns the name that a request asks, without its port.
fn host(request: &Request) -> Option<String> {
    let header = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or("?"));
    let authority = header.or_else(|| request.uri().authority().map(http::uri::Authority::as_str))?;
    let name = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.rsplit_once(':').filter(|(name, _)| !name.contains(':')).map_or(authority, |(name, _)| name),
    };
    Some(name.trim_end_matches('.').to_ascii_lowercase())
}

/// Whether a name means this machine whatever the name service says. An address cannot be made to mean another.
fn is_ours(name: &str, config: &Config) -> bool {
    let is_local = name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok();
    let public = config.mig.public_url.as_deref().and_then(|url| url::Url::parse(url).ok());
    let mut named =
        config.operators.names.iter().map(String::as_str).chain(public.iter().filter_map(url::Url::host_str));
    is_local || named.any(|known| known.eq_ignore_ascii_case(name)) || is_this_machine(name)
}

fn is_this_machine(name: &str) -> bool {
    let own = rustix::system::uname();
    let own = own.nodename().to_string_lossy();
    !own.is_empty()
        && (own.eq_ignore_ascii_case(name)
            || own.split('.').next().is_some_and(|first| first.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn asked(host: Option<&str>) -> Option<String> {
        let mut request = Request::builder().uri("/");
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        super::host(&request.body(axum::body::Body::empty()).unwrap())
    }

    #[test]
    fn a_host_is_read_without_its_port() {
        for (given, want) in [
            ("localhost:8080", "localhost"),
            ("LOCALHOST.", "localhost"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("[::1]:8080", "::1"),
            ("::1", "::1"),
            ("evil.example:8080", "evil.example"),
        ] {
            assert_eq!(asked(Some(given)).as_deref(), Some(want), "{given}");
        }
        assert_eq!(asked(None), None);
    }

    #[test]
    fn only_names_of_this_machine_are_ours() {
        let text = "[operators]\nnames = [\"muster.example.org\"]\n[mig]\npublic_url = \"https://mig.example.org/x\"\n";
        let config = Config::from_parts(text, "x", [], &Overrides::default()).unwrap();
        for name in
            ["localhost", "a.localhost", "127.0.0.1", "::1", "10.0.0.1", "muster.example.org", "mig.example.org"]
        {
            assert!(is_ours(name, &config), "{name}");
        }
        for name in ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "example.org"] {
            assert!(!is_ours(name, &config), "{name}");
        }
        assert!(is_this_machine(&rustix::system::uname().nodename().to_string_lossy()));
    }
}
