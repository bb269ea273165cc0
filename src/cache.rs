//! What was found out before, by what it was found out about: a map of bounded bytes, spread over shards.
//! Hides eviction. INVARIANT: it never holds more than its bytes, as its user weighs them; with none it holds nothing.
//! INVARIANT: a cache never changes an answer. That is its user's to keep: what is kept depends on nothing but its key.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    young: Entries<K, V>,
    old: Entries<K, V>,
    young_bytes: usize,
}

/// Each with its bytes.
type Entries<K, V> = HashMap<K, (V, usize), RandomState>;

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// Keeps as much as `bytes_max`, of which a single entry may be a thirty-second part.
    pub fn new(bytes_max: usize) -> Cache<K, V> {
        let hasher = RandomState::new();
        let entries = || HashMap::with_hasher(hasher.clone());
        let shard = |_| Mutex::new(Shard { young: entries(), old: entries(), young_bytes: 0 });
        let generation_bytes_max = bytes_max / SHARDS / 2;
        Cache { shards: std::array::from_fn(shard), generation_bytes_max, hasher: hasher.clone() }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        let mut shard = self.shard(key)?;
        if let Some((value, _)) = shard.young.get(key) {
            return Some(value.clone());
        }
        let (key, (value, bytes)) = shard.old.remove_entry(key)?;
        self.put(&mut shard, key, value.clone(), bytes);
        Some(value)
    }

    /// Keeps what takes this many bytes, its key included, in the place of what was kept for the key.
    pub fn keep(&self, key: K, value: V, bytes: usize) {
        let Some(mut shard) = self.shard(&key) else { return };
        shard.old.remove(&key);
        let replaced = shard.young.remove(&key).map_or(0, |(_, bytes)| bytes);
        shard.young_bytes -= replaced;
        if bytes <= self.generation_bytes_max {
            self.put(&mut shard, key, value, bytes);
        }
    }

    /// Of a key that the younger generation has not.
    fn put(&self, shard: &mut Shard<K, V>, key: K, value: V, bytes: usize) {
        if shard.young_bytes + bytes > self.generation_bytes_max {
            let young = HashMap::with_hasher(self.hasher.clone());
            shard.old = std::mem::replace(&mut shard.young, young);
            shard.young_bytes = 0;
        }
        shard.young.insert(key, (value, bytes));
        shard.young_bytes += bytes;
    }

    fn shard(&self, key: &K) -> Option<MutexGuard<'_, Shard<K, V>>> {
        // the high half, since the map in the shard goes by the low one
        let hash = self.hasher.hash_one(key) >> 32;
        let shard = self.shards.get(usize::try_from(hash).unwrap_or_default() % SHARDS)?;
        // a thread that panicked while it held the lock left whole entries, since they are put in whole
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::Cache;
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
                    let bytes = |entries: &super::Entries<u8, u16>| entries.values().map(|(_, bytes)| bytes).sum::<usize>();
                    prop_assert!(bytes(&shard.young) == shard.young_bytes && bytes(&shard.young) <= 150);
                    prop_assert!(bytes(&shard.old) <= 150);
                }
            }
        }
    }
}
