//! Arguments that several commands take, and what is said of those that cannot be understood.

pub(crate) mod capture;
pub(crate) mod inspect;
pub(crate) mod model;
mod numbers;
pub(crate) mod plan;
pub(crate) mod products;
pub(crate) mod subject;
pub(crate) mod usage;

pub(crate) use numbers::{integer_64, natural_32, natural_64, positive, real};
