//! What was found out before, by what it was found out about: a map of bounded bytes, spread over shards.
//! Hides eviction. INVARIANT: it never holds more than its bytes, as its user weighs them; with none it holds nothing.
//! INVARIANT: a cache never changes an answer. That is its user's to keep: what is kept depends on nothing but its key.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;

/// Threads that ask about different things seldom meet.
const SHARDS: usize = 16;

/// What is remembered of principals at most, in bytes, unless the configuration says otherwise. The feature `uncached` is for the
/// tests, which all pass with it and without.
pub const BYTES_MAX_DEFAULT: usize = if cfg!(feature = "uncached") { 0 } else { 64 * 1024 * 1024 };

pub struct Cache<K, V> {
    shards: [Mutex<Shard<K, V>>; SHARDS],
    generation_bytes_max: usize,
    hasher: RandomState,
}

/// Two generations: at the end of the younger one the elder goes, but for what was asked for meanwhile.
struct Shard<K, V> {
    young: HashTable<Entry<K, V>>,
    old: HashTable<Entry<K, V>>,
    young_bytes: usize,
}

struct Entry<K, V> {
    /// of the key, which is hashed once however often it is looked for
    hash: u64,
    key: K,
    value: V,
    bytes: usize,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// Keeps as much as `bytes_max`, of which a single entry may be a thirty-second part.
    pub fn new(bytes_max: usize) -> Cache<K, V> {
        let shard = |_| Mutex::new(Shard { young: HashTable::new(), old: HashTable::new(), young_bytes: 0 });
        let generation_bytes_max = bytes_max / SHARDS / 2;
        Cache { shards: std::array::from_fn(shard), generation_bytes_max, hasher: RandomState::new() }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        let hash = self.hasher.hash_one(key);
        let is_it = |entry: &Entry<K, V>| entry.key == *key;
        let mut shard = self.shard(hash)?;
        if let Some(entry) = shard.young.find(hash, is_it) {
            return Some(entry.value.clone());
        }
        let (entry, _) = shard.old.find_entry(hash, is_it).ok()?.remove();
        let value = entry.value.clone();
        self.put(&mut shard, entry);
        Some(value)
    }

    /// Keeps what takes this many bytes, its key included, in the place of what was kept for the key.
    pub fn keep(&self, key: K, value: V, bytes: usize) {
        let entry = Entry { hash: self.hasher.hash_one(&key), key, value, bytes };
        let Some(mut shard) = self.shard(entry.hash) else { return };
        let is_it = |known: &Entry<K, V>| known.key == entry.key;
        if let Ok(known) = shard.old.find_entry(entry.hash, is_it) {
            known.remove();
        }
        if let Ok(known) = shard.young.find_entry(entry.hash, is_it) {
            let (known, _) = known.remove();
            shard.young_bytes -= known.bytes;
        }
        if bytes <= self.generation_bytes_max {
            self.put(&mut shard, entry);
        }
    }

    /// Of a key that the younger generation has not.
    fn put(&self, shard: &mut Shard<K, V>, entry: Entry<K, V>) {
        if shard.young_bytes + entry.bytes > self.generation_bytes_max {
            shard.old = std::mem::take(&mut shard.young);
            shard.young_bytes = 0;
        }
        shard.young_bytes += entry.bytes;
        shard.young.insert_unique(entry.hash, entry, |known| known.hash);
    }

    fn shard(&self, hash: u64) -> Option<MutexGuard<'_, Shard<K, V>>> {
        // by bits that the table in the shard does not go by
        let shard = self.shards.get(usize::try_from(hash >> 32).unwrap_or_default() % SHARDS)?;
        // a thread that panicked while it held the lock left whole entries, since they are put in whole
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::{Cache, HashTable};
    use proptest::prelude::*;

    #[test]
    fn without_bytes_nothing_is_kept() {
        let cache = Cache::new(0);
        cache.keep(1, "one", 1);
        assert_eq!(cache.get(&1), None);
    }

    #[test]
    fn what_is_asked_for_stays_longest() {
        let cache = Cache::new(16 * 2 * 10);
        cache.keep(0, 0, 1);
        for other in 1..1_000 {
            cache.keep(other, other, 1);
            assert_eq!(cache.get(&0), Some(0));
        }
        assert_eq!(cache.get(&1), None);
    }

    proptest! {
        #[test]
        fn what_is_kept_is_the_last_that_was_put_in_and_never_too_much(
            puts in proptest::collection::vec((0_u8..20, any::<u16>(), 1_usize..200), 0..60),
        ) {
            let cache = Cache::new(16 * 300);
            let mut last = std::collections::HashMap::new();
            for (key, value, bytes) in puts {
                cache.keep(key, value, bytes);
                last.insert(key, value);
                for (key, value) in &last {
                    prop_assert!(cache.get(key).is_none_or(|kept| kept == *value));
                }
                for shard in &cache.shards {
                    let shard = shard.lock().unwrap();
                    let bytes = |entries: &HashTable<super::Entry<u8, u16>>| entries.iter().map(|entry| entry.bytes).sum::<usize>();
                    prop_assert!(bytes(&shard.young) == shard.young_bytes && bytes(&shard.young) <= 150);
                    prop_assert!(bytes(&shard.old) <= 150);
                }
            }
        }
    }
}
