//! What is said of an incident as a whole: how many wait, who they are and where in their programs, and on whose account. Pure.

use std::{cmp::Reverse, collections::HashSet, time::Duration};

use hashbrown::HashMap;
use jiff::Timestamp;

use crate::{
    assess::stall::Stall,
    model::cgroup::Owner,
    util::human,
    wire::culprit::{CulpritKind, CulpritObject},
    wire::incident::{IncidentObject, SharedStackObject},
};

/// Functions that tell one place in a program from others.
const PLACE_FRAMES: usize = 3;
/// Places of an incident that are told.
const PLACES_MAX: usize = 3;

/// An incident of these stalls.
pub fn incident_of(
    id: String,
    opened: Timestamp,
    culprit: CulpritObject,
    stalls: &[&Stall],
) -> IncidentObject {
    let processes: HashSet<_> = stalls.iter().map(|stall| stall.wait.thread.process).collect();
    let mut units: HashMap<&str, usize> = HashMap::new();
    for home in stalls.iter().filter_map(|stall| stall.who.container.as_ref().or(stall.who.unit.as_ref())) {
        *units.entry(home).or_default() += 1;
    }
    IncidentObject {
        id,
        opened,
        closed: None,
        name: name(&culprit, stalls),
        culprit,
        stalls: stalls.len(),
        processes: processes.len(),
        units: units.into_iter().map(|(home, number)| (home.to_owned(), number)).collect(),
        stacks: shared_stacks(stalls),
        oldest: Duration::ZERO,
        owner: most_common_owner(stalls),
    }
}

/// A culprit's name; who has nobody to blame but itself is told of by its own.
fn name(culprit: &CulpritObject, stalls: &[&Stall]) -> String {
    match (culprit.kind, stalls) {
        (CulpritKind::Itself, [stall, ..]) => {
            format!("{} (pid {})", human::clean(&stall.wait.comm), stall.wait.thread.process.pid)
        }
        _ => culprit.to_string(),
    }
}

/// The places in their programs in which most of these sleep.
fn shared_stacks(stalls: &[&Stall]) -> Vec<SharedStackObject> {
    let mut places: HashMap<(&str, &[String]), usize> = HashMap::new();
    for stall in stalls.iter().filter(|stall| !stall.stack.is_empty()) {
        let stack = stall.stack.get(..PLACE_FRAMES).unwrap_or(&stall.stack);
        *places.entry((stall.wait.comm.as_str(), stack)).or_default() += 1;
    }
    let mut places: Vec<_> = places.into_iter().collect();
    places.sort_unstable_by_key(|(place, number)| (Reverse(*number), *place));
    let object = |((comm, stack), stalls): ((&str, &[String]), usize)| SharedStackObject {
        comm: comm.to_owned(),
        stack: stack.to_vec(),
        stalls,
    };
    places.into_iter().take(PLACES_MAX).map(object).collect()
}

/// On whose account most of these wait.
fn most_common_owner(stalls: &[&Stall]) -> Option<Owner> {
    let mut owners: HashMap<Result<&Owner, u32>, usize> = HashMap::new();
    for stall in stalls {
        *owners.entry(stall.share()).or_default() += 1;
    }
    let most = owners.into_iter().max_by_key(|(owner, number)| (*number, Reverse(*owner)));
    most.map(|(owner, _)| owner.map_or_else(Owner::User, Owner::clone))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{history::samples::flagged, resolve::process::ProcessMeta};

    #[test]
    fn stalls_of_one_program_in_the_same_functions_are_told_together() {
        let in_functions = |pid, stack: &[&str]| Stall {
            stack: stack.iter().map(|name| (*name).to_owned()).collect(),
            ..flagged(pid, 10)
        };
        let mut all: Vec<Stall> =
            (1..21).map(|pid| in_functions(pid, &["recv", "get pool.py:7", "page", "main"])).collect();
        all.push(in_functions(30, &["recv", "get pool.py:7", "page", "other"]));
        all.extend((40..43).map(|pid| in_functions(pid, &[])));
        all.extend((50..54).map(|pid| in_functions(pid, &["f", "g", &format!("h{pid}")])));
        let mut other = in_functions(60, &["recv", "get pool.py:7", "page"]);
        other.wait.comm = "else".into();
        all.push(other);
        let told = shared_stacks(&all.iter().collect::<Vec<_>>());
        let [most, others @ ..] = &told[..] else { panic!("none") };
        assert_eq!((most.stack.join(" "), most.stalls), ("recv get pool.py:7 page".into(), 21));
        assert_eq!(others.iter().map(|of| of.stalls).collect::<Vec<_>>(), [1, 1]);
        assert!(shared_stacks(&[]).is_empty());
    }

    #[test]
    fn one_is_on_the_account_of_most_who_wait() {
        let stalls = [1, 2, 3].map(|pid| flagged(pid, 10));
        let [mut one, other, third] = stalls;
        one.who = std::sync::Arc::new(ProcessMeta { uid: Some(9), account: None, ..(*one.who).clone() });
        let owner = most_common_owner(&[&one, &other, &third]);
        assert_eq!(owner, Some(other.owner()));
        assert_eq!(most_common_owner(&[&one]), Some(Owner::User(9)));
        assert_eq!(most_common_owner(&[]), None);
    }
}
