//! `muster backup`: a copy of everything, taken from a running server.

use crate::output::{Progress, size};
use crate::save::{Readers, ReplaceArgs, Save, is_standard, raw_check};
use crate::{Context, Failure};
use reqwest::Method;
use std::path::Path;

/// Takes a backup of the server into `out`.
pub async fn run(context: &Context, out: &Path, replace: ReplaceArgs) -> Result<(), Failure> {
    const WHAT: &str = "could not take a backup";
    raw_check(WHAT, out)?;
    let save = Save::begin(WHAT, out, Readers::Owner, replace)?;
    let answer = context.api.download(WHAT, Method::POST, &["backup"]).await?;
    let progress = Progress::new("backup", answer.content_length(), context.out.json);
    let mut file = save.file().await?;
    let (bytes, sha256) = super::file::copy(context, WHAT, answer, &mut file, progress).await?;
    save.finish(file).await?;
    if is_standard(out) {
        return Ok(());
    }
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
