//! From text to template to trees, and the check of what goes out. Pure: no I/O.
//!
//! ```text
//! text -> lexer (fast) | template::slow (PostgreSQL's scanner) -> Template: key + literals
//! key  -> parse (libpg_query) + second (sqlparser)             -> one verdict, or a Denial
//! tree -> parse::print -> verify -> template::cut              -> the segments of a plan
//! ```
pub mod analyse;
pub mod change;
pub mod copy;
pub mod form;
pub(crate) mod kinds;
pub mod lexer;
pub mod parse;
pub mod resolve;
pub mod script;
pub mod second;
pub mod sentinel;
pub mod shape;
pub mod template;
pub mod tree;
pub mod types;
pub mod verify;

pub use template::{Literals, Segment, Template, TenantType};
