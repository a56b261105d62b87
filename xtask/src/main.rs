//! Chores: everything a contributor or a build machine runs, on a fresh machine too.
//!
//! Stays true: each chore installs what it needs when it is missing, says what it does, and fails with what to do next.
//! Not here: what is tested and measured (muster-harness); this program stays small, because it is built before all else.

mod cases;
mod fuzz;
mod install;
mod run;
mod test;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use run::{Profile, cargo, harness};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Chores of the Muster workspace")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Build, start a server and this machine's agent, and show what the machine really is
    Demo {
        /// End after showing instead of leaving the server open
        #[arg(long)]
        no_wait: bool,
    },
    /// Install what the tests need and run them all
    #[command(visible_alias = "ci")]
    Test {
        /// Leave out the real peers and the crash runs
        #[arg(long)]
        quick: bool,
    },
    /// Run what people met with neighbouring programs as one suite: all cases, or those of these numbers
    Cases {
        /// Such as `1 5`
        numbers: Vec<u8>,
    },
    /// Install what the tests need, and nothing else
    Install,
    /// Measure, in a release build
    #[command(subcommand)]
    Bench(Bench),
    /// Kill and starve real processes under load, and count what is lost
    Crash {
        /// What is broken, how often, on which database; `--help` behind `--` lists it
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
        /// Use a release build
        #[arg(long)]
        release: bool,
    },
    /// Run our agent against a real server of the original
    Interop {
        /// Which peer
        peer: Peer,
    },
    /// Write the OpenAPI document that a real server gives out, and compare it with the one kept beside the code
    Openapi {
        /// Where to
        #[arg(long, default_value = "target/openapi.json")]
        out: String,
    },
    /// Change one thing at a time in the rooms that guard others, and see that a test notices each
    Mutants {
        /// Further arguments of cargo-mutants, such as `--file crates/muster-trust/src/judge.rs`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Fuzz what strangers send: all targets one after the other, or one
    Fuzz {
        /// Its name below fuzz/fuzz_targets
        target: Option<String>,
        /// For how long each
        #[arg(long, default_value_t = 30)]
        seconds: u32,
    },
    /// Check licences, sources and forbidden crates against deny.toml
    Deny {
        /// Also ask for known vulnerabilities; needs the advisory database, from the network
        #[arg(long)]
        advisories: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Contacts, messages and streams, over the wire
    Transport {
        /// Drive this beside ours, in the same run
        #[arg(long)]
        peer: Option<BenchPeer>,
        /// Further arguments of the load program
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Signed actions: what the store, the signatures and a real fleet of one and of many cost
    Actions {
        /// Further arguments of the load program, such as `--target sqlite`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Rows put into the store
    Store {
        /// Further arguments of the example in muster-store
        #[arg(last = true)]
        args: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Peer {
    /// The original's server, on MariaDB
    FleetspeakServer,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BenchPeer {
    /// The original's server, on MariaDB
    Fleetspeak,
}

fn main() -> Result<()> {
    match Args::parse().chore {
        Chore::Demo { no_wait } => {
            install::gnupg()?;
            build_programs(Profile::Dev)?;
            harness(Profile::Dev, ["demo"].into_iter().chain(no_wait.then_some("--no-wait")))
        }
        Chore::Test { quick } => test::run(if quick { test::Extent::Quick } else { test::Extent::Whole }),
        Chore::Cases { numbers } => cases::run(&numbers),
        Chore::Install => install::test_tools(),
        Chore::Bench(bench) => run_bench(bench),
        Chore::Crash { args, release } => {
            install::test_tools()?;
            let profile = if release { Profile::Release } else { Profile::Dev };
            build_programs(profile)?;
            harness(profile, ["crash"].into_iter().chain(args.iter().map(String::as_str)))
        }
        Chore::Interop { peer: Peer::FleetspeakServer } => {
            install::original()?;
            install::mariadb()?;
            build_programs(Profile::Dev)?;
            harness(Profile::Dev, ["interop", "fleetspeak-server"])
        }
        Chore::Openapi { out } => {
            build_programs(Profile::Dev)?;
            harness(Profile::Dev, ["openapi", &out])
        }
        Chore::Mutants { args } => mutants(&args),
        Chore::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Chore::Deny { advisories } => deny(advisories),
    }
}

fn run_bench(bench: Bench) -> Result<()> {
    install::postgresql()?;
    match bench {
        Bench::Transport { peer, args } => {
            let peer = peer.map(|BenchPeer::Fleetspeak| ["--peer", "fleetspeak"]);
            if peer.is_some() {
                install::original()?;
                install::mariadb()?;
            }
            build_programs(Profile::Release)?;
            let args = peer.into_iter().flatten().chain(args.iter().map(String::as_str));
            harness(Profile::Release, ["bench"].into_iter().chain(args))
        }
        Bench::Actions { args } => {
            install::gnupg()?;
            build_programs(Profile::Release)?;
            example("muster-trust", "bench_signatures", &[]).context("measuring signatures")?;
            example("muster-store", "bench_actions", &[]).context("measuring actions in the store")?;
            harness(Profile::Release, ["bench-actions"].into_iter().chain(args.iter().map(String::as_str)))
        }
        Bench::Store { args } => example("muster-store", "bench_store", &args).context("measuring the store"),
    }
}

/// Runs an example that measures one room; it looks after its databases itself.
fn example(package: &str, name: &str, args: &[String]) -> Result<()> {
    let mut example = cargo(&["run", "--release", "-p", package, "--example", name, "--"]);
    run::check(example.args(args))
}

/// Builds every program in one go, so that they share their dependencies. What an agent's owner may add is left out: it
/// brings an engine with it that nothing else needs.
fn build_programs(profile: Profile) -> Result<()> {
    let mut build = cargo(&["build", "--workspace", "--exclude", "muster-yara", "--bins"]);
    build.args(profile.flags());
    run::check(&mut build).context("building the programs")
}

/// Where a mistake that no test notices would cost the most.
const GUARDS: &[&str] = &["muster-trust"];

fn mutants(args: &[String]) -> Result<()> {
    install::cargo_mutants()?;
    install::gnupg()?;
    let mut mutants = cargo(&["mutants", "--no-shuffle", "--timeout", "120"]);
    for guard in GUARDS {
        mutants.args(["--package", guard]);
    }
    run::check(mutants.args(args)).context("a change that no test notices: write the test, see mutants.out/missed.txt")
}

/// Checks both workspaces: what is fuzzed is linked by nobody, but a forbidden source is one there, too.
fn deny(advisories: bool) -> Result<()> {
    install::cargo_deny()?;
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        let mut deny = cargo(&["deny", "--locked", "--config", "deny.toml", "--manifest-path", manifest, "check"]);
        deny.args(["--hide-inclusion-graph", "licenses", "bans", "sources"]);
        deny.args(advisories.then_some("advisories"));
        run::check(&mut deny).with_context(|| format!("checking what {manifest} links"))?;
    }
    Ok(())
}
