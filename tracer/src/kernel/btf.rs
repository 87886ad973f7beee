//! Where a kernel field lies in the running kernel, from its BTF.
//!
//! Only struct layouts and the shape of tracepoints are read; the format is Documentation/bpf/btf.rst. The input is the
//! kernel's own, but every access is checked: a damaged file is an error.

use std::{
    hash::BuildHasher,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context, Result, bail, ensure};
use tracer_ebpf::{abi::MISSING, fields::FIELDS};

use super::probes::DISPATCH;

const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_FWD: u32 = 7;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_TYPE_TAG: u32 = 18;

/// Where the kernel shows its own.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// What `--btf` says.
static FILE: OnceLock<PathBuf> = OnceLock::new();

/// The kernel's types are in this file, which must be of the running kernel. Called once, at the start.
pub fn use_file(path: PathBuf) {
    // A second call changes nothing.
    let _ = FILE.set(path);
}

/// Where the kernel's types are.
pub fn file() -> &'static Path {
    FILE.get().map_or(Path::new(VMLINUX), PathBuf::as_path)
}

/// The kernel's types as the loader of programs wants them: see [`Btf::for_loading`].
pub fn for_loading() -> Result<aya::Btf> {
    Btf::open(file())?.for_loading()
}

/// A parsed BTF file: the bytes and where each type begins.
pub struct Btf {
    data: Vec<u8>,
    /// Offset in `data` of each type by id; id 0 is void.
    types: Vec<u32>,
    strings: usize,
    /// Structs, and typedefs of tracepoints: a hash of the name and the id, sorted. As names the index would cost milliseconds.
    by_name: Vec<(u64, u32)>,
    /// What programs can attach to: ids.
    places: Vec<u32>,
    hasher: hashbrown::DefaultHashBuilder,
}

/// Whether a program can attach to a function of this name: one for each iterator, and the one that calls go through.
fn is_place(name: &[u8]) -> bool {
    name.starts_with(b"bpf_iter_") || name == DISPATCH.as_bytes()
}

struct Type {
    name: u32,
    kind: u32,
    vlen: u32,
    kind_flag: bool,
    /// Size or referenced type.
    word: u32,
    /// Where what follows begins.
    tail: usize,
}

impl Btf {
    /// Reads and indexes a file.
    pub fn open(path: &Path) -> Result<Self> {
        let data = std::fs::read(path)
            .with_context(|| format!("cannot read the kernel's types from {}", path.display()))?;
        Self::parse(data).with_context(|| format!("{} is no usable BTF", path.display()))
    }

    /// Indexes BTF of this machine's byte order.
    pub fn parse(data: Vec<u8>) -> Result<Self> {
        let hasher = hashbrown::DefaultHashBuilder::default();
        let (types, by_name) = (vec![0], Vec::new());
        let mut btf = Self { data, types, strings: 0, by_name, places: Vec::new(), hasher };
        ensure!(btf.word(0)? & 0xffff == 0xeb9f, "wrong magic number");
        let header = btf.word(4)? as usize;
        let begin = header + btf.word(8)? as usize;
        let end = begin + btf.word(12)? as usize;
        btf.strings = header + btf.word(16)? as usize;
        ensure!(end <= btf.data.len() && btf.strings <= btf.data.len(), "truncated");
        let mut at = begin;
        while at < end {
            let ty = btf.type_at(at)?;
            let vlen = ty.vlen as usize;
            let tail = match ty.kind {
                1 | 14 | 17 => 4,
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | 15 | 19 => vlen * 12,
                6 | KIND_FUNC_PROTO => vlen * 8,
                2 | 7..=12 | 16 | 18 => 0,
                kind => bail!("unknown kind of type {kind}"),
            };
            let id = btf.types.len() as u32;
            match ty.kind {
                KIND_STRUCT if ty.name != 0 && vlen != 0 => {
                    let name = btf.hash(btf.string(ty.name)?);
                    btf.by_name.push((name, id));
                }
                KIND_TYPEDEF if btf.string(ty.name)?.starts_with(b"btf_trace_") => {
                    let name = btf.hash(btf.string(ty.name)?);
                    btf.by_name.push((name, id));
                    btf.places.push(id);
                }
                KIND_FUNC if is_place(btf.string(ty.name)?) => btf.places.push(id),
                _ => {}
            }
            btf.types.push(at as u32);
            at = ty.tail + tail;
        }
        btf.by_name.sort_unstable();
        Ok(btf)
    }

    fn hash(&self, name: &[u8]) -> u64 {
        self.hasher.hash_one(name)
    }

    /// Ids of the structs and typedefs of this name, in their order.
    fn named(&self, name: &str) -> impl Iterator<Item = u32> {
        let hash = self.hash(name.as_bytes());
        let first = self.by_name.partition_point(|(other, _)| *other < hash);
        let alike = self.by_name[first..].iter().take_while(move |(other, _)| *other == hash);
        let is_it = |id: &u32| {
            let named = self.get(*id).and_then(|ty| self.string(ty.name));
            named.is_ok_and(|named| named == name.as_bytes())
        };
        alike.map(|(_, id)| *id).filter(is_it)
    }

    /// The same for the library that loads programs, which would make an object of each of a hundred thousand types, and is asked for nothing but
    /// the ids of what programs attach to: these at their places, and between them types without a name.
    pub fn for_loading(&self) -> Result<aya::Btf> {
        const HEADER: usize = 24;
        const BYTES: usize = 12;
        let last = self.places.iter().max().copied().unwrap_or_default() as usize;
        let mut data = vec![0; HEADER + last * BYTES];
        let strings_at = data.len();
        // A name, the kind in the last byte of the next word, and what it is or refers to.
        let kinds = data[HEADER..].iter_mut().skip(7).step_by(BYTES);
        kinds.for_each(|kind| *kind = KIND_FWD as u8);
        let mut strings = vec![0u8];
        for id in &self.places {
            let (ty, at) = (self.get(*id)?, HEADER + (*id as usize - 1) * BYTES);
            data[at..at + 4].copy_from_slice(&u32::try_from(strings.len())?.to_ne_bytes());
            data[at + 7] = ty.kind as u8;
            strings.extend_from_slice(self.string(ty.name)?);
            strings.push(0);
        }
        let bytes = u32::try_from(strings_at - HEADER)?;
        let header = [0x0001_eb9f, HEADER as u32, 0, bytes, bytes, u32::try_from(strings.len())?];
        for (word, place) in header.iter().zip(data.as_chunks_mut::<4>().0) {
            *place = word.to_ne_bytes();
        }
        data.extend(strings);
        // The library asks for three words for each type, and returns them; musl gives the page back to the system with the last that is in use.
        let _in_use = std::hint::black_box([(); 4].map(|()| Box::new([0u32; 3])));
        aya::Btf::parse(&data, aya::Endianness::default()).context("cannot make types for the loader")
    }

    /// Byte offset of the field at `path` (`a.b.c`, `a[2].b`) in `structure`; `None` if this kernel has none.
    pub fn offset(&self, structure: &str, path: &str) -> Result<Option<u32>> {
        for id in self.named(structure) {
            if let Some(bits) = self.walk(id, path)? {
                return Ok(Some(bits / 8));
            }
        }
        Ok(None)
    }

    /// Bytes of a struct; `None` if this kernel has none of the name.
    pub fn size_of(&self, structure: &str) -> Result<Option<u32>> {
        self.named(structure).next().map(|id| self.size(id)).transpose()
    }

    /// Where, in the bytes of a compiled program's BTF, the type of a map it declares stands: the variable's struct has
    /// a member `type`, a pointer to an array of so many elements.
    pub fn map_type_at(&self, map: &str) -> Result<usize> {
        let mut found = None;
        for at in self.types.iter().skip(1) {
            let ty = self.type_at(*at as usize)?;
            if ty.kind == KIND_VAR && self.string(ty.name)? == map.as_bytes() {
                found = self.member(self.stripped_id(ty.word)?, b"type", 0)?;
            }
        }
        let (_, pointer) = found.with_context(|| format!("no map {map} is declared"))?;
        let array = self.stripped(self.stripped(pointer)?.word)?;
        ensure!(array.kind == KIND_ARRAY, "the map {map} is declared in another way");
        Ok(array.tail + 8)
    }

    /// How many arguments a tracepoint has (`sched_switch`: 3, since Linux 5.18: 4).
    pub fn tracepoint_args(&self, name: &str) -> Result<Option<u32>> {
        let Some(id) = self.named(&format!("btf_trace_{name}")).next() else { return Ok(None) };
        let pointer = self.get(self.get(id)?.word)?;
        ensure!(pointer.kind == KIND_PTR, "tracepoint {name} is no function pointer");
        // The first argument is the tracepoint's private data.
        Ok(Some(self.get(pointer.word)?.vlen.saturating_sub(1)))
    }

    /// Every row of `fields.rs` with its offset, [`MISSING`] for an optional one this kernel lacks.
    pub fn resolve_fields(&self) -> Result<Vec<(&'static str, u32)>> {
        FIELDS
            .iter()
            .map(|field| {
                for path in field.paths {
                    if let Some(offset) = self.offset(field.structure, path)? {
                        return Ok((field.symbol, offset));
                    }
                }
                ensure!(
                    field.optional,
                    "this kernel's struct {} has no field {}: tracer does not know this kernel",
                    field.structure,
                    field.paths.join(" or ")
                );
                Ok((field.symbol, MISSING))
            })
            .collect()
    }

    fn walk(&self, id: u32, path: &str) -> Result<Option<u32>> {
        let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
        let (name, index) = match head.split_once('[') {
            Some((name, index)) => (name, index.trim_end_matches(']').parse::<u32>()?),
            None => (head, 0),
        };
        let Some((mut bits, mut member)) = self.member(id, name.as_bytes(), 0)? else { return Ok(None) };
        if head.ends_with(']') {
            let array = self.stripped(member)?;
            if array.kind != KIND_ARRAY {
                return Ok(None);
            }
            member = self.word(array.tail)?;
            bits += index * self.size(member)? * 8;
        }
        let Some(rest) = rest else { return Ok(Some(bits)) };
        let inner = self.stripped_id(member)?;
        Ok(self.walk(inner, rest)?.map(|more| bits + more))
    }

    /// A member by name, looked for in anonymous structs and unions too: bit offset and type.
    fn member(&self, id: u32, name: &[u8], depth: u32) -> Result<Option<(u32, u32)>> {
        ensure!(depth < 16, "structs nested without end");
        let ty = self.get(id)?;
        if !matches!(ty.kind, KIND_STRUCT | KIND_UNION) {
            return Ok(None);
        }
        for i in 0..ty.vlen as usize {
            let at = ty.tail + i * 12;
            let (member_name, member, offset) = (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
            let offset = if ty.kind_flag { offset & 0xff_ffff } else { offset };
            if member_name == 0 {
                let inner = self.stripped_id(member)?;
                if let Some((bits, found)) = self.member(inner, name, depth + 1)? {
                    return Ok(Some((offset + bits, found)));
                }
            } else if self.string(member_name)? == name {
                return Ok(Some((offset, member)));
            }
        }
        Ok(None)
    }

    fn size(&self, id: u32) -> Result<u32> {
        let ty = self.stripped(id)?;
        Ok(match ty.kind {
            KIND_PTR => 8,
            KIND_ARRAY => self.size(self.word(ty.tail)?)? * self.word(ty.tail + 8)?,
            _ => ty.word,
        })
    }

    fn stripped(&self, id: u32) -> Result<Type> {
        self.get(self.stripped_id(id)?)
    }

    fn stripped_id(&self, mut id: u32) -> Result<u32> {
        for _ in 0..64 {
            let ty = self.get(id)?;
            match ty.kind {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => id = ty.word,
                _ => return Ok(id),
            }
        }
        bail!("typedefs nested without end")
    }

    fn get(&self, id: u32) -> Result<Type> {
        ensure!(id != 0, "void has no layout");
        self.type_at(
            *self.types.get(id as usize).context("a type refers to one that does not exist")? as usize
        )
    }

    fn type_at(&self, at: usize) -> Result<Type> {
        let info = self.word(at + 4)?;
        Ok(Type {
            name: self.word(at)?,
            kind: info >> 24 & 0x1f,
            vlen: info & 0xffff,
            kind_flag: info >> 31 != 0,
            word: self.word(at + 8)?,
            tail: at + 12,
        })
    }

    fn word(&self, at: usize) -> Result<u32> {
        let bytes = self.data.get(at..at + 4).context("truncated")?;
        Ok(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn string(&self, offset: u32) -> Result<&[u8]> {
        let rest = self.data.get(self.strings + offset as usize..).context("truncated")?;
        Ok(rest.split(|byte| *byte == 0).next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_refused() {
        assert!(Btf::parse(Vec::new()).is_err());
        assert!(Btf::parse(vec![0; 64]).is_err());
        let mut cut = vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
        cut.extend([0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(Btf::parse(cut).is_err());
    }

    #[test]
    fn nested_anonymous_and_array_members_are_found() {
        // struct inner { u32 a; union { u32 b; }; }; struct outer { u64 x; struct inner y[3]; };
        let strings = b"\0u32\0u64\0inner\0a\0b\0outer\0x\0y\0";
        let at = |name: &str| {
            let needle = [b"\0", name.as_bytes(), b"\0"].concat();
            strings.windows(needle.len()).position(|w| w == needle).map(|p| p as u32 + 1).expect("name")
        };
        let mut types: Vec<u32> = Vec::new();
        types.extend([at("u32"), 1 << 24, 4, 32]); // 1
        types.extend([at("u64"), 1 << 24, 8, 64]); // 2
        types.extend([0, 5 << 24 | 1, 4, at("b"), 1, 0]); // 3
        types.extend([at("inner"), 4 << 24 | 2, 8, at("a"), 1, 0, 0, 3, 32]); // 4
        types.extend([0, 3 << 24, 0, 4, 1, 3]); // 5
        types.extend([at("outer"), 4 << 24 | 2, 32, at("x"), 2, 0, at("y"), 5, 64]); // 6
        let bytes = types.len() as u32 * 4;
        let mut data: Vec<u8> = Vec::new();
        for word in [0x0001_eb9f, 24, 0, bytes, bytes, strings.len() as u32].iter().chain(&types) {
            data.extend(word.to_ne_bytes());
        }
        data.extend(strings);
        let btf = Btf::parse(data).expect("parses");
        assert_eq!(btf.offset("outer", "x").expect("walks"), Some(0));
        assert_eq!(btf.offset("outer", "y[2].b").expect("walks"), Some(8 + 16 + 4));
        assert_eq!(btf.offset("outer", "z").expect("walks"), None);
        assert_eq!(btf.offset("absent", "z").expect("walks"), None);
    }
}
