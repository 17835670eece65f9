//! gridpoint-graph.
