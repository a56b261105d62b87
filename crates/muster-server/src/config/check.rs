//! What must go together, whatever each key says by itself.

use super::load::{ConfigError, ConfigErrors, Origins};
use super::{Config, Frontend, Listen, ProxyIdentity, Service, ServiceKind, Span};
use muster_core::label::LabelPattern;
use muster_core::text;
use std::collections::BTreeSet;
use std::time::Duration;

/// Names that services of the server may not take.
const TAKEN: [&str; 3] = [muster_core::system::SERVICE, muster_core::system::CLIENT, muster_core::system::MUSTER];

struct Findings<'a> {
    origins: &'a Origins,
    found: Vec<ConfigError>,
}

impl Findings<'_> {
    /// Notes that `key` is wrong, when it is.
    fn wrong_if(&mut self, wrong: bool, key: &str, why: impl Into<String>, advice: impl Into<String>) {
        if wrong {
            let origin = self.origins.of(key);
            self.found.push(ConfigError { origin, key: key.to_owned(), why: why.into(), advice: advice.into() });
        }
    }
}

/// Checks a configuration as a whole and finds everything at once.
pub(super) fn check(config: &Config, origins: &Origins) -> Result<(), ConfigErrors> {
    let mut findings = Findings { origins, found: Vec::new() };
    agents(config, &mut findings);
    operators(config, &mut findings);
    mig(config, &mut findings);
    admin(config, &mut findings);
    cluster(config, &mut findings);
    enrolment(config, &mut findings);
    times(config, &mut findings);
    services(&config.services, &mut findings);
    let empty = config.data.0.as_os_str().is_empty();
    findings.wrong_if(empty, "data", "the data directory is empty", "Name a directory, such as /var/lib/muster.");
    let closed = config.agents.address == Listen::Off
        && config.operators.address == Listen::Off
        && config.admin.address == Listen::Off
        && config.admin.socket.is_none();
    findings.wrong_if(closed, "operators.address", "every door is off", "Give at least one door an address.");
    let level = text::log_level(&config.logs.level).err();
    let advice = "Another word would silence the log.";
    findings.wrong_if(level.is_some(), "logs.level", level.unwrap_or_default(), advice);
    if findings.found.is_empty() { Ok(()) } else { Err(ConfigErrors(findings.found)) }
}

fn agents(config: &Config, findings: &mut Findings<'_>) {
    let agents = &config.agents;
    let header = agents.frontend.is_header();
    findings.wrong_if(
        header && agents.proxies.is_empty(),
        "agents.proxies",
        format!("the frontend {} believes a header, and nobody is named who may send it", agents.frontend.word()),
        "List the proxies by IP address or by sha256:… of their public key, or use the frontend \"mtls\".",
    );
    findings.wrong_if(
        agents.frontend == Frontend::Mtls && !agents.proxies.is_empty(),
        "agents.proxies",
        "proxies are named, but the frontend \"mtls\" believes none",
        "Remove them, or choose a frontend with a header.",
    );
    let by_key = agents.proxies.iter().any(|proxy| matches!(proxy, ProxyIdentity::Key(_)));
    findings.wrong_if(
        header && by_key && !agents.frontend.is_tls(),
        "agents.proxies",
        "a proxy without TLS shows no key",
        "Name it by its IP address, or choose a frontend with TLS.",
    );
    for (key, name, wanted) in [
        ("agents.certificate_header", &agents.certificate_header, header),
        ("agents.checksum_header", &agents.checksum_header, agents.frontend.has_checksum()),
    ] {
        let wrong = wanted && http::HeaderName::try_from(name.as_str()).is_err();
        findings.wrong_if(wrong, key, format!("{name:?} is not a header's name"), "Write one such as x-client-cert.");
    }
    findings.wrong_if(
        agents.signatures_required && agents.signature_authorities.is_none(),
        "agents.signatures_required",
        "signatures are demanded, and nobody is named whose signatures count",
        "Set agents.signature_authorities to a file with their certificates.",
    );
    pair("agents", agents.certificate.is_some(), agents.key.is_some(), findings);
    for (index, name) in agents.names.iter().enumerate() {
        let wrong = rustls::pki_types::ServerName::try_from(name.as_str()).is_err();
        findings.wrong_if(
            wrong,
            &format!("agents.names[{index}]"),
            format!("{name:?} is neither a host name nor an IP address"),
            "Write it without scheme and port.",
        );
    }
}

fn operators(config: &Config, findings: &mut Findings<'_>) {
    let operators = &config.operators;
    pair("operators", operators.certificate.is_some(), operators.key.is_some(), findings);
    findings.wrong_if(
        operators.address.is_public() && operators.certificate.is_none() && !operators.tls,
        "operators.address",
        format!("{} can be reached by others, who would see tokens pass in the clear", operators.address),
        "Set operators.tls = true, or operators.certificate and operators.key, or listen on 127.0.0.1.",
    );
}

fn mig(config: &Config, findings: &mut Findings<'_>) {
    let window = config.mig.token_duration;
    let wrong = !(Duration::from_secs(1)..=Duration::from_hours(1)).contains(&window.0);
    let advice = "Choose 1s to 1h: each token is remembered for twice as long.";
    findings.wrong_if(wrong, "mig.token_duration", format!("{window} is no time for that"), advice);
    if let Some(url) = &config.mig.public_url {
        let is_url = url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        let advice = "Write it like https://muster.example.org:8080.";
        findings.wrong_if(!is_url, "mig.public_url", "it is not a URL", advice);
    }
}

fn admin(config: &Config, findings: &mut Findings<'_>) {
    let admin = &config.admin;
    pair("admin", admin.certificate.is_some(), admin.key.is_some(), findings);
    let guarded = admin.tls && (admin.client_ca.is_some() || admin.token);
    findings.wrong_if(
        admin.address.is_public() && !guarded,
        "admin.address",
        format!("{} can be reached by others, who could give orders to every machine", admin.address),
        "Set admin.tls and one of admin.client_ca and admin.token, or listen on 127.0.0.1.",
    );
    findings.wrong_if(
        !admin.tls && (admin.client_ca.is_some() || admin.certificate.is_some()),
        "admin.tls",
        "certificates are given, but the door does not speak TLS",
        "Set admin.tls = true, or remove the certificates.",
    );
    let relative = admin.socket.as_ref().is_some_and(|path| !path.is_absolute());
    findings.wrong_if(relative, "admin.socket", "it is not an absolute path", "Write it like /run/muster/admin.sock.");
}

fn pair(section: &str, certificate: bool, key: bool, findings: &mut Findings<'_>) {
    let (missing, given) = if certificate { ("key", "certificate") } else { ("certificate", "key") };
    findings.wrong_if(
        certificate != key,
        &format!("{section}.{given}"),
        format!("it is of no use without {section}.{missing}"),
        "Give both or neither.",
    );
}

fn cluster(config: &Config, findings: &mut Findings<'_>) {
    let cluster = &config.cluster;
    let listen = config.cluster_listen();
    let alone = !config.database.is_shared() && (listen != Listen::Off || cluster.wake_url.is_some());
    findings.wrong_if(
        alone,
        "cluster.address",
        "several servers cannot share an embedded database",
        "Set database to a PostgreSQL URL, or leave the section out.",
    );
    if let Some(url) = &cluster.wake_url {
        let wrong = !url.starts_with("http://") && !url.starts_with("https://");
        findings.wrong_if(wrong, "cluster.wake_url", "it is not a URL", "Write it like http://10.0.0.7:4444/.");
    }
    let unspecified = listen.address().is_some_and(|address| address.ip().is_unspecified());
    findings.wrong_if(
        unspecified && cluster.wake_url.is_none(),
        "cluster.wake_url",
        "other servers cannot connect to an address that means all of this machine's",
        "Set it to the URL under which they reach this server.",
    );
}

fn enrolment(config: &Config, findings: &mut Findings<'_>) {
    let enrolment = &config.enrolment;
    let none = enrolment.policy == super::Policy::Label && enrolment.labels.is_empty();
    findings.wrong_if(none, "enrolment.labels", "the policy \"label\" lets nobody in without labels", "List some.");
    for (index, label) in enrolment.labels.iter().enumerate() {
        if let Err(error) = text::name("label", label) {
            findings.wrong_if(true, &format!("enrolment.labels[{index}]"), error.to_string(), "");
        }
        let pattern = label.strip_prefix(LabelPattern::PREFIX).map(LabelPattern::parse);
        if let Some(Err(error)) = pattern {
            findings.wrong_if(true, &format!("enrolment.labels[{index}]"), error, "");
        }
    }
}

fn times(config: &Config, findings: &mut Findings<'_>) {
    let least = [
        ("retention.contacts", config.retention.contacts, Duration::from_hours(1)),
        ("fleet.heartbeat", config.fleet.heartbeat, Duration::from_secs(1)),
        ("fleet.timeout", config.fleet.timeout, Duration::from_secs(1)),
        ("fleet.statistics", config.fleet.statistics, Duration::from_secs(10)),
        ("retention.commands", config.retention.commands, Duration::from_hours(1)),
        ("retention.results", config.retention.results, Duration::from_hours(1)),
        ("retention.sessions", config.retention.sessions, Duration::from_hours(1)),
        ("retention.statistics", config.retention.statistics, Duration::from_hours(1)),
        ("retention.messages", config.retention.messages, Duration::from_hours(1)),
        ("spool.keep", config.spool.keep, Duration::from_mins(1)),
        ("limits.message_life", config.limits.message_life, Duration::from_mins(1)),
        ("limits.stream_life", config.limits.stream_life, Duration::from_mins(1)),
    ];
    for (key, value, least) in least {
        let why = format!("{value} is shorter than {}", Span(least));
        findings.wrong_if(value.0 < least, key, why, "Choose a longer time.");
    }
    let (results, commands) = (config.retention.results, config.retention.commands);
    findings.wrong_if(
        results.0 > commands.0,
        "retention.results",
        format!("{results} is longer than the {commands} of retention.commands, with which they go"),
        "Choose a shorter time, or keep commands longer.",
    );
    let none = config.limits.wrong_tokens_per_minute == 0;
    findings.wrong_if(none, "limits.wrong_tokens_per_minute", "0 would shut everybody out", "Choose at least 1.");
}

fn services(services: &[Service], findings: &mut Findings<'_>) {
    let mut names = BTreeSet::new();
    for (index, service) in services.iter().enumerate() {
        let key = |name: &str| format!("services[{index}].{name}");
        if let Err(error) = text::name("a service's name", &service.name) {
            findings.wrong_if(true, &key("name"), error.to_string(), "Give each service a name.");
        }
        let taken = TAKEN.contains(&service.name.as_str());
        findings.wrong_if(taken, &key("name"), format!("{:?} is built in", service.name), "Choose another name.");
        let twice = !names.insert(service.name.as_str());
        findings.wrong_if(twice, &key("name"), format!("{:?} is there twice", service.name), "Choose another name.");
        findings.wrong_if(service.parallelism == 0, &key("parallelism"), "0 would stop it", "Choose at least 1.");
        let (grpc, spool) = (service.kind == ServiceKind::Grpc, service.kind == ServiceKind::Spool);
        let missing = grpc && service.target.as_deref().unwrap_or_default().is_empty();
        findings.wrong_if(missing, &key("target"), "a service of kind \"grpc\" needs one", "Write host:port.");
        findings.wrong_if(
            grpc && service.insecure == service.cert_file.is_some(),
            &key("insecure"),
            "a service of kind \"grpc\" needs either insecure = true or cert_file",
            "Set one of the two.",
        );
        let missing = spool && service.directory.is_none();
        findings.wrong_if(missing, &key("directory"), "a service of kind \"spool\" needs one", "Name a directory.");
    }
}
