//! Files that agents fetch, of any size.
//!
//! Stays true: a file passes through in pieces, never as a whole, in both directions; it appears under its name only
//! when it is complete.

use super::Rest;
use super::input::{Args, Names, Pieces};
use super::pages::Paging;
use super::problem::{Doing, Failure};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use muster_api::Page;
use muster_api::files::{FileQuery, FileRow};
use muster_core::file::FileInfo;
use muster_core::text;
use muster_engine::access::Caller;
use muster_store::StoreError;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Lists files by service and name.
#[utoipa::path(get, path = "/api/v1/files", tag = "files", params(FileQuery), responses((status = 200, body = Page<FileRow>)))]
pub(crate) async fn file_list(
    State(rest): State<Rest>,
    Args(query): Args<FileQuery>,
) -> Result<Json<Page<FileRow>>, Failure> {
    if let Some(service) = &query.service {
        text::name("service", service).map_err(|error| Failure::invalid(error.to_string()))?;
    }
    let paging = Paging::new("files", query.cursor.as_deref(), query.limit)?;
    let after = paging.after::<After>()?.map(|After(service, name)| (service, name));
    let rows = rest.engine.store().file_page(query.service.as_deref(), after, paging.rows()).await;
    let page = paging.cut(rows.doing("list files")?, |row| After(row.service.clone(), row.name.clone()).text());
    Ok(Json(Paging::map(page, show)))
}

/// Gives a file, as an attachment. A request with `if-none-match` and the file's hash gets 304.
#[utoipa::path(get, path = "/api/v1/files/{service}/{name}", tag = "files",
    params(("service" = String, Path, description = "The service"), ("name" = String, Path, description = "The name, percent-encoded")),
    responses((status = 200, description = "The file", content_type = "application/octet-stream", body = Vec<u8>)))]
pub(crate) async fn file_get(
    State(rest): State<Rest>,
    Names((service, name)): Names<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    check(&service, &name)?;
    let info = find(&rest, &service, &name).await?;
    let tag = format!("\"{}\"", hex::encode(info.sha256));
    let etag = HeaderValue::from_str(&tag).expect("hexadecimal digits in quotes are a header's value");
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let disposition = HeaderValue::from_str(&attachment(&info.name)).expect("an encoded name is a header's value");
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, HeaderValue::from(info.bytes)),
        (header::CONTENT_DISPOSITION, disposition),
        (header::ETAG, etag),
    ];
    Ok((headers, pieces(rest, &info)).into_response())
}

/// Puts a file; the body is the file itself. Replaces one of the same name.
#[utoipa::path(put, path = "/api/v1/files/{service}/{name}", tag = "files",
    params(("service" = String, Path, description = "The service"), ("name" = String, Path, description = "The name, percent-encoded")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = FileRow)))]
pub(crate) async fn file_put(
    State(rest): State<Rest>,
    Names((service, name)): Names<(String, String)>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<FileRow>, Failure> {
    check(&service, &name)?;
    let mut upload = rest.engine.file_begin(&service, &name, &caller).await?;
    let mut body = Pieces::new(request.into_body());
    while let Some(piece) = body.next().await? {
        upload.push(&piece).await?;
    }
    let info = upload.finish().await?;
    Ok(Json(show(info)))
}

/// Deletes a file.
#[utoipa::path(delete, path = "/api/v1/files/{service}/{name}", tag = "files",
    params(("service" = String, Path, description = "The service"), ("name" = String, Path, description = "The name, percent-encoded")),
    responses((status = 204)))]
pub(crate) async fn file_delete(
    State(rest): State<Rest>,
    Names((service, name)): Names<(String, String)>,
    Extension(caller): Extension<Caller>,
) -> Result<StatusCode, Failure> {
    check(&service, &name)?;
    if rest.engine.file_delete(&service, &name, &caller).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Failure::not_found(format!("there is no file {name:?} of service {service:?}")))
}

fn check(service: &str, name: &str) -> Result<(), Failure> {
    text::name("service", service).map_err(|error| Failure::invalid(error.to_string()))?;
    text::file_name(name).map_err(|error| Failure::invalid(error.to_string()))?;
    // A name is no path here, but programs that fetch by URL would take these two for steps of one.
    if name == "." || name == ".." {
        return Err(Failure::invalid(format!("{name:?} is no name for a file")));
    }
    Ok(())
}

async fn find(rest: &Rest, service: &str, name: &str) -> Result<FileInfo, Failure> {
    let info = rest.engine.store().file_get(service, name).await.doing("look up the file")?;
    info.ok_or_else(|| Failure::not_found(format!("there is no file {name:?} of service {service:?}")))
}

/// Reads a file's pieces as they are sent. A piece that is missing breaks the answer off: it is shorter than it said.
fn pieces(rest: Rest, info: &FileInfo) -> Body {
    let (content, bytes) = (info.content, info.bytes);
    Body::from_stream(stream::try_unfold((rest, 0_u32, bytes), move |(rest, index, left)| async move {
        if left == 0 {
            return Ok::<_, StoreError>(None);
        }
        let piece: Option<Bytes> = rest.engine.store().file_chunk_get(content, index).await?;
        let missing = || StoreError::Inconsistent { table: "file_chunks", id: format!("{content}/{index} is missing") };
        let piece = piece.ok_or_else(missing)?;
        let left = left.saturating_sub(piece.len() as u64);
        Ok(Some((piece, (rest, index + 1, left))))
    }))
}

/// What RFC 5987 leaves as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_').remove(b'~');

fn attachment(name: &str) -> String {
    format!("attachment; filename*=UTF-8''{}", utf8_percent_encode(name, PLAIN))
}

fn show(info: FileInfo) -> FileRow {
    FileRow {
        service: info.service,
        name: info.name,
        bytes: info.bytes,
        sha256: hex::encode(info.sha256),
        modified: info.modified.to_string(),
    }
}

/// The key of a page: service and name.
#[derive(Serialize, Deserialize)]
struct After(String, String);

impl After {
    fn text(&self) -> String {
        serde_json::to_string(self).expect("two texts are JSON")
    }
}

impl FromStr for After {
    type Err = serde_json::Error;
    fn from_str(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_header() {
        assert_eq!(attachment("a.txt"), "attachment; filename*=UTF-8''a.txt");
        let name = attachment("a\";\u{202e}é/..");
        assert_eq!(name, "attachment; filename*=UTF-8''a%22%3B%E2%80%AE%C3%A9%2F..");
        assert!(HeaderValue::from_str(&name).is_ok());
    }

    #[test]
    fn steps_of_a_path_are_no_names() {
        for name in ["", ".", "..", "a\0", "a\r\nb: c"] {
            assert!(check("service", name).is_err(), "{name:?}");
        }
        assert!(check("service", "../x").is_ok(), "a row's name is no path");
        assert!(check("a\nb", "x").is_err());
    }
}
