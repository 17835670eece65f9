//! gridpoint-driver.
