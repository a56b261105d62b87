//! Files: contents in pieces, and the names that lead to them.

use super::journal;
use crate::db::Tx;
use crate::db::value::{Row, Value, number, params};
use crate::files::FileStore;
use crate::{SqlStore, StoreError};
use async_trait::async_trait;
use bytes::Bytes;
use muster_core::file::FileInfo;
use muster_core::{Cause, Timestamp, limits};
use serde_json::json;

const COLUMNS: &str = "service, name, bytes, sha256, modified, content";
const BEGIN: &str = "INSERT INTO contents (named, begun) VALUES (0, $1) RETURNING content";
const OPEN: &str = "SELECT content FROM contents WHERE content = $1 AND named = 0 FOR UPDATE";
const PUT_PIECE: &str = "INSERT INTO file_chunks (content, piece, data) VALUES ($1, $2, $3) \
     ON CONFLICT (content, piece) DO UPDATE SET data = excluded.data";
const MEASURE: &str = "SELECT count(*), COALESCE(CAST(sum(length(data)) AS BIGINT), 0), \
     COALESCE(max(piece) + 1, 0) FROM file_chunks WHERE content = $1";
const LOCK_NAME: &str = "SELECT content FROM files WHERE service = $1 AND name = $2 FOR UPDATE";
const INSERT: &str = "INSERT INTO files (service, name, bytes, sha256, modified, content) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (service, name) DO NOTHING";
const REPLACE: &str = "UPDATE files SET bytes = $3, sha256 = $4, modified = $5, content = $6 \
     WHERE service = $1 AND name = $2";
const SET_NAMED: &str = "UPDATE contents SET named = 1 WHERE content = $1";
const SET_UNNAMED: &str = "UPDATE contents SET named = 0, begun = $2 WHERE content = $1";
const PIECE: &str = "SELECT data FROM file_chunks WHERE content = $1 AND piece = $2";
const DELETE: &str = "DELETE FROM files WHERE service = $1 AND name = $2 RETURNING content";

fn read(row: Row) -> Result<FileInfo, StoreError> {
    let mut fields = row.fields("files");
    Ok(FileInfo {
        service: fields.take()?,
        name: fields.take()?,
        bytes: fields.take()?,
        sha256: fields.take()?,
        modified: fields.take()?,
        content: fields.take()?,
    })
}

async fn begin(tx: &mut Tx, now: &Timestamp) -> Result<i64, StoreError> {
    tx.query_one(BEGIN, params![*now]).await?.only("contents")
}

fn no_content(content: i64) -> StoreError {
    StoreError::NotFound { what: "unfinished file content", id: content.to_string() }
}

async fn chunk_put(tx: &mut Tx, (content, piece, bytes): &(i64, u32, Bytes)) -> Result<(), StoreError> {
    tx.query_opt(OPEN, params![*content]).await?.ok_or_else(|| no_content(*content))?;
    tx.execute(PUT_PIECE, params![*content, *piece, &bytes[..]]).await.map(drop)
}

async fn name_of(tx: &mut Tx, info: &FileInfo) -> Result<Option<i64>, StoreError> {
    let row = tx.query_opt(LOCK_NAME, params![&info.service, &info.name]).await?;
    row.map(|row| row.only("files")).transpose()
}

async fn finish(tx: &mut Tx, (info, cause): &(FileInfo, Cause)) -> Result<(), StoreError> {
    let mut before = name_of(tx, info).await?;
    if before == Some(info.content) {
        return Ok(());
    }
    tx.query_opt(OPEN, params![info.content]).await?.ok_or_else(|| no_content(info.content))?;
    let bytes = number("length", info.bytes)?;
    let mut measured = tx.query_one(MEASURE, params![info.content]).await?.fields("file_chunks");
    let (pieces, sum, end): (i64, i64, i64) = (measured.take()?, measured.take()?, measured.take()?);
    if sum != bytes || pieces != end {
        let what = format!("{} bytes of {} in {pieces} of {end} pieces", sum, info.bytes);
        return Err(StoreError::Invalid(format!("file {}/{} is not whole: {what}", info.service, info.name)));
    }
    let row = params![&info.service, &info.name, bytes, &info.sha256, info.modified, info.content];
    if before.is_none() && tx.execute(INSERT, row).await? == 0 {
        // Somebody else finished a file of that name between the two statements.
        before = name_of(tx, info).await?;
    }
    if let Some(before) = before {
        tx.execute(REPLACE, row).await?;
        tx.execute(SET_UNNAMED, params![before, info.modified]).await?;
    }
    tx.execute(SET_NAMED, params![info.content]).await?;
    let details = json!({ "bytes": info.bytes, "sha256": hex::encode(info.sha256) });
    journal::write(tx, info.modified, cause, "file.put", &subject(&info.service, &info.name), &details).await
}

fn subject(service: &str, name: &str) -> String {
    format!("{service}/{name}")
}

async fn get(tx: &mut Tx, (service, name): &(String, String)) -> Result<Option<FileInfo>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM files WHERE service = $1 AND name = $2");
    tx.query_opt(sql, params![service, name]).await?.map(read).transpose()
}

async fn chunk_get(tx: &mut Tx, (content, piece): &(i64, u32)) -> Result<Option<Bytes>, StoreError> {
    let row = tx.query_opt(PIECE, params![*content, *piece]).await?;
    row.map(|row| row.only::<Vec<u8>>("file_chunks").map(Bytes::from)).transpose()
}

struct Delete {
    service: String,
    name: String,
    now: Timestamp,
    cause: Cause,
}

async fn delete(tx: &mut Tx, args: &Delete) -> Result<bool, StoreError> {
    let Some(row) = tx.query_opt(DELETE, params![&args.service, &args.name]).await? else { return Ok(false) };
    let content: i64 = row.only("files")?;
    tx.execute(SET_UNNAMED, params![content, args.now]).await?;
    let subject = subject(&args.service, &args.name);
    journal::write(tx, args.now, &args.cause, "file.delete", &subject, &json!({})).await?;
    Ok(true)
}

struct Page {
    service: Option<String>,
    after: Option<(String, String)>,
    limit: u32,
}

async fn page(tx: &mut Tx, args: &Page) -> Result<Vec<FileInfo>, StoreError> {
    let mut values: Vec<Value<'_>> = vec![args.limit.into()];
    let mut wheres = vec!["service >= ''".to_owned()];
    if let Some(service) = &args.service {
        values.push(service.into());
        wheres.push(format!("service = ${}", values.len()));
    }
    if let Some((service, name)) = &args.after {
        values.extend([Value::from(service), Value::from(name)]);
        wheres.push(format!("(service, name) > (${}, ${})", values.len() - 1, values.len()));
    }
    let filter = wheres.join(" AND ");
    let sql = format!("SELECT {COLUMNS} FROM files WHERE {filter} ORDER BY service, name LIMIT $1");
    tx.query(sql, &values).await?.into_iter().map(read).collect()
}

#[async_trait]
impl FileStore for SqlStore {
    async fn file_begin(&self, now: Timestamp) -> Result<i64, StoreError> {
        self.write(now, |tx, args| Box::pin(begin(tx, args))).await
    }

    async fn file_chunk_put(&self, content: i64, index: u32, bytes: Bytes) -> Result<(), StoreError> {
        if bytes.len() > limits::FILE_CHUNK_BYTES {
            let have = bytes.len();
            return Err(StoreError::Invalid(format!(
                "a piece has at most {} bytes, not {have}",
                limits::FILE_CHUNK_BYTES
            )));
        }
        self.write((content, index, bytes), |tx, args| Box::pin(chunk_put(tx, args))).await
    }

    async fn file_finish(&self, info: FileInfo, cause: &Cause) -> Result<(), StoreError> {
        self.write((info, cause.clone()), |tx, args| Box::pin(finish(tx, args))).await
    }

    async fn file_get(&self, service: &str, name: &str) -> Result<Option<FileInfo>, StoreError> {
        self.read((service.to_owned(), name.to_owned()), |tx, args| Box::pin(get(tx, args))).await
    }

    async fn file_chunk_get(&self, content: i64, index: u32) -> Result<Option<Bytes>, StoreError> {
        self.read((content, index), |tx, args| Box::pin(chunk_get(tx, args))).await
    }

    async fn file_delete(&self, service: &str, name: &str, now: Timestamp, cause: &Cause) -> Result<bool, StoreError> {
        let args = Delete { service: service.to_owned(), name: name.to_owned(), now, cause: cause.clone() };
        self.write(args, |tx, args| Box::pin(delete(tx, args))).await
    }

    async fn file_page(
        &self,
        service: Option<&str>,
        after: Option<(String, String)>,
        limit: u32,
    ) -> Result<Vec<FileInfo>, StoreError> {
        let args = Page { service: service.map(str::to_owned), after, limit };
        self.read(args, |tx, args| Box::pin(page(tx, args))).await
    }
}
