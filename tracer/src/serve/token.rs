//! The token that those must show who read `/metrics`: where it may be kept, and whether a request shows it. Whoever could read the
//! file, or put another in its place, could read the metrics.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::{self, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{self, Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use hyper::{
    Request,
    header::{AUTHORIZATION, HeaderValue},
};
use subtle::ConstantTimeEq;

use crate::util::regular::{self, Links};

/// Symbolic links that are followed on the way to the file, as many as the kernel follows.
const LINKS_MAX: usize = 40;
/// The file's first line is within so many bytes.
const TOKEN_BYTES_MAX: u64 = 4096;
/// Shorter ones could be guessed, characters.
const TOKEN_CHARS_MIN: usize = 16;

/// What those who read `/metrics` must know.
pub struct Token(String);

impl Token {
    /// The first line of a file that only root, the agent's user and the file's group may read, and only root and the agent's user
    /// may replace.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let own = rustix::process::geteuid().as_raw();
        let file = way_to(path, own).with_context(|| format!("cannot use the token in {name}"))?;
        // By now this is no link.
        let file = regular::open(&file, OpenOptions::new().read(true), Links::Refused)
            .with_context(|| format!("cannot read the token in {name}"))?;
        if let Some(doubt) = Rights::of(&file.metadata()?).doubt_as_file(own) {
            bail!("{name} {doubt} {name}");
        }
        let mut text = String::new();
        file.take(TOKEN_BYTES_MAX)
            .read_to_string(&mut text)
            .with_context(|| format!("cannot read the token in {name}"))?;
        let token = text.lines().next().unwrap_or_default().trim();
        ensure!(
            token.len() >= TOKEN_CHARS_MIN,
            "the token in {name} is shorter than {TOKEN_CHARS_MIN} characters"
        );
        Ok(Self(format!("Bearer {token}")))
    }

    /// Whether the request shows it. The comparison takes as long wherever the two differ.
    pub fn is_shown<B>(&self, request: &Request<B>) -> bool {
        let shown = request.headers().get(AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
        shown.ct_eq(self.0.as_bytes()).into()
    }
}

/// Where the file is in the end. Links are followed, as secrets in Kubernetes are some, but each directory on the way must be one in
/// which nobody else can put another name.
fn way_to(path: &Path, own: u32) -> Result<PathBuf> {
    let mut left: VecDeque<OsString> = names(&path::absolute(path)?);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let look = |path: &Path| -> io::Result<Metadata> { fs::symlink_metadata(path) };
        let found = look(&next).with_context(|| format!("cannot look at {}", next.display()))?;
        let dir = Rights::of(&look(&at)?);
        if let Some(doubt) = dir.doubt_as_directory_of(Rights::of(&found), own) {
            bail!("{dir} {doubt} {dir}", dir = at.display());
        }
        if !found.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        ensure!(links <= LINKS_MAX, "too many symbolic links");
        let target = fs::read_link(&next)?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        for name in names(&target).into_iter().rev() {
            left.push_front(name);
        }
    }
    Ok(at)
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

/// Who may do what with a file or a directory.
#[derive(Clone, Copy, Debug)]
struct Rights {
    owner: u32,
    mode: u32,
}

impl Rights {
    fn of(metadata: &Metadata) -> Self {
        Self { owner: metadata.uid(), mode: metadata.mode() }
    }

    fn is_trusted(self, own: u32) -> bool {
        self.owner == 0 || self.owner == own
    }

    /// What is wrong with the token's file, if anything: between its name and its name again.
    fn doubt_as_file(self, own: u32) -> Option<String> {
        if self.mode & 0o007 != 0 {
            return Some("can be read by everybody, so it is no secret: chmod o=".into());
        }
        (!self.is_trusted(own)).then(|| {
            format!(
                "belongs to the user {}, who is neither root nor the agent's user and can change it: chown root",
                self.owner
            )
        })
    }

    /// What is wrong with a directory in which `entry` is looked up, as above. Where only a name's owner may remove it, as in
    /// `/tmp`, others may write.
    fn doubt_as_directory_of(self, entry: Self, own: u32) -> Option<String> {
        if !self.is_trusted(own) {
            return Some(format!(
                "belongs to the user {}, who is neither root nor the agent's user and can put another file there: chown root",
                self.owner
            ));
        }
        let is_sticky = self.mode & libc::S_ISVTX != 0;
        let is_shared = self.mode & 0o022 != 0;
        (is_shared && !(is_sticky && entry.is_trusted(own)))
            .then(|| "can be written by others, who can put another file there: chmod go-w".into())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    const OWN: u32 = 7;

    #[test]
    fn only_root_and_the_agents_user_may_have_a_say() {
        let rights = |owner, mode| Rights { owner, mode };
        let files = [
            (rights(0, 0o600), None),
            (rights(OWN, 0o400), None),
            (rights(0, 0o640), None),
            (rights(0, 0o644), Some("chmod o=")),
            (rights(8, 0o600), Some("chown root")),
        ];
        for (file, doubt) in files {
            let said = file.doubt_as_file(OWN);
            assert_eq!(said.as_deref().and_then(|said| said.rsplit(": ").next()), doubt, "{file:?}");
        }
        let (ours, others) = (rights(0, 0o600), rights(8, 0o600));
        let directories = [
            (rights(0, 0o755), ours, None),
            (rights(OWN, 0o700), ours, None),
            (rights(0, 0o775), ours, Some("chmod go-w")),
            (rights(0, 0o777), ours, Some("chmod go-w")),
            // As /tmp is, and the directories that Kubernetes makes for secrets.
            (rights(0, 0o1777), ours, None),
            (rights(0, 0o1777), rights(OWN, 0o600), None),
            (rights(0, 0o1777), others, Some("chmod go-w")),
            (rights(8, 0o755), ours, Some("chown root")),
        ];
        for (dir, entry, doubt) in directories {
            let said = dir.doubt_as_directory_of(entry, OWN);
            assert_eq!(said.as_deref().and_then(|said| said.rsplit(": ").next()), doubt, "{dir:?} {entry:?}");
        }
    }

    /// Whose they are is tried by root only, who can give files away.
    #[test]
    fn each_directory_on_the_way_counts() {
        let dir = std::env::temp_dir().join(format!("tracer-token-{}", std::process::id()));
        let (safe, open) = (dir.join("safe"), dir.join("open"));
        for made in [&safe, &open] {
            fs::create_dir_all(made).expect("a directory");
        }
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
        };
        let token = safe.join("token");
        fs::write(&token, "0123456789abcdef\nmore\n").expect("writes");
        mode(&token, 0o600);
        let said =
            |path: &Path| Token::read(path).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert_eq!(Token::read(&token).expect("a token").0, "Bearer 0123456789abcdef");
        // As Kubernetes has it: by a link in the directory, and one of a directory.
        symlink("safe", dir.join("data")).expect("a link");
        symlink("../data/token", open.join("token")).expect("a link");
        assert!(Token::read(&open.join("token")).is_ok());
        mode(&open, 0o777);
        let error = said(&open.join("token"));
        assert!(
            error.contains("can be written by others")
                && error.ends_with(&format!("chmod go-w {}", open.display())),
            "{error}"
        );
        // What a link leads through, too.
        mode(&open, 0o755);
        mode(&safe, 0o770);
        assert!(said(&open.join("token")).ends_with(&format!("chmod go-w {}", safe.display())));
        mode(&safe, 0o700);
        symlink("loop", dir.join("loop")).expect("a link");
        assert!(said(&dir.join("loop")).contains("too many symbolic links"));
        assert!(said(&safe).contains("no regular file"), "{}", said(&safe));
        assert!(said(&safe.join("none")).contains("cannot look at"));
        if rustix::process::geteuid().is_root() {
            chown(&token, Some(65_534), None).expect("chown");
            assert!(said(&token).ends_with(&format!("chown root {}", token.display())), "{}", said(&token));
            chown(&token, Some(0), None).expect("chown");
            chown(&safe, Some(65_534), None).expect("chown");
            assert!(said(&token).ends_with(&format!("chown root {}", safe.display())), "{}", said(&token));
        }
        fs::remove_dir_all(&dir).expect("is removed");
    }
}
