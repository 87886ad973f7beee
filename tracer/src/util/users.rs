//! What a user is called: the host's `/etc/passwd`, and nothing that goes over the network.
//!
//! The C library's own look-up may ask a directory service, and wait for it; a name is not worth that.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    sync::{Mutex, PoisonError},
};

const PASSWD: &str = "/etc/passwd";

/// The file as it was read last.
struct Users {
    /// Inode, size and time of change of what was read.
    version: (u64, u64, i64, i64),
    names: HashMap<u32, String>,
}

static USERS: Mutex<Option<Users>> = Mutex::new(None);

/// Name of a user of the host.
pub fn name(uid: u32) -> Option<String> {
    look_up(|names| names.get(&uid).cloned())
}

/// Whether a user of the host has this name, which [`name`] gives.
pub fn is_known(name: &str) -> bool {
    look_up(|names| names.values().any(|known| known == name).then_some(())).is_some()
}

/// The file is read again when it has changed.
fn look_up<T>(wanted: impl Fn(&HashMap<u32, String>) -> Option<T>) -> Option<T> {
    let metadata = fs::metadata(PASSWD).ok()?;
    let version = (metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec());
    let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
    let current = match users.take().filter(|users| users.version == version) {
        Some(users) => users,
        None => Users { version, names: parse(&String::from_utf8_lossy(&fs::read(PASSWD).ok()?)) },
    };
    wanted(&users.insert(current).names)
}

/// Number of a group of the host, by its name or as it is.
pub fn group(name: &str) -> Option<u32> {
    groups().into_iter().find(|(known, _)| known == name).map(|(_, gid)| gid).or_else(|| name.parse().ok())
}

/// Name of a group of the host.
pub fn group_name(gid: u32) -> Option<String> {
    groups().into_iter().find(|(_, known)| *known == gid).map(|(name, _)| name)
}

/// Names and numbers of the host's groups (group(5)).
fn groups() -> Vec<(String, u32)> {
    let text = fs::read("/etc/group").unwrap_or_default();
    let of = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    String::from_utf8_lossy(&text).lines().filter_map(of).collect()
}

/// Names by uid (passwd(5)); of several with one uid the first counts, as it does for the C library.
pub fn parse(text: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), _, Some(Ok(uid))) =
            (fields.next(), fields.next(), fields.next().map(str::parse::<u32>))
            && !name.is_empty()
        {
            names.entry(uid).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_uid() {
        let names = parse(
            "root:x:0:0:root:/root:/bin/bash\ntoor:x:0:0::/root:/bin/sh\n# a comment\n+::::::\n\
             www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\nbroken:x\n:x:7:7:::\nbad:x:-1:0:::\n",
        );
        assert_eq!(names.len(), 2);
        assert_eq!(names.get(&0).map(String::as_str), Some("root"));
        assert_eq!(names.get(&33).map(String::as_str), Some("www-data"));
    }

    #[test]
    fn this_machine_has_a_root() {
        assert_eq!(name(0).as_deref(), Some("root"));
        assert_eq!(name(0).as_deref(), Some("root"), "and remembers it");
        assert_eq!(name(u32::MAX - 7), None);
        assert!(is_known("root") && !is_known("nobody of that name"));
        assert_eq!((group("root"), group("no such group")), (Some(0), None));
        assert_eq!((group_name(0).as_deref(), group("17")), (Some("root"), Some(17)));
    }
}
