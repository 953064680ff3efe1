//! What applications are known to say: the forms of their statements ([`crate::sql::form`]), as policies list them.
//!
//! An application whose statements were learned sends others only after a deploy, or when somebody else speaks for it. Its list is a
//! policy file that people read: `bulkhead learn` writes it from the audit log. What is not on it is told by two rules:
//! `unknown-statement`, and `grafted-statement` where a known statement goes on differently after one of its values, as an
//! injection makes it.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::SystemTime;

use crate::sql::form::{FormId, id_of, words_of};

/// The statements that an application is known by.
#[derive(Debug, Default)]
pub struct Learned {
    forms: HashMap<FormId, Box<str>>,
    /// Statements that are unknown, and which known one each goes on from: they are said again, and comparing one with all that is
    /// known takes longer than the rest of its review.
    compared: RwLock<HashMap<FormId, Option<FormId>>>,
    /// It binds its values: a simple query with a constant in it is not its own.
    pub binds: bool,
    /// Until then, what is new passes, if it is no graft: a deploy.
    pub learns_until: Option<SystemTime>,
}

/// So many unknown statements are remembered.
const COMPARED: usize = 4096;

/// What a statement is to an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Familiarity<'l> {
    Known,
    Unknown,
    /// A known one goes on differently after one of its values.
    Graft {
        of: &'l str,
    },
}

impl Learned {
    pub fn new(forms: impl IntoIterator<Item = String>) -> Learned {
        let forms = forms.into_iter().map(|form| (id_of(&form), form.into())).collect();
        Learned { forms, compared: RwLock::default(), binds: false, learns_until: None }
    }

    pub fn knows(&self, id: FormId) -> bool {
        self.forms.contains_key(&id)
    }

    /// Whether what is new passes now.
    pub fn is_learning(&self, now: SystemTime) -> bool {
        self.learns_until.is_some_and(|until| now < until)
    }

    /// `form`: of the statement that has this id. Compares it with all that are known: for what is unknown, not for every statement.
    pub fn familiarity(&self, id: FormId, form: &str) -> Familiarity<'_> {
        if self.knows(id) {
            return Familiarity::Known;
        }
        let remembered = self.compared.read().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
        let graft = remembered.unwrap_or_else(|| {
            let graft = self.graft(form);
            let mut compared = self.compared.write().unwrap_or_else(PoisonError::into_inner);
            // Whoever sends always others gains nothing by it.
            if compared.len() >= COMPARED {
                compared.clear();
            }
            compared.insert(id, graft);
            graft
        });
        match graft.and_then(|of| self.forms.get(&of)) {
            Some(of) => Familiarity::Graft { of },
            None => Familiarity::Unknown,
        }
    }

    fn graft(&self, form: &str) -> Option<FormId> {
        let words: Vec<&str> = words_of(form).collect();
        let grafts = self.forms.iter().filter(|(_, known)| is_graft(known, &words));
        // The longest tells most.
        grafts.max_by(|(_, a), (_, b)| (a.len(), a).cmp(&(b.len(), b))).map(|(id, _)| *id)
    }
}

/// What an injection adds to a statement, and a condition more does not.
const ADDED: [&str; 10] = ["union", "intersect", "except", "or", "select", "case", "when", ";", "values", "table"];

/// What may come right behind a value in a statement that somebody has gone on writing.
const GOES_ON: [&str; 12] = ["and", ")", ",", "order", "group", "limit", "offset", "returning", "for", "from", "where", "on"];

/// Whether a statement is a known one up to one of its values, and has from there on what only an injection adds: another query, an
/// alternative, a case; an operator or a call upon the value, or something else in its place.
fn is_graft(known: &str, words: &[&str]) -> bool {
    let known: Vec<&str> = words_of(known).collect();
    let same = known.iter().zip(words).take_while(|(a, b)| a == b).count();
    // The last value before they part, or what stands in its place.
    let Some(value) = known.iter().take(same + 1).rposition(|word| *word == "?").filter(|_| same >= 4) else { return false };
    let (rest, now) = (&known[value + 1..], &words[value.min(words.len())..]);
    let kept = rest.iter().rev().zip(now.iter().rev()).take_while(|(a, b)| a == b).count();
    let added = &now[..now.len() - kept];
    let goes_on = match (now, same > value) {
        // They part right behind the value.
        ([_, next, ..], true) if same == value + 1 => GOES_ON.contains(next),
        // Further behind it, or at its end.
        (_, true) => true,
        // Something else stands in the value's place.
        (_, false) => now.is_empty(),
    };
    !goes_on || added.iter().any(|word| ADDED.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::form::form;

    fn learned(texts: &[&str]) -> Learned {
        Learned::new(texts.iter().map(|text| form(text).expect("it is read")))
    }

    fn is(learned: &Learned, text: &str) -> &'static str {
        let form = form(text).expect("it is read");
        // Again, as it is remembered.
        let first = learned.familiarity(id_of(&form), &form);
        assert_eq!(first, learned.familiarity(id_of(&form), &form), "{text}");
        match learned.familiarity(id_of(&form), &form) {
            Familiarity::Known => "known",
            Familiarity::Unknown => "unknown",
            Familiarity::Graft { of } => {
                assert!(learned.knows(id_of(of)));
                "graft"
            }
        }
    }

    #[test]
    fn what_somebody_else_writes_is_told_from_what_is_new() {
        let shop = learned(&[
            "SELECT name, price FROM products WHERE id = 7 AND shown",
            "SELECT name FROM customers WHERE (id = 7)",
            "SELECT name FROM products WHERE name LIKE 'a%' ORDER BY name LIMIT 5",
            "INSERT INTO orders (id, note) VALUES (1, 'x')",
        ]);
        for (text, expected) in [
            ("select name, price from products where id = $1 and shown -- x", "known"),
            ("INSERT INTO orders (id, note) VALUES (1, 'x'), (2, 'y')", "known"),
            ("SELECT name, price FROM products WHERE id = 7 OR 1 = 1 AND shown", "graft"),
            ("SELECT name, price FROM products WHERE id = 7 OR 1 = 1 -- AND shown", "graft"),
            ("SELECT name, price FROM products WHERE id = 7 UNION SELECT note, 1 FROM orders", "graft"),
            ("SELECT name, price FROM products WHERE id = (SELECT 1) AND shown", "graft"),
            ("SELECT name, price FROM products WHERE id = CASE WHEN 1 = 1 THEN 1 END AND shown", "graft"),
            ("SELECT name, price FROM products WHERE id = 7 AND (SELECT 1) = 1 AND shown", "graft"),
            ("SELECT name FROM customers WHERE (id = 7) UNION SELECT note FROM orders -- )", "graft"),
            ("SELECT name FROM customers WHERE (id = 7 OR true)", "graft"),
            ("SELECT name FROM products WHERE name LIKE 'x' OR 'a' = 'a' ORDER BY name LIMIT 5", "graft"),
            ("INSERT INTO orders (id, note) VALUES (1, 'x' || (SELECT name FROM customers LIMIT 1))", "graft"),
            ("SELECT name, price FROM products WHERE id = 7 IS NOT NULL AND shown", "graft"),
            ("SELECT name, price FROM products WHERE id = 7 AND id IN (VALUES (1)) AND shown", "graft"),
            ("SELECT name, price FROM products WHERE id = id AND shown", "graft"),
            ("SELECT name, price FROM products WHERE id = coalesce(nullif(5, 5), id) AND shown", "graft"),
            ("SELECT name, price FROM products WHERE id = 7 || (TABLE orders) AND shown", "graft"),
            // A deploy.
            ("SELECT name, price FROM products WHERE id = 7 ORDER BY name", "unknown"),
            ("SELECT name, price, stock FROM products WHERE id = 7 AND shown", "unknown"),
            ("SELECT name, price FROM products WHERE id = 7 AND shown AND stock > 0", "unknown"),
            ("SELECT name, price FROM products WHERE id = 7", "unknown"),
            ("SELECT * FROM orders WHERE id = 1 OR id = 2", "unknown"),
            ("SELECT 1", "unknown"),
        ] {
            assert_eq!(is(&shop, text), expected, "{text}");
        }
    }

    #[test]
    fn a_deploy_has_an_end() {
        let mut shop = learned(&["SELECT 1"]);
        let now = SystemTime::now();
        assert!(!shop.is_learning(now));
        shop.learns_until = Some(now + std::time::Duration::from_secs(1));
        assert!(shop.is_learning(now) && !shop.is_learning(now + std::time::Duration::from_secs(1)));
    }
}
