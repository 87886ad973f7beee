//! Which tests may run at the same time? Those that load the machine exclude those that measure how soon something happens.
//!
//! The test harness runs tests in parallel. A test that starts ten thousand threads on two cores would make
//! another's "within 3.1 seconds" a matter of luck, so each says what company it can have, and is given its turn.

use std::fmt;
use std::io::Write;
use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use crate::slowness;

/// Tests that run beside each other, and beside no others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Company {
    /// They measure how soon something happens, and leave the machine time.
    Shared,
    /// They leave the machine time, and need most of it for what they watch.
    Few,
    /// They have a crowd of a thousand.
    Crowds,
    /// A test that loads the machine or changes it, or has processes that hang where whoever reads them hangs as well.
    Alone,
}

impl Company {
    const ALL: [Self; 4] = [Self::Shared, Self::Few, Self::Crowds, Self::Alone];

    /// Tests at a time.
    const fn at_a_time(self, is_slow: bool) -> usize {
        match self {
            Self::Shared => 12,
            // An emulated machine has no time to leave.
            _ if is_slow => 1,
            Self::Few => 4,
            Self::Crowds => 3,
            Self::Alone => 1,
        }
    }
}

/// Tests more at a time that wait for minutes.
const LONG: usize = 4;

/// Who runs now, and who wants to.
struct Machine {
    is_slow: bool,
    /// Whose turn it is, since when, and how many tests have it.
    now: Option<(Company, Instant, usize)>,
    waiting: [usize; Company::ALL.len()],
    took: [Duration; Company::ALL.len()],
    /// How long each test was alone.
    alone: Vec<(String, Duration)>,
}

static MACHINE: Mutex<Option<Machine>> = Mutex::new(None);
static CHANGED: Condvar = Condvar::new();

/// Held by a test as long as it runs.
#[must_use]
pub struct Turn {
    company: Company,
    since: Instant,
}

/// Beside others that measure how soon something happens, and not too many of them.
pub fn shared() -> Turn {
    Turn::wait(Company::Shared)
}

/// The same for a test that waits for minutes: it begins at once, or it would be the last to end.
pub fn shared_for_minutes() -> Turn {
    Turn::wait_for(Company::Shared, LONG)
}

/// Beside three others at most that leave the machine time as well.
pub fn with_few() -> Turn {
    Turn::wait(Company::Few)
}

/// Beside other crowds.
pub fn with_crowds() -> Turn {
    Turn::wait(Company::Crowds)
}

/// Beside nobody. What this costs is said at the end.
pub fn alone() -> Turn {
    Turn::wait(Company::Alone)
}

impl Machine {
    fn new(is_slow: bool) -> Self {
        Self { is_slow, now: None, waiting: Default::default(), took: Default::default(), alone: Vec::new() }
    }

    /// Whether one more test of this company can begin, or so many more than usual. A company that has its turn keeps it until nobody
    /// of it waits: to wait for the longest of them costs most.
    fn has_room_for(&self, company: Company, more: usize) -> bool {
        match self.now {
            Some((now, _, count)) => now == company && count < company.at_a_time(self.is_slow) + more,
            None => self.waiting[..company as usize].iter().all(|count| *count == 0),
        }
    }

    fn begin(&mut self, company: Company) {
        let (since, count) = self.now.map_or((Instant::now(), 0), |(_, since, count)| (since, count));
        self.now = Some((company, since, count + 1));
    }

    fn end(&mut self) {
        let Some((company, since, count)) = self.now else { return };
        self.now = (count > 1).then_some((company, since, count - 1));
        if self.now.is_none() {
            self.took[company as usize] += since.elapsed();
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "turns:")?;
        for company in Company::ALL {
            write!(f, " {company:?} {:.0} s", self.took[company as usize].as_secs_f64())?;
        }
        let mut alone: Vec<_> = self.alone.iter().collect();
        alone.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        for (name, took) in alone {
            write!(f, "\nalone: {:4.1} s {name}", took.as_secs_f64())?;
        }
        writeln!(f)
    }
}

impl Turn {
    fn wait(company: Company) -> Self {
        Self::wait_for(company, 0)
    }

    fn wait_for(company: Company, more: usize) -> Self {
        static REPORT: Once = Once::new();
        REPORT.call_once(|| {
            // SAFETY: `report` is an extern "C" function without arguments that does not unwind.
            unsafe { libc::atexit(report) };
        });
        let mut guard = machine();
        guard.get_or_insert_with(|| Machine::new(slowness() > 1)).waiting[company as usize] += 1;
        while guard.as_ref().is_some_and(|machine| !machine.has_room_for(company, more)) {
            guard = CHANGED.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(machine) = guard.as_mut() {
            machine.waiting[company as usize] -= 1;
            machine.begin(company);
        }
        Self { company, since: Instant::now() }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(machine) = machine().as_mut() {
            machine.end();
            if self.company == Company::Alone {
                let thread = std::thread::current();
                machine.alone.push((thread.name().unwrap_or("?").to_owned(), self.since.elapsed()));
            }
        }
        CHANGED.notify_all();
    }
}

/// The harness leaves by exit(). Not by `eprintln`, which may panic.
extern "C" fn report() {
    if let Some(machine) = machine().as_ref() {
        let _ = write!(std::io::stderr(), "{machine}");
    }
}

/// Another test's failure must not fail this one.
fn machine() -> MutexGuard<'static, Option<Machine>> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which so many of a company run, and these wait.
    fn machine(now: Option<(Company, usize)>, waiting: &[Company], is_slow: bool) -> Machine {
        let mut machine = Machine::new(is_slow);
        if let Some((company, count)) = now {
            (0..count).for_each(|_| machine.begin(company));
        }
        waiting.iter().for_each(|company| machine.waiting[*company as usize] += 1);
        machine
    }

    #[test]
    fn a_company_has_its_turn_until_nobody_of_it_waits() {
        use Company::{Alone, Crowds, Few, Shared};
        let table = [
            // Nobody runs: the first company that waits is the next.
            (None, &[Shared][..], Shared, true),
            (None, &[Alone], Alone, true),
            (None, &[Shared, Alone], Alone, false),
            (None, &[Few, Crowds], Crowds, false),
            (None, &[Crowds, Alone], Crowds, true),
            // Others run: only those of the same company, while there is room.
            (Some((Shared, 11)), &[Shared], Shared, true),
            (Some((Shared, 12)), &[Shared], Shared, false),
            (Some((Shared, 1)), &[Crowds], Crowds, false),
            (Some((Crowds, 2)), &[Crowds], Crowds, true),
            (Some((Crowds, 3)), &[Crowds], Crowds, false),
            // It goes on although another company would come first.
            (Some((Crowds, 1)), &[Shared, Crowds], Crowds, true),
            (Some((Crowds, 1)), &[Shared, Crowds], Shared, false),
            (Some((Alone, 1)), &[Alone], Alone, false),
            (Some((Alone, 1)), &[Shared], Shared, false),
        ];
        for (now, waiting, who, expected) in table {
            let machine = machine(now, waiting, false);
            assert_eq!(machine.has_room_for(who, 0), expected, "{who:?}: {now:?} and {waiting:?}");
        }
        assert!(!machine(Some((Few, 1)), &[Few], true).has_room_for(Few, 0), "an emulated machine");
        assert!(machine(Some((Shared, 1)), &[], true).has_room_for(Shared, 0));
        assert!(machine(Some((Shared, 12)), &[Shared], false).has_room_for(Shared, 1));
    }

    #[test]
    fn the_last_one_ends_the_turn() {
        let mut machine = machine(Some((Company::Crowds, 2)), &[], false);
        machine.end();
        assert!(!machine.has_room_for(Company::Alone, 0));
        machine.end();
        assert!(machine.has_room_for(Company::Alone, 0));
        machine.alone =
            vec![("a::b".into(), Duration::from_secs(2)), ("c::d".into(), Duration::from_secs(31))];
        let expected =
            "turns: Shared 0 s Few 0 s Crowds 0 s Alone 0 s\nalone: 31.0 s c::d\nalone:  2.0 s a::b\n";
        assert_eq!(machine.to_string(), expected);
    }
}
