//! Does `ps` survive processes that start and end while it looks?

use std::time::{Duration, Instant};

use tests::{Waiter, alone, ps};

#[test]
fn a_fork_storm_is_no_error() {
    let _alone = alone();
    let _storms = [Waiter::start("storm"), Waiter::start("storm")];
    let steady = Waiter::start("read-pipe");
    let begin = Instant::now();
    let mut runs = 0;
    while begin.elapsed() < Duration::from_secs(2) || runs < 5 {
        // `ps` panics unless tracer exits 0 and every line is an object.
        let snapshot = ps(&["--all", "--min-age", "0s"]);
        assert_eq!(snapshot.row(steady.tid())["syscall"], "read");
        runs += 1;
    }
    eprintln!("{runs} runs");
}
