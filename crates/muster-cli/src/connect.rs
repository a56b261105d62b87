//! Finding the server: what the flags and the environment say, else what a server on this machine left in its data
//! directory.
//!
//! Stays true: a token that was found in a data directory is sent only to the address that was found there too; no token
//! leaves this machine in clear unless somebody says so; of a data directory that another account made, or could change,
//! nothing is read.

use crate::{Exit, Failure, Globals, globals};
use muster_modules::place::{Absent, Keeper, PlaceError, place_check, place_check_for};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use url::Url;

const WHAT: &str = "could not find the server";
/// The file in which a server writes where its doors are.
pub const ADDRESSES: &str = "addresses.json";
/// The file that holds the first access token.
pub const ADMIN_TOKEN: &str = "admin.token";
/// The file that holds the certificate of the authority that signs the server's certificates.
pub const CA: &str = "ca.pem";
/// Bytes that are read of a file of a data directory.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Where the server is and how it lets this command in.
#[derive(Debug, Clone)]
pub struct Door {
    /// The address.
    pub url: Url,
    /// The access token.
    pub token: Option<String>,
    /// What to trust.
    pub trust: Trust,
}

/// Whose certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those that the system trusts.
    System,
    /// Those, and the ones in this file (PEM): the authority of a server on this machine.
    Besides(PathBuf),
    /// Only the ones in this file (PEM).
    Only(PathBuf),
}

/// Finds the server.
pub fn find(globals: &Globals) -> Result<Door, Failure> {
    let local = local_door(globals.data.as_deref());
    let (url, local) = match (&globals.url, local) {
        (Some(text), local) => {
            let url = parse_url(text)?;
            // Somebody else's server must not be shown this machine's token.
            let local = local.ok().filter(|local| same_door(&local.url, &url));
            (url, local)
        }
        (None, Ok(local)) => (local.url.clone(), Some(local)),
        (None, Err(failure)) => return Err(failure),
    };
    let token = match &globals.token {
        Some(text) => Some(read_token(text)?),
        None => local.as_ref().and_then(|local| local.token.clone()),
    };
    let trust = match (&globals.ca, local) {
        (Some(path), _) => Trust::Only(path.clone()),
        (None, Some(local)) => local.trust,
        (None, None) => Trust::System,
    };
    if token.is_some() && url.scheme() == "http" && !is_here(&url) && !globals.token_in_clear {
        let why = "the address is http:// on another machine: everybody on the way could read the access token";
        let next = "use https://, or a tunnel to a port of this machine; --token-in-clear sends it all the same";
        return Err(Failure::usage("nothing was sent", why).on(&url).next(next));
    }
    Ok(Door { url, token, trust })
}

/// Whether an address is on this machine.
pub(crate) fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn same_door(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

fn parse_url(text: &str) -> Result<Url, Failure> {
    let wrong = |why: String| {
        Failure::usage(WHAT, why).on(text).next("write it like https://muster.example:8080 (--url or MUSTER_URL)")
    };
    let url = Url::parse(text).map_err(|error| wrong(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(wrong("it must begin with http:// or https:// and name a host".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("a name or password in the address is not used".to_owned()));
    }
    Ok(url)
}

fn read_token(text: &str) -> Result<String, Failure> {
    const WHAT: &str = "could not read the access token";
    let token = match text.strip_prefix('@') {
        None => text.to_owned(),
        Some(path) => std::fs::read_to_string(path).map_err(|error| Failure::local(WHAT, path, &error))?,
    };
    let token = token.trim();
    if token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()) {
        let why = "it is empty or holds characters that no token has";
        return Err(Failure::usage(WHAT, why).next("give --token, MUSTER_TOKEN, or --token @FILE"));
    }
    Ok(token.to_owned())
}

/// What a server writes into its data directory. Doors that are switched off are absent.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Addresses {
    /// Each door's name and address.
    #[serde(flatten)]
    pub doors: BTreeMap<String, serde_json::Value>,
}

impl Addresses {
    /// Reads them from a data directory.
    pub fn read(data: &Path) -> std::io::Result<Self> {
        let text = read_inside(data, ADDRESSES)?;
        serde_json::from_str(&text).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
    }

    /// Returns a door's `ip:port`.
    pub fn door(&self, name: &str) -> Option<&str> {
        self.doors.get(name).and_then(serde_json::Value::as_str)
    }

    /// Returns the address of the operators' door as seen from this machine.
    pub fn operators_url(&self) -> Option<Url> {
        if let Some(url) = self.door("operators_url") {
            return Url::parse(url).ok();
        }
        let mut address: SocketAddr = self.door("operators")?.parse().ok()?;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            });
        }
        Url::parse(&format!("http://{address}")).ok()
    }
}

/// Returns the data directories to look into, the likeliest first.
pub fn data_dirs(given: Option<&Path>) -> Vec<PathBuf> {
    if let Some(given) = given {
        return vec![given.to_owned()];
    }
    let mut dirs = vec![PathBuf::from(globals::DATA_DEFAULT)];
    dirs.extend(dev_pointers().map(|folder| dev_dirs(&folder)).unwrap_or_default());
    dirs
}

/// Reads where each running `muster dev` has its data, the one that was started last first. What is said of a process that
/// is gone is taken away: its directory may be another account's by now.
fn dev_dirs(folder: &Path) -> Vec<PathBuf> {
    if place_check(folder, Absent::Refused).is_err() {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let process: u32 = entry.file_name().to_str()?.parse().ok()?;
            let written = entry.metadata().and_then(|metadata| metadata.modified()).ok()?;
            let text = std::fs::read_to_string(entry.path()).ok()?;
            let running = process_start(process).filter(|start| text.ends_with(&format!("\n{start}\n")));
            if running.is_none() {
                // What cannot be removed is passed over all the same.
                let _ = std::fs::remove_file(entry.path());
            }
            running.and_then(|_| Some((written, PathBuf::from(text.trim_end().rsplit_once('\n')?.0))))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, data)| data).collect()
}

/// Writes into `folder` that this process has its data in `data`, for other commands of this user. Returns the file, which
/// the process removes when it ends; the moment at which the process began stands in it, so that it counts for no other
/// that gets the same number.
///
/// # Errors
/// The file cannot be written, the system does not say when this process began, or the path of the data is no text.
pub fn dev_pointer_write(folder: &Path, data: &Path) -> std::io::Result<PathBuf> {
    let process = std::process::id();
    let other = |why: &str| std::io::Error::other(why.to_owned());
    let start = process_start(process).ok_or_else(|| other("nobody knows when this process began"))?;
    let data = data.to_str().filter(|data| !data.contains('\n')).ok_or_else(|| other("the path is no line of text"))?;
    std::fs::create_dir_all(folder)?;
    let path = folder.join(process.to_string());
    // Nobody finds it half written, and takes it away.
    let part = folder.join(format!("{process}.part"));
    std::fs::write(&part, format!("{data}\n{start}\n"))?;
    std::fs::rename(&part, &path).inspect_err(|_| _ = std::fs::remove_file(&part))?;
    Ok(path)
}

/// Returns when a process began, in ticks since the system started; `None` when there is none of this number.
fn process_start(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The program's name, in brackets, may hold anything: the fields behind it are counted from the third on.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    // One that has ended and was not waited for runs no more.
    if fields.next().is_none_or(|state| matches!(state, "Z" | "X")) {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Makes sure that a data directory is to be believed: it is this user's or root's and nobody else can change it; or root or
/// this user made it for a server of its own account, in a place where nobody else could have put it ([`Keeper::of`], the same
/// rule as for the server's own commands). What is read there belongs to that account or root, and nobody else can change it.
///
/// # Errors
/// Who else could have made or changed it, and what to do about it.
pub fn data_check(data: &Path) -> std::io::Result<()> {
    std::fs::metadata(data)?;
    let denied = |error: PlaceError| std::io::Error::new(std::io::ErrorKind::PermissionDenied, error.to_string());
    let keeper = Keeper::of(data).map_err(denied)?;
    let read = [ADDRESSES, ADMIN_TOKEN, CA].map(|name| data.join(name));
    read.iter().try_for_each(|path| place_check_for(&keeper, path, Absent::Made)).map_err(denied)
}

/// Reads a file of a data directory. A link in its place is not followed, and nothing waits for who would write to a pipe: the
/// directory may be another account's, which could exchange what was looked at.
fn read_inside(data: &Path, name: &str) -> std::io::Result<String> {
    use rustix::fs::OFlags;
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = std::fs::File::options().read(true).custom_flags(flags).open(data.join(name))?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Returns the server's own certificate that its addresses name, when it may be read: at the end of all links there is no
/// pipe and no device, the file has an end, and no account but root, this user, or the one that the data directory is for
/// could have exchanged it. Whatever else stands there is passed over, as if nothing were named.
fn certificate(data: &Path, named: &str) -> Option<PathBuf> {
    let path = data.join(named).canonicalize().ok()?;
    place_check_for(&Keeper::of(data).ok()?, &path, Absent::Refused).ok()?;
    // `join` with what is absolute is that path.
    read_inside(data, path.to_str()?).ok().map(|_| path)
}

/// Returns the folder in which each running `muster dev` has a file that says where its data is: in the home of who
/// runs it, so that nobody else can lay one out.
pub fn dev_pointers() -> Option<PathBuf> {
    let of = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = of("XDG_STATE_HOME").or_else(|| of("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("muster").join("dev"))
}

fn local_door(given: Option<&Path>) -> Result<Door, Failure> {
    let dirs = data_dirs(given);
    let mut why = Vec::new();
    for dir in &dirs {
        let addresses = match data_check(dir).and_then(|()| Addresses::read(dir)) {
            Ok(addresses) => addresses,
            Err(error) => {
                why.push(format!("{}: {error}", dir.join(ADDRESSES).display()));
                continue;
            }
        };
        let Some(url) = addresses.operators_url() else {
            why.push(format!("{} names no operators' door", dir.join(ADDRESSES).display()));
            continue;
        };
        let token = read_inside(dir, ADMIN_TOKEN).ok().map(|text| text.trim().to_owned());
        let ca = dir.join(CA);
        let has_ca = read_inside(dir, CA).is_ok();
        let own = addresses.door("operators_certificate").and_then(|path| certificate(dir, path));
        let trust = match own {
            // The server's own certificate, which may be its own authority.
            Some(own) => Trust::Only(own),
            None if has_ca => Trust::Besides(ca),
            None => Trust::System,
        };
        return Ok(Door { url, token: token.filter(|token| !token.is_empty()), trust });
    }
    let next = "give --url and --token (or MUSTER_URL and MUSTER_TOKEN), or --data DIR of a server on this machine; \
                start one with `muster serve` or, to try it, `muster dev`";
    Err(Failure::new(Exit::Unreachable, WHAT, why.join("; ")).on("this machine").next(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(addresses: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(ADDRESSES), addresses).unwrap();
        std::fs::write(dir.path().join(ADMIN_TOKEN), "secret\n").unwrap();
        dir
    }

    /// Processes that run until they are dropped.
    struct Running(Vec<std::process::Child>);

    impl Running {
        fn start(count: usize) -> Self {
            let start = |_| std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
            Self((0..count).map(start).collect())
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            for child in &mut self.0 {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    fn point(folder: &Path, process: u32, start: u64, seconds: u64) -> PathBuf {
        let path = folder.join(process.to_string());
        std::fs::write(&path, format!("/tmp/{seconds}\n{start}\n")).unwrap();
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
        path
    }

    #[test]
    fn of_several_trials_the_last_is_found_and_then_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let running = Running::start(3);
        let files: Vec<_> = (running.0.iter().zip([20, 30, 10]))
            .map(|(child, seconds)| point(folder.path(), child.id(), process_start(child.id()).unwrap(), seconds))
            .collect();
        assert_eq!(dev_dirs(folder.path()), ["/tmp/30", "/tmp/20", "/tmp/10"].map(PathBuf::from));
        std::fs::remove_file(&files[1]).unwrap();
        assert_eq!(dev_dirs(folder.path()), ["/tmp/20", "/tmp/10"].map(PathBuf::from));
        assert_eq!(dev_dirs(&folder.path().join("none")), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_trial_that_was_killed_points_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let mut running = Running::start(2);
        let files: Vec<_> = (running.0.iter().zip([0, 1]))
            .map(|(child, late)| point(folder.path(), child.id(), process_start(child.id()).unwrap() + late, 20))
            .collect();
        // The second has the number of a process that runs, which began later than the one that wrote it.
        assert_eq!(dev_dirs(folder.path()), [PathBuf::from("/tmp/20")]);
        assert!(files[0].exists() && !files[1].exists());
        running.0[0].kill().unwrap();
        running.0[0].wait().unwrap();
        assert_eq!(dev_dirs(folder.path()), Vec::<PathBuf>::new());
        assert!(!files[0].exists());
        let data = folder.path().join("data");
        let written = dev_pointer_write(folder.path(), &data).unwrap();
        assert_eq!(dev_dirs(folder.path()), [data]);
        assert!(written.exists() && std::fs::read_dir(folder.path()).unwrap().count() == 1);
        // A folder in which others could write names nothing.
        open_to_all(folder.path());
        assert_eq!(dev_dirs(folder.path()), Vec::<PathBuf>::new());
    }

    fn open_to_all(path: &Path) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }

    #[test]
    fn nothing_is_read_of_a_directory_that_another_account_made_or_could_change() {
        let addresses = r#"{"operators": "127.0.0.1:8080"}"#;
        let refused = |dir: &tempfile::TempDir, why: &str| {
            let failure = find(&globals(dir)).unwrap_err();
            assert!(failure.exit == Exit::Unreachable && failure.why.contains(why), "{failure}");
            let given = Globals { url: Some("http://127.0.0.1:8080".into()), ..globals(dir) };
            assert_eq!(find(&given).unwrap().token, None);
        };
        let dir = data(addresses);
        assert!(find(&globals(&dir)).is_ok());
        open_to_all(dir.path());
        refused(&dir, "can be written by others");
        // Only root gives directories to others.
        assert!(
            rustix::process::geteuid().is_root(),
            "only root gives files to others: run the tests as root, in a container for instance"
        );
        let dir = data(addresses);
        std::os::unix::fs::chown(dir.path(), Some(2002), None).unwrap();
        refused(&dir, "belongs to user 2002");
        // A server's own account has its directory from root, in a place of root's.
        let above = tempfile::tempdir().unwrap();
        let inner = above.path().join("muster");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join(ADDRESSES), addresses).unwrap();
        std::os::unix::fs::chown(&inner, Some(2002), None).unwrap();
        data_check(&inner).unwrap();
        assert!(find(&Globals { data: Some(inner.clone()), ..Globals::default() }).is_ok());
        // The account leads root to a file that it may not read itself, and to a server of its own.
        let token = inner.join(ADMIN_TOKEN);
        std::os::unix::fs::symlink("/etc/hostname", &token).unwrap();
        std::os::unix::fs::lchown(&token, Some(2002), None).unwrap();
        assert!(data_check(&inner).unwrap_err().to_string().contains("admin.token belongs to user 2002"));
        assert!(read_inside(&inner, ADMIN_TOKEN).is_err(), "nor does it when it is exchanged after the look");
        std::fs::remove_file(&token).unwrap();
        std::fs::write(&token, "x").unwrap();
        std::os::unix::fs::chown(&token, Some(2003), None).unwrap();
        assert!(data_check(&inner).unwrap_err().to_string().contains("belongs to user 2003"));
        std::fs::remove_file(&token).unwrap();
        data_check(&inner).unwrap();
        open_to_all(above.path());
        assert!(data_check(&inner).is_err());
    }

    fn globals(dir: &tempfile::TempDir) -> Globals {
        Globals { data: Some(dir.path().to_owned()), ..Globals::default() }
    }

    #[test]
    fn the_data_directory_tells_address_and_token() {
        let dir = data(r#"{"agents": "0.0.0.0:4443", "operators": "0.0.0.0:8080"}"#);
        let door = find(&globals(&dir)).unwrap();
        assert_eq!(door.url.as_str(), "http://127.0.0.1:8080/");
        assert_eq!(door.token.as_deref(), Some("secret"));
        assert_eq!(door.trust, Trust::System);
    }

    #[test]
    fn an_address_with_https_is_taken_as_it_stands_and_the_authority_beside_it_trusted() {
        let dir = data(r#"{"operators": "[::1]:8080", "operators_url": "https://localhost:8080"}"#);
        std::fs::write(dir.path().join(CA), "pem").unwrap();
        let door = find(&globals(&dir)).unwrap();
        assert_eq!(door.url.as_str(), "https://localhost:8080/");
        assert_eq!(door.trust, Trust::Besides(dir.path().join(CA)));
        let other = dir.path().join("other.pem");
        let door = find(&Globals { ca: Some(other.clone()), ..globals(&dir) }).unwrap();
        assert_eq!(door.trust, Trust::Only(other));
    }

    #[test]
    fn the_certificate_of_the_server_on_this_machine_is_trusted_as_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("operators.pem");
        let text = format!(
            r#"{{"operators": "127.0.0.1:1", "operators_url": "https://localhost:1", "operators_certificate": {own:?}}}"#
        );
        let dir = data(&text);
        assert_eq!(find(&globals(&dir)).unwrap().trust, Trust::System, "it is not there");
        std::fs::write(&own, "pem").unwrap();
        assert_eq!(find(&globals(&dir)).unwrap().trust, Trust::Only(own));
    }

    #[test]
    fn a_certificate_that_is_a_device_a_pipe_or_has_no_end_is_passed_over() {
        let outside = tempfile::tempdir().unwrap();
        let [pipe, large, link, open] = ["pipe", "large", "link", "open"].map(|name| outside.path().join(name));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::fs::File::create(&large).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        std::fs::write(&open, "pem").unwrap();
        let found = |path: &Path| {
            let dir = data(&format!(
                r#"{{"operators": "127.0.0.1:1", "operators_url": "https://localhost:1", "operators_certificate": {path:?}}}"#
            ));
            find(&globals(&dir)).unwrap().trust
        };
        assert_eq!(found(&open), Trust::Only(open.clone()));
        std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        for wrong in [Path::new("/dev/zero"), &pipe, &large, &link, &open] {
            assert_eq!(found(wrong), Trust::System, "{wrong:?}");
        }
    }

    #[test]
    fn the_local_token_is_not_sent_to_another_server() {
        let dir = data(r#"{"operators": "127.0.0.1:8080"}"#);
        let with = |url: &str| find(&Globals { url: Some(url.to_owned()), ..globals(&dir) }).unwrap();
        assert_eq!(with("http://elsewhere.example:8080").token, None);
        assert_eq!(with("https://127.0.0.1:8080").token, None);
        assert_eq!(with("http://127.0.0.1:8080").token.as_deref(), Some("secret"));
    }

    #[test]
    fn a_flag_wins_over_the_data_directory() {
        let dir = data(r#"{"operators": "127.0.0.1:8080"}"#);
        let file = dir.path().join("mine");
        std::fs::write(&file, " mine \n").unwrap();
        let globals = Globals { token: Some(format!("@{}", file.display())), ..globals(&dir) };
        assert_eq!(find(&globals).unwrap().token.as_deref(), Some("mine"));
    }

    #[test]
    fn no_token_leaves_this_machine_in_clear() {
        let dir = data("{}");
        let with = |url: &str| Globals { url: Some(url.to_owned()), token: Some("t".to_owned()), ..globals(&dir) };
        for elsewhere in ["http://muster.example:8080", "http://10.0.0.1", "http://127.0.0.1.example", "http://[::2]"] {
            let failure = find(&with(elsewhere)).unwrap_err();
            assert!(failure.exit == Exit::Usage && failure.next.contains("--token-in-clear"), "{failure}");
            let told = Globals { token_in_clear: true, ..with(elsewhere) };
            assert_eq!(find(&told).unwrap().token.as_deref(), Some("t"));
            // Without a token there is nothing to lose.
            assert!(find(&Globals { token: None, ..with(elsewhere) }).is_ok());
        }
        for here in ["http://127.0.0.2:1", "http://[::1]:1", "http://localhost", "https://muster.example"] {
            assert!(find(&with(here)).is_ok(), "{here}");
        }
    }

    #[test]
    fn without_any_server_it_is_said_where_was_looked_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let failure = find(&globals(&dir)).unwrap_err();
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.why.contains(&dir.path().display().to_string()), "{failure}");
        assert!(failure.next.contains("MUSTER_URL"), "{failure}");
    }

    #[test]
    fn an_address_that_is_none_is_refused_before_anything_is_sent() {
        let dir = data(r#"{"operators": "127.0.0.1:8080"}"#);
        for wrong in ["", "muster:8080", "ftp://x", "http://me:secret@x", "127.0.0.1:8080", "http://"] {
            let failure = find(&Globals { url: Some(wrong.to_owned()), ..globals(&dir) }).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{wrong}");
        }
        assert_eq!(find(&Globals { token: Some("a b".into()), ..globals(&dir) }).unwrap_err().exit, Exit::Usage);
    }
}
