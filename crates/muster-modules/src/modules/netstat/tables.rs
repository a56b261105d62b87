//! The kernel's tables: interfaces, neighbours and sockets, of one network namespace or of all.

use super::{Element, Parameters};
use crate::gotext;
use crate::module::Context;
use muster_core::limits::MODULE_FOUND_MAX;
use procfs::net::{ArpEntries, TcpNetEntries, TcpState, UdpNetEntries, UdpState};
use procfs::{FromRead as _, FromReadSI as _, ProcError};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use sysinfo::Networks;

/// What MIG calls the namespace the agent is in.
pub(super) const DEFAULT_NAMESPACE: &str = "default";
/// Sockets and neighbours that are looked at, at most.
const ROWS_MAX: usize = 2_000_000;

/// A machine that is known to be on the same network.
#[derive(Debug, Clone)]
pub(super) struct Neighbour {
    pub(super) address: IpAddr,
    pub(super) hardware: String,
    namespace: Arc<str>,
}

/// How far a socket has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Listening,
    Connected,
    Other,
}

/// One socket.
#[derive(Debug, Clone)]
pub(super) struct Socket {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) namespace: Arc<str>,
    state: State,
}

impl Socket {
    pub(super) fn is_listening(&self) -> bool {
        self.state == State::Listening
    }

    pub(super) fn is_connected(&self) -> bool {
        self.state == State::Connected
    }
}

/// The tables that a question needs, and how many of their rows it has looked at.
#[derive(Debug, Default)]
pub(super) struct Machine {
    interfaces: Vec<(String, Vec<IpAddr>)>,
    neighbours: Vec<Neighbour>,
    sockets: Vec<Socket>,
    pub(super) examined: u64,
    pub(super) hits: u64,
    pub(super) errors: Vec<String>,
}

impl Machine {
    /// Reads the tables that `parameters` ask about.
    pub(super) fn read(parameters: &Parameters, context: &Context) -> Self {
        let mut machine = Self::default();
        if !(parameters.localmac.is_empty() && parameters.localip.is_empty()) {
            machine.read_interfaces();
        }
        let neighbours = !(parameters.neighbormac.is_empty() && parameters.neighborip.is_empty());
        let sockets = !(parameters.connectedip.is_empty() && parameters.listeningport.is_empty());
        if !(neighbours || sockets) {
            return machine;
        }
        for (namespace, directory) in namespaces(parameters.namespaces, context, &mut machine.errors) {
            if context.stop.is_asked() {
                machine.errors.push("the search was stopped before its end".to_owned());
                break;
            }
            if neighbours {
                machine.read_neighbours(&namespace, &directory);
            }
            if sockets {
                machine.read_sockets(&namespace, &directory);
            }
        }
        machine
    }

    fn read_interfaces(&mut self) {
        match Networks::new_with_refreshed_list() {
            Ok(networks) => {
                for (_, network) in &networks {
                    let addresses = network.ip_networks().iter().map(|network| network.addr).collect();
                    self.interfaces.push((network.mac_address().to_string(), addresses));
                }
                self.interfaces.sort();
            }
            Err(error) => self.errors.push(format!("could not list the network interfaces: {error}")),
        }
    }

    fn read_neighbours(&mut self, namespace: &Arc<str>, directory: &Path) {
        match ArpEntries::from_file(directory.join("arp")) {
            Ok(ArpEntries(entries)) => {
                self.neighbours.extend(entries.into_iter().take(ROWS_MAX).map(|entry| Neighbour {
                    address: entry.ip_address.into(),
                    hardware: hardware(entry.hw_address.unwrap_or_default()),
                    namespace: namespace.clone(),
                }));
            }
            Err(error) => self.errors.push(told(&error)),
        }
    }

    fn read_sockets(&mut self, namespace: &Arc<str>, directory: &Path) {
        let system = procfs::current_system_info();
        for table in ["tcp", "tcp6", "udp", "udp6"] {
            let file = directory.join(table);
            let rows: Result<Vec<_>, ProcError> = if table.starts_with("tcp") {
                TcpNetEntries::from_file(&file, system).map(|TcpNetEntries(rows)| {
                    rows.into_iter().map(|row| (row.local_address, row.remote_address, tcp(&row.state))).collect()
                })
            } else {
                UdpNetEntries::from_file(&file, system).map(|UdpNetEntries(rows)| {
                    rows.into_iter().map(|row| (row.local_address, row.remote_address, udp(&row.state))).collect()
                })
            };
            match rows {
                Ok(rows) => self.sockets.extend(rows.into_iter().take(ROWS_MAX).map(|(local, remote, state)| Socket {
                    local: canonical(local),
                    remote: canonical(remote),
                    namespace: namespace.clone(),
                    state,
                })),
                // A machine without version 6 has no tables of it.
                Err(ProcError::NotFound(_)) if table.ends_with('6') => {}
                Err(error) => self.errors.push(told(&error)),
            }
        }
    }

    fn keep(&mut self, examined: usize, found: Vec<Element>) -> Option<Vec<Element>> {
        self.examined += examined as u64;
        self.hits += found.len() as u64;
        let mut found = found;
        super::super::list::at_most(&mut found, &mut self.errors);
        (!found.is_empty()).then_some(found)
    }

    /// Returns the hardware addresses of this machine that are wanted.
    pub(super) fn hardware(&mut self, wanted: impl Fn(&str) -> bool) -> Option<Vec<Element>> {
        let found = self.interfaces.iter().filter(|(address, _)| wanted(address));
        let found = found.map(|(address, _)| Element { localmacaddr: address.clone(), ..Element::default() }).collect();
        self.keep(self.interfaces.len(), found)
    }

    /// Returns the addresses of this machine that are wanted.
    pub(super) fn addresses(&mut self, wanted: impl Fn(IpAddr) -> bool) -> Option<Vec<Element>> {
        let all: Vec<_> = self.interfaces.iter().flat_map(|(_, addresses)| addresses.iter().copied()).collect();
        let found = all.iter().filter(|address| wanted(**address));
        let found = found.map(|address| Element { localaddr: address.to_string(), ..Element::default() }).collect();
        self.keep(all.len(), found)
    }

    /// Returns the neighbours that are wanted.
    pub(super) fn neighbours(&mut self, wanted: impl Fn(&Neighbour) -> bool) -> Option<Vec<Element>> {
        let found = self.neighbours.iter().filter(|neighbour| wanted(neighbour)).map(|neighbour| Element {
            remoteaddr: neighbour.address.to_string(),
            remotemacaddr: neighbour.hardware.clone(),
            namespace: neighbour.namespace.to_string(),
            ..Element::default()
        });
        let found = found.take(MODULE_FOUND_MAX + 1).collect();
        self.keep(self.neighbours.len(), found)
    }

    /// Returns what `wanted` makes of the sockets.
    pub(super) fn sockets(&mut self, wanted: impl Fn(&Socket) -> Option<Element>) -> Option<Vec<Element>> {
        let found = self.sockets.iter().filter_map(wanted).take(MODULE_FOUND_MAX + 1).collect();
        self.keep(self.sockets.len(), found)
    }
}

fn tcp(state: &TcpState) -> State {
    match state {
        TcpState::Listen => State::Listening,
        TcpState::Close => State::Other,
        _ => State::Connected,
    }
}

fn udp(state: &UdpState) -> State {
    // A UDP socket without a partner takes packets from everybody.
    if matches!(state, UdpState::Established) { State::Connected } else { State::Listening }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn hardware(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

fn told(error: &ProcError) -> String {
    match error {
        ProcError::NotFound(Some(path)) => format!("open {}: no such file or directory", path.display()),
        ProcError::PermissionDenied(Some(path)) => format!("open {}: permission denied", path.display()),
        ProcError::Io(error, Some(path)) => format!("open {}: {}", path.display(), gotext::reason(error)),
        other => other.to_string(),
    }
}

/// Returns the network namespaces to look into, each with a directory of tables.
fn namespaces(all: bool, context: &Context, errors: &mut Vec<String>) -> Vec<(Arc<str>, PathBuf)> {
    if !all {
        return vec![(DEFAULT_NAMESPACE.into(), context.path("/proc/net"))];
    }
    let processes = match std::fs::read_dir(context.path("/proc")) {
        Ok(processes) => processes,
        Err(error) => {
            errors.push(format!("could not list the processes: {}", gotext::reason(&error)));
            return Vec::new();
        }
    };
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for process in processes.flatten() {
        let number = process.file_name().to_string_lossy().bytes().all(|digit| digit.is_ascii_digit());
        // One process tells for all of its namespace. One that has ended meanwhile tells nothing.
        let Some(name) = number.then(|| std::fs::read_link(process.path().join("ns/net")).ok()).flatten() else {
            continue;
        };
        let directory = process.path().join("net");
        if !seen.contains(&name) && directory.join("tcp").exists() {
            found.push((name.to_string_lossy().into(), directory));
            seen.insert(name);
        }
    }
    found.sort();
    found
}
