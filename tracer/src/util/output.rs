//! Standard output of a command. A reader that goes before its end, as `head` does, ends the command, and well.

use std::io::{self, BufWriter, ErrorKind, Write};

/// Standard output, to be flushed once all is written.
pub fn output() -> BufWriter<Output> {
    output_to(io::stdout())
}

/// The same in another place.
pub fn output_to(place: impl Write + Send + 'static) -> BufWriter<Output> {
    BufWriter::new(Output(Box::new(place)))
}

/// Standard output, or what takes its place, without a buffer of its own.
pub struct Output(Box<dyn Write + Send>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while_read(self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        while_read(self.0.flush())
    }
}

/// SIGPIPE does the same, but it is ignored in the agent's process, and never sent to the first process of a container.
fn while_read<T>(written: io::Result<T>) -> io::Result<T> {
    if written.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        std::process::exit(0);
    }
    written
}
