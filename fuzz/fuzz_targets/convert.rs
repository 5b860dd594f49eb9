#![no_main]

use std::sync::LazyLock;

use rowstream_fuzz::Converter;

static CONVERTER: LazyLock<Converter> = LazyLock::new(|| Converter::new(concat!(env!("CARGO_MANIFEST_DIR"), "/convert.yaml")));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| CONVERTER.convert(bytes));
