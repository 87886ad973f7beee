//! What fuzzers call (`fuzz/`): everything that reads bytes which come from outside. Nothing may panic, hang or grow.

use jiff::Timestamp;
use tracer_ebpf::abi::Header;

use crate::{
    assess::inspect::suspended,
    collect::{bpf, sched, sockets},
    config::{Config, Subject, moment},
    diagnose::verdict,
    kernel::{
        btf::Btf,
        load::Clocks,
        record::{Record, take_all},
        symbols::Restarts,
    },
    model::{cgroup, class::Class, syscalls::Syscall},
    procfs::{self, stat},
    resolve::{
        Resolver, epoll, listeners, locks, mounts, page, poll,
        process::{ProcessMeta, pods},
        stack::web,
    },
    serve::api,
    top::Filter,
    util::{clock::Now, users},
    wire::json::WaitObject,
};

/// The kernel's types.
pub fn types(bytes: &[u8]) {
    if let Ok(btf) = Btf::parse(bytes.to_vec()) {
        let _ = btf.resolve_fields();
        let _ = btf.size_of("task_struct");
        let _ = btf.map_type_at("SLOTS");
        let _ = btf.tracepoint_args("sched_switch");
    }
}

/// A snapshot's stream, judged and written as JSON.
pub fn records(bytes: &[u8]) {
    let now = Now::read();
    // SAFETY: a header is integers only, for which zero is a value.
    let mut clocks = Clocks { header: unsafe { std::mem::zeroed::<Header>() }, offset_ns: 0 };
    let _ = take_all(bytes, |record| {
        match record {
            Record::Header(header) => clocks.header = header,
            Record::Thread(record, tail) => {
                let wait = bpf::decode(&record, tail, &clocks, &now, 250, &mut Some(Restarts::default()));
                let resolved = Resolver::by_record_alone(&wait);
                let verdict = verdict::judge(&wait, &resolved);
                assert!(!verdict.sentence.is_empty());
                let object = WaitObject::new(&wait, &resolved, &verdict, &ProcessMeta::default());
                let json = serde_json::to_string(&object).expect("it can be written");
                serde_json::from_str::<WaitObject>(&json).expect("and read again");
            }
            Record::Fd(..)
            | Record::Request(..)
            | Record::Holder(_)
            | Record::Socket(..)
            | Record::Stack(..)
            | Record::Registers(_) => {}
        }
        Ok(())
    });
}

/// Files of `/proc`.
pub fn proc_files(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = stat::parse_stat(&text);
    let _ = stat::call(&text);
    let _ = stat::status(&text);
    let half = text.floor_char_boundary(text.len() / 2);
    let _ = page::candidate(&text[..half], &mounts::MountTable::parse(&text[half..]));
    let _ = sched::parse(&text);
    let _ = cgroup::of(&text);
    let _ = users::parse(&text);
    let _ = epoll::parse(&text);
    let _ = locks::LockTable::parse(text.as_bytes()).holders(7, Some(9));
    let _ = locks::broken_leases(&text);
    let _ = listeners::parse(bytes);
    let _ = (suspended::mounted(&text, true), suspended::mounted(&text, false));
    let _ = Restarts::of(bytes).call(0x10);
}

/// The kernel's socket diagnostics: a datagram of netlink messages, with `struct tcp_info` in them.
pub fn sockets(bytes: &[u8]) {
    for socket in sockets::fuzz(bytes) {
        let _ = format!("{socket:?}");
    }
}

/// Names in the kubelet's folders: one a line, after the uid of a pod and the id of a container.
pub fn pods(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let (uid, id) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let lines: Vec<&str> = lines.collect();
    for (namespace, pod) in lines.iter().filter_map(|folder| pods::pod_of(folder, uid)) {
        assert!(!namespace.contains('_') && !pod.contains('_'));
        for container in lines.iter().filter_map(|log| pods::container_of(log, pod, namespace, id)) {
            assert!(container.len() <= text.len());
        }
    }
}

/// The memory of a process whose stack is read, and the files that it has mapped.
pub fn stacks(bytes: &[u8]) {
    web::read_anything(bytes);
    procfs::read_anything(bytes);
}

/// Sets of descriptors in a process's memory.
pub fn sets(bytes: &[u8]) {
    let _ = poll::parse_poll(bytes);
    let (count, rest) =
        bytes.split_first().map_or((0, bytes), |(first, rest)| (usize::from(*first) * 8, rest));
    let (read, write) = rest.split_at(rest.len() / 2);
    let _ = poll::parse_select(count, read, write, read);
}

/// The configuration, and what its rules say of a wait.
pub fn config(bytes: &[u8]) {
    if let Ok(config) = Config::parse(bytes) {
        let subject = Subject {
            comm: "php-fpm8.2",
            unit: Some("php-fpm.service"),
            container: None,
            uid: 33,
            user: Some("www-data"),
            syscall: Syscall::Recvfrom,
            judgement: Class::Reply.into(),
            local: "10.0.0.1:40000".parse().ok(),
            remote: "[2001:db8::1]:443".parse().ok(),
            path: Some("/run/redis/redis.sock"),
        };
        let _ = config.decide(&subject);
    }
}

/// What a user types: a filter of the live view, a moment; what a client asks.
pub fn words(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = Filter::parse(&text);
    let _: Result<Timestamp, String> = moment::parse(&text);
    let (path, query) = text.split_once('?').unwrap_or((&text, ""));
    let _ = api::parse(path, query);
}

/// What an agent answers, or the history holds, and a filter of the live view over it.
pub fn objects(bytes: &[u8]) {
    let (filter, lines) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap_or(0));
    let filter = Filter::parse(&String::from_utf8_lossy(filter));
    for wait in serde_json::Deserializer::from_slice(lines).into_iter::<WaitObject>().map_while(Result::ok) {
        let _ = filter.keeps(&wait);
        let _ = (wait.id(), wait.call(), wait.target.to_string());
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::PathBuf};

    use proptest::prelude::*;

    use super::*;

    type Fuzzer = fn(&[u8]);

    const FUZZERS: [(&str, Fuzzer); 10] = [
        ("config", config),
        ("objects", objects),
        ("pods", pods),
        ("proc_files", proc_files),
        ("records", records),
        ("sets", sets),
        ("sockets", sockets),
        ("stacks", stacks),
        ("types", types),
        ("words", words),
    ];

    fn folder(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(name)
    }

    /// The files in a folder, in their order.
    fn files(folder: PathBuf) -> BTreeSet<PathBuf> {
        let entries = fs::read_dir(folder).expect("it is there");
        entries.map(|entry| entry.expect("it is read").path()).collect()
    }

    /// Each seed, with the fuzzer it is for.
    fn seeds() -> Vec<(Fuzzer, Vec<u8>)> {
        let of = |(name, fuzzer): &(&str, Fuzzer)| {
            let seeds = files(folder("seeds").join(name));
            let fuzzer = *fuzzer;
            seeds.into_iter().map(move |path| (fuzzer, fs::read(path).expect("a seed"))).collect::<Vec<_>>()
        };
        FUZZERS.iter().flat_map(of).collect()
    }

    #[test]
    fn every_fuzzer_has_seeds_that_do_no_harm() {
        let stems = files(folder("fuzz_targets")).into_iter();
        let stems: Vec<_> = stems.map(|path| path.file_stem().expect("a name").to_owned()).collect();
        assert_eq!(stems, FUZZERS.map(|(name, _)| name));
        seeds().iter().for_each(|(fuzzer, seed)| fuzzer(seed));
    }

    proptest! {
        /// What a fuzzer with a compiler's help does for hours before a release.
        #[test]
        fn nothing_near_a_seed_does_harm(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            kept in any::<prop::sample::Index>(),
            cut in any::<bool>(),
        ) {
            for (fuzzer, mut bytes) in seeds() {
                for (at, byte) in &changes {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
                if cut {
                    bytes.truncate(kept.index(bytes.len()));
                }
                fuzzer(&bytes);
            }
        }
    }
}
