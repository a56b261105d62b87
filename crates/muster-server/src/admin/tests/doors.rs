//! Who is let in, to what, and what a stop does.

use super::*;
use crate::admin::access::{NEEDS, Need};
use crate::pki::{Certificates, PkiOptions};
use muster_engine::access::Role;
use muster_proto::wire::EmptyMessage;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::collections::{BTreeMap, BTreeSet};
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic_prost::ProstCodec;

/// Every call of a service, by its path.
fn paths(descriptors: &[u8], service: &str) -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(descriptors).unwrap();
    let mut paths = BTreeSet::new();
    for file in set.file {
        for found in &file.service {
            let name = format!("{}.{}", file.package(), found.name());
            if name == service {
                paths.extend(found.method.iter().map(|method| format!("/{name}/{}", method.name())));
            }
        }
    }
    assert!(!paths.is_empty(), "{service} has no calls");
    paths
}

#[test]
fn every_call_of_the_descriptors_stands_in_the_table_and_no_other() {
    let mut want = paths(wire::DESCRIPTORS, "fleetspeak.server.Admin");
    assert_eq!(want.len(), 17);
    want.extend(paths(tonic_health::pb::FILE_DESCRIPTOR_SET, "grpc.health.v1.Health"));
    want.extend(paths(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET, "grpc.reflection.v1.ServerReflection"));
    want.extend(paths(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET, "grpc.reflection.v1alpha.ServerReflection"));
    let have: BTreeSet<_> = NEEDS.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(have, want);
    assert_eq!(have.len(), NEEDS.len());
}

/// What a call without content is answered, whatever it answers with.
async fn call(channel: Channel, path: &'static str, token: Option<&str>) -> Code {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let mut request = tonic::Request::new(tokio_stream::once(EmptyMessage::default()));
    if let Some(token) = token {
        let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    let codec = ProstCodec::<EmptyMessage, EmptyMessage>::default();
    let answer = grpc.streaming(request, http::uri::PathAndQuery::from_static(path), codec).await;
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn each_call_is_open_to_those_the_table_names_and_nobody_else() {
    let door = Door::open(AdminOptions { tokens: Tokens::Required, ..options() }).await;
    let mut tokens = BTreeMap::new();
    for role in Role::ALL {
        tokens.insert(role, door.token(role.as_str(), role.as_str(), None).await);
    }
    let expired = door.token("former", "admin", Some(NOW)).await;
    let outside = [Code::Unauthenticated, Code::PermissionDenied];
    for (path, need) in NEEDS {
        for token in [None, Some(expired.as_str())] {
            let code = call(door.channel(), path, token).await;
            assert_eq!(code == Code::Unauthenticated, *need != Need::Nothing, "{path}: {code:?}");
        }
        for (role, token) in &tokens {
            let code = call(door.channel(), path, Some(token)).await;
            let may = match need {
                Need::Nothing | Need::Known => true,
                Need::Permission(permission) => role.permissions().contains(*permission),
            };
            assert_eq!(!outside.contains(&code), may, "{path} as {}: {code:?}", role.as_str());
        }
    }
    let admin = &tokens[&Role::Admin];
    assert_eq!(call(door.channel(), "/fleetspeak.server.Admin/Surprise", Some(admin)).await, Code::Unimplemented);
    assert_eq!(call(door.channel(), "/other.Service/KeepAlive", None).await, Code::Unimplemented);
}

#[tokio::test]
async fn nothing_a_request_says_of_itself_makes_it_somebody() {
    let door = Door::local().await;
    let id = door.agent(1).await;
    let mut request = tonic::Request::new(wire::server::BlacklistClientRequest { client_id: id_bytes(id) });
    for name in ["x-muster-user", "x-muster-actor", "grpc-metadata-user", "x-forwarded-user"] {
        request.metadata_mut().insert(name, MetadataValue::from_static("mallory"));
    }
    door.client().blacklist_client(request).await.unwrap();
    let journal = door.journal().await;
    assert_eq!(journal[0].cause.actor, "local");
    assert!(!format!("{journal:?}").contains("mallory"));
}

/// Runs `program` of Python, as another account of this machine. Only root can.
async fn as_somebody_else(program: &str) -> String {
    assert!(rustix::process::geteuid().is_root(), "this test needs root: run it with sudo, or in a container");
    let mut command = tokio::process::Command::new("python3");
    let done = command.args(["-c", program]).uid(65_533).gid(65_533).current_dir("/").output().await.unwrap();
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

/// A call of `KeepAlive` in bare HTTP/2: preface, settings, the headers of the request and an empty message. A refusal comes
/// as trailers alone, so its first headers end the stream; an answer goes on.
const BARE_CALL: &str = r#"
import socket, struct, sys
def lit(name, value):
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
path = b"/fleetspeak.server.Admin/KeepAlive"
head = lit(b":method", b"POST") + lit(b":scheme", b"http") + lit(b":path", path) + lit(b":authority", b"x")
head += lit(b"content-type", b"application/grpc") + lit(b"te", b"trailers")
def frame(kind, flags, stream, body):
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body
s.settimeout(20)
s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, head) + frame(0, 1, 1, b"\x00\x00\x00\x00\x00"))
got = b""
while True:
    while len(got) < 9 or len(got) < 9 + int.from_bytes(got[:3], "big"):
        more = s.recv(65536)
        if not more: sys.exit("closed")
        got += more
    size, kind, flags = int.from_bytes(got[:3], "big"), got[3], got[4]
    body, got = got[9:9 + size], got[9 + size:]
    if kind == 1:
        print("refused" if flags & 1 else "answered"); break
"#;

#[tokio::test]
async fn over_loopback_only_the_servers_own_account_and_root_need_no_token() {
    let call = |port: u16| format!("import socket\ns = socket.create_connection(('127.0.0.1', {port}))\n{BARE_CALL}");
    for (local, is_let_in) in [(Local::Owner, false), (Local::Anybody, true)] {
        let access = AdminAccess::Loopback(local);
        let door = Door::open(AdminOptions { access, ..options() }).await;
        door.client().keep_alive(EmptyMessage::default()).await.expect("the account of the server is let in");
        let answer = as_somebody_else(&call(door.address.port())).await;
        assert_eq!(answer.trim(), if is_let_in { "answered" } else { "refused" }, "{local:?}");
    }
}

#[tokio::test]
async fn the_same_holds_at_a_socket_in_the_file_system() {
    let door = Door::with_socket(options(), Some(Local::Owner)).await;
    let path = door.directory.path().join("admin.sock");
    for path in [door.directory.path(), path.as_path()] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let call =
        format!("import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('{}')\n{BARE_CALL}", path.display());
    let own = tokio::process::Command::new("python3").args(["-c", &call]).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&own.stdout).trim(), "answered", "{own:?}");
    assert_eq!(as_somebody_else(&call).await.trim(), "refused");
}

#[tokio::test]
async fn a_token_says_who_somebody_is_even_where_none_is_needed() {
    let door = Door::local().await;
    let id = door.agent(1).await;
    let token = door.token("ada", "admin", None).await;
    let with = |authorization: &str| {
        let mut request = tonic::Request::new(wire::server::BlacklistClientRequest { client_id: id_bytes(id) });
        request.metadata_mut().insert("authorization", MetadataValue::try_from(authorization).unwrap());
        request
    };
    door.client().blacklist_client(with(&format!("bearer {token}"))).await.unwrap();
    assert_eq!(door.journal().await[0].cause.actor, "ada");
    for wrong in ["Bearer wrong", "Bearer ", "Basic YTpi", "nonsense"] {
        refused(door.client().blacklist_client(with(wrong)).await, Code::Unauthenticated, "");
    }
}

#[tokio::test]
async fn without_tls_the_door_opens_on_loopback_only() {
    let public: SocketAddr = "0.0.0.0:9090".parse().unwrap();
    let error = check_exposure(public, &AdminAccess::Loopback(Local::Owner)).unwrap_err().to_string();
    assert!(error.contains("0.0.0.0:9090") && error.contains("127.0.0.1") && error.contains("TLS"), "{error}");
    for local in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        assert!(check_exposure(local.parse().unwrap(), &AdminAccess::Loopback(Local::Owner)).is_ok(), "{local}");
    }
    let door = Door::local().await;
    let engine_stop = CancellationToken::new();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let engine = Engine::new(
        Arc::clone(&door.store),
        Outside {
            clock: Arc::new(Fixed),
            random: Arc::new(SystemRandom),
            codec: Arc::new(WireCodec),
            waker: Arc::new(Nobody),
        },
        EngineConfig::default(),
        Vec::new(),
    );
    assert!(matches!(
        serve(AdminSockets { tcp: Some(listener), unix: None }, engine, options(), engine_stop).await,
        Err(AdminError::Exposed(_))
    ));
}

/// An authority for client certificates.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn identity(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.signed_by(&key, authority).unwrap();
    Identity::from_pem(certificate.pem(), key.serialize_pem())
}

#[tokio::test]
async fn over_tls_a_certificate_or_a_token_opens_the_door() {
    // A store of its own gives the server's certificate; the door has another one.
    let (home, directory) = (Door::local().await, tempfile::tempdir().unwrap());
    let pki = PkiOptions {
        data: directory.path().into(),
        names: Vec::new(),
        life: crate::pki::CERTIFICATE_LIFE,
        files: None,
    };
    let clock = Arc::new(crate::world::SystemClock);
    let certificates = Certificates::open(home.store.as_ref(), &pki, clock).await.unwrap();
    let clients = authority();
    let client_authority = Some(clients.pem());
    let access = AdminAccess::Tls { certificate: certificates.slot(), client_authority };
    let door = Door::open(AdminOptions { access, ..options() }).await;
    let id = door.agent(1).await;
    let token = door.token("ada", "reader", None).await;

    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificates.trust_pem()));
    let channel = |tls: ClientTlsConfig| {
        Endpoint::new(format!("https://{}", door.address)).unwrap().tls_config(tls).unwrap().connect_lazy()
    };
    let path = "/fleetspeak.server.Admin/KeepAlive";
    assert_eq!(call(channel(tls.clone()), path, None).await, Code::Unauthenticated);
    assert_eq!(call(channel(tls.clone()), path, Some(&token)).await, Code::Ok);
    assert_eq!(call(channel(tls.clone()), "/grpc.health.v1.Health/Check", None).await, Code::Ok);

    let known = tls.clone().identity(identity(&clients, "grace"));
    let request = wire::server::BlacklistClientRequest { client_id: id_bytes(id) };
    AdminClient::new(channel(known)).blacklist_client(request.clone()).await.unwrap();
    assert_eq!(door.journal().await[0].cause.actor, "certificate grace");
    let foreign = tls.identity(identity(&authority(), "grace"));
    assert!(AdminClient::new(channel(foreign)).blacklist_client(request).await.is_err());
    // Without TLS nobody gets anywhere.
    assert!(door.client().keep_alive(EmptyMessage::default()).await.is_err());
}

#[tokio::test]
async fn a_client_authority_that_is_none_is_refused_at_the_start() {
    let (home, directory) = (Door::local().await, tempfile::tempdir().unwrap());
    let life = crate::pki::CERTIFICATE_LIFE;
    let pki = PkiOptions { data: directory.path().into(), names: Vec::new(), life, files: None };
    let certificates = Certificates::open(home.store.as_ref(), &pki, Arc::new(Fixed)).await.unwrap();
    for wrong in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let access = AdminAccess::Tls { certificate: certificates.slot(), client_authority: Some(wrong.into()) };
        let door = Door::open(AdminOptions { access, ..options() }).await;
        assert!(matches!(door.served.await.unwrap(), Err(AdminError::ClientAuthority(_))), "{wrong:?}");
    }
}

#[tokio::test]
async fn health_and_reflection_answer_and_a_stop_ends_every_call() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let door = Door::local().await;
    let ask = HealthCheckRequest { service: "fleetspeak.server.Admin".into() };
    let mut health = HealthClient::new(door.channel());
    let answer = health.check(ask.clone()).await.unwrap().into_inner();
    assert_eq!(answer.status, 1);
    let mut watch = health.watch(ask).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    assert_eq!(call(door.channel(), reflection, None).await, Code::Ok);

    let begun = tokio::time::Instant::now();
    door.stop.cancel();
    let ceiling = limits::DRAIN + Duration::from_secs(2);
    let word = tokio::time::timeout(ceiling, watch.message()).await.expect("health says that the server stops");
    assert_eq!(word.unwrap().unwrap().status, 2);
    tokio::time::timeout(ceiling, door.served).await.expect("a stop ends").unwrap().unwrap();
    assert!(begun.elapsed() < ceiling, "{:?}", begun.elapsed());
}
