//! A principal ready to be asked about, and what was found about it; and the principals that asked lately.
//! Hides the caches. INVARIANT: they never change an answer: what is kept depends on nothing but its key
//! (`tests/it/engine.rs` asks with them and without).
//! INVARIANT: a token is known by a hash of all of it, and for as long as verifying it again would say the same.
//! INVARIANT: claims that a caller vouches for are known by a hash of their text; no token's are among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::{BYTES_MAX_DEFAULT, Cache};
use crate::claims::rules::Principal;
use crate::engine::asking::Opening;
use crate::engine::entities::{Facts, Views};
use crate::fhir::action::Action;
use crate::fhir::operation::AccessRole;
use crate::policy::index::{Index, Membership, Which};
use crate::token::issuers::Issuers;
use crate::token::jws::Validity;

/// A principal with its views, written in Cedar once.
pub struct Standing {
    pub principal: Principal,
    pub views: Views,
    /// by which the policies are found that can matter to it
    pub membership: Membership,
    /// unlike that of any other
    number: u64,
    answers: Arc<Answers>,
}

/// What was found about principals.
struct Answers {
    openings: Cache<Asked, Arc<Opening>>,
    /// of these so many
    standings: AtomicU64,
}

/// All that is found without a resource depends on this, beside the snapshot.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// the standing's number
    by: u64,
    action: Action,
    of: &'static str,
    which: Which,
    role: AccessRole,
    operation: Option<String>,
    emergency: bool,
    purposes: Vec<String>,
    server: String,
}

/// Reckoned, and rather too much: for an entry of a cache, a text, a view written in Cedar.
const ENTRY_BYTES: usize = 512;
const TEXT_BYTES: usize = 256;
const VIEW_BYTES: usize = 8 * 1024;

impl Asked {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + bytes_of(self.operation.iter().chain(&self.purposes).chain([&self.server]))
    }
}

fn bytes_of<'t>(texts: impl IntoIterator<Item = &'t String>) -> usize {
    texts.into_iter().map(|text| TEXT_BYTES + text.len()).sum()
}

impl Standing {
    /// By itself: what it remembers, no other standing shares.
    pub fn of(principal: Principal, index: &Index) -> Result<Standing, String> {
        Standing::with(principal, index, Arc::new(Answers::new(BYTES_MAX_DEFAULT)))
    }

    fn with(principal: Principal, index: &Index, answers: Arc<Answers>) -> Result<Standing, String> {
        let views = Views::of(&principal).map_err(|error| error.to_string())?;
        let membership = index.membership(&views.uids);
        let number = answers.standings.fetch_add(1, Ordering::Relaxed);
        Ok(Standing { principal, views, membership, number, answers })
    }

    /// What is asked by this principal, for the caches.
    pub fn asked(
        &self,
        (action, of, which): (Action, &'static str, Which),
        role: AccessRole,
        operation: Option<&str>,
        facts: &Facts,
    ) -> Asked {
        Asked {
            by: self.number,
            action,
            of,
            which,
            role,
            operation: operation.map(str::to_owned),
            emergency: facts.emergency,
            purposes: facts.purposes.clone(),
            server: facts.server.clone(),
        }
    }

    /// What was found without the resource before.
    pub fn opening(&self, asked: &Asked) -> Option<Arc<Opening>> {
        self.answers.openings.get(asked)
    }

    pub fn keep_opening(&self, asked: Asked, opening: Arc<Opening>) {
        // what is asked stands in the opening's context again
        let bytes = 2 * asked.bytes() + opening.bytes(self.view_bytes());
        self.answers.openings.keep(asked, opening, bytes);
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.views.count() * self.view_bytes()
    }

    fn view_bytes(&self) -> usize {
        let Principal { issuer, subject, client, tenant, scopes, roles, groups, attributes, .. } = &self.principal;
        let names = [issuer, subject].into_iter().chain(client).chain(tenant);
        let texts = names.chain(scopes).chain(roles).chain(groups).chain(attributes.values().flatten());
        // as a text, in the principal's id, as an attribute, and for the view's own id
        VIEW_BYTES + 4 * bytes_of(texts)
    }
}

impl Answers {
    fn new(bytes_max: usize) -> Answers {
        Answers { openings: Cache::new(bytes_max), standings: AtomicU64::new(0) }
    }
}

/// The principals that asked lately, of one snapshot; and whose tokens are known.
pub struct Standings {
    claims: Cache<Key, Arc<Standing>>,
    tokens: Cache<Key, (Validity, Arc<Standing>)>,
    answers: Arc<Answers>,
}

impl Standings {
    /// Keeps as much as this, in bytes; of 0, nothing.
    pub fn new(bytes_max: usize) -> Standings {
        let part = bytes_max / 4;
        let answers = Arc::new(Answers::new(bytes_max / 2));
        Standings { claims: Cache::new(part), tokens: Cache::new(part), answers }
    }

    /// Who has claims of this text, which the caller vouches for.
    pub fn known_claims(&self, text: &str) -> Option<Arc<Standing>> {
        self.claims.get(&digest(text))
    }

    /// Remembers who has claims of this text, which were read and accepted.
    pub fn keep_claims(&self, text: &str, standing: &Arc<Standing>) {
        self.claims.keep(digest(text), Arc::clone(standing), standing.bytes());
    }

    /// Whose token this is, where it was verified before and would be again.
    pub fn of_token(&self, token: &str, issuers: &Issuers, now: i64) -> Option<Arc<Standing>> {
        let (validity, standing) = self.tokens.get(&digest(token))?;
        validity.holds(issuers, now).then_some(standing)
    }

    /// Remembers whose token this is, which was verified.
    pub fn keep_token(&self, token: &str, validity: Validity, standing: &Arc<Standing>) {
        self.tokens.keep(digest(token), (validity, Arc::clone(standing)), standing.bytes());
    }

    /// The standing of a principal that is not known yet.
    pub fn make(&self, index: &Index, principal: Principal) -> Result<Arc<Standing>, String> {
        Standing::with(principal, index, Arc::clone(&self.answers)).map(Arc::new)
    }
}

/// SHA-256.
type Key = [u8; 32];

fn digest(text: &str) -> Key {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let mut key = Key::default();
    key.copy_from_slice(digest.as_ref());
    key
}
