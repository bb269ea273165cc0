//! Cedarward, the policy decision point for FHIR servers: token claims and a FHIR request in, a decision out.
//!
//! The rooms stand in reading order; a lower room never imports a higher one (`tests/it/architecture.rs`).
//! Only the rooms marked ◆ and the binary touch the world: files, sockets, clock, randomness, logs.

/// What was found out before, bounded in bytes.
pub mod cache;
/// What is wrong in a file that people write.
pub mod finding;
/// Strict JSON: no duplicate keys, bounded depth.
pub mod json;

/// Compact JWS → claims.
pub mod token {
    pub mod issuers;
    pub mod jws;
}

/// FHIR's own words: types, search parameters, compartments, requests, resources.
pub mod fhir {
    pub mod action;
    pub mod definitions;
    mod graphql;
    pub mod operation;
    pub mod path;
    pub mod resource;
    pub mod search;
    pub mod transaction;
    pub mod url;
}

/// Claims → principal.
pub mod claims {
    mod condition;
    mod file;
    pub(crate) mod nodes;
    pub mod rules;
    pub mod scope;
}

/// A folder's bytes → the snapshot that decides.
pub mod policy {
    pub mod analysis;
    pub mod folder;
    pub mod index;
    pub mod links;
    pub mod schema;
    pub mod snapshot;
}

/// The default policies, carried by the binary.
pub mod embedded;

/// Snapshot, principal, operation, evidence → decision.
pub mod engine {
    mod asking;
    pub mod decide;
    pub mod domain;
    pub mod entities;
    pub mod explain;
    pub mod filter;
    mod narrow;
    #[doc(hidden)]
    pub mod properties;
    pub mod residual;
    #[doc(hidden)]
    pub mod soundness;
    pub mod standing;
}

/// The wire contract, and ◆ the server around it.
pub mod http {
    pub mod api;
    pub mod authzen;
    pub mod exchange;
    pub mod framing;
    pub mod grpc;
    pub mod proxy;
    pub mod results;
    pub mod server;
    pub mod service;
}

/// Decision tables: policies tested as data.
pub mod tables;

/// cedarward.yaml and flags.
pub mod config;

/// ◆ Folders and keys: read, fetched, watched, swapped.
pub mod sources {
    pub mod folder;
    pub mod keys;
    pub mod resources;
    pub mod serving;
}
