//! The packages that are installed, as dpkg and rpm know them.

use crate::module::Context;
use crate::reading;
use muster_core::limits::WHOLE_FILE_BYTES_MAX;
use serde::{Deserialize, Serialize};
use std::io::Read as _;
use std::process::{Command, Stdio};

/// One installed package.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) arch: String,
}

/// Returns what is installed: rpm's packages, then dpkg's. A machine that has neither has none.
pub(super) fn installed(context: &Context, errors: &mut Vec<String>) -> Vec<Package> {
    let mut packages = rpm(context, errors);
    let status = context.path("/var/lib/dpkg/status");
    let mut files = vec![status];
    // Images without a package manager list what they are made of here.
    if let Ok(listed) = std::fs::read_dir(context.path("/var/lib/dpkg/status.d")) {
        files.extend(listed.flatten().map(|entry| entry.path()));
    }
    for file in files {
        match reading::text(&file) {
            Ok(text) => packages.extend(text.split("\n\n").filter_map(dpkg)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => errors.push(reading::open_error(&file, &error)),
        }
    }
    packages
}

/// Reads one stanza of dpkg's list. A package that is not fully installed is none.
fn dpkg(stanza: &str) -> Option<Package> {
    let field = |name: &str| {
        let lines = stanza.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(field, _)| *field == name).map(|(_, value)| value.trim().to_owned())
    };
    // A stanza below status.d has no state: the image is what it is.
    if field("Status").is_some_and(|status| !status.ends_with(" ok installed")) {
        return None;
    }
    let arch = field("Architecture").unwrap_or_default();
    Some(Package { name: field("Package")?, version: field("Version")?, kind: "dpkg".to_owned(), arch })
}

fn rpm(context: &Context, errors: &mut Vec<String>) -> Vec<Package> {
    let program = context.path("/usr/bin/rpm");
    if !program.is_file() {
        return Vec::new();
    }
    let mut command = Command::new(&program);
    command.args(["-qa", "--queryformat", "%{NAME} %{EVR} %{ARCH}\\n"]).stdin(Stdio::null()).stderr(Stdio::null());
    let read = command.stdout(Stdio::piped()).spawn().and_then(|mut child| {
        let mut text = String::new();
        let taken = child.stdout.take().expect("the stream was asked for as a pipe");
        let read = taken.take(WHOLE_FILE_BYTES_MAX).read_to_string(&mut text);
        let ended = child.wait()?;
        read?;
        if ended.success() { Ok(text) } else { Err(std::io::Error::other(format!("it ended with {ended}"))) }
    });
    match read {
        Ok(text) => text.lines().filter_map(rpm_line).collect(),
        Err(error) => {
            errors.push(format!("{}: {}", program.display(), crate::gotext::reason(&error)));
            Vec::new()
        }
    }
}

fn rpm_line(line: &str) -> Option<Package> {
    let mut words = line.split_whitespace();
    let (name, version, arch) = (words.next()?, words.next()?, words.next().unwrap_or_default());
    // Keys are kept as packages that no machine can run.
    let arch = if arch == "(none)" { "" } else { arch };
    Some(Package { name: name.into(), version: version.into(), kind: "rpm".into(), arch: arch.into() })
}
