//! Tests of the fast lexer and of the slow path against each other and against what PostgreSQL does.

use proptest::prelude::*;

use super::*;

fn slow_only(text: &str) -> Result<Scratch, Denial> {
    let mut scratch = Scratch::default();
    slow(text, &mut scratch).map(|()| scratch)
}

fn read_one(text: &str) -> (String, Vec<String>) {
    let mut scratch = Scratch::default();
    read(text, &mut scratch).unwrap_or_else(|d| panic!("{text}: {d}"));
    let [statement] = scratch.statements() else { panic!("{text}: {:?}", scratch.statements()) };
    let literals = statement.literals.iter().map(|r| text[r.start as usize..r.end as usize].to_owned()).collect();
    (scratch.key(statement).to_owned(), literals)
}

fn is_fast(text: &str) -> bool {
    lexer::lex(text, &mut Scratch::default()) == lexer::Outcome::Done
}

#[test]
fn literals_leave_the_text() {
    let (key, literals) = read_one("  SELECT a, 'it''s' FROM t WHERE x = 42 AND y > 1.5 AND z = 9000000000 -- end\n;");
    assert_eq!(
        key,
        "SELECT a, 'qzaaaa' FROM t WHERE x = 2107300001 AND y > 7107300000000000000002.5 AND z = 5107300000000000003"
    );
    assert_eq!(literals, ["'it''s'", "42", "1.5", "9000000000"]);
    assert!(is_fast("  SELECT a, 'it''s' FROM t WHERE x = 42 AND y > 1.5 AND z = 9000000000 -- end\n;"));
}

#[test]
fn slow_forms_are_one_literal_each() {
    for (text, literals) in [
        ("SELECT E'a\\'b', 1", vec!["E'a\\'b'", "1"]),
        ("SELECT U&'d!0061' UESCAPE '!'", vec!["U&'d!0061' UESCAPE '!'"]),
        ("SELECT $$a;b$$, $q$ $$ $q$", vec!["$$a;b$$", "$q$ $$ $q$"]),
        ("SELECT 'a'\n  'b' , 'c'", vec!["'a'\n  'b'", "'c'"]),
        ("SELECT 'a' --c\n 'b'", vec!["'a' --c\n 'b'"]),
        ("SELECT N'x', B'01', X'1F'", vec!["'x'"]),
        ("SELECT /* c */ 1", vec!["1"]),
        ("SELECT 'a\\'", vec!["'a\\'"]),
        ("SELECT u&E'x'", vec!["E'x'"]),
    ] {
        let (key, found) = read_one(text);
        assert_eq!(found, literals, "{text} => {key}");
        assert!(!is_fast(text), "{text}");
        crate::sql::parse::parse(&key).unwrap();
    }
}

#[test]
fn what_versions_read_differently_is_refused() {
    for text in [
        "SELECT 0x1F",
        "SELECT 1_000",
        "SELECT $1abc",
        "SELECT 1abc",
        "SELECT 0b1",
        "SELECT 1.5e",
        "SELECT\x0b1",
        "SELECT $99999999",
    ] {
        let denial = slow_only(text).unwrap_err();
        assert_eq!(denial.error.sqlstate, sqlstate::SYNTAX_ERROR, "{text}");
        assert!(!is_fast(text), "{text}");
    }
    for text in
        ["SELECT 'a' 'b'", "SELECT 'a' /* c */\n 'b'", "SELECT 'a", "SELECT \"a", "SELECT /* a", "SELECT 'a\0'", "SELECT $$a"]
    {
        assert!(slow_only(text).is_err(), "{text:?}");
        assert!(!is_fast(text), "{text:?}");
    }
}

#[test]
fn statements_are_split_where_postgresql_splits_them() {
    let count = |text: &str| {
        let mut scratch = Scratch::default();
        read(text, &mut scratch).unwrap();
        scratch.statements().len()
    };
    assert_eq!(count(""), 0);
    assert_eq!(count(" ;; -- x\n /* y */"), 0);
    assert_eq!(count("SELECT 1; SELECT ';' ; COMMIT"), 3);
    assert_eq!(count("SELECT $$;$$;SELECT \";\""), 2);
    assert_eq!(count("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END; SELECT 3"), 2);
    assert!(!is_fast("(--\n;SELECT"));
    assert_eq!(count("CREATE RULE r AS ON UPDATE TO t DO (DELETE FROM a; DELETE FROM b); SELECT 3;"), 2);
}

#[test]
fn texts_that_look_like_stand_ins_keep_their_literals() {
    for text in [
        "SELECT 'qzaaab', 1",
        "SELECT 2107300007, 1",
        "SELECT qzaaab, 1",
        "SELECT \"qzaaab\", 1",
        "SELECT 7107300000000000000001.5, 2",
    ] {
        let (key, literals) = read_one(text);
        assert_eq!((key.as_str(), literals.len()), (text, 0));
        assert_eq!(cut(text, 0).unwrap(), [Segment::Text(text.into())]);
    }
    assert!(slow_only("SELECT qzslotint4").is_err());
}

#[test]
fn refined_keys_hold_the_kept_values() {
    let refine_text = |text: &str, keep: &[u16]| {
        let mut scratch = Scratch::default();
        read(text, &mut scratch).unwrap();
        refine(text, &scratch, &scratch.statements()[0], keep).unwrap()
    };
    let refined = refine_text("SELECT a, 'x' FROM t ORDER BY 1", &[1]);
    assert_eq!(refined, Refined { key: "SELECT a, 'qzaaaa' FROM t ORDER BY 1".into(), live: 2 });
    let refined = refine_text("SELECT E'\\161zaaaa', 1", &[0]);
    assert_eq!(refined.live, 0);
    assert!(refined.key.contains("E'\\161zaaaa'") && refined.key.ends_with(", 1"));
}

#[test]
fn printed_text_is_cut_at_literals_and_slots() {
    let printed = "SELECT 'qzaaaa' FROM t WHERE a OPERATOR(pg_catalog.=) 'qzslotint4'::int AND b = -2107300001";
    assert_eq!(
        cut(printed, 2).unwrap(),
        [
            Segment::Text("SELECT ".into()),
            Segment::Literal(0),
            Segment::Text(" FROM t WHERE a OPERATOR(pg_catalog.=) ".into()),
            Segment::Tenant(TenantType::Int4),
            Segment::Text(" AND b = -".into()),
            Segment::Literal(1),
        ]
    );
    for bad in ["SET x TO qzaaaa", "SELECT 'qzslotint4'::int8", "SELECT 'qzslotint4'", "SELECT \"qzaaaa\"", "SELECT 1 -- x"] {
        assert!(cut(bad, 1).is_err(), "{bad}");
    }
}

#[test]
fn slots_print_as_the_cut_expects() {
    use pg_query::NodeEnum;
    for type_ in TenantType::ALL {
        let mut tree = parse::parse("SELECT 1 AS x").unwrap();
        let Some(NodeEnum::SelectStmt(select)) = tree.stmts[0].stmt.as_mut().unwrap().node.as_mut() else { panic!() };
        let Some(NodeEnum::ResTarget(target)) = select.target_list[0].node.as_mut() else { panic!() };
        target.val = Some(Box::new(sentinel::slot_node(type_)));
        let printed = parse::print(&tree).unwrap();
        assert_eq!(
            cut(printed.text(), 0).unwrap(),
            [Segment::Text("SELECT ".into()), Segment::Tenant(type_), Segment::Text(" AS x".into())]
        );
    }
}

#[test]
fn values_of_the_grammar_and_errors_of_the_client() {
    let parse_one = |text: &str| {
        let mut scratch = Scratch::default();
        read(text, &mut scratch).unwrap();
        let last = scratch.statements().last().unwrap().clone();
        parse_statement(text, &scratch, &last).map(|(refined, _)| refined)
    };
    assert_eq!(parse_one("SELECT 1::float(24)").unwrap(), Refined { key: "SELECT 1::float(24)".into(), live: 0 });
    assert_eq!(parse_one("SELECT 'é', 1").unwrap(), Refined { key: "SELECT 'qzaaaa', 2107300001".into(), live: 2 });
    for (text, message, position) in [
        ("SELECT 'é'; SELECT 7 7", "syntax error at or near \"7\"", 22),
        ("SELECT 'x' FROM 'y'", "syntax error at or near \"'y'\"", 17),
        ("SELECT (", "syntax error at end of input", 9),
    ] {
        let denial = parse_one(text).unwrap_err();
        assert_eq!((denial.error.message.as_ref(), denial.error.position), (message, Some(position)), "{text}");
    }
}

/// Pieces that meet each other in every order.
fn token_soup() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "SELECT",
            "a",
            "e",
            "E",
            "n",
            "u",
            "U&",
            "b",
            "x",
            "qz",
            "qzaaaa",
            "atomic",
            "'x'",
            "'it''s'",
            "'",
            "''",
            "\"q\"",
            "\"",
            "\"\"",
            "1",
            "0",
            "42",
            "1.5",
            ".5",
            "5.",
            "1e5",
            "1e",
            "2147483648",
            "9999999999",
            "99999999999999999999",
            "0x1F",
            "1_0",
            "$1",
            "$2",
            "$",
            "$$",
            "$q$",
            "(",
            ")",
            "[",
            "]",
            ",",
            ";",
            ":",
            "::",
            ":=",
            ".",
            "..",
            "*",
            "/",
            "-",
            "--",
            "/*",
            "*/",
            "+",
            "=",
            "<",
            ">",
            "||",
            "&",
            "!",
            "?",
            "#",
            "`",
            "\\",
            " ",
            "\n",
            "\t",
            "\r",
            "\x0b",
            "\x0c",
            "é",
            "\u{212a}",
            "\0",
            "UESCAPE",
            "2107300000",
            "'qzaaaa'",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,6}",
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// Statements as applications write them.
fn plausible_sql() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        "'[a-z ]{0,8}'".prop_map(|s| s),
        "[0-9]{1,12}".prop_map(|s| s),
        "[0-9]{1,3}\\.[0-9]{0,3}".prop_map(|s| s),
        Just("$1".to_owned()),
        Just("NULL".to_owned()),
        Just("E'\\\\'".to_owned()),
        Just("$$x$$".to_owned()),
    ];
    prop::collection::vec(
        (value, prop::sample::select(vec![", ", ",", " + ", "=", "||", "\n, ", " /*c*/ , ", "; SELECT "])),
        1..8,
    )
    .prop_map(|parts| {
        let mut text = "SELECT ".to_owned();
        for (i, (value, separator)) in parts.iter().enumerate() {
            if i > 0 {
                text.push_str(separator);
            }
            text.push_str(value);
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_fast_lexer_agrees_with_the_scanner_on_soup(text in token_soup()) {
        lexer::fuzz(text.as_bytes());
    }

    #[test]
    fn the_fast_lexer_agrees_with_the_scanner_on_sql(text in plausible_sql()) {
        lexer::fuzz(text.as_bytes());
    }

    #[test]
    fn cutting_a_key_and_filling_it_gives_the_text_back(text in plausible_sql()) {
        let mut scratch = Scratch::default();
        read(&text, &mut scratch).unwrap();
        for statement in scratch.statements() {
            let live = statement.literals.len() as u16;
            let mut filled = String::new();
            for segment in cut(scratch.key(statement), live).unwrap() {
                match segment {
                    Segment::Text(piece) => filled.push_str(&piece),
                    Segment::Literal(i) => {
                        let range = &statement.literals[usize::from(i)];
                        filled.push_str(&text[range.start as usize..range.end as usize]);
                    }
                    Segment::Tenant(_) => unreachable!("no slot was put in"),
                }
            }
            let source = &text[statement.source.start as usize..statement.source.end as usize];
            let words = |s: &str| s.replace("/*c*/", " ").split_whitespace().collect::<Vec<_>>().join("");
            prop_assert_eq!(words(&filled), words(source));
        }
    }
}
