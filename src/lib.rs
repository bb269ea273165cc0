//! Cedarward, the policy decision point for FHIR servers: token claims and a FHIR request in, a decision out.
//!
//! The rooms stand in reading order; a lower room never imports a higher one (`tests/it/architecture.rs`).
//! Only `sources`, `http::server` and the binary touch the world (files, sockets, clock, randomness, logs).

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
    pub mod operation;
    pub mod path;
    pub mod resource;
    pub mod search;
    pub mod url;
}

/// Claims → principal.
pub mod claims {
    pub mod rules;
    pub mod scope;
}
