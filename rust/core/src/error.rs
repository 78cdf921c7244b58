//! One error type for every layer; the Python module maps each variant to one exception class.

/// Why a call was refused or failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// An argument has a value or a shape that the operation does not accept. `farspan.ArgumentError`.
    #[error("{argument}: expected {expected}, given {given}")]
    Argument {
        /// The public name of the argument.
        argument: &'static str,
        /// What the operation accepts.
        expected: String,
        /// What came.
        given: String,
    },
    /// An argument has an element type that the operation does not accept. `farspan.DtypeError`.
    #[error("{argument}: expected {expected}, given {given}")]
    Dtype {
        /// The public name of the argument.
        argument: &'static str,
        /// What the operation accepts.
        expected: String,
        /// What came.
        given: String,
    },
    /// The machine, not the caller, stands in the way. `farspan.BackendError`.
    #[error("{argument}: expected {expected}, given {given}")]
    Backend {
        /// The resource or setting at fault.
        argument: &'static str,
        /// What was needed.
        expected: String,
        /// What was found.
        given: String,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Argument`].
    pub fn argument(argument: &'static str, expected: impl Into<String>, given: impl ToString) -> Self {
        Error::Argument { argument, expected: expected.into(), given: given.to_string() }
    }
}
