//! Linear layers whose rows do not depend on each other.

mod gradient;
mod panels;
mod short;
mod tasks;

pub use gradient::{weight_gradient, x_gradient};

use crate::arch::product::{Kernels, Rows, kernels};
use crate::matrix::{Matrix, MatrixMut};
use crate::product::{block_rows, for_each_chunk};
use crate::typed::RowMut;
use crate::{dispatch, threads};
use farspan_core::{Error, Result};
use tasks::{check_out, is_little, share};

/// Tasks for each thread, so that an uneven machine still finishes together.
const TASKS_A_THREAD: usize = 4;
/// A task has at least this many columns of the output.
const LEAST_COLUMNS: usize = 64;

/// `out[i, j] = dot(x[i], weight[j]) + bias[j]`.
///
/// `x [rows, in]`, `weight [out, in]`, `bias [out]`, `out [rows, out]`, of the element type of `x`. Sums are float32 in
/// one fixed order, rounded once to the output's type: a row of the output has the same bits whatever the other rows,
/// the number of threads and the machine. An error names the argument that does not fit.
pub fn linear(x: Matrix, weight: Matrix, bias: Option<&[f32]>, out: MatrixMut) -> Result<()> {
    let ([rows, columns], [features, inner]) = (x.shape(), weight.shape());
    if inner != columns {
        let expected = format!("shape [out, {columns}], the last dimension of x");
        return Err(Error::argument("weight", expected, format!("{:?}", weight.shape())));
    }
    check_out(&out, [rows, features], &x)?;
    if let Some(bias) = bias
        && bias.len() != features
    {
        return Err(Error::argument(
            "bias",
            format!("shape [{features}], one per row of weight"),
            format!("[{}]", bias.len()),
        ));
    }
    let (x, weight) = (Rows::new("x", &x)?, Rows::new("weight", &weight)?);
    let kernels = kernels(dispatch::machine()?);
    if rows == 0 || features == 0 {
        return Ok(());
    }

    let is_short = columns < short::COLUMNS;
    let packed = if is_short { short::pay(rows, &weight) } else { panels::pay(rows, &weight) };
    let fill = match (packed, is_short) {
        (false, _) => fill,
        (true, true) => short::fill,
        (true, false) => panels::fill,
    };
    let (threads, most_parts) = (threads::num_threads(), features.div_ceil(LEAST_COLUMNS));
    // Where columns make too few tasks for every thread, the number of blocks of rows is a multiple of the threads.
    let even = if most_parts < TASKS_A_THREAD * threads { threads } else { 1 };
    let block = if packed { panels::block_rows(&x, even) } else { block_rows(rows) };
    let alone = is_little([rows, columns, features]);
    let tasks = if alone { 1 } else { TASKS_A_THREAD * threads };
    let parts = tasks.div_ceil(rows.div_ceil(block)).min(most_parts);
    let width = features.div_ceil(parts).next_multiple_of(LEAST_COLUMNS);
    let parts = features.div_ceil(width);
    share(out, [block, width], alone, |index, pieces| {
        let x = x.part(index / parts * block, pieces.len());
        let first = index % parts * width;
        fill(&kernels, x, weight, bias, first, pieces);
    })
}

/// Computes one task: the columns from `first` on that each row's piece has room for.
fn fill(kernels: &Kernels, x: Rows, weight: Rows, bias: Option<&[f32]>, first: usize, mut pieces: Vec<RowMut>) {
    let columns = first..first + pieces[0].len();
    for_each_chunk(kernels, x, weight, columns, |row, chunk, products| {
        if let Some(bias) = bias {
            kernels.add_bias(products, &bias[chunk.clone()]);
        }
        kernels.store(products, pieces[row].part(chunk.start - first, chunk.len()));
    });
}
