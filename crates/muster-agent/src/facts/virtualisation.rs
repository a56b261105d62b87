//! Whether this machine is a container or a virtual one, and of which kind.

use super::read_text;
use std::path::Path;

/// Returns the kind in one word; `none` for a machine of its own.
pub(super) fn detect(root: &Path, cpuinfo: &str) -> String {
    container(root).or_else(|| machine(root, cpuinfo)).unwrap_or_else(|| "none".to_owned())
}

fn container(root: &Path) -> Option<String> {
    let line = |file: &str| read_text(&root.join(file)).map(|text| text.trim().to_lowercase());
    if let Some(kind) = line("run/systemd/container").filter(|kind| is_word(kind)) {
        return Some(kind);
    }
    if root.join("run/.containerenv").exists() {
        return Some("podman".to_owned());
    }
    if root.join(".dockerenv").exists() {
        return Some("docker".to_owned());
    }
    // Only root can read it; zero bytes between the settings are blanks here.
    let environment = line("proc/1/environ").unwrap_or_default();
    let named = environment.split(' ').find_map(|setting| setting.strip_prefix("container=").map(str::to_owned));
    if let Some(kind) = named.filter(|kind| is_word(kind)) {
        return Some(kind);
    }
    let groups = line("proc/1/cgroup").unwrap_or_default();
    [("kubepods", "kubernetes"), ("docker", "docker"), ("libpod", "podman"), ("lxc", "lxc"), ("garden", "garden")]
        .into_iter()
        .find(|(mark, _)| groups.contains(mark))
        .map(|(_, kind)| kind.to_owned())
}

fn machine(root: &Path, cpuinfo: &str) -> Option<String> {
    let dmi = |file: &str| read_text(&root.join("sys/class/dmi/id").join(file)).unwrap_or_default().to_lowercase();
    let maker = format!("{} {} {}", dmi("sys_vendor"), dmi("product_name"), dmi("board_vendor"));
    let known = [
        ("amazon ec2", "amazon"),
        ("google", "google"),
        ("firecracker", "firecracker"),
        ("kvm", "kvm"),
        ("qemu", "qemu"),
        ("vmware", "vmware"),
        ("virtualbox", "virtualbox"),
        ("innotek", "virtualbox"),
        ("microsoft corporation virtual", "microsoft"),
        ("parallels", "parallels"),
        ("bhyve", "bhyve"),
        ("openstack", "kvm"),
        ("xen", "xen"),
    ];
    let is_virtual = cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| flag == "hypervisor"));
    let xen = read_text(&root.join("sys/hypervisor/type")).map(|kind| kind.trim().to_owned());
    let named = known.iter().find(|(mark, _)| maker.contains(mark)).map(|(_, kind)| (*kind).to_owned());
    named.or(xen.filter(|kind| is_word(kind))).or_else(|| is_virtual.then(|| "virtual".to_owned()))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() < 32 && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detected(files: &[(&str, &str)], cpuinfo: &str) -> String {
        let root = tempfile::tempdir().unwrap();
        for (file, content) in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        detect(root.path(), cpuinfo)
    }

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(detected(&[], "flags : fpu vme"), "none");
        assert_eq!(detected(&[], "flags\t\t: fpu hypervisor"), "virtual");
        assert_eq!(detected(&[("sys/class/dmi/id/sys_vendor", "QEMU\n")], ""), "qemu");
        assert_eq!(detected(&[("sys/class/dmi/id/sys_vendor", "Dell Inc.\n")], ""), "none");
        assert_eq!(detected(&[("sys/hypervisor/type", "xen\n")], ""), "xen");
        assert_eq!(detected(&[(".dockerenv", ""), ("sys/class/dmi/id/sys_vendor", "QEMU")], ""), "docker");
        assert_eq!(detected(&[("proc/1/environ", "A=1\0container=lxc\0B=2")], ""), "lxc");
        assert_eq!(detected(&[("proc/1/cgroup", "0::/kubepods/besteffort/pod1\n")], ""), "kubernetes");
        assert_eq!(detected(&[("run/systemd/container", "../etc\n")], ""), "none");
    }
}
