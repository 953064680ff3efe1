//! When two answers are equal: DESIGN's closed list. Widening it needs a reason.

use std::collections::HashMap;

use super::answer::{Answer, Column, Part, Report, Row};
use super::cluster::Cluster;
use super::wire::Wire;

/// The first OID that a database gives to its own objects; those below are the same in every database.
const FIRST_OWN_OID: u32 = 16_384;

/// Names of a database's own objects, by OID.
#[derive(Debug, Default)]
pub struct Names(HashMap<u32, String>);

impl Names {
    pub fn load(cluster: &Cluster, database: &str) -> Names {
        let mut wire = Wire::connect(&cluster.superuser(database)).expect("superuser connection");
        let answer = wire.query(
            "SELECT oid, 'type ' || oid::regtype FROM pg_type WHERE oid >= 16384 UNION SELECT oid, 'class ' || oid::regclass FROM pg_class \
             WHERE oid >= 16384 UNION SELECT oid, 'schema ' || nspname FROM pg_namespace WHERE oid >= 16384 \
             UNION SELECT oid, 'function ' || oid::regprocedure FROM pg_proc WHERE oid >= 16384",
        );
        let text = |v: &Option<Vec<u8>>| String::from_utf8_lossy(v.as_deref().unwrap_or_default()).into_owned();
        Names(answer.rows().map(|row| (text(&row[0]).parse().expect("an OID"), text(&row[1]))).collect())
    }

    fn of(&self, oid: u32) -> String {
        if oid < FIRST_OWN_OID { oid.to_string() } else { self.0.get(&oid).cloned().unwrap_or_else(|| "unknown".to_owned()) }
    }
}

/// How rows are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// ORDER BY is total.
    Total,
    /// As a multiset.
    Any,
    /// Only how many.
    Counted,
    /// Which rows come is not determined (TABLESAMPLE): their description only.
    Random,
}

/// An answer with what DESIGN lists taken out; equal answers have equal shapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    parts: Vec<PartShape>,
    error: Option<Vec<(char, String)>>,
    notices: Vec<Vec<(char, String)>>,
    status: Option<u8>,
}

/// Name, type by name, type modifier, format.
type ColumnShape = (Vec<u8>, String, i32, i16);

#[derive(Clone, Debug, PartialEq, Eq)]
struct PartShape {
    columns: Option<Vec<ColumnShape>>,
    rows: Vec<Row>,
    copied: Vec<Vec<u8>>,
    tag: Option<String>,
}

impl Shape {
    pub fn of(answer: &Answer, names: &Names, order: Order) -> Shape {
        // How many rows had left when an error came depends on buffers and on the plan, not on the answer.
        let whole = answer.error.is_none();
        // Which rows were kept depends on how they came; their number is in the tag.
        let order = if answer.truncated && order != Order::Random { Order::Counted } else { order };
        Shape {
            parts: answer.parts.iter().filter(|p| whole || p.tag.is_some()).map(|p| part_shape(p, names, order)).collect(),
            error: answer.error.as_ref().map(report_shape),
            notices: answer.notices.iter().map(report_shape).collect(),
            status: answer.status,
        }
    }

    /// What differs from the twin's, for a reader; `None` where the shapes are equal. Fields that quote rows may have
    /// been scrubbed from the errors of constraints.
    pub fn difference(&self, twin: &Shape) -> Option<String> {
        let other = &twin.scrubbed_like(self).with_name_error_of(self);
        if self == other {
            return None;
        }
        let (mut what, mut rows) = (Vec::new(), String::new());
        if self.error != other.error {
            what.push(format!("error: {:?} / {:?}", self.error, other.error));
        }
        if self.notices != other.notices {
            what.push(format!("notices: {:?} / {:?}", self.notices, other.notices));
        }
        if self.status != other.status {
            what.push(format!("transaction status: {:?} / {:?}", self.status.map(char::from), other.status.map(char::from)));
        }
        if self.parts.len() != other.parts.len() {
            what.push(format!("{} / {} results", self.parts.len(), other.parts.len()));
        }
        for (a, b) in self.parts.iter().zip(&other.parts) {
            if a.columns != b.columns {
                what.push(format!("columns: {} / {}", show_columns(a), show_columns(b)));
            }
            if a.tag != b.tag {
                what.push(format!("tag: {:?} / {:?}", a.tag, b.tag));
            }
            if a.rows != b.rows {
                what.push(format!("rows: {} / {}", a.rows.len(), b.rows.len()));
                rows.push_str(&format!("\n  {}", show_rows(&a.rows, &b.rows)));
            }
            if a.copied != b.copied {
                what.push("copied data".to_owned());
            }
        }
        Some(what.join("; ") + &rows)
    }
}

impl Shape {
    /// Where PostgreSQL can prove an arm of UNION ALL to be empty, or of CASE never to be reached, the others' type modifiers are
    /// those of the result: what it can prove differs with the plan (guards keep it from folding a condition).
    pub fn without_type_modifiers(&self) -> Shape {
        let mut shape = self.clone();
        let columns = shape.parts.iter_mut().flat_map(|part| part.columns.iter_mut().flatten());
        columns.for_each(|(_, _, modifier, _)| *modifier = -1);
        shape
    }

    /// Of equal values that are written differently (`9` and `9.00`), INTERSECT gives those of the arm that the planner takes for
    /// the smaller one (generate_nonunion_paths of prepunion.c): numbers without their scale.
    pub fn without_scales(&self) -> Shape {
        let mut shape = self.clone();
        for part in &mut shape.parts {
            let columns = part.columns.iter().flatten().map(|(_, of, _, format)| (of == "1700", *format)).collect::<Vec<_>>();
            for (value, (_, format)) in part.rows.iter_mut().flat_map(|row| row.iter_mut().zip(&columns)).filter(|(_, c)| c.0) {
                match value {
                    // Behind the number of digits, the weight and the sign (numeric_send).
                    Some(bytes) if *format == 1 => bytes[6..8].fill(0),
                    Some(text) if text.contains(&b'.') => {
                        let zeros = text.iter().rev().take_while(|b| **b == b'0').count();
                        text.truncate(text.len() - zeros);
                        text.pop_if(|last| *last == b'.');
                    }
                    Some(_) | None => {}
                }
            }
            part.rows.sort_unstable();
        }
        shape
    }

    /// Two errors of class 42 (names, types, syntax) are the same answer: of several mistakes in a statement either may be
    /// told, and hints guess at what was meant; so it is with WITH queries that name each other. Neither has read a row. What a
    /// policy refuses (42501) is none of them.
    fn with_name_error_of(self, proxy: &Shape) -> Shape {
        let named = |error: &Option<Vec<(char, String)>>| {
            error.iter().flatten().any(|(l, v)| match l {
                'C' => v.starts_with("42") && v != "42501",
                'M' => v.starts_with("mutual recursion between WITH items"),
                _ => false,
            })
        };
        if named(&self.error) && named(&proxy.error) {
            return Shape { error: proxy.error.clone(), ..self };
        }
        self
    }

    fn scrubbed_like(&self, other: &Shape) -> Shape {
        let mut shape = self.clone();
        let (Some(fields), Some(others)) = (&mut shape.error, &other.error) else { return shape };
        if !fields.iter().any(|(l, v)| *l == 'C' && v.starts_with("23")) {
            return shape;
        }
        let theirs = others.iter().find(|(l, _)| *l == 'D').map(|(_, v)| v.as_str());
        if let Some(i) = fields.iter().position(|(l, _)| *l == 'D') {
            match theirs {
                None => drop(fields.remove(i)),
                Some(theirs) if *theirs == without_key(&fields[i].1) => fields[i].1 = theirs.to_owned(),
                Some(_) => {}
            }
        }
        shape
    }
}

/// `Key (id)=(1) is still referenced ..` as PostgreSQL writes it where the reader may not see the key.
fn without_key(detail: &str) -> String {
    match (detail.find(" ("), detail.rfind(") ")) {
        (Some(from), Some(to)) if from < to && detail.contains(")=(") => format!("{}{}", &detail[..from], &detail[to + 1..]),
        _ => detail.to_owned(),
    }
}

/// The first rows that only one side has; where both have the same, the first that is at another place.
fn show_rows(ours: &[Row], twins: &[Row]) -> String {
    const SHOWN: usize = 3;
    let show = |row: &Row| {
        let values = row.iter().map(|v| v.as_ref().map_or("NULL".to_owned(), |v| String::from_utf8_lossy(v).into_owned()));
        format!("({})", values.collect::<Vec<_>>().join(", "))
    };
    let without = |rows: &[Row], others: &[Row]| {
        let mut left: HashMap<&Row, usize> = HashMap::new();
        others.iter().for_each(|row| *left.entry(row).or_default() += 1);
        let alone = rows.iter().filter(|row| left.get_mut(row).is_none_or(|n| n.checked_sub(1).map(|less| *n = less).is_none()));
        alone.take(SHOWN).map(show).collect::<Vec<_>>().join(" ")
    };
    match (without(ours, twins), without(twins, ours)) {
        (a, b) if a.is_empty() && b.is_empty() => {
            let other = ours.iter().zip(twins).enumerate().find(|(_, (a, b))| a != b);
            other.map(|(i, (a, b))| format!("row {}: {} / {}", i + 1, show(a), show(b))).unwrap_or_default()
        }
        (a, b) => format!("only here: {a} / {b}"),
    }
}

fn show_columns(part: &PartShape) -> String {
    let columns = part.columns.iter().flatten();
    columns
        .map(|(name, of, typmod, _)| format!("{} {of}({typmod})", String::from_utf8_lossy(name)))
        .collect::<Vec<_>>()
        .join(", ")
}

fn part_shape(part: &Part, names: &Names, order: Order) -> PartShape {
    let columns = part.columns.as_ref();
    let mut rows: Vec<Row> = part.rows.iter().map(|row| normal_row(row, columns, names)).collect();
    let mut copied = part.copied.clone();
    match order {
        Order::Total => {}
        Order::Any => {
            rows.sort_unstable();
            copied.sort_unstable();
        }
        Order::Counted | Order::Random => rows.clear(),
    }
    PartShape {
        columns: columns.map(|c| c.iter().map(|c| (c.name.clone(), names.of(c.type_oid), c.typmod, c.format)).collect()),
        rows,
        copied,
        tag: if order == Order::Random { None } else { part.tag.clone() },
    }
}

/// OIDs by name; ctid and xid of no account.
fn normal_row(row: &Row, columns: Option<&Vec<Column>>, names: &Names) -> Row {
    const OID: u32 = 26;
    const TID: u32 = 27;
    const XID: u32 = 28;
    let kind = |i: usize| columns.and_then(|c| c.get(i)).map_or(0, |c| c.type_oid);
    row.iter()
        .enumerate()
        .map(|(i, value)| match (kind(i), value) {
            (OID, Some(value)) => {
                let oid = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                Some(oid.map_or_else(|| value.clone(), |oid| names.of(oid).into_bytes()))
            }
            (TID | XID, Some(_)) => Some(b"(physical)".to_vec()),
            (_, value) => value.clone(),
        })
        .collect()
}

/// Without file, line and routine; without positions, which count in another text.
fn report_shape(report: &Report) -> Vec<(char, String)> {
    report.0.iter().filter(|(letter, _)| !"FLRPpq".contains(**letter)).map(|(l, v)| (*l, v.clone())).collect()
}
