//! Numbers that carry their own proof: card and account numbers, identity numbers of persons.

/// The digits of a number that is written in groups: one blank or hyphen (or any of `also`) between digits, nothing else.
fn grouped(text: &str, also: &[u8]) -> Option<Vec<u8>> {
    let mut digits = Vec::with_capacity(text.len());
    let mut after_digit = false;
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' => digits.push(byte - b'0'),
            b' ' | b'-' if after_digit => {}
            other if after_digit && also.contains(&other) => {}
            _ => return None,
        }
        after_digit = byte.is_ascii_digit();
    }
    // One digit again and again fits many a sum.
    (after_digit && digits.iter().any(|d| *d != digits[0])).then_some(digits)
}

fn plain(text: &str) -> Option<Vec<u8>> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| grouped(text, &[])).flatten()
}

fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |n, d| n.wrapping_mul(10).wrapping_add(u64::from(*d)))
}

fn weighted(digits: &[u8], weights: impl IntoIterator<Item = u32>) -> u32 {
    digits.iter().zip(weights).map(|(d, w)| u32::from(*d) * w).sum()
}

/// ISO/IEC 7812-1, annex B.
fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| {
            let value = u32::from(*d) << (i % 2);
            if value > 9 { value - 9 } else { value }
        })
        .sum();
    sum.is_multiple_of(10)
}

/// A card number: range of the issuer, length, Luhn. Maestro's ranges are left out, they are too wide, and Visa's 13 digits,
/// which are as long as an EAN.
pub(super) fn is_pan(text: &str) -> bool {
    let Some(digits) = grouped(text, &[]) else { return false };
    if digits.len() < 14 {
        return false;
    }
    let issued = matches!(
        (number(&digits[..4]), digits.len()),
        (4000..=4999, 16 | 19)
            | (5100..=5599 | 2221..=2720, 16)
            | (3400..=3499 | 3700..=3799, 15)
            | (3528..=3589, 16..=19)
            | (3000..=3059 | 3095 | 3600..=3699 | 3800..=3999, 14)
            | (6011 | 6440..=6599, 16 | 19)
            | (6200..=6299, 16..=19)
    );
    issued && luhn(&digits)
}

/// Lengths by country, of the IBAN registry.
const IBANS: [(u8, &str); 18] = [
    (15, "NO"),
    (16, "BE"),
    (18, "DK FI FO GL NL SD"),
    (19, "MK SI"),
    (20, "AT BA EE KZ LT LU MN XK"),
    (21, "CH HR LI LV"),
    (22, "BG BH CR DE GB GE IE ME RS VA"),
    (23, "AE GI IL IQ OM SO TL"),
    (24, "AD CZ ES MD PK RO SA SE SK TN VG"),
    (25, "LY PT ST"),
    (26, "IS TR"),
    (27, "BI DJ FR GR IT MC MR SM"),
    (28, "AL AZ BY CY DO GT HU LB NI PL SV"),
    (29, "BR EG PS QA UA"),
    (30, "JO KW MU YE"),
    (31, "MT SC"),
    (32, "LC"),
    (33, "RU"),
];

/// ISO 13616: a country that has them, its length, mod 97.
pub(super) fn is_iban(text: &str) -> bool {
    let bare: Vec<u8> = text.bytes().filter(|b| *b != b' ').map(|b| b.to_ascii_uppercase()).collect();
    if bare.len() < 15 || !bare.iter().all(u8::is_ascii_alphanumeric) || !bare[2..4].iter().all(u8::is_ascii_digit) {
        return false;
    }
    let listed = IBANS.iter().any(|(length, countries)| {
        usize::from(*length) == bare.len() && countries.split(' ').any(|c| c.as_bytes() == &bare[..2])
    });
    listed
        && bare[4..].iter().chain(&bare[..4]).fold(0, |rest: u32, b| match b {
            b'0'..=b'9' => (rest * 10 + u32::from(b - b'0')) % 97,
            _ => (rest * 100 + u32::from(b - b'A') + 10) % 97,
        }) == 1
}

/// USA: the format's rules; there is no sum, so that the hyphens are part of it.
pub(super) fn is_ssn(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() != 11 || bytes[3] != b'-' || bytes[6] != b'-' {
        return false;
    }
    let Some(digits) = grouped(text, &[]).filter(|d| d.len() == 9) else { return false };
    let (area, group, serial) = (number(&digits[..3]), number(&digits[3..5]), number(&digits[5..]));
    !matches!(area, 0 | 666 | 900..) && group != 0 && serial != 0
}

/// Spain: DNI and NIE, the letter is the rest of the number by 23.
pub(super) fn is_dni(text: &str) -> bool {
    let bare: Vec<u8> = text.bytes().filter(|b| !matches!(b, b'-' | b' ' | b'.')).map(|b| b.to_ascii_uppercase()).collect();
    let [first, middle @ .., letter] = bare.as_slice() else { return false };
    let first = match first {
        b'X'..=b'Z' => first - b'X',
        b'0'..=b'9' => first - b'0',
        _ => return false,
    };
    if middle.len() != 7 || !middle.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let number = middle.iter().fold(usize::from(first), |n, b| n * 10 + usize::from(b - b'0'));
    b"TRWAGMYFPDXBNJZSQVHLCKE"[number % 23] == *letter
}

/// Italy: codice fiscale, with its letters for digits where two persons would have the same.
pub(super) fn is_codice_fiscale(text: &str) -> bool {
    /// What a character is worth in an odd place: 0 to 9 are worth what A to J are.
    const ODD: [u32; 26] = [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    let code = text.to_ascii_uppercase();
    let code = code.as_bytes();
    let fits = |b: &u8, kind: &u8| match kind {
        b'a' => b.is_ascii_uppercase(),
        b'm' => b"ABCDEHLMPRST".contains(b),
        _ => b.is_ascii_digit() || b"LMNPQRSTUV".contains(b),
    };
    if code.len() != 16 || !code.iter().zip(b"aaaaaa00m00a000a").all(|(b, kind)| fits(b, kind)) {
        return false;
    }
    let worth = |b: u8| if b.is_ascii_digit() { b - b'0' } else { b - b'A' };
    let sum: u32 = code[..15]
        .iter()
        .enumerate()
        .map(|(i, b)| if i % 2 == 0 { ODD[usize::from(worth(*b))] } else { u32::from(worth(*b)) })
        .sum();
    sum % 26 == u32::from(code[15] - b'A')
}

/// France: NIR with its key, mod 97; of Corsica with 2A or 2B.
pub(super) fn is_nir(text: &str) -> bool {
    let bare: String = text.chars().filter(|c| *c != ' ').collect::<String>().to_ascii_uppercase();
    if bare.len() != 15 || !bare.is_ascii() {
        return false;
    }
    let corsican = |department: &str| format!("{}{department}{}", &bare[..5], &bare[7..]);
    let bare = match &bare[5..7] {
        "2A" => corsican("19"),
        "2B" => corsican("18"),
        _ => bare,
    };
    let Some(digits) = plain(&bare) else { return false };
    let month = number(&digits[3..5]);
    let dated = matches!(digits[0], 1..=4 | 7 | 8) && matches!(month, 1..=12 | 20..=42 | 50..=99);
    dated && 97 - number(&digits[..13]) % 97 == number(&digits[13..])
}

/// The Netherlands: BSN, by the rule of eleven.
pub(super) fn is_bsn(text: &str) -> bool {
    let Some(digits) = plain(text).filter(|d| d.len() == 9) else { return false };
    let sum = weighted(&digits[..8], (2..=9).rev());
    sum % 11 == u32::from(digits[8])
}

/// Poland: PESEL, a date (the century is in the month) and a digit.
pub(super) fn is_pesel(text: &str) -> bool {
    let Some(digits) = plain(text).filter(|d| d.len() == 11) else { return false };
    let (month, day) = (number(&digits[2..4]) % 20, number(&digits[4..6]));
    let sum = weighted(&digits, [1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]);
    matches!((month, day), (1..=12, 1..=31)) && sum.is_multiple_of(10)
}

/// Brazil: CPF, two digits mod 11.
pub(super) fn is_cpf(text: &str) -> bool {
    let Some(digits) = grouped(text, b".").filter(|d| d.len() == 11) else { return false };
    let check = |length: u8| {
        let rest = weighted(&digits[..usize::from(length)], (2..=u32::from(length) + 1).rev()) * 10 % 11;
        rest % 10 == u32::from(digits[usize::from(length)])
    };
    check(9) && check(10)
}

/// Sweden: personnummer, a date (a coordination number has 60 more days) and Luhn.
pub(super) fn is_personnummer(text: &str) -> bool {
    let Some(digits) = grouped(text, b"+") else { return false };
    let short = match digits.len() {
        12 if matches!(number(&digits[..2]), 18..=20) => &digits[2..],
        10 => &digits[..],
        _ => return false,
    };
    let is_divided = short.len() + usize::from(digits.len() == 12) * 2 == text.len()
        || matches!(text.as_bytes()[text.len() - 5], b'-' | b'+') && text.len() == digits.len() + 1;
    let (month, day) = (number(&short[2..4]), number(&short[4..6]));
    is_divided && matches!((month, day), (1..=12, 1..=31 | 61..=91)) && luhn(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Check = fn(&str) -> bool;

    /// Numbers that the schemes themselves, or pages about them, print as examples.
    const EXAMPLES: [(Check, &[&str]); 10] = [
        (
            is_pan,
            &[
                "4111111111111111",
                "4242 4242 4242 4242",
                "5555-5555-5555-4444",
                "2223003122003222",
                "378282246310005",
                "6011111111111117",
                "30569309025904",
                "3530111333300000",
            ],
        ),
        (
            is_iban,
            &[
                "GB82 WEST 1234 5698 7654 32",
                "DE89370400440532013000",
                "FR1420041010050500013M02606",
                "CH9300762011623852957",
                "NL91ABNA0417164300",
                "ES9121000418450200051332",
                "IT60X0542811101000000123456",
                "PL61109010140000071219812874",
                "SE4550000000058398257466",
                "BE68539007547034",
                "NO9386011117947",
                "BR1800360305000010009795493C1",
                "MT84MALT011000012345MTLCAST001S",
            ],
        ),
        (is_ssn, &["123-45-6789", "078-05-1120"]),
        (is_dni, &["12345678Z", "X1234567L", "12345678-z", "Z1234567R"]),
        (is_codice_fiscale, &["RSSMRA85T10A562S", "MRTMTT25D09F205Z"]),
        (is_nir, &["2 55 08 14 168 025 38", "255081416802538"]),
        (is_bsn, &["111222333", "123456782"]),
        (is_pesel, &["44051401359", "02070803628"]),
        (is_cpf, &["111.444.777-35", "52998224725"]),
        (is_personnummer, &["811228-9874", "640823-3234", "198112289874", "811228+9874"]),
    ];

    #[test]
    fn documented_examples_fit_and_do_not_with_one_digit_changed() {
        for (check, examples) in EXAMPLES {
            for example in examples {
                assert!(check(example), "{example}");
                let at = example.rfind(|c: char| c.is_ascii_digit()).unwrap();
                // A rule without a sum sees no difference.
                if !is_ssn(example) {
                    let other = if example.as_bytes()[at] == b'7' { "8" } else { "7" };
                    let broken = format!("{}{other}{}", &example[..at], &example[at + 1..]);
                    assert!(!check(&broken), "{broken}");
                }
            }
        }
    }

    #[test]
    fn what_has_the_sum_only_does_not_fit() {
        for text in [
            "0000000000000000",
            "79927398713",
            "4111 1111 1111  1111",
            "4111111111111111 ",
            "-4111111111111111",
            "490154203237518",
        ] {
            assert!(!is_pan(text), "{text}");
        }
        for text in ["GB82WEST1234569876543", "XX82WEST12345698765432", "DE", "", "DE89 3704 0044 0532 0130 0ö"] {
            assert!(!is_iban(text), "{text}");
        }
        for text in ["000-45-6789", "666-45-6789", "900-45-6789", "123-00-6789", "123-45-0000", "123456789", "12-345-6789"] {
            assert!(!is_ssn(text), "{text}");
        }
        assert!(!is_bsn("000000000") && !is_cpf("111.111.111-11") && !is_dni("ÄÖ345678Z") && !is_dni(""));
        assert!(!is_personnummer("811328-9871") && !is_pesel("44053201359") && !is_nir("2550814168025é"));
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in "\\PC{0,24}", digits in "[0-9A-Z +.-]{0,24}") {
            for (check, _) in EXAMPLES {
                let _ = (check(&text), check(&digits));
            }
        }

        /// One number in ten has the sum: not more of them are card numbers.
        #[test]
        fn few_of_any_numbers_fit(numbers in proptest::collection::vec(1_000_000_000_000_000_u64..9_999_999_999_999_999, 200)) {
            prop_assert!(numbers.iter().filter(|n| is_pan(&n.to_string())).count() < 40);
        }
    }
}
