//! Matrices of any of the three float types.

use farspan_core::Dtype;
use farspan_core::array::{Array, FloatArray};
use ndarray::{ArrayView2, ArrayViewMut2};

/// A read-only `[rows, columns]`: columns side by side, rows at any distance (0 where they are all the same).
#[derive(Clone, Copy, Debug)]
pub enum Matrix<'a> {
    /// float32
    F32(ArrayView2<'a, f32>),
    /// The bits of bfloat16.
    Bf16(ArrayView2<'a, u16>),
    /// The bits of float16.
    F16(ArrayView2<'a, u16>),
}

/// A writable `[rows, columns]`, columns side by side.
#[derive(Debug)]
pub enum MatrixMut<'a> {
    /// float32
    F32(ArrayViewMut2<'a, f32>),
    /// The bits of bfloat16.
    Bf16(ArrayViewMut2<'a, u16>),
    /// The bits of float16.
    F16(ArrayViewMut2<'a, u16>),
}

impl Array<2> for Matrix<'_> {
    /// `[rows, columns]`.
    fn shape(&self) -> [usize; 2] {
        let (rows, columns) = match self {
            Matrix::F32(array) => array.dim(),
            Matrix::Bf16(array) | Matrix::F16(array) => array.dim(),
        };
        [rows, columns]
    }
}

impl FloatArray<2> for Matrix<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Matrix::F32(_) => Dtype::F32,
            Matrix::Bf16(_) => Dtype::Bf16,
            Matrix::F16(_) => Dtype::F16,
        }
    }
}

impl MatrixMut<'_> {
    /// `[rows, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        let (rows, columns) = match self {
            MatrixMut::F32(array) => array.dim(),
            MatrixMut::Bf16(array) | MatrixMut::F16(array) => array.dim(),
        };
        [rows, columns]
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        match self {
            MatrixMut::F32(_) => Dtype::F32,
            MatrixMut::Bf16(_) => Dtype::Bf16,
            MatrixMut::F16(_) => Dtype::F16,
        }
    }
}
