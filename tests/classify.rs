//! How often proposals of classes are right: precision and recall on the columns of `classify.txt`, values made here.

use std::fmt::Write as _;

use bulkhead::rules::classify::{Confidence, Proposal, Sample, propose};

const COLUMNS: &str = include_str!("classify.txt");
/// Values of each column.
const MANY: usize = 60;

/// A line of the list.
struct Column {
    table: &'static str,
    name: &'static str,
    type_: &'static str,
    /// `None`: nothing is to be proposed.
    class: Option<&'static str>,
    values: Vec<String>,
}

/// What was proposed for the columns of a part.
#[derive(Default)]
struct Measured {
    right: usize,
    /// Another class, or one where there is none.
    false_: usize,
    /// Another class, or none where there is one.
    missed: usize,
    /// Columns with a class, and without.
    with: usize,
    without: usize,
    errors: String,
}

impl Measured {
    fn precision(&self) -> f64 {
        self.right as f64 / (self.right + self.false_) as f64
    }

    fn recall(&self) -> f64 {
        self.right as f64 / (self.right + self.missed) as f64
    }
}

#[test]
fn precision_and_recall() {
    // Precision and recall by name, type and values; and by name and type alone. A little less than is measured.
    let parts = [
        ("held-out", (0.98, 0.92), (0.98, 0.80)),
        ("published", (0.85, 0.57), (0.85, 0.57)),
        ("tuned", (0.97, 0.93), (0.97, 0.82)),
    ];
    for (part, least, least_without_values) in parts {
        for (with_values, (precision, recall)) in [(true, least), (false, least_without_values)] {
            let measured = measure(&columns(part), with_values);
            println!(
                "{part}, {} values: {} columns with a class, {} without: precision {:.3}, recall {:.3}\n{}",
                if with_values { "with" } else { "without" },
                measured.with,
                measured.without,
                measured.precision(),
                measured.recall(),
                measured.errors
            );
            assert!(measured.precision() >= precision && measured.recall() >= recall, "{part}: as printed above");
        }
    }
}

/// One number in ten has a digit that fits: a column of any numbers is not taken for cards or persons.
#[test]
fn values_of_things_are_no_persons() {
    const THINGS: &str = "digits9 digits12 digits16 order_id order_code millis imei ean13 isbn13 aba uuid git_commit sha256 \
                          price version serial small_number masked_pan base64_md5 sentence url timestamp recent_date";
    for many in [5, MANY as u64] {
        let mut found = Vec::new();
        for kind in THINGS.split_whitespace() {
            for seed in 0..150 {
                let mut chance = Chance(seed);
                let values: Vec<String> = (0..many).map(|i| value(kind, i, &mut chance)).collect();
                let values: Vec<&str> = values.iter().map(String::as_str).collect();
                let proposal = propose(&Sample { table: "t", column: "c", type_: "text", values: &values });
                found.extend(proposal.map(|p| (kind, seed, p.because)));
            }
        }
        assert!(found.is_empty(), "{found:?}");
    }
}

fn measure(columns: &[Column], with_values: bool) -> Measured {
    let mut measured = Measured::default();
    for column in columns {
        let values: Vec<&str> = column.values.iter().map(String::as_str).filter(|_| with_values).collect();
        let sample = Sample { table: column.table, column: column.name, type_: column.type_, values: &values };
        let proposal = propose(&sample);
        if let Some(proposal) = &proposal {
            check(&sample, proposal);
        }
        let found = proposal.as_ref().map(|p| p.class);
        match column.class {
            Some(_) => measured.with += 1,
            None => measured.without += 1,
        }
        measured.right += usize::from(found.is_some() && found == column.class);
        measured.false_ += usize::from(found.is_some() && found != column.class);
        measured.missed += usize::from(column.class.is_some() && found != column.class);
        if found != column.class {
            let because = proposal.map_or(String::new(), |p| format!(": {}", p.because));
            let (expected, found) = (column.class.unwrap_or("-"), found.unwrap_or("-"));
            let _ = writeln!(measured.errors, "  {}.{} is {expected}, not {found}{because}", column.table, column.name);
        }
    }
    measured
}

/// What is true of every proposal.
fn check(sample: &Sample<'_>, proposal: &Proposal) {
    let is_text = matches!(sample.type_.split('(').next(), Some("text" | "character varying" | "character"));
    assert!(is_text && !sample.type_.ends_with("[]") || proposal.mask == "null", "{sample:?} {proposal:?}");
    let is_long = |v: &&&str| v.len() > 8;
    assert!(!sample.values.iter().filter(is_long).any(|v| proposal.because.contains(v)), "{proposal:?}");
    assert!(!sample.values.is_empty() || proposal.confidence == Confidence::Name, "{proposal:?}");
}

fn columns(part: &str) -> Vec<Column> {
    let heading = format!("[{part}]");
    let lines = COLUMNS.lines().skip_while(|l| *l != heading).skip(1).take_while(|l| !l.starts_with('['));
    lines.filter(|l| !l.starts_with('#')).map(column).collect()
}

fn column(line: &'static str) -> Column {
    let parse = || {
        let (place, rest) = line.split_once(' ')?;
        let (table, name) = place.split_once('.')?;
        let (type_, rest) = rest.split_once(" -> ")?;
        let (class, values) = rest.split_once(" :")?;
        Some((table, name, type_, class, values.trim()))
    };
    let (table, name, type_, class, kind) = parse().unwrap_or_else(|| panic!("{line}"));
    let mut chance = Chance(line.bytes().fold(7, |n, b| n * 31 % 1_000_003 + u64::from(b)));
    let mut values: Vec<String> = (0..MANY as u64).filter(|_| !kind.is_empty()).map(|i| value(kind, i, &mut chance)).collect();
    // What people enter where they have nothing to say.
    if type_ == "text" && !values.is_empty() {
        values[11].clear();
        values[29] = "n/a".into();
    }
    Column { table, name, type_, class: Some(class).filter(|c| *c != "-"), values }
}

/// The same numbers each time (Knuth's MMIX generator).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one_of<'w>(&mut self, words: &'w str) -> &'w str {
        let words: Vec<&str> = words.split(' ').collect();
        words[self.below(words.len() as u64) as usize]
    }

    fn text(&mut self, alphabet: &str, length: usize) -> String {
        let letters: Vec<char> = alphabet.chars().collect();
        (0..length).map(|_| letters[self.below(letters.len() as u64) as usize]).collect()
    }

    fn digits(&mut self, length: usize) -> String {
        self.text("0123456789", length)
    }

    fn date(&mut self, from: u64, years: u64) -> (u64, u64, u64) {
        (from + self.below(years), 1 + self.below(12), 1 + self.below(28))
    }
}

const FIRST: &str = "Ada Béla Carla Dmitri Eva Farid Greta Hugo Ines Jonas Kim Lena Mario Nadia Oskar";
const LAST: &str = "Muster Example Rossi Dupont Jansen García Nowak Silva Svensson Specimen Doe Roe";
const WORDS: &str = "alpha basic standard premium monthly blue oak north report draft archive summer general review public_pages";
const STREETS: &str = "Hauptstrasse High_Street Calle_Mayor Rue_Haute Via_Roma Elm_Avenue";
const HEX: &str = "0123456789abcdef";
const BASE36: &str = "0123456789abcdefghijklmnopqrstuvwxyz";
const BASE64: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// The value number `i` of a kind.
fn value(kind: &str, i: u64, c: &mut Chance) -> String {
    let spaced = |text: &str| text.replace('_', " ");
    match kind {
        "serial" => (i + 1).to_string(),
        "small_number" => c.below(90).to_string(),
        "bool" => ["t", "f"][c.below(2) as usize].into(),
        "four_digits" => c.digits(4),
        "digits9" => c.digits(9),
        "digits12" => c.digits(12),
        "digits16" => format!("4{}", c.digits(15)),
        "order_id" => (4_000_310_000 + i * 7 + c.below(5)).to_string(),
        "order_code" => format!("{}{}", c.text("ABCDEFGHKLM", 2), c.digits(7)),
        "millis" => (1_700_000_000_000 + c.below(90_000_000_000)).to_string(),
        "price" => format!("{}.{}", c.below(400), c.digits(2)),
        "salary" => format!("{}.00", 2000 + c.below(90) * 100),
        "word" => c.one_of(WORDS).into(),
        "status" => c.one_of("new open paid daily weekly never").into(),
        "state" => c.one_of("Ohio Bayern Utah Normandie Galicia").into(),
        "country" => c.one_of("de fr es it us pl").into(),
        "product" => format!("{} {} {}", c.one_of("Oak Blue Light Fast"), c.one_of("table lamp bolt cable soap"), c.below(90)),
        "sentence" => format!("The {} one of {} was {}.", c.one_of(WORDS), c.one_of(WORDS), c.one_of("good late broken sent")),
        "path" => format!("uploads/{}/{}.jpg", c.below(90), c.one_of(WORDS)),
        "url" => format!("https://www.example.com/{}/{}", c.one_of(WORDS), c.below(900)),
        "user_agent" => format!("Mozilla/5.0 (X11; Linux x86_64; rv:{0}.0) Gecko/20100101 Firefox/{0}.0", 100 + c.below(40)),
        "version" => format!("{}.{}.{}.{}", c.below(9), c.below(20), c.below(20), c.below(60)),
        "timestamp" => {
            let (year, month, day) = c.date(2019, 6);
            format!("{year}-{month:02}-{day:02} {:02}:{:02}:07+00", c.below(24), c.below(60))
        }
        "recent_date" | "birth_date" => {
            let (year, month, day) = if kind == "birth_date" { c.date(1930, 80) } else { c.date(2015, 10) };
            format!("{year}-{month:02}-{day:02}")
        }
        "first_name" => c.one_of(FIRST).into(),
        "last_name" => c.one_of(LAST).into(),
        "full_name" => format!("{} {}", c.one_of(FIRST), c.one_of(LAST)),
        "handle" => format!("{}{}", c.one_of("ada bela carla dmitri eva farid"), c.below(90)),
        "email" => format!("{}.{}@example.{}", c.one_of("ada bela carla eva"), c.below(999), c.one_of("com org net")),
        "phone" => format!("+{} {} {}", c.one_of("1 44 49 34"), c.below(900) + 100, c.digits(7)),
        "phone_national" => format!("0{} {}", c.below(900) + 100, c.digits(6)),
        "phone_plain" => format!("{}{}", 1 + c.below(9), c.digits(9)),
        "city" => c.one_of("Berlin Lyon Madrid Ohio Torino").into(),
        "street" => format!("{} {}", spaced(c.one_of(STREETS)), c.below(200)),
        "flat" => format!("Apt. {}", c.below(40)),
        "zip" => format!("{}{}", 1 + c.below(9), c.digits(4)),
        "gender" => c.one_of("m f x").into(),
        "religion" => c.one_of("none rk ev islam jewish").into(),
        "blood_group" => c.one_of("A+ A- B+ 0+ 0- AB+").into(),
        "health_note" => format!("{} since {} days", spaced(c.one_of("head_ache cough back_pain")), c.below(30)),
        "icd" => format!("{}{}.{}", c.text("ABCEGJKM", 1), c.digits(2), c.below(10)),
        "latitude" => format!("{}.{}", c.below(90), c.digits(6)),
        "ip4" => format!("{}.{}.{}.{}", 1 + c.below(223), c.below(256), c.below(256), c.below(256)),
        "ip6" => format!("2001:db8:{}::{}", c.text(HEX, 4), c.text(HEX, 4)),
        _ => secret(kind, c).unwrap_or_else(|| numbered(kind, c)),
    }
}

fn secret(kind: &str, c: &mut Chance) -> Option<String> {
    Some(match kind {
        "password" => format!("{}{}!", c.one_of("sommer letmein passw0rd tiger"), c.below(99)),
        "bcrypt" => format!("$2b$12${}", c.text(BASE64, 53)),
        "pbkdf2" => format!("pbkdf2_sha256$600000${}${}=", c.text(BASE64, 22), c.text(BASE64, 43)),
        "phpass" => format!("$P$B{}", c.text(BASE64, 30)),
        "sha256" => c.text(HEX, 64),
        "git_commit" | "hex40" => c.text(HEX, 40),
        "base36" => c.text(BASE36, 32),
        "base32" => c.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 32),
        "base64_key" => c.text(BASE64, 43),
        "base64_md5" => format!("{}==", c.text(BASE64, 22)),
        "aws" => format!("AKIA{}", c.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16)),
        "stripe" => format!("sk_test_{}", c.text(BASE64, 24)),
        "jwt" => format!("eyJhbGciOiJIUzI1NiJ9.eyJ{}.{}", c.text(BASE64, 40), c.text(BASE64, 43)),
        "uuid" => format!("{}-{}-4{}-a{}-{}", c.text(HEX, 8), c.text(HEX, 4), c.text(HEX, 3), c.text(HEX, 3), c.text(HEX, 12)),
        _ => return None,
    })
}

/// Numbers with a checksum, which is found by trying: what tries it is written once more here, by its definition.
fn numbered(kind: &str, c: &mut Chance) -> String {
    let digit = |text: &str, at: usize| u64::from(text.as_bytes()[at] - b'0');
    let sum = |text: &str, weights: &[u64]| -> u64 { weights.iter().enumerate().map(|(i, w)| digit(text, i) * w).sum() };
    let ending = |start: &str, is: &dyn Fn(&str) -> bool| (0..10).map(|d| format!("{start}{d}")).find(|t| is(t));
    match kind {
        "pan" => luhn(&format!("{}{}", c.one_of("4000 5105 2223 6011"), c.digits(11))),
        "pan_grouped" => {
            let number = luhn(&format!("{}{}", c.one_of("4000 5105"), c.digits(11)));
            [&number[..4], &number[4..8], &number[8..12], &number[12..]].join(" ")
        }
        "masked_pan" => format!("**** **** **** {}", c.digits(4)),
        "track2" => format!(";{}=2912101{}?", luhn(&format!("4000{}", c.digits(11))), c.digits(9)),
        "imei" => luhn(&format!("35{}", c.digits(12))),
        "iban" => {
            let account = c.digits(18);
            let rest = format!("{account}131400").bytes().fold(0, |n, b| (n * 10 + u64::from(b - b'0')) % 97);
            format!("DE{:02}{account}", 98 - rest)
        }
        "ean13" | "isbn13" => {
            let start = if kind == "ean13" { format!("40{}", c.digits(10)) } else { format!("978{}", c.digits(9)) };
            let total = sum(&start, &[1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3]);
            format!("{start}{}", (10 - total % 10) % 10)
        }
        "aba" => ending(&format!("02{}", c.digits(6)), &|t| sum(t, &[3, 7, 1, 3, 7, 1, 3, 7, 1]).is_multiple_of(10)).unwrap(),
        "ssn" => format!("{:03}-{:02}-{:04}", 1 + c.below(600), 1 + c.below(99), 1 + c.below(9999)),
        "dni" => {
            let number = c.below(100_000_000);
            format!("{number:08}{}", "TRWAGMYFPDXBNJZSQVHLCKE".chars().nth(number as usize % 23).unwrap())
        }
        "nir" => {
            let start = format!("{}{}{:02}{}{}", 1 + c.below(2), c.digits(2), 1 + c.below(12), 10 + c.below(80), c.digits(6));
            format!("{start}{:02}", 97 - start.parse::<u64>().unwrap() % 97)
        }
        "bsn" => loop {
            let start = format!("1{}", c.digits(7));
            if let Some(number) = ending(&start, &|t| sum(t, &[9, 8, 7, 6, 5, 4, 3, 2, 10]).is_multiple_of(11)) {
                break number;
            }
        },
        "pesel" => {
            let (year, month, day) = c.date(0, 99);
            let start = format!("{year:02}{month:02}{day:02}{}", c.digits(4));
            ending(&start, &|t| sum(t, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]).is_multiple_of(10)).unwrap()
        }
        "cpf" => {
            let start = c.digits(9);
            let check = |total: u64| if total % 11 < 2 { 0 } else { 11 - total % 11 };
            let ten = format!("{start}{}", check(sum(&start, &[10, 9, 8, 7, 6, 5, 4, 3, 2])));
            let all = format!("{ten}{}", check(sum(&ten, &[11, 10, 9, 8, 7, 6, 5, 4, 3, 2])));
            format!("{}.{}.{}-{}", &all[..3], &all[3..6], &all[6..9], &all[9..])
        }
        "personnummer" => {
            let (year, month, day) = c.date(30, 69);
            let number = luhn(&format!("{year:02}{month:02}{day:02}{}", c.digits(3)));
            format!("{}-{}", &number[..6], &number[6..])
        }
        "codice_fiscale" => codice_fiscale(c),
        other => panic!("no values are known as {other}"),
    }
}

/// With the digit that makes the sum a multiple of ten.
fn luhn(start: &str) -> String {
    let doubled = |d: u64| if d > 4 { 2 * d - 9 } else { 2 * d };
    let from_right = start.bytes().rev().map(|b| u64::from(b - b'0')).enumerate();
    let sum: u64 = from_right.map(|(i, d)| if i % 2 == 0 { doubled(d) } else { d }).sum();
    format!("{start}{}", (10 - sum % 10) % 10)
}

fn codice_fiscale(c: &mut Chance) -> String {
    let consonants = "BCDFGLMNPRSTVZ";
    let start = format!(
        "{}{}{}{}{:02}{}{}",
        c.text(consonants, 6),
        c.digits(2),
        c.text("ABCDEHLMPRST", 1),
        "",
        1 + c.below(28),
        c.text("ABCDEFGHL", 1),
        c.digits(3)
    );
    // What the tax office's table says of 0 to 9 and of A to Z in odd places.
    let digits = [1, 0, 5, 7, 9, 13, 15, 17, 19, 21];
    let letters = [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    let sum: usize = start
        .bytes()
        .enumerate()
        .map(|(i, b)| match (i % 2, b) {
            (0, b'0'..=b'9') => digits[usize::from(b - b'0')],
            (0, _) => letters[usize::from(b - b'A')],
            (_, b'0'..=b'9') => usize::from(b - b'0'),
            _ => usize::from(b - b'A'),
        })
        .sum();
    format!("{start}{}", char::from(b'A' + (sum % 26) as u8))
}
