//! The plan of INSERT .. VALUES with any number of rows that are alike: that of two rows, and what one more row adds to its text,
//! which is taken from the plan of three.

use super::{Built, Plan, Segment};
use crate::sql::template::{self, rows::Rows};

/// What stands in the text for each row after the second.
#[derive(Debug, PartialEq, Eq)]
pub struct Repeated {
    /// Before which segment of the plan.
    at: usize,
    /// Literals are those of the first of these rows.
    row: Box<[Segment]>,
    rows: Rows,
}

impl Repeated {
    /// About how many bytes it takes.
    pub(super) fn size(&self) -> usize {
        self.row.iter().map(Segment::size).sum()
    }
}

impl Plan {
    /// Calls `put` for each piece of the text, in order. `literals`: how many the statement has.
    pub(super) fn each_segment(&self, literals: usize, mut put: impl FnMut(&Segment)) {
        let Some(Repeated { at, row, rows }) = self.repeated.as_deref() else {
            return self.segments.iter().for_each(put);
        };
        let (before, after) = self.segments.split_at(*at);
        before.iter().for_each(&mut put);
        for first in (usize::from(rows.live)..literals).step_by(usize::from(rows.width)) {
            // At most 65,536 literals: they fit.
            let shift = first as u16 - rows.live;
            for segment in row {
                match segment {
                    Segment::Literal(i) => put(&Segment::Literal(i + shift)),
                    Segment::Text(_) | Segment::Tenant(_) => put(segment),
                }
            }
        }
        after.iter().for_each(put);
    }
}

/// `None`: the third row is more, or something else, than the second again.
pub fn of_any_number(two: Built, three: Built, rows: Rows) -> Option<Plan> {
    let added = three.printed.len().checked_sub(two.printed.len())?;
    // One of the places where the longer text has something more. It begins with the comma between two rows.
    let common = two.printed.bytes().zip(three.printed.bytes()).take_while(|(a, b)| a == b).count();
    let is_added_at = |at: &usize| three.printed.get(at + added..) == two.printed.get(*at..);
    let at = (0..=common).rev().take(added).filter(is_added_at).find(|at| three.printed[*at..].starts_with(", ("))?;
    let live = rows.live + rows.width;
    let cut = |text: &str| template::cut(text, live).ok();
    let (before, row, after) =
        (cut(&three.printed[..at])?, cut(&three.printed[at..at + added])?, cut(&three.printed[at + added..])?);
    let second = cut(three.printed.get(at.checked_sub(added)?..at)?)?;
    let as_third = |segment: &Segment| match segment {
        Segment::Literal(i) => i.checked_sub(rows.width).map(|i| Segment::Literal(rows.live + i)),
        Segment::Text(text) => Some(Segment::Text(text.clone())),
        Segment::Tenant(type_) => Some(Segment::Tenant(*type_)),
    };
    let is_same_row = second.iter().map(as_third).eq(row.iter().map(|s| Some(s.clone())));
    let has_its_literals_only =
        |segments: &[Segment], own: bool| segments.iter().all(|s| !matches!(s, Segment::Literal(i) if (*i >= rows.live) != own));
    let are_apart =
        has_its_literals_only(&row, true) && has_its_literals_only(&before, false) && has_its_literals_only(&after, false);
    let mut plan = Plan { segments: vec![], ..two.plan };
    let is_same_plan = plan == Plan { segments: vec![], ..three.plan };
    if !(is_same_row && are_apart && is_same_plan || crate::mutant!("names.any-row-is-repeated")) {
        return None;
    }
    plan.repeated = Some(Box::new(Repeated { at: before.len(), row: row.into(), rows }));
    plan.segments = before.into_iter().chain(after).collect();
    Some(plan)
}
