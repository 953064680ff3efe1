//! What a connection may begin with, and the `options` inside it.
#![no_main]
use bulkhead::wire::startup::{FirstPacket, parse, parse_options};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(Some((packet, length))) = parse(data) else { return };
    assert!(length <= data.len());
    if let FirstPacket::Startup(startup) = packet {
        let _ = parse_options(startup.get("options").unwrap_or_default());
    }
});
