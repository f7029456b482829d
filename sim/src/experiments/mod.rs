//! What is simulated, and what is measured of it.

pub mod chaos;
pub mod drf;
pub mod paper;
