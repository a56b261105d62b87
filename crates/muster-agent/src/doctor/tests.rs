use super::*;
use crate::world::SystemClock;
use crate::world::tests::SetClock;

fn outcome_of(checks: &[Check], name: &str) -> Outcome {
    checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("nothing about {name}: {checks:?}")).outcome
}

#[tokio::test]
async fn every_trouble_has_its_line_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let private: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(directory.path(), private).unwrap();
    // A port on which nobody listens: bound and given up at once.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let authority = rcgen::generate_simple_self_signed(vec!["x".into()]).unwrap();
    let config = Config {
        servers: vec![format!("127.0.0.1:{port}")],
        trusted_certs: authority.cert.pem(),
        state_dir: directory.path().into(),
        ..Config::default()
    };
    let checks = examine(Ok(config.clone()), Arc::new(SystemClock)).await;
    assert_eq!(outcome_of(&checks, "config"), Outcome::Ok);
    assert_eq!(outcome_of(&checks, "state"), Outcome::Ok);
    assert_eq!(outcome_of(&checks, "key"), Outcome::Warning);
    assert_eq!(outcome_of(&checks, "trusted"), Outcome::Ok);
    assert_eq!(outcome_of(&checks, "server"), Outcome::Failed);
    assert_eq!(outcome_of(&checks, "agent"), Outcome::Warning);

    std::fs::write(directory.path().join("agent.key"), "x").unwrap();
    let acl_file = directory.path().join("acl.cfg");
    std::fs::write(&acl_file, "xx").unwrap();
    let broken = Config { trusted_certs: "-----BEGIN nothing".into(), servers: vec![], acl_file, ..config };
    let checks = examine(Ok(broken), Arc::new(SystemClock)).await;
    for name in ["config", "key", "trusted", "investigators"] {
        assert_eq!(outcome_of(&checks, name), Outcome::Failed, "{name}");
    }
    for check in &checks {
        assert_eq!(check.outcome == Outcome::Ok, check.advice.is_none(), "{check:?}");
    }
}

#[test]
fn a_clock_that_was_never_set_is_bad() {
    assert_eq!(clock_never_set(Timestamp::EPOCH).unwrap().outcome, Outcome::Failed);
}

#[test]
fn keys_without_weights_are_bad() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("agentkeys");
    std::fs::create_dir(&keys).unwrap();
    let acl_file = directory.path().join("acl.cfg");
    let config = Config { keyring_dir: keys.clone(), acl_file, administrators_dir: "".into(), ..Config::default() };
    // Without keys nobody asks what they are worth.
    assert!(!has_failed(&investigators::look(&config, Path::new(""), Timestamp::from_secs(1_800_000_000))));
    std::fs::write(keys.join("one"), include_str!("../../tests/it/keys/one.asc")).unwrap();
    let checks = investigators::look(&config, Path::new(""), Timestamp::from_secs(1_800_000_000));
    assert!(has_failed(&checks) && checks[0].found.contains("acl.cfg is missing"), "{checks:?}");
    let fingerprint = muster_trust::SecretKey::open(
        include_str!("../../tests/it/keys/one.secret.asc").as_bytes(),
        None,
        Timestamp::from_secs(1_800_000_000),
    );
    let fingerprint = fingerprint.unwrap().signer().to_string();
    let weights = serde_json::json!({"default": {"minimumweight": 1, "investigators": {
        "one": {"fingerprint": fingerprint, "weight": 1}}}});
    std::fs::write(&config.acl_file, weights.to_string()).unwrap();
    assert!(!has_failed(&investigators::look(&config, Path::new(""), Timestamp::from_secs(1_800_000_000))));
}

#[test]
fn an_agent_that_stays_away_or_is_refused_is_seen() {
    use crate::server_may::Absence;
    use crate::standing::StandingBook;
    let directory = tempfile::tempdir().unwrap();
    let now = Timestamp::from_secs(1_800_000_000);
    let config = Config { state_dir: directory.path().into(), ..Config::default() };
    assert_eq!(outcome_of(&agent(&config, now), "agent"), Outcome::Warning);
    let lock = std::fs::File::create(directory.path().join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(outcome_of(&agent(&config, now), "agent"), Outcome::Ok);
    assert_eq!(outcome_of(&agent(&config, now), "contact"), Outcome::Warning);
    let clock = SetClock::at(1_800_000_000);
    let book = StandingBook::open(directory.path(), clock);
    book.good("a:1");
    assert_eq!(outcome_of(&agent(&config, now), "contact"), Outcome::Ok);
    assert_eq!(outcome_of(&agent(&config, now.plus(Duration::from_hours(2))), "contact"), Outcome::Warning);
    book.bad(Contact::Refused, "a:1", "403 Forbidden: this machine was deleted");
    let checks = agent(&config, now);
    assert_eq!(outcome_of(&checks, "contact"), Outcome::Failed);
    assert!(shown(&checks).contains("remove agent.key"), "{}", shown(&checks));
    Rest::begin(directory.path(), Absence::UntilBoot, now).unwrap();
    assert_eq!(outcome_of(&agent(&config, now), "agent"), Outcome::Warning);
}

#[test]
fn what_strangers_say_steers_no_terminal() {
    let evil = "a\u{1b}[2Jb\u{9b}31mc\u{7f}\u{202e}\nok       key  all is well";
    let checks = [failed("server", evil, evil)];
    let (shown, json) = (shown(&checks), json(&checks));
    assert!(!shown.chars().chain(json.chars()).any(|c| c != '\n' && text::is_unseen(c)), "{shown}{json}");
    assert_eq!(shown.lines().count(), 2, "{shown}");
    let read: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&read[0]["found"], &read[0]["outcome"]), (&evil.into(), &"failed".into()));
}
