#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        assert!(cedarward::fhir::url::holds(text));
    }
    assert!(cedarward::fhir::operation::holds(input));
});
