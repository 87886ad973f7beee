//! An object a line, as `ps --json` prints, the agent serves and the history keeps.

use std::io::Write;

use serde::{Serialize, de::DeserializeOwned};

/// What can be written as JSON.
pub trait ToJson: Serialize {}

impl<T: Serialize + ?Sized> ToJson for T {}

/// What can be read from JSON, and keeps nothing of the text.
pub trait FromJson: DeserializeOwned {}

impl<T: DeserializeOwned> FromJson for T {}

/// Writes one, with the end of its line.
pub fn write(out: &mut impl Write, object: &impl ToJson) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *out, object)?;
    out.write_all(b"\n").map_err(serde_json::Error::io)
}

/// Reads all of them. The last line may lack its end.
pub fn read<T: FromJson>(text: &[u8]) -> serde_json::Result<Vec<T>> {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(serde_json::from_slice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut text = Vec::new();
        for number in [1, 23] {
            write(&mut text, &number).expect("it is memory");
        }
        assert_eq!(text, b"1\n23\n");
        assert_eq!(read::<u32>(&text).expect("numbers"), [1, 23]);
        assert_eq!(read::<u32>(b"1\n23").expect("numbers"), [1, 23]);
        read::<u32>(b"1\nx\n").expect_err("no number");
    }
}
