//! Arguments that several commands take.

pub(crate) mod model;
pub(crate) mod plan;
