//! How the CPU holds the arrays of a problem, and what it alone can check: numbers that it can read.

use super::{Attention, Output};
use crate::arch::attention::Input;
use crate::{View, ViewMut, each};
use farspan_core::array::{Array, FloatArray};
use farspan_core::attention::problem::Arrays;
use farspan_core::attention::{Sequence, Shape};
use farspan_core::{Dtype, Error, Result};
use std::fmt::Debug;
use std::marker::PhantomData;

/// Views of memory, and sequences that have been read.
#[derive(Clone, Copy, Debug)]
pub struct Views<'a>(PhantomData<&'a [f32]>);

impl<'a> Arrays for Views<'a> {
    type Large = Input<'a>;
    type Table<const N: usize> = View<'a, f32, N>;
    type Positions = View<'a, f64, 2>;
    type Pages = View<'a, i64, 2>;
    type Sequences = &'a [Sequence];
}

impl<T: Copy + Debug, const N: usize> Array<N> for View<'_, T, N> {
    fn shape(&self) -> [usize; N] {
        View::shape(self)
    }

    fn last_stride(&self) -> i64 {
        self.strides()[N - 1] as i64
    }
}

impl Array<4> for Input<'_> {
    fn shape(&self) -> [usize; 4] {
        Input::shape(self)
    }

    fn last_stride(&self) -> i64 {
        each!(view in self => view.last_stride())
    }
}

impl FloatArray<4> for Input<'_> {
    fn dtype(&self) -> Dtype {
        Input::dtype(self)
    }
}

/// Refuses arguments and results that do not fit together, and numbers that mean nothing.
pub(super) fn check(problem: &Attention, output: &Output, lse: Option<&ViewMut<f32, 3>>) -> Result<Shape> {
    let shape = check_problem(problem)?;
    problem.check_results(&shape, output.dtype(), each!(view in output => view.shape()), lse.map(ViewMut::shape))?;
    Ok(shape)
}

/// Refuses arguments that do not fit together, and numbers that mean nothing.
pub(super) fn check_problem(problem: &Attention) -> Result<Shape> {
    let shape = problem.check()?;
    if let Some(table) = &problem.block_table {
        let [pages, _, page_size, _] = problem.key.shape();
        check_pages(table, page_size, pages, problem.sequences)?;
    }
    check_numbers(problem)?;
    Ok(shape)
}

/// Refuses positions that mean nothing.
pub(super) fn check_numbers(problem: &Attention) -> Result<()> {
    let far = problem.rotary.and_then(|rotary| rotary.far);
    for (argument, positions) in [
        ("query_positions", problem.query_positions),
        ("key_positions", problem.key_positions),
        ("far_query_positions", far.map(|far| far.query_positions)),
        ("far_key_positions", far.map(|far| far.key_positions)),
    ] {
        positions.map_or(Ok(()), |given| check_finite(argument, &given))?;
    }
    Ok(())
}

fn check_finite(argument: &'static str, positions: &View<f64, 2>) -> Result<()> {
    let [batch, time] = positions.shape();
    let distinct = if positions.strides()[0] == 0 { batch.min(1) } else { batch };
    for b in 0..distinct {
        let bad = match positions.is_contiguous() {
            true if time > 0 => positions.row([b, 0]).iter().copied().find(|p| !p.is_finite()),
            _ => (0..time.min(1)).map(|t| positions.at([b, t])).find(|p| !p.is_finite()),
        };
        if let Some(bad) = bad {
            return Err(Error::argument(argument, "finite positions", bad));
        }
    }
    Ok(())
}

/// The entries of a block table that name existing keys must be pages; the others are not looked at.
fn check_pages(table: &View<i64, 2>, page_size: usize, pages: usize, sequences: &[Sequence]) -> Result<()> {
    for (row, sequence) in sequences.iter().enumerate() {
        for block in 0..sequence.keys.div_ceil(page_size.max(1)) {
            let page = table.at([sequence.key_batch, block]);
            if usize::try_from(page).is_ok_and(|page| page < pages) {
                continue;
            }
            let expected = format!("pages 0 to {} where keys exist", pages - 1);
            return Err(Error::argument("block_table", expected, format!("{page} as block {block} of row {row}")));
        }
    }
    Ok(())
}
