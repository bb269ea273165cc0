//! What was found out before, by what it was found out about: a map of bounded bytes, spread over shards.
//! Hides eviction. INVARIANT: it never holds more than its bytes, as its user weighs them; with none it holds nothing.
//! INVARIANT: a cache never changes an answer. That is its user's to keep: what is kept depends on nothing but its key.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Threads that ask about different things seldom meet.
const SHARDS: usize = 16;

/// What one state of the service keeps at most, in bytes, unless it is told otherwise. The feature `uncached` is for the
/// tests, which all pass with it and without.
pub const BYTES_MAX_DEFAULT: usize = if cfg!(feature = "uncached") { 0 } else { 64 * 1024 * 1024 };

pub struct Cache<K, V> {
    shards: [Mutex<Shard<K, V>>; SHARDS],
    shard_bytes_max: usize,
    hasher: RandomState,
}

struct Shard<K, V> {
    entries: HashMap<K, V, RandomState>,
    bytes: usize,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    pub fn new(bytes_max: usize) -> Cache<K, V> {
        let hasher = RandomState::new();
        let shard = |_| Mutex::new(Shard { entries: HashMap::with_hasher(hasher.clone()), bytes: 0 });
        Cache { shards: std::array::from_fn(shard), shard_bytes_max: bytes_max / SHARDS, hasher: hasher.clone() }
    }

    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.shard(key)?.entries.get(key).cloned()
    }

    /// Keeps what takes this many bytes, its key included. Where there is no room, all that lies beside it goes.
    pub fn keep(&self, key: K, value: V, bytes: usize) {
        if bytes > self.shard_bytes_max {
            return;
        }
        let Some(mut shard) = self.shard(&key) else { return };
        if shard.bytes + bytes > self.shard_bytes_max {
            *shard = Shard { entries: HashMap::with_hasher(self.hasher.clone()), bytes: 0 };
        }
        if shard.entries.insert(key, value).is_none() {
            shard.bytes += bytes;
        }
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> Option<MutexGuard<'_, Shard<K, V>>> {
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
                    prop_assert!(shard.lock().unwrap().bytes <= 300);
                }
            }
        }
    }
}
