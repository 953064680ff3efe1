//! The data of COPY .. FROM STDIN: wherever it is cut, the same comes out, and every row ends in the tenant.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead::sql::copy::fuzz(data));
