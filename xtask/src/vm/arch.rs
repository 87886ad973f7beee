//! What differs between the machines' processors?

/// A processor that guests can have.
#[derive(Debug)]
pub struct Arch {
    /// The compiler's name for static programs.
    pub target: &'static str,
    /// A linker for it that comes with the compiler, as cargo's variable; not where the machine's own one does.
    pub linker: Option<(&'static str, &'static str)>,
    /// `cargo xtask dist` makes a binary for it, and the guests run that.
    pub is_shipped: bool,
    /// Debian's name.
    pub debian: &'static str,
    /// A compiler of C for it, and its packages.
    pub gcc: &'static str,
    pub gcc_packages: &'static [&'static str],
    /// The emulator and its package.
    pub qemu: &'static str,
    pub package: &'static str,
    /// The emulator's machine.
    pub machine: &'static [&'static str],
    /// The serial line.
    pub console: &'static str,
}

pub static X86_64: Arch = Arch {
    target: "x86_64-unknown-linux-musl",
    linker: None,
    is_shipped: true,
    debian: "amd64",
    gcc: "gcc",
    gcc_packages: &["gcc", "libc6-dev"],
    qemu: "/usr/bin/qemu-system-x86_64",
    package: "qemu-system-x86",
    machine: &["-cpu", "max"],
    console: "ttyS0",
};

pub static AARCH64: Arch = Arch {
    target: "aarch64-unknown-linux-musl",
    linker: Some(("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld")),
    is_shipped: false,
    debian: "arm64",
    gcc: "aarch64-linux-gnu-gcc",
    gcc_packages: &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
    qemu: "/usr/bin/qemu-system-aarch64",
    package: "qemu-system-arm",
    // Pointer authentication is most of what emulation costs, and nothing here is about it.
    machine: &["-machine", "virt", "-cpu", "max,pauth-impdef=on"],
    console: "ttyAMA0",
};
