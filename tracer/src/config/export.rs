//! What `tracer export` is asked for on its command line, and the headers that it sends.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

use super::cli::SOCKET;
use crate::util::regular;

/// The longest file of headers, bytes.
const HEADERS_BYTES_MAX: u64 = 64 * 1024;

/// Arguments of `tracer export`.
#[derive(Args)]
pub struct Export {
    /// Where to send events: the address of a Collector, without /v1/logs
    #[arg(
        long,
        value_name = "URL",
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        default_value = "http://127.0.0.1:4318"
    )]
    pub otlp: String,
    /// Headers to send with each request: a file with one "Name: value" per line
    #[arg(long, value_name = "FILE")]
    pub headers_file: Option<PathBuf>,
    /// Do not send a span for each stall that is over, only log records
    #[arg(long = "no-spans", action = clap::ArgAction::SetFalse)]
    pub spans: bool,
    /// Where to keep events that have not been sent
    #[arg(long, value_name = "DIR", default_value = "/var/lib/tracer-export")]
    pub queue_dir: PathBuf,
    /// How much to keep there, e.g. 64MiB; beyond it the oldest events are lost
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = bytes)]
    pub queue_max: u64,
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub socket: PathBuf,
}

impl Export {
    /// The headers of the file.
    pub fn headers(&self) -> Result<HeaderMap> {
        let Some(path) = &self.headers_file else { return Ok(HeaderMap::new()) };
        let text = regular::read(path, HEADERS_BYTES_MAX)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        lines
            .map(|(at, line)| {
                // What is wrong is not shown: it may be a password.
                header(line).with_context(|| format!("{}, line {} is not a header", path.display(), at + 1))
            })
            .collect()
    }
}

fn header(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let mut value = HeaderValue::from_str(value.trim()).ok()?;
    value.set_sensitive(true);
    Some((name.trim().parse().ok()?, value))
}

/// A number of bytes, or of KiB, MiB or GiB.
fn bytes(text: &str) -> Result<u64, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        other => return Err(format!("{other:?} is none of KiB, MiB and GiB")),
    };
    let number = number.trim_end().parse::<u64>().map_err(|error| error.to_string())?;
    number.checked_mul(unit).ok_or_else(|| "more than there is".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit_or_are_bytes() {
        assert_eq!((bytes("64MiB"), bytes("1 GiB"), bytes("7")), (Ok(64 << 20), Ok(1 << 30), Ok(7)));
        for wrong in ["", "MiB", "1MB", "-1", "99999999999GiB", "1.5MiB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn headers_have_a_name_and_a_value() {
        let (name, value) = header("Authorization: Basic dXNlcjpw").expect("one");
        assert_eq!((name.as_str(), value.to_str().ok()), ("authorization", Some("Basic dXNlcjpw")));
        assert!(header("no header").is_none() && header("a b: c").is_none() && header("a: b\u{7}").is_none());
    }
}
