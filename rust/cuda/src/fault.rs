//! How failures of the machine are worded.

use farspan_core::Error;
use std::error::Error as _;

/// The machine stands in the way: `expected` says what is needed and, where there is one, the next step to take.
pub(crate) fn backend(argument: &'static str, expected: impl Into<String>, given: impl ToString) -> Error {
    Error::Backend { argument, expected: expected.into(), given: given.to_string() }
}

/// The system loader's own words; libloading keeps them behind its error.
pub(crate) fn loader(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}
