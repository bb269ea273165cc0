#![no_main]

use std::sync::LazyLock;

use cedarward::fhir::{definitions::FhirVersion, operation};
use cedarward::policy::snapshot::{Settings, Snapshot};

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    let settings = Settings { version: FhirVersion::R4, themes: Vec::new(), request: operation::Settings::default() };
    Snapshot::load(&cedarward::embedded::folder(), &settings).unwrap_or_else(|findings| panic!("{findings:#?}"))
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    assert!(cedarward::http::api::holds(input, &SNAPSHOT));
    assert!(cedarward::http::results::holds(input, &SNAPSHOT));
});
