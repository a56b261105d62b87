//! Questions to a person at the terminal.
//!
//! Stays true: whoever waits for an answer can be interrupted; a terminal that hides what is typed shows it again, however
//! the wait ends.

use std::io::{BufRead as _, Error, Read as _, Write as _};
use std::process::{Command, Stdio};

/// Bytes that an answer may have.
const ANSWER_BYTES_MAX: u64 = 4096;
/// Bytes of what waits on standard input that are looked at.
const WAITING_BYTES_MAX: usize = 16;

/// Asks, and returns the line that is typed.
pub(crate) async fn ask(question: &str) -> Result<String, Error> {
    let mut asked = Asked::print(question);
    let answer = line().await;
    asked.answered();
    answer
}

/// Asks, and returns the line that is typed, which the terminal does not show.
pub(crate) async fn ask_hidden(question: &str) -> Result<String, Error> {
    // What is typed as soon as the question can be read must be hidden already.
    let _hidden = Hidden::new();
    let _asked = Asked::print(question);
    line().await
}

/// Returns the next line of standard input, without its end; `None` when there is none.
pub(crate) async fn line_or_end() -> Result<Option<String>, Error> {
    let text = elsewhere(read_line).await?;
    Ok((!text.is_empty()).then(|| without_end(&text)))
}

/// Returns what waits on standard input, as far as it has come, and leaves it there for whoever reads it.
pub(crate) fn waiting() -> Vec<u8> {
    use rustix::fs::{FileType, fstat, tell};
    let stdin = rustix::stdio::stdin();
    let mut bytes = [0; WAITING_BYTES_MAX];
    let kind = fstat(stdin).map(|stat| FileType::from_raw_mode(stat.st_mode));
    let read = match kind {
        Ok(FileType::RegularFile) => tell(stdin).and_then(|at| rustix::io::pread(stdin, &mut bytes, at)),
        Ok(FileType::Fifo) => copied(&mut bytes),
        _ => Ok(0),
    };
    // What cannot be looked at says nothing.
    bytes[..read.unwrap_or(0)].to_vec()
}

/// Copies what a pipe holds now, without taking it out.
fn copied(bytes: &mut [u8]) -> rustix::io::Result<usize> {
    use rustix::pipe::{SpliceFlags, pipe, tee};
    let (read, write) = pipe()?;
    let copied = tee(rustix::stdio::stdin(), &write, bytes.len(), SpliceFlags::NONBLOCK)?;
    if copied == 0 { Ok(0) } else { rustix::io::read(&read, bytes) }
}

async fn line() -> Result<String, Error> {
    elsewhere(read_line).await.map(|text| without_end(&text))
}

fn read_line() -> Result<String, Error> {
    let mut text = String::new();
    std::io::stdin().lock().take(ANSWER_BYTES_MAX).read_line(&mut text)?;
    Ok(text)
}

fn without_end(text: &str) -> String {
    text.trim_end_matches(['\r', '\n']).to_owned()
}

/// Waits for what blocks. It has a thread of its own, which nobody waits for when the command is interrupted: a runtime
/// would wait for its own threads.
async fn elsewhere(read: impl FnOnce() -> Result<String, Error> + Send + 'static) -> Result<String, Error> {
    let (send, receive) = tokio::sync::oneshot::channel();
    // Nobody listens when the question was given up.
    std::thread::spawn(move || _ = send.send(read()));
    receive.await.unwrap_or_else(|_| Err(Error::other("reading it failed")))
}

/// A question that stands at the end of a line.
struct Asked {
    is_open: bool,
}

impl Asked {
    fn print(question: &str) -> Self {
        let _ = write!(std::io::stderr(), "{}", crate::output::safe(question));
        Self { is_open: true }
    }

    /// Whoever typed the answer ended the line, too.
    fn answered(&mut self) {
        self.is_open = false;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.is_open {
            let _ = writeln!(std::io::stderr());
        }
    }
}

/// As long as it lives, the terminal does not show what is typed.
struct Hidden;

impl Hidden {
    fn new() -> Self {
        echo("-echo");
        Self
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        echo("echo");
    }
}

/// A terminal that cannot be switched shows what is typed; that is no reason to fail.
fn echo(mode: &str) {
    let _ = Command::new("stty").arg(mode).stdin(Stdio::inherit()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_wait_for_an_answer_that_never_comes_can_be_given_up() {
        let (_kept, never) = std::sync::mpsc::channel::<String>();
        let asked = elsewhere(move || never.recv().map_err(Error::other));
        let given_up = tokio::time::timeout(Duration::from_millis(1), asked).await;
        assert!(given_up.is_err());
        assert_eq!(elsewhere(|| Ok("yes".to_owned())).await.unwrap(), "yes");
    }

    #[test]
    fn the_end_of_a_line_is_no_part_of_the_answer() {
        assert_eq!([without_end("a \r\n"), without_end("b"), without_end("\n")], ["a ", "b", ""]);
    }
}
