//! The device of a call, its memory, and the tensors in it. Nothing of this is owned here: Python allocated it, and
//! holds it until the work is done.

use crate::failure::{Failure, Outcome};
use farspan_core::{Error, Result};
use farspan_cuda::{Compiler, Device, Gpu, Tensor, emulator, unembed};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyFloat, PyTuple};
use std::path::PathBuf;

/// Runs kernels on the CPU, over NumPy's memory, for tests: the library is built from `rust/cuda/emulator`.
#[pyclass(frozen, module = "farspan._core")]
pub(crate) struct Emulator(emulator::Emulator);

#[pymethods]
impl Emulator {
    /// Opens the library at `path`; `seed` chooses the order in which threads run.
    #[new]
    #[pyo3(signature = (path, seed=0, /))]
    fn new(path: PathBuf, seed: u64) -> PyResult<Self> {
        let opened = emulator::Emulator::open(&path).map_err(Failure::from)?;
        Ok(Emulator(opened.with_seed(seed)))
    }

    /// The names of the kernels that ran here.
    fn launched(&self) -> Vec<String> {
        self.0.launched()
    }
}

/// Where a call runs.
pub(crate) enum Place<'py> {
    Gpu(Gpu<'static>),
    Emulated(Bound<'py, Emulator>),
}

impl Place<'_> {
    pub(crate) fn device(&self) -> &dyn Device {
        match self {
            Place::Gpu(gpu) => gpu,
            Place::Emulated(emulator) => &emulator.get().0,
        }
    }
}

/// Memory of the device for one call: an object of `farspan._device`.
pub(crate) struct Memory<'py>(Bound<'py, PyAny>);

impl<'py> Memory<'py> {
    pub(crate) fn new(object: &Bound<'py, PyAny>) -> Self {
        Memory(object.clone())
    }

    /// `(ordinal, stream)` of a GPU, or an [`Emulator`].
    pub(crate) fn place(&self) -> Outcome<Place<'py>> {
        let place = self.0.getattr("place")?;
        if let Ok(emulator) = place.cast::<Emulator>() {
            return Ok(Place::Emulated(emulator.clone()));
        }
        let (ordinal, stream) = place.extract::<(usize, u64)>()?;
        // SAFETY: torch gave the handle of its current stream on that device, and keeps its streams for good.
        Ok(Place::Gpu(unsafe { Gpu::new(ordinal, stream, Compiler::shared()?) }?))
    }
}

impl farspan_cuda::Memory for Memory<'_> {
    type Failure = Failure;
    type Bytes = PyBackedBytes;

    fn allocate(&self, bytes: usize) -> Outcome<u64> {
        if bytes == 0 {
            return Ok(0);
        }
        Ok(self.0.call_method1("allocate", (bytes,))?.extract()?)
    }

    fn upload(&self, bytes: &[u8]) -> Outcome<u64> {
        if bytes.is_empty() {
            return Ok(0);
        }
        Ok(self.0.call_method1("upload", (PyBytes::new(self.0.py(), bytes),))?.extract()?)
    }

    fn download(&self, pointer: u64, bytes: usize) -> Outcome<PyBackedBytes> {
        let found = self.0.call_method1("download", (pointer, bytes))?;
        Ok(found.extract().map_err(PyErr::from)?)
    }
}

/// Address, shape, and strides in elements.
pub(crate) type Array = (u64, Vec<usize>, Vec<i64>);

/// As a tensor of `N` dimensions.
pub(crate) fn tensor<const N: usize>(argument: &'static str, (pointer, shape, strides): Array) -> Result<Tensor<N>> {
    match (<[usize; N]>::try_from(shape), <[i64; N]>::try_from(strides)) {
        (Ok(shape), Ok(strides)) => Ok(Tensor { pointer, shape, strides }),
        (Err(shape), _) => Err(Error::argument(argument, format!("{N} dimensions"), format!("shape {shape:?}"))),
        (_, Err(strides)) => Err(Error::argument(argument, format!("{N} strides"), format!("{strides:?}"))),
    }
}

/// A setting of each row: `[rows]` on the device; or the one number of all rows, a float or an integer of Python, and
/// how many rows there are.
pub(crate) enum PerRow {
    Each(Array),
    All(unembed::PerRow),
}

impl PerRow {
    pub(crate) fn read(self, argument: &'static str) -> Result<unembed::PerRow> {
        match self {
            PerRow::Each(array) => Ok(unembed::PerRow::Each(tensor(argument, array)?)),
            PerRow::All(number) => Ok(number),
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for PerRow {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let tuple = given.cast::<PyTuple>()?;
        if tuple.len() != 2 {
            return Ok(PerRow::Each(given.extract()?));
        }
        let (value, rows) = (tuple.get_item(0)?, tuple.get_item(1)?.extract()?);
        let number = match value.is_instance_of::<PyFloat>() {
            true => unembed::PerRow::number(value.extract::<f64>()? as f32, rows),
            false => unembed::PerRow::integer(value.extract()?, rows),
        };
        Ok(PerRow::All(number))
    }
}

/// A tensor seen as `shape`: leading dimensions are added, dimensions of size 1 repeated.
pub(crate) fn broadcast<const N: usize>(
    argument: &'static str,
    (pointer, given, strides): Array,
    shape: [usize; N],
) -> Result<Tensor<N>> {
    let error = || Error::argument(argument, format!("broadcastable to {shape:?}"), format!("{given:?}"));
    Tensor::broadcast(pointer, &given, &strides, shape).ok_or_else(error)
}
