//! A principal ready to be asked about, and what was found about it; and the principals that asked lately.
//! Hides both caches. INVARIANT: they never change an answer: what is kept depends on nothing but its key
//! (`tests/it/engine.rs` asks with them and without).
//! INVARIANT: principals are kept by a hash of all their claims and of how these were vouched for, within one snapshot.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::claims::rules::Principal;
use crate::engine::decide::Verdict;
use crate::engine::entities::{EntityError, Facts, Views};
use crate::engine::residual::Formula;
use crate::fhir::action::Action;
use crate::fhir::operation::AccessRole;
use crate::token::jws::Claims;

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

type Shard = Mutex<HashMap<[u8; 32], Arc<Standing>>>;

/// The principals that asked lately, of one snapshot.
#[derive(Default)]
pub struct Standings {
    shards: [Shard; SHARDS],
}

impl Standings {
    /// The standing of these claims, by an earlier call or by `make`.
    pub fn of<E>(&self, claims: &Claims, make: impl FnOnce() -> Result<Standing, E>) -> Result<Arc<Standing>, E> {
        let key = key(claims);
        let shard = key.first().and_then(|first| self.shards.get(usize::from(*first) % SHARDS));
        let lock = || shard.map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(known) = lock().and_then(|shard| shard.get(&key).cloned()) {
            return Ok(known);
        }
        let standing = Arc::new(make()?);
        if let Some(mut shard) = lock() {
            if shard.len() >= PRINCIPALS_MAX {
                shard.clear();
            }
            shard.insert(key, Arc::clone(&standing));
        }
        Ok(standing)
    }
}

/// SHA-256 over the whole payload, keys in order, and over whether it was verified here.
fn key(claims: &Claims) -> [u8; 32] {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    digest.update(&[u8::from(claims.is_verified())]);
    // JSON of strings, numbers and maps always serializes
    digest.update(&serde_json::to_vec(claims.payload()).unwrap_or_default());
    let mut key = [0; 32];
    key.copy_from_slice(digest.finish().as_ref());
    key
}
