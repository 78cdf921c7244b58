//! `_core.sample_part` and `_core.sample_merge`: a draw from a vocabulary of which each process holds a part.

use crate::failure::{Outcome, detached};
use crate::settings::{Draws as DrawArrays, GivenArrays, Owned};
use crate::unembed::{Arguments, Drawing, Problem, SampleArrays, SampleBuffers};
use farspan_core::draw::{Part, Results, merge, plans};
use farspan_core::unembed::Shard;
use farspan_core::{Error, Result};
use farspan_cpu::unembed;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// What a part of the vocabulary, `(first, vocab)`, says of all rows, or of the rows that a merge left `undecided`.
#[pyfunction]
#[pyo3(signature = (problem, draws, settings, shard, undecided, /))]
pub(crate) fn sample_part<'py>(
    py: Python<'py>,
    problem: Arguments<'_, 'py>,
    draws: DrawArrays<Bound<'py, PyAny>>,
    settings: Option<GivenArrays<'py>>,
    shard: (usize, usize),
    undecided: Option<Vec<usize>>,
) -> Outcome<Bound<'py, PyBytes>> {
    let (problem, drawing) = (Problem::new(problem)?, Drawing::new(&draws)?);
    let ((hidden, weight, rules), draws) = (problem.parts()?, drawing.view()?);
    let settings = settings.as_ref().map(Owned::new).transpose()?;
    let settings = settings.as_ref().map(Owned::view).transpose()?;
    let shard = Shard { first: shard.0, vocab: shard.1 };
    let bytes = detached(py, || {
        unembed::part(hidden, weight, &draws, settings.as_ref(), &rules, shard, undecided.as_deref())?.to_bytes()
    })?;
    Ok(PyBytes::new(py, &bytes))
}

/// Merges the parts of all `exist` tokens and writes what was drawn; gives the rows that it leaves undecided. With
/// `undecided`, the parts are of those rows.
#[pyfunction]
#[pyo3(signature = (parts, draws, settings, exist, undecided, out, /))]
pub(crate) fn sample_merge<'py>(
    py: Python<'py>,
    parts: Vec<Bound<'py, PyBytes>>,
    draws: DrawArrays<Bound<'py, PyAny>>,
    settings: Option<GivenArrays<'py>>,
    exist: usize,
    undecided: Option<Vec<usize>>,
    out: SampleArrays<'py>,
) -> Outcome<Vec<usize>> {
    let parts = parts.iter().map(|bytes| Part::from_bytes(bytes.as_bytes())).collect::<Result<Vec<_>>>()?;
    let drawing = Drawing::new(&draws)?;
    let (draws, mut buffers) = (drawing.view()?, SampleBuffers::new(&out)?);
    let settings = settings.as_ref().map(Owned::new).transpose()?;
    let settings = settings.as_ref().map(Owned::view).transpose()?;
    let (rows, out) = (draws.seed.len(), buffers.out()?);
    draws.check(rows)?;
    let (samples, top) = settings.map_or((1, 0), |settings| (settings.samples, settings.top));
    if let Some(settings) = &settings {
        settings.check(rows, usize::MAX, exist)?;
    }
    let mut results = Results::new(out, rows, samples, top)?;
    let all = undecided.clone().unwrap_or_else(|| (0..rows).collect());
    if let Some(row) = all.iter().find(|row| **row >= rows) {
        return Err(Error::argument("rows", format!("rows below {rows}"), row).into());
    }
    detached(py, || {
        let plans = plans(Some(&draws), settings.as_ref(), rows, exist);
        merge(parts, &plans, &all, undecided.is_some(), exist, &mut results)
    })
}
