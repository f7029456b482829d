//! Small integer keys: strings are looked up once, at the edge, and everything inside goes by number.

/// A place in a [`crate::slab::Slab`].
pub trait Key: Copy + Ord {
    fn from_index(index: u32) -> Self;
    fn index(self) -> u32;
}

macro_rules! key {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl Key for $name {
            fn from_index(index: u32) -> Self {
                Self(index)
            }

            fn index(self) -> u32 {
                self.0
            }
        }
    };
}

key!(
    /// An agent in the master's table. Given out again once the agent has been removed.
    AgentKey
);
key!(
    /// A framework in the master's table. Given out again once the framework has been removed.
    FrameworkKey
);
key!(
    /// A task in the master's table. Given out again once the task has been removed.
    TaskKey
);
key!(
    /// An open offer in the master's table.
    OfferKey
);
key!(
    /// An executor in the master's table.
    ExecutorKey
);
key!(
    /// An operation in the master's table. Given out again once its last status was acknowledged.
    OperationKey
);
