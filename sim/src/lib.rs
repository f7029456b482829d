//! The pure cores on a seeded network and a virtual clock.
