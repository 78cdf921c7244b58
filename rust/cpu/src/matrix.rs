//! Matrices of any of the three float types.

use crate::each;
use crate::typed::Typed;
use farspan_core::Dtype;
use farspan_core::array::{Array, FloatArray};
use ndarray::{ArrayView2, ArrayViewMut2};

/// A read-only `[rows, columns]`: columns side by side, rows at any distance (0 where they are all the same).
pub type Matrix<'a> = Typed<ArrayView2<'a, f32>, ArrayView2<'a, u16>>;

/// A writable `[rows, columns]`, columns side by side.
pub type MatrixMut<'a> = Typed<ArrayViewMut2<'a, f32>, ArrayViewMut2<'a, u16>>;

impl Matrix<'_> {
    /// `[rows, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        each!(array in self => array.dim()).into()
    }
}

impl Array<2> for Matrix<'_> {
    fn shape(&self) -> [usize; 2] {
        self.shape()
    }

    fn last_stride(&self) -> i64 {
        each!(array in self => array.strides()[1]) as i64
    }
}

impl FloatArray<2> for Matrix<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype()
    }
}

impl MatrixMut<'_> {
    /// `[rows, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        each!(array in self => array.dim()).into()
    }
}
