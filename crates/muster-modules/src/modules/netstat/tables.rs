//! The kernel's tables: interfaces, neighbours and sockets, of one network namespace or of all.
//!
//! Stays true: what could not be read is counted and named, and the rest is answered.

use super::rows::{self, Protocol, State};
use super::{Element, Parameters};
use crate::gotext;
use crate::module::Context;
use crate::modules::list::Unread;
use crate::modules::process::is_kernels_at;
use crate::reading;
use muster_core::limits::MODULE_FOUND_MAX;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use sysinfo::{NetworkData, Networks};

/// What MIG calls the namespace the agent is in.
pub(super) const DEFAULT_NAMESPACE: &str = "default";
/// Rows of one table that are looked at, at most.
const ROWS_MAX: usize = 2_000_000;
/// Bytes of one row that are looked at; the kernel's have about 150.
const ROW_BYTES_MAX: u64 = 4096;

/// A machine that is known to be on the same network.
#[derive(Debug, Clone)]
pub(super) struct Neighbour {
    pub(super) address: IpAddr,
    pub(super) hardware: String,
    state: &'static str,
    namespace: Arc<str>,
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
    /// Tells whether the socket listens, or is in a state that is not known here.
    pub(super) fn may_listen(&self) -> bool {
        matches!(self.state, State::Listening | State::Unknown(_))
    }

    /// Tells whether the socket is connected, or in a state that is not known here.
    pub(super) fn may_be_connected(&self) -> bool {
        matches!(self.state, State::Connected | State::Unknown(_))
    }

    /// Returns what is said of a state that is not known here; nothing of others.
    pub(super) fn odd_state(&self) -> String {
        if let State::Unknown(number) = self.state { format!("unknown state {number:02X}") } else { String::new() }
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
    /// Tables that could not be looked at: what was asked for may be in one of them.
    pub(super) unread: u64,
    /// What of the answer is not all there is.
    pub(super) cuts: Vec<String>,
}

impl Machine {
    /// Reads the tables that `parameters` ask about.
    pub(super) fn read(parameters: &Parameters, context: &Context) -> Self {
        let mut machine = Self::default();
        if !(parameters.localmac.is_empty() && parameters.localip.is_empty()) {
            machine.read_interfaces(context);
        }
        let neighbours = !(parameters.neighbormac.is_empty() && parameters.neighborip.is_empty());
        let sockets = !(parameters.connectedip.is_empty() && parameters.listeningport.is_empty());
        if !(neighbours || sockets) {
            return machine;
        }
        for (namespace, directory) in machine.namespaces(parameters.namespaces, context) {
            if context.stop.is_asked() {
                machine.failed("the search was stopped before its end".to_owned());
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

    fn read_interfaces(&mut self, context: &Context) {
        match Networks::new_with_refreshed_list() {
            Ok(networks) => {
                for (name, network) in &networks {
                    let addresses = network.ip_networks().iter().map(|network| network.addr).collect();
                    self.interfaces.push((hardware(name, network, context), addresses));
                }
                self.interfaces.sort();
            }
            Err(error) => self.failed(format!("could not list the network interfaces: {error}")),
        }
    }

    /// Keeps that something which was asked about could not be looked at.
    fn failed(&mut self, why: String) {
        self.unread += 1;
        self.errors.push(why);
    }

    fn read_neighbours(&mut self, namespace: &Arc<str>, directory: &Path) {
        let mut neighbours = Vec::new();
        self.read_table(&directory.join("arp"), |row| {
            let row = rows::neighbour(row)?;
            let (address, hardware, state) = (row.address, row.hardware, row.state);
            neighbours.push(Neighbour { address, hardware, state, namespace: namespace.clone() });
            Some(())
        });
        self.neighbours.extend(neighbours);
    }

    fn read_sockets(&mut self, namespace: &Arc<str>, directory: &Path) {
        for (table, protocol) in
            [("tcp", Protocol::Tcp), ("tcp6", Protocol::Tcp), ("udp", Protocol::Udp), ("udp6", Protocol::Udp)]
        {
            let file = directory.join(table);
            // A machine without version 6 has no tables of it.
            if table.ends_with('6') && !file.exists() {
                continue;
            }
            let mut sockets = Vec::new();
            self.read_table(&file, |row| {
                let (local, remote, state) = rows::socket(row, protocol)?;
                sockets.push(Socket { local, remote, namespace: namespace.clone(), state });
                Some(())
            });
            self.sockets.extend(sockets);
        }
    }

    /// Hands in each row of a table below its heading. Rows that `take` takes for none are counted and named.
    fn read_table(&mut self, table: &Path, mut take: impl FnMut(&[u8]) -> Option<()>) {
        let mut is_cut = false;
        let mut read = || -> io::Result<Option<String>> {
            let mut reader = BufReader::new(reading::open(table)?.0);
            let (mut line, mut rows, mut unread) = (Vec::new(), 0, Unread::default());
            for number in 1_usize.. {
                line.clear();
                if reader.by_ref().take(ROW_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
                    break;
                }
                let row = line.trim_ascii_end();
                if number == 1 || row.is_empty() {
                    continue;
                }
                if rows == ROWS_MAX {
                    is_cut = true;
                    return Ok(Some(format!("{}: only the first {ROWS_MAX} rows were read", table.display())));
                }
                rows += 1;
                if take(row).is_none() {
                    unread.add(number);
                }
            }
            Ok(unread.told(table, rows))
        };
        match read() {
            Ok(said) if is_cut => self.cuts.extend(said),
            Ok(said) => self.errors.extend(said),
            Err(error) => self.failed(reading::open_error(table, &error)),
        }
    }

    fn keep(&mut self, examined: usize, found: Vec<Element>) -> Option<Vec<Element>> {
        self.examined += examined as u64;
        self.hits += found.len() as u64;
        let mut found = found;
        self.cuts.extend(super::super::list::at_most(&mut found));
        (!found.is_empty()).then_some(found)
    }

    /// Returns the network namespaces to look into, each with a directory of tables.
    fn namespaces(&mut self, all: bool, context: &Context) -> Vec<(Arc<str>, PathBuf)> {
        if !all {
            return vec![(DEFAULT_NAMESPACE.into(), context.path("/proc/net"))];
        }
        let processes = match std::fs::read_dir(context.path("/proc")) {
            Ok(processes) => processes,
            Err(error) => {
                self.failed(format!("could not list the processes: {}", gotext::reason(&error)));
                return Vec::new();
            }
        };
        let (mut seen, mut found, mut hidden) = (BTreeSet::new(), Vec::new(), 0_u64);
        for process in processes.flatten() {
            if !process.file_name().to_string_lossy().bytes().all(|digit| digit.is_ascii_digit()) {
                continue;
            }
            // One process tells for all of its namespace. One that has ended meanwhile tells nothing.
            let name = match std::fs::read_link(process.path().join("ns/net")) {
                Ok(name) => name,
                Err(error) => {
                    // Threads of the kernel are in the first namespace, which others tell of.
                    let is_hidden = error.kind() == io::ErrorKind::PermissionDenied && !is_kernels_at(&process.path());
                    hidden += u64::from(is_hidden);
                    continue;
                }
            };
            let directory = process.path().join("net");
            if !seen.contains(&name) && directory.join("tcp").exists() {
                found.push((name.to_string_lossy().into(), directory));
                seen.insert(name);
            }
        }
        if hidden > 0 {
            self.errors.push(format!("{hidden} processes did not let their network namespace be read"));
        }
        found.sort();
        found
    }

    /// Returns the hardware addresses of this machine that are wanted.
    pub(super) fn hardware(&mut self, wanted: impl Fn(&str) -> bool) -> Option<Vec<Element>> {
        // An interface such as the loopback has none.
        let found = self.interfaces.iter().filter(|(address, _)| !address.is_empty() && wanted(address));
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
            state: neighbour.state.to_owned(),
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

/// Returns the hardware address of an interface, as long as the kernel writes it; nothing when it has none.
fn hardware(name: &OsStr, network: &NetworkData, context: &Context) -> String {
    let path = context.path("/sys/class/net").join(name).join("address");
    let address = reading::text(&path).map(|text| text.trim().to_owned());
    let address = address.unwrap_or_else(|_| network.mac_address().to_string());
    if address.bytes().all(|byte| matches!(byte, b'0' | b':')) { String::new() } else { address }
}
