//! Why a handle cannot be built.

/// Why a handle cannot be built as it was asked to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An option is out of its range.
    #[error("{option} is {given}, and must be {accepted}")]
    OutOfRange {
        /// The setter of the builder.
        option: &'static str,
        /// What it was given.
        given: String,
        /// What it takes.
        accepted: &'static str,
    },
    /// The handle runs tasks of its own, and there is no runtime for them.
    #[error("a handle runs on tokio: build it inside a tokio runtime, such as under #[tokio::main]")]
    NoRuntime,
    /// A URL names no store that this build of the crate has.
    #[error("{url}: {reason}")]
    UnknownStore {
        /// The scheme, without what may be a password.
        url: String,
        /// What is accepted.
        reason: &'static str,
    },
}
