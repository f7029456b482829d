//! Where artifacts come from: one reader of bytes for every kind of source.
