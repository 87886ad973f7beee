//! `cargo xtask vm [NAME]...`: do the live tests pass on other kernels? Boots Debian's in qemu, each with nothing but
//! tracer and its tests.

mod arch;
mod cpio;
mod kernels;
mod qemu;
mod samples;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use self::{
    arch::Arch,
    cpio::Cpio,
    kernels::Kernel,
    qemu::{Guest, Outcome},
    samples::Samples,
};
use crate::cmd::{self, command, root};

/// One machine of the matrix.
struct Vm {
    name: &'static str,
    kernel: &'static Kernel,
    /// What the machine is made without.
    lacks: &'static str,
    /// More words for the kernel's command line.
    boot: &'static str,
    /// More lines for the guest's plan, see `tests/src/bin/guest`.
    plan: &'static str,
    /// Words of the tests to run.
    tests: &'static [&'static str],
    /// Those before a change lands, where they are fewer: kernels between others that run all. With none it is not booted then.
    landing: &'static [&'static str],
}

/// Tests of what depends on the kernel: what waits, since when, on what and on whom; what holds it; ended waits; stalls.
const KERNEL: &[&str] = &[
    "agent_restart",
    "agent_stalls",
    "classes",
    "doctor",
    "histogram",
    "proc_source",
    "ps_ages",
    "ps_contract",
    "ps_held",
    "ps_leaving",
    "ps_many::each",
    "ps_registers",
    "ps_restarted",
    "ps_targets",
    "requests::",
    "response_times",
    "stacks_everywhere",
    "stacks_languages::each_python",
    "trace",
    "why::",
];
/// These before a change lands on the oldest kernel, but for what is printed of the same evidence on every kernel: this machine has
/// those, other kernels some of them, and the release tier all.
const READ: &[&str] = &[
    "agent_stalls::a_stall",
    "agent_stalls::read_recvfrom",
    "classes",
    "doctor",
    "histogram",
    "proc_source",
    "ps_ages",
    "ps_held",
    "ps_leaving",
    "ps_many::each",
    "ps_registers",
    "ps_restarted",
    "ps_targets",
    "requests::",
    "response_times",
    "stacks_everywhere",
    "stacks_languages::each_python",
    "trace::a_child_is",
    "trace::a_hundred_calls",
    "why::a_client",
    "why::a_frozen",
    "why::who_holds",
];
/// And these where another machine that has those reads the same way: on a newer kernel.
const SAME: &[&str] = &[
    "agent_stalls::a_stall_that_resumes",
    "agent_stalls::read_recvfrom",
    "classes",
    "doctor",
    "ps_ages",
    "ps_registers",
    "ps_targets",
    "requests::",
    "trace::a_hundred_calls",
];
/// And these of another processor, whose emulation is slowest: what its registers and its numbers of system calls decide.
const OTHER_PROCESSOR: &[&str] = &[
    "agent_stalls::read_recvfrom",
    "classes",
    "doctor",
    "ps_ages",
    "ps_registers",
    "requests::",
    "stacks_everywhere",
    "stacks_languages::each_python",
];
/// Of these a few.
const SMOKE: &[&str] = &["agent_stalls::read_recvfrom", "doctor", "ps_ages", "requests::"];
/// Tests of what depends on the clock.
const CLOCK: &[&str] = &["--include-ignored", "agent_clock", "agent_stalls", "ps_ages", "ps_registers"];
/// These and a few on a kernel that no other machine has then.
const SLEWED: &[&str] = &[
    "--include-ignored",
    "agent_clock",
    "agent_stalls::a_stall_that_resumes",
    "agent_stalls::read_recvfrom",
    "doctor",
    "ps_ages",
    "ps_contract",
    "ps_registers",
];

/// Tests of what is left without the kernel programs.
const PROC: &[&str] = &["proc_source::a_footer", "proc_source::an_ordinary", "proc_source::types"];

/// The matrix. Emulation is slow, so latencies may be ten times as long (`TRACER_TESTS_SLOW`); ages may not.
const VMS: &[Vm] = &[
    Vm { name: "5.10", kernel: &kernels::V5_10, ..VM },
    Vm { name: "6.1", kernel: &kernels::V6_1, landing: SMOKE, ..VM },
    // The slewed machine has its kernel, and another runs all tests on its version.
    Vm { name: "6.12", landing: &[], ..VM },
    Vm { name: "7", kernel: &kernels::V7, landing: SAME, ..VM },
    Vm { name: "slewed", plan: "slew 30\n", tests: CLOCK, landing: SLEWED, ..VM },
    Vm {
        name: "no-types",
        lacks: "BTF hidden",
        plan: "hide /sys/kernel/btf\nlacks types\n",
        tests: PROC,
        landing: PROC,
        ..VM
    },
    Vm {
        name: "lockdown",
        lacks: "lockdown=confidentiality",
        boot: "lockdown=confidentiality",
        plan: "lacks lockdown\n",
        tests: PROC,
        landing: PROC,
        ..VM
    },
    Vm { name: "aarch64", kernel: &kernels::V6_12_AARCH64, landing: OTHER_PROCESSOR, ..VM },
];

/// A machine that has everything, and is tested in full but before a landing.
const VM: Vm =
    Vm { name: "", kernel: &kernels::V6_12, lacks: "", boot: "", plan: "", tests: KERNEL, landing: READ };

/// What the command line asks for.
pub struct Options {
    /// Machines by name, all if empty.
    pub names: Vec<String>,
    /// Words of the tests to run, those of the matrix if empty.
    pub tests: Vec<String>,
    /// Fetch kernels again although they are cached.
    pub refresh: bool,
    /// How many machines run at a time.
    pub jobs: usize,
    /// How often a machine that fails is booted again, with the tests that failed. The report says so.
    pub retries: u32,
    /// Put the table of capabilities into docs/KERNELS.md.
    pub write: bool,
    /// Of kernels between others only a few tests.
    pub landing: bool,
}

impl Options {
    /// All machines in full.
    pub fn full(retries: u32) -> Self {
        Self { names: vec![], tests: vec![], refresh: false, jobs: 2, retries, write: false, landing: false }
    }

    /// What must hold before a change lands.
    pub fn landing(retries: u32) -> Self {
        Self { landing: true, ..Self::full(retries) }
    }
}

/// Installs what the whole matrix needs and does not build itself: emulators, kernels, Rust's libraries.
pub fn install() -> Result<()> {
    for vm in VMS {
        kernels::emulator(vm.kernel.arch)?;
        kernels::image(vm.kernel, false)?;
        kernels::busybox(vm.kernel.arch)?;
        static_target(vm.kernel.arch.target)?;
        samples::install(vm.kernel.arch)?;
    }
    Ok(())
}

/// What came of a machine.
struct Done {
    outcome: Outcome,
    took: Duration,
    /// How often it was booted.
    tries: u32,
    /// What did not pass at every boot.
    failed_once: BTreeSet<String>,
}

/// Boots the machines and prints a table of what passed.
pub fn run(options: &Options) -> Result<()> {
    let mut vms = chosen(&options.names)?;
    vms.retain(|vm| !options.landing || !vm.landing.is_empty());
    let mut images: BTreeMap<&str, PathBuf> = BTreeMap::new();
    let mut programs: BTreeMap<&str, (Vec<Program>, Samples)> = BTreeMap::new();
    for vm in &vms {
        let Kernel { name, arch, .. } = vm.kernel;
        if !images.contains_key(name) {
            images.insert(name, kernels::image(vm.kernel, options.refresh)?);
        }
        if !programs.contains_key(arch.target) {
            kernels::emulator(arch)?;
            programs.insert(arch.target, (build(arch)?, samples::make(arch)?));
        }
    }

    let work = root().join("target/vm");
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    // Those that take long come first, or one of them runs alone at the end.
    let mut left: Vec<_> = vms.iter().rev().collect();
    left.sort_by_key(|vm| if options.landing { vm.landing.len() } else { vm.tests.len() });
    let left = Mutex::new(left);
    let done = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                // Not in the loop's condition, where the lock would be held all through its body.
                while let Some(vm) = { left.lock().map_or(None, |mut left| left.pop()) } {
                    let (image, programs) = (&images[vm.kernel.name], &programs[vm.kernel.arch.target]);
                    let result = one(vm, image, programs, &work, options);
                    if let Ok(mut done) = done.lock() {
                        done.insert(vm.name, result);
                    }
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report(&vms, &done)?;
    if options.write { write(&capabilities(&vms, &done)) } else { Ok(()) }
}

/// What stands around the table in docs/KERNELS.md.
const BEGIN: &str = "<!-- written by cargo xtask vm --write -->\n";
const END: &str = "<!-- end of it -->\n";

fn write(table: &str) -> Result<()> {
    let path = root().join("docs/KERNELS.md");
    let text = fs::read_to_string(&path)?;
    let (before, rest) = text.split_once(BEGIN).context("docs/KERNELS.md has no place for the table")?;
    let (_, after) = rest.split_once(END).context("docs/KERNELS.md has no end of the table")?;
    fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}"))?;
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Vm>> {
    if names.is_empty() {
        return Ok(VMS.iter().collect());
    }
    let known: Vec<&str> = VMS.iter().map(|vm| vm.name).collect();
    names
        .iter()
        .map(|name| {
            VMS.iter()
                .find(|vm| vm.name == name)
                .with_context(|| format!("there is no machine {name}: the matrix has {}", known.join(", ")))
        })
        .collect()
}

/// What goes into the guest, as name and file.
struct Program {
    name: &'static str,
    path: PathBuf,
}

/// Makes sure that static programs can be built for this target.
pub fn static_target(target: &str) -> Result<()> {
    let installed = cmd::output(command("rustup", &["target", "list", "--installed"]))?;
    if !installed.lines().any(|line| line == target) {
        cmd::run(command("rustup", &["target", "add", target]))?;
    }
    Ok(())
}

/// Static binaries of tracer, the tests and what they start.
fn build(arch: &Arch) -> Result<Vec<Program>> {
    let target = arch.target;
    static_target(target)?;
    let build = |package: &str, more: &[&str]| {
        let mut cargo = command("cargo", &["--quiet"]);
        cargo.args(more).args(["--package", package, "--release", "--locked", "--target", target]);
        // A tenth of the size to load and to fill in.
        cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols").envs(arch.linker);
        // What nobody is given need not be as fast as it can be, and what both use is built once.
        if !arch.is_shipped || package == "tests" {
            cargo.envs([
                ("CARGO_PROFILE_RELEASE_LTO", "off"),
                ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
                ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
            ]);
        }
        cargo
    };
    cmd::run(build("tracer", &["build"]))?;
    cmd::run(build("tests", &["build", "--bins"]))?;
    let mut tests = build("tests", &["test", "--test", "live", "--no-run"]);
    tests.arg("--message-format=json").stderr(Stdio::inherit());
    let messages = cmd::output(tests)?;
    let live = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "live")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo does not say where it put the live tests")?;
    let made = root().join("target").join(target).join("release");
    let own = |name| Program { name, path: made.join(name) };
    let live = Program { name: "live", path: live };
    let busybox = Program { name: "busybox", path: kernels::busybox(arch)? };
    Ok(vec![own("tracer"), own("waiter"), own("guest"), live, busybox])
}

/// Boots one machine and waits for its end; if it fails and may, again, with the tests that failed.
fn one(
    vm: &Vm,
    image: &Path,
    programs: &(Vec<Program>, Samples),
    work: &Path,
    options: &Options,
) -> Result<Done> {
    let disk = work.join(format!("{}.cpio", vm.name));
    let words = if options.landing { vm.landing } else { vm.tests };
    let mut words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    if !options.tests.is_empty() {
        words.clone_from(&options.tests);
    }
    let console = work.join(format!("{}.log", vm.name));
    let guest =
        Guest { name: vm.name, arch: vm.kernel.arch, image, disk: &disk, console: &console, boot: vm.boot };
    let mut took = Duration::ZERO;
    let mut before: Option<Outcome> = None;
    let mut failed_once = BTreeSet::new();
    for tries in 1.. {
        fs::write(&disk, disk_of(vm, programs, &words)?)
            .with_context(|| format!("cannot write {}", disk.display()))?;
        let begun = Instant::now();
        let outcome = guest.run()?;
        took += begun.elapsed();
        failed_once.extend(outcome.not_ok.iter().cloned());
        let outcome = match before.take() {
            Some(before) => before.repeated(outcome),
            None => outcome,
        };
        // A kernel that has failed once is not to be tried again until it does not.
        if outcome.succeeded || outcome.oops.is_some() || tries > options.retries {
            return Ok(Done { outcome, took, tries, failed_once });
        }
        if let Some(names) = outcome.to_repeat() {
            words.retain(|word| word.starts_with("--") && word != "--exact");
            words.push("--exact".to_owned());
            words.extend_from_slice(names);
            before = Some(outcome);
        }
    }
    bail!("it was never booted")
}

/// The guest's root file system.
fn disk_of(vm: &Vm, (programs, samples): &(Vec<Program>, Samples), words: &[String]) -> Result<Vec<u8>> {
    let mut cpio = Cpio::new();
    for dir in ["bin", "proc", "sys", "dev", "tmp", "etc", "root", "run"] {
        cpio.dir(dir);
    }
    // The kernel opens it for init before anything is mounted.
    cpio.console("dev/console");
    for Program { name, path } in programs {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mode = fs::metadata(path)?.permissions().mode();
        ensure!(mode & 0o111 != 0, "{} is no program", path.display());
        cpio.program(&format!("bin/{name}"), &bytes);
    }
    for applet in ["sh", "cat", "head", "sleep"] {
        cpio.link(&format!("bin/{applet}"), "busybox");
    }
    cpio.link("init", "bin/guest");
    cpio.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n");
    if words.iter().any(|word| word.starts_with("stacks")) {
        samples.add_to(&mut cpio)?;
    }
    let mut plan = vm.plan.to_owned();
    words.iter().for_each(|word| plan.push_str(&format!("argument {word}\n")));
    cpio.file("plan", plan.as_bytes());
    Ok(cpio.finish())
}

/// What a machine can do, by tests that are about nothing else: the column, and how their names begin.
const PROVED: &[(&str, &[&str])] = &[
    ("waits", &["ps_targets::", "classes::", "ps_contract::"]),
    ("ages", &["ps_ages::"]),
    ("tuples", &["ps_ages::recvfrom_on_tcp", "ps_ages::read_on_tcp", "ps_ages::connect_to"]),
    ("stalls", &["agent_stalls::"]),
];

/// Kernel by capability, as `tracer doctor` and the tests found it in each machine: the table of docs/KERNELS.md.
fn capabilities(vms: &[&Vm], done: &BTreeMap<&str, Result<Done>>) -> String {
    let mut table = "| kernel | processor | `ps`, `why` | peers | `agent` | `trace` by |".to_owned();
    PROVED.iter().for_each(|(column, _)| table += &format!(" {column} |"));
    table += " tests passed | lacking |\n";
    table += &"| --- ".repeat(8 + PROVED.len());
    table += "|\n";
    for vm in vms {
        let Some(Ok(Done { outcome, .. })) = done.get(vm.name) else { continue };
        let doctor = &outcome.doctor;
        let text = |name: &str| doctor[name].as_str().unwrap_or("?").to_owned();
        let yes = |is: bool| if is { "yes" } else { "no" };
        let checks = doctor["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
        let peers = checks.iter().any(|check| {
            check["name"].as_str().is_some_and(|name| name.starts_with("holders")) && check["state"] == "ok"
        });
        let trace: Vec<&str> =
            doctor["trace"].as_array().into_iter().flatten().filter_map(|by| by.as_str()).collect();
        let what = match (vm.lacks, vm.plan.starts_with("slew")) {
            ("", true) => ", clock slewed".to_owned(),
            ("", false) => String::new(),
            (lacks, _) => format!(", {lacks}"),
        };
        table += &format!(
            "| {}{what} | {} | by {} | {} | {} | {} |",
            outcome.release,
            text("machine"),
            text("source"),
            yes(peers),
            yes(doctor["agent"] == true),
            trace.join(", "),
        );
        for (_, names) in PROVED {
            table += &format!(" {} |", outcome.proved(names));
        }
        table += &format!(" {} | {} |\n", outcome.done(), outcome.lacking().len());
    }
    table
}

fn report(vms: &[&Vm], done: &BTreeMap<&str, Result<Done>>) -> Result<()> {
    for vm in vms {
        if let Some(Ok(Done { outcome, failed_once, .. })) = done.get(vm.name) {
            if let Some(oops) = &outcome.oops {
                println!("{}: the kernel has failed: {oops}", vm.name);
            }
            for line in &outcome.unsupported {
                println!("{}: {line}", vm.name);
            }
            for test in failed_once.iter().filter(|&test| !outcome.not_ok.contains(test)) {
                println!("{}: {test} failed and passed in a further boot", vm.name);
            }
        }
    }
    println!(
        "| machine | kernel | passed | failed | kernel lacks | took | boots |\n| --- | --- | --- | --- | --- | --- | --- |"
    );
    let mut bad = Vec::new();
    for vm in vms {
        match done.get(vm.name) {
            Some(Ok(Done { outcome, took, tries, .. })) => {
                let Outcome { release, failed, .. } = outcome;
                let passed = outcome.done();
                let lacks = outcome.lacking().len();
                let took = took.as_secs();
                println!("| {} | {release} | {passed} | {failed} | {lacks} | {took} s | {tries} |", vm.name);
                if !outcome.succeeded {
                    bad.push(vm.name);
                }
            }
            Some(Err(error)) => {
                println!("| {} | {error:#} | | | | | |", vm.name);
                bad.push(vm.name);
            }
            None => bad.push(vm.name),
        }
    }
    println!("\n{}", capabilities(vms, done));
    if !bad.is_empty() {
        bail!("not everything holds on {}: their consoles are in target/vm", bad.join(", "));
    }
    Ok(())
}
