//! `muster doctor`: looks for what is wrong, from the near to the far: this machine's files, the way to the server, the
//! access token, and then what the server finds when it looks at itself.

use crate::connect::{self, ADDRESSES, ADMIN_TOKEN, Addresses};
use crate::output::Table;
use crate::{Api, Exit, Failure, Globals, Output};
use muster_api::Page;
use muster_api::server::{Check, ServerStatus};
use muster_core::Timestamp;
use std::path::Path;
use std::time::Duration;

const WHAT: &str = "could not look at the server";
/// How far two clocks may be apart before it is worth a word; certificates and tokens go by them.
const CLOCKS_APART_MAX: Duration = Duration::from_mins(1);

/// Looks, tells, and fails if something is wrong. When the server cannot be asked, `offline` looks at what can be seen of
/// it on this machine, unless the server is said to be elsewhere.
pub async fn run(globals: &Globals, offline: impl FnOnce() -> Vec<Check>) -> Result<(), Failure> {
    let out = Output::new(globals.json);
    let mut checks = files(globals);
    let mut exit = Exit::Failed;
    match connect::find(globals).and_then(|door| Api::new(door, globals.timeout)) {
        Err(failure) => {
            exit = failure.exit;
            checks.push(failed("server", &failure));
        }
        Ok(api) => {
            if let Err(failure) = server(&api, &mut checks).await {
                exit = failure.exit;
                // That somebody answers is one thing, and what is answered another.
                let name = if checks.iter().any(|check| check.name == "server") { "access" } else { "server" };
                checks.push(failed(name, &failure));
            }
        }
    }
    if exit != Exit::Failed && globals.url.is_none() {
        checks.extend(offline());
    }
    tell(out, &checks)?;
    let wrong: Vec<&str> = checks.iter().filter(|check| check.outcome == "failed").map(|c| c.name.as_str()).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let what = format!("{} of {} checks failed", wrong.len(), checks.len());
    Err(Failure::new(exit, what, wrong.join(", ")).next("follow the advice beside each of them"))
}

fn check(name: &str, outcome: &str, found: impl Into<String>, advice: Option<&str>) -> Check {
    Check { name: name.to_owned(), outcome: outcome.to_owned(), found: found.into(), advice: advice.map(str::to_owned) }
}

fn failed(name: &str, failure: &Failure) -> Check {
    let on = if failure.on.is_empty() { String::new() } else { format!(" ({})", failure.on) };
    // Whoever reads this has called the doctor.
    let next = failure.next.replace("; `muster doctor` looks closer", "").replace("`muster doctor` looks closer", "");
    check(
        name,
        "failed",
        format!("{}{on}: {}", failure.what, failure.why),
        Some(&next).filter(|next| !next.is_empty()).map(String::as_str),
    )
}

/// Looks at what a server on this machine left behind; nothing when the server is elsewhere.
fn files(globals: &Globals) -> Vec<Check> {
    if globals.url.is_some() && globals.data.is_none() {
        return Vec::new();
    }
    let dirs = connect::data_dirs(globals.data.as_deref());
    let Some(dir) = dirs.iter().find(|dir| dir.join(ADDRESSES).exists()) else { return Vec::new() };
    let mut checks = Vec::new();
    if let Err(error) = connect::data_check(dir) {
        let found = format!("{}: {error}", dir.display());
        let advice = "no command reads what lies there: do as it says, or name the server with --url";
        return vec![check("server's files", "failed", found, Some(advice))];
    }
    checks.push(match Addresses::read(dir) {
        Ok(_) => check("server's files", "ok", dir.display().to_string(), None),
        Err(error) => check(
            "server's files",
            "failed",
            format!("{}: {error}", dir.join(ADDRESSES).display()),
            Some("start the server again: it writes this file when it is ready"),
        ),
    });
    checks.extend(private(&dir.join(ADMIN_TOKEN)));
    checks
}

/// Looks whether others may read a secret.
fn private(path: &Path) -> Option<Check> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    let found = format!("{} has mode {mode:03o}", path.display());
    let others = mode & 0o077;
    Some(if others == 0 {
        check("admin token", "ok", found, None)
    } else {
        let advice = "others may have read it: chmod 600, make a new token and delete this one";
        check("admin token", "warning", found, Some(advice))
    })
}

async fn server(api: &Api, checks: &mut Vec<Check>) -> Result<(), Failure> {
    let answer = api.health(WHAT, "/healthz").await?;
    checks.push(if answer.status().is_success() {
        check("server", "ok", format!("{} answers", api.url()), None)
    } else {
        let found = format!("{} answers {}", api.url(), answer.status());
        check("server", "failed", found, Some("is this address a Muster server's operators' door?"))
    });
    if api.url().scheme() == "http" && !connect::is_here(api.url()) {
        let advice = "give the server a certificate for its operators' door and use https";
        checks.push(check("encryption", "warning", "the access token travels unencrypted", Some(advice)));
    }
    checks.extend(clocks(answer.headers()));
    let status = api.get(WHAT, &["server"], &()).await?;
    let status: ServerStatus = api.read(WHAT, &status)?;
    let (mine, theirs) = (env!("CARGO_PKG_VERSION"), &status.version);
    checks.push(if mine == theirs {
        check("version", "ok", mine, None)
    } else {
        let found = format!("the server is {theirs}, this program {mine}");
        check("version", "warning", found, Some("use the same version on both sides"))
    });
    let found = api.get(WHAT, &["doctor"], &()).await?;
    checks.extend(api.read::<Page<Check>>(WHAT, &found)?.items);
    Ok(())
}

/// Compares the server's clock, as the answer dates itself, with this machine's.
fn clocks(headers: &reqwest::header::HeaderMap) -> Option<Check> {
    let date = headers.get(reqwest::header::DATE)?.to_str().ok()?;
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp().as_second();
    let (mine, theirs) = (crate::values::now(), Timestamp::from_secs(theirs));
    let apart = mine.since(theirs).max(theirs.since(mine));
    Some(if apart <= CLOCKS_APART_MAX {
        check("clock here", "ok", "this machine and the server agree", None)
    } else {
        let found = format!("this machine and the server are {} s apart", apart.as_secs());
        check("clock here", "warning", found, Some("set both by NTP: certificates and tokens go by them"))
    })
}

fn tell(out: Output, checks: &[Check]) -> Result<(), Failure> {
    if out.json {
        return out.items(&checks);
    }
    let mut table = Table::new(&["CHECK", "OUTCOME", "FOUND", "WHAT TO DO"]);
    for check in checks {
        let advice = check.advice.clone().unwrap_or_default();
        table.row([check.name.clone(), check.outcome.clone(), check.found.clone(), advice]);
    }
    out.table(&table, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_secret_that_others_may_read_is_worth_a_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ADMIN_TOKEN);
        assert!(private(&path).is_none());
        std::fs::write(&path, "x").unwrap();
        for (mode, outcome) in [(0o600, "ok"), (0o640, "warning"), (0o604, "warning")] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(private(&path).unwrap().outcome, outcome, "{mode:o}");
        }
    }

    #[test]
    fn clocks_that_disagree_are_noticed() {
        let headers = |date: &str| [(reqwest::header::DATE, date.parse().unwrap())].into_iter().collect();
        assert_eq!(clocks(&headers("Thu, 01 Jan 1970 00:00:00 GMT")).unwrap().outcome, "warning");
        assert!(clocks(&headers("soon")).is_none());
    }
}
