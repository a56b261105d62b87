//! Measurements over the wire: our server on both databases and, if wished, the original's, one after the other in one
//! run with the same load program, so that the figures can be held against each other.
//!
//! Prints a JSON line for each figure and a table with the ratios and the goals. A figure is what came out; nothing here
//! fails because it falls short.

mod fleet;
mod jobs;
pub(crate) mod orders;
mod target;

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use target::{Kind, Target};

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Measure this beside ours
    #[arg(long)]
    peer: Option<Peer>,
    /// How long each job that measures a rate runs
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Idle streams to open
    #[arg(long, default_value_t = 5000)]
    streams: usize,
    /// Only these jobs, by the beginning of their names
    #[arg(long = "job")]
    jobs: Vec<String>,
    /// Only these targets
    #[arg(long = "target", value_enum)]
    targets: Vec<Kind>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Peer {
    /// The original's server
    Fleetspeak,
}

/// A job: its name, its unit, whether more is better, and what is asked of ours.
#[derive(Debug, Clone, Copy)]
struct Job {
    name: &'static str,
    unit: &'static str,
    better: Better,
    goal: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

const JOBS: &[Job] = &[
    Job { name: "start-to-ready", unit: "ms", better: Better::Less, goal: "≤ 1000 ms" },
    Job { name: "resident-after-start", unit: "MiB", better: Better::Less, goal: "≤ 40 MiB" },
    Job {
        name: "contacts-of-100", unit: "messages/s", better: Better::More, goal: "≥ 10x SQLite, ≥ 5x PostgreSQL"
    },
    Job { name: "contacts-of-1", unit: "contacts/s", better: Better::More, goal: "≥ 8x SQLite" },
    Job { name: "insert-message", unit: "calls/s", better: Better::More, goal: "≥ 6x" },
    Job { name: "down-one-stream", unit: "messages/s", better: Better::More, goal: "≥ 20x" },
    Job { name: "request-to-answer-p50", unit: "ms", better: Better::Less, goal: "≤ 50 ms" },
    Job { name: "request-to-answer-p99", unit: "ms", better: Better::Less, goal: "≤ 200 ms" },
    Job { name: "memory-per-idle-stream", unit: "KiB", better: Better::Less, goal: "≤ 32 KiB" },
];

type Figures = BTreeMap<(&'static str, Kind), f64>;

/// Measures and prints.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut kinds = vec![Kind::Sqlite, Kind::Postgres];
    kinds.extend(args.peer.map(|Peer::Fleetspeak| Kind::Fleetspeak));
    kinds.retain(|kind| args.targets.is_empty() || args.targets.contains(kind));
    let mut figures = Figures::new();
    for kind in &kinds {
        let target = Target::start(*kind).await?;
        for job in JOBS.iter().filter(|job| wanted(&args, job)) {
            match measure(job, &target, &args).await {
                Ok(Some(value)) => {
                    println!("{}", json!({"job": job.name, "target": kind.name(), "value": value, "unit": job.unit}));
                    figures.insert((job.name, *kind), value);
                }
                Ok(None) => {}
                Err(error) => {
                    println!("{}", json!({"job": job.name, "target": kind.name(), "error": format!("{error:#}")}));
                }
            }
        }
        target.stop()?;
    }
    println!("{}", table(&kinds, &figures));
    Ok(())
}

fn wanted(args: &Args, job: &Job) -> bool {
    args.jobs.is_empty() || args.jobs.iter().any(|prefix| job.name.starts_with(prefix.as_str()))
}

/// Returns the figure, or `None` when the job does not exist for the target.
async fn measure(job: &Job, target: &Target, args: &Args) -> Result<Option<f64>> {
    let time = Duration::from_secs(args.seconds);
    Ok(Some(match job.name {
        "start-to-ready" => target.start_time().as_secs_f64() * 1000.0,
        "resident-after-start" => target.resident_after_start() / 1024.0 / 1024.0,
        "contacts-of-100" => jobs::contacts(target, 4, 100, time).await? * 100.0,
        "contacts-of-1" => jobs::contacts(target, 4, 1, time).await?,
        "insert-message" => jobs::inserts(target, 8, time).await?,
        "down-one-stream" => jobs::down_one_stream(target, 1000).await?,
        "memory-per-idle-stream" => jobs::idle_streams(target, args.streams).await? / 1024.0,
        "request-to-answer-p50" => return jobs::request_to_answer(target, 0.50).await,
        "request-to-answer-p99" => return jobs::request_to_answer(target, 0.99).await,
        other => unreachable!("{other} is not in the list of jobs"),
    }))
}

fn table(kinds: &[Kind], figures: &Figures) -> Table {
    let mut table = Table::new();
    let mut header = vec!["job".to_owned(), "unit".to_owned()];
    header.extend(kinds.iter().map(|kind| kind.name().to_owned()));
    header.push("goal".to_owned());
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    for job in JOBS {
        let mut row = vec![job.name.to_owned(), job.unit.to_owned()];
        let peer = figures.get(&(job.name, Kind::Fleetspeak));
        for kind in kinds {
            let Some(value) = figures.get(&(job.name, *kind)) else {
                row.push("–".to_owned());
                continue;
            };
            let ratio = peer.filter(|_| *kind != Kind::Fleetspeak).map(|peer| match job.better {
                Better::More => value / peer,
                Better::Less => peer / value,
            });
            row.push(ratio.map_or_else(|| format!("{value:.1}"), |ratio| format!("{value:.1} ({ratio:.1}x)")));
        }
        row.push(job.goal.to_owned());
        table.add_row(row);
    }
    table
}
