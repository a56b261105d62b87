//! `muster backup`: a copy of everything, taken from a running server.

use crate::output::{Progress, size};
use crate::{Context, Failure};
use reqwest::Method;
use std::path::{Path, PathBuf};
use tokio::fs::File;

/// Takes a backup of the server into `out`.
pub async fn run(context: &Context, out: &Path) -> Result<(), Failure> {
    const WHAT: &str = "could not take a backup";
    let save = Save::begin(WHAT, out).await?;
    let answer = context.api.download(WHAT, Method::POST, &["backup"]).await?;
    let progress = Progress::new("backup", answer.content_length(), context.out.json);
    let mut file = save.file().await?;
    let (bytes, sha256) = super::file::copy(context, WHAT, answer, &mut file, progress).await?;
    save.finish(file).await?;
    told(context.out, out, bytes, &sha256)
}

/// Says that a backup was taken.
fn told(output: crate::Output, path: &Path, bytes: u64, sha256: &str) -> Result<(), Failure> {
    let path = path.display().to_string();
    if output.json {
        return output.json(&serde_json::json!({ "file": path, "bytes": bytes, "sha256": sha256 }));
    }
    output.line(&crate::output::safe(&format!("{path}  {}  {sha256}", size(bytes))))
}

/// A file that appears under its name only when it is whole: it is written beside it and renamed at the end, and
/// removed when the command ends before that.
pub(super) struct Save {
    what: String,
    path: PathBuf,
    part: PathBuf,
}

impl Save {
    /// Chooses the place beside `path`. A directory is refused.
    pub(super) async fn begin(what: &str, path: &Path) -> Result<Self, Failure> {
        if tokio::fs::metadata(path).await.is_ok_and(|about| about.is_dir()) {
            return Err(Failure::usage(what, "it is a directory").on(path.display()).next("name a file in it"));
        }
        let mut part = path.as_os_str().to_owned();
        part.push(format!(".part-{}", std::process::id()));
        Ok(Self { what: what.to_owned(), path: path.to_owned(), part: part.into() })
    }

    /// Creates the file, readable by its owner only.
    pub(super) async fn file(&self) -> Result<File, Failure> {
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        options.open(&self.part).await.map_err(|error| self.failed(&error))
    }

    /// Makes the file durable and gives it its name.
    pub(super) async fn finish(self, file: File) -> Result<(), Failure> {
        file.sync_all().await.map_err(|error| self.failed(&error))?;
        tokio::fs::rename(&self.part, &self.path).await.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        Failure::local(&self.what, self.path.display(), error)
    }
}

impl Drop for Save {
    fn drop(&mut self) {
        // After the end it has its name; before it, what is left is of no use. A file that is not there is no trouble.
        let _ = std::fs::remove_file(&self.part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test]
    async fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("copy");
        let save = Save::begin("x", &path).await.unwrap();
        let mut file = save.file().await.unwrap();
        file.write_all(b"half").await.unwrap();
        drop(save);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

        let save = Save::begin("x", &path).await.unwrap();
        let mut file = save.file().await.unwrap();
        file.write_all(b"whole").await.unwrap();
        save.finish(file).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(Save::begin("x", dir.path()).await.is_err());
    }
}
