//! netstat: a machine's addresses, its neighbours, whom it is connected with and which ports it listens on.
//!
//! Stays true: only the kernel's tables are read, no packet is sent. An address of version 4 that a socket of version 6
//! shows is one of version 4.

mod addresses;
mod rows;
mod tables;

use crate::arguments::{ArgumentError, Flag, Given};
use crate::gotext;
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Typed};
use crate::pattern;
use crate::result::ModuleResult;
use crate::sandbox::Needs;
use addresses::Range;
use muster_core::limits::SEARCH_VALUES_MAX;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;
use tables::{Machine, Socket};

pub(crate) struct Netstat;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Parameters {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    localmac: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    localip: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    neighbormac: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    neighborip: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    connectedip: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listeningport: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    namespaces: bool,
}

/// For each value that was asked for, what matches; `null` when nothing does, as MIG writes it.
type Found = BTreeMap<String, Option<Vec<Element>>>;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Elements {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    localmac: Found,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    localip: Found,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    neighbormac: Found,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    neighborip: Found,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    connectedip: Found,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    listeningport: Found,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Element {
    #[serde(skip_serializing_if = "String::is_empty")]
    localmacaddr: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    remotemacaddr: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    localaddr: String,
    #[serde(skip_serializing_if = "is_zero")]
    localport: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    remoteaddr: String,
    #[serde(skip_serializing_if = "is_zero")]
    remoteport: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    /// What is said of a neighbour that is not complete, or of a socket in a state that is not known here.
    #[serde(skip_serializing_if = "String::is_empty")]
    state: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands in a reference")]
fn is_zero(port: &u16) -> bool {
    *port == 0
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Statistics {
    examined: u64,
    exectime: String,
    totalhits: u64,
}

impl Typed for Netstat {
    type Parameters = Parameters;
    const INFO: ModuleInfo = ModuleInfo {
        name: "netstat",
        summary: "addresses, neighbours, connections and listening ports",
        weight_min: 1,
        effect: Effect::Reads,
        privilege: Privilege::ReadProcesses,
        needs: Needs::PROCESSES,
    };
    const EXAMPLE: &'static str = "-lp 22 -ci 192.0.2.0/24";
    const FLAGS: &'static [Flag] = &[
        Flag::texts("lm", "REGEX", "a hardware address of this machine matches"),
        Flag::texts("nm", "REGEX", "the hardware address of a neighbour matches"),
        Flag::texts("li", "IP|CIDR", "an address of this machine is this, or within this"),
        Flag::texts("ni", "IP|CIDR", "the address of a neighbour is this, or within this"),
        Flag::texts("ci", "IP|CIDR", "the machine is connected with this, or with one within this"),
        Flag::texts("lp", "PORT", "the machine listens on this port, tcp or udp"),
        Flag::switch("namespaces", "look into all network namespaces"),
    ];

    fn from_flags(given: &Given) -> Result<Parameters, ArgumentError> {
        let [localmac, neighbormac, localip] = ["lm", "nm", "li"].map(|flag| given.texts(flag));
        let [neighborip, connectedip, listeningport] = ["ni", "ci", "lp"].map(|flag| given.texts(flag));
        let namespaces = given.is_on("namespaces");
        Ok(Parameters { localmac, localip, neighbormac, neighborip, connectedip, listeningport, namespaces })
    }

    fn validate(parameters: &Parameters) -> Result<(), Refused> {
        let Parameters { localmac, localip, neighbormac, neighborip, connectedip, listeningport, .. } = parameters;
        let kinds = [localmac, localip, neighbormac, neighborip, connectedip, listeningport];
        if kinds.iter().all(|values| values.is_empty()) {
            let why = "without a check nothing is found: give an address, a hardware address or a port to look for";
            return Err(Refused(why.to_owned()));
        }
        for values in kinds {
            if values.len() > SEARCH_VALUES_MAX {
                return Err(Refused(format!("there are more than {SEARCH_VALUES_MAX} values of one kind")));
            }
        }
        for value in localmac.iter().chain(neighbormac) {
            pattern::compile(value).map_err(|why| {
                let must = "Must be a valid regular expression.";
                Refused(format!("Invalid MAC regexp '{value}'. Compilation failed with '{why}'. {must}"))
            })?;
        }
        localip.iter().chain(neighborip).chain(connectedip).try_for_each(|value| Range::parse(value).map(drop))?;
        for value in neighborip {
            if Range::parse(value)?.is_of_version_6() {
                return Err(Refused(format!(
                    "neighbours are known by addresses of version 4 alone, which {value} is not"
                )));
            }
        }
        listeningport.iter().try_for_each(|value| port(value).map(drop))
    }

    fn answer(parameters: Parameters, context: &Context) -> Result<ModuleResult, Refused> {
        let begun = Instant::now();
        let mut machine = Machine::read(&parameters, context);
        let mut elements = Elements::default();
        for value in parameters.localmac {
            let wanted = pattern::compile_any_case(&value).map_err(Refused)?;
            let found = machine.hardware(|address| wanted.is_match(address));
            elements.localmac.insert(value, found);
        }
        for value in parameters.localip {
            let range = Range::parse(&value)?;
            let found = machine.addresses(|address| range.contains(address));
            elements.localip.insert(value, found);
        }
        for value in parameters.neighbormac {
            let wanted = pattern::compile_any_case(&value).map_err(Refused)?;
            let found = machine.neighbours(|neighbour| wanted.is_match(&neighbour.hardware));
            elements.neighbormac.insert(value, found);
        }
        for value in parameters.neighborip {
            let range = Range::parse(&value)?;
            let found = machine.neighbours(|neighbour| range.contains(neighbour.address));
            elements.neighborip.insert(value, found);
        }
        for value in parameters.connectedip {
            let range = Range::parse(&value)?;
            let found = machine.sockets(|socket| {
                (socket.may_be_connected() && range.contains(socket.remote.ip())).then(|| socket.connection())
            });
            elements.connectedip.insert(value, found);
        }
        for value in parameters.listeningport {
            let port = port(&value)?;
            let found = machine
                .sockets(|socket| (socket.may_listen() && socket.local.port() == port).then(|| socket.listener()));
            elements.listeningport.insert(value, found);
        }
        let statistics = Statistics {
            examined: machine.examined,
            exectime: gotext::duration(begun.elapsed()),
            totalhits: machine.hits,
        };
        let result = ModuleResult::ran(machine.hits > 0, elements, statistics).with_cuts(machine.cuts);
        Ok(ModuleResult { success: machine.unread == 0, ..result }.with_errors(machine.errors))
    }

    fn lines(result: &ModuleResult, lines: Lines) -> Vec<String> {
        let elements: Elements = serde_json::from_value(result.elements.clone()).unwrap_or_default();
        let mut out = Vec::new();
        let kinds = [
            ("localmac", &elements.localmac),
            ("neighbormac", &elements.neighbormac),
            ("localip", &elements.localip),
            ("neighborip", &elements.neighborip),
            ("connectedip", &elements.connectedip),
            ("listeningport", &elements.listeningport),
        ];
        for (kind, found) in kinds {
            for (value, found) in found {
                let found = found.as_deref().unwrap_or_default();
                out.extend(found.iter().map(|element| format!("{} for netstat {kind}:'{value}'", element.text(kind))));
                if found.is_empty() && lines == Lines::All {
                    out.push(format!("did not find anything for netstat {kind}:'{value}'"));
                }
            }
        }
        if lines == Lines::All {
            out.extend(result.errors().iter().map(|error| format!("error: {error}")));
            let Statistics { examined, exectime, totalhits } =
                serde_json::from_value(result.statistics.clone()).unwrap_or_default();
            out.push(format!("Statistics: total hits {totalhits} examined {examined} items exectime {exectime}"));
        }
        out
    }
}

impl Element {
    fn text(&self, kind: &str) -> String {
        let Self { localmacaddr, remotemacaddr, localaddr, localport, remoteaddr, remoteport, namespace, state } = self;
        let mut behind = if state.is_empty() { String::new() } else { format!(" ({state})") };
        if !matches!(namespace.as_str(), "" | tables::DEFAULT_NAMESPACE) {
            behind.push_str(" in namespace ");
            behind.push_str(namespace);
        }
        match kind {
            "localmac" => format!("found local mac {localmacaddr}"),
            "neighbormac" => format!("found neighbor mac {remotemacaddr} {remoteaddr}{behind}"),
            "localip" => format!("found local ip {localaddr}"),
            "neighborip" => format!("found neighbor ip {remoteaddr} {remotemacaddr}{behind}"),
            "connectedip" => {
                let local = format!("{localaddr}:{localport}");
                format!("found connected tuple {remoteaddr}:{remoteport} with local tuple {local}{behind}")
            }
            _ => format!("found listening port {localport}{behind}"),
        }
    }
}

impl Socket {
    fn listener(&self) -> Element {
        let (localaddr, localport) = (self.local.ip().to_string(), self.local.port());
        let (namespace, state) = (self.namespace.to_string(), self.odd_state());
        Element { localaddr, localport, namespace, state, ..Element::default() }
    }

    fn connection(&self) -> Element {
        let (remoteaddr, remoteport) = (self.remote.ip().to_string(), self.remote.port());
        Element { remoteaddr, remoteport, ..self.listener() }
    }
}

fn port(value: &str) -> Result<u16, Refused> {
    let number: i64 = value.parse().map_err(|_| {
        let shown: String = value.chars().take(64).collect();
        Refused(format!("{shown} is not a valid port"))
    })?;
    u16::try_from(number).map_err(|_| Refused("port out of range. must be between 1 and 65535".to_owned()))
}

#[cfg(test)]
mod tests;
