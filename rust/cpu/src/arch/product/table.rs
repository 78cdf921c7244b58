//! Each kernel of products compiled for each machine, behind functions that check what they are given.

use super::dot::{self, Product, Rows, padded_width};
use super::panels::{self, Left, Multiplied, Order, Panels};
use super::rows;
use super::short::{self, Short};
use crate::arch::buffer::Buffer;
use crate::arch::element::each_element;
use crate::arch::lanes::LANES;
use crate::arch::portable::Portable;
use crate::typed::RowMut;

/// The functions of one machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernels {
    /// Up to this many rows, half-precision weights are widened in registers, each time they are used.
    pub direct_rows: usize,
    widen: unsafe fn(&Rows, &mut [f32]),
    product: unsafe fn(&mut Product),
    multiply: unsafe fn(&mut Multiplied),
    short: unsafe fn(&mut Short, usize),
    pack_rows: unsafe fn(&Rows, Order, &mut [f32]),
    pack_columns: unsafe fn(&Rows, &mut [f32]),
    add_bias: unsafe fn(&mut [f32], &[f32]),
    store: unsafe fn(&[f32], RowMut),
}

/// Every call below: the table is made for a machine that is available, and the assertions before it are what the
/// kernel asks of its operands.
impl Kernels {
    /// The rows in float32, each with zeros up to the next multiple of sixteen.
    pub(crate) fn widen(&self, rows: &Rows, out: &mut [f32]) {
        assert_eq!(out.len(), rows.count() * padded_width(rows.columns()));
        // SAFETY: see the impl.
        unsafe { (self.widen)(rows, out) }
    }

    /// `out[r * out_stride + t] = dot(x[r], w[t])`.
    pub(crate) fn product(&self, mut product: Product) {
        product.check();
        // SAFETY: see the impl.
        unsafe { (self.product)(&mut product) }
    }

    /// `out[i, j] (+)= sum over steps of a[step, i] * b[step, j]`.
    pub(crate) fn multiply(&self, mut call: Multiplied) {
        call.check();
        // SAFETY: see the impl.
        unsafe { (self.multiply)(&mut call) }
    }

    /// `out[r, t] = dot(x[r], weight[t]) + bias[t]`, of so many columns.
    pub(crate) fn short(&self, mut call: Short, columns: usize) {
        call.check();
        // SAFETY: see the impl.
        unsafe { (self.short)(&mut call, columns) }
    }

    /// Panels `[panels, steps, LANES]` with rows in their lanes and a step for each column.
    pub(crate) fn pack_rows(&self, rows: &Rows, order: Order, out: &mut [f32]) {
        assert_eq!(out.len(), rows.count().next_multiple_of(LANES) * order.steps(rows.columns()));
        // SAFETY: see the impl.
        unsafe { (self.pack_rows)(rows, order, out) }
    }

    /// Rows as a left operand: as they lie where they can be read so, else packed into `room`.
    pub(crate) fn left<'a>(&self, rows: Rows<'a>, order: Order, room: &'a mut Buffer) -> Left<'a> {
        if Left::reads(&rows, order) {
            return Left::Rows(rows);
        }
        let steps = order.steps(rows.columns());
        let numbers = room.take(rows.count().next_multiple_of(LANES) * steps);
        self.pack_rows(&rows, order, numbers);
        Left::Panels(Panels { numbers, steps })
    }

    /// Panels `[panels, steps, LANES]` with columns in their lanes and a step for each row.
    pub(crate) fn pack_columns(&self, rows: &Rows, out: &mut [f32]) {
        assert_eq!(out.len(), rows.columns().next_multiple_of(LANES) * rows.count());
        // SAFETY: see the impl.
        unsafe { (self.pack_columns)(rows, out) }
    }

    /// Adds `bias` to the first numbers of `row`; -inf stays -inf, whatever it is added to.
    pub(crate) fn add_bias(&self, row: &mut [f32], bias: &[f32]) {
        assert!(row.len() >= bias.len().next_multiple_of(LANES));
        // SAFETY: see the impl.
        unsafe { (self.add_bias)(row, bias) }
    }

    /// Rounds the first numbers of `row` to the output's type.
    pub(crate) fn store(&self, row: &[f32], out: RowMut) {
        assert!(row.len() >= out.len().next_multiple_of(LANES));
        // SAFETY: see the impl.
        unsafe { (self.store)(row, out) }
    }
}

/// Compiles the kernels for one machine. The tile sizes are what its registers hold: rows x weights, and weights for a
/// single row. Of panels: the rows of a tile and those at a panel's end, once for chains and once for planes, how many
/// planes are summed at the same time, and vectors. `direct` is where widening weights in registers, once for each tile
/// of rows, stops paying.
macro_rules! compile {
    (
        $module:ident, $machine:ty, [$rows:literal, $weights:literal, $single:literal],
        panels [$tall:literal, $rest:literal; $low:literal, $last:literal, $planes:literal; $vectors:literal],
        direct $direct:literal
        $(, $feature:literal)?
    ) => {
        mod $module {
            use super::*;

            $(#[target_feature(enable = $feature)])?
            unsafe fn widen(rows: &Rows, out: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe {
                    each_element!(E, start in rows.start => dot::widen::<$machine, E>(rows, start.cast(), out))
                }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn product(p: &mut Product) {
                // SAFETY: the caller's.
                unsafe {
                    each_element!(E, start in p.w.start => {
                        dot::product::<$machine, E, $rows, $weights, $single>(p, start.cast())
                    })
                }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn multiply(call: &mut Multiplied) {
                // SAFETY: the caller's.
                unsafe {
                    match call.order {
                        Order::Chain => panels::multiply::<$machine, $tall, $rest, $vectors, 0>(call),
                        Order::Planes => panels::multiply::<$machine, $low, $last, $vectors, $planes>(call),
                    }
                }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn short(call: &mut Short, columns: usize) {
                // SAFETY: the caller's.
                unsafe {
                    match columns {
                        ..=4 => short::short::<$machine, 4>(call),
                        ..=8 => short::short::<$machine, 8>(call),
                        _ => short::short::<$machine, 16>(call),
                    }
                }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn pack_rows(rows: &Rows, order: Order, out: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe {
                    each_element!(E, start in rows.start => {
                        panels::pack_rows::<$machine, E>(rows, start.cast(), order, out)
                    })
                }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn pack_columns(rows: &Rows, out: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe {
                    each_element!(E, start in rows.start => {
                        panels::pack_columns::<$machine, E>(rows, start.cast(), out)
                    })
                }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn add_bias(row: &mut [f32], bias: &[f32]) {
                // SAFETY: the caller's.
                unsafe { rows::add_bias::<$machine>(row, bias) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn store(row: &[f32], out: RowMut) {
                // SAFETY: the caller's.
                unsafe {
                    each_element!(E, piece in out => {
                        rows::store::<$machine, E>(row, piece.as_mut_ptr().cast(), piece.len())
                    })
                }
            }

            pub(super) const KERNELS: Kernels = Kernels {
                direct_rows: $direct,
                widen,
                product,
                multiply,
                short,
                pack_rows,
                pack_columns,
                add_bias,
                store,
            };
        }
    };
}

compile!(portable, Portable, [2, 2, 4], panels [4, 4; 2, 2, 2; 1], direct 2);
#[cfg(target_arch = "x86_64")]
compile!(avx2, crate::arch::avx2::Avx2, [3, 2, 4], panels [6, 4; 6, 4, 1; 1], direct 3, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
compile!(
    avx512, crate::arch::avx512::Avx512, [4, 4, 8], panels [8, 8; 4, 4, 2; 3], direct 8,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c"
);

kernels_by_machine!();
