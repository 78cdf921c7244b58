//! A part of a vocabulary, and the holders of the others.

use crate::arrays::{integers, readwrite, slice_mut};
use crate::failure::{Failure, Outcome, dtype, guarded};
use crate::named::named;
use farspan_core::draw::sum_ranks;
use farspan_core::unembed::Shard;
use numpy::ndarray::Ix1;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

named! {
    /// `farspan.VocabularyShard`.
    pub(crate) struct Place<A> {
        first: usize,
        vocab: usize,
        gather: A,
    }
}

/// The caller among the holders of a vocabulary.
pub(crate) type Holder = Place<Py<PyAny>>;

impl Holder {
    /// The part that the caller holds.
    pub(crate) fn shard(&self) -> Shard {
        Shard { first: self.first, vocab: self.vocab }
    }

    /// Sends bytes to every holder; gives what all of them sent.
    pub(crate) fn gather(&self, own: &[u8]) -> Outcome<Vec<Vec<u8>>> {
        Python::attach(|py| {
            let sent = self.gather.bind(py).call1((PyBytes::new(py, own),))?;
            let parts: Vec<PyBackedBytes> = sent.extract().map_err(|_| {
                Failure::from(dtype("gather", "a function that gives a list of bytes", sent.get_type()))
            })?;
            Ok(parts.iter().map(|part| part.to_vec()).collect())
        })
    }
}

/// Sums the ranks that each holder `counted` among its own tokens, where `rank` says that they are open.
#[pyfunction]
#[pyo3(name = "sum_ranks", signature = (shard, counted, rank, /))]
pub(crate) fn sum_of_ranks<'py>(shard: Holder, counted: &Bound<'py, PyAny>, rank: &Bound<'py, PyAny>) -> Outcome {
    let counted = integers("counted", counted)?;
    let mut rank = readwrite::<i64, Ix1>("rank", rank)?;
    let rank = slice_mut("rank", &mut rank)?;
    let own: Vec<u8> = counted.iter().flat_map(|count| count.to_le_bytes()).collect();
    guarded(|| Ok(sum_ranks(rank, &shard.gather(&own)?)?))
}
