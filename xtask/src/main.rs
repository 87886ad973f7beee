//! tracer's tasks: `cargo xtask --help` lists them.

mod bench;
mod beside;
mod cmd;
mod deny;
mod dist;
mod ebpf;
mod fuzz;
mod load;
mod packages;
mod report;
mod retry;
mod run;
mod setup;
mod sources;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::test::Tier;

/// tracer's build, test and bench tasks
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what compiling the kernel programs needs: rust-src, LLVM, bpf-linker
    Setup,
    /// Compile the kernel programs to tracer/bpf/tracer.bpf.o
    Ebpf {
        /// Only compare: fail if the committed object is not what the sources give
        #[arg(long)]
        check: bool,
    },
    /// Build tracer and run it, as root; without arguments `ps`
    Run {
        /// Arguments of tracer
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Format, lint, unit tests, and the tests against this machine's kernel; needs stable Rust and root only
    Test {
        /// Everything that must hold before a change lands, as in CI; installs the BPF toolchain, Debian's clients and
        /// servers, and emulators
        #[arg(long)]
        all: bool,
        /// What takes hours, before a release: a healthy host, load, fuzzers, all kernels in full. Writes
        /// docs/RELEASE_TIER.md
        #[arg(long, conflicts_with = "all")]
        release_tier: bool,
        /// How often live tests that failed are run again: they are about time, and a machine may be held up
        #[arg(long, default_value_t = 0)]
        retries: u32,
    },
    /// Measure what tracer costs and hold it against the budgets
    Bench {
        /// Shorter rounds, for a first look
        #[arg(long)]
        quick: bool,
    },
    /// Run the fuzzers of what reads bytes from outside
    Fuzz {
        /// These; all if none is named
        names: Vec<String>,
        /// How long each
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Check that the crates tracer is made of, their licences and where they come from are as deny.toml allows
    Deny,
    /// Make a static binary and a Debian package, in target/dist
    Dist,
    /// Run the live tests on other kernels, in emulated machines
    Vm {
        /// Machines of the matrix (5.10, 6.1, 6.12, 7, slewed, no-types, lockdown, aarch64), all if none is named
        names: Vec<String>,
        /// Only tests with this in their name; may be repeated
        #[arg(long, value_name = "WORD")]
        test: Vec<String>,
        /// Fetch the kernels again although they are cached
        #[arg(long)]
        refresh: bool,
        /// How many machines run at a time; each takes one of this one's processors
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// How often a machine that fails is booted again, with the tests that failed: they are about time, and emulation
        /// is slow
        #[arg(long, default_value_t = 0)]
        retries: u32,
        /// Put the table of kernels and what works on them into docs/KERNELS.md, if everything holds
        #[arg(long, conflicts_with_all = ["names", "test"])]
        write: bool,
    },
    /// What `test --all` does beside the tests
    #[command(hide = true)]
    Beside,
    /// A load the bench starts
    #[command(hide = true)]
    Load {
        /// Which, and its arguments
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup => setup::run(),
        Task::Ebpf { check } => ebpf::run(check),
        Task::Run { args } => run::run(&args),
        Task::Test { all, release_tier, retries } => {
            let tier = match (all, release_tier) {
                (_, true) => Tier::Release,
                (true, _) => Tier::Landing,
                _ => Tier::Quick,
            };
            test::run(tier, retries)
        }
        Task::Beside => test::run_beside(),
        Task::Fuzz { names, seconds } => fuzz::run(&names, seconds),
        Task::Deny => deny::run(),
        Task::Dist => dist::run(),
        Task::Bench { quick } => bench::run(quick),
        Task::Vm { names, test, refresh, jobs, retries, write } => {
            vm::run(&vm::Options { names, tests: test, refresh, jobs, retries, write, landing: false })
        }
        Task::Load { args } => load::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
