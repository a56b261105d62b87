//! What people see of a running server: log lines, metrics, health.
//!
//! Stays true: no body, token or password is ever logged; every label of a metric has a bounded set of values.
//! Not here: which requests there are (`rest`).

use crate::config::{LogFormat, Logs};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::error::Error;
use std::fmt;
use std::io::IsTerminal;
use std::sync::OnceLock;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// An error with all its causes, for one field of a log line or one sentence to a person.
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn filter(logs: &Logs) -> Result<EnvFilter, String> {
    muster_core::text::log_level(&logs.level).map_err(|why| format!("logs.level: {why}"))?;
    EnvFilter::try_new(&logs.level).map_err(|error| {
        format!("logs.level: {error}. Write a level such as info, or directives such as info,muster_engine=debug")
    })
}

/// Changes what is logged while the program runs.
#[derive(Clone)]
pub struct LogLevel(Option<reload::Handle<EnvFilter, Registry>>);

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogLevel")
    }
}

impl LogLevel {
    /// Logs what `logs.level` says from now on.
    pub fn set(&self, logs: &Logs) -> Result<(), String> {
        let new = filter(logs)?;
        let handle = self.0.as_ref().ok_or("another part of this process writes the log lines")?;
        handle.reload(new).map_err(|error| error.to_string())
    }
}

/// Starts log lines on standard error. Where another part of the process has set up its own, those stay.
pub fn logs_start(logs: &Logs) -> Result<LogLevel, String> {
    let (filter, handle) = reload::Layer::new(filter(logs)?);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let started = match logs.format {
        LogFormat::Text => {
            let ansi = std::io::stderr().is_terminal();
            registry.with(lines.with_ansi(ansi).with_target(false)).try_init()
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    // The only error is that somebody was first.
    Ok(LogLevel(started.is_ok().then_some(handle)))
}

/// Where durations are counted, in seconds.
const BUCKETS: [f64; 11] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];

/// Starts counting, once a process, and returns what renders the figures.
pub fn metrics_start() -> PrometheusHandle {
    static STARTED: OnceLock<PrometheusHandle> = OnceLock::new();
    let start = || {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS)
            .expect("there are buckets");
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        // A process that counts elsewhere already keeps doing so; the page then stays empty.
        let _ = metrics::set_global_recorder(recorder);
        describe();
        handle
    };
    STARTED.get_or_init(start).clone()
}

fn describe() {
    metrics::describe_counter!("muster_rest_requests_total", "Requests at the operators' door.");
    metrics::describe_histogram!(
        "muster_rest_request_duration_seconds",
        "Time from a request's header to its answer's header at the operators' door."
    );
    metrics::describe_counter!("muster_rest_tokens_refused_total", "Requests with a token that is not known.");
    metrics::describe_gauge!("muster_server_info", "1; its label is the version of the program.");
    metrics::describe_gauge!("muster_certificate_remaining_seconds", "Until a listener's certificate ends.");
    metrics::describe_gauge!(
        "muster_certificate_reload_failed",
        "1 when a listener keeps its certificate because a new one could not be made or read."
    );
    metrics::describe_gauge!("muster_process_resident_bytes", "Memory that the process holds.");
    metrics::describe_gauge!("muster_process_open_files", "Files and connections that the process holds open.");
}

/// Notes the process's own figures; called when the page is asked for.
pub fn process_figures() {
    if let Some(bytes) = resident_bytes() {
        #[expect(clippy::cast_precision_loss, reason = "a figure on a page")]
        metrics::gauge!("muster_process_resident_bytes").set(bytes as f64);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        #[expect(clippy::cast_precision_loss, reason = "a figure on a page")]
        metrics::gauge!("muster_process_open_files").set(files.count() as f64);
    }
    metrics::gauge!("muster_server_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_level_is_refused_with_an_example() {
        let error = filter(&Logs { level: "a=b=c".into(), ..Logs::default() }).unwrap_err();
        assert!(error.contains("info,muster_agent=debug"), "{error}");
        assert!(filter(&Logs::default()).is_ok());
    }

    #[test]
    fn metrics_are_rendered_with_the_figures_of_the_process() {
        let handle = metrics_start();
        process_figures();
        let page = handle.render();
        assert!(page.contains("muster_process_resident_bytes "), "{page}");
        assert!(page.contains("muster_server_info{version="), "{page}");
    }

    #[test]
    fn every_metric_of_this_page_and_door_is_documented() {
        let page = include_str!("../../../docs/reference/metrics.md");
        for source in [include_str!("observe.rs"), include_str!("auth.rs"), include_str!("rest/layers.rs")] {
            let names = source.split('"').filter(|text| text.starts_with("muster_") && !text.contains(' '));
            for name in names.filter(|name| name.ends_with(['s', 'l', 'o'])) {
                assert!(page.contains(&format!("| `{name}` |")), "{name} is missing in docs/reference/metrics.md");
            }
        }
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let inner = std::io::Error::other("no space");
        let outer = crate::serve::ServeError { doing: "open the database".into(), source: inner.into() };
        assert_eq!(Chain(&outer).to_string(), "could not open the database: no space");
    }
}
