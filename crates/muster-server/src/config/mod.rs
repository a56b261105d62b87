//! The configuration: one TOML file, environment variables over it, flags over both.
//!
//! Stays true: a key that is not known is refused wherever it comes from; every key is documented where it is defined,
//! and the sample file is made from that; an error names the file and line, the variable or the flag, says why, and
//! what to do. Not here: what the keys do (serve) and flags as such (the command line).

mod check;
pub mod files;
pub mod keys;
mod load;
mod text;
pub mod words;

pub use load::{ConfigError, ConfigErrors, Overrides, Purpose};
pub use words::{Database, Frontend, Listen, LocalCallers, LogFormat, Policy, ProxyIdentity, ServiceKind, Span};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Where `muster serve` looks for its configuration unless told.
pub const DEFAULT_FILE: &str = "/etc/muster/muster.toml";

/// Everything a server is told at its start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory of the server's own files.
    pub data: DataDir,
    /// Where everything is remembered.
    pub database: Database,
    /// An existing Fleetspeak services file.
    pub fleetspeak_services: Option<PathBuf>,
    /// The agents' door.
    pub agents: Agents,
    /// The operators' door.
    pub operators: Operators,
    /// MIG's API at the operators' door.
    pub mig: Mig,
    /// The admin door.
    pub admin: Admin,
    /// The door for other servers.
    pub cluster: Cluster,
    /// Who may become an agent.
    pub enrolment: Enrolment,
    /// How the fleet is looked at.
    pub fleet: Fleet,
    /// How long things are kept.
    pub retention: Retention,
    /// Ceilings that are worth setting.
    pub limits: Limits,
    /// Signed actions as files.
    pub spool: Spool,
    /// Log lines.
    pub logs: Logs,
    /// The metrics page.
    pub metrics: Metrics,
    /// Services of the server that take messages of agents.
    pub services: Vec<Service>,
}

/// The data directory; `/var/lib/muster` unless told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DataDir(pub PathBuf);

impl Default for DataDir {
    fn default() -> Self {
        keys::parse_default(TOP.keys[0].value)
    }
}

/// The keys that stand above all sections.
pub const TOP: keys::Section = keys::Section {
    name: "",
    doc: " Configuration of `muster serve`. Every key is here; what is not set has the value shown.\n",
    keys: &[
        keys::Key {
            section: "",
            name: "data",
            doc: " Directory of the server's own files: database, certificates, first token. Made with mode 0700.\n",
            value: "\"/var/lib/muster\"",
            is_default: true,
        },
        keys::Key {
            section: "",
            name: "database",
            doc: " Where everything is remembered. Empty: SQLite in muster.db in the data directory. For several servers:\n \
                  a URL such as postgresql://muster@db1,db2/muster?target_session_attrs=read-write.\n",
            value: "\"\"",
            is_default: true,
        },
        keys::Key {
            section: "",
            name: "fleetspeak_services",
            doc: " An existing Fleetspeak services file (text proto), read as it is, besides the services below.\n",
            value: "\"/etc/fleetspeak-server/server.services.config\"",
            is_default: false,
        },
    ],
};

/// All sections in the order of the sample file, the list of services last.
pub const SECTIONS: &[keys::Section] = &[
    TOP,
    Agents::SECTION,
    Operators::SECTION,
    Mig::SECTION,
    Admin::SECTION,
    Cluster::SECTION,
    Enrolment::SECTION,
    Fleet::SECTION,
    Retention::SECTION,
    Limits::SECTION,
    Spool::SECTION,
    Logs::SECTION,
    Metrics::SECTION,
    Service::SECTION,
];

keys::section!(
    /// The agents' door: TLS with the agent's own key, the Fleetspeak wire.
    Agents in "agents" {
        /// Where agents connect. "off" closes the door, for a server that only answers operators.
        address: Listen, default "\"0.0.0.0:4443\"";
        /// Names and addresses that agents use for this server; they go into its certificate, which is made again when
        /// they change. The machine's own name and localhost are always in it.
        names: Vec<String>, default "[]";
        /// Who supplies an agent's certificate: "mtls" (its own TLS), "https-header", "https-header-checksum",
        /// "cleartext-header", "cleartext-header-checksum" or "cleartext-xfcc" (a proxy in front; without TLS it may
        /// speak HTTP/2 at once).
        frontend: Frontend, default "\"mtls\"";
        /// Proxies that may speak for agents, for every frontend but "mtls": IP addresses, or sha256:… of a proxy's
        /// public key when the frontend is one with TLS. Everybody else is refused.
        proxies: Vec<ProxyIdentity>, default "[]";
        /// Header that carries the agent's certificate, for every frontend but "mtls".
        certificate_header: String, default "\"x-forwarded-client-cert\"";
        /// Header that carries the proxy's checksum of it, for the frontends with a checksum.
        checksum_header: String, default "\"x-forwarded-client-cert-checksum\"";
        /// Whether connections may start with a PROXY protocol header (version 1 or 2), as balancers send it.
        proxy_protocol: bool, default "false";
        /// Whether agents may hold streams. false: they poll.
        streaming: bool, default "true";
        /// Whether files are given out to agents without a certificate too.
        files_public: bool, default "false";
        /// Authorities (PEM) of extra signatures over contacts, which some builds of Fleetspeak's client send. What is
        /// found out about a signature goes to services with each message, as its validation.
        signature_authorities: Option<PathBuf>, example "\"/etc/muster/signers.pem\"";
        /// Whether a contact without a signature of these authorities is refused.
        signatures_required: bool, default "false";
        /// Certificate chain (PEM) for TLS, when the server shall not make its own. Read again when it changes.
        certificate: Option<PathBuf>, example "\"/etc/muster/agents.pem\"";
        /// Private key (PEM) of that certificate.
        key: Option<PathBuf>, example "\"/etc/muster/agents.key\"";
        /// Authority (PEM) that agents shall trust, with that certificate. Unset: the last certificate of the chain.
        authority: Option<PathBuf>, example "\"/etc/muster/agents-ca.pem\"";
    }
);

keys::section!(
    /// The operators' door: REST API, metrics and health.
    Operators in "operators" {
        /// Where operators connect. A public address needs a certificate.
        address: Listen, default "\"127.0.0.1:8080\"";
        /// Names by which programs reach an address of this machine alone without TLS, such as through a proxy that hands
        /// names on; besides localhost, this machine's own name and addresses. Other names are refused.
        names: Vec<String>, default "[]";
        /// Whether to speak TLS with a certificate of this server's own authority, which is made and renewed by itself, with
        /// agents.names and this machine's names: programs trust ca.pem of the data directory. Not needed with a
        /// certificate of your own below.
        tls: bool, default "false";
        /// Certificate chain (PEM) for TLS. A self-signed certificate will do: programs are given the same file to trust.
        certificate: Option<PathBuf>, example "\"/etc/muster/operators.pem\"";
        /// Private key (PEM) of that certificate.
        key: Option<PathBuf>, example "\"/etc/muster/operators.key\"";
    }
);

keys::section!(
    /// MIG's API under /mig/api/v1 of the operators' door, for MIG's own programs. Without an investigator nobody is let in.
    Mig in "mig" {
        /// Whether it is there.
        enabled: bool, default "true";
        /// How far the time in a signed token may be from this server's clock. Each token is believed once.
        token_duration: Span, default "\"10m\"";
        /// Whether a token is believed again for a request that only reads. MIG's programs make the same token twice when a
        /// person starts two of them within a second; whoever gets hold of a token can then read with it for as long.
        repeated_reads: bool, default "false";
        /// How programs reach the door, for the addresses in answers. Unset: as the request says.
        public_url: Option<String>, example "\"https://muster.example.org:8080\"";
    }
);

keys::section!(
    /// The admin door: Fleetspeak's admin gRPC, for fleetspeak-admin and GRR.
    Admin in "admin" {
        /// Where these programs connect. "off" closes it. A public address needs TLS, and client_ca or token.
        address: Listen, default "\"127.0.0.1:9090\"";
        /// Which accounts of this machine need no token, over a loopback address and at the socket below: "owner" (root and
        /// the account that the server runs as) or "anybody" (every account and whatever they run: each may give orders
        /// to every machine).
        local: LocalCallers, default "\"owner\"";
        /// A Unix socket at which these programs connect too, as unix:/run/muster/admin.sock. Unset: there is none.
        socket: Option<PathBuf>, example "\"/run/muster/admin.sock\"";
        /// Whether the door speaks TLS, with the certificate below or else the one of the agents' door.
        tls: bool, default "false";
        /// Certificate chain (PEM) for TLS.
        certificate: Option<PathBuf>, example "\"/etc/muster/admin.pem\"";
        /// Private key (PEM) of that certificate.
        key: Option<PathBuf>, example "\"/etc/muster/admin.key\"";
        /// Authority (PEM) whose client certificates are let in; only with TLS.
        client_ca: Option<PathBuf>, example "\"/etc/muster/admin-clients.pem\"";
        /// Whether each call must carry `authorization: Bearer …` with a token as for the REST API.
        token: bool, default "false";
    }
);

keys::section!(
    /// Other servers on the same PostgreSQL database.
    Cluster in "cluster" {
        /// A door for other servers, which wake this one there when they stored a message for one of its streams.
        /// Unset, with PostgreSQL: they use the agents' door. Where that door has no TLS of this server's own
        /// authority (a frontend without TLS, a certificate from files) or wants a PROXY header: a free port of
        /// 127.0.0.1, which serves for servers on one machine. The door is plain HTTP and may stand in a network that
        /// others see: each wake-up carries an authenticator made with a secret from the database, is for one server,
        /// and is believed once. "off": streams find their messages within seconds all the same.
        address: Option<Listen>, example "\"10.0.0.7:4444\"";
        /// The URL under which other servers reach this one, and no other. Unset: http:// and the address above, or
        /// https:// and the address of the agents' door. For https:// they trust the authority of the database, and that
        /// of agents.certificate.
        wake_url: Option<String>, example "\"http://10.0.0.7:4444/\"";
    }
);

impl Config {
    /// Returns the keys, as `section.key`, in which another configuration says something else.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let plain = |config: &Self| serde_json::to_value(config).expect("a configuration is plain values");
        let mut keys = Vec::new();
        differences(String::new(), &plain(self), &plain(other), &mut keys);
        keys
    }

    /// Where a door for other servers only is opened.
    pub fn cluster_listen(&self) -> Listen {
        let free = || Listen::At(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let is_wanted = self.database.is_shared() && !self.is_woken_at_agents_door();
        self.cluster.address.unwrap_or_else(|| if is_wanted { free() } else { Listen::Off })
    }

    /// Whether other servers wake this one at its agents' door: nothing else is said, and they can trust it.
    pub fn is_woken_at_agents_door(&self) -> bool {
        let agents = &self.agents;
        let is_trusted = agents.frontend.is_tls() && agents.certificate.is_none() && !agents.proxy_protocol;
        self.database.is_shared() && self.cluster.address.is_none() && agents.address != Listen::Off && is_trusted
    }
}

keys::section!(
    /// Who may become an agent.
    Enrolment in "enrolment" {
        /// "open" (every key), "token" (an enrolment token), "label" (one of the labels below), "approval" (waits until
        /// somebody approves it) or "closed" (only machines known already).
        policy: Policy, default "\"open\"";
        /// Labels of which a machine must claim one, under the policy "label"; "re:" begins a regular expression that must
        /// fit all of a label.
        labels: Vec<String>, default "[]";
        /// New machines per minute from one network (an IPv4 /24 or an IPv6 /64). 0: no limit.
        per_minute: u32, default "600";
        /// A label that every contact must claim, known machine or not (Fleetspeak's required_label). Empty: none.
        required_label: String, default "\"\"";
    }
);

keys::section!(
    /// How the fleet is looked at. Servers of one database need the same times: they are kept there.
    Fleet in "fleet" {
        /// How often an agent is heard of at least. After five times this without a sign, it is idle.
        heartbeat: Span, default "\"5m\"";
        /// After how long without a sign an agent that is idle is offline, and no target of actions that are not
        /// standing; 87 seconds after it became idle at the earliest.
        timeout: Span, default "\"20m\"";
        /// How often the fleet is counted: online, idle, new, double, flapping and disappeared machines.
        statistics: Span, default "\"5m\"";
    }
);

keys::section!(
    /// How long things are kept; older rows are deleted in small batches.
    Retention in "retention" {
        /// Contacts and usage records.
        contacts: Span, default "\"14d\"";
        /// Messages that are done, failed or parked.
        messages: Span, default "\"15d\"";
        /// Commands, each a machine's copy of an action, once the action is done with. Actions stay for good.
        commands: Span, default "\"180d\"";
        /// What came back of them; not longer than the commands.
        results: Span, default "\"180d\"";
        /// Sessions, each a run of an agent, that ended.
        sessions: Span, default "\"30d\"";
        /// Statistics of the fleet.
        statistics: Span, default "\"30d\"";
    }
);

keys::section!(
    /// Ceilings that are worth setting.
    Limits in "limits" {
        /// How long a message waits for its addressee before it is parked, unless it says itself.
        message_life: Span, default "\"30d\"";
        /// How long a stream lives before the agent is asked to open a new one.
        stream_life: Span, default "\"10m\"";
        /// Messages per second that one agent may send, with bursts of ten times as many. 0: no limit.
        agent_messages_per_second: u32, default "0";
        /// Wrong tokens a minute from one address at the operators' door, before it is answered 429. Tokens that are right
        /// are let in all the same.
        wrong_tokens_per_minute: u32, default "30";
    }
);

keys::section!(
    /// Signed actions as files: dropped into action/new they are launched, and files show how actions stand.
    Spool in "spool" {
        /// The directory; each server needs one of its own. Unset: there is none. It is made if need be, with mode 0750;
        /// whoever may write to action/new may launch what is signed.
        directory: Option<PathBuf>, example "\"/var/spool/muster/actions\"";
        /// How long files of actions that are done with stay, and refused files.
        keep: Span, default "\"72h\"";
        /// Whether each machine's copy of an action has a file too, below command/.
        commands: bool, default "false";
    }
);

keys::section!(
    /// Log lines, on standard error. They never hold bodies or secrets.
    Logs in "logs" {
        /// "text" for people, "json" for programs.
        format: LogFormat, default "\"text\"";
        /// What is logged: "error", "warn", "info", "debug", "trace", or directives such as "info,muster_engine=debug".
        level: String, default "\"info\"";
    }
);

keys::section!(
    /// The page /metrics of the operators' door.
    Metrics in "metrics" {
        /// Whether the page needs a token like the rest of the API.
        token: bool, default "false";
    }
);

keys::section!(
    /// A service of the server that takes messages of agents; repeat the section for each.
    Service in "services" {
        /// Its name, which agents address. `system`, `client` and `muster` are taken.
        name: String, default "\"\"";
        /// "grpc" (a program that speaks fleetspeak.grpcservice.Processor), "noop" (takes and forgets) or "spool"
        /// (writes messages as JSON lines into a directory).
        kind: ServiceKind, default "\"grpc\"";
        /// host:port of the program, for "grpc".
        target: Option<String>, example "\"localhost:9191\"";
        /// Whether to speak to it without TLS, for "grpc".
        insecure: bool, default "false";
        /// Authority (PEM) that its certificate must be from, for "grpc" with TLS.
        cert_file: Option<PathBuf>, example "\"/etc/muster/service-ca.pem\"";
        /// The directory, for "spool".
        directory: Option<PathBuf>, example "\"/var/spool/muster/service\"";
        /// Calls under way at once, at most.
        parallelism: u32, default "100";
    }
);

/// Notes below which keys two objects differ.
fn differences(path: String, one: &Value, other: &Value, keys: &mut Vec<String>) {
    let (Value::Object(one), Value::Object(other)) = (one, other) else {
        if one != other {
            keys.push(path);
        }
        return;
    };
    let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    for name in names {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let of = |object: &serde_json::Map<String, Value>| object.get(name).cloned().unwrap_or_default();
        differences(path, &of(one), &of(other), keys);
    }
}

#[cfg(test)]
mod tests;
