//! gridpoint-plan.
