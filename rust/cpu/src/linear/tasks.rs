//! How an output is shared out.

use crate::matrix::{Matrix, MatrixMut};
use crate::typed::RowMut;
use crate::{each, threads};
use farspan_core::{Error, Result};
use ndarray::ArrayViewMut2;

/// Up to so many multiplications, waking a second thread costs more than it saves.
const ALONE: usize = 1 << 20;

/// Whether a product of these extents is for one thread.
pub(super) fn is_little(extents: [usize; 3]) -> bool {
    extents.into_iter().fold(1, usize::saturating_mul) <= ALONE
}

/// That an output has this shape, and the element type of `like`.
pub(super) fn check_out(out: &MatrixMut, shape: [usize; 2], like: &Matrix) -> Result<()> {
    if out.shape() != shape {
        return Err(Error::argument("out", format!("shape {shape:?}"), format!("{:?}", out.shape())));
    }
    if out.dtype() != like.dtype() {
        let (expected, given) = (like.dtype().name().into(), out.dtype().name().into());
        return Err(Error::Dtype { argument: "out", expected, given });
    }
    Ok(())
}

/// Has each task compute its pieces of the output: those of a block of rows and of a range of `width` columns. They are
/// counted from the first block's first range on. `alone`: by the caller.
pub(super) fn share(
    mut out: MatrixMut,
    [block, width]: [usize; 2],
    alone: bool,
    task: impl Fn(usize, Vec<RowMut>) + Sync,
) -> Result<()> {
    let tasks: Vec<Vec<RowMut>> = each!(out as piece in &mut out => cut(out, block, width, piece)?);
    threads::each(alone || tasks.len() < 2, tasks.into_iter().enumerate(), |(index, pieces)| task(index, pieces))
}

/// A piece of every row for each block of rows and each range of columns.
fn cut<'o, T>(
    out: &'o mut ArrayViewMut2<T>,
    block: usize,
    width: usize,
    piece: fn(&'o mut [T]) -> RowMut<'o>,
) -> Result<Vec<Vec<RowMut<'o>>>> {
    let parts = out.ncols().div_ceil(width);
    let mut tasks: Vec<Vec<RowMut>> = Vec::new();
    for (i, row) in out.rows_mut().into_iter().enumerate() {
        if i % block == 0 {
            tasks.resize_with(tasks.len() + parts, || Vec::with_capacity(block));
        }
        let row = row.into_slice().ok_or_else(|| Error::argument("out", "a contiguous last dimension", "strides"))?;
        let first = tasks.len() - parts;
        for (task, columns) in tasks[first..].iter_mut().zip(row.chunks_mut(width)) {
            task.push(piece(columns));
        }
    }
    Ok(tasks)
}
