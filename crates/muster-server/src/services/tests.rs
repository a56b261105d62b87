use super::*;
use bytes::Bytes;
use muster_core::{Address, AgentId, Message, MessageId, Payload, Timestamp};
use muster_engine::ServiceError;
use muster_proto::wire;
use muster_proto::wire::grpcservice::processor_server::{Processor, ProcessorServer};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};

#[derive(Debug)]
struct Fixed(Timestamp);

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        self.0
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(Fixed(Timestamp::from_secs(1_700_000_000)))
}

fn message() -> Message {
    let ends = (Address::agent(AgentId::from_bytes([7; 8]), "sh"), Address::server("backend"));
    let payload = Payload { type_url: "type.googleapis.com/google.protobuf.BytesValue".into(), value: vec![10, 1, 65] };
    Message {
        source_message_id: vec![1, 2],
        message_type: "Answer".into(),
        payload: Some(payload),
        annotations: vec![("flow_id".into(), "7".into())],
        ..Message::new(MessageId::from_bytes([9; 32]), ends.0, ends.1, Timestamp::from_secs(5))
    }
}

fn spec(name: &str, kind: ServiceKind) -> ServiceSpec {
    ServiceSpec { name: name.into(), parallelism: 0, kind }
}

fn refusal(specs: &[ServiceSpec]) -> String {
    factory(specs, &clock()).map(|services| services.len()).unwrap_err().to_string()
}

#[tokio::test]
async fn names_that_cannot_be_are_refused() {
    for name in ["system", "client", "muster"] {
        assert!(refusal(&[spec(name, ServiceKind::Noop)]).contains("built in"), "{name}");
    }
    assert!(refusal(&[spec("", ServiceKind::Noop)]).contains("must not be empty"));
    assert!(refusal(&[spec("a\nb", ServiceKind::Noop)]).contains("control"));
    let twice = [spec("a", ServiceKind::Noop), spec("a", ServiceKind::Noop)];
    assert!(refusal(&twice).contains("twice"));
}

#[tokio::test]
async fn targets_are_read_as_grpc_names_them() {
    let grpc = |target: &str| {
        let security = GrpcSecurity::Insecure;
        factory(&[spec("a", ServiceKind::Grpc { target: target.into(), security })], &clock()).map(|_| ())
    };
    for right in ["localhost:11111", "dns:///localhost:1", "dns://8.8.8.8/h:1", "passthrough:///[::1]:1", "unix:/tmp/x"]
    {
        assert!(grpc(right).is_ok(), "{right}: {:?}", grpc(right));
    }
    for wrong in ["", "localhost", "a b:1", "http://localhost:1", "dns:///"] {
        assert!(grpc(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_services_file_names_what_it_wants() {
    let grpc = |config: &str| {
        let any = format!("config {{ [type.googleapis.com/fleetspeak.grpcservice.Config] {{ {config} }} }}");
        read_fleetspeak(&format!("services {{ name: \"GRR\" factory: \"GRPC\" {any} }}"))
    };
    let services = grpc("target: \"a:1\" cert_file: \"/c.pem\"").unwrap().services;
    let security = GrpcSecurity::Tls { authority: "/c.pem".into() };
    assert_eq!(services, [spec("GRR", ServiceKind::Grpc { target: "a:1".into(), security })]);
    assert!(grpc("target: \"a:1\"").unwrap_err().to_string().contains("insecure"));
    assert!(grpc("insecure: true cert_file: \"x\"").unwrap_err().to_string().contains("contradict"));
    let of = |factory: &str| read_fleetspeak(&format!("services {{ name: \"x\" factory: \"{factory}\" }}"));
    assert_eq!(of("NOOP").unwrap().services[0].kind, ServiceKind::Noop);
    assert!(of("CPS").unwrap_err().to_string().contains("Pub/Sub"));
    assert!(of("FRR").unwrap_err().to_string().contains("not known"));
    assert!(of("GRPC").unwrap_err().to_string().contains("needs config"));
}

/// A program that answers as it is told, and keeps what it was given.
#[derive(Clone, Default)]
struct Backend {
    answers: Arc<Mutex<Vec<Code>>>,
    got: Arc<Mutex<Vec<wire::Message>>>,
}

#[tonic::async_trait]
impl Processor for Backend {
    async fn process(&self, request: Request<wire::Message>) -> Result<Response<wire::EmptyMessage>, Status> {
        self.got.lock().unwrap().push(request.into_inner());
        match self.answers.lock().unwrap().pop() {
            None | Some(Code::Ok) => Ok(Response::new(wire::EmptyMessage::default())),
            Some(code) => Err(Status::new(code, "as told")),
        }
    }
}

/// Runs a backend on `listener` until the token is cancelled.
fn run(listener: TcpListener, backend: Backend, tls: Option<ServerTlsConfig>) -> CancellationToken {
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let mut server = Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls).unwrap();
    }
    let server = server.add_service(ProcessorServer::new(backend));
    tokio::spawn(server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped));
    stop
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn service(target: String, security: GrpcSecurity) -> Arc<dyn Service> {
    factory(&[spec("backend", ServiceKind::Grpc { target, security })], &clock()).unwrap().remove(0)
}

#[tokio::test]
async fn the_program_gets_the_message_and_its_word_decides() {
    let (listener, address) = listener().await;
    let backend = Backend::default();
    run(listener, backend.clone(), None);
    let service = service(address.to_string(), GrpcSecurity::Insecure);
    assert_eq!(service.process(&message()).await, Ok(()));
    let got = backend.got.lock().unwrap().pop().unwrap();
    assert_eq!(got.message_id, Bytes::from(vec![9; 32]));
    assert_eq!(got.source.unwrap().client_id, Bytes::from(vec![7; 8]));
    assert_eq!(got.data.unwrap().value, [10, 1, 65]);
    let passing =
        [Code::DeadlineExceeded, Code::Aborted, Code::Cancelled, Code::Unauthenticated, Code::PermissionDenied];
    for code in passing {
        backend.answers.lock().unwrap().push(code);
        assert!(matches!(service.process(&message()).await, Err(ServiceError::Passing(_))), "{code:?}");
    }
    for code in [Code::InvalidArgument, Code::Unknown, Code::Internal, Code::Unimplemented, Code::ResourceExhausted] {
        backend.answers.lock().unwrap().push(code);
        let Err(ServiceError::Permanent(reason)) = service.process(&message()).await else { panic!("{code:?} passes") };
        assert!(reason.contains("as told") && reason.contains(&address.to_string()), "{reason}");
    }
}

#[tokio::test]
async fn a_program_that_comes_back_gets_the_message_at_once() {
    let (first, address) = listener().await;
    let stop = run(first, Backend::default(), None);
    let service = service(address.to_string(), GrpcSecurity::Insecure);
    assert_eq!(service.process(&message()).await, Ok(()));
    stop.cancel();
    // The call begins while nobody listens, and ends well because somebody does again.
    let call = tokio::spawn(async move { service.process(&message()).await });
    let backend = Backend::default();
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    run(listener, backend.clone(), None);
    let begun = tokio::time::Instant::now();
    assert_eq!(call.await.unwrap(), Ok(()));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_absent_program_gives_up_the_message_for_now() {
    let (listener, address) = listener().await;
    drop(listener);
    let service = service(address.to_string(), GrpcSecurity::Insecure);
    let outcome = service.process(&message()).await;
    assert!(matches!(&outcome, Err(ServiceError::Passing(reason)) if reason.contains("Unavailable")), "{outcome:?}");
}

#[tokio::test]
async fn over_tls_only_a_certificate_of_the_file_is_believed() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        rcgen::generate_simple_self_signed(names).unwrap()
    };
    let file = |name: &str, pem: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem).unwrap();
        GrpcSecurity::Tls { authority: path }
    };
    let own = certificate(&["127.0.0.1"]);
    let (listener, address) = listener().await;
    let identity = Identity::from_pem(own.cert.pem(), own.signing_key.serialize_pem());
    run(listener, Backend::default(), Some(ServerTlsConfig::new().identity(identity)));

    let believed = service(address.to_string(), file("own.pem", own.cert.pem()));
    assert_eq!(believed.process(&message()).await, Ok(()));
    let other = service(address.to_string(), file("other.pem", certificate(&["127.0.0.1"]).cert.pem()));
    assert!(matches!(other.process(&message()).await, Err(ServiceError::Passing(_))));
    let elsewhere = service(format!("localhost:{}", address.port()), file("again.pem", own.cert.pem()));
    assert!(matches!(elsewhere.process(&message()).await, Err(ServiceError::Passing(_))));

    let missing = GrpcSecurity::Tls { authority: directory.path().join("none.pem") };
    assert!(refusal(&[spec("a", ServiceKind::Grpc { target: "a:1".into(), security: missing })]).contains("none.pem"));
    let empty = file("empty.pem", String::new());
    assert!(
        refusal(&[spec("a", ServiceKind::Grpc { target: "a:1".into(), security: empty })]).contains("no certificate")
    );
}

mod spooled {
    use super::*;
    use std::path::Path;

    /// A clock that a test moves.
    #[derive(Debug)]
    struct Moved(Mutex<Timestamp>);

    impl Clock for Moved {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
    }

    fn spool(directory: &Path, clock: &Arc<dyn Clock>) -> Arc<dyn Service> {
        let kind = ServiceKind::Spool { directory: directory.to_owned() };
        factory(&[spec("../out/of it", kind)], clock).unwrap().remove(0)
    }

    /// All files with their lines, by name.
    fn files(directory: &Path) -> Vec<(String, Vec<serde_json::Value>)> {
        let mut files: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let text = std::fs::read_to_string(entry.path()).unwrap();
                assert!(text.ends_with('\n'), "{text}");
                let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                (entry.file_name().into_string().unwrap(), lines)
            })
            .collect();
        files.sort_by(|one, other| one.0.cmp(&other.0));
        files
    }

    #[tokio::test]
    async fn a_message_is_a_line_that_says_everything() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("a/b");
        spool(&inside, &clock()).process(&message()).await.unwrap();
        let files = files(&inside);
        assert_eq!(files.len(), 1);
        assert!(files[0].0.starts_with("_._out_of_it-2023-11-14T221320Z-"), "{}", files[0].0);
        let want = serde_json::json!({
            "id": "09".repeat(32), "agent": "07".repeat(8), "source": "sh", "service": "backend", "type": "Answer",
            "created": "1970-01-01T00:00:05Z", "source_id": "AQI=", "priority": "medium", "background": false,
            "blocked": false, "annotations": [["flow_id", "7"]], "validation": {},
            "payload": {
                "type_url": "type.googleapis.com/google.protobuf.BytesValue", "base64": "CgFB", "value": "QQ==",
            },
        });
        assert_eq!(files[0].1, [want]);
    }

    #[tokio::test]
    async fn many_at_once_share_a_file_and_lose_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let service = spool(directory.path(), &clock());
        let calls = (0..500_u16).map(|number| {
            let service = Arc::clone(&service);
            let mut id = [0; 32];
            id[..2].copy_from_slice(&number.to_be_bytes());
            let message = Message { id: MessageId::from_bytes(id), ..message() };
            tokio::spawn(async move { service.process(&message).await })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap().unwrap();
        }
        let files = files(directory.path());
        assert_eq!(files.len(), 1);
        let ids: BTreeSet<_> = files[0].1.iter().map(|line| line["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), 500);
    }

    #[tokio::test]
    async fn a_new_day_and_a_new_start_begin_a_new_file() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(Moved(Mutex::new(Timestamp::from_secs(86_399))));
        let first = spool(directory.path(), &(Arc::clone(&clock) as Arc<dyn Clock>));
        first.process(&message()).await.unwrap();
        first.process(&message()).await.unwrap();
        *clock.0.lock().unwrap() = Timestamp::from_secs(86_400);
        first.process(&message()).await.unwrap();
        // Another start at the very same moment takes another name.
        spool(directory.path(), &(clock as Arc<dyn Clock>)).process(&message()).await.unwrap();
        let lines: Vec<_> = files(directory.path()).iter().map(|(_, lines)| lines.len()).collect();
        assert_eq!(lines, [2, 1, 1]);
    }

    #[tokio::test]
    async fn what_cannot_be_written_comes_again() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("spool");
        let service = spool(&inside, &clock());
        std::fs::remove_dir(&inside).unwrap();
        let outcome = service.process(&message()).await;
        assert!(matches!(&outcome, Err(ServiceError::Passing(reason)) if reason.contains("spool")), "{outcome:?}");
        std::fs::create_dir(&inside).unwrap();
        assert_eq!(service.process(&message()).await, Ok(()));
        assert_eq!(files(&inside).len(), 1);
    }

    #[test]
    fn a_directory_that_cannot_be_made_stops_the_start() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kind = ServiceKind::Spool { directory: file.path().join("below") };
        assert!(refusal(&[spec("a", kind)]).contains("below"));
    }
}
