//! How an output is shared out.

use crate::typed::RowMut;
use farspan_core::{Error, Result};
use ndarray::ArrayViewMut2;

/// The output as what each task writes: for each block of rows and each range of `width` columns, a piece of every row.
pub(super) fn cut<'o, T>(
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
