//! Whether what a server lives on is its user's alone: the data directory, the files in it, and the files that the
//! configuration names.
//!
//! Stays true: a directory is taken only where no other user could have put something into it; of what is there, only the
//! mode of the directory is changed. Not here: what the files say.

use crate::config::{Config, ConfigError};
use muster_modules::place::{
    Absent, Keeper, PlaceError, account_name, group_is_ours, place_check_for, run_as, way_check,
};
use rustix::process::geteuid;
use std::fs::{DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A file of each server, by which a directory that others can read is known to be one.
const MARKS: [&str; 3] = ["server.lock", "muster.db", "ca.pem"];
/// The file in which the first administrator's token lies.
const TOKEN: &str = "admin.token";
/// Files of an embedded database, beside the database itself: what is appended to its name.
const BESIDE: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Why a directory or a file is not the server's user's alone.
#[derive(Debug, thiserror::Error)]
pub enum OwnershipError {
    /// Other users could exchange it, or own something on the way to it.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// It could not be looked at, made or changed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// It is no directory.
    #[error("{} is not a directory: name one with `data` in the configuration or --data", .0.display())]
    NotDirectory(PathBuf),
    /// The data directory is another user's.
    #[error(
        "{} belongs to {} (mode {mode:04o}), and this runs as user {us}: its owner can read and change the authority's key \
         and every token, and could not use what this leaves in it. If that is the server's own user, run this as it, as root \
         with `{} muster …`; else name another directory, or, after making sure of everything in it, `chown -R {us} {}`; a \
         mount into a container needs user {us} as its owner",
        path.display(),
        account_name(*owner),
        run_as(*owner),
        path.display()
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Its mode, without the kind of file.
        mode: u32,
        /// As whom this process runs.
        us: u32,
    },
    /// Others could write into it, and it holds something.
    #[error(
        "{} could be written by others (owner {owner}, mode {mode:04o}) and is not empty: what lies in it may be theirs. Name \
         another directory, or, after making sure of everything in it, `chmod 700 {}`",
        path.display(),
        path.display()
    )]
    Filled {
        /// The directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Its mode, without the kind of file.
        mode: u32,
    },
    /// Others can read it, and it holds what is not Muster's.
    #[error(
        "{} has mode {mode:04o} (owner {owner}) and holds files that are not Muster's: name a directory of its own, or make \
         this one private with `chmod 700 {}`",
        path.display(),
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Its mode, without the kind of file.
        mode: u32,
    },
    /// A directory for messages is another user's, or everybody's.
    #[error(
        "{} belongs to user {owner} (mode {mode:04o}): its owner, and whoever may write there, can read, exchange and take away \
         what machines sent. Let it belong to user {us} or root, and let only the group of the program that reads it write: \
         `chown {us} {}` and `chmod o-w {}`",
        path.display(),
        path.display(),
        path.display()
    )]
    Destination {
        /// The directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Its mode, without the kind of file.
        mode: u32,
        /// As whom this process runs.
        us: u32,
    },
    /// Others can read a secret.
    #[error(
        "{} holds a secret, and others can read it (owner {owner}, group {group}, mode {mode:04o}): `chmod 600 {}` (in \
         Kubernetes `defaultMode: 0400` of the volume with the secret), and replace what was in it if others may have read it",
        path.display(),
        path.display()
    )]
    Readable {
        /// What.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Its group.
        group: u32,
        /// Its mode, without the kind of file.
        mode: u32,
    },
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OwnershipError {
    let path = path.to_owned();
    move |source| OwnershipError::Io { doing, path, source }
}

fn mode(found: &Metadata) -> u32 {
    found.mode() & 0o7777
}

/// Makes the data directory if it is not there, and makes sure that it and what lies in it are this process's user's alone.
/// One of ours that others can only read is made private (mode 0700).
///
/// # Errors
/// What other users own, could have put there, or can read; with owner, mode and what to do.
pub fn directory_take(data: &Path) -> Result<(), OwnershipError> {
    way_check(data)?;
    DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(io("make", data))?;
    let keeper = Keeper::this_process();
    let found = owned(&keeper, data)?;
    if found.mode() & 0o077 != 0 {
        let is_empty = std::fs::read_dir(data).map_err(io("read", data))?.next().is_none();
        let (path, owner, mode) = (data.to_owned(), found.uid(), mode(&found));
        if !is_empty && mode & 0o022 != 0 {
            return Err(OwnershipError::Filled { path, owner, mode });
        }
        if !is_empty && !MARKS.iter().any(|mark| data.join(mark).exists()) {
            return Err(OwnershipError::Foreign { path, owner, mode });
        }
        std::fs::set_permissions(data, Permissions::from_mode(0o700)).map_err(io("make private", data))?;
        // Others may have put something there between the look and the change.
        if is_empty && std::fs::read_dir(data).map_err(io("read", data))?.next().is_some() {
            return Err(OwnershipError::Filled { path, owner, mode });
        }
    }
    content_check(&keeper, data)
}

/// Returns whose what a server lives on may be, for a command that only looks at it: this process's user, and for root also
/// the account that the data directory was given to. What root only reads there leads it nowhere else, see [`Keeper::of`] and
/// [`place_check_for`]. What writes, or runs as what the configuration says, asks for [`Keeper::this_process`]: files of root
/// in the directory would lock its server out.
pub fn keeper_of(data: &Path) -> Keeper {
    let this = Keeper::this_process();
    if geteuid().is_root() { Keeper::of(data).unwrap_or(this) } else { this }
}

/// Looks at a data directory that is there, as [`directory_take`] would, and changes nothing. Its mode is the caller's to
/// look at.
///
/// # Errors
/// What others than root and `keeper` own, could exchange, or can read.
pub fn directory_check(keeper: &Keeper, data: &Path) -> Result<(), OwnershipError> {
    way_check_for(keeper, data)?;
    owned(keeper, data)?;
    content_check(keeper, data)
}

/// The way to a place of another account was looked at when that account became its keeper.
fn way_check_for(keeper: &Keeper, path: &Path) -> Result<(), PlaceError> {
    if keeper.is_other() { Ok(()) } else { way_check(path) }
}

/// Looks at the files of an embedded database, wherever it lies; what is not there yet may be missing where nobody else can
/// put it.
///
/// # Errors
/// What others than root and `keeper` own or could exchange.
pub fn database_check(keeper: &Keeper, file: &Path) -> Result<(), OwnershipError> {
    for end in BESIDE {
        let mut name = file.as_os_str().to_owned();
        name.push(end);
        place_check_for(keeper, Path::new(&name), Absent::IfOurs)?;
    }
    Ok(())
}

/// Returns what lies at the directory's path, if that is a directory of its keeper.
fn owned(keeper: &Keeper, data: &Path) -> Result<Metadata, OwnershipError> {
    let found = std::fs::metadata(data).map_err(io("look at", data))?;
    if !found.is_dir() {
        return Err(OwnershipError::NotDirectory(data.to_owned()));
    }
    if found.uid() != keeper.user() {
        let (owner, us) = (found.uid(), geteuid().as_raw());
        return Err(OwnershipError::Owner { path: data.to_owned(), owner, mode: mode(&found), us });
    }
    Ok(found)
}

/// Looks at everything that lies directly in the data directory: whatever is there decides, or is written over.
fn content_check(keeper: &Keeper, data: &Path) -> Result<(), OwnershipError> {
    for entry in std::fs::read_dir(data).map_err(io("read", data))? {
        let path = entry.map_err(io("read", data))?.path();
        // A server that runs puts files there and takes them away.
        match place_check_for(keeper, &path, Absent::Made) {
            // The directory is ours, and is made private: an open mode of a socket in it lets nobody in.
            Err(PlaceError::Writable { .. }) if is_socket(&path) => {}
            looked => looked?,
        }
    }
    let token = data.join(TOKEN);
    if token.exists() { secret_check(keeper, &token) } else { Ok(()) }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Makes sure that nobody but root and `keeper` can change a file that holds a secret, or read it. The group of root, and the
/// keeper's own without another member, may read it.
///
/// # Errors
/// Who else can.
pub fn secret_check(keeper: &Keeper, path: &Path) -> Result<(), OwnershipError> {
    place_check_for(keeper, path, Absent::Refused)?;
    let real = std::fs::canonicalize(path).map_err(io("look at", path))?;
    let found = std::fs::metadata(&real).map_err(io("look at", path))?;
    let by_group = found.mode() & 0o040 != 0 && !group_is_ours(keeper, &real, &found)?;
    if found.mode() & 0o004 == 0 && !by_group {
        return Ok(());
    }
    let (owner, group, mode) = (found.uid(), found.gid(), mode(&found));
    Err(OwnershipError::Readable { path: path.to_owned(), owner, group, mode })
}

/// Makes sure that nobody but root and `keeper` can change the configuration's file. One that is not there is for the caller
/// to report.
///
/// # Errors
/// Who else can.
pub fn configuration_check(keeper: &Keeper, path: &Path) -> Result<(), OwnershipError> {
    match place_check_for(keeper, path, Absent::Refused) {
        Err(error) if error.is_absent() => Ok(()),
        looked => Ok(looked?),
    }
}

/// Makes sure that nobody but root and this process's user can change a certificate or its key, or read the key.
///
/// # Errors
/// Who else can.
pub fn pair_check(certificate: &Path, key: &Path) -> Result<(), OwnershipError> {
    let keeper = Keeper::this_process();
    place_check_for(&keeper, certificate, Absent::Refused)?;
    secret_check(&keeper, key)
}

/// Looks at the directory into which a service writes messages; it may be missing where nobody else can put it. A group may
/// write there: the program that reads the files takes them away.
///
/// # Errors
/// Who else could exchange it, owns it, or can write into it.
pub fn destination_check(keeper: &Keeper, directory: &Path) -> Result<(), OwnershipError> {
    way_check_for(keeper, directory)?;
    let found = match std::fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(io("look at", directory))?,
    };
    if !found.is_dir() {
        return Err(OwnershipError::NotDirectory(directory.to_owned()));
    }
    let (us, owner, mode) = (geteuid().as_raw(), found.uid(), mode(&found));
    if mode & 0o002 == 0 && [0, us, keeper.user()].contains(&owner) {
        return Ok(());
    }
    Err(OwnershipError::Destination { path: directory.to_owned(), owner, mode, us })
}

/// Looks at every file that the configuration names: certificates, authorities and the services file, which nobody else may
/// change, and private keys, which nobody else may read either; nobody else than root and `keeper`, that is. What is not there
/// is for its reader to report. What is wrong with several of them alike, such as with a directory above them, is one error
/// with all their keys.
pub fn configured(keeper: &Keeper, config: &Config) -> Vec<ConfigError> {
    let (agents, operators, admin) = (&config.agents, &config.operators, &config.admin);
    let mut named = vec![
        ("agents.certificate".to_owned(), &agents.certificate, false),
        ("agents.key".to_owned(), &agents.key, true),
        ("agents.authority".to_owned(), &agents.authority, false),
        ("agents.signature_authorities".to_owned(), &agents.signature_authorities, false),
        ("operators.certificate".to_owned(), &operators.certificate, false),
        ("operators.key".to_owned(), &operators.key, true),
        ("admin.certificate".to_owned(), &admin.certificate, false),
        ("admin.key".to_owned(), &admin.key, true),
        ("admin.client_ca".to_owned(), &admin.client_ca, false),
        ("fleetspeak_services".to_owned(), &config.fleetspeak_services, false),
    ];
    for (index, service) in config.services.iter().enumerate() {
        named.push((format!("services[{index}].cert_file"), &service.cert_file, false));
    }
    let looked = named.into_iter().filter_map(|(key, path, is_secret)| {
        let path = path.as_deref()?;
        let looked = if is_secret {
            secret_check(keeper, path)
        } else {
            place_check_for(keeper, path, Absent::Refused).map_err(Into::into)
        };
        Some((key, looked))
    });
    let destinations = config.services.iter().enumerate().filter_map(|(index, service)| {
        let directory = service.directory.as_deref()?;
        Some((format!("services[{index}].directory"), destination_check(keeper, directory)))
    });
    let mut wrong: Vec<(String, Vec<String>)> = Vec::new();
    for (key, looked) in looked.chain(destinations) {
        let why = match looked {
            Ok(()) => continue,
            Err(OwnershipError::Place(error)) if error.is_absent() => continue,
            Err(error) => crate::observe::Chain(&error).to_string(),
        };
        match wrong.iter_mut().find(|(known, _)| *known == why) {
            Some((_, keys)) => keys.push(key),
            None => wrong.push((why, vec![key])),
        }
    }
    let problem = |(why, keys): (String, Vec<String>)| ConfigError {
        origin: "a file that the configuration names".to_owned(),
        key: keys.join(", "),
        why,
        advice: "Run this as the server's user, and let the file belong to that user or root.".to_owned(),
    };
    wrong.into_iter().map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};

    fn this() -> Keeper {
        Keeper::this_process()
    }

    fn set(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn why(looked: Result<(), OwnershipError>) -> String {
        looked.unwrap_err().to_string()
    }

    #[test]
    fn a_directory_that_others_could_fill_is_taken_only_when_it_is_empty() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        for open in [0o777, 0o1777, 0o757] {
            std::fs::create_dir(&data).unwrap();
            set(&data, open);
            std::fs::write(data.join("muster.db"), "theirs").unwrap();
            let why = why(directory_take(&data));
            assert!(why.contains(&format!("mode {open:04o}")) && why.contains("not empty"), "{why}");
            assert_eq!(mode(&std::fs::metadata(&data).unwrap()), open, "it is left as it was");
            std::fs::remove_file(data.join("muster.db")).unwrap();
            directory_take(&data).unwrap();
            assert_eq!(mode(&std::fs::metadata(&data).unwrap()), 0o700);
            std::fs::remove_dir(&data).unwrap();
        }
        // Others could only read this one.
        std::fs::create_dir(&data).unwrap();
        set(&data, 0o755);
        std::fs::write(data.join("notes"), "").unwrap();
        assert!(why(directory_take(&data)).contains("not Muster's"));
        std::fs::rename(data.join("notes"), data.join("ca.pem")).unwrap();
        directory_take(&data).unwrap();
        assert_eq!(mode(&std::fs::metadata(&data).unwrap()), 0o700);
    }

    #[test]
    fn the_way_and_every_file_are_ours() {
        let root = tempfile::tempdir().unwrap();
        let (above, data) = (root.path().join("above"), root.path().join("above/data"));
        directory_take(&data).unwrap();
        let (token, database) = (data.join("admin.token"), data.join("muster.db"));
        std::fs::write(&token, "").unwrap();
        std::fs::write(&database, "").unwrap();
        set(&token, 0o600);
        directory_take(&data).unwrap();
        set(&token, 0o644);
        assert!(why(directory_take(&data)).contains("holds a secret"));
        set(&token, 0o600);
        set(&database, 0o666);
        assert!(why(directory_check(&this(), &data)).contains("muster.db can be written by others"));
        assert!(why(database_check(&this(), &database)).contains("muster.db can be written by others"));
        set(&database, 0o600);
        set(&above, 0o777);
        for looked in [directory_take(&data), directory_check(&this(), &data), database_check(&this(), &database)] {
            assert!(why(looked).contains("above can be written by others"));
        }
        // A directory below a sticky one cannot be exchanged, as in /tmp.
        set(&above, 0o1777);
        directory_take(&data).unwrap();
        assert!(why(database_check(&this(), &above.join("none.db"))).contains("others could put it there"));
        symlink(&data, above.join("link")).unwrap();
        directory_take(&above.join("link")).unwrap();
        std::fs::write(above.join("file"), "").unwrap();
        assert!(directory_take(&above.join("file")).is_err());
    }

    #[test]
    fn what_another_user_owns_is_not_taken() {
        // Only root gives files to others.
        assert!(
            geteuid().is_root(),
            "only root gives files to others: run the tests as root, in a container for instance"
        );
        let root = tempfile::tempdir().unwrap();
        let (data, link) = (root.path().join("data"), root.path().join("link"));
        directory_take(&data).unwrap();
        chown(&data, Some(2002), None).unwrap();
        for looked in [directory_take(&data), directory_check(&this(), &data)] {
            let why = why(looked);
            assert!(why.contains("belongs to user 2002 (mode 0700)") && why.contains("chown -R 0"), "{why}");
        }
        chown(&data, Some(0), None).unwrap();
        for name in ["muster.db", "muster.db-wal", "server.lock", "addresses.json"] {
            std::fs::write(data.join(name), "").unwrap();
            chown(data.join(name), Some(2002), None).unwrap();
            let why = why(directory_take(&data));
            assert!(why.contains(&format!("{name} belongs to user 2002")), "{why}");
            std::fs::remove_file(data.join(name)).unwrap();
        }
        symlink(&data, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(2002), None).unwrap();
        assert!(why(directory_take(&link)).contains("link belongs to user 2002"));
    }

    #[test]
    fn a_directory_for_messages_is_neither_everybodys_nor_anothers() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("service");
        let service = crate::config::Service { directory: Some(directory.clone()), ..Default::default() };
        let config = Config { services: vec![service], ..Config::default() };
        assert_eq!(configured(&this(), &config), [], "it is made by the start");
        std::fs::create_dir(&directory).unwrap();
        // The program that reads the files takes them away.
        for right in [0o700, 0o750, 0o770] {
            set(&directory, right);
            assert_eq!(configured(&this(), &config), []);
        }
        set(&directory, 0o777);
        let found = configured(&this(), &config);
        assert_eq!(found[0].key, "services[0].directory");
        assert!(found[0].why.contains("mode 0777") && found[0].why.contains("chmod o-w"), "{}", found[0].why);
        set(&directory, 0o750);
        set(root.path(), 0o777);
        assert!(configured(&this(), &config)[0].why.contains("can be written by others"));
        set(root.path(), 0o700);
        if geteuid().is_root() {
            chown(&directory, Some(2002), None).unwrap();
            assert!(configured(&this(), &config)[0].why.contains("belongs to user 2002"));
        }
        std::fs::remove_dir(&directory).unwrap();
        std::fs::write(&directory, "").unwrap();
        assert!(configured(&this(), &config)[0].why.contains("is not a directory"));
    }

    #[test]
    fn what_the_configuration_names_is_ours_and_keys_are_secret() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for name in ["certificate", "key", "services", "muster.toml"] {
            std::fs::write(at(name), "").unwrap();
            set(&at(name), if name == "key" { 0o600 } else { 0o644 });
        }
        let mut config = Config { fleetspeak_services: Some(at("services")), ..Config::default() };
        config.operators.certificate = Some(at("certificate"));
        config.operators.key = Some(at("key"));
        assert_eq!(configured(&this(), &config), []);
        configuration_check(&this(), &at("muster.toml")).unwrap();
        for (name, key) in
            [("certificate", "operators.certificate"), ("key", "operators.key"), ("services", "fleetspeak_services")]
        {
            let right = mode(&std::fs::metadata(at(name)).unwrap());
            set(&at(name), right | 0o002);
            let found = configured(&this(), &config);
            assert_eq!(found.iter().map(|one| one.key.as_str()).collect::<Vec<_>>(), [key]);
            set(&at(name), right);
        }
        set(&at("key"), 0o644);
        assert!(configured(&this(), &config)[0].why.contains("others can read it"));
        set(&at("muster.toml"), 0o666);
        assert!(why(configuration_check(&this(), &at("muster.toml"))).contains("can be written by others"));
        configuration_check(&this(), &at("none.toml")).unwrap();
    }

    #[test]
    fn a_wrong_directory_is_one_error_for_all_that_lies_in_it() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| Some(root.path().join(name));
        for name in ["certificate", "key", "services"] {
            std::fs::write(root.path().join(name), "").unwrap();
            set(&root.path().join(name), 0o600);
        }
        let mut config = Config { fleetspeak_services: at("services"), ..Config::default() };
        (config.operators.certificate, config.operators.key) = (at("certificate"), at("key"));
        set(root.path(), 0o777);
        let found = configured(&this(), &config);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].key, "operators.certificate, operators.key, fleetspeak_services");
        set(root.path(), 0o755);
        set(&root.path().join("key"), 0o644);
        assert!(configured(&this(), &config)[0].why.contains("defaultMode: 0400"));
    }

    #[test]
    fn root_looks_at_what_it_gave_to_an_account_and_takes_nothing_of_it() {
        assert!(
            geteuid().is_root(),
            "only root gives files to others: run the tests as root, in a container for instance"
        );
        let root = tempfile::tempdir().unwrap();
        let (data, token) = (root.path().join("data"), root.path().join("data/admin.token"));
        directory_take(&data).unwrap();
        std::fs::write(&token, "").unwrap();
        set(&token, 0o600);
        for path in [&data, &token] {
            chown(path, Some(2002), Some(2002)).unwrap();
        }
        let keeper = keeper_of(&data);
        assert_eq!(keeper.user(), 2002);
        directory_check(&keeper, &data).unwrap();
        database_check(&keeper, &data.join("muster.db")).unwrap();
        let why = why(directory_take(&data));
        assert!(why.contains("--reuid 2002") || why.contains("runuser -u"), "{why}");
        // Others in it, and a link of the account, which would lead root elsewhere.
        set(&token, 0o644);
        assert!(directory_check(&keeper, &data).unwrap_err().to_string().contains("holds a secret"));
        std::fs::remove_file(&token).unwrap();
        symlink("/etc/shadow", &token).unwrap();
        std::os::unix::fs::lchown(&token, Some(2002), None).unwrap();
        let why = directory_check(&keeper, &data).unwrap_err().to_string();
        assert!(why.contains("admin.token belongs to user 2002"), "{why}");
        // Where others could have put the directory there, nobody else is its keeper.
        set(root.path(), 0o777);
        assert_eq!(keeper_of(&data), this());
    }
}
