use super::*;
use muster_store::reports::AgentTimes;
use std::collections::BTreeSet;

fn load(text: &str, environment: &[(&str, &str)], flags: &Overrides) -> Result<Config, String> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_parts(text, "muster.toml", environment, flags).map_err(|error| error.to_string())
}

fn refused(text: &str) -> String {
    load(text, &[], &Overrides::default()).unwrap_err()
}

#[test]
fn the_sample_lists_every_key_and_is_the_default() {
    let sample = Config::defaults_text();
    assert_eq!(load(&sample, &[], &Overrides::default()), Ok(Config::default()));
    for section in SECTIONS {
        for key in section.keys {
            let line = format!("{} = {}\n", key.name, key.value);
            assert!(sample.contains(&line), "{} is missing", key.path());
            assert!(!key.doc.trim().is_empty(), "{} is not explained", key.path());
        }
    }
}

#[test]
fn the_sample_of_the_handbook_is_the_one_that_the_program_shows() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/muster.toml");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, Config::defaults_text()).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == Config::defaults_text(), "docs/reference/muster.toml is old: run with UPDATE_GOLDEN=1");
}

#[test]
fn every_field_is_a_key_and_every_example_is_one_that_works() {
    // With every comment mark before a key removed, all fields are set; what serialises is then all there is.
    let text = Config::defaults_text();
    let lines: Vec<_> = text
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
                .unwrap_or(line)
        })
        .collect();
    let config: Config = toml::from_str(&lines.join("\n")).unwrap();
    let values = toml::Value::try_from(&config).unwrap();
    let keys = |value: &toml::Value| value.as_table().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    for section in &SECTIONS[1..] {
        let value = &values[section.name];
        let value = value.as_array().map_or(value, |list| &list[0]);
        assert_eq!(keys(value), section.keys.iter().map(|key| key.name.to_owned()).collect(), "{}", section.name);
    }
    let top = TOP.keys.iter().map(|key| key.name).chain(SECTIONS[1..].iter().map(|section| section.name));
    assert_eq!(keys(&values), top.map(str::to_owned).collect());
}

#[test]
fn what_is_shown_can_be_read_again() {
    let text = "[agents]\nnames = [\"fleet.example\"]\n[[services]]\nname = \"a\"\nkind = \"noop\"\n";
    let config = load(text, &[], &Overrides::default()).unwrap();
    assert_eq!(load(&config.to_text(), &[], &Overrides::default()), Ok(config));
}

#[test]
fn the_environment_wins_over_the_file_and_flags_win_over_both() {
    let text = "[agents]\naddress = \"10.0.0.1:1\"\n[enrolment]\nper_minute = 1\n";
    let environment = [
        ("MUSTER_AGENTS_ADDRESS", "10.0.0.2:2"),
        ("MUSTER_AGENTS_NAMES", "a.example, b.example"),
        ("MUSTER_ENROLMENT_PER_MINUTE", "2"),
        ("MUSTER_AGENTS_STREAMING", "false"),
        ("MUSTER_DATA", "/tmp/data"),
        ("MUSTER_URL", "http://somewhere"),
        ("HOME", "/root"),
    ];
    let flags = Overrides { agents: Some("10.0.0.3:3".into()), ..Overrides::default() };
    let config = load(text, &environment, &flags).unwrap();
    assert_eq!(config.agents.address.to_string(), "10.0.0.3:3");
    assert_eq!(config.agents.names, ["a.example", "b.example"]);
    assert_eq!((config.enrolment.per_minute, config.agents.streaming), (2, false));
    assert_eq!(config.data.0, PathBuf::from("/tmp/data"));
}

#[test]
fn every_key_has_a_variable_of_its_own() {
    let keys: Vec<_> = SECTIONS.iter().flat_map(|section| section.keys).collect();
    let variables: BTreeSet<_> = keys.iter().map(|key| key.variable()).collect();
    assert_eq!(variables.len(), keys.len());
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_known_ones() {
    let error = refused("data = \"/x\"\n\n[agents]\nadress = \"0.0.0.0:1\"\n");
    assert!(error.starts_with("muster.toml:4: agents.adress: there is no such key"), "{error}");
    assert!(error.contains("address, names, frontend"), "{error}");
    let error = refused("[agent]\n");
    assert!(error.starts_with("muster.toml:1: agent: there is no such key"), "{error}");
    let error = refused("[[services]]\nname = \"a\"\nkind = \"noop\"\n[[services]]\nnmae = \"b\"\n");
    assert!(error.starts_with("muster.toml:5: services[1].nmae: there is no such key"), "{error}");
    let error = load("", &[("MUSTER_AGENTS_ADRESS", "x")], &Overrides::default()).unwrap_err();
    assert!(error.starts_with("environment variable MUSTER_AGENTS_ADRESS: agents: there is no such key"), "{error}");
}

#[test]
fn a_wrong_value_is_refused_where_it_was_said() {
    let error = refused("[limits]\nstream_life = \"soon\"\n");
    assert!(error.starts_with("muster.toml:2: limits.stream_life: a length of time is written like"), "{error}");
    let error = refused("[agents]\nstreaming = 3\n");
    assert!(error.starts_with("muster.toml:2: agents.streaming: "), "{error}");
    let error = refused("a = 1\na = 2\n");
    assert!(error.starts_with("muster.toml:2: this is not TOML"), "{error}");
    let error = load("", &[("MUSTER_ENROLMENT_PER_MINUTE", "many")], &Overrides::default()).unwrap_err();
    assert!(error.starts_with("environment variable MUSTER_ENROLMENT_PER_MINUTE: enrolment.per_minute: "), "{error}");
    let flags = Overrides { admin: Some("here".into()), ..Overrides::default() };
    let error = load("", &[], &flags).unwrap_err();
    assert!(error.starts_with("flag --admin: admin.address: an address is written like"), "{error}");
}

#[test]
fn a_door_that_would_be_open_to_all_is_refused() {
    for (text, key) in [
        ("[operators]\naddress = \"0.0.0.0:8080\"\n", "operators.address"),
        ("[admin]\naddress = \"[::]:9090\"\n", "admin.address"),
        ("[admin]\naddress = \"[::]:9090\"\ntoken = true\n", "admin.address"),
        ("[admin]\naddress = \"[::]:9090\"\ntls = true\n", "admin.address"),
        ("[agents]\nfrontend = \"https-header\"\n", "agents.proxies"),
        ("[agents]\nfrontend = \"cleartext-xfcc\"\n", "agents.proxies"),
        ("[agents]\nsignatures_required = true\n", "agents.signatures_required"),
    ] {
        let error = refused(text);
        assert!(error.contains(&format!(": {key}: ")), "{text}: {error}");
    }
    for text in [
        "[operators]\naddress = \"0.0.0.0:8080\"\ncertificate = \"/c\"\nkey = \"/k\"\n",
        "[admin]\naddress = \"[::]:9090\"\ntls = true\ntoken = true\n",
        "[admin]\naddress = \"[::]:9090\"\ntls = true\nclient_ca = \"/ca\"\n",
        "[agents]\nfrontend = \"https-header\"\nproxies = [\"10.0.0.9\"]\n",
        "[agents]\nsignature_authorities = \"/ca\"\nsignatures_required = true\n",
    ] {
        assert!(load(text, &[], &Overrides::default()).is_ok(), "{text}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let error = refused("[operators]\naddress = \"0.0.0.0:1\"\n[admin]\naddress = \"0.0.0.0:2\"\n");
    assert_eq!(error.lines().count(), 2, "{error}");
}

#[test]
fn services_need_what_their_kind_needs() {
    for (entry, key) in [
        ("kind = \"noop\"", "name"),
        ("name = \"system\"\nkind = \"noop\"", "name"),
        ("name = \"a\"\ninsecure = true", "target"),
        ("name = \"a\"\ntarget = \"h:1\"", "insecure"),
        ("name = \"a\"\nkind = \"spool\"", "directory"),
        ("name = \"a\"\nkind = \"noop\"\nparallelism = 0", "parallelism"),
    ] {
        let error = refused(&format!("[[services]]\n{entry}\n"));
        assert!(error.contains(&format!("services[0].{key}: ")), "{entry}: {error}");
    }
}

#[test]
fn the_defaults_are_those_of_the_engine() {
    let (ours, engine) = (Config::default(), muster_engine::EngineConfig::default());
    assert_eq!(ours.enrolment.per_minute, engine.enrolments_per_minute);
    assert_eq!(ours.retention.contacts.0, engine.contact_retention);
    assert_eq!(ours.retention.messages.0, engine.message_retention);
    assert_eq!(ours.limits.message_life.0, engine.message_life);
    assert_eq!(ours.limits.stream_life.0, engine.stream_life);
    assert_eq!(ours.limits.agent_messages_per_second, engine.agent_messages_per_second);
    assert_eq!(AgentTimes::of(ours.fleet.heartbeat.0, ours.fleet.timeout.0), engine.agent_times);
    assert_eq!(ours.fleet.statistics.0, engine.statistics_every);
    assert_eq!(
        (ours.retention.commands.0, ours.retention.results.0),
        (engine.command_retention, engine.result_retention)
    );
    assert_eq!(
        (ours.retention.sessions.0, ours.retention.statistics.0),
        (engine.session_retention, engine.statistics_retention)
    );
    assert_eq!(ours.spool.keep.0, muster_core::limits::SPOOL_KEEP);
    assert_eq!(Service::default().parallelism, muster_core::limits::SERVICE_PARALLELISM);
}

#[test]
fn times_that_do_not_go_together_are_refused() {
    let error = refused("[retention]\nresults = \"200d\"\n");
    assert!(error.starts_with("muster.toml:2: retention.results: 200d is longer"), "{error}");
    for text in ["[fleet]\nheartbeat = \"0s\"\n", "[fleet]\nstatistics = \"1s\"\n", "[spool]\nkeep = \"1s\"\n"] {
        assert!(refused(text).contains("is shorter than"), "{text}");
    }
}

#[test]
fn a_log_level_that_is_none_is_refused() {
    for level in ["warning", "loud", "", "info,loud", "muster_engine"] {
        let text = format!("data = \"d\"\n[logs]\nlevel = {level:?}\n");
        assert!(refused(&text).starts_with("muster.toml:3: logs.level: "), "{level}: {}", refused(&text));
    }
    Config::from_parts("[logs]\nlevel = \"info,muster_engine=debug\"\n", "a", [], &Overrides::default()).unwrap();
}

#[test]
fn what_differs_is_named_by_its_key_and_never_by_its_value() {
    let read = |text: &str| Config::from_parts(text, "test.toml", [], &Overrides::default()).unwrap();
    let one = read("[limits]\nmessage_life = \"1d\"\n");
    assert_eq!(one.differences(&one), Vec::<String>::new());
    let other = read(
        "database = \"postgresql://u:secret@db/x\"\n[logs]\nlevel = \"debug\"\n[[services]]\nname = \"a\"\nkind = \"noop\"\n",
    );
    assert_eq!(one.differences(&other), ["database", "limits.message_life", "logs.level", "services"]);
}
