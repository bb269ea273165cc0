//! The decision tables of `policies/tests/`, as `cedarward test` runs them.

use cedarward::fhir::definitions::FhirVersion;
use cedarward::fhir::operation;
use cedarward::policy::snapshot::Settings;
use cedarward::{embedded, tables};

pub fn settings() -> Settings {
    Settings { version: FhirVersion::R4, themes: Vec::new(), request: operation::Settings::default() }
}

#[test]
fn every_case_of_every_table_passes() {
    let report = tables::run(&embedded::folder(), &settings());
    for difference in &report.differences {
        eprintln!("{}: {}\n  {}", difference.file, difference.case, difference.lines.join("\n  "));
        eprintln!("  {}", difference.answer);
    }
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    assert_eq!(report.differences.len(), 0);
    assert!(report.passed > 1_000, "only {} cases ran", report.passed);
}

#[test]
fn a_case_that_expects_the_wrong_answer_is_a_difference() {
    let mut folder = embedded::folder();
    folder.0.retain(|path, _| !path.starts_with("tests/"));
    let table = "cases:\n  - { name: x, claims: {}, request: GET /Patient/1, expect: permit }\n";
    folder.0.insert("tests/wrong.yaml".to_owned(), table.as_bytes().to_vec());
    let report = tables::run(&folder, &settings());
    assert_eq!((report.passed, report.differences.len()), (0, 1));

    for unreadable in ["cases: [{ name: x, claims: {}, request: GET /metadata, expect: permit, oops: 1 }]", "case: []"]
    {
        folder.0.insert("tests/wrong.yaml".to_owned(), unreadable.as_bytes().to_vec());
        assert_eq!(tables::run(&folder, &settings()).findings.len(), 1, "{unreadable}");
    }
}
