//! Which rules can be about a wait? Pure. Of a thousand rules most name a program, a unit or a user that is not this wait's: those
//! are not even looked at.

use std::collections::HashMap;

use super::rule::{Names, Rule, Subject};
use crate::model::class::Class;

/// Rules by what one of their conditions demands, each in one place of these.
#[derive(Debug, Default)]
pub struct Index {
    by_comm: HashMap<String, Vec<usize>>,
    by_unit: HashMap<String, Vec<usize>>,
    by_user: HashMap<String, Vec<usize>>,
    by_uid: HashMap<u32, Vec<usize>>,
    by_class: HashMap<Class, Vec<usize>>,
    /// The rest.
    others: Vec<usize>,
}

impl Index {
    /// Of these rules.
    pub fn of(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (at, rule) in rules.iter().enumerate() {
            match rule.names() {
                Names::Comms(comms) => {
                    comms.into_iter().for_each(|comm| add(&mut index.by_comm, comm.to_owned(), at));
                }
                Names::Units(units) => {
                    units.into_iter().for_each(|unit| add(&mut index.by_unit, unit.to_owned(), at));
                }
                Names::Users(users, uids) => {
                    users.into_iter().for_each(|user| add(&mut index.by_user, user.to_owned(), at));
                    uids.into_iter().for_each(|uid| add(&mut index.by_uid, uid, at));
                }
                Names::Classes(classes) => {
                    classes.iter().for_each(|class| add(&mut index.by_class, *class, at));
                }
                Names::Nothing => index.others.push(at),
            }
        }
        index
    }

    /// The rules that can be about this wait, in their order: all that are, and perhaps others.
    pub fn candidates(&self, subject: &Subject) -> Vec<usize> {
        let Subject { comm, unit, uid, user, judgement, .. } = *subject;
        let found = [
            self.by_comm.get(comm),
            unit.and_then(|unit| self.by_unit.get(unit)),
            user.and_then(|user| self.by_user.get(user)),
            self.by_uid.get(&uid),
            self.by_class.get(&judgement.class),
            Some(&self.others),
        ];
        let mut rules: Vec<usize> = found.into_iter().flatten().flatten().copied().collect();
        rules.sort_unstable();
        // A rule may name both the user and its number.
        rules.dedup();
        rules
    }
}

fn add<K: std::hash::Hash + Eq>(rules: &mut HashMap<K, Vec<usize>>, key: K, at: usize) {
    let rules = rules.entry(key).or_default();
    // A list may name the same twice.
    if rules.last() != Some(&at) {
        rules.push(at);
    }
}
