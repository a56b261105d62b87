//! Fleetspeak's own configuration files, taken as ours, once, for a move.
//!
//! Stays true: what has no counterpart is said, never passed over; what cannot be taken over costs itself only. Not here:
//! reading the services file at each start (`services`), which takes all or nothing.

pub mod mig;

use crate::Config;
use crate::config::{Frontend, Listen, LocalCallers, Service, ServiceKind};
use crate::services::{self, GrpcSecurity, ServiceSetupError, ServiceSpec};
use muster_proto::text::{self, TextError};
use muster_proto::wire::components;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Why a file of Fleetspeak was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The components file cannot be read.
    #[error("the components file cannot be read")]
    Components(#[source] TextError),
    /// The services file cannot be read.
    #[error("the services cannot be taken over")]
    Services(#[source] ServiceSetupError),
}

impl ImportError {
    /// Which of the two files it is about.
    pub fn file(&self) -> &'static str {
        match self {
            Self::Components(_) => "the components file",
            Self::Services(_) => "the services file",
        }
    }
}

/// Makes sure that nobody but root and this process's user could lead what is written to `path` elsewhere, by a link in the
/// place of a directory on the way to it. Whoever gives what is written to another account asks first.
///
/// # Errors
/// What others could exchange, and what to do about it.
pub fn way_check(path: &Path) -> Result<(), muster_modules::place::PlaceError> {
    muster_modules::place::way_check(path)
}

/// What two files of Fleetspeak say, as a configuration, and what it cannot say.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The configuration. It may still want something, such as the names of proxies.
    pub config: Config,
    /// Files that the configuration names and that must be written, for their owner only: certificate and key.
    pub files: Vec<ImportedFile>,
    /// What to look at, each a sentence.
    pub notes: Vec<String>,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedFile {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub text: String,
}

fn service(spec: ServiceSpec) -> Service {
    let parallelism = if spec.parallelism == 0 { Service::default().parallelism } else { spec.parallelism };
    let service = Service { name: spec.name, parallelism, ..Service::default() };
    match spec.kind {
        services::ServiceKind::Noop => Service { kind: ServiceKind::Noop, ..service },
        services::ServiceKind::Spool { directory, .. } => {
            Service { kind: ServiceKind::Spool, directory: Some(directory), ..service }
        }
        services::ServiceKind::Grpc { target, security } => {
            let (insecure, cert_file) = match security {
                GrpcSecurity::Insecure => (true, None),
                GrpcSecurity::Tls { authority } => (false, Some(authority)),
            };
            Service { kind: ServiceKind::Grpc, target: Some(target), insecure, cert_file, ..service }
        }
    }
}

/// Reads both files of a Fleetspeak server. The server's certificate and key stand inside the first; they become files
/// of `directory`.
pub fn fleetspeak(components_text: &str, services_text: &str, directory: &Path) -> Result<Imported, ImportError> {
    let (from, unknown): (components::Config, _) =
        text::parse_known("fleetspeak.components.Config", components_text).map_err(ImportError::Components)?;
    let mut imported = Imported { config: Config::default(), files: Vec::new(), notes: Vec::new() };
    imported.notes.extend(unknown.into_iter().map(|what| format!("the components file has {what}: it is left out")));
    let found = services::read_fleetspeak_known(services_text).map_err(ImportError::Services)?;
    imported.notes.extend(found.notes);
    imported.config.services = found.services.into_iter().map(service).collect();
    database(&from, &mut imported);
    agents(&from, directory, &mut imported);
    admin(&from, &mut imported);
    imported.config.enrolment.required_label = from.required_label;
    enrolment(&mut imported);
    if from.stats_config.is_some() || from.health_check_config.is_some() {
        imported.note("statistics and health are at /metrics, /healthz and /readyz of the operators' door");
    }
    Ok(imported)
}

impl Imported {
    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Reads an address of Go's form, in which the host may be missing or a name.
    fn address(&mut self, what: &str, text: &str) -> Option<Listen> {
        let (host, port) = text.rsplit_once(':')?;
        let all = Ipv4Addr::UNSPECIFIED;
        let parsed: Option<SocketAddr> = match (host, port.parse::<u16>()) {
            ("", Ok(port)) => Some((all, port).into()),
            ("localhost", Ok(port)) => Some((Ipv4Addr::LOCALHOST, port).into()),
            _ => text.parse().ok(),
        };
        if parsed.is_none() {
            self.note(format!("{what}: {text:?} is not an IP address and a port; set it by hand"));
        }
        parsed.map(Listen::At)
    }
}

fn database(from: &components::Config, imported: &mut Imported) {
    if !from.mysql_data_source_name.is_empty() || from.spanner_config.is_some() {
        imported.note(
            "the old database is not taken over: machines enrol again by themselves, with the same ids, because their \
             keys stay; set `database` for PostgreSQL",
        );
    }
    if !from.notification_listen_address.is_empty() || !from.notification_public_address.is_empty() {
        imported.note("several servers need a PostgreSQL database and the section [cluster] on each");
    }
}

/// Fleetspeak lets every machine enrol as fast as it comes, and all of them come at the move.
fn enrolment(imported: &mut Imported) {
    imported.config.enrolment.per_minute = 0;
    imported.note(
        "enrolment.per_minute is 0, without a limit: every machine enrols again at its first contact, and behind one \
         address that would be too many at once. Set a limit when the move is over, such as 600",
    );
}

fn agents(from: &components::Config, directory: &Path, imported: &mut Imported) {
    let Some(https) = &from.https_config else {
        imported.config.agents.address = Listen::Off;
        imported.note("there is no https_config, so the agents' door is off");
        return;
    };
    if let Some(address) = imported.address("https_config.listen_address", &https.listen_address) {
        imported.config.agents.address = address;
    }
    imported.config.agents.streaming = !https.disable_streaming;
    imported.config.agents.files_public = !https.enable_file_server_authorization;
    imported.config.agents.proxy_protocol = from.proxy_protocol;
    if let Some(frontend) = https.frontend_config.as_ref().and_then(|config| config.frontend_mode.as_ref()) {
        frontend_mode(frontend, imported);
    }
    let is_filled = |text: &str| text.contains("-----BEGIN ");
    let is_given = !https.certificates.is_empty() || !https.key.is_empty();
    if is_given && !(is_filled(&https.certificates) && is_filled(&https.key)) {
        imported.note(
            "https_config.certificates and https_config.key hold no certificate and key, as in a template that was never \
             filled in: this server makes its own, and machines must be given its authority to trust",
        );
    } else if is_given {
        let mut file = |name: &str, text: &str| {
            let path = directory.join(name);
            imported.files.push(ImportedFile { path: path.clone(), text: text.to_owned() });
            Some(path)
        };
        imported.config.agents.certificate = file("agents.pem", &https.certificates);
        imported.config.agents.key = file("agents.key", &https.key);
        imported.note(
            "the server's certificate is taken over, so that machines trust this server as they did the old one; it is \
             not renewed by itself. Set agents.authority to the file of the authority that machines trust (its \
             trusted_cert_file), for new agents",
        );
    }
}

fn frontend_mode(mode: &components::frontend_config::FrontendMode, imported: &mut Imported) {
    use components::frontend_config::FrontendMode as Mode;
    let (frontend, header, checksum) = match mode {
        Mode::MtlsConfig(_) => return,
        Mode::HttpsHeaderConfig(c) => (Frontend::HttpsHeader, &c.client_certificate_header, None),
        Mode::HttpsHeaderChecksumConfig(c) => {
            (Frontend::HttpsHeaderChecksum, &c.client_certificate_header, Some(&c.client_certificate_checksum_header))
        }
        Mode::CleartextHeaderConfig(c) => (Frontend::CleartextHeader, &c.client_certificate_header, None),
        Mode::CleartextHeaderChecksumConfig(c) => (
            Frontend::CleartextHeaderChecksum,
            &c.client_certificate_header,
            Some(&c.client_certificate_checksum_header),
        ),
        Mode::CleartextXfccConfig(c) => (Frontend::CleartextXfcc, &c.client_certificate_header, None),
    };
    imported.config.agents.frontend = frontend;
    imported.config.agents.certificate_header.clone_from(header);
    if let Some(checksum) = checksum {
        imported.config.agents.checksum_header.clone_from(checksum);
    }
    imported.note("agents.proxies must name the proxies that may speak for agents; nobody else is believed");
}

fn admin(from: &components::Config, imported: &mut Imported) {
    let Some(admin) = &from.admin_config else {
        imported.config.admin.address = Listen::Off;
        return;
    };
    let Some(address) = imported.address("admin_config.listen_address", &admin.listen_address) else { return };
    imported.config.admin.address = address;
    if !address.is_public() {
        imported.config.admin.local = LocalCallers::Anybody;
        imported.note(
            "admin.local is \"anybody\", as it was: every account of this machine, and every program that it runs, may give \
             orders to every machine. Where the programs that use it (fleetspeak-admin, GRR) run as root or as the account \
             of this server, or bring a token, take the line out",
        );
    }
    if address.is_public() {
        imported.note("admin.address can be reached by others: set admin.tls and admin.token or admin.client_ca");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: &str = r#"
        services {
          name: "GRR" factory: "GRPC" max_parallelism: 7
          config { [type.googleapis.com/fleetspeak.grpcservice.Config] { target: "localhost:11111" insecure: true } }
        }
        services { name: "Sink" factory: "NOOP" }
    "#;
    const COMPONENTS: &str = r#"
        mysql_data_source_name: "u:p@tcp(localhost:3306)/fleetspeak"
        required_label: "prod"
        https_config {
          listen_address: ":4443" certificates: "-----BEGIN CERTIFICATE-----" key: "-----BEGIN PRIVATE KEY-----" disable_streaming: true
          frontend_config { cleartext_header_checksum_config {
            client_certificate_header: "x-cert" client_certificate_checksum_header: "x-sum" } }
        }
        admin_config { listen_address: "localhost:4444" }
        stats_config { address: "localhost:8081" }
    "#;

    fn read(components: &str, services: &str) -> Result<Imported, ImportError> {
        fleetspeak(components, services, Path::new("/etc/muster"))
    }

    #[test]
    fn services_keep_their_names_targets_and_ceilings() {
        let services = read("", SERVICES).unwrap().config.services;
        assert_eq!((services[0].name.as_str(), services[0].parallelism), ("GRR", 7));
        assert_eq!((services[0].target.as_deref(), services[0].insecure), (Some("localhost:11111"), true));
        assert_eq!((services[1].kind, services[1].parallelism), (ServiceKind::Noop, 100));
    }

    #[test]
    fn a_service_that_cannot_be_had_costs_itself_only() {
        let services = format!("{SERVICES} services {{ name: \"P\" factory: \"CPS\" }}");
        let imported = read("", &services).unwrap();
        assert_eq!(imported.config.services.len(), 2);
        let note = imported.notes.iter().find(|note| note.contains("\"P\"")).unwrap();
        assert!(note.contains("CPS") && note.contains("no destination"), "{note}");
        assert_eq!(read("https_config {", SERVICES).unwrap_err().file(), "the components file");
        assert_eq!(read("", "services {").unwrap_err().file(), "the services file");
    }

    #[test]
    fn a_move_meets_no_limit_of_machines_and_says_who_may_give_orders() {
        let Imported { config, notes, .. } = read(COMPONENTS, SERVICES).unwrap();
        assert_eq!(config.enrolment.per_minute, 0);
        assert_eq!(config.admin.local, LocalCallers::Anybody);
        for wanted in ["enrolment.per_minute is 0", "admin.local is \"anybody\""] {
            assert!(notes.iter().any(|note| note.contains(wanted)), "{wanted}: {notes:?}");
        }
    }

    /// A file of the case, as it came from the field.
    fn case_19(name: &str) -> String {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cases/19-fleetspeak-configs");
        std::fs::read_to_string(cases.join(name)).unwrap()
    }

    #[test]
    fn case_19_configurations_as_people_have_them_are_taken_over() {
        let usual = case_19("services-usual.textproto");
        let has = |imported: &Imported, wanted: &str| imported.notes.iter().any(|note| note.contains(wanted));
        let placeholder = read(&case_19("components-placeholder.textproto"), &usual).unwrap();
        assert!(placeholder.files.is_empty() && placeholder.config.agents.certificate.is_none());
        assert!(has(&placeholder, "never filled in"), "{:?}", placeholder.notes);
        let newer = read(&case_19("components-unknown-field.textproto"), &usual).unwrap();
        assert_eq!(newer.config.agents.address.to_string(), "127.0.0.1:9090");
        assert!(has(&newer, "something_newer"), "{:?}", newer.notes);
        let mixed = read(&case_19("components-mixed.textproto"), &usual).unwrap();
        assert_eq!(mixed.config.admin.address.to_string(), "[::1]:9091");
        for (name, services, note) in [
            ("services-bom-crlf.textproto", &["Bom"][..], ""),
            ("services-empty.textproto", &[], ""),
            (
                "services-misspelt-type.textproto",
                &["GRR"],
                "fleetspeak.grpcservce.Config, which is taken for fleetspeak.grpcservice.Config",
            ),
            ("services-odd-names.textproto", &["with blank"], "\"system\": this name is built in"),
            ("services-twice.textproto", &["GRR"], "configured twice"),
            ("services-usual.textproto", &["GRR", "Nothing"], ""),
        ] {
            let imported = read("", &case_19(name)).unwrap();
            let names: Vec<_> = imported.config.services.iter().map(|service| service.name.as_str()).collect();
            assert_eq!(names, services, "{name}: {:?}", imported.notes);
            assert!(note.is_empty() || has(&imported, note), "{name}: {:?}", imported.notes);
            let text = imported.config.to_text();
            let again = Config::from_parts(&text, "x", [], &crate::config::Overrides::default()).unwrap();
            assert_eq!(again, imported.config, "{name}");
        }
    }

    #[test]
    fn both_files_become_a_configuration_and_notes() {
        let Imported { config, files, notes } = read(COMPONENTS, SERVICES).unwrap();
        assert_eq!(config.agents.certificate.as_deref(), Some(Path::new("/etc/muster/agents.pem")));
        assert_eq!(
            files[1],
            ImportedFile { path: "/etc/muster/agents.key".into(), text: "-----BEGIN PRIVATE KEY-----".into() }
        );
        assert_eq!(config.agents.address.to_string(), "0.0.0.0:4443");
        assert_eq!(config.admin.address.to_string(), "127.0.0.1:4444");
        assert_eq!(config.enrolment.required_label, "prod");
        assert!(!config.agents.streaming && config.agents.files_public);
        assert_eq!(config.agents.frontend, Frontend::CleartextHeaderChecksum);
        assert_eq!(
            (config.agents.certificate_header.as_str(), config.agents.checksum_header.as_str()),
            ("x-cert", "x-sum")
        );
        assert_eq!(config.services.len(), 2);
        for wanted in ["database", "certificate", "agents.proxies", "/metrics"] {
            assert!(notes.iter().any(|note| note.contains(wanted)), "{wanted}: {notes:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let plain = r#"https_config { listen_address: "0.0.0.0:4443" enable_file_server_authorization: true }"#;
        let config = read(plain, SERVICES).unwrap().config;
        let again = Config::from_parts(&config.to_text(), "x", [], &crate::config::Overrides::default()).unwrap();
        assert_eq!(again, config);
    }
}
