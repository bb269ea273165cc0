//! A principal ready to be asked about, and what was found about it; and the principals that asked lately.
//! Hides the caches. INVARIANT: they never change an answer: what is kept depends on nothing but its key
//! (`tests/it/engine.rs` asks with them and without).
//! INVARIANT: a token is known by a hash of all of it, and for as long as verifying it again would say the same.
//! INVARIANT: principals are kept by a hash of all their claims and of how these were vouched for, within one snapshot.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::claims::rules::Principal;
use crate::engine::decide::Verdict;
use crate::engine::entities::{EntityError, Facts, Views};
use crate::engine::residual::Formula;
use crate::fhir::action::Action;
use crate::fhir::operation::AccessRole;
use crate::token::issuers::Issuers;
use crate::token::jws::{Claims, Validity};

/// Answers of a kind kept for one principal; at the next one all are dropped.
const ANSWERS_MAX: usize = 512;
/// Principals kept in each shard; at the next one all of the shard are dropped.
const PRINCIPALS_MAX: usize = 128;
const SHARDS: usize = 16;

/// A principal with its views, written in Cedar once.
pub struct Standing {
    pub principal: Principal,
    pub views: Views,
    verdicts: Memory<Verdict>,
    /// what is visible, where it depends on the resource; `None` where that cannot be said
    formulas: Memory<Option<Arc<Formula>>>,
}

type Memory<T> = Mutex<HashMap<Asked, T>>;

/// All that a verdict about no particular resource depends on, beside the principal and the snapshot.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    pub action: Action,
    pub of: &'static str,
    pub role: AccessRole,
    pub operation: Option<String>,
    pub emergency: bool,
    pub purposes: Vec<String>,
    pub server: String,
}

impl Asked {
    pub fn new(action: Action, of: &'static str, role: AccessRole, operation: Option<&str>, facts: &Facts) -> Asked {
        Asked {
            action,
            of,
            role,
            operation: operation.map(str::to_owned),
            emergency: facts.emergency,
            purposes: facts.purposes.clone(),
            server: facts.server.clone(),
        }
    }
}

impl Standing {
    pub fn of(principal: Principal) -> Result<Standing, EntityError> {
        let views = Views::of(&principal)?;
        Ok(Standing { principal, views, verdicts: Mutex::default(), formulas: Mutex::default() })
    }

    /// The verdict of an earlier question, or that of `find`, kept for the next.
    pub fn verdict(&self, asked: Asked, find: impl FnOnce() -> Verdict) -> Verdict {
        remembered(&self.verdicts, asked, find)
    }

    /// The formula of an earlier question, or that of `find`, kept for the next.
    pub fn formula(&self, asked: Asked, find: impl FnOnce() -> Option<Arc<Formula>>) -> Option<Arc<Formula>> {
        remembered(&self.formulas, asked, find)
    }
}

fn remembered<T: Clone>(memory: &Memory<T>, asked: Asked, find: impl FnOnce() -> T) -> T {
    // a thread that panicked while it held the lock left whole answers, since they are put in whole
    let lock = || memory.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = lock().get(&asked) {
        return known.clone();
    }
    let found = find();
    let mut kept = lock();
    if kept.len() >= ANSWERS_MAX {
        kept.clear();
    }
    kept.insert(asked, found.clone());
    found
}

/// What is kept under hashes: spread over shards, so that threads seldom meet.
struct Shards<T>([Mutex<HashMap<[u8; 32], T>>; SHARDS]);

impl<T> Default for Shards<T> {
    fn default() -> Shards<T> {
        Shards(std::array::from_fn(|_| Mutex::default()))
    }
}

impl<T: Clone> Shards<T> {
    fn lock(&self, key: &[u8; 32]) -> Option<MutexGuard<'_, HashMap<[u8; 32], T>>> {
        let shard = key.first().and_then(|first| self.0.get(usize::from(*first) % SHARDS));
        shard.map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn get(&self, key: &[u8; 32]) -> Option<T> {
        self.lock(key)?.get(key).cloned()
    }

    fn keep(&self, key: [u8; 32], value: T) {
        if let Some(mut shard) = self.lock(&key) {
            if shard.len() >= PRINCIPALS_MAX {
                shard.clear();
            }
            shard.insert(key, value);
        }
    }
}

/// The principals that asked lately, of one snapshot; and whose tokens are known.
#[derive(Default)]
pub struct Standings {
    principals: Shards<Arc<Standing>>,
    tokens: Shards<(Validity, Arc<Standing>)>,
}

impl Standings {
    /// The standing of these claims, by an earlier call or by `make`.
    pub fn of<E>(&self, claims: &Claims, make: impl FnOnce() -> Result<Standing, E>) -> Result<Arc<Standing>, E> {
        let key = key(claims);
        if let Some(known) = self.principals.get(&key) {
            return Ok(known);
        }
        let standing = Arc::new(make()?);
        self.principals.keep(key, Arc::clone(&standing));
        Ok(standing)
    }

    /// Whose token this is, where it was verified before and would be again.
    pub fn of_token(&self, token: &str, issuers: &Issuers, now: i64) -> Option<Arc<Standing>> {
        let (validity, standing) = self.tokens.get(&digest(&[token.as_bytes()]))?;
        validity.holds(issuers, now).then_some(standing)
    }

    /// Remembers a token that was verified.
    pub fn keep_token(&self, token: &str, validity: Validity, standing: Arc<Standing>) {
        self.tokens.keep(digest(&[token.as_bytes()]), (validity, standing));
    }
}

/// SHA-256 over the whole payload, keys in order, and over whether it was verified here.
fn key(claims: &Claims) -> [u8; 32] {
    // JSON of strings, numbers and maps always serializes
    let payload = serde_json::to_vec(claims.payload()).unwrap_or_default();
    digest(&[&[u8::from(claims.is_verified())], &payload])
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    parts.iter().for_each(|part| digest.update(part));
    let mut key = [0; 32];
    key.copy_from_slice(digest.finish().as_ref());
    key
}
