//! What this machine is: names and values, read from the machine's own files.
//!
//! Stays true: a value is what was read, never a guess; what cannot be read is left out. Values that change by
//! themselves all the time do not count as a change ([`same`]). The names are those of docs/reference/facts.md.

mod disks;
mod packages;
mod virtualisation;

use muster_core::{Clock, Facts, Timestamp};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Number of messages this agent had to give up since it started.
pub(crate) const SPOOL_DROPPED: &str = "agent_messages_dropped";
/// Number of damaged places found in the spool since the agent started.
pub(crate) const SPOOL_DAMAGED: &str = "agent_spool_damaged";

/// Values that change by themselves, or differ from one look to the next.
const VOLATILE: [&str; 4] = ["boot_time", "memory_available_bytes", "root_free_bytes", "uptime_seconds"];
/// Bytes of any one of the files that are read. A larger one is not read at all: a part of it would tell half the truth.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Entries in a list of disks or addresses.
const LIST_MAX: usize = 256;

/// Looks at a machine.
#[derive(Debug, Clone)]
pub(crate) struct Observer {
    root: PathBuf,
    clock: Arc<dyn Clock>,
    /// What only the program knows of itself.
    known: Facts,
}

impl Observer {
    /// Looks at this machine.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { root: PathBuf::from("/"), clock, known: Facts::new() }
    }

    /// Returns one that adds what the program knows of itself.
    pub(crate) fn knowing(self, known: Facts) -> Self {
        Self { known, ..self }
    }

    /// Returns all that can be found out.
    pub(crate) fn observe(&self) -> Facts {
        let mut facts = self.known.clone();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                facts.insert(name.to_owned(), value);
            }
        };
        put("agent_version", Some(env!("CARGO_PKG_VERSION").into()));
        put("init", self.init().map(Into::into));
        let system = rustix::system::uname();
        let hostname = system.nodename().to_string_lossy().into_owned();
        put("fqdn", Some(self.fqdn(&hostname).into()));
        put("hostname", Some(hostname.into()));
        put("kernel", Some(system.sysname().to_string_lossy().into()));
        put("kernel_release", Some(system.release().to_string_lossy().into()));
        put("kernel_version", Some(system.version().to_string_lossy().into()));
        put("architecture", Some(system.machine().to_string_lossy().into()));

        let release = self.os_release();
        for (name, key) in [("os_id", "ID"), ("os_name", "PRETTY_NAME"), ("os_version", "VERSION_ID")] {
            put(name, release.get(key).map(|value| value.as_str().into()));
        }
        let cpu = self.text("proc/cpuinfo").unwrap_or_default();
        let cpus = cpu.lines().filter(|line| line.starts_with("processor")).count();
        put("cpu_count", (cpus > 0).then(|| cpus.into()));
        put("cpu_model", cpu_model(&cpu).map(Into::into));
        let memory = self.text("proc/meminfo").unwrap_or_default();
        for (name, key) in [
            ("memory_available_bytes", "MemAvailable:"),
            ("memory_total_bytes", "MemTotal:"),
            ("swap_total_bytes", "SwapTotal:"),
        ] {
            put(name, kibibytes(&memory, key).map(Into::into));
        }
        put("boot_id", self.line("proc/sys/kernel/random/boot_id").map(Into::into));
        let uptime = self.uptime();
        put("uptime_seconds", uptime.map(|uptime| uptime.as_secs().into()));
        put("boot_time", uptime.map(|uptime| whole_second(self.clock.now().minus(uptime)).to_string().into()));
        put("time_zone", Some(self.time_zone().into()));
        put("machine_id", self.line("etc/machine-id").map(Into::into));
        put("virtualisation", Some(virtualisation::detect(&self.root, &cpu).into()));
        let mounts = read_whole(&self.path("proc/self/mountinfo"), FILE_BYTES_MAX);
        put("disks", mounts.map(|table| disks::list(&table, LIST_MAX).into()));
        put("root_free_bytes", disks::free("/").map(Into::into));
        let (addresses, interfaces) = network();
        put("addresses", Some(addresses.into()));
        put("interfaces", Some(interfaces.into()));
        let packages = packages::count(&self.root);
        put("package_count", packages.and_then(|(_, count)| count).map(Into::into));
        put("package_format", packages.map(|(format, _)| format.into()));
        facts
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    fn text(&self, relative: &str) -> Option<String> {
        read_text(&self.path(relative))
    }

    fn line(&self, relative: &str) -> Option<String> {
        let text = self.text(relative)?;
        let line = text.lines().next()?.trim();
        (!line.is_empty()).then(|| line.to_owned())
    }

    fn os_release(&self) -> BTreeMap<String, String> {
        let text = self.text("etc/os-release").or_else(|| self.text("usr/lib/os-release")).unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.trim().split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), unquote(value))).collect()
    }

    /// What starts services on this machine, in MIG's words.
    fn init(&self) -> Option<&'static str> {
        let starts = self.line("proc/1/comm")?;
        let known = ["systemd", "upstart", "openrc-init", "runit", "launchd"];
        let is_sysvinit = || starts == "init" && self.path("etc/inittab").exists();
        known.into_iter().find(|known| *known == starts).or_else(|| is_sysvinit().then_some("sysvinit"))
    }

    /// The name with its domain, as /etc/hosts has it; the plain name when it does not. In small letters and without a dot
    /// at the end, because names of hosts are the same in either case and machines are found by them.
    fn fqdn(&self, hostname: &str) -> String {
        let plain = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
        let hostname = plain(hostname);
        if hostname.contains('.') {
            return hostname;
        }
        let hosts = self.text("etc/hosts").unwrap_or_default();
        let longer = hosts.lines().find_map(|line| {
            let names: Vec<_> = line.split('#').next()?.split_whitespace().skip(1).map(plain).collect();
            let is_ours = names.contains(&hostname) || names.first().is_some_and(|first| is_below(first, &hostname));
            is_ours.then(|| names.into_iter().find(|name| is_below(name, &hostname)))?
        });
        longer.unwrap_or(hostname)
    }

    fn uptime(&self) -> Option<Duration> {
        let text = self.text("proc/uptime")?;
        let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    fn time_zone(&self) -> String {
        let link = std::fs::read_link(self.path("etc/localtime")).ok();
        let linked = link.as_deref().and_then(Path::to_str).and_then(|path| path.split_once("zoneinfo/"));
        linked
            .map(|(_, zone)| zone.to_owned())
            .or_else(|| self.line("etc/timezone"))
            .unwrap_or_else(|| "UTC".to_owned())
    }
}

/// Tells whether a name is that of the host with a domain behind it.
fn is_below(name: &str, hostname: &str) -> bool {
    !hostname.is_empty() && name.strip_prefix(hostname).is_some_and(|rest| rest.starts_with('.') && rest.len() > 1)
}

/// Whether two looks at the machine found the same, apart from what changes all the time.
pub(crate) fn same(one: &Facts, other: &Facts) -> bool {
    let stable = |facts: &Facts| -> BTreeMap<String, Value> {
        let kept = facts.iter().filter(|(name, _)| !VOLATILE.contains(&name.as_str()));
        kept.map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    stable(one) == stable(other)
}

fn read_text(path: &Path) -> Option<String> {
    let bytes = read_whole(path, FILE_BYTES_MAX)?;
    Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
}

/// Reads a file that has at most so many bytes, and no part of a larger one.
fn read_whole(path: &Path, bytes_max: u64) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(bytes_max + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= bytes_max).then_some(bytes)
}

fn whole_second(moment: Timestamp) -> Timestamp {
    Timestamp::from_secs(moment.to_parts().0)
}

fn unquote(value: &str) -> String {
    let value = value.trim();
    let quoted = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    quoted('"').or_else(|| quoted('\'')).unwrap_or(value).replace("\\\"", "\"")
}

/// The model, as x86 writes it, or else what other machines write.
fn cpu_model(cpuinfo: &str) -> Option<String> {
    let field = |name: &str| {
        cpuinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, value)| key.trim() == name && !value.trim().is_empty())
            .map(|(_, value)| value.trim().to_owned())
    };
    ["model name", "Model", "cpu model", "Hardware", "uarch", "cpu"].into_iter().find_map(field)
}

fn kibibytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Returns the addresses by which others may reach this machine, and every interface as `name mac address/bits …`.
fn network() -> (Vec<String>, Vec<String>) {
    let found = sysinfo::Networks::new_with_refreshed_list();
    let found = found.inspect_err(|error| tracing::warn!(%error, "cannot list the network interfaces")).ok();
    let mut addresses = Vec::new();
    let mut interfaces = Vec::new();
    for (name, data) in found.iter().flat_map(|networks| networks.iter()) {
        let mut networks: Vec<_> = data.ip_networks().to_vec();
        networks.sort_by_key(|network| (network.addr, network.prefix));
        let reachable = networks.iter().map(|network| network.addr).filter(|address| is_reachable(*address));
        addresses.extend(reachable.map(|address| address.to_string()));
        let listed = networks.iter().map(|network| format!(" {}/{}", network.addr, network.prefix));
        interfaces.push(format!("{} {}{}", name.display(), data.mac_address(), listed.collect::<String>()));
    }
    for list in [&mut addresses, &mut interfaces] {
        list.sort();
        list.dedup();
        list.truncate(LIST_MAX);
    }
    (addresses, interfaces)
}

fn is_reachable(address: std::net::IpAddr) -> bool {
    let link_local = match address {
        std::net::IpAddr::V4(address) => address.is_link_local(),
        std::net::IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_loopback() && !address.is_unspecified() && !link_local
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::SystemClock;

    fn observer(root: &Path) -> Observer {
        Observer { root: root.into(), clock: Arc::new(SystemClock), known: Facts::new() }
    }

    fn write(root: &Path, file: &str, content: &str) {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    #[test]
    fn this_machine_is_what_its_own_tools_say() {
        let facts = Observer::new(Arc::new(SystemClock)).observe();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(facts["kernel_release"], kernel.trim());
        assert_eq!(facts["hostname"], std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
        assert_eq!(facts["architecture"], std::env::consts::ARCH);
        assert!(facts["memory_total_bytes"].as_u64() > facts["memory_available_bytes"].as_u64());
        assert!(facts["cpu_count"].as_u64() > Some(0));
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert_eq!(facts["boot_id"], boot_id.trim());
    }

    #[test]
    fn every_name_is_documented_and_the_page_is_sorted() {
        let page = include_str!("../../../../docs/reference/facts.md");
        let documented: Vec<&str> =
            page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let mut facts = Observer::new(Arc::new(SystemClock)).observe();
        facts.insert(SPOOL_DROPPED.into(), 0.into());
        facts.insert(SPOOL_DAMAGED.into(), 0.into());
        for name in facts.keys() {
            assert!(documented.contains(&name.as_str()), "docs/reference/facts.md lacks {name}");
        }
        for name in VOLATILE {
            assert!(page.contains(&format!("| `{name}` | volatile")), "{name} is not marked volatile");
        }
        let mut sorted = documented.clone();
        sorted.sort_unstable();
        assert_eq!(documented, sorted, "the page is sorted by name");
    }

    #[test]
    fn what_changes_all_the_time_is_no_change() {
        let observer = Observer::new(Arc::new(SystemClock));
        let one = observer.observe();
        let mut other = one.clone();
        other.insert("uptime_seconds".into(), 1.into());
        other.insert("memory_available_bytes".into(), 1.into());
        assert!(same(&one, &other));
        other.insert("hostname".into(), "elsewhere".into());
        assert!(!same(&one, &other));
    }

    #[test]
    fn os_release_is_read_with_and_without_quotes() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian \\\"12\\\"\"\nVERSION_ID='12'\n# x\n");
        let facts = observer(root.path()).observe();
        let values = ["os_id", "os_name", "os_version"].map(|name| facts[name].as_str().unwrap());
        assert_eq!(values, ["debian", "Debian \"12\"", "12"]);
        assert!(!facts.contains_key("boot_id"), "what is not there is left out");
    }

    #[test]
    fn the_full_name_is_the_one_in_the_hosts_file() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "etc/hosts", "127.0.0.1 localhost\n10.0.0.7 web1.example.org web1 # web1.wrong\n");
        let observer = observer(root.path());
        assert_eq!(observer.fqdn("web1"), "web1.example.org");
        assert_eq!(observer.fqdn("db1"), "db1");
        assert_eq!(observer.fqdn("a.b"), "a.b");
    }

    #[test]
    fn case_11_the_full_name_of_a_host_is_one_name_however_its_file_is_written() {
        for (hostname, hosts, want) in [
            ("web1", "127.0.0.1 localhost\n192.0.2.10 web1.example.org web1\n", "web1.example.org"),
            ("web1", "127.0.0.1 localhost\n192.0.2.10 web1 web1.example.org\n", "web1.example.org"),
            ("web1", "127.0.1.1 WEB1.Example.ORG web1\n", "web1.example.org"),
            ("web1", "192.0.2.66 other.example.net web1\n127.0.1.1 web1.example.org web1\n", "web1.example.org"),
            ("web1", "127.0.0.1 localhost.localdomain localhost web1\n", "web1"),
            ("web1", "127.0.1.1\tweb1.example.org.\tweb1 # a note\n", "web1.example.org"),
            ("web1.example.org", "127.0.0.1 localhost\n", "web1.example.org"),
            ("web1.example.org", "127.0.1.1 web1.example.org.example.org web1.example.org\n", "web1.example.org"),
            ("localhost", "127.0.0.1 localhost\n", "localhost"),
            ("WEB1", "127.0.1.1 web1.example.org web1\n", "web1.example.org"),
            ("web_1", "", "web_1"),
            ("(none)", "", "(none)"),
            ("web1", "# nothing\n", "web1"),
            ("web1", "192.0.2.1 web1. web1\n", "web1"),
            ("web1", "192.0.2.1 web10.example.org\n192.0.2.2 web1x web1.\n", "web1"),
        ] {
            let root = tempfile::tempdir().unwrap();
            write(root.path(), "etc/hosts", hosts);
            assert_eq!(observer(root.path()).fqdn(hostname), want, "{hostname} in {hosts:?}");
        }
    }

    #[test]
    fn a_file_that_would_be_read_in_part_is_not_read_and_no_processor_is_none() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("x");
        std::fs::write(&file, "12345").unwrap();
        assert_eq!((read_whole(&file, 5), read_whole(&file, 4)), (Some(b"12345".to_vec()), None));
        let facts = observer(root.path()).observe();
        assert!(!facts.contains_key("cpu_count") && !facts.contains_key("disks"), "{facts:?}");
    }

    #[test]
    fn the_time_zone_is_the_link_or_the_name() {
        let root = tempfile::tempdir().unwrap();
        let observer = observer(root.path());
        assert_eq!(observer.time_zone(), "UTC");
        write(root.path(), "etc/timezone", "Asia/Tokyo\n");
        assert_eq!(observer.time_zone(), "Asia/Tokyo");
        std::os::unix::fs::symlink("/usr/share/zoneinfo/Europe/Vienna", root.path().join("etc/localtime")).unwrap();
        assert_eq!(observer.time_zone(), "Europe/Vienna");
    }

    #[test]
    fn the_processor_has_a_model_on_other_machines_too() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: Xeon\n").as_deref(), Some("Xeon"));
        assert_eq!(cpu_model("processor\t: 0\n\nModel\t\t: Raspberry Pi 4\n").as_deref(), Some("Raspberry Pi 4"));
        assert_eq!(cpu_model("processor : 0\n"), None);
    }
}
