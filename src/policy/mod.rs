//! Policies: what files say ([`model`], [`load`]), and what follows from it for a statement ([`decide`]). Pure: no I/O but
//! reading the files in [`load`].

pub mod model;
