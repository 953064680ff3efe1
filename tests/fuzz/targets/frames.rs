//! Every message of a client and of a server, one after the other, until a frame cannot be trusted.
#![no_main]
use bulkhead::wire::{backend, frame, frontend};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Ok(Some((header, body))) = frame::first(rest, frame::CAP_SERVER_STARTUP) {
        let _ = frontend::parse(header.tag, body);
        let _ = (backend::parse_row_description(body), backend::parse_data_row(body), backend::parse_command_complete(body));
        let _ = (backend::ErrorFields::new(body).message(), backend::parse_negotiate(body), backend::parse_copy_response(body));
        rest = &rest[header.frame()..];
    }
});
