//! One error type for every layer; the Python module maps each variant to one exception class.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// Why a call was refused or failed.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// An argument has a value or a shape that the operation does not accept. `farspan.ArgumentError`.
    Argument {
        /// The public name of the argument.
        argument: &'static str,
        /// What the operation accepts.
        expected: String,
        /// What came.
        given: String,
        /// The error behind it.
        cause: Option<Cause>,
    },
    /// An argument has an element type that the operation does not accept. `farspan.DtypeError`.
    Dtype {
        /// The public name of the argument.
        argument: &'static str,
        /// What the operation accepts.
        expected: String,
        /// What came.
        given: String,
    },
    /// The machine, not the caller, stands in the way. `farspan.BackendError`.
    Backend {
        /// The resource or setting at fault.
        argument: &'static str,
        /// What was needed.
        expected: String,
        /// What was found.
        given: String,
        /// The error behind it.
        cause: Option<Cause>,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of another library that an [`Error`] was made of. Two are equal when they say the same.
#[derive(Debug, Clone)]
pub struct Cause(Arc<dyn StdError + Send + Sync>);

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_string() == other.0.to_string()
    }
}

impl Error {
    /// An [`Error::Argument`].
    pub fn argument(argument: &'static str, expected: impl Into<String>, given: impl ToString) -> Self {
        Error::Argument { argument, expected: expected.into(), given: given.to_string(), cause: None }
    }

    /// An [`Error::Backend`].
    pub fn backend(argument: &'static str, expected: impl Into<String>, given: impl ToString) -> Self {
        Error::Backend { argument, expected: expected.into(), given: given.to_string(), cause: None }
    }

    /// The same of an argument that goes by another name.
    pub fn renamed(mut self, name: impl FnOnce(&'static str) -> &'static str) -> Self {
        let (Error::Argument { argument, .. } | Error::Dtype { argument, .. } | Error::Backend { argument, .. }) =
            &mut self;
        *argument = name(argument);
        self
    }

    /// The same with the error behind it, which [`source`](StdError::source) gives.
    pub fn because(mut self, error: impl StdError + Send + Sync + 'static) -> Self {
        if let Error::Argument { cause, .. } | Error::Backend { cause, .. } = &mut self {
            *cause = Some(Cause(Arc::new(error)));
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Error::Argument { argument, expected, given, .. }
        | Error::Dtype { argument, expected, given }
        | Error::Backend { argument, expected, given, .. }) = self;
        write!(f, "{argument}: expected {expected}, given {given}")
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Error::Argument { cause: Some(cause), .. } | Error::Backend { cause: Some(cause), .. } => Some(&*cause.0),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_behind_an_error_is_its_source() {
        let number = "x".parse::<i32>().unwrap_err();
        for error in [Error::argument("k", "a number", "x"), Error::backend("k", "a number", "x")] {
            assert!(error.source().is_none());
            let told = error.clone().because(number.clone());
            assert_eq!(told.source().unwrap().downcast_ref(), Some(&number));
            assert_eq!(told.to_string(), error.to_string());
            assert_eq!(told, error.clone().because(number.clone()));
            assert_ne!(told, error);
        }
    }
}
