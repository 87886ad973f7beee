//! Which functions do addresses lie in, by the symbols of an ELF file? A reader looks them up itself, so that names are all that leaves
//! it of the file.

use rustix::io::Errno;

/// Addresses of one question.
pub const ADDRESSES_MAX: usize = 256;
/// Bytes of a name that are kept: those of C++ and Rust may be thousands of characters long.
pub const NAME_MAX: usize = 1024;
/// Sections of a file that are looked through.
const SECTIONS_MAX: usize = 16_384;
/// Symbols of a file that are looked through.
const SYMBOLS_MAX: u64 = 8 << 20;
/// How often symbols may cover addresses: honest ones do so once or twice for each, unlike those of a file in which all cover all.
const COVERED_MAX: usize = 64 * 1024;
/// Names of one address that are compared.
const ALIASES_MAX: usize = 16;
/// Bytes of a table that are read at a time.
const PART_BYTES: usize = 64 * 1024;

// Sizes and numbers of elf(5), 64 bits.
const HEADER: usize = 64;
const SECTION: usize = 64;
const SYMBOL: usize = 24;
const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;
const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;

/// A file, or what a test puts in its place.
pub trait ReadAt {
    /// Bytes from an offset on, as many as there are up to the length of `to`.
    ///
    /// # Errors
    /// Why they were not read.
    fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<usize, Errno>;
}

/// A function that an address lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSymbol {
    /// Where it begins, as the file has it.
    pub start: u64,
    /// Its name, as the file has it.
    pub name: Vec<u8>,
}

/// A symbol that covers an address, and where its name is.
#[derive(Clone, Copy)]
struct Candidate {
    start: u64,
    name_at: u64,
}

/// A table of symbols and the one of their names.
struct SymbolTable {
    offset: u64,
    bytes: u64,
    names: u64,
    names_bytes: u64,
}

/// The function of each of these addresses.
///
/// # Errors
/// The file cannot be read, or is no ELF file of this machine's kind.
pub fn look_up(file: &dyn ReadAt, addresses: &[u64]) -> Result<Vec<Option<FoundSymbol>>, Errno> {
    let mut order: Vec<usize> = (0..addresses.len()).collect();
    order.sort_by_key(|at| addresses[*at]);
    let sorted: Vec<u64> = order.iter().map(|at| addresses[*at]).collect();
    let mut found: Vec<Option<FoundSymbol>> = vec![None; addresses.len()];
    // The full table first: what it names is not looked for in the other.
    for table in tables(file)? {
        let mut candidates: Vec<Vec<Candidate>> = vec![Vec::new(); sorted.len()];
        scan(file, &table, &sorted, &mut candidates)?;
        for (place, candidates) in candidates.iter().enumerate() {
            let place = order[place];
            if found[place].is_none() {
                found[place] = best(file, &table, candidates);
            }
        }
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    Ok(found)
}

/// The headers of a file's sections, and which of them has their names.
///
/// # Errors
/// It cannot be read, or is no ELF file of this machine's kind.
fn sections(file: &dyn ReadAt) -> Result<(Vec<[u8; SECTION]>, usize), Errno> {
    let mut header = [0; HEADER];
    // 64 bits, the byte order of x86-64 and aarch64.
    if file.read_at(0, &mut header)? != HEADER || !header.starts_with(b"\x7fELF\x02\x01") {
        return Err(Errno::NOEXEC);
    }
    let (offset, size, number) = (word(&header, 40), half(&header, 58), half(&header, 60));
    if usize::from(size) != SECTION {
        return Ok((Vec::new(), 0));
    }
    let number = usize::from(number).min(SECTIONS_MAX);
    let mut bytes = vec![0; number * SECTION];
    let read = file.read_at(offset, &mut bytes)?;
    bytes.truncate(read);
    Ok((bytes.as_chunks::<SECTION>().0.to_vec(), half(&header, 62).into()))
}

/// Where the section of this name belongs in memory, and how long it is, as bytes.
///
/// # Errors
/// There is none, or as above.
pub fn section(file: &dyn ReadAt, name: &str) -> Result<Vec<u8>, Errno> {
    let (sections, names) = sections(file)?;
    let names = sections.get(names).map(|names| word(names, 24)).ok_or(Errno::NOENT)?;
    for section in &sections {
        let mut bytes = vec![0; name.len() + 1];
        let Some(at) = names.checked_add(int(section, 0).into()) else { continue };
        let read = file.read_at(at, &mut bytes)?;
        if bytes[..read].strip_suffix(b"\0") == Some(name.as_bytes()) {
            return Ok([word(section, 16), word(section, 32)].map(u64::to_ne_bytes).concat());
        }
    }
    Err(Errno::NOENT)
}

/// The tables of symbols of a file, the full one first.
fn tables(file: &dyn ReadAt) -> Result<Vec<SymbolTable>, Errno> {
    let (sections, _) = sections(file)?;
    let mut tables: Vec<(u32, SymbolTable)> = Vec::new();
    for section in &sections {
        let kind = int(section, 4);
        let names = usize::try_from(int(section, 40)).ok().and_then(|link| sections.get(link));
        if let (SHT_SYMTAB | SHT_DYNSYM, Some(names)) = (kind, names) {
            let table = SymbolTable {
                offset: word(section, 24),
                bytes: word(section, 32),
                names: word(names, 24),
                names_bytes: word(names, 32),
            };
            tables.push((kind, table));
        }
    }
    tables.sort_by_key(|(kind, _)| *kind);
    // There is one of each.
    Ok(tables.into_iter().map(|(_, table)| table).take(2).collect())
}

/// Notes the symbols that cover one of the addresses, which are sorted.
fn scan(
    file: &dyn ReadAt,
    table: &SymbolTable,
    sorted: &[u64],
    candidates: &mut [Vec<Candidate>],
) -> Result<(), Errno> {
    let mut part = vec![0; PART_BYTES / SYMBOL * SYMBOL];
    let bytes = table.bytes.min(SYMBOLS_MAX * SYMBOL as u64);
    let (mut done, mut covered) = (0, 0);
    while done < bytes {
        let Some(offset) = table.offset.checked_add(done) else { break };
        let most = usize::try_from(bytes - done).unwrap_or(usize::MAX).min(part.len());
        let read = file.read_at(offset, &mut part[..most])?;
        for symbol in part[..read].chunks_exact(SYMBOL) {
            let (start, size) = (word(symbol, 8), word(symbol, 16));
            // A symbol without a size names whatever happens to follow it.
            let is_function = matches!(symbol[4] & 15, STT_FUNC | STT_GNU_IFUNC | STT_NOTYPE);
            if size == 0 || !is_function || half(symbol, 6) == 0 {
                continue;
            }
            let end = start.saturating_add(size);
            let first = sorted.partition_point(|address| *address < start);
            for place in (first..sorted.len()).take_while(|place| sorted[*place] < end) {
                covered += 1;
                // The innermost of several that overlap begins last.
                let known = &mut candidates[place];
                if known.first().is_some_and(|other| other.start < start) {
                    known.clear();
                }
                if known.first().is_none_or(|other| other.start == start) && known.len() < ALIASES_MAX {
                    known.push(Candidate { start, name_at: int(symbol, 0).into() });
                }
            }
        }
        if read < most || covered > COVERED_MAX {
            break;
        }
        done += read as u64;
    }
    Ok(())
}

/// Of several names of one function the one that people call it by.
fn best(file: &dyn ReadAt, table: &SymbolTable, candidates: &[Candidate]) -> Option<FoundSymbol> {
    let name = |candidate: &Candidate| {
        let mut bytes = [0; NAME_MAX];
        let left = table.names_bytes.checked_sub(candidate.name_at)?;
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(NAME_MAX);
        let read = file.read_at(table.names.checked_add(candidate.name_at)?, &mut bytes[..most]).ok()?;
        let name = bytes[..read].split(|byte| *byte == 0).next()?;
        (!name.is_empty()).then(|| FoundSymbol { start: candidate.start, name: name.to_vec() })
    };
    let marks = |symbol: &FoundSymbol| symbol.name.iter().take_while(|byte| **byte == b'_').count();
    candidates
        .iter()
        .filter_map(name)
        .min_by(|a, b| (marks(a), a.name.len(), &a.name).cmp(&(marks(b), b.name.len(), &b.name)))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes)
}

fn int(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Symbols as bytes: of each whether there is one, where it begins, how long its name is, and that.
pub fn encode(symbols: &[Option<FoundSymbol>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for symbol in symbols {
        let Some(FoundSymbol { start, name }) = symbol else {
            bytes.push(0);
            continue;
        };
        let name = name.get(..NAME_MAX).unwrap_or(name);
        bytes.push(1);
        bytes.extend(start.to_ne_bytes());
        bytes.extend((name.len() as u32).to_ne_bytes());
        bytes.extend(name);
    }
    bytes
}

/// From bytes.
pub fn decode(mut bytes: &[u8]) -> Option<Vec<Option<FoundSymbol>>> {
    let mut symbols = Vec::new();
    while let Some((is_there, rest)) = bytes.split_first() {
        bytes = rest;
        if *is_there == 0 {
            symbols.push(None);
            continue;
        }
        let (start, rest) = bytes.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (name, rest) = rest.split_at_checked(u32::from_ne_bytes(*length) as usize)?;
        symbols.push(Some(FoundSymbol { start: u64::from_ne_bytes(*start), name: name.to_vec() }));
        bytes = rest;
    }
    Some(symbols)
}

/// The lines of a perf map that cover these addresses: `start size name`, the numbers in hex (tools/perf/Documentation/jit-interface.txt).
/// What was compiled last at an address is there.
pub fn in_perf_map(file: &dyn ReadAt, addresses: &[u64]) -> Result<Vec<Option<FoundSymbol>>, Errno> {
    /// Bytes of a map that are read.
    const MAP_BYTES_MAX: u64 = 64 << 20;
    let mut order: Vec<usize> = (0..addresses.len()).collect();
    order.sort_by_key(|at| addresses[*at]);
    let sorted: Vec<u64> = order.iter().map(|at| addresses[*at]).collect();
    // Of each address the line that was last, by where its name is.
    let mut lines: Vec<Option<PerfLine>> = vec![None; sorted.len()];
    let (mut part, mut rest) = (vec![0; PART_BYTES], Vec::new());
    let (mut offset, mut covered) = (0, 0);
    while offset < MAP_BYTES_MAX && covered <= COVERED_MAX {
        let read = file.read_at(offset, &mut part)?;
        if read == 0 {
            break;
        }
        let mut at = offset - rest.len() as u64;
        offset += read as u64;
        rest.extend_from_slice(&part[..read]);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in rest[..whole].split_inclusive(|byte| *byte == b'\n') {
            if let Some(line) = perf_line(line, at) {
                let first = sorted.partition_point(|address| *address < line.start);
                let inside = |address: &&u64| **address - line.start < line.size;
                let number = sorted[first..].iter().take_while(inside).count();
                lines[first..first + number].fill(Some(line));
                covered += number;
            }
            at += line.len() as u64;
        }
        rest.drain(..whole);
        // A line of such a length is none.
        if rest.len() > PART_BYTES {
            break;
        }
    }
    let mut found: Vec<Option<FoundSymbol>> = vec![None; addresses.len()];
    for (place, line) in order.into_iter().zip(lines) {
        let Some(PerfLine { start, name_at, name_bytes, .. }) = line else { continue };
        let mut name = vec![0; name_bytes.min(NAME_MAX)];
        let read = file.read_at(name_at, &mut name)?;
        name.truncate(read);
        found[place] = Some(FoundSymbol { start, name });
    }
    Ok(found)
}

/// A line of a perf map.
#[derive(Clone, Copy)]
struct PerfLine {
    start: u64,
    size: u64,
    /// Where in the file its name is, and how long that is.
    name_at: u64,
    name_bytes: usize,
}

/// A line that begins at this place of its file.
fn perf_line(line: &[u8], at: u64) -> Option<PerfLine> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let mut number = || {
        let text = std::str::from_utf8(words.next()?).ok()?;
        u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
    };
    let (start, size) = (number()?, number()?);
    let name_bytes = words.next()?.len();
    let name_at = at + (line.len() - name_bytes) as u64;
    Some(PerfLine { start, size, name_at, name_bytes })
}

#[cfg(any(fuzzing, test))]
impl ReadAt for Vec<u8> {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<usize, Errno> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let length = rest.len().min(to.len());
        to[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

/// Reads everything that is read of a file, of one that has these bytes. For fuzzers and tests.
///
/// # Panics
/// More is found than was asked for.
#[cfg(any(fuzzing, test))]
pub fn read_anything(bytes: &[u8]) {
    let file = bytes.to_vec();
    let addresses: Vec<u64> =
        bytes.as_chunks::<8>().0.iter().take(32).map(|word| u64::from_le_bytes(*word) % (1 << 24)).collect();
    for found in [look_up(&file, &addresses), in_perf_map(&file, &addresses)].into_iter().flatten() {
        assert_eq!(found.len(), addresses.len());
        assert_eq!(decode(&encode(&found)), Some(found));
    }
    let _ = section(&file, ".eh_frame");
    let _ = decode(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file with these symbols: name, address, size, kind.
    fn file(symbols: &[(&str, u64, u64, u8)]) -> Vec<u8> {
        let mut names = vec![0];
        let mut table = vec![0; SYMBOL];
        for (name, start, size, kind) in symbols {
            table.extend((names.len() as u32).to_le_bytes());
            table.extend([*kind, 0, 1, 0]);
            table.extend(start.to_le_bytes());
            table.extend(size.to_le_bytes());
            names.extend(name.bytes().chain([0]));
        }
        let mut file = vec![0; HEADER];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[40..48].copy_from_slice(&(HEADER as u64).to_le_bytes());
        file[58..60].copy_from_slice(&(SECTION as u16).to_le_bytes());
        file[60..62].copy_from_slice(&3u16.to_le_bytes());
        let mut section = |kind: u32, offset: usize, bytes: usize, link: u32| {
            let mut section = [0; SECTION];
            section[4..8].copy_from_slice(&kind.to_le_bytes());
            section[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            section[32..40].copy_from_slice(&(bytes as u64).to_le_bytes());
            section[40..44].copy_from_slice(&link.to_le_bytes());
            file.extend(section);
        };
        let begin = HEADER + 3 * SECTION;
        section(0, 0, 0, 0);
        section(SHT_SYMTAB, begin, table.len(), 2);
        section(3, begin + table.len(), names.len(), 0);
        [file, table, names].concat()
    }

    fn names(file: &Vec<u8>, addresses: &[u64]) -> Vec<Option<String>> {
        let found = look_up(file, addresses).expect("it is read");
        found.into_iter().map(|of| of.map(|of| String::from_utf8_lossy(&of.name).into_owned())).collect()
    }

    #[test]
    fn an_address_has_the_name_of_the_function_that_it_lies_in() {
        let file = file(&[
            ("outer", 100, 100, STT_FUNC),
            ("__inner", 120, 10, STT_FUNC),
            ("inner", 120, 10, STT_FUNC),
            ("label", 150, 0, STT_NOTYPE),
            ("data", 300, 8, 1),
        ]);
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(
            names(&file, &[199, 125, 100, 150, 200, 99, 304, 130]),
            [some("outer"), some("inner"), some("outer"), some("outer"), None, None, None, some("outer")]
        );
        assert_eq!(names(&file, &[]), []);
        assert_eq!(look_up(&b"#!/bin/sh\n".to_vec(), &[1]), Err(Errno::NOEXEC));
        assert_eq!(look_up(&vec![0; 4096], &[1]), Err(Errno::NOEXEC));
    }

    #[test]
    fn symbols_arrive_as_they_were_found() {
        let symbols = [None, Some(FoundSymbol { start: 7, name: b"read".to_vec() }), None];
        let bytes = encode(&symbols);
        assert_eq!(decode(&bytes).as_deref(), Some(&symbols[..]));
        assert_eq!(decode(&bytes[..bytes.len() - 2]), None);
        let long = [Some(FoundSymbol { start: 7, name: vec![b'x'; 4 * NAME_MAX] })];
        assert_eq!(
            decode(&encode(&long)).expect("whole")[0].as_ref().map(|of| of.name.len()),
            Some(NAME_MAX)
        );
    }

    #[test]
    fn a_perf_map_names_what_was_compiled_last() {
        let map = b"1000 20 a\n0x1020 10 LazyCompile:b c.js:7\nnonsense\n1000 8 again\nffff".to_vec();
        let found = in_perf_map(&map, &[0x1004, 0x1010, 0x1025, 0x1030]).expect("it is read");
        let names: Vec<_> =
            found.iter().map(|of| of.as_ref().map(|of| String::from_utf8_lossy(&of.name))).collect();
        assert_eq!(
            names,
            [Some("again".into()), Some("a".into()), Some("LazyCompile:b c.js:7".into()), None]
        );
    }

    /// The kernel programs are an ELF file with symbols.
    #[test]
    fn three_thousand_mutated_files_are_read_to_an_end() {
        let whole = crate::kernel::object::OBJECT;
        let tables = tables(&whole.to_vec()).expect("it has some");
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize % below
        };
        // Headers and tables, which lie at the end of the file, are what is read.
        let begin = tables.iter().map(|table| table.offset as usize).min().expect("one");
        let mut file = whole.to_vec();
        let mut read = 0;
        for _ in 0..3000 {
            file.copy_from_slice(whole);
            for _ in 0..1 + next(6) {
                let at = if next(2) == 0 { next(HEADER) } else { begin + next(whole.len() - begin - 8) };
                let value = [0, 1 << 60, u64::MAX, next(whole.len()) as u64, next(256) as u64][next(5)];
                let length = [1, 2, 4, 8][next(4)];
                file[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
            }
            read += usize::from(look_up(&file, &[0, 8, 100, 5000]).is_ok());
            let _ = section(&file, ".eh_frame");
        }
        assert!(read > 500, "{read}");
    }

    #[test]
    fn a_file_whose_symbols_all_cover_everything_is_left_early() {
        let symbols: Vec<(&str, u64, u64, u8)> =
            (0..200_000).map(|at| ("f", at, 1 << 40, STT_FUNC)).collect();
        let file = file(&symbols);
        let addresses: Vec<u64> = (0..256).map(|at| (1 << 30) + at).collect();
        let begun = std::time::Instant::now();
        assert!(names(&file, &addresses).iter().all(Option::is_some));
        assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
        let map: Vec<u8> = (0..100_000).flat_map(|_| *b"0 ffffffffff f\n").collect();
        let begun = std::time::Instant::now();
        let found = in_perf_map(&map, &addresses).expect("it is read");
        assert!(found.iter().all(Option::is_some) && begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Whatever a file says of itself, looking ends, and only what it has is found.
        #[test]
        fn a_mutated_file_is_read_to_its_end(
            places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
            addresses in prop::collection::vec(0u64..400, 0..20),
        ) {
            let mut file = file(&[("a", 100, 100, STT_FUNC), ("b", 120, 10, STT_FUNC), ("c", 300, 8, 1)]);
            for (place, byte) in places {
                let at = place.index(file.len());
                file[at] = byte;
            }
            if let Ok(found) = look_up(&file, &addresses) {
                prop_assert_eq!(found.len(), addresses.len());
            }
        }
    }
}
