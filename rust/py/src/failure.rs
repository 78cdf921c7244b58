//! The one place where errors become Python exceptions.

use farspan_core::Error;
use numpy::BorrowError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a function of this module can fail with.
pub(crate) enum Failure {
    Farspan(Error),
    Python(PyErr),
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Farspan(error)
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Failure::Python(error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> PyErr {
        match failure {
            Failure::Python(error) => error,
            Failure::Farspan(error) => Python::attach(|py| raise(py, &error)),
        }
    }
}

fn raise(py: Python<'_>, error: &Error) -> PyErr {
    static ARGUMENT: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static DTYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static BACKEND: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let (class, name) = match error {
        Error::Argument { .. } => (&ARGUMENT, "ArgumentError"),
        Error::Dtype { .. } => (&DTYPE, "DtypeError"),
        Error::Backend { .. } => (&BACKEND, "BackendError"),
    };
    match class.import(py, "farspan._errors", name) {
        Ok(class) => PyErr::from_type(class.clone(), error.to_string()),
        Err(missing) => missing,
    }
}

/// An array that is not of the kind, type or rank it must be.
pub(crate) fn dtype(argument: &'static str, expected: impl Into<String>, given: impl ToString) -> Error {
    Error::Dtype { argument, expected: expected.into(), given: given.to_string() }
}

/// A refused borrow: the array is read-only, or shares memory with another argument.
pub(crate) fn borrow(argument: &'static str, error: BorrowError) -> Error {
    let given = match error {
        BorrowError::NotWriteable => "a read-only array",
        _ => "an array that overlaps another argument",
    };
    Error::argument(argument, "memory of its own", given)
}

/// Runs `work` without the interpreter lock.
pub(crate) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> farspan_core::Result<T> + Send) -> Outcome<T> {
    guarded(|| Ok(py.detach(work)?))
}

/// Runs `work`. A panic is a bug of ours; it still must not unwind into the interpreter.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Error::backend("farspan", "no internal failure", text.unwrap_or("a panic")).into())
    })
}
