//! Why the history cannot be read or written, and whether its file is damaged: then it is put aside.

use std::{io, path::PathBuf};

use super::damage::is_damage;

/// What failed, of which file.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Another process has it open.
    #[error("another agent has {}: --state-dir takes another directory", .0.display())]
    Taken(PathBuf),
    /// It was to be written, and is open to be read.
    #[error("the history is open to be read only")]
    ReadOnly,
    /// It could not be opened again after an error.
    #[error("the history cannot be read")]
    Lost,
    /// The database did not do what was asked of it.
    #[error("cannot {attempt} {}", path.display())]
    Database {
        /// `read`, `write` and the like.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the database says.
        #[source]
        error: Box<redb::Error>,
    },
    /// The file system did not.
    #[error("cannot {attempt}")]
    File {
        /// What was tried, and of which file.
        attempt: String,
        /// What the kernel says.
        #[source]
        error: io::Error,
    },
    /// A row that is to be kept, or was, is no JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// What was kept of a minute cannot be unpacked.
    #[error(transparent)]
    Packed(#[from] io::Error),
    /// It was kept under a time that there is not.
    #[error(transparent)]
    Time(#[from] jiff::Error),
}

impl HistoryError {
    /// What the database says of a file that is damaged. Everything else may pass.
    pub fn damage(&self) -> Option<&redb::Error> {
        match self {
            Self::Database { error, .. } if is_damage(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_database_says_is_damage() {
        let of = |error: redb::Error| HistoryError::Database {
            attempt: "read",
            path: "/x".into(),
            error: Box::new(error),
        };
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        assert!(of(redb::Error::Corrupted("x".into())).damage().is_some());
        assert!(of(redb::Error::Io(invalid())).damage().is_some());
        assert!(of(redb::Error::Io(io::ErrorKind::StorageFull.into())).damage().is_none());
        assert!(of(redb::Error::DatabaseAlreadyOpen).damage().is_none());
        // A minute, or a row: the others can be read.
        assert!(HistoryError::Packed(invalid()).damage().is_none());
        assert!(HistoryError::Lost.damage().is_none());
    }
}
