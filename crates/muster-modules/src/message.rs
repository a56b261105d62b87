//! What is said to a module on its standard input: one JSON object per line.

use crate::module::Refused;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use muster_core::limits::MODULE_PARAMETERS_BYTES_MAX;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{BufRead, Read as _, Write as _};

/// One line to a module. The classes a module hears are `parameters` and `stop`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// What kind of message this is.
    pub class: String,
    /// The parameters, in a message of class `parameters`.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub parameters: Value,
}

/// The class that brings parameters.
pub const CLASS_PARAMETERS: &str = "parameters";
/// The class that asks a module to end early, with what it has found.
pub const CLASS_STOP: &str = "stop";

impl Message {
    /// Returns the message that brings `parameters`.
    pub fn parameters(parameters: Value) -> Self {
        Self { class: CLASS_PARAMETERS.to_owned(), parameters }
    }

    /// Returns the message that asks a module to end.
    pub fn stop() -> Self {
        Self { class: CLASS_STOP.to_owned(), parameters: Value::Null }
    }

    /// Returns the line, with its end.
    pub fn to_line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("a message holds text and JSON only");
        line.push('\n');
        line
    }
}

/// Reads parameters that an action holds packed (`iscompressed`): JSON, deflated by gzip, in base64.
///
/// # Errors
/// What is packed is no JSON, is damaged, or is longer than [`MODULE_PARAMETERS_BYTES_MAX`] bytes.
pub fn unpacked(text: &str) -> Result<Value, Refused> {
    let refused = |why: String| Refused(format!("the packed parameters cannot be read: {why}"));
    let packed = STANDARD.decode(text).map_err(|error| refused(error.to_string()))?;
    let mut json = Vec::new();
    let most = MODULE_PARAMETERS_BYTES_MAX as u64;
    let read = GzDecoder::new(&*packed).take(most + 1).read_to_end(&mut json);
    read.map_err(|error| refused(crate::gotext::reason(&error)))?;
    if json.len() as u64 > most {
        return Err(refused(format!("they are longer than {most} bytes")));
    }
    serde_json::from_slice(&json).map_err(|error| refused(error.to_string()))
}

/// Packs parameters as an action may hold them (`iscompressed`). The same text makes the same packed text.
pub fn packed(json: &str) -> String {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    let bytes = gzip.write_all(json.as_bytes()).and_then(|()| gzip.finish());
    STANDARD.encode(bytes.expect("writing to memory does not fail"))
}

/// Reads one line of at most [`MODULE_PARAMETERS_BYTES_MAX`] bytes.
pub(crate) fn read_message(input: &mut impl BufRead) -> Result<Message, Refused> {
    let most = MODULE_PARAMETERS_BYTES_MAX as u64 + 1024;
    let mut line = Vec::new();
    let read = input.by_ref().take(most).read_until(b'\n', &mut line);
    let refused = |why: String| Refused(format!("ReadInput() -> {why}"));
    read.map_err(|error| refused(crate::gotext::reason(&error)))?;
    if line.is_empty() {
        return Err(refused("EOF".to_owned()));
    }
    if line.len() as u64 >= most {
        return Err(refused(format!("the message is longer than {MODULE_PARAMETERS_BYTES_MAX} bytes")));
    }
    serde_json::from_slice(&line).map_err(|error| refused(error.to_string()))
}

/// Reads the first message, which must bring parameters.
pub(crate) fn read_parameters(input: &mut impl BufRead) -> Result<Value, Refused> {
    let message = read_message(input).map_err(|refused| Refused(format!("ReadInputParameters() -> {refused}")))?;
    if message.class != CLASS_PARAMETERS {
        return Err(Refused("ReadInputParameters() -> unexpected input is not module parameters".to_owned()));
    }
    Ok(message.parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        read_parameters(&mut text.as_bytes()).map_err(|refused| refused.0)
    }

    #[test]
    fn parameters_are_one_line() {
        let line = Message::parameters(serde_json::json!({"drift": "5s"})).to_line();
        assert_eq!(line, "{\"class\":\"parameters\",\"parameters\":{\"drift\":\"5s\"}}\n");
        assert_eq!(read(&line), Ok(serde_json::json!({"drift": "5s"})));
        assert_eq!(Message::stop().to_line(), "{\"class\":\"stop\"}\n");
    }

    fn packed(bytes: &[u8]) -> String {
        super::packed(std::str::from_utf8(bytes).unwrap())
    }

    #[test]
    fn packed_parameters_are_unpacked_within_limits() {
        assert_eq!(unpacked(&packed(b"{\"drift\":\"5s\"}")), Ok(serde_json::json!({"drift": "5s"})));
        let giant = packed(&vec![b' '; MODULE_PARAMETERS_BYTES_MAX + 1]);
        assert!(giant.len() < 100_000, "it is small until it is unpacked");
        assert!(unpacked(&giant).unwrap_err().0.contains("longer than"));
        for damaged in ["", "%", "aGVsbG8=", &packed(b"{")] {
            assert!(unpacked(damaged).unwrap_err().0.starts_with("the packed parameters cannot be read: "));
        }
    }

    #[test]
    fn what_is_no_parameters_is_refused() {
        assert_eq!(read("").unwrap_err(), "ReadInputParameters() -> ReadInput() -> EOF");
        let stop = read(&Message::stop().to_line()).unwrap_err();
        assert_eq!(stop, "ReadInputParameters() -> unexpected input is not module parameters");
        assert!(read("{\"class\":").unwrap_err().contains("EOF while parsing"));
        let giant = "x".repeat(MODULE_PARAMETERS_BYTES_MAX + 5000);
        assert!(read(&giant).unwrap_err().contains("longer than"), "a line without an end is not taken in whole");
    }
}
