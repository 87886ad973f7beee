//! Which line is an instruction of Python's of? By the tables of lines of CPython's three kinds. Pure.

/// A kind of table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineTable {
    /// Pairs of how many bytes and lines further (3.8, 3.9: Objects/lnotab_notes.txt).
    Increments,
    /// Pairs of how long a range is and how many lines further (3.10: Objects/lnotab_notes.txt).
    Ranges,
    /// Ranges with lines and columns in several forms (3.11 and later: Objects/locations.md, InternalDocs/code_objects.md).
    Locations,
}

/// The line of the instruction at this offset, in bytes.
pub fn line(table: LineTable, bytes: &[u8], first: i64, offset: i64) -> Option<u32> {
    let line = match table {
        LineTable::Increments => by_increments(bytes, first, offset),
        LineTable::Ranges => by_ranges(bytes, first, offset)?,
        LineTable::Locations => by_locations(bytes, first, offset)?,
    };
    u32::try_from(line).ok().filter(|line| *line > 0)
}

fn by_increments(bytes: &[u8], first: i64, offset: i64) -> i64 {
    let (mut line, mut at) = (first, 0);
    for [length, lines] in bytes.as_chunks::<2>().0 {
        at += i64::from(*length);
        if at > offset {
            break;
        }
        line += i64::from(*lines as i8);
    }
    line
}

fn by_ranges(bytes: &[u8], first: i64, offset: i64) -> Option<i64> {
    const NO_LINE: i8 = -128;
    let (mut line, mut end) = (first, 0);
    for [length, lines] in bytes.as_chunks::<2>().0 {
        end += i64::from(*length);
        let lines = *lines as i8;
        if lines != NO_LINE {
            line += i64::from(lines);
        }
        if offset < end {
            return (lines != NO_LINE).then_some(line);
        }
    }
    // Where no instruction was run yet.
    Some(first)
}

fn by_locations(bytes: &[u8], first: i64, offset: i64) -> Option<i64> {
    /// Bytes of an instruction.
    const UNIT: i64 = 2;
    let (mut line, mut end) = (first, 0i64);
    let mut rest = bytes.iter().copied();
    while let Some(head) = rest.next() {
        end += (i64::from(head & 7) + 1) * UNIT;
        let has_line = match head >> 3 & 15 {
            // Columns only: one byte.
            0..=9 => {
                rest.next();
                true
            }
            // So many lines further, and two bytes for columns.
            form @ 10..=12 => {
                line = line.checked_add(i64::from(form) - 10)?;
                rest.next();
                rest.next();
                true
            }
            13 => {
                line = line.checked_add(signed(&mut rest))?;
                true
            }
            14 => {
                line = line.checked_add(signed(&mut rest))?;
                (0..3).for_each(|_| _ = unsigned(&mut rest));
                true
            }
            _ => false,
        };
        if offset < end {
            return has_line.then_some(line);
        }
    }
    Some(first)
}

/// Six bits a byte, the lowest first, as long as another bit says that there are more.
fn unsigned(rest: &mut impl Iterator<Item = u8>) -> u64 {
    let (mut value, mut shift) = (0u64, 0);
    for byte in rest {
        value |= u64::from(byte & 63).checked_shl(shift).unwrap_or(0);
        shift += 6;
        if byte & 64 == 0 || shift > 60 {
            break;
        }
    }
    value
}

fn signed(rest: &mut impl Iterator<Item = u8>) -> i64 {
    let value = unsigned(rest);
    let half = (value >> 1) as i64;
    if value & 1 == 1 { -half } else { half }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_kind_of_table_leads_to_the_line() {
        // Line 10 for six bytes, then 12, then 11.
        let increments = [6, 2, 4, 0xff];
        for (offset, expected) in [(0, 10), (4, 10), (6, 12), (8, 12), (10, 11)] {
            assert_eq!(line(LineTable::Increments, &increments, 10, offset), Some(expected), "{offset}");
        }
        let ranges = [6, 0, 4, 2, 2, 0x80, 4, 0xff];
        for (offset, expected) in [(0, Some(10)), (6, Some(12)), (10, None), (12, Some(11))] {
            assert_eq!(line(LineTable::Ranges, &ranges, 10, offset), expected, "{offset}");
        }
        // One unit on line 10 (one line form 10), two on 12 (form 12), one without, one on 11 (form 13: minus one).
        let locations = [0x80 | 10 << 3, 0, 0, 0x80 | 12 << 3 | 1, 0, 0, 0x80 | 15 << 3, 0x80 | 13 << 3, 3];
        for (offset, expected) in [(0, Some(10)), (2, Some(12)), (4, Some(12)), (6, None), (8, Some(11))] {
            assert_eq!(line(LineTable::Locations, &locations, 10, offset), expected, "{offset}");
        }
    }

    proptest! {
        #[test]
        fn no_table_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), first: i32, offset: i64) {
            for table in [LineTable::Increments, LineTable::Ranges, LineTable::Locations] {
                let _ = line(table, &bytes, first.into(), offset);
            }
        }
    }
}
