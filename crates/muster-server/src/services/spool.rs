//! A service that writes each message as one line of JSON into files of a directory, for programs that read files.
//!
//! Stays true: a message is on the disk before it is done; a line is whole, except that the very last one of a file may
//! be cut where the server or the machine died (that message comes again, in another file); a message may stand in two
//! files, with the same `id`. A file is begun for each day (UTC), after [`limits::SPOOL_FILE_BYTES`], and after each
//! start; its name is `SERVICE-TIME-HOST-PROCESS-NUMBER.jsonl` and never comes twice. Nobody here deletes files.
//!
//! A line holds, in this order:
//!
//! | key | value |
//! |---|---|
//! | `id` | the message's id, 64 hexadecimal digits |
//! | `agent`, `source` | who sent it: the agent's id (absent for a service of the server), the service there |
//! | `service` | the service it was sent to |
//! | `type` | what it is, in the words of the two services |
//! | `created` | when it came, RFC 3339 in UTC |
//! | `source_id` | the sender's own name for it, base64 |
//! | `priority` | `low`, `medium` or `high` |
//! | `background` | whether it could have waited |
//! | `blocked` | whether its sender was blocked when it came |
//! | `annotations` | list of `[key, value]` |
//! | `validation` | object: what the contact's check said of its sender |
//! | `payload` | `null`, or an object: `type_url`, `base64` (the bytes), and `value` (the content, where the type is known) |

use super::ServiceSetupError;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_core::{Clock, Message, Priority, Timestamp, limits};
use muster_engine::{Service, ServiceError};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Writes messages into files of a directory.
#[derive(Debug)]
pub struct SpoolService {
    name: String,
    parallelism: u32,
    directory: PathBuf,
    lines: mpsc::Sender<Line>,
}

/// A line on its way to the disk, and who waits for it.
struct Line {
    text: Vec<u8>,
    written: oneshot::Sender<Result<(), String>>,
}

impl SpoolService {
    /// Prepares the directory, which is made if it is not there, and the thread that writes.
    pub fn new(
        name: String,
        directory: PathBuf,
        clock: Arc<dyn Clock>,
        parallelism: u32,
    ) -> Result<Self, ServiceSetupError> {
        let failed = |source| ServiceSetupError::File { name: name.clone(), path: directory.clone(), source };
        DirBuilder::new().recursive(true).mode(0o750).create(&directory).map_err(failed)?;
        let (lines, waiting) = mpsc::channel(parallelism.max(1) as usize);
        let mut files = Files::new(&name, directory.clone(), clock);
        let write = move || files.write_all(waiting);
        std::thread::Builder::new().name("spool".into()).spawn(write).map_err(failed)?;
        Ok(Self { name, parallelism, directory, lines })
    }
}

#[async_trait]
impl Service for SpoolService {
    fn name(&self) -> &str {
        &self.name
    }

    fn parallelism(&self) -> u32 {
        self.parallelism
    }

    async fn process(&self, message: &Message) -> Result<(), ServiceError> {
        let failed =
            |reason: &str| ServiceError::Passing(format!("could not write to {}: {reason}", self.directory.display()));
        let (written, outcome) = oneshot::channel();
        let line = Line { text: line(message), written };
        self.lines.send(line).await.map_err(|_| failed("the writer has ended"))?;
        match outcome.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(failed(&reason)),
            Err(_) => Err(failed("the writer has ended")),
        }
    }
}

/// The message as the table above has it, with its line break.
fn line(message: &Message) -> Vec<u8> {
    #[derive(Serialize)]
    struct Row<'a> {
        id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
        source: &'a str,
        service: &'a str,
        r#type: &'a str,
        created: String,
        source_id: String,
        priority: &'static str,
        background: bool,
        blocked: bool,
        annotations: &'a [(String, String)],
        validation: &'a BTreeMap<String, String>,
        payload: Option<Body<'a>>,
    }
    #[derive(Serialize)]
    struct Body<'a> {
        type_url: &'a str,
        base64: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        value: Option<serde_json::Value>,
    }
    let payload = message.payload.as_ref().map(|payload| Body {
        type_url: &payload.type_url,
        base64: STANDARD.encode(&payload.value),
        value: muster_proto::text::payload_json(payload),
    });
    let row = Row {
        id: message.id.to_string(),
        agent: message.source.agent.map(|agent| agent.to_string()),
        source: &message.source.service,
        service: &message.destination.service,
        r#type: &message.message_type,
        created: message.created.to_string(),
        source_id: STANDARD.encode(&message.source_message_id),
        priority: match message.priority {
            Priority::Low => "low",
            Priority::Medium => "medium",
            Priority::High => "high",
        },
        background: message.background,
        blocked: message.from_blocked,
        annotations: &message.annotations,
        validation: &message.validation,
        payload,
    };
    let mut text = serde_json::to_vec(&row).expect("texts, numbers and maps with text keys are always JSON");
    text.push(b'\n');
    text
}

/// The files of one service, as the writing thread has them.
struct Files {
    /// The service's name and the host's, with nothing in them that a path could mistake.
    stem: String,
    host: String,
    directory: PathBuf,
    clock: Arc<dyn Clock>,
    begun: u64,
    open: Option<OpenFile>,
}

struct OpenFile {
    file: File,
    day: i64,
    bytes: u64,
}

impl Files {
    fn new(service: &str, directory: PathBuf, clock: Arc<dyn Clock>) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { stem: plain(service), host: plain(&host), directory, clock, begun: 0, open: None }
    }

    /// Writes what comes until nobody can send any more. What came while the disk was busy is written in one go, with
    /// one wait for the disk.
    fn write_all(&mut self, mut waiting: mpsc::Receiver<Line>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < limits::SPOOL_BATCH_MAX
                && let Ok(line) = waiting.try_recv()
            {
                batch.push(line);
            }
            let bytes = batch.iter().flat_map(|line| &line.text).copied().collect::<Vec<_>>();
            let outcome = self.write(&bytes).map_err(|error| error.to_string());
            for line in batch {
                // Whoever stopped waiting gets the message again.
                let _ = line.written.send(outcome.clone());
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let now = self.clock.now();
        let mut open = match self.open.take() {
            Some(open) if open.day == day(now) && open.bytes < limits::SPOOL_FILE_BYTES => open,
            _ => self.begin(now)?,
        };
        if let Err(error) = open.file.write_all(bytes).and_then(|()| open.file.sync_data()) {
            // No half line stays in the middle; the next try begins a new file, so a failure here does no harm either.
            let _ = open.file.set_len(open.bytes);
            return Err(error);
        }
        open.bytes = open.file.stream_position()?;
        self.open = Some(open);
        Ok(())
    }

    fn begin(&mut self, now: Timestamp) -> io::Result<OpenFile> {
        // Colons are not for file names everywhere.
        let time = now.to_string().replace(':', "");
        loop {
            self.begun += 1;
            let name = format!("{}-{time}-{}-{}-{}.jsonl", self.stem, self.host, std::process::id(), self.begun);
            let path = self.directory.join(name);
            match OpenOptions::new().append(true).create_new(true).mode(0o640).open(&path) {
                Ok(file) => {
                    sync_directory(&self.directory)?;
                    return Ok(OpenFile { file, day: day(now), bytes: 0 });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A file whose name is not on the disk is lost with the name.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn day(now: Timestamp) -> i64 {
    now.to_parts().0.div_euclid(86_400)
}

/// Letters, digits, `_` and `.` stay, the first of them no dot; everything else becomes `_`.
fn plain(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
    let name: String = name.chars().map(plain).take(64).collect();
    name.strip_prefix('.').map_or(name.clone(), |rest| format!("_{rest}"))
}
