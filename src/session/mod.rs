//! wip
pub mod cancel;
pub mod scrub;
pub mod settings;
pub mod shared;
pub mod socket;
pub mod startup;
pub mod tenant;
