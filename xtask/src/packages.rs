//! Which Debian packages do the tests with real clients and servers need, and the bench? Installed through apt-get, none twice.

use std::{
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, Result, ensure};

use crate::cmd::{self, command, is_root, output};

/// The clients, the servers that they are tested with, and the tools that start them.
const PACKAGES: &[&str] = &[
    "apache2-bin",
    "bsdutils",
    "cron",
    "curl",
    "dbus-bin",
    "dbus-daemon",
    "g++",
    "gcc",
    "gdb",
    "gearman-job-server",
    "gearman-tools",
    "golang-github-go-sql-driver-mysql-dev",
    "golang-github-lib-pq-dev",
    "golang-go",
    "haproxy",
    "iproute2",
    "libc6-dev",
    "libglib2.0-bin",
    "libnet-server-perl",
    "libnetty-java",
    "mariadb-client",
    "mariadb-server",
    "memcached",
    "mosquitto",
    "mosquitto-clients",
    "nftables",
    "nginx-light",
    "nodejs",
    "openjdk-17-jdk-headless",
    "openssh-client",
    "openssh-server",
    "openssl",
    "php-cli",
    "php-fpm",
    "php-gearman",
    "postfix",
    "postgresql",
    "postgresql-client",
    "procps",
    "prometheus",
    "prometheus-alertmanager",
    "pv",
    "python3",
    "python3-aiohttp",
    "python3-aiomysql",
    "python3-asyncpg",
    "python3-grpcio",
    "python3-httpx",
    "python3-redis",
    "python3-websockets",
    "redis-server",
    "redis-tools",
    "rsyslog",
    "ruby",
    "strace",
    "supervisor",
    "util-linux",
    "uwsgi-core",
    "uwsgi-plugin-python3",
    "wget",
];

/// What the package's test makes a Debian of its own with.
pub const OF_THE_PACKAGE: &[&str] = &["debootstrap", "fish", "man-db", "zsh"];

/// Installs what is missing of them.
pub fn install() -> Result<()> {
    install_these(PACKAGES)
}

/// Installs what is missing of these.
pub fn install_these(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        eprintln!("packages: all {} are present", packages.len());
        return Ok(());
    }
    ensure!(is_root(), "installing {} needs root", missing.join(", "));
    eprintln!("packages: installing {}", missing.join(", "));
    let _no_services = NoServices::new()?;
    apt(&["update", "-q"])?;
    let mut args = vec!["install", "-q", "-y", "--no-install-recommends"];
    args.extend(&missing);
    apt(&args)
}

/// Whether dpkg has it unpacked and configured.
fn is_installed(package: &str) -> bool {
    output(command("dpkg-query", &["--show", "--showformat", "${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// Runs apt-get, which asks nothing and waits for another that is at work.
fn apt(args: &[&str]) -> Result<()> {
    let mut apt = command("apt-get", &["-o", "DPkg::Lock::Timeout=300"]);
    apt.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    cmd::run(apt)
}

/// While it lives, Debian's packages do not start the services they bring: the tests start their own.
struct NoServices {
    made: bool,
}

/// What invoke-rc.d asks before it starts anything; 101 means no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn new() -> Result<Self> {
        if Path::new(POLICY).exists() {
            // Whoever made it has decided.
            return Ok(Self { made: false });
        }
        let make = || -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY)?;
            file.set_permissions(fs::Permissions::from_mode(0o755))?;
            file.write_all(b"#!/bin/sh\nexit 101\n")
        };
        make().with_context(|| format!("cannot write {POLICY}"))?;
        Ok(Self { made: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("packages: cannot remove {POLICY}, which keeps services from starting: {error}");
        }
    }
}
