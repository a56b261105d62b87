//! Files that commands write (`--out`): one way for all of them.
//!
//! Stays true: a file of a person's is never replaced in silence; a file appears under its name only when it is whole; what
//! is no regular file (a pipe, a device) is written through and stays what it is; a link stays a link, and the file behind
//! it is the one that is written; `-` is standard output.
//! Not here: directories of several files (`agent config`).

use crate::{Exit, Failure, Output};
use std::io::{Error, ErrorKind};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

/// Links that are followed to a file that is not there yet; the kernel follows as many.
const LINKS_MAX: usize = 40;

/// Whether a file that is there may be replaced.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct ReplaceArgs {
    /// Replace the file if it is there
    #[arg(long)]
    pub replace: bool,
}

/// Who may read a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Its owner only: it holds secrets.
    Owner,
    /// Whom the umask lets.
    All,
}

impl Readers {
    fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::All => 0o666,
        }
    }
}

/// A file that is being written. Dropped before its end it leaves nothing behind.
#[derive(Debug)]
pub struct Save {
    what: String,
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Standard output.
    Standard,
    /// What is there is written to, and stays what it is.
    Through { appends: bool },
    /// A file is written beside `target`, and gets its name at the end.
    Beside { target: PathBuf, part: PathBuf, mode: u32, replace: bool },
}

impl Save {
    /// Looks at what `path` is; nothing is written yet. `what` is what fails when this does.
    ///
    /// # Errors
    /// It is a directory; it is a file that holds something, and must not be replaced; it cannot be looked at.
    pub fn begin(what: &str, path: &Path, readers: Readers, replace: ReplaceArgs) -> Result<Self, Failure> {
        let save = |place| Self { what: what.to_owned(), path: path.to_owned(), place };
        if is_standard(path) {
            return Ok(save(Place::Standard));
        }
        let failed = |error: Error| Failure::local(what, path.display(), &error);
        let beside = |target: PathBuf| {
            let mut part = target.as_os_str().to_owned();
            part.push(format!(".part-{}", std::process::id()));
            save(Place::Beside { target, part: part.into(), mode: readers.mode(), replace: replace.replace })
        };
        let about = match std::fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(beside(behind_links(path).map_err(failed)?));
            }
            about => about.map_err(failed)?,
        };
        if about.is_dir() {
            return Err(Failure::usage(what, "it is a directory").on(path.display()).next("name a file in it"));
        }
        if is_descriptor(path) || !about.is_file() {
            // What lies behind an open descriptor has a writer already: it is neither replaced nor emptied.
            return Ok(save(Place::Through { appends: about.is_file() }));
        }
        // A file without content, such as mktemp makes, holds nothing that could be lost.
        if about.size() > 0 && !replace.replace {
            return Err(there_already(what, path));
        }
        Ok(beside(std::fs::canonicalize(path).map_err(failed)?))
    }

    /// Opens what is written to. A pipe is waited for until somebody reads it.
    pub async fn file(&self) -> Result<File, Failure> {
        let opened = match &self.place {
            Place::Standard => std::io::stdout().as_fd().try_clone_to_owned().map(|own| File::from_std(own.into())),
            Place::Through { appends } => File::options().write(true).append(*appends).open(&self.path).await,
            Place::Beside { part, mode, .. } => {
                File::options().write(true).create_new(true).mode(*mode).open(part).await
            }
        };
        opened.map_err(|error| self.failed(&error))
    }

    /// Where the bytes go that have no name of their own yet: a file of the same directory, which [`Self::finish_part`] names.
    /// `None` for what is written through.
    pub fn part(&self) -> Option<&Path> {
        match &self.place {
            Place::Beside { part, .. } => Some(part),
            _ => None,
        }
    }

    /// Makes what was written durable and gives it its name.
    pub async fn finish(self, mut file: File) -> Result<(), Failure> {
        file.flush().await.map_err(|error| self.failed(&error))?;
        if self.part().is_some() {
            file.sync_all().await.map_err(|error| self.failed(&error))?;
        }
        self.finish_part()
    }

    /// Gives the file that lies whole at [`Self::part`] its name.
    pub fn finish_part(self) -> Result<(), Failure> {
        let Place::Beside { target, part, replace, .. } = &self.place else { return Ok(()) };
        let holds = || std::fs::symlink_metadata(target).is_ok_and(|about| about.size() > 0);
        if !replace && holds() {
            return Err(there_already(&self.what, &self.path));
        }
        std::fs::rename(part, target).map_err(|error| self.failed(&error))
    }

    /// Returns the failure of writing it.
    pub fn failed(&self, error: &Error) -> Failure {
        match error.kind() {
            ErrorKind::BrokenPipe => Failure::reader_gone(),
            _ => Failure::local(&self.what, self.path.display(), error),
        }
    }
}

impl Drop for Save {
    fn drop(&mut self) {
        if let Some(part) = self.part() {
            // After the end it has its name; before it, what is left is of no use. A file that is not there is no trouble.
            let _ = std::fs::remove_file(part);
        }
    }
}

/// Writes a short text to `path`, or to standard output when there is none.
pub async fn write(
    out: Output,
    what: &str,
    path: Option<&Path>,
    text: &str,
    replace: ReplaceArgs,
) -> Result<(), Failure> {
    let Some(path) = named(path) else { return out.bytes(text.as_bytes()) };
    let save = Save::begin(what, path, Readers::All, replace)?;
    let mut file = save.file().await?;
    file.write_all(text.as_bytes()).await.map_err(|error| save.failed(&error))?;
    save.finish(file).await
}

/// Refuses to write bytes that are no text to a terminal, where they could steer it, unless the terminal is named as a
/// file. For commands that write files as they are.
pub fn raw_check(what: &str, path: &Path) -> Result<(), Failure> {
    use std::io::IsTerminal as _;
    if path != Path::new("-") || !std::io::stdout().is_terminal() {
        return Ok(());
    }
    Err(Failure::usage(what, "standard output is a terminal, and these bytes are no text")
        .on("--out -")
        .next("write it to a file or into a pipe; --out /dev/stdout writes it to the terminal all the same"))
}

/// Returns the file that an `--out` names: none for `-`.
pub fn named(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| *path != Path::new("-"))
}

/// Whether `path` is standard output: `-`, or another name of what is open there.
pub fn is_standard(path: &Path) -> bool {
    if path == Path::new("-") {
        return true;
    }
    let Ok(about) = std::fs::metadata(path) else { return false };
    let open = std::io::stdout().as_fd().try_clone_to_owned().map(std::fs::File::from);
    // Devices are nobody's alone: /dev/null is written through whether or not it is standard output.
    about.is_file()
        && open
            .and_then(|open| open.metadata())
            .is_ok_and(|open| (open.dev(), open.ino()) == (about.dev(), about.ino()))
}

/// Whether a path names an open descriptor, such as /dev/stdout or /dev/fd/3.
fn is_descriptor(path: &Path) -> bool {
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Some(parent) = at.parent().and_then(|parent| std::fs::canonicalize(parent).ok()) else { return false };
        if parent.starts_with("/proc") {
            return true;
        }
        match std::fs::read_link(&at) {
            Ok(link) => at = parent.join(link),
            Err(_) => return false,
        }
    }
    false
}

/// Follows links that lead to nothing yet.
fn behind_links(path: &Path) -> Result<PathBuf, Error> {
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        match std::fs::read_link(&at) {
            Ok(link) => at = at.parent().unwrap_or(Path::new("")).join(link),
            Err(_) => return Ok(at),
        }
    }
    Err(Error::other("too many links"))
}

fn there_already(what: &str, path: &Path) -> Failure {
    Failure::new(Exit::Conflict, what, "there is a file of this name already")
        .on(path.display())
        .next("name another, or pass --replace")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};
    use std::process::Command;

    const KEEP: ReplaceArgs = ReplaceArgs { replace: false };
    const REPLACE: ReplaceArgs = ReplaceArgs { replace: true };

    async fn put(path: &Path, text: &str, replace: ReplaceArgs) -> Result<(), Failure> {
        let save = Save::begin("x", path, Readers::Owner, replace)?;
        let mut file = save.file().await?;
        file.write_all(text.as_bytes()).await.map_err(|error| save.failed(&error))?;
        save.finish(file).await
    }

    fn text(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[tokio::test]
    async fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("copy");
        let save = Save::begin("x", &path, Readers::Owner, KEEP).unwrap();
        let mut file = save.file().await.unwrap();
        file.write_all(b"half").await.unwrap();
        drop(save);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        put(&path, "whole", KEEP).await.unwrap();
        assert_eq!(text(&path), "whole");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(Save::begin("x", dir.path(), Readers::All, REPLACE).is_err());
    }

    #[tokio::test]
    async fn what_a_file_holds_is_replaced_only_when_somebody_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine");
        std::fs::write(&path, "mine").unwrap();
        let failure = put(&path, "new", KEEP).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Conflict);
        assert!(failure.on.contains("mine") && failure.next.contains("--replace"), "{failure}");
        assert_eq!(text(&path), "mine");
        put(&path, "new", REPLACE).await.unwrap();
        assert_eq!(text(&path), "new");
        // One that came while the command was at work is a person's, too.
        let late = dir.path().join("late");
        let save = Save::begin("x", &late, Readers::All, KEEP).unwrap();
        let file = save.file().await.unwrap();
        std::fs::write(&late, "theirs").unwrap();
        assert_eq!(save.finish(file).await.unwrap_err().exit, Exit::Conflict);
        assert_eq!(text(&late), "theirs");
        // An empty one, such as mktemp makes, holds nothing.
        std::fs::write(&late, "").unwrap();
        put(&late, "filled", KEEP).await.unwrap();
        assert_eq!(text(&late), "filled");
    }

    #[tokio::test]
    async fn a_link_stays_a_link_and_its_file_is_the_one_that_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "old").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("link", at("far")).unwrap();
        assert_eq!(put(&at("far"), "new", KEEP).await.unwrap_err().exit, Exit::Conflict);
        put(&at("far"), "new", REPLACE).await.unwrap();
        assert_eq!(text(&at("file")), "new");
        symlink("nothing", at("loose")).unwrap();
        put(&at("loose"), "made", KEEP).await.unwrap();
        assert_eq!(text(&at("nothing")), "made");
        for link in ["link", "far", "loose"] {
            assert!(std::fs::symlink_metadata(at(link)).unwrap().is_symlink(), "{link}");
        }
    }

    #[tokio::test]
    async fn pipes_and_devices_are_written_through_and_stay_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::read_to_string(pipe).unwrap()
        });
        put(&pipe, "through", KEEP).await.unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
        let link = dir.path().join("full");
        symlink("/dev/full", &link).unwrap();
        let failure = put(&link, "nowhere", KEEP).await.unwrap_err();
        assert!(failure.why.contains("No space left"), "{failure}");
        put(Path::new("/dev/null"), "nowhere", KEEP).await.unwrap();
        for device in ["/dev/full", "/dev/null"] {
            assert!(std::fs::metadata(device).unwrap().file_type().is_char_device(), "{device}");
        }
    }

    #[tokio::test]
    async fn an_open_descriptor_is_written_behind_what_it_has() {
        use std::os::fd::AsRawFd as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "before ").unwrap();
        let open = std::fs::File::options().append(true).open(&path).unwrap();
        put(Path::new(&format!("/dev/fd/{}", open.as_raw_fd())), "after", KEEP).await.unwrap();
        assert_eq!(text(&path), "before after");
        assert!(is_standard(Path::new("-")));
    }
}
