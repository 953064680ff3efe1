//! Policies: what files say ([`load`], [`model`]), what that means for a catalog ([`epoch`]), and what follows for a statement
//! ([`decide`]). No I/O but reading the files in [`load`].

mod catalogs;
pub mod decide;
pub mod epoch;
pub mod expected;
pub mod expression;
pub mod functions;
pub mod limits;
pub mod load;
pub mod lock;
pub mod masks;
pub mod model;
pub mod temporary;

pub use catalogs::{CatalogRule, Rows};
pub use decide::{LastValue, MaskedColumn, Permit, RowFilter, decide};
pub use epoch::PolicySet;
pub use load::PolicyProblem;
