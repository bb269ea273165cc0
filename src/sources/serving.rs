//! ◆ The state that serves, and how it is replaced: whole, validated, or not at all.
//! Hides where policies come from. INVARIANT: a folder that does not load leaves the last good state serving.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::embedded;
use crate::engine::domain::Domain;
use crate::engine::standing::Standings;
use crate::fhir::action::Action;
use crate::finding::Finding;
use crate::policy::snapshot::{Settings, Snapshot};
use crate::sources::folder;
use crate::sources::keys::KeyRing;
use crate::token::issuers::Issuers;

/// Policies and keys that belong together.
pub struct State {
    pub snapshot: Snapshot,
    pub keys: KeyRing,
    pub standings: Standings,
    /// the policies of AuthZEN, where they are others
    pub domain: Option<Domain>,
}

/// Where policies come from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// none: the policies that the binary carries
    pub policies: Option<PathBuf>,
    /// a folder of AuthZEN's own
    pub domain: Option<PathBuf>,
}

/// The state in force, and where the next one comes from.
pub struct Serving {
    origin: Origin,
    settings: Settings,
    cache_bytes_max: usize,
    state: ArcSwap<State>,
    loads: AtomicU64,
    refusals: AtomicU64,
}

impl Serving {
    /// Loads the policies. Of principals that ask, each state remembers this many bytes; of 0, nothing.
    pub fn start(origin: Origin, settings: Settings, cache_bytes_max: usize) -> Result<Serving, Vec<Finding>> {
        let state = ArcSwap::from_pointee(load(&origin, &settings, cache_bytes_max, None)?);
        let (loads, refusals) = (AtomicU64::new(1), AtomicU64::new(0));
        Ok(Serving { origin, settings, cache_bytes_max, state, loads, refusals })
    }

    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Loads again, and swaps the state in where it loads; says what is wrong where it does not.
    pub fn reload(&self) -> Result<Arc<State>, Vec<Finding>> {
        let loaded = load(&self.origin, &self.settings, self.cache_bytes_max, Some(&self.state().keys));
        let counter = if loaded.is_ok() { &self.loads } else { &self.refusals };
        counter.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(loaded?);
        self.state.store(Arc::clone(&state));
        Ok(state)
    }

    /// How many folders were loaded, and how many refused.
    pub fn reloads(&self) -> (u64, u64) {
        (self.loads.load(Ordering::Relaxed), self.refusals.load(Ordering::Relaxed))
    }
}

fn load(
    origin: &Origin,
    settings: &Settings,
    cache_bytes_max: usize,
    previous: Option<&KeyRing>,
) -> Result<State, Vec<Finding>> {
    let read = match &origin.policies {
        Some(path) => folder::read(path).map_err(|error| vec![Finding::of_file(path.display(), error)])?,
        None => embedded::folder(),
    };
    let snapshot = Snapshot::load(&read, settings)?;
    // made here, so that no search waits for it
    snapshot.schema(Action::SEARCH_TYPE);
    let issuers = Issuers::new(snapshot.rules.issuers().to_vec());
    let domain = match &origin.domain {
        Some(path) => {
            let read = folder::read(path).map_err(|error| vec![Finding::of_file(path.display(), error)])?;
            Some(Domain::load(&read)?)
        }
        None => None,
    };
    let base = origin.policies.as_deref().unwrap_or(Path::new("."));
    let keys = KeyRing::load(issuers, base, previous)
        .map_err(|error| vec![Finding::of_file(crate::policy::snapshot::CLAIMS, error)])?;
    Ok(State { snapshot, keys, standings: Standings::new(cache_bytes_max), domain })
}
