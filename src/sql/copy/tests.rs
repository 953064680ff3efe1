//! Data in, canonical rows out. That PostgreSQL reads the same rows is shown in `tests/copy.rs`, against a server.

use rand::prelude::*;

use super::*;

fn target(dialect: Dialect, tenant: TenantField) -> Arc<Target> {
    let columns: &[&str] = match tenant {
        TenantField::Added => &["a", "b"],
        TenantField::Supplied(0) => &["tenant_id", "a", "b"],
        TenantField::Supplied(1) => &["a", "tenant_id", "b"],
        TenantField::Supplied(_) => &["a", "b", "tenant_id"],
    };
    Arc::new(Target {
        table: "t".to_owned(),
        columns: columns.iter().map(|c| (*c).to_owned()).collect(),
        tenant,
        tenant_column: "tenant_id".to_owned(),
        tenant_type: TenantType::Int4,
        dialect,
    })
}

fn text() -> Dialect {
    Dialect::Text { delimiter: b'\t', null: "\\N".to_owned(), header: Header::None }
}

fn csv() -> Csv {
    Csv {
        delimiter: b',',
        quote: b'"',
        escape: b'"',
        null: String::new(),
        header: Header::None,
        force_null: vec![],
        force_not_null: vec![],
        has_end_marker: true,
    }
}

/// What comes out of pieces; a failure as its text and context.
fn convert(target: &Arc<Target>, pieces: &[&[u8]]) -> Result<Vec<u8>, String> {
    let mut converter = Converter::new(target, "7", 1000).unwrap();
    let mut out = BytesMut::new();
    let mut run = || {
        for piece in pieces {
            converter.feed(piece, &mut out)?;
        }
        converter.finish(&mut out)
    };
    run().map_err(|f: Box<Failure>| format!("{} {} [{}]", f.error.sqlstate.0, f.error.message, f.context))?;
    Ok(out.to_vec())
}

fn rows(dialect: Dialect, data: &[u8]) -> Result<String, String> {
    convert(&target(dialect, TenantField::Added), &[data]).map(|out| String::from_utf8(out).unwrap())
}

/// Rows that have our form are not taken apart: with another delimiter they are, and become the same.
#[test]
fn rows_in_our_form_become_what_others_become() {
    let mut random = StdRng::seed_from_u64(5);
    let pieces = ["a", "é", "N", "\\N", "\\\\", "\\n", "\\.", "\\x4e", "\t", "\t", "\t\\N", "\n", "\n", "\0", "\u{fffd}"];
    let commas = Dialect::Text { delimiter: b',', null: "\\N".to_owned(), header: Header::None };
    let mut taken = 0;
    for _ in 0..20_000 {
        let count = random.random_range(0..14);
        let data: String = (0..count).map(|_| *pieces.choose(&mut random).unwrap()).collect();
        let as_it_is = rows(text(), data.as_bytes());
        taken += usize::from(as_it_is.is_ok());
        // The context of a failure quotes the line.
        let with_tabs = |text: String| text.replace(',', "\t");
        let otherwise = rows(commas.clone(), data.replace('\t', ",").as_bytes());
        assert_eq!(as_it_is.map_err(with_tabs), otherwise.map_err(with_tabs), "{data:?}");
    }
    assert!(taken > 2_000, "{taken} were rows");
}

#[test]
fn text_rows_get_the_tenant() {
    assert_eq!(rows(text(), b"1\tx\n2\t\\N\n").unwrap(), "1\tx\t7\n2\t\\N\t7\n");
    assert_eq!(rows(text(), b"1\t\\x41\\101\\t\\q\\\nz\n").unwrap(), "1\tAA\\tq\\nz\t7\n");
    assert_eq!(rows(text(), b"1\tno newline").unwrap(), "1\tno newline\t7\n");
    assert_eq!(rows(text(), b"1\ta\r\n2\tb\r\n").unwrap(), "1\ta\t7\n2\tb\t7\n");
    assert_eq!(rows(text(), b"1\ta\r2\tb\r").unwrap(), "1\ta\t7\n2\tb\t7\n");
    assert_eq!(rows(text(), b"1\ta\n\\.\n2\tb\t9\n").unwrap(), "1\ta\t7\n");
    assert_eq!(rows(text(), b"\t\n").unwrap(), "\t\t7\n");
    // What the null string looks like in the data of another dialect is data.
    let other = Dialect::Text { delimiter: b'|', null: "null".to_owned(), header: Header::Skipped };
    assert_eq!(rows(other, b"any|thing|at all\nnull|\\N\n\\null|\t\n").unwrap(), "\\N\tN\t7\n\\null\t\\t\t7\n");
}

#[test]
fn csv_rows_get_the_tenant() {
    let dialect = || Dialect::Csv(csv());
    assert_eq!(
        rows(dialect(), b"1,\"a,\"\"b\"\"\n\\.\n\"\n2,\n3,\"\"\n").unwrap(),
        "1\ta,\"b\"\\n\\\\.\\n\t7\n2\t\\N\t7\n3\t\t7\n"
    );
    assert_eq!(rows(dialect(), b"a\"b,c\"d,e\nx\"y,z\",\\.\n").unwrap(), "ab,cd\te\t7\nxy,z\t\\\\.\t7\n");
    assert_eq!(rows(dialect(), b"1,a\n\\.\n2,b,9\n").unwrap(), "1\ta\t7\n");
    assert_eq!(rows(dialect(), b"\\.,a\n").unwrap(), "\\\\.\ta\t7\n");
    let newer = Dialect::Csv(Csv { has_end_marker: false, ..csv() });
    assert_eq!(rows(newer, b"\\.\n").unwrap_err(), "22P04 missing data for column \"b\" [COPY t, line 1: \"\\.\"]");
    let escaped = Dialect::Csv(Csv { escape: b'\\', delimiter: b';', ..csv() });
    assert_eq!(rows(escaped, b"\"a\\\"\\\\\";\"\\x\n\"\n").unwrap(), "a\"\\\\\t\\\\x\\n\t7\n");
    let forced = Csv { null: "-".to_owned(), force_null: vec![true, false], force_not_null: vec![false, true], ..csv() };
    assert_eq!(rows(Dialect::Csv(forced), b"\"-\",-\n-,\"-\"\n").unwrap(), "\\N\t-\t7\n\\N\t-\t7\n");
    let headed = Dialect::Csv(Csv { header: Header::Matched, ..csv() });
    assert_eq!(rows(headed.clone(), b"a,b\n1,2\n").unwrap(), "1\t2\t7\n");
    assert!(rows(headed.clone(), b"b,a\n1,2\n").unwrap_err().contains("column name mismatch in header line field 1: got \"b\""));
    assert!(rows(headed, b"a\n").unwrap_err().contains("wrong number of fields in header line: got 1, expected 2"));
}

#[test]
fn a_tenant_in_the_data_must_be_the_session_s() {
    for (index, own, foreign) in [(0, "7\ta\tb\n", "8\ta\tb\n"), (1, "a\t 07\tb\n", "a\t\\N\tb\n"), (2, "a\tb\t+7\n", "a\tb\t\n")]
    {
        let target = target(text(), TenantField::Supplied(index));
        assert_eq!(convert(&target, &[own.as_bytes()]).unwrap(), b"a\tb\t7\n", "{own}");
        let error = convert(&target, &[own.as_bytes(), foreign.as_bytes()]).unwrap_err();
        assert!(error.starts_with("42501 new row violates row-level security policy for table \"t\" [COPY t, line 2"), "{error}");
    }
}

#[test]
fn what_is_not_a_row_fails() {
    for (data, error) in [
        (&b"1\tx\t8\n"[..], "22P04 extra data after last expected column [COPY t, line 1: \"1\tx\t8\"]"),
        (b"1\tx\n2\n", "22P04 missing data for column \"b\" [COPY t, line 2: \"2\"]"),
        (b"\n", "22P04 missing data for column \"b\" [COPY t, line 1: \"\"]"),
        (b"1\tx\\.\n", "22P04 end-of-copy marker is not alone on its line [COPY t, line 1]"),
        (b"1\tx\n\\.y\n", "22P04 end-of-copy marker corrupt [COPY t, line 2]"),
        (b"1\tx\n\\.", "22P04 end-of-copy marker corrupt [COPY t, line 2]"),
        (b"1\tx\n\\.\r", "22P04 end-of-copy marker does not match previous newline style [COPY t, line 2]"),
        (b"1\tx\n2\ty\r3\n", "22P04 literal carriage return found in data [COPY t, line 2]"),
        (b"1\tx\r\n2\ty\n", "22P04 literal newline found in data [COPY t, line 2]"),
        (b"1\t\xff\n", "22021 invalid byte sequence for encoding \"UTF8\": 0xff [COPY t, line 1]"),
        (b"1\t\\000\n", "22021 invalid byte sequence for encoding \"UTF8\": 0x00 [COPY t, line 1: \"1\t\\000\"]"),
        (b"1\t\0\n", "22021 invalid byte sequence for encoding \"UTF8\": 0x00 [COPY t, line 1]"),
    ] {
        assert_eq!(rows(text(), data).unwrap_err(), error);
    }
    let long = "x".repeat(1001);
    assert!(rows(text(), long.as_bytes()).unwrap_err().starts_with("54000"));
    let error = rows(Dialect::Csv(csv()), b"1,2\n3,\"4\n5,6\n").unwrap_err();
    assert!(error.starts_with("22P04 unterminated CSV quoted field [COPY t, line 4"), "{error}");
}

fn tuple(fields: &[Option<&[u8]>]) -> Vec<u8> {
    let mut out = (fields.len() as i16).to_be_bytes().to_vec();
    for field in fields {
        out.extend(field.map_or(-1, |f| f.len() as i32).to_be_bytes());
        out.extend(field.unwrap_or_default());
    }
    out
}

fn file(tuples: &[Vec<u8>]) -> Vec<u8> {
    let mut out = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    tuples.iter().for_each(|t| out.extend(t));
    out.extend([0xff, 0xff]);
    out
}

#[test]
fn binary_tuples_get_the_tenant() {
    let seven: &[u8] = &[0, 0, 0, 7];
    let added = target(Dialect::Binary, TenantField::Added);
    let data = file(&[tuple(&[Some(b"x"), None]), tuple(&[Some(b""), Some(b"yy")])]);
    let expected = file(&[tuple(&[Some(b"x"), None, Some(seven)]), tuple(&[Some(b""), Some(b"yy"), Some(seven)])]);
    assert_eq!(convert(&added, &[&data]).unwrap(), expected);
    // The trailer may be missing; extensions of the header are dropped.
    let mut extended = data[..data.len() - 2].to_vec();
    extended.splice(15..19, [0, 0, 0, 3, 1, 2, 3]);
    assert_eq!(convert(&added, &[&extended]).unwrap(), expected);
    for index in 0..3 {
        let supplied = target(Dialect::Binary, TenantField::Supplied(index));
        let with = |tenant: Option<&'static [u8]>| {
            let mut fields: Vec<Option<&[u8]>> = vec![Some(b"x"), None];
            fields.insert(index, tenant);
            file(&[tuple(&fields)])
        };
        assert_eq!(convert(&supplied, &[&with(Some(&[0, 0, 0, 7]))]).unwrap(), file(&[tuple(&[Some(b"x"), None, Some(seven)])]));
        for foreign in [None, Some(&[0, 0, 0, 8][..]), Some(&[0, 7]), Some(&[0, 0, 0, 7, 0])] {
            let error = convert(&supplied, &[&with(foreign)]).unwrap_err();
            assert!(error.starts_with("42501"), "{error}");
        }
    }
}

#[test]
fn lies_of_binary_data_fail() {
    let target = target(Dialect::Binary, TenantField::Added);
    let good = file(&[tuple(&[Some(b"x"), None])]);
    let spoilt = |at: usize, bytes: &[u8]| {
        let mut data = good.clone();
        data[at..at + bytes.len()].copy_from_slice(bytes);
        convert(&target, &[&data]).unwrap_err()
    };
    assert!(spoilt(0, b"Q").contains("COPY file signature not recognized"));
    assert!(spoilt(11, &[0, 1]).contains("WITH OIDS"));
    assert!(spoilt(11, &[1]).contains("unrecognized critical flags"));
    assert!(spoilt(15, &[0xff]).contains("invalid COPY file header"));
    assert!(spoilt(19, &[0, 3]).contains("row field count is 3, expected 2"));
    assert!(spoilt(19, &[0, 1]).contains("row field count is 1, expected 2"));
    assert!(spoilt(21, &[0xff, 0xff, 0xff, 0xfe]).contains("invalid field size"));
    assert!(spoilt(21, &[0x7f, 0xff, 0xff, 0xff]).starts_with("54000"));
    assert!(spoilt(21, &[0, 0, 0, 9]).contains("unexpected EOF in COPY data"));
    let mut more = good.clone();
    more.push(0);
    assert!(convert(&target, &[&more]).unwrap_err().contains("received copy data after EOF marker"));
    assert!(convert(&target, &[&good[..9]]).unwrap_err().contains("signature"));
}

/// Wherever the data is cut, the same comes out; and whatever comes out has the tenant as the last of its fields, by a reading
/// that shares nothing with the writer.
#[test]
fn cuts_change_nothing_and_every_row_ends_in_the_tenant() {
    let mut random = StdRng::seed_from_u64(7);
    let alphabets: [&[u8]; 2] = [b"\\\\\\..\n\n\r\r\t\t\tNx1\"|", b"\"\"\"\\\\.\n\n\r\r,,,;x1'"];
    let mut whole = 0;
    for round in 0..20_000 {
        let dialect = match round % 4 {
            0 => text(),
            1 => Dialect::Text { delimiter: b'|', null: "x".to_owned(), header: Header::Skipped },
            2 => Dialect::Csv(csv()),
            _ => Dialect::Csv(Csv { escape: b'\\', quote: b'\'', has_end_marker: random.random(), ..csv() }),
        };
        let target = target(dialect, TenantField::Added);
        let alphabet = alphabets[round % 4 / 2];
        let data: Vec<u8> = (0..random.random_range(0..14)).map(|_| *alphabet.choose(&mut random).unwrap()).collect();
        let at_once = convert(&target, &[&data]);
        let pieces: Vec<&[u8]> = data.chunks(1 + round % 3).collect();
        assert_eq!(at_once, convert(&target, &pieces), "{data:?}");
        let Ok(out) = at_once else { continue };
        whole += usize::from(!out.is_empty());
        for row in out.split(|b| *b == b'\n').filter(|row| !row.is_empty()) {
            let fields: Vec<&[u8]> = row.split(|b| *b == b'\t').collect();
            assert!(fields.len() == 3 && fields[2] == b"7" && !row.contains(&b'\r'), "{data:?} {out:?}");
            for field in fields {
                let escapes = field.windows(2).filter(|w| w[0] == b'\\').count();
                assert!(escapes == 0 || field == b"\\N" || !is_marker(field), "{data:?} {out:?}");
            }
        }
        assert!(out.is_empty() || out.ends_with(b"\t7\n"));
    }
    assert!(whole > 1000, "{whole} rounds gave rows");
}

/// A backslash that is not doubled, before what is no escape of ours.
fn is_marker(field: &[u8]) -> bool {
    let mut rest = field;
    while let Some(at) = rest.iter().position(|b| *b == b'\\') {
        match rest.get(at + 1) {
            Some(b'\\' | b't' | b'n' | b'r') => rest = &rest[at + 2..],
            Some(_) | None => return true,
        }
    }
    false
}

#[test]
fn lines_are_the_client_s() {
    let target = target(Dialect::Csv(Csv { header: Header::Skipped, ..csv() }), TenantField::Added);
    let mut converter = Converter::new(&target, "7", 1000).unwrap();
    converter.feed(b"a,b\n1,x\n2,\"y\n\ny\"\n3,z\n", &mut BytesMut::new()).unwrap();
    assert_eq!([1, 2, 3].map(|sent| converter.line(sent)), [2, 5, 6]);
}

#[test]
fn the_fuzz_target_holds_on_small_inputs() {
    let mut random = StdRng::seed_from_u64(11);
    for _ in 0..5000 {
        let mut data: Vec<u8> = vec![random.random(), random.random_range(0..9)];
        data.extend((0..random.random_range(0..9)).map(|_| *b"\\.\t,\n\r\"'xab".choose(&mut random).unwrap()));
        fuzz(&data);
    }
}
