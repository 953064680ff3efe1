//! Policies: what files say ([`model`], [`load`]), and what follows from it for a statement ([`decide`]). Pure: no I/O but
//! reading the files in [`load`].

pub mod expression;
pub mod load;
pub mod model;

pub use load::PolicyProblem;
