//! The fast lexer agrees with PostgreSQL's own scanner, or gives up.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead::sql::lexer::fuzz(data));
