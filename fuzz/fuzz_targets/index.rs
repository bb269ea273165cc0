#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    assert!(cedarward::engine::properties::index_holds(input));
});
