//! The server itself: how it stands, what was done with it, a copy of everything.

use super::Rest;
use super::input::Args;
use super::pages::Paging;
use super::problem::{Doing, Failure};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{HeaderValue, header};
use muster_api::Page;
use muster_api::server::{Check, Count, JournalRow, PageQuery, ServerRow, ServerStatus};
use muster_core::limits;
use muster_engine::access::Caller;
use muster_store::cluster;
use std::path::{Path, PathBuf};
use tokio_util::io::ReaderStream;

/// Shows how the server stands.
#[utoipa::path(get, path = "/api/v1/server", tag = "server", responses((status = 200, body = ServerStatus)))]
pub(crate) async fn server_get(State(rest): State<Rest>) -> Result<Json<ServerStatus>, Failure> {
    let agents = rest.engine.store().agent_count().await.doing("count agents")?;
    let servers = living(&rest).await?;
    let own = rest.engine.server();
    let row = |server: cluster::ServerRow| ServerRow {
        id: server.id.to_string(),
        wake_url: server.wake_url,
        started: server.started.to_string(),
        beat: server.beat.to_string(),
        this: server.id == own,
    };
    Ok(Json(ServerStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: rest.started.to_string(),
        database: if rest.config.database.is_shared() { "postgresql" } else { "sqlite" }.to_owned(),
        streams: rest.engine.streams_open() as u64,
        agents: agents.into_iter().map(|(name, count)| Count { name: name.to_owned(), count }).collect(),
        servers: servers.into_iter().map(row).collect(),
    }))
}

/// Asks which servers live. Only reads, so that it answers while nothing can be written.
async fn living(rest: &Rest) -> Result<Vec<cluster::ServerRow>, Failure> {
    let dead_before = rest.clock.now().minus(limits::SERVER_DEAD);
    rest.engine.store().server_list(dead_before).await.doing("list servers")
}

/// Lists what was done, newest first.
#[utoipa::path(get, path = "/api/v1/journal", tag = "server", params(PageQuery), responses((status = 200, body = Page<JournalRow>)))]
pub(crate) async fn journal_list(
    State(rest): State<Rest>,
    Args(query): Args<PageQuery>,
) -> Result<Json<Page<JournalRow>>, Failure> {
    let paging = Paging::new("journal", query.cursor.as_deref(), query.limit)?;
    let rows = rest.engine.store().journal_page(paging.after()?, paging.rows()).await.doing("read the journal")?;
    let page = paging.cut(rows, |row| row.number.to_string());
    Ok(Json(Paging::map(page, |row| JournalRow {
        number: row.number,
        at: row.at.to_string(),
        actor: row.cause.actor,
        request: row.cause.request,
        reason: row.cause.reason,
        action: row.action,
        subject: row.subject,
        details: serde_json::from_str(&row.details).unwrap_or(serde_json::Value::Null),
    })))
}

/// Looks for what commonly goes wrong.
#[utoipa::path(get, path = "/api/v1/doctor", tag = "server", responses((status = 200, body = Page<Check>)))]
pub(crate) async fn doctor(State(rest): State<Rest>) -> Result<Json<Page<Check>>, Failure> {
    let servers = living(&rest).await.ok();
    let checks = rest.doctor.online(&rest, servers.as_deref().unwrap_or_default()).await;
    Ok(Json(checks.into_iter().collect()))
}

/// Gives the certificate that agents must trust, PEM.
#[utoipa::path(get, path = "/api/v1/agent-trust", tag = "server", responses((status = 200, description = "PEM", content_type = "text/plain", body = String)))]
pub(crate) async fn agent_trust(State(rest): State<Rest>) -> String {
    rest.trust_pem.clone()
}

/// Gives a consistent copy of everything, as a SQLite file, whichever the database. It holds the authority's key: keep
/// it as you keep a password.
#[utoipa::path(post, path = "/api/v1/backup", tag = "server",
    responses((status = 200, description = "The copy", content_type = "application/vnd.sqlite3", body = Vec<u8>)))]
pub(crate) async fn backup(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Failure> {
    let Ok(_alone) = rest.backup.try_lock() else {
        return Err(Failure::conflict("another backup is being written, try again when it is done"));
    };
    let copy = Copy(rest.config.data.0.join(format!("{COPY_PREFIX}{}.db", rest.random_hex::<8>())));
    rest.engine.backup(&copy.0, &caller).await?;
    let opened = async {
        let file = tokio::fs::File::open(&copy.0).await?;
        let bytes = file.metadata().await?.len();
        Ok::<_, std::io::Error>((file, bytes))
    };
    let (file, bytes) = opened.await.map_err(|error| Failure::internal("read the backup", &error))?;
    // The name goes now; the open file stays readable until the last byte is sent.
    drop(copy);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/vnd.sqlite3")),
        (header::CONTENT_LENGTH, HeaderValue::from(bytes)),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"muster-backup.db\"")),
    ];
    Ok((headers, Body::from_stream(ReaderStream::with_capacity(file, limits::FILE_CHUNK_BYTES))).into_response())
}

/// How the names of copies in the making start.
const COPY_PREFIX: &str = ".backup-";

/// A copy in the making, deleted whatever happens.
struct Copy(PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        for ending in ["", "-wal", "-shm", "-journal"] {
            let mut path = self.0.clone().into_os_string();
            path.push(ending);
            // What is not there need not be deleted; what cannot be is swept at the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Deletes copies that a crash left behind.
pub(crate) fn copies_sweep(data: &Path) {
    let entries = std::fs::read_dir(data).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(COPY_PREFIX)) {
        // A copy is made in a directory of its own.
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let path = entry.path();
        let removed = if is_directory { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        if let Err(error) = removed {
            tracing::warn!(path = %entry.path().display(), error = %error, "could not delete an unfinished backup");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_copy_is_swept_and_nothing_else() {
        let data = tempfile::tempdir().unwrap();
        let (left, kept) = (data.path().join(".backup-1.db-wal"), data.path().join("muster.db"));
        std::fs::write(&left, "").unwrap();
        std::fs::write(&kept, "").unwrap();
        let making = data.path().join(".backup-1.db.partial-1-0");
        std::fs::create_dir(&making).unwrap();
        std::fs::write(making.join("copy.db"), "").unwrap();
        copies_sweep(data.path());
        assert!(!left.exists() && !making.exists() && kept.exists());
    }

    #[test]
    fn a_copy_goes_with_its_side_files() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join(".backup-2.db");
        std::fs::write(&path, "").unwrap();
        std::fs::write(data.path().join(".backup-2.db-journal"), "").unwrap();
        drop(Copy(path));
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);
    }
}
