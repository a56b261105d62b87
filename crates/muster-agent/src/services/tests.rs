use super::*;
use crate::hub::any;
use crate::hub::tests::{a_hub, sent, to_service};
use crate::world::SystemClock;
use muster_proto::wire::stdinservice::{InputMessage, OutputMessage};
use muster_proto::wire::{self, daemonservice, socketservice, stdinservice};
use prost::Message as _;

fn context(hub: &Arc<Hub>) -> Context {
    let identity = watch::Sender::new(Arc::new(Identity::temporary().unwrap()));
    Context {
        name: String::new(),
        hub: Arc::clone(hub),
        identity: identity.subscribe(),
        stop: CancellationToken::new(),
        clock: Arc::new(SystemClock),
        environment: Arc::new(environment::environment(&[])),
        stdin_timeout: Duration::from_secs(20),
        respawn_every: RESPAWN_EVERY,
    }
}

fn stdin(name: &str, cmd: &str, args: &[&str]) -> Definition {
    let args = args.iter().map(|&arg| arg.to_owned()).collect();
    let kind = Kind::Stdin(stdinservice::Config { cmd: cmd.into(), args, ..Default::default() });
    Definition { name: name.into(), kind, required_labels: vec![], signature: bytes::Bytes::new() }
}

fn input(number: u8, service: &str, text: &str, args: &[&str]) -> wire::Message {
    let args = args.iter().map(|&arg| arg.to_owned()).collect();
    let body = InputMessage { input: text.to_owned().into(), args };
    wire::Message {
        message_type: "StdinServiceInputMessage".into(),
        data: Some(any("fleetspeak.stdinservice.InputMessage", &body)),
        ..to_service(number, service)
    }
}

async fn answer_of(definition: Definition, message: wire::Message) -> wire::Message {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    let services = Services::new(context(&hub));
    services.apply(vec![definition], &[]).await;
    hub.receive(message);
    let answer = sent(&hub).await.remove(0);
    services.stop_all().await;
    answer
}

fn failure(message: &wire::Message) -> String {
    assert_eq!(message.message_type, words::MESSAGE_ERROR);
    wire::MessageErrorData::decode(&message.data.as_ref().unwrap().value[..]).unwrap().error
}

#[tokio::test]
async fn a_command_gets_its_input_and_arguments_and_its_output_is_the_answer() {
    let answer = answer_of(stdin("sh", "sh", &["-c"]), input(1, "sh", "in", &["cat; echo err >&2"])).await;
    assert_eq!(answer.message_type, "StdinServiceOutputMessage");
    assert_eq!(answer.destination.unwrap().service_name, "sh");
    let output = OutputMessage::decode(&answer.data.unwrap().value[..]).unwrap();
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"in"[..], &b"err\n"[..]));
    assert!(output.timestamp.is_some());
}

#[tokio::test]
async fn a_command_that_fails_is_an_error_with_its_last_words() {
    let answer = answer_of(stdin("sh", "sh", &["-c"]), input(1, "sh", "", &["echo no >&2; exit 3"])).await;
    let reason = failure(&answer);
    assert!(reason.contains('3') && reason.contains("no"), "{reason}");
}

#[tokio::test]
async fn what_cannot_be_run_is_an_error() {
    let no_program = answer_of(stdin("s", "/no/such/program", &[]), input(1, "s", "", &[])).await;
    assert!(failure(&no_program).contains("/no/such/program"));
    let no_input = answer_of(stdin("s", "cat", &[]), to_service(1, "s")).await;
    assert!(failure(&no_input).contains("StdinServiceInputMessage"));
}

#[tokio::test]
async fn a_command_that_writes_without_end_is_ended() {
    let reason = failure(&answer_of(stdin("s", "cat", &["/dev/zero"]), input(1, "s", "", &[])).await);
    assert!(reason.contains("wrote more than"), "{reason}");
}

#[tokio::test]
async fn a_command_that_never_ends_is_ended_with_all_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    let limits = Context { stdin_timeout: Duration::from_millis(200), ..context(&hub) };
    let services = Services::new(limits);
    services.apply(vec![stdin("s", "sh", &["-c"])], &[]).await;
    let pid_file = directory.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", pid_file.display());
    hub.receive(input(1, "s", "", &[&script]));
    let reason = failure(&sent(&hub).await[0]);
    assert!(reason.contains("ran longer"), "{reason}");
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let gone = async {
        while !(state().is_empty() || state().contains(") Z")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
}

/// The bytes of one frame of the local channel, as `printf` of a shell takes them.
fn frame_for_printf(message: &wire::Message) -> String {
    let body = message.encode_to_vec();
    let size = u32::try_from(body.len()).unwrap().to_le_bytes();
    let bytes = [&size[..], &body, &[0x01, 0x10, 0xee, 0xf1]].concat();
    bytes.iter().fold(String::new(), |text, byte| format!("{text}\\{byte:03o}"))
}

#[tokio::test]
async fn a_daemon_says_something_and_is_told_something() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    let context = context(&hub);
    let id = context.identity.borrow().id;
    let services = Services::new(context);
    let said = wire::Message { message_type: "Said".into(), ..to_service(9, "server-side") };
    let heard = directory.path().join("heard");
    let script = format!(
        "printf '\\001\\020\\356\\361{}' > /proc/self/fd/$FLEETSPEAK_COMMS_CHANNEL_OUTFD; \
         echo $FLEETSPEAK_CLIENT_ID > {heard}.id; exec cat /proc/self/fd/$FLEETSPEAK_COMMS_CHANNEL_INFD > {heard}",
        frame_for_printf(&said),
        heard = heard.display(),
    );
    let argv = vec!["sh".into(), "-c".into(), script];
    let kind = Kind::Daemon(daemonservice::Config { argv, ..Default::default() });
    services
        .apply(
            vec![Definition { name: "d".into(), kind, required_labels: vec![], signature: bytes::Bytes::new() }],
            &[],
        )
        .await;

    let out = sent(&hub).await.remove(0);
    assert_eq!((out.message_type.as_str(), out.source.unwrap().service_name.as_str()), ("Said", "d"));
    let told = to_service(5, "d");
    hub.receive(told.clone());
    while !hub.outbox().has_ready(false) {
        tokio::task::yield_now().await;
        hub.flush_acks().await;
    }
    assert_eq!(sent(&hub).await[0].message_type, words::MESSAGE_ACK);
    services.stop_all().await;
    let bytes = std::fs::read(&heard).unwrap();
    let body = told.encode_to_vec();
    assert_eq!(&bytes[..4], [0x01, 0x10, 0xee, 0xf1]);
    assert_eq!(&bytes[8..8 + body.len()], body);
    assert_eq!(std::fs::read_to_string(directory.path().join("heard.id")).unwrap().trim(), id.to_string());
}

#[tokio::test]
async fn a_daemon_that_does_not_say_that_it_lives_is_killed_and_the_server_told() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    let services = Services::new(context(&hub));
    let span = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
    let config = daemonservice::Config {
        argv: vec!["sleep".into(), "1000".into()],
        monitor_heartbeats: true,
        heartbeat_unresponsive_grace_period: span,
        heartbeat_unresponsive_kill_period: span,
        ..Default::default()
    };
    let kind = Kind::Daemon(config);
    services
        .apply(
            vec![Definition { name: "d".into(), kind, required_labels: vec![], signature: bytes::Bytes::new() }],
            &[],
        )
        .await;
    let told = sent(&hub).await.remove(0);
    assert_eq!(told.message_type, words::KILL_NOTIFICATION);
    let data = wire::monitoring::KillNotification::decode(&told.data.unwrap().value[..]).unwrap();
    assert_eq!((data.service.as_str(), data.reason), ("d", 1));
    assert!(data.pid > 1 && data.killed_when.is_some());
    services.stop_all().await;
}

#[tokio::test]
async fn a_socket_carries_messages_both_ways_and_acknowledges_them() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    let services = Services::new(context(&hub));
    let path = directory.path().join("s.sock");
    let config = socketservice::Config { api_proxy_path: path.to_str().unwrap().into(), ..Default::default() };
    let definition = Definition {
        name: "s".into(),
        kind: Kind::Socket(config),
        required_labels: vec![],
        signature: bytes::Bytes::new(),
    };
    services.apply(vec![definition], &[]).await;
    hub.receive(to_service(7, "s"));
    while !path.exists() {
        tokio::task::yield_now().await;
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let (from, to) = stream.into_split();
    let mut writer = channel::ChannelWriter::open(to).await.unwrap();
    let mut reader = channel::ChannelReader::open(from).await.unwrap();
    // It waited for somebody to connect.
    assert_eq!(reader.read().await.unwrap().message_id, vec![7; 32]);
    let said = wire::Message { source_message_id: b"mine".to_vec().into(), ..to_service(1, "server") };
    writer.write(&said).await.unwrap();
    let ack = reader.read().await.unwrap();
    assert_eq!((ack.message_type.as_str(), ack.source.unwrap().service_name.as_str()), ("LocalAck", "client"));
    let ids = wire::MessageAckData::decode(&ack.data.unwrap().value[..]).unwrap().message_ids;
    assert_eq!(ids, [&b"mine"[..]]);
    drop((reader, writer));
    let mut told = Vec::new();
    while told.last().is_none_or(|last: &wire::Message| last.message_type != words::RESOURCE_USAGE) {
        told.extend(sent(&hub).await);
    }
    let usage = wire::monitoring::ResourceUsageData::decode(&told.last().unwrap().data.as_ref().unwrap().value[..]);
    let usage = usage.unwrap();
    assert_eq!((usage.scope.as_str(), usage.pid), ("s", i64::from(std::process::id())));
    assert!(usage.process_terminated && usage.process_start_time.is_some());
    services.stop_all().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn services_follow_their_definitions() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    let services = Services::new(context(&hub));
    let noop = |name: &str, label: &str| Definition {
        name: name.into(),
        kind: Kind::Noop,
        required_labels: vec![label.into()],
        signature: bytes::Bytes::new(),
    };
    services.apply(vec![noop("a", "linux"), noop("b", "linux"), noop("c", "windows")], &["linux".into()]).await;
    assert_eq!(hub.services(), ["a", "b"]);
    services.apply(vec![noop("b", "linux"), noop("d", "linux")], &["linux".into()]).await;
    assert_eq!(hub.services(), ["b", "d"]);
    assert!(services.restart("d").await && !services.restart("a").await);
    services.stop_all().await;
}

fn a_daemon(argv: &[&str]) -> daemonservice::Config {
    daemonservice::Config { argv: argv.iter().map(|&arg| arg.to_owned()).collect(), ..Default::default() }
}

fn defined(config: daemonservice::Config) -> Vec<Definition> {
    vec![Definition {
        name: "d".into(),
        kind: Kind::Daemon(config),
        required_labels: vec![],
        signature: bytes::Bytes::new(),
    }]
}

fn milliseconds(number: i32) -> prost_types::Duration {
    prost_types::Duration { seconds: 0, nanos: number * 1_000_000 }
}

/// Waits until a file has this many lines.
async fn lines(path: &std::path::Path, number: usize) {
    let waiting = async {
        while std::fs::read_to_string(path).unwrap_or_default().lines().count() < number {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the lines never came");
}

#[tokio::test]
async fn a_daemon_that_uses_too_much_memory_is_killed_and_the_server_told() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    let services = Services::new(context(&hub));
    let config = daemonservice::Config {
        memory_limit: 1000,
        resource_monitoring_sample_period: Some(milliseconds(50)),
        ..a_daemon(&["sleep", "1000"])
    };
    services.apply(defined(config), &[]).await;
    let mut told = Vec::new();
    while told.len() < 3 {
        told.extend(sent(&hub).await);
    }
    let types: Vec<_> = told.iter().map(|message| message.message_type.as_str()).collect();
    assert_eq!(types, [words::RESOURCE_USAGE, words::KILL_NOTIFICATION, words::RESOURCE_USAGE]);
    let body = |message: &wire::Message| message.data.clone().unwrap().value;
    let killed = wire::monitoring::KillNotification::decode(&body(&told[1])[..]).unwrap();
    assert_eq!((killed.service.as_str(), killed.reason), ("d", 2));
    let usage = wire::monitoring::ResourceUsageData::decode(&body(&told[0])[..]).unwrap();
    assert!(usage.resource_usage.unwrap().max_resident_memory > 1000 && !usage.process_terminated);
    let last = wire::monitoring::ResourceUsageData::decode(&body(&told[2])[..]).unwrap();
    assert!(last.process_terminated && last.pid == killed.pid);
    services.stop_all().await;
}

#[tokio::test]
async fn a_daemon_within_its_memory_lives() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    let services = Services::new(context(&hub));
    let config = daemonservice::Config {
        memory_limit: 1 << 30,
        resource_monitoring_sample_size: 2,
        resource_monitoring_sample_period: Some(milliseconds(20)),
        ..a_daemon(&["sleep", "1000"])
    };
    services.apply(defined(config), &[]).await;
    let mut told = Vec::new();
    while told.len() < 3 {
        told.extend(sent(&hub).await);
    }
    assert!(told.iter().all(|message| message.message_type == words::RESOURCE_USAGE));
    let pids: Vec<i64> = told
        .iter()
        .map(|message| wire::monitoring::ResourceUsageData::decode(&message.data.as_ref().unwrap().value[..]).unwrap())
        .map(|usage| usage.pid)
        .collect();
    assert!(pids.windows(2).all(|pair| pair[0] == pair[1]), "{pids:?}");
    services.stop_all().await;
}

#[tokio::test]
async fn a_daemon_with_nothing_to_do_is_ended_and_the_next_message_starts_it_again() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    let services = Services::new(Context { respawn_every: Duration::ZERO, ..context(&hub) });
    let (starts, ends) = (directory.path().join("starts"), directory.path().join("ends"));
    // It ends by itself when its channel is closed.
    let script = format!(
        "echo x >> {}; cat /proc/self/fd/$FLEETSPEAK_COMMS_CHANNEL_INFD > /dev/null; echo x >> {}",
        starts.display(),
        ends.display()
    );
    let config =
        daemonservice::Config { inactivity_timeout: Some(milliseconds(100)), ..a_daemon(&["sh", "-c", &script]) };
    services.apply(defined(config), &[]).await;
    lines(&ends, 1).await;
    let last = sent(&hub).await.remove(0);
    assert_eq!(last.message_type, words::RESOURCE_USAGE);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(std::fs::read_to_string(&starts).unwrap().lines().count(), 1);

    hub.receive(to_service(1, "d"));
    lines(&ends, 2).await;
    assert_eq!(std::fs::read_to_string(&starts).unwrap().lines().count(), 2);
    services.stop_all().await;
}

#[tokio::test]
async fn a_lazy_daemon_is_started_by_its_first_message_and_not_before() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    // The program comes only later: started too early, the daemon would fail and wait for an hour.
    let services = Services::new(Context { respawn_every: Duration::from_hours(1), ..context(&hub) });
    let (program, heard) = (directory.path().join("program"), directory.path().join("heard"));
    let config = daemonservice::Config { lazy_start: true, ..a_daemon(&["sh", program.to_str().unwrap()]) };
    services.apply(defined(config), &[]).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let script = format!("cat /proc/self/fd/$FLEETSPEAK_COMMS_CHANNEL_INFD > {}; echo >> {0}", heard.display());
    std::fs::write(&program, script).unwrap();
    let told = to_service(5, "d");
    hub.receive(told.clone());
    while !hub.outbox().has_ready(false) {
        tokio::task::yield_now().await;
        hub.flush_acks().await;
    }
    assert_eq!(sent(&hub).await[0].message_type, words::MESSAGE_ACK);
    services.stop_all().await;
    let body = told.encode_to_vec();
    assert_eq!(&std::fs::read(&heard).unwrap()[8..8 + body.len()], body);
}

#[tokio::test]
async fn a_local_process_says_nothing_to_the_services_that_hear_the_agent() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    let context = Context { name: "d".into(), ..context(&hub) };
    let mut bytes = vec![0x01, 0x10, 0xee, 0xf1];
    for service in ["actions", "muster", "system", "grr"] {
        let body = wire::Message { message_type: service.into(), ..to_service(1, service) }.encode_to_vec();
        bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend(body);
        bytes.extend([0x01, 0x10, 0xee, 0xf1]);
    }
    let (accepted, _acks) = mpsc::channel(10);
    let ended = link::listen(&bytes[..], &context, &watch::Sender::default(), accepted).await;
    assert!(matches!(ended, channel::ChannelError::Closed), "{ended}");
    let told = sent(&hub).await;
    assert_eq!(told.iter().map(|message| message.message_type.as_str()).collect::<Vec<_>>(), ["grr"]);
}
