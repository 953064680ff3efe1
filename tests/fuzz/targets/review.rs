//! Any text, reviewed for a tenant of the demo shop: a plan whose text passed the output check, or a denial; never a panic.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead::gate::fuzz(data));
