//! Do the matching, the precedence and the mistakes hold that docs/CONFIG.md describes?

use std::fmt::Write;

use super::*;
use crate::model::syscalls::Syscall;

const SHIPPED: &str = include_str!("../../../deploy/tracer.toml");

fn config(text: &str) -> Config {
    Config::parse(text.as_bytes()).unwrap_or_else(|mistake| panic!("{mistake}\n{text}"))
}

fn mistake(text: &str) -> String {
    Config::parse(text.as_bytes()).expect_err(text).to_string()
}

fn seconds(seconds: u64) -> Threshold {
    Some(Duration::from_secs(seconds))
}

/// A PHP worker that waits for an answer of a database.
fn subject() -> Subject<'static> {
    Subject {
        comm: "php",
        unit: Some("report-daily.service"),
        container: Some("4f8b2c6d9e0a1b3c5d7e9f0a2b4c6d8e0f1a3b5c7d9e1f2a4b6c8d0e2f4a6b8c"),
        uid: 33,
        user: Some("www-data"),
        syscall: Syscall::Recvfrom,
        judgement: Class::Reply.into(),
        local: "10.0.0.7:51000".parse().ok(),
        remote: "10.1.2.3:3306".parse().ok(),
        path: None,
    }
}

/// The shipped file with its examples and built-in values brought to life.
fn brought_to_life() -> String {
    SHIPPED.lines().fold(String::new(), |mut text, line| {
        let live = line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| !c.is_whitespace()));
        let _ = writeln!(text, "{}", live.unwrap_or(line));
        text
    })
}

#[test]
fn the_shipped_file_changes_nothing() {
    let shipped = config(SHIPPED);
    assert_eq!(shipped.defaults, Defaults::default());
    assert!(shipped.classes.is_empty() && shipped.rules.is_empty());
}

#[test]
fn what_the_shipped_file_calls_built_in_is_built_in() {
    let file = config(&brought_to_life());
    for class in Class::ALL {
        assert_eq!(file.threshold(*class), class.threshold(), "{}", class.label());
    }
    assert_eq!(file.classes.len(), Class::ALL.iter().filter(|c| c.level() != Level::Idle).count());
    assert_eq!(file.defaults.threshold, Some(Class::Reply.threshold()));
    let cli = <cli::Cli as clap::Parser>::parse_from(["tracer", "agent"]);
    let cli::Command::Agent(args) = cli.command else { panic!("another command") };
    let (built_in, said) = (args.over(&Defaults::default()), args.over(&file.defaults));
    assert_eq!(
        (built_in.interval, built_in.min_wait, built_in.response_times, built_in.listen, built_in.history),
        (said.interval, said.min_wait, said.response_times, said.listen, said.history)
    );
    assert!(
        file.defaults.interval.is_some()
            && file.defaults.min_wait.is_some()
            && file.defaults.response_times.is_some()
            && file.defaults.listen.is_some()
    );
}

#[test]
fn the_shipped_examples_do_what_they_say() {
    let file = config(&brought_to_life());
    assert_eq!(file.rules.len(), 5);
    let to =
        |remote: &str| Subject { remote: remote.parse().ok(), comm: "redis-cli", unit: None, ..subject() };
    for (subject, threshold) in [
        (to("127.0.0.1:6379"), None),
        (Subject { judgement: Class::Quiet.into(), ..to("[::1]:6379") }, None),
        (
            Subject {
                judgement: Class::Dialog.into(),
                remote: None,
                path: Some("/run/redis/redis-server.sock"),
                ..subject()
            },
            None,
        ),
        (Subject { judgement: Class::Send.into(), ..to("127.0.0.1:6379") }, seconds(30)),
        (to("127.0.0.1:4730"), None),
        (to("127.0.0.1:6380"), seconds(30)),
        (Subject { comm: "flock", judgement: Class::Lock.into(), remote: None, ..subject() }, seconds(7200)),
        (subject(), seconds(900)),
        (Subject { user: Some("alice"), ..to("192.0.2.1:1") }, None),
        (Subject { uid: 1001, ..to("192.0.2.1:1") }, None),
    ] {
        assert_eq!(file.decide(&subject).threshold, threshold, "{subject:?}");
    }
}

#[test]
fn each_key_matches_what_it_means() {
    let unix = Subject { local: None, remote: None, path: Some("/run/mysqld/mysqld.sock"), ..subject() };
    let of_unit = |unit| Subject { unit: Some(unit), ..subject() };
    let bare = Subject { unit: None, container: None, user: None, local: None, remote: None, ..subject() };
    for (keys, subject, matches) in [
        ("comm = 'php'", subject(), true),
        ("comm = 'ph'", subject(), false),
        ("comm = 'PHP'", subject(), false),
        ("comm = 'php*'", subject(), true),
        ("comm = ['ruby', '?hp']", subject(), true),
        ("comm = '[a-o]hp'", subject(), false),
        ("comm = '*'", Subject { comm: "a/b .c", ..subject() }, true),
        ("unit = 'report-daily.service'", subject(), true),
        ("unit = 'report-daily'", subject(), true),
        ("unit = 'report'", subject(), false),
        ("unit = 'report-*'", subject(), true),
        ("unit = '*'", bare, false),
        ("unit = 'a\\x2db@*.service'", Subject { unit: Some("a\\x2db@1.service"), ..subject() }, true),
        // Whoever has named a unit is part of its name.
        ("unit = 'nginx'", of_unit("user@1000.service/nginx.service"), false),
        ("unit = '*'", of_unit("user@1000.service/nginx.service"), false),
        ("unit = '*nginx.service'", of_unit("user@1000.service/nginx.service"), false),
        ("unit = 'user@*.service'", of_unit("user@1000.service/nginx.service"), false),
        ("unit = 'user@1000.service?nginx.service'", of_unit("user@1000.service/nginx.service"), false),
        ("unit = 'user@1000.service[!a]nginx.service'", of_unit("user@1000.service/nginx.service"), false),
        ("unit = 'user@1000.service/nginx'", of_unit("user@1000.service/nginx.service"), true),
        ("unit = 'user@*.service/nginx.service'", of_unit("user@1000.service/nginx.service"), true),
        ("unit = 'nginx'", of_unit("web1/nginx.service"), false),
        ("unit = '*/nginx.service'", of_unit("web1/nginx.service"), true),
        ("unit = 'web1/*'", of_unit("user@1000.service/web1/nginx.service"), false),
        ("container = '4f8b2c6d9e0a'", subject(), true),
        ("container = '4F8B2C6D9E0A1'", subject(), true),
        ("container = '4f8b2c'", subject(), false),
        ("container = '4f8b*'", subject(), true),
        ("container = 'web'", Subject { container: Some("web1"), ..subject() }, false),
        ("container = 'web?'", Subject { container: Some("web1"), ..subject() }, true),
        ("container = '*'", bare, false),
        ("user = 'www-data'", subject(), true),
        ("user = 'root'", subject(), false),
        ("user = ['root', 33]", subject(), true),
        ("user = '33'", bare, true),
        ("user = 'www-data'", bare, false),
        ("user = 0", subject(), false),
        ("syscall = 'recvfrom'", subject(), true),
        ("syscall = ['read', 'page_fault']", subject(), false),
        ("class = 'reply'", subject(), true),
        ("class = ['quiet', 'reply']", subject(), true),
        ("class = 'lock'", subject(), false),
        ("remote = '10.0.0.0/8'", subject(), true),
        ("remote = ['192.0.2.1', ':3306']", subject(), true),
        ("remote = ':51000'", subject(), false),
        ("remote = ':3306'", bare, false),
        ("remote = '/run/mysqld/*.sock'", unix, true),
        ("remote = '/run/mysqld/*.sock'", subject(), false),
        ("local = '/run/mysqld/*.sock'", unix, true),
        ("local = ':51000'", subject(), true),
        ("local = ':3306'", subject(), false),
        ("comm = 'php'\nclass = 'reply'\nremote = ':3306'", subject(), true),
        ("comm = 'php'\nclass = 'reply'\nremote = ':3307'", subject(), false),
        ("comm = 'ruby'\nclass = 'reply'\nremote = ':3306'", subject(), false),
    ] {
        let config = config(&format!("[[rule]]\n{keys}\nflag = false\n"));
        assert_eq!(config.decide(&subject).threshold.is_none(), matches, "{keys} on {subject:?}");
    }
}

#[test]
fn the_first_matching_rule_that_has_a_setting_counts() {
    let rule = |keys: &str| format!("[[rule]]\n{keys}\n");
    for (rules, threshold, note) in [
        (vec![], seconds(30), None),
        (vec!["comm='php'\nthreshold='1m'"], seconds(60), None),
        (vec!["comm='php'\nthreshold='1m'", "comm='*'\nthreshold='2m'"], seconds(60), None),
        (vec!["comm='ruby'\nthreshold='1m'", "comm='*'\nthreshold='2m'"], seconds(120), None),
        (vec!["comm='*'\nnote='a'", "comm='*'\nthreshold='2m'\nnote='b'"], seconds(120), Some("a")),
        (vec!["comm='*'\nflag=false\nnote='a'", "comm='*'\nthreshold='2m'"], None, Some("a")),
        (vec!["comm='php'\nflag=true", "comm='*'\nflag=false"], seconds(30), None),
        (vec!["comm='*'\nthreshold='never'", "comm='*'\nthreshold='2m'"], None, None),
    ] {
        let text: String = rules.iter().map(|keys| rule(keys)).collect();
        let config = config(&text);
        let decision = config.decide(&subject());
        assert_eq!((decision.threshold, decision.note), (threshold, note), "{text}");
    }
}

#[test]
fn rules_win_over_the_command_line_and_that_over_the_file() {
    let file = "[agent]\nthreshold='40s'\n[thresholds]\nreply='1m'\nquiet='20m'\npipe='5m'\nlisten='1h'\nlock='never'\n\
                [[rule]]\ncomm='flock'\nthreshold='2h'\n";
    let lock = Subject { comm: "flock", judgement: Class::Lock.into(), ..subject() };
    for (flag, reply, send, quiet, pipe, listen, lock_class) in [
        (None, seconds(60), seconds(40), seconds(1200), seconds(300), seconds(3600), None),
        (seconds(2), seconds(2), seconds(2), seconds(1200), seconds(300), seconds(3600), seconds(2)),
    ] {
        let config = config(file).with_threshold(flag);
        let of = |class| config.threshold(class);
        assert_eq!(of(Class::Reply), reply);
        assert_eq!(of(Class::Send), send);
        assert_eq!(of(Class::Quiet), quiet);
        assert_eq!(of(Class::Pipe), pipe);
        assert_eq!(of(Class::Listen), listen);
        assert_eq!(of(Class::Lock), lock_class);
        assert_eq!(of(Class::Timer), None);
        assert_eq!(config.decide(&subject()).threshold, reply);
        assert_eq!(config.decide(&lock).threshold, seconds(7200));
    }
    let flag = Config::default().with_threshold(seconds(2));
    assert_eq!(flag.threshold(Class::Reply), seconds(2));
    assert_eq!(flag.threshold(Class::Quiet), seconds(600));
    assert_eq!(flag.threshold(Class::Pipe), None);
}

#[test]
fn a_deadlock_has_the_threshold_of_what_is_stuck_whatever_its_class() {
    let deadlock = |class| Judgement { class, is_deadlock: true };
    let rule = "[[rule]]\nclass='child'\nthreshold='5m'\n";
    for (config, child, mutex) in [
        (Config::default(), seconds(30), seconds(30)),
        (Config::default().with_threshold(seconds(2)), seconds(2), seconds(2)),
        (config("[agent]\nthreshold='1m'\n"), seconds(60), seconds(60)),
        (config("[thresholds]\nchild='1h'\nmutex='5s'\n"), seconds(30), seconds(5)),
        (config(rule), seconds(300), seconds(30)),
        (config("[[rule]]\nclass='child'\nflag=false\n"), None, seconds(30)),
    ] {
        let of = |class| config.decide(&Subject { judgement: deadlock(class), ..subject() }).threshold;
        assert_eq!((of(Class::Child), of(Class::Mutex)), (child, mutex), "{config:?}");
        let least = config.least_of(deadlock(Class::Child));
        assert!(least.is_some_and(|least| child.is_none_or(|child| least <= child)), "{config:?}");
    }
}

#[test]
fn it_is_known_whether_anybody_has_set_a_threshold() {
    let flag = Config::default().with_threshold(seconds(2));
    for (config, reply, quiet) in [
        (Config::default(), false, false),
        (config("[agent]\nthreshold = '1m'"), true, false),
        (flag, true, false),
        (config("[thresholds]\nquiet = '10m'"), false, true),
        (config("[[rule]]\nclass = 'quiet'\nthreshold = '5m'"), false, true),
        (config("[[rule]]\nclass = 'quiet'\nflag = false"), false, true),
        (config("[[rule]]\nclass = 'quiet'\nnote = 'x'"), false, false),
    ] {
        let is_set = |class: Class| config.decide(&Subject { judgement: class.into(), ..subject() }).is_set;
        assert_eq!((is_set(Class::Reply), is_set(Class::Quiet)), (reply, quiet), "{config:?}");
    }
}

#[test]
fn the_least_threshold_counts_rules_in() {
    let secs = |config: &Config| config.least().as_secs();
    assert_eq!(secs(&Config::default()), 30);
    assert_eq!(secs(&Config::default().with_threshold(seconds(2))), 2);
    let one = config("[[rule]]\nclass='pipe'\nthreshold='5s'\n[[rule]]\nclass='quiet'\nthreshold='never'\n");
    assert_eq!(secs(&one), 5);
    assert_eq!(one.least_of(Class::Pipe.into()), seconds(5));
    assert_eq!(one.least_of(Class::Reply.into()), seconds(30));
    assert_eq!(one.least_of(Class::Quiet.into()), seconds(600));
    assert_eq!(one.least_of(Class::Listen.into()), None);
    let any = config("[[rule]]\ncomm='*'\nthreshold='5s'\n");
    assert_eq!(any.least_of(Class::Listen.into()), seconds(5));
    let never = config(
        "[agent]\nthreshold='never'\n[thresholds]\nquiet='never'\ndialog='never'\nrequest='never'\nexit='never'\nother='never'",
    );
    assert_eq!(never.least(), Duration::MAX);
}

#[test]
fn a_mistake_is_told_with_its_place_and_what_was_expected() {
    for (text, expected) in [
        // Keys.
        (
            "[[rule]]\ncomm = 'a'\n  treshold = '1m'\n",
            "3:3: unknown key `treshold` in [[rule]]: did you mean `threshold`?",
        ),
        (
            "[agent]\ninterval = '1s'\ncolour = 1\n",
            "3:1: unknown key `colour` in [agent]: expected one of threshold, interval, min_wait, response_times, listen, history, history_mib, token_file, on_stall, on_incident, on_stall_timeout, on_stall_a_minute",
        ),
        ("[Agent]\n", "1:2: unknown key `Agent`: did you mean `agent`?"),
        ("[[rules]]\n", "1:3: unknown key `rules`: did you mean `rule`?"),
        ("[thresholds]\nreplay = '1m'", "2:1: unknown key `replay` in [thresholds]: did you mean `reply`?"),
        ("threshold = '1m'", "1:1: unknown key `threshold`: did you mean `thresholds`?"),
        // Shapes.
        ("[rule]\ncomm = 'a'\n", "1:2: `rule` is a table: expected one or more tables `[[rule]]`"),
        ("[[agent]]\n", "1:3: `agent` is a list: expected a table `[agent]`"),
        ("agent = 1", "1:1: `agent` is a number: expected a table `[agent]`"),
        ("rule = [1]", "1:9: `rule` is a number: expected one or more tables `[[rule]]`"),
        // Values.
        (
            "[thresholds]\nreply = 30",
            "2:9: `reply`: expected a duration such as \"30s\", \"5m\" or \"2h\", or \"never\", not a number",
        ),
        (
            "[thresholds]\nreply = '0s'",
            "2:9: `reply`: a threshold of nothing would flag every wait: expected a longer one, or \"never\"",
        ),
        ("[agent]\ninterval = '1ms'", "2:12: `interval`: the shortest interval is 100ms"),
        (
            "[agent]\nlisten = 'localhost'",
            "2:10: `listen`: expected an address with a port such as \"127.0.0.1:9779\", not \"localhost\"",
        ),
        (
            "[agent]\nmin_wait = true",
            "2:12: `min_wait`: expected a duration such as \"500ms\", \"30s\", \"5m\" or \"2h\", not true or false",
        ),
        ("[[rule]]\nflag = 'no'\ncomm = 'a'", "2:8: `flag`: expected true or false, not a string"),
        (
            "[[rule]]\nflag = false\ncomm = []",
            "3:8: `comm`: an empty list matches nothing: leave the key out to match everything",
        ),
        (
            "[[rule]]\nflag = false\ncomm = ''",
            "3:8: `comm`: an empty string matches nothing: leave the key out to match everything",
        ),
        (
            "[[rule]]\nflag = false\ncomm = ['é', 1]",
            "3:14: `comm`: expected a string in quotes, not a number",
        ),
        (
            "[[rule]]\nflag = false\ncomm = 'gearman-job-server'",
            "3:8: `comm`: the kernel keeps 15 bytes of a thread's name: expected \"gearman-job-ser\", not \"gearman-job-server\"",
        ),
        (
            "[[rule]]\nflag = false\nclass = 'replay'",
            "3:9: `class`: unknown class \"replay\": did you mean \"reply\"? Classes are connect, reply, send, lock, mutex, disk, fifo, orphan, quiet, dialog, request, pipe, exit, other, peer, listen, events, tty, timer, child, futex, signal, notify, ring, datagram",
        ),
        (
            "[[rule]]\nflag = false\nclass = 'slow'",
            "3:9: `class`: unknown class \"slow\": expected one of connect, reply, send, lock, mutex, disk, fifo, orphan, quiet, dialog, request, pipe, exit, other, peer, listen, events, tty, timer, child, futex, signal, notify, ring, datagram",
        ),
        (
            "[[rule]]\nflag = false\nsyscall = ['read', 'recfrom']",
            "3:20: `syscall`: unknown system call \"recfrom\": did you mean \"recvfrom\"?",
        ),
        (
            "[[rule]]\nflag = false\nsyscall = 'gettimeofyear'",
            "3:11: `syscall`: unknown system call \"gettimeofyear\": did you mean \"gettimeofday\"?",
        ),
        (
            "[[rule]]\nflag = false\nsyscall = 'brew_coffee_now'",
            "3:11: `syscall`: unknown system call \"brew_coffee_now\": expected one such as \"read\" or \"poll\"",
        ),
        (
            "[[rule]]\nflag = false\nuser = -1",
            "3:8: `user`: expected the name of a user, or a uid from 0 to 4294967295, not \"-1\"",
        ),
        (
            "[[rule]]\nflag = false\nunit = 'user.slice'",
            "3:8: `unit`: a slice has no processes of its own: expected a service or a scope",
        ),
        (
            "[[rule]]\nflag = false\ncomm = 'a[b'",
            "3:8: `comm`: \"a[b\" is not a pattern: invalid range pattern at its character 2; expected *, ?, [a-z] or [!a-z] for what may vary, and [*] for a star itself",
        ),
        ("[[rule]]\ncomm = 'a'\nnote = ' '", "3:8: `note`: expected a sentence for whoever sees the stall"),
        // Rules as a whole.
        (
            "[agent]\non_stall = ['alarm']\n",
            "2:12: `on_stall`: expected a path that begins with /, not \"alarm\"",
        ),
        (
            "[agent]\non_stall_a_minute = 0\n",
            "2:21: `on_stall_a_minute`: expected a number of runs a minute, 1 to 6000, not \"0\"",
        ),
        ("\n[[rule]]\ncomm = 'a'\n", "2:1: this rule sets nothing: expected threshold, flag or note in it"),
        (
            "[[rule]]\ncomm = 'a'\nflags = false\n",
            "3:1: unknown key `flags` in [[rule]]: did you mean `flag`?",
        ),
        (
            "[[rule]]\nflag = false\n",
            "1:1: this rule would match every wait: expected comm, unit, container, user, syscall, class, local or remote in it (comm = \"*\" if every wait is meant)",
        ),
    ] {
        assert_eq!(mistake(text), expected, "{text}");
    }
    for (text, place) in [
        ("[agent\n", "1:"),
        ("[agent]\ninterval = 1s\n", "2:"),
        (
            "[agent]\ninterval = '1s'\ninterval = '2s'\n",
            "3:1: `interval` is here a second time: expected it once",
        ),
        ("[agent]\n[agent]\n", "2:2: `agent` is here a second time: expected it once"),
        ("[thresholds]\nreply = '1 parsec'", "2:9: `reply`: expected a duration such as \"30s\""),
        ("[[rule]]\nflag = false\nremote = 'db.example'", "3:10: `remote`: expected an address such as"),
    ] {
        assert!(mistake(text).starts_with(place), "{text}: {}", mistake(text));
        assert!(!mistake(text).contains('\n'), "{text}: {}", mistake(text));
    }
    assert_eq!(
        Config::parse(b"# caf\xc3\xa9\n# caf\xe9\n").map_err(|mistake| mistake.to_string()).err().as_deref(),
        Some("2:6: this byte is not UTF-8, which TOML is written in")
    );
}

#[test]
fn only_the_default_file_may_be_missing() {
    let folder = std::env::temp_dir().join(format!("tracer-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("makes a folder");
    let file = folder.join("tracer.toml");
    let load = || Config::load(Some(&file)).map_err(|error| format!("{error:#}"));
    let missing = load().expect_err("is missing");
    std::fs::write(&file, "[[rule]]\ncomm = 'a'\nflag = false\n").expect("writes");
    let fine = load().map(|config| config.summary());
    std::fs::write(&file, "[[rule]]\ncom = 'a'\n").expect("writes");
    let wrong = load().expect_err("is wrong");
    std::fs::write(&file, vec![b'\n'; FILE_BYTES_MAX as usize + 1]).expect("writes");
    let long = load().expect_err("is too long");
    std::fs::remove_dir_all(&folder).expect("cleans up");
    let name = file.display();
    assert_eq!(
        missing,
        format!("cannot read the configuration {name}: No such file or directory (os error 2)")
    );
    assert_eq!(fine, Ok(format!("{name}: fine, 1 rule")));
    assert_eq!(wrong, format!("{name}:2:1: unknown key `com` in [[rule]]: did you mean `comm`?"));
    assert_eq!(long, format!("{name} is longer than 1 MiB: that is no configuration of tracer"));
}

proptest::proptest! {
    #[test]
    fn no_file_is_too_strange(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), text in "\\PC*") {
        // Whatever it is, it is a configuration or a mistake with a place.
        let _ = (Config::parse(&bytes).map_err(|m| m.to_string()), Config::parse(text.as_bytes()));
    }

    #[test]
    fn no_value_is_too_strange(
        key in "(comm|unit|container|user|syscall|class|local|remote|threshold|flag|note|x)",
        value in "('[^'\\n]{0,20}'|\"[\\PC&&[^\"\\\\]]{0,20}\"|-?[0-9]{1,25}|\\[\\]|\\[1, 'a'\\]|true|nan|1979-05-27|\\{a = 1\\})",
        rest in "(\ncomm = '\\*'|\nflag = false|\n\\[\\[rule\\]\\]|\n\\[thresholds\\]|é|\"|)",
    ) {
        let text = format!("# é\n[[rule]]\n{key} = {value}{rest}\n");
        if let Err(mistake) = Config::parse(text.as_bytes()) {
            assert!((1..=text.lines().count() + 1).contains(&mistake.line), "{mistake}: {text}");
            assert!(mistake.column >= 1, "{mistake}: {text}");
        }
    }
}

/// A rule for each of so many programs, units or users, and a few that name none.
fn many_rules(number: usize) -> Config {
    let mut text = String::new();
    for at in 0..number {
        let what = match at % 4 {
            0 => format!("comm = [\"php{at}\", \"php{at}\"]"),
            1 => format!("unit = \"report{at}\""),
            2 => format!("user = [\"user{at}\", {at}]"),
            _ => format!("comm = \"php{at}\"\nclass = \"reply\""),
        };
        let _ = writeln!(text, "[[rule]]\n{what}\nthreshold = \"{}s\"", at + 1);
    }
    text += "[[rule]]\ncomm = \"ph*\"\nnote = \"any\"\n[[rule]]\nclass = \"connect\"\nflag = false\n";
    config(&text)
}

#[test]
fn of_many_rules_those_are_looked_at_that_name_the_wait() {
    crate::util::growth::at_each_size(|number| {
        let rules = many_rules(number);
        let of = |comm, unit, user, uid| Subject { comm, unit, user, uid, ..subject() };
        for (subject, expected) in [
            (of("php8", None, None, 9_999), vec![8, number]),
            (of("x", Some("report9.service"), None, 9_999), vec![9, number]),
            (of("x", None, Some("user10"), 10), vec![10, number]),
            (of("x", None, None, 14), vec![14, number]),
            (of("php11", Some("report5.service"), None, 9_999), vec![5, 11, number]),
            (
                Subject { judgement: Class::Connect.into(), ..of("x", None, None, 9_999) },
                vec![number, number + 1],
            ),
        ] {
            assert_eq!(rules.index.candidates(&subject), expected, "{subject:?}");
        }
    });
}

#[test]
fn all_rules_that_match_are_looked_at() {
    let rules = many_rules(40);
    let names = |kind: &str| (0..44).map(|at| format!("{kind}{at}")).collect::<Vec<_>>();
    let (comms, units, users) = (names("php"), names("report"), names("user"));
    let units: Vec<String> = units.into_iter().map(|unit| unit + ".service").collect();
    for at in 0..44 * 44 {
        let (first, second) = (at % 44, at / 44);
        for class in [Class::Reply, Class::Connect] {
            let subject = Subject {
                comm: &comms[first],
                unit: Some(&units[second]),
                user: Some(&users[(first + second) % 44]),
                uid: (first * second % 44) as u32,
                judgement: class.into(),
                ..subject()
            };
            let all: Vec<usize> =
                (0..rules.rules.len()).filter(|at| rules.rules[*at].matches(&subject)).collect();
            let candidates = rules.index.candidates(&subject);
            let found: Vec<usize> =
                candidates.into_iter().filter(|at| rules.rules[*at].matches(&subject)).collect();
            assert_eq!(found, all, "{subject:?}");
        }
    }
}

#[test]
fn each_reader_of_a_status_gets_its_own() {
    use super::cli::ExitStatusFor::{Nagios, Npd, Plain};
    let levels = [Level::Stuck, Level::Doubtful, Level::Idle];
    for (whose, found, failed) in [(Plain, [3, 0, 0], 1), (Nagios, [2, 1, 0], 3), (Npd, [1, 0, 0], 2)] {
        assert_eq!((levels.map(|level| whose.found(level)), whose.failed()), (found, failed), "{whose:?}");
    }
}
