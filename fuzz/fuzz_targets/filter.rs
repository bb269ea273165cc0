#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    assert!(cedarward::engine::soundness::holds(input), "{}", cedarward::engine::soundness::told(input));
});
