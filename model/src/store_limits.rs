//! How much the jobs of a role may keep.

/// Bounds on what tasks keep in the stores of their jobs. Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// The longest name of a job, and the longest key; neither may be empty.
    pub name: usize,
    pub value: usize,
    pub keys_of_job: usize,
    pub bytes_of_job: u64,
    pub jobs_of_role: usize,
    pub bytes_of_role: u64,
    /// Of all roles together.
    pub bytes: u64,
}

impl StoreLimits {
    /// What an entry counts for beside its key and its value.
    pub const ENTRY: u64 = 64;

    /// What an entry counts for.
    pub fn size_of(key: &str, value: &[u8]) -> u64 {
        Self::ENTRY + key.len() as u64 + value.len() as u64
    }
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            name: 256,
            value: 64 << 10,
            keys_of_job: 1024,
            bytes_of_job: 4 << 20,
            jobs_of_role: 4096,
            bytes_of_role: 64 << 20,
            bytes: 512 << 20,
        }
    }
}
