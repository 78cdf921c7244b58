//! How failures of the machine are worded.

use std::error::Error as _;

/// The system loader's own words; libloading keeps them behind its error.
pub(crate) fn loader(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}
