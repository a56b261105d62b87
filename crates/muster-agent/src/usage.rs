//! What a process uses: samples of /proc, summed up now and then and told to the server.

use crate::hub::{Hub, Mail, any};
use muster_core::{Clock, Priority, Timestamp, system};
use muster_proto::convert;
use muster_proto::wire::monitoring::{AggregatedResourceUsage, ResourceUsageData};
use procfs::process::Process;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Samples in one report, unless configured (as the original).
pub(crate) const SAMPLES: u32 = 20;
/// Time between samples, unless configured (as the original).
pub(crate) const PERIOD: Duration = Duration::from_secs(30);

/// One look at a process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// When.
    pub(crate) at: Instant,
    /// Milliseconds of processor time in user mode, since its start.
    pub(crate) user_ms: f64,
    /// Milliseconds of processor time in the kernel, since its start.
    pub(crate) system_ms: f64,
    /// Bytes of resident memory.
    pub(crate) memory: u64,
    /// Open files.
    pub(crate) files: usize,
}

/// Looks at a process.
pub(crate) fn sample(pid: i32) -> procfs::ProcResult<Sample> {
    let process = Process::new(pid)?;
    let stat = process.stat()?;
    #[expect(clippy::cast_precision_loss, reason = "ticks of a process fit the 52 bits of a float for millennia")]
    let milliseconds = |ticks: u64| ticks as f64 * 1000.0 / procfs::ticks_per_second() as f64;
    Ok(Sample {
        at: Instant::now(),
        user_ms: milliseconds(stat.utime),
        system_ms: milliseconds(stat.stime),
        memory: stat.rss * procfs::page_size(),
        files: process.fd_count()?,
    })
}

/// Returns when a process started.
pub(crate) fn started(pid: i32) -> Option<Timestamp> {
    let ticks = Process::new(pid).ok()?.stat().ok()?.starttime;
    let boot = i64::try_from(procfs::boot_time_secs().ok()?).ok()?;
    Some(Timestamp::from_secs(boot).plus(Duration::from_millis(ticks * 1000 / procfs::ticks_per_second())))
}

/// Samples since the last report. Rates are between two samples, so the first one counts only as a beginning.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    last: Option<Sample>,
    rates: Vec<(f64, f64)>,
    memory: Vec<u64>,
    files: Vec<usize>,
}

impl Summary {
    /// Adds a sample. Returns how many there are since the last report.
    pub(crate) fn add(&mut self, sample: Sample) -> u32 {
        if let Some(last) = self.last {
            let seconds = (sample.at - last.at).as_secs_f64();
            if seconds > 0.0 {
                let rate = |now: f64, before: f64| (now - before).max(0.0) / seconds;
                self.rates.push((rate(sample.user_ms, last.user_ms), rate(sample.system_ms, last.system_ms)));
            }
        }
        self.last = Some(sample);
        self.memory.push(sample.memory);
        self.files.push(sample.files);
        u32::try_from(self.memory.len()).unwrap_or(u32::MAX)
    }

    /// Sums up and begins anew.
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory and numbers of files are far below 2^52")]
    pub(crate) fn take(&mut self) -> AggregatedResourceUsage {
        let mean = |values: &mut dyn Iterator<Item = f64>| {
            let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
            if count == 0 { 0.0 } else { sum / f64::from(count) }
        };
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        let usage = AggregatedResourceUsage {
            mean_user_cpu_rate: mean(&mut self.rates.iter().map(|rate| rate.0)),
            max_user_cpu_rate: most(&mut self.rates.iter().map(|rate| rate.0)),
            mean_system_cpu_rate: mean(&mut self.rates.iter().map(|rate| rate.1)),
            max_system_cpu_rate: most(&mut self.rates.iter().map(|rate| rate.1)),
            mean_resident_memory: mean(&mut self.memory.iter().map(|bytes| *bytes as f64)),
            max_resident_memory: self.memory.iter().max().map_or(0, |most| i64::try_from(*most).unwrap_or(i64::MAX)),
            max_num_fds: self.files.iter().max().map_or(0, |most| i32::try_from(*most).unwrap_or(i32::MAX)),
            mean_num_fds: mean(&mut self.files.iter().map(|files| *files as f64)),
        };
        *self = Self { last: self.last, ..Self::default() };
        usage
    }
}

/// Whom a report is about.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    /// `system` for the agent, else the service.
    pub(crate) scope: String,
    /// Its process.
    pub(crate) pid: i32,
    /// What it says its version is.
    pub(crate) version: String,
}

/// Returns how long to wait before sample number `number` (from 0): 1, 2, 4, 8, 16 s at first, then `period`.
pub(crate) fn pause_before(number: u32, period: Duration) -> Duration {
    let warm_up = Duration::from_secs(1_u64.checked_shl(number).unwrap_or(u64::MAX));
    if number < 5 { warm_up.min(period) } else { period }
}

/// What is told of a process.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Report {
    /// What it used since the last report.
    Usage(AggregatedResourceUsage),
    /// That it is no more.
    Ended,
}

/// Tells the server what a process used.
pub(crate) async fn report(
    hub: &Hub,
    clock: &Arc<dyn Clock>,
    subject: &Subject,
    started: Option<Timestamp>,
    report: Report,
) {
    let (usage, terminated) = match report {
        Report::Usage(usage) => (usage, false),
        // The original's server fails as a whole on a report without figures, so the last one has them too.
        Report::Ended => (AggregatedResourceUsage::default(), true),
    };
    let now = clock.now();
    let data = ResourceUsageData {
        scope: subject.scope.clone(),
        pid: subject.pid.into(),
        process_start_time: Some(convert::time_to_wire(started.unwrap_or(now))),
        data_timestamp: Some(convert::time_to_wire(now)),
        process_terminated: terminated,
        resource_usage: Some(usage),
        version: subject.version.clone(),
        ..ResourceUsageData::default()
    };
    let mail = Mail {
        from: system::SERVICE.into(),
        to: system::SERVICE.into(),
        message_type: system::RESOURCE_USAGE.into(),
        data: Some(any("fleetspeak.monitoring.ResourceUsageData", &data)),
        priority: Priority::Low,
        background: true,
        ..Mail::default()
    };
    hub.send_or_count(mail).await;
}

/// Reports what the agent itself uses. Runs until it is dropped.
pub(crate) async fn report_self_forever(hub: Arc<Hub>, clock: Arc<dyn Clock>) {
    let Ok(pid) = i32::try_from(std::process::id()) else { return };
    let started = started(pid);
    let mut summary = Summary::default();
    for number in 0.. {
        tokio::time::sleep(pause_before(number, PERIOD)).await;
        let Ok(sample) = sample(pid) else { continue };
        if summary.add(sample) >= SAMPLES {
            let version = env!("CARGO_PKG_VERSION").to_owned();
            let subject = Subject { scope: system::SERVICE.into(), pid, version };
            report(&hub, &clock, &subject, started, Report::Usage(summary.take())).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rates_are_between_samples_and_the_next_report_goes_on_from_the_last() {
        let start = Instant::now();
        let sample = |seconds: u64, user_ms, memory| Sample {
            at: start + Duration::from_secs(seconds),
            user_ms,
            system_ms: user_ms / 2.0,
            memory,
            files: 4,
        };
        let mut summary = Summary::default();
        summary.add(sample(0, 100.0, 10));
        summary.add(sample(10, 200.0, 30));
        assert_eq!(summary.add(sample(20, 500.0, 20)), 3);
        let usage = summary.take();
        assert_eq!((usage.mean_user_cpu_rate, usage.max_user_cpu_rate, usage.max_system_cpu_rate), (20.0, 30.0, 15.0));
        assert_eq!((usage.mean_resident_memory, usage.max_resident_memory, usage.max_num_fds), (20.0, 30, 4));
        assert_eq!(summary.add(sample(30, 600.0, 1)), 1);
        assert_eq!(summary.take().mean_user_cpu_rate.to_bits(), 10.0_f64.to_bits());
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let sample = sample(pid).unwrap();
        assert!(sample.memory > 100_000 && sample.files > 2);
        assert!(started(pid).unwrap() > Timestamp::from_secs(1_600_000_000));
    }

    #[test]
    fn the_first_samples_come_quickly() {
        let pauses: Vec<u64> = (0..7).map(|number| pause_before(number, PERIOD).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pause_before(3, Duration::from_secs(2)).as_secs(), 2);
    }
}
