//! What does a role tell the test? One JSON line before it blocks, one when it woke.

use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::sys;

/// The line a role prints just before it blocks.
pub(crate) struct Report(Map<String, Value>);

impl Report {
    /// A report of the calling thread, about to enter `syscall`.
    pub(crate) fn new(role: &str, syscall: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("role".into(), role.into());
        fields.insert("pid".into(), std::process::id().into());
        fields.insert("tid".into(), sys::gettid().into());
        fields.insert("syscall".into(), syscall.into());
        Self(fields)
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// The descriptor of the wait, and its inode.
    pub(crate) fn fd(self, fd: &impl AsRawFd) -> Self {
        let fd = fd.as_raw_fd();
        self.with("fd", fd).with("inode", sys::inode(fd))
    }

    pub(crate) fn local(self, address: SocketAddr) -> Self {
        self.with("local", address.to_string())
    }

    pub(crate) fn remote(self, address: SocketAddr) -> Self {
        self.with("remote", address.to_string())
    }

    pub(crate) fn path(self, path: &Path) -> Self {
        self.with("path", path.to_string_lossy().into_owned())
    }

    /// The wait counts from here on the realtime clock, not from its call: nothing has moved since.
    pub(crate) fn unmoved_since(self, realtime_ns: u64) -> Self {
        self.with("realtime_ns", realtime_ns)
    }

    /// The stamped fields, for a role that prints the lines of several threads as one.
    pub(crate) fn stamped(mut self) -> Value {
        self.0.insert("monotonic_ns".into(), sys::monotonic_ns().into());
        self.0.insert("called_ns".into(), sys::realtime_ns().into());
        self.0.entry("realtime_ns").or_insert_with(|| sys::realtime_ns().into());
        Value::Object(self.0)
    }

    /// Prints the line with the clocks of this moment. Call it last, the blocking call next.
    pub(crate) fn print(self) {
        print(&self.stamped());
    }
}

/// Prints one line, whole.
pub(crate) fn print(line: &Value) {
    let mut out = std::io::stdout().lock();
    // A test that has gone away is no reason for a panic: the process is about to be killed.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Says that the call returned, and rests until killed.
pub(crate) fn woke(result: i64) -> ! {
    let (realtime, monotonic) = (sys::realtime_ns(), sys::monotonic_ns());
    print(&json!({ "event": "woke", "result": result, "realtime_ns": realtime, "monotonic_ns": monotonic }));
    sys::rest()
}

/// Says that this kernel cannot do the role, and rests: the test decides what that means.
pub(crate) fn unsupported(role: &str, why: &str) -> ! {
    print(&json!({ "role": role, "pid": std::process::id(), "unsupported": why }));
    sys::rest()
}
