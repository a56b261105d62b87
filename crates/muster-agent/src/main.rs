//! The program `muster-agent`.

fn main() -> std::process::ExitCode {
    muster_agent::cli::main()
}
