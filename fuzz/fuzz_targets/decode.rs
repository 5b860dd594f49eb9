#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rowstream_fuzz::decode(bytes));
