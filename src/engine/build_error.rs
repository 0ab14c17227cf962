//! Errors of the builder.

/// Why a handle cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An option is out of its range.
    #[error("{option} is {given}, and must be {accepted}")]
    OutOfRange {
        /// The name of the setter.
        option: &'static str,
        /// The value that was set.
        given: String,
        /// The accepted range.
        accepted: &'static str,
    },
    /// There is no tokio runtime for the handle's tasks.
    #[error(
        "a handle runs on tokio: build it inside a tokio runtime, such as under #[tokio::main]"
    )]
    NoRuntime,
    /// A URL names no store that this build of the crate has.
    #[error("{url}: {reason}")]
    UnknownStore {
        /// The scheme alone, because the rest of the URL may contain a password.
        url: String,
        /// What is accepted.
        reason: &'static str,
    },
}
