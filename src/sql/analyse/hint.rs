//! The guesses that PostgreSQL makes about names that lead nowhere (searchRangeTableForCol, errorMissingRTE of
//! parse_relation.c).

use super::Analyser;
use super::scope::{Item, RteKind};
use crate::error::sqlstate;
use crate::finding::Denial;

/// `MAX_FUZZY_DISTANCE`.
const MOST: usize = 3;

/// A column that may have been meant: table and column as the client sees them.
type Match = (String, String);

/// The closest columns so far, as FuzzyAttrMatchState has them.
struct Closest {
    distance: usize,
    first: Option<Match>,
    second: Option<Match>,
}

impl Analyser<'_> {
    /// The hint for `table.column` (or a bare column) that no entry has.
    pub(super) fn column_hint(&self, table: Option<&str>, column: &str) -> Option<String> {
        let mut closest = Closest { distance: MOST + 1, first: None, second: None };
        for scope in self.scopes.iter().rev() {
            for item in &scope.items {
                let (Some(name), Some(rte)) = (&item.name, item.rte) else { continue };
                if self.rtes[rte].kind == RteKind::Merged {
                    continue;
                }
                let penalty = table.map_or(0, |t| distance(t, name).min(MOST + 2));
                for (known, _) in &item.columns {
                    if known == column && penalty == 0 {
                        return Some(format!(
                            "There is a column named \"{column}\" in table \"{name}\", but it cannot be referenced from this part of the query."
                        ));
                    }
                    closest.note(penalty, column, (name.clone(), known.clone()));
                }
            }
        }
        let named = |(table, column): &Match| format!("column \"{table}.{column}\"");
        match (&closest.first, &closest.second) {
            (Some(first), Some(second)) => {
                Some(format!("Perhaps you meant to reference the {} or the {}.", named(first), named(second)))
            }
            (Some(first), None) => Some(format!("Perhaps you meant to reference the {}.", named(first))),
            (None, _) => None,
        }
    }
}

impl Analyser<'_> {
    /// 42P01 for the table of `table.column` that is no entry in scope (errorMissingRTE).
    pub(super) fn missing_entry(&self, qualifier: &[&str]) -> Denial {
        let (schema, name) = match qualifier {
            [name] => ("", *name),
            [.., schema, name] => (*schema, *name),
            [] => ("", ""),
        };
        let relation = self.find_relation(schema, name).map(|r| r.oid).ok();
        let of_it = |item: &&Item| {
            let kind = item.rte.map(|rte| &self.rtes[rte].kind);
            matches!(kind, Some(RteKind::Relation { oid, usage: _ }) if Some(*oid) == relation)
        };
        let Some(item) = self.scopes.iter().rev().find_map(|scope| scope.items.iter().find(of_it)) else {
            return Denial::invalid(sqlstate::UNDEFINED_TABLE, format!("missing FROM-clause entry for table \"{name}\""));
        };
        let message = format!("invalid reference to FROM-clause entry for table \"{name}\"");
        let hint = match &item.name {
            Some(alias) if alias != name && item.relation_visible => {
                format!("Perhaps you meant to reference the table alias \"{alias}\".")
            }
            Some(_) | None => {
                format!("There is an entry for table \"{name}\", but it cannot be referenced from this part of the query.")
            }
        };
        Denial::invalid(sqlstate::UNDEFINED_TABLE, message).hint(hint)
    }
}

impl Closest {
    /// updateFuzzyAttrMatchState.
    fn note(&mut self, penalty: usize, wanted: &str, found: Match) {
        if penalty > self.distance {
            return;
        }
        let column = distance(&found.1, wanted);
        // More than half of it differs.
        if column > wanted.len() / 2 {
            return;
        }
        let total = column + penalty;
        if total < self.distance {
            *self = Closest { distance: total, first: Some(found), second: None };
        } else if total == self.distance {
            if self.second.is_some() {
                // Too many are as close as that.
                *self = Closest { distance: self.distance.saturating_sub(1), first: None, second: None };
            } else if self.first.is_some() {
                self.second = Some(found);
            } else if self.distance <= MOST {
                self.first = Some(found);
            }
        }
    }
}

/// Levenshtein distance in characters. Names have at most 63 bytes.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("note", "nope"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn three_of_one_distance_are_none() {
        let mut closest = Closest { distance: MOST + 1, first: None, second: None };
        for column in ["nota", "notb"] {
            closest.note(0, "note", ("t".to_owned(), column.to_owned()));
        }
        assert!(closest.second.is_some());
        closest.note(0, "note", ("t".to_owned(), "notc".to_owned()));
        assert!(closest.first.is_none());
    }
}
