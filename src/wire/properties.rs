//! Properties of frames and messages: what is written is read again, however the bytes are cut, and no bytes make a reader
//! panic.

use bytes::{Buf, BytesMut};
use proptest::prelude::*;

use super::frontend::{Bind, Execute, Format, Formats, FrontendMessage, Parse, Target};
use super::{backend, frame, frontend, startup};

fn text() -> impl Strategy<Value = String> {
    "[^\0]{0,20}"
}

fn formats(values: usize) -> impl Strategy<Value = Formats> {
    let one = prop::bool::ANY.prop_map(|b| if b { Format::Binary } else { Format::Text });
    prop_oneof![Just(0), Just(1), Just(values)]
        .prop_flat_map(move |n| prop::collection::vec(one.clone(), n))
        .prop_map(Formats::from_vec)
}

proptest! {
    #[test]
    fn parse_messages_are_read_as_written(name in text(), sql in text(), types in prop::collection::vec(any::<u32>(), 0..5)) {
        let mut out = BytesMut::new();
        frontend::put_parse(&mut out, &name, &sql, &types);
        let frame = frame::take(&mut out, 1 << 20).unwrap().unwrap();
        let expected = Parse { name: &name, text: &sql, types: types.into() };
        prop_assert_eq!(frontend::parse(frame.tag, &frame.body).unwrap(), Some(FrontendMessage::Parse(expected)));
        prop_assert!(out.is_empty());
    }

    #[test]
    fn bind_messages_are_read_as_written(
        (values, formats) in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..9)), 0..4)
            .prop_flat_map(|values| { let n = values.len(); (Just(values), formats(n)) }),
        portal in text(), statement in text(), extra in prop::option::of(prop::collection::vec(any::<u8>(), 0..9)),
    ) {
        let make = |formats: &Formats| Bind {
            portal: &portal,
            statement: &statement,
            formats: formats.clone(),
            values: values.iter().map(Option::as_deref).collect(),
            result_formats: Formats::new(),
        };
        let mut out = BytesMut::new();
        frontend::put_bind(&mut out, &portal, &statement, &make(&formats), extra.as_deref()).unwrap();
        let frame = frame::take(&mut out, 1 << 20).unwrap().unwrap();
        let (bind, again) = (make(&formats), Bind::parse(&frame.body).unwrap());
        for i in 0..values.len() {
            prop_assert_eq!((again.values[i], again.format(i)), (bind.values[i], bind.format(i)));
        }
        if let Some(extra) = &extra {
            prop_assert_eq!((again.values[values.len()], again.format(values.len())), (Some(&extra[..]), Format::Text));
        } else {
            prop_assert_eq!(again, bind);
        }
    }

    #[test]
    fn small_messages_are_read_as_written(name in text(), rows in any::<i32>()) {
        let mut out = BytesMut::new();
        frontend::put_query(&mut out, &name);
        frontend::put_describe(&mut out, Target::Statement(&name));
        frontend::put_close(&mut out, Target::Portal(&name));
        frontend::put_execute(&mut out, &name, rows);
        frontend::put_sync(&mut out);
        let mut seen = Vec::new();
        while let Some(frame) = frame::take(&mut out, 1 << 20).unwrap() {
            seen.push(frame);
        }
        let read: Vec<_> = seen.iter().map(|f| frontend::parse(f.tag, &f.body).unwrap().unwrap()).collect();
        prop_assert_eq!(read, vec![
            FrontendMessage::Query(&name),
            FrontendMessage::Describe(Target::Statement(&name)),
            FrontendMessage::Close(Target::Portal(&name)),
            FrontendMessage::Execute(Execute { portal: &name, max_rows: rows }),
            FrontendMessage::Sync,
        ]);
    }

    /// Whatever the pieces that bytes arrive in, a passage forwards the same bytes up to the first interesting frame.
    #[test]
    fn frames_pass_however_they_are_cut(
        bodies in prop::collection::vec((prop::sample::select(&b"DdTZ"[..]), prop::collection::vec(any::<u8>(), 0..40)), 0..8),
        cuts in prop::collection::vec(1usize..30, 1..60),
        whole in 0usize..50,
    ) {
        let mut wire = BytesMut::new();
        for (tag, body) in &bodies {
            frame::write(&mut wire, *tag, |out| out.extend_from_slice(body));
        }
        let quiet: usize = bodies.iter().take_while(|(tag, _)| *tag != b'Z').map(|(_, body)| body.len() + 5).sum();
        prop_assert_eq!(frame::run(&wire, 100, |tag| tag == b'Z').unwrap(), quiet);

        let (mut passage, mut inbox, mut passed, mut arrived) = (frame::Passage::default(), BytesMut::new(), 0, 0);
        for cut in cuts.into_iter().chain([wire.len()]) {
            let end = (arrived + cut).min(wire.len());
            inbox.extend_from_slice(&wire[arrived..end]);
            arrived = end;
            let was_inside = passage.is_inside();
            let length = passage.advance_by(whole, &inbox, 100, |tag| tag == b'Z').unwrap();
            prop_assert!(was_inside || !passage.is_inside() || length > 0 && frame::run(&inbox, 100, |_| false).unwrap() < length);
            inbox.advance(length);
            passed += length;
        }
        prop_assert_eq!(passed, quiet);
        prop_assert!(!passage.is_inside());
    }

    #[test]
    fn startup_packets_are_read_as_written(pairs in prop::collection::vec(("[a-z]{1,9}", text()), 0..6), minor in 0u16..4) {
        let mut out = BytesMut::new();
        startup::put_startup_version(&mut out, minor, pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        for cut in 0..out.len() {
            prop_assert_eq!(startup::parse(&out[..cut]).unwrap(), None);
        }
        let (packet, length) = startup::parse(&out).unwrap().unwrap();
        prop_assert_eq!(length, out.len());
        prop_assert_eq!(packet, startup::FirstPacket::Startup(startup::Startup { minor, parameters: pairs, protocol_options: vec![] }));
    }

    #[test]
    fn no_bytes_make_a_reader_panic(tag in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = startup::parse(&bytes);
        let _ = frame::peek(&bytes, 1 << 20);
        let _ = frame::take(&mut BytesMut::from(&bytes[..]), 1 << 20);
        for tag in [tag, b'Q', b'P', b'B', b'D', b'E', b'C', b'f', b'p'] {
            let _ = frontend::parse(tag, &bytes);
        }
        let _ = frontend::sasl_initial(&bytes);
        let _ = backend::Authentication::parse(&bytes);
        let _ = backend::parse_parameter_status(&bytes);
        let _ = backend::parse_key_data(&bytes);
        let _ = backend::parse_negotiate(&bytes);
        let _ = backend::parse_notification(&bytes);
        let _ = backend::parse_row_description(&bytes);
        let _ = backend::parse_data_row(&bytes);
        let _ = backend::parse_copy_response(&bytes);
        let _ = backend::put_parameter_description_without_last(&mut BytesMut::new(), &bytes);
        let fields = backend::ErrorFields::new(&bytes);
        let _ = (fields.sqlstate(), fields.is_fatal(), fields.message(), fields.count());
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let _ = startup::parse_options(text);
            let _ = super::scram::Verifier::parse(text);
        }
    }
}
