//! A bounded table that is shared fairly: whoever has most entries gives way first, with the one it has used longest ago, so that
//! a quiet owner's stay. Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// Values by key, each of an owner.
#[derive(Debug)]
pub struct Fair<O, K, V> {
    most: usize,
    entries: HashMap<K, FairEntry<O, V>>,
    /// The keys of each owner, those used longest ago first.
    owners: HashMap<O, BTreeMap<u64, K>>,
    /// Counts uses: the time that passes here.
    uses: u64,
}

#[derive(Debug)]
struct FairEntry<O, V> {
    owner: O,
    used: u64,
    value: V,
}

impl<O: Clone + Eq + Hash, K: Clone + Eq + Hash, V> Fair<O, K, V> {
    /// An empty table of at most so many entries.
    pub fn new(most: usize) -> Self {
        Self { most, entries: HashMap::new(), owners: HashMap::new(), uses: 0 }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the next new key takes another's place.
    pub fn is_full(&self) -> bool {
        self.len() >= self.most
    }

    /// A value.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// A value that is used now, to change.
    pub fn use_mut(&mut self, key: &K) -> Option<&mut V> {
        let entry = self.entries.get_mut(key)?;
        self.uses += 1;
        if let Some(keys) = self.owners.get_mut(&entry.owner)
            && let Some(key) = keys.remove(&entry.used)
        {
            keys.insert(self.uses, key);
        }
        entry.used = self.uses;
        Some(&mut entry.value)
    }

    /// Puts a value there, used now, in the place of one with the same key. What gives way to a new key, if something has to.
    pub fn insert(&mut self, owner: O, key: K, value: V) -> Option<(K, V)> {
        self.remove(&key);
        self.uses += 1;
        self.owners.entry(owner.clone()).or_default().insert(self.uses, key.clone());
        self.entries.insert(key, FairEntry { owner, used: self.uses, value });
        if self.len() > self.most { self.make_room() } else { None }
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let FairEntry { owner, used, value } = self.entries.remove(key)?;
        if let Some(keys) = self.owners.get_mut(&owner) {
            keys.remove(&used);
            if keys.is_empty() {
                self.owners.remove(&owner);
            }
        }
        Some(value)
    }

    /// Keeps some of the entries.
    pub fn retain(&mut self, keep: impl Fn(&K, &V) -> bool) {
        let out: Vec<K> = self
            .entries
            .iter()
            .filter(|(key, entry)| !keep(key, &entry.value))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &out {
            self.remove(key);
        }
    }

    /// Everything, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.value))
    }

    /// Who has most loses what they have used longest ago; among equals it is what has been used longest ago of all.
    fn make_room(&mut self) -> Option<(K, V)> {
        let share = |keys: &&BTreeMap<u64, K>| (keys.len(), Reverse(keys.keys().next().copied()));
        let key = self.owners.values().max_by_key(share)?.values().next()?.clone();
        let value = self.remove(&key)?;
        Some((key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(table: &Fair<&'static str, u32, ()>) -> Vec<u32> {
        let mut keys: Vec<u32> = table.iter().map(|(key, ())| *key).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn who_has_most_gives_way_with_their_own_oldest() {
        let mut table = Fair::new(4);
        assert_eq!(table.insert("quiet", 0, ()), None);
        for key in 1..=3 {
            assert_eq!(table.insert("loud", key, ()), None);
        }
        assert!(table.is_full());
        for key in 4..1000 {
            assert_eq!(table.insert("loud", key, ()), Some((key - 3, ())));
        }
        assert_eq!(keys(&table), [0, 997, 998, 999], "the quiet one's stays, old as it is");
        assert_eq!(table.insert("another", 5000, ()), Some((997, ())));
        assert_eq!(table.insert("quiet", 5001, ()), Some((0, ())), "now it has as many");
        assert_eq!(keys(&table), [998, 999, 5000, 5001]);
    }

    #[test]
    fn among_equals_what_was_used_longest_ago_goes() {
        let mut table = Fair::new(3);
        for (owner, key) in [("a", 1), ("b", 2), ("c", 3)] {
            table.insert(owner, key, ());
        }
        assert_eq!(table.use_mut(&1), Some(&mut ()));
        assert_eq!(table.insert("d", 4, ()), Some((2, ())));
        assert_eq!(table.use_mut(&2), None);
        assert_eq!(keys(&table), [1, 3, 4]);
    }

    #[test]
    fn a_key_has_one_value_and_one_owner() {
        let mut table = Fair::new(2);
        table.insert("a", 1, "one");
        assert_eq!(table.insert("b", 1, "two"), None);
        assert_eq!((table.get(&1), table.len()), (Some(&"two"), 1));
        table.insert("b", 2, "three");
        assert_eq!(table.insert("a", 3, "four"), Some((1, "two")), "it was b's, who had most");
        assert_eq!(table.remove(&3), Some("four"));
        assert_eq!(table.remove(&3), None);
        table.retain(|key, _| *key != 2);
        assert_eq!((table.len(), table.owners.len()), (0, 0));
    }

    proptest::proptest! {
        /// However they come: it is never over its bound, its two halves agree, and nobody loses to one who has more.
        #[test]
        fn the_share_is_fair(steps in proptest::collection::vec((0_u8..4, 0_u32..40, 0_u8..4), 0..200)) {
            let mut table = Fair::new(8);
            for (owner, key, step) in steps {
                if step == 0 {
                    table.remove(&key);
                    continue;
                }
                let before: HashMap<u8, usize> =
                    table.owners.iter().map(|(owner, keys)| (*owner, keys.len())).collect();
                let known = table.entries.get(&key).map(|entry| entry.owner);
                let owners: HashMap<u32, u8> =
                    table.entries.iter().map(|(key, entry)| (*key, entry.owner)).collect();
                if let Some((lost, _)) = table.insert(owner, key, ()) {
                    let loser = owners.get(&lost).copied().unwrap_or(owner);
                    let of = |who: u8| before.get(&who).copied().unwrap_or(0) + usize::from(who == owner);
                    proptest::prop_assert!(known.is_none());
                    proptest::prop_assert!((0..4).all(|other| of(other) <= of(loser)));
                }
                let sum: usize = table.owners.values().map(BTreeMap::len).sum();
                proptest::prop_assert!(table.len() <= 8 && sum == table.len());
            }
        }
    }
}
