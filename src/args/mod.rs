//! Arguments that several commands take.

pub(crate) mod plan;
