//! Which waits `ps` is asked about: of each list that is given, one must match.

use std::net::SocketAddr;

use clap::Args;
use glob::Pattern;

use super::{
    address::Address,
    rule::{self, Container, User},
};

/// What narrows down what is shown. Lists are separated by commas, and names may have `*` and `?`.
#[derive(Args, Clone, Debug, Default)]
pub struct WaitSelection {
    /// Only these processes
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// Only threads with this name
    #[arg(short, long, value_name = "COMM", value_delimiter = ',', value_parser = rule::comm)]
    pub comm: Vec<Pattern>,
    /// Only processes of this systemd unit
    #[arg(long, value_name = "UNIT", value_delimiter = ',', value_parser = rule::unit)]
    pub unit: Vec<Pattern>,
    /// Only processes in this container, by its name or the beginning of its id
    #[arg(long, value_name = "CONTAINER", value_delimiter = ',', value_parser = rule::container)]
    pub container: Vec<Container>,
    /// Only threads of this user, by name or number
    #[arg(long, value_name = "USER", value_delimiter = ',', value_parser = rule::user)]
    pub user: Vec<User>,
    /// Only waits on this peer: 192.0.2.1, 10.0.0.0/8, 192.0.2.1:6379, :6379, /run/mysqld/*.sock
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = Address::parse)]
    pub remote: Vec<Address>,
    /// Only what this one holds up: a pid, the name of a process, an address, a path
    #[arg(long, value_name = "CULPRIT", value_delimiter = ',')]
    pub culprit: Vec<String>,
}

/// What a selection looks at of a wait, beside its thread, its peers and its culprit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Workplace<'a> {
    /// systemd unit.
    pub unit: Option<&'a str>,
    /// Container id or name.
    pub container: Option<&'a str>,
    /// User.
    pub uid: Option<u32>,
    /// Its name.
    pub user: Option<&'a str>,
}

impl WaitSelection {
    /// Whether it is about single processes or threads: of those, people want to see more.
    pub fn is_of_few(&self) -> bool {
        !self.pid.is_empty() || !self.comm.is_empty()
    }

    /// Whether it is about anything in particular.
    pub fn is_given(&self) -> bool {
        self.is_of_few() || self.is_of_more_than_threads()
    }

    /// Whether it names units, containers or users, of which each should have something that waits.
    pub fn is_of_workplaces(&self) -> bool {
        !(self.unit.is_empty() && self.container.is_empty() && self.user.is_empty())
    }

    /// Whether it looks at more than the thread.
    pub fn is_of_more_than_threads(&self) -> bool {
        let Self { pid: _, comm: _, unit, container, user, remote, culprit } = self;
        !(unit.is_empty()
            && container.is_empty()
            && user.is_empty()
            && remote.is_empty()
            && culprit.is_empty())
    }

    /// Whether it has this process.
    pub fn has_process(&self, pid: u32) -> bool {
        any(&self.pid, |one| *one == pid)
    }

    /// Whether it has this thread.
    pub fn has_thread(&self, pid: u32, comm: &str) -> bool {
        self.has_process(pid) && any(&self.comm, |one| one.matches(comm))
    }

    /// Whether it has what runs there.
    pub fn has_workplace(&self, at: &Workplace<'_>) -> bool {
        any(&self.unit, |one| at.unit.is_some_and(|unit| rule::is_unit(one, unit)))
            && any(&self.container, |one| at.container.is_some_and(|container| one.is(container)))
            && any(&self.user, |one| at.uid.is_some_and(|uid| one.is(uid, at.user)))
    }

    /// Whether it has one of these peers, which are addresses or paths.
    pub fn has_peer(&self, peers: &[(Option<SocketAddr>, Option<&str>)]) -> bool {
        any(&self.remote, |one| peers.iter().any(|(address, path)| one.has(*address, *path)))
    }

    /// Whether it has this culprit, which is called so.
    pub fn has_culprit(&self, is_called: impl Fn(&str) -> bool) -> bool {
        any(&self.culprit, |one| is_called(one))
    }
}

/// Whether one of the list matches; a list that is not given matches everything.
fn any<T>(list: &[T], matches: impl Fn(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(matches)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        selection: WaitSelection,
    }

    fn selection(args: &str) -> WaitSelection {
        let words = ["ps"].into_iter().chain(args.split_whitespace());
        Arguments::try_parse_from(words).unwrap_or_else(|error| panic!("{args}: {error}")).selection
    }

    #[test]
    fn lists_are_separated_by_commas_and_all_kinds_must_match() {
        let both = selection("-p 1,2 -p 3 -c nginx,php-fpm*");
        assert!(both.has_thread(1, "nginx") && both.has_thread(3, "php-fpm8.2"));
        assert!(!both.has_thread(4, "nginx") && !both.has_thread(1, "nginx2"));
        assert!(selection("").has_thread(4, "nginx"), "nothing is asked for");
    }

    #[test]
    fn a_workplace_is_matched_as_rules_match_it() {
        let at = Workplace {
            unit: Some("nginx.service"),
            container: Some("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
            uid: Some(33),
            user: Some("www-data"),
        };
        for (args, has) in [
            ("--unit nginx", true),
            ("--unit nginx.service,cron", true),
            ("--unit cron", false),
            ("--container 0123456789ab", true),
            ("--container web*", false),
            ("--user www-data", true),
            ("--user 33 --unit ngin?.service", true),
            ("--user 33 --unit cron", false),
        ] {
            assert_eq!(selection(args).has_workplace(&at), has, "{args}");
        }
        assert!(!selection("--unit nginx").has_workplace(&Workplace::default()), "nothing is known of it");
    }

    #[test]
    fn peers_are_addresses_or_paths() {
        let redis = (Some("10.1.2.3:6379".parse().expect("an address")), None);
        let mysql = (None, Some("/run/mysqld/mysqld.sock"));
        assert!(selection("--remote :6379").has_peer(&[redis]));
        assert!(selection("--remote 192.0.2.1,10.0.0.0/8").has_peer(&[mysql, redis]));
        assert!(selection("--remote /run/mysqld/*").has_peer(&[mysql]));
        assert!(!selection("--remote 10.0.0.0/8").has_peer(&[mysql]));
        assert!(!selection("--remote :6379").has_peer(&[]));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for args in ["--remote db.example", "--unit a.slice", "--comm a-name-of-20-letters", "-p x"] {
            let words = ["ps"].into_iter().chain(args.split_whitespace());
            assert!(Arguments::try_parse_from(words).is_err(), "{args}");
        }
    }
}
