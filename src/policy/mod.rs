//! Policies: what files say ([`model`]), what that means for a catalog ([`epoch`]), and what follows for a statement
//! ([`decide`]). Pure.

mod catalogs;
pub mod decide;
pub mod epoch;
pub mod functions;
pub mod model;

pub use catalogs::CatalogRule;
pub use decide::{Permit, RowFilter, decide};
pub use epoch::{PolicyProblem, PolicySet};
