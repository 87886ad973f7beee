//! What damage to a history is, and where a damaged file goes.

use std::{fs, io::ErrorKind, path::Path};

use super::error::HistoryError;
use crate::util::human;

/// What the names of damaged files end in that are put aside. They are for somebody to look at, and must not fill the disk.
pub const ASIDE_SUFFIXES: [&str; 2] = ["damaged", "damaged-2"];

/// The file is damaged. Otherwise the disk is full, or cannot be read, or something else is wrong that may pass.
pub fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. } => true,
        // A file that is no database at all is invalid data, and one that is cut off too short: the disk is not to blame.
        redb::Error::Io(error) => {
            matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}

/// Keeps a damaged file under another name, unless two that are no smaller are kept already.
pub fn put_aside(path: &Path, error: &redb::Error) -> Result<(), HistoryError> {
    let name = path.display();
    let size = |path: &Path| fs::metadata(path).ok().map(|file| file.len());
    let aside = ASIDE_SUFFIXES.map(|ending| path.with_extension(ending));
    let place = place_of(size(path).unwrap_or(0), aside.each_ref().map(|aside| size(aside)));
    let done = match place {
        Some(at) => {
            let kept = aside[at].display();
            human::say(&format!("{name}: {error}; keeping it as {kept} and starting a new history"));
            fs::rename(path, &aside[at])
        }
        None => {
            human::say(&format!(
                "{name}: {error}; removing it, since two are kept already, and starting a new history"
            ));
            fs::remove_file(path)
        }
    };
    done.map_err(|error| HistoryError::File { attempt: format!("put {name} aside"), error })
}

/// Which of the places a damaged file of this size is kept at, as others of these sizes are already: a free one, or the
/// smallest one's. None if it is no larger.
fn place_of(size: u64, kept: [Option<u64>; ASIDE_SUFFIXES.len()]) -> Option<usize> {
    let (place, smallest) = kept.into_iter().enumerate().min_by_key(|(_, kept)| *kept)?;
    smallest.is_none_or(|kept| kept < size).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_damaged_files_the_two_largest_are_kept() {
        let places = [
            (5, [None, None], Some(0)),
            (5, [Some(9), None], Some(1)),
            (5, [None, Some(9)], Some(0)),
            (5, [Some(9), Some(4)], Some(1)),
            (5, [Some(3), Some(4)], Some(0)),
            (5, [Some(9), Some(5)], None),
        ];
        for (size, kept, place) in places {
            assert_eq!(place_of(size, kept), place, "{size} {kept:?}");
        }
    }
}
