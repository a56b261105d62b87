//! `muster file`: files that machines fetch.
//!
//! Stays true: a file goes through in pieces, whatever its size; what arrived is compared with what was sent by its
//! SHA-256; a download appears under its name only when it is whole.

use super::{Stake, confirm};
use crate::list::{ListArgs, Rows};
use crate::output::{Progress, Table, size, time};
use crate::save::{Readers, ReplaceArgs, Save, is_standard, raw_check};
use crate::{Context, Exit, Failure};
use futures_util::StreamExt as _;
use muster_api::files::{FileQuery, FileRow};
use reqwest::Method;
use sha2::{Digest as _, Sha256};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

/// Bytes read at a time.
const PIECE: usize = 64 * 1024;

/// `muster file`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster file put Updates agent-2.1.tar.gz
  muster file put Updates ./build/out.bin --name rules.bin
  tar c dir | muster file put Updates - --name dir.tar
  muster file get Updates rules.bin --out /tmp/rules.bin
  muster file list --service Updates")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Put a file, in the place of an older one of that name
    Put {
        /// The service it belongs to
        service: String,
        /// The file to read, or - for standard input
        file: PathBuf,
        /// Its name on the server; the file's own unless told
        #[arg(long)]
        name: Option<String>,
    },
    /// Fetch a file
    Get {
        /// The service it belongs to
        service: String,
        /// Its name
        name: String,
        /// Where to write it, or - for standard output; its own name, here, unless told
        #[arg(long)]
        out: Option<PathBuf>,
        #[command(flatten)]
        replace: ReplaceArgs,
    },
    /// List files by service and name
    List {
        /// Only of this service
        #[arg(long)]
        service: Option<String>,
        /// How many
        #[command(flatten)]
        list: ListArgs,
    },
    /// Delete a file
    Delete {
        /// The service it belongs to
        service: String,
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

impl Args {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Put { service, file, name } => put(context, &service, &file, name).await,
            Command::Get { service, name, out, replace } => get(context, &service, &name, out, replace).await,
            Command::List { service, list } => run_list(context, service, &list).await,
            Command::Delete { service, name, yes } => {
                confirm(&format!("Delete {service}/{name}?"), yes, Stake::Else).await?;
                let what = format!("could not delete file {service}/{name}");
                context.api.order(&what, Method::DELETE, &["files", &service, &name]).await?;
                context.out.note(&format!("{service}/{name}  deleted"));
                Ok(())
            }
        }
    }
}

async fn put(context: &Context, service: &str, file: &Path, name: Option<String>) -> Result<(), Failure> {
    let stdin = file == Path::new("-");
    let own = if stdin { None } else { file.file_name().and_then(|name| name.to_str()).map(str::to_owned) };
    let Some(name) = name.or(own) else {
        return Err(Failure::usage("could not put the file", "it has no name that could be used").next("give --name"));
    };
    let what = format!("could not put file {service}/{name}");
    let (reader, total): (Box<dyn AsyncRead + Send + Unpin>, _) = if stdin {
        (Box::new(standard(&what, std::io::stdin().as_fd())?), None)
    } else {
        let failed = |error| Failure::local(&what, file.display(), &error);
        let open = tokio::fs::File::open(file).await.map_err(failed)?;
        let about = open.metadata().await.map_err(failed)?;
        if about.is_dir() {
            return Err(Failure::usage(&what, "it is a directory").on(file.display()).next("put a tar of it"));
        }
        (Box::new(open), Some(about.len()))
    };
    let hash = Arc::new(Mutex::new((Sha256::new(), Progress::new(&name, total, context.out.json))));
    let seen = Arc::clone(&hash);
    let body = ReaderStream::with_capacity(reader, PIECE).inspect(move |piece| {
        if let (Ok(piece), Ok(mut seen)) = (piece, seen.lock()) {
            seen.0.update(piece);
            seen.1.add(piece.len());
        }
    });
    let answer = context.api.upload(&what, &["files", service, &name], reqwest::Body::wrap_stream(body)).await?;
    let row: FileRow = context.api.read(&what, &answer)?;
    let sent = hash.lock().map(|hash| (hex::encode(hash.0.clone().finalize()), hash.1.done())).unwrap_or_default();
    drop(hash);
    if row.sha256 != sent.0 || row.bytes != sent.1 {
        let why =
            format!("the server has {} bytes of SHA-256 {}, sent were {} of {}", row.bytes, row.sha256, sent.1, sent.0);
        return Err(Failure::new(Exit::Failed, what, why).on(context.api.url()).next("put it again"));
    }
    if context.out.json {
        return context.out.json(&answer);
    }
    context.out.line(&crate::output::safe(&format!("{service}/{name}  {}  {}", size(row.bytes), row.sha256)))
}

async fn get(
    context: &Context,
    service: &str,
    name: &str,
    out: Option<PathBuf>,
    replace: ReplaceArgs,
) -> Result<(), Failure> {
    let what = format!("could not get file {service}/{name}");
    let out = match out {
        Some(out) => out,
        None => plain_name(name).map(PathBuf::from).ok_or_else(|| {
            Failure::usage(&what, "its name is no plain file name").next("say where to write it with --out FILE")
        })?,
    };
    raw_check(&what, &out)?;
    let save = Save::begin(&what, &out, Readers::Owner, replace)?;
    let answer = context.api.download(&what, Method::GET, &["files", service, name]).await?;
    let tag = answer.headers().get(reqwest::header::ETAG).and_then(|tag| tag.to_str().ok());
    let expected = tag.map(|tag| tag.trim_matches('"').to_owned()).filter(|tag| tag.len() == 64);
    let progress = Progress::new(name, answer.content_length(), context.out.json);
    let mut file = save.file().await?;
    let (bytes, sha256) = copy(context, &what, answer, &mut file, progress).await?;
    if let Some(expected) = expected.filter(|expected| *expected != sha256) {
        let why = format!("what arrived has SHA-256 {sha256}, the server has {expected}");
        return Err(Failure::new(Exit::Failed, what, why).on(context.api.url()).next("get it again"));
    }
    save.finish(file).await?;
    if is_standard(&out) {
        return Ok(());
    }
    if context.out.json {
        let path = out.display().to_string();
        return context.out.json(&serde_json::json!({ "file": path, "bytes": bytes, "sha256": sha256 }));
    }
    context.out.line(&crate::output::safe(&format!("{}  {}  {sha256}", out.display(), size(bytes))))
}

/// Returns standard input as a file, which goes through in pieces like any other.
fn standard(what: &str, stream: BorrowedFd<'_>) -> Result<tokio::fs::File, Failure> {
    let own = stream.try_clone_to_owned().map_err(|error| Failure::local(what, "standard input or output", &error))?;
    Ok(tokio::fs::File::from_std(own.into()))
}

/// Returns `name` if it can be a file in the working directory: no slash, not hidden, not a directory.
fn plain_name(name: &str) -> Option<&str> {
    let plain = !name.contains(['/', '\\']) && !name.starts_with('.') && !name.chars().any(char::is_control);
    plain.then_some(name)
}

/// Copies an answer's body piece by piece. Returns how many bytes it had and their SHA-256.
pub(super) async fn copy(
    context: &Context,
    what: &str,
    answer: reqwest::Response,
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
    mut progress: Progress,
) -> Result<(u64, String), Failure> {
    let writing = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::reader_gone(),
        _ => Failure::local(what, "writing", &error),
    };
    let mut hash = Sha256::new();
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| {
            Failure::new(Exit::Unreachable, what, crate::failure::chain(&error))
                .on(context.api.url())
                .next("the connection broke before the end: try again")
        })?;
        hash.update(&piece);
        to.write_all(&piece).await.map_err(writing)?;
        progress.add(piece.len());
    }
    to.flush().await.map_err(writing)?;
    Ok((progress.done(), hex::encode(hash.finalize())))
}

async fn run_list(context: &Context, service: Option<String>, list: &ListArgs) -> Result<(), Failure> {
    const WHAT: &str = "could not list files";
    let filter = FileQuery { service, ..FileQuery::default() };
    let rows = Rows::fetch(context, WHAT, &["files"], &filter, list).await?;
    if context.out.json {
        return rows.json(context);
    }
    let mut table = Table::new(&["SERVICE", "NAME", "SIZE", "SHA-256", "MODIFIED"]);
    for row in rows.read::<FileRow>(context, WHAT)? {
        table.row([row.service, row.name, size(row.bytes), row.sha256, time(&row.modified)]);
    }
    context.out.table(&table, "No files.")?;
    rows.note_more(context);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_elsewhere_is_no_place_to_write_to() {
        assert_eq!(plain_name("rules.bin"), Some("rules.bin"));
        for name in ["../x", "/etc/passwd", ".bashrc", "..", "a\\b", "a\nb"] {
            assert_eq!(plain_name(name), None, "{name}");
        }
    }
}
