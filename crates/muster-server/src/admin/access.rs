//! Who may call what: the one table, and the gate that holds every request against it.

use super::incoming::Peer;
use super::{Tokens, status};
use http::{HeaderMap, Request, Response};
use muster_engine::Engine;
use muster_engine::access::Permission::{
    AgentsRead, AgentsRekey, BroadcastsRead, BroadcastsWrite, FilesWrite, MessagesCancel, MessagesRead, MessagesSend,
};
use muster_engine::access::{Caller, Freshness, Permission, Principal};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

/// What a call needs of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: for load balancers, and says nothing about the fleet.
    Nothing,
    /// A caller with this permission.
    Permission(Permission),
    /// A caller with one permission at least.
    Known,
}

const fn may(permission: Permission) -> Need {
    Need::Permission(permission)
}

/// Every call that is answered. A call that is not here does not exist; a test compares this with the descriptors.
pub(super) const NEEDS: &[(&str, Need)] = &[
    ("/fleetspeak.server.Admin/BlacklistClient", may(AgentsRekey)),
    ("/fleetspeak.server.Admin/CreateBroadcast", may(BroadcastsWrite)),
    ("/fleetspeak.server.Admin/DeleteFile", may(FilesWrite)),
    ("/fleetspeak.server.Admin/DeletePendingMessages", may(MessagesCancel)),
    ("/fleetspeak.server.Admin/DisableBroadcasts", may(BroadcastsWrite)),
    ("/fleetspeak.server.Admin/FetchClientResourceUsageRecords", may(AgentsRead)),
    ("/fleetspeak.server.Admin/GetMessageStatus", may(MessagesRead)),
    ("/fleetspeak.server.Admin/GetPendingMessageCount", may(MessagesRead)),
    ("/fleetspeak.server.Admin/GetPendingMessages", may(MessagesRead)),
    ("/fleetspeak.server.Admin/InsertMessage", may(MessagesSend)),
    ("/fleetspeak.server.Admin/KeepAlive", Need::Known),
    ("/fleetspeak.server.Admin/ListActiveBroadcasts", may(BroadcastsRead)),
    ("/fleetspeak.server.Admin/ListClientContacts", may(AgentsRead)),
    ("/fleetspeak.server.Admin/ListClients", may(AgentsRead)),
    ("/fleetspeak.server.Admin/StoreFile", may(FilesWrite)),
    ("/fleetspeak.server.Admin/StreamClientContacts", may(AgentsRead)),
    ("/fleetspeak.server.Admin/StreamClientIds", may(AgentsRead)),
    ("/grpc.health.v1.Health/Check", Need::Nothing),
    ("/grpc.health.v1.Health/Watch", Need::Nothing),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Need::Known),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Need::Known),
];

/// Prefixes of metadata by which gateways tell servers who somebody is. Nobody here reads such metadata, and it goes no
/// further than the gate, so that nobody ever will.
const IDENTITY_PREFIXES: [&str; 2] = ["x-muster-", "grpc-metadata-"];

/// Puts a [`Gate`] before all services.
#[derive(Clone)]
pub(super) struct GateLayer {
    engine: Engine,
    tokens: Tokens,
    requests: Arc<AtomicU64>,
}

impl GateLayer {
    pub(super) fn new(engine: Engine, tokens: Tokens) -> Self {
        Self { engine, tokens, requests: Arc::default() }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner, layer: self.clone() }
    }
}

/// Lets through what the table allows, with the [`Caller`] among the request's extensions.
#[derive(Clone)]
pub(super) struct Gate<S> {
    inner: S,
    layer: GateLayer,
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The service that was polled ready is the one to call; its clone takes its place.
        let waiting = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, waiting);
        let layer = self.layer.clone();
        Box::pin(async move {
            let begun = Instant::now();
            let asked = Asked::of(&mut request);
            let (call, response) = match layer.admit(asked).await {
                Ok((call, caller)) => {
                    request.extensions_mut().remove::<Caller>();
                    if let Some(caller) = caller {
                        request.extensions_mut().insert(caller);
                    }
                    (call, status::corrected(inner.call(request).await?))
                }
                Err((call, refusal)) => (call, refusal.into_http()),
            };
            let code = status::code_of(&response);
            metrics::counter!("muster_admin_calls_total", "call" => call, "code" => code).increment(1);
            metrics::histogram!("muster_admin_call_seconds", "call" => call).record(begun.elapsed().as_secs_f64());
            Ok(response)
        })
    }
}

/// What the decision about a request rests on.
struct Asked {
    call: Option<&'static (&'static str, Need)>,
    token: Result<Option<String>, Status>,
    peer: Option<Peer>,
}

impl Asked {
    /// Reads it off a request, and takes off what claims to be somebody's identity.
    fn of(request: &mut Request<Body>) -> Self {
        let call = NEEDS.iter().find(|(path, _)| *path == request.uri().path());
        let token = bearer(request.headers()).map(|token| token.map(str::to_owned));
        let peer = request.extensions().get::<Peer>().cloned();
        strip(request.headers_mut());
        Self { call, token, peer }
    }
}

impl GateLayer {
    /// Decides about a request. Returns the call's name in the table, for metrics, and who is behind it.
    async fn admit(&self, asked: Asked) -> Result<(&'static str, Option<Caller>), (&'static str, Status)> {
        let (call, need) = match asked.call {
            None => return Err(("unknown", Status::unimplemented("there is no such call"))),
            Some((call, Need::Nothing)) => return Ok((call, None)),
            Some((call, need)) => (*call, *need),
        };
        // A program's messages come by the thousand.
        let may_be_remembered = match need {
            Need::Permission(permission) => permission.is_reading() || permission == MessagesSend,
            Need::Nothing | Need::Known => true,
        };
        let freshness = if may_be_remembered { Freshness::Remembered } else { Freshness::Now };
        let principal = self.principal(asked, freshness).await.map_err(|refusal| (call, refusal))?;
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let caller = principal.caller(&format!("admin-{number:x}"));
        if let Need::Permission(permission) = need {
            let denied = caller.require(permission).err();
            denied.map_or(Ok(()), |denied| Err((call, Status::permission_denied(denied.to_string()))))?;
        }
        Ok((call, Some(caller)))
    }

    /// Finds out who calls. A token goes before everything else: whoever shows one wants to be that caller.
    async fn principal(&self, asked: Asked, freshness: Freshness) -> Result<Principal, Status> {
        if let Some(token) = asked.token? {
            let checked = self.engine.token_check(&token, freshness).await;
            let principal = checked.map_err(|error| status::of_store("check the token", &error))?;
            return principal.ok_or_else(|| Status::new(Code::Unauthenticated, "the token is not known or has lapsed"));
        }
        let peer = asked.peer.unwrap_or(Peer::Stranger);
        let known = (self.tokens == Tokens::Optional).then(|| peer.principal()).flatten();
        known.ok_or_else(|| match self.tokens {
            Tokens::Optional => Status::unauthenticated(peer.refusal()),
            Tokens::Required => Status::unauthenticated(Peer::Stranger.refusal()),
        })
    }
}

fn strip(headers: &mut HeaderMap) {
    let foreign = |name: &&http::HeaderName| IDENTITY_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix));
    let names: Vec<_> = headers.keys().filter(foreign).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Returns the bearer token of a request, if it brings one. Another kind of authorization, or two, is refused.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Status> {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    let token = token.trim();
    if values.next().is_some() || !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(Status::unauthenticated("authorization must be `Bearer TOKEN`, once"));
    }
    Ok(Some(token))
}
