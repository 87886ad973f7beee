//! What keeps the agent from seeing, and since when? Pure: what is reported during a look goes in, what is to be said comes out.
//!
//! Whatever cuts something short during a look calls [`Blindness::report`] with its cause; the look ends with
//! [`Blindness::settle`].

use std::time::Duration;

use crate::util::human;

/// It is over when it was not reported for so long: what comes and goes with each look is told of once.
const OVER_AFTER: Duration = Duration::from_secs(60);

macro_rules! causes {
    ($($name:ident = $label:literal, $means:literal;)+) => {
        /// What may keep the agent from seeing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Cause {
            $(#[doc = $means] $name,)+
        }

        impl Cause {
            /// Every one.
            pub const ALL: &[Cause] = &[$(Cause::$name),+];

            /// Its name in metrics.
            pub fn label(self) -> &'static str {
                match self { $(Cause::$name => $label),+ }
            }

            /// What it means, a sentence.
            pub fn means(self) -> &'static str {
                match self { $(Cause::$name => $means),+ }
            }
        }
    };
}

causes! {
    Reads = "reads", "So many reads of processes hang that others were not tried. Their waits may be judged wrongly, or not at all.";
    Peers = "peers", "The walk over all open files does not finish, so it is not known who is at the other end of some waits.";
    Readers = "readers", "The processes that read for the agent end before they answer, so waits are judged with less evidence.";
    LookCut = "look_cut", "A look took too long and was cut short, so some waits are examined later than they should be.";
    Series = "series", "More stalls are open than have a series, so alerts on `tracer_stall_seconds` miss some of them.";
    Canary = "canary", "The agent does not find a wait of its own, or mistakes it for another. It may not find other waits either, and `/-/healthy` \
         returns 503.";
}

const CAUSES: usize = Cause::ALL.len();

/// A time for which something kept the agent from seeing, nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug)]
struct Spell {
    began_ns: u64,
    /// When it was last reported.
    last_ns: u64,
}

/// What keeps the agent from seeing.
#[derive(Debug, Default)]
pub struct Blindness {
    /// Reported since the last look.
    reported: [bool; CAUSES],
    spells: [Option<Spell>; CAUSES],
}

impl Blindness {
    /// Something was cut short or left out in this look.
    pub fn report(&mut self, cause: Cause) {
        self.reported[cause as usize] = true;
    }

    /// Whether it is so, or was a moment ago.
    pub fn is_so(&self, cause: Cause) -> bool {
        self.spells[cause as usize].is_some()
    }

    /// Ends a look. What has begun or ended with it is to be said, a line each.
    pub fn settle(&mut self, now_ns: u64) -> Vec<String> {
        let mut said = Vec::new();
        for cause in Cause::ALL {
            let (reported, spell) = (&mut self.reported[*cause as usize], &mut self.spells[*cause as usize]);
            match (std::mem::take(reported), &mut *spell) {
                (true, Some(spell)) => spell.last_ns = now_ns,
                (true, None) => {
                    *spell = Some(Spell { began_ns: now_ns, last_ns: now_ns });
                    said.push(format!("does not see everything ({}): {}", cause.label(), cause.means()));
                }
                (false, Some(Spell { began_ns, last_ns })) => {
                    if now_ns.saturating_sub(*last_ns) >= OVER_AFTER.as_nanos() as u64 {
                        let lasted = Duration::from_nanos(last_ns.saturating_sub(*began_ns));
                        said.push(format!("sees again ({}), after {}", cause.label(), human::age(lasted)));
                        *spell = None;
                    }
                }
                (false, None) => {}
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// At which seconds something is said, and at which it is so, where it is reported at these.
    fn spells(reported: &[u64], until: u64) -> (Vec<u64>, Vec<u64>) {
        let mut blind = Blindness::default();
        let (mut said, mut so) = (Vec::new(), Vec::new());
        for second in 0..until {
            if reported.contains(&second) {
                blind.report(Cause::Series);
            }
            said.extend(blind.settle(second * SECOND).iter().map(|_| second));
            so.extend(blind.is_so(Cause::Series).then_some(second));
        }
        (said, so)
    }

    #[test]
    fn it_is_said_when_it_begins_and_when_it_has_been_over_for_a_minute() {
        assert_eq!(spells(&[], 100), (vec![], vec![]));
        assert_eq!(spells(&[5], 100), (vec![5, 65], (5..65).collect()));
        // It comes and goes: one spell.
        assert_eq!(spells(&[5, 20, 70, 71], 200), (vec![5, 131], (5..131).collect()));
        assert_eq!(spells(&[5, 80], 200).0, [5, 65, 80, 140]);
    }

    #[test]
    fn causes_are_apart() {
        let mut blind = Blindness::default();
        blind.report(Cause::Reads);
        let said = blind.settle(SECOND);
        assert!(said.len() == 1 && said[0].starts_with("does not see everything (reads): "), "{said:?}");
        blind.report(Cause::Peers);
        assert_eq!(blind.settle(41 * SECOND).len(), 1);
        assert_eq!(blind.settle(62 * SECOND), ["sees again (reads), after 0.0s"]);
        assert!(blind.is_so(Cause::Peers) && !blind.is_so(Cause::Reads) && !blind.is_so(Cause::LookCut));
    }
}
