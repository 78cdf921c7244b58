//! The gradients of a linear layer: products of whole matrices, which read each operand as it lies.
//!
//! A number is a sum of sums over blocks of [`DEPTH`] steps, in order, each one chain of fused multiply-adds. It
//! depends on nothing else: neither on the number of threads nor on the machine, nor the gradient of a row on the other
//! rows.

use super::tasks::{check_out, is_little, share};
use crate::arch::buffer::Buffer;
use crate::arch::lanes::LANES;
use crate::arch::product::{Kernels, Left, Multiplied, Order, Panels, Rows, kernels};
use crate::matrix::{Matrix, MatrixMut};
use crate::typed::RowMut;
use crate::{dispatch, threads};
use farspan_core::{Error, Result};
use std::cell::RefCell;

/// Steps of a chain.
const DEPTH: usize = 256;
/// The most rows of the result that a task computes; tasks are even.
const MOST_ROWS: usize = 192;
/// Columns of the result that are computed together, so that sums and operands stay in the second-level cache.
const STRIP: usize = 384;

#[derive(Default)]
struct Scratch {
    a: Buffer,
    b: Buffer,
    sums: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `out[r, i] = sum over j of gradient[r, j] * weight[j, i]`: the gradient of `x`, of the element type of `gradient`.
pub fn x_gradient(gradient: Matrix, weight: Matrix, out: MatrixMut) -> Result<()> {
    let ([rows, features], [weights, inner]) = (gradient.shape(), weight.shape());
    if weights != features {
        let expected = format!("shape [{features}, in], as many rows as gradient has columns");
        return Err(Error::argument("weight", expected, format!("{:?}", weight.shape())));
    }
    check_out(&out, [rows, inner], &gradient)?;
    let (gradient, weight) = (Rows::new("gradient", &gradient)?, Rows::new("weight", &weight)?);
    Product { kernels: kernels(dispatch::machine()?), a: gradient, across: false, b: weight }.run(out)
}

/// `out[j, i] = sum over r of gradient[r, j] * x[r, i]`: the gradient of `weight`, of the element type of `gradient`.
pub fn weight_gradient(gradient: Matrix, x: Matrix, out: MatrixMut) -> Result<()> {
    let ([rows, features], [x_rows, inner]) = (gradient.shape(), x.shape());
    if x_rows != rows {
        let expected = format!("shape [{rows}, in], as many rows as gradient has");
        return Err(Error::argument("x", expected, format!("{:?}", x.shape())));
    }
    check_out(&out, [features, inner], &gradient)?;
    let (gradient, x) = (Rows::new("gradient", &gradient)?, Rows::new("x", &x)?);
    Product { kernels: kernels(dispatch::machine()?), a: gradient, across: true, b: x }.run(out)
}

/// `out = a @ b`, or `a.T @ b` where it goes `across` the rows of a.
struct Product<'a> {
    kernels: Kernels,
    a: Rows<'a>,
    across: bool,
    b: Rows<'a>,
}

impl Product<'_> {
    fn run(&self, out: MatrixMut) -> Result<()> {
        let [rows, columns] = out.shape();
        if rows == 0 || columns == 0 {
            return Ok(());
        }
        let alone = is_little([rows, columns, self.b.count()]);
        let wanted = if alone { 1 } else { threads::num_threads() };
        let blocks = rows.div_ceil(MOST_ROWS).next_multiple_of(wanted);
        let block = rows.div_ceil(blocks).next_multiple_of(LANES);
        share(out, [block, columns], alone, |index, pieces| self.fill(index * block, pieces))
    }

    /// Computes one task: the rows from `first` on that there are pieces for.
    fn fill(&self, first: usize, mut pieces: Vec<RowMut>) {
        let (rows, columns, depth) = (pieces.len(), pieces[0].len(), self.b.count());
        let padded = rows.next_multiple_of(LANES);
        let order = Order::Chain;
        SCRATCH.with_borrow_mut(|scratch| {
            for start in (0..columns).step_by(STRIP) {
                let here = STRIP.min(columns - start);
                let width = here.next_multiple_of(LANES);
                let sums = scratch.sums.take(padded * width);
                if depth == 0 {
                    sums.fill(0.0);
                }
                for step in (0..depth).step_by(DEPTH) {
                    let steps = DEPTH.min(depth - step);
                    let a = if self.across {
                        let numbers = scratch.a.take(padded * steps);
                        self.kernels.pack_columns(&self.a.part(step, steps).panel(first, rows), numbers);
                        Left::Panels(Panels { numbers, steps })
                    } else {
                        self.kernels.left(self.a.part(first, rows).panel(step, steps), order, &mut scratch.a)
                    };
                    let b = scratch.b.take(width * steps);
                    self.kernels.pack_columns(&self.b.part(step, steps).panel(start, here), b);
                    let b = Panels { numbers: b, steps };
                    let add = step > 0;
                    self.kernels.multiply(Multiplied { a, b, order, rows, out: sums, stride: width, add });
                }
                for (row, sums) in pieces.iter_mut().zip(sums.chunks_exact(width)) {
                    self.kernels.store(sums, row.part(start, here));
                }
            }
        });
    }
}
