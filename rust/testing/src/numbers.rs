//! Reproducible numbers, and their roundings to the element types.

use farspan_core::Dtype;
use farspan_core::noise::philox;
use farspan_cpu::matrix::Matrix;
use farspan_cpu::{Typed, each, map};
use half::{bf16, f16};
use ndarray::{ArrayView2, s};

/// Numbers from a seed: Philox, four uniforms summed, close enough to normal.
pub fn normals(seed: u64, count: usize) -> Vec<f32> {
    let of = |i: usize| {
        let words = philox([i as u32, 0, 0, 99], [seed as u32, (seed >> 32) as u32]);
        (words.iter().map(|w| *w as f32 / 2f32.powi(32)).sum::<f32>() - 2.0) * 1.7
    };
    (0..count).map(of).collect()
}

/// Numbers rounded to an element type.
pub fn narrow(x: &[f32], dtype: Dtype) -> Typed<Vec<f32>, Vec<u16>> {
    match dtype {
        Dtype::F32 => Typed::F32(x.to_vec()),
        Dtype::Bf16 => Typed::Bf16(x.iter().map(|&x| bf16::from_f32(x).to_bits()).collect()),
        Dtype::F16 => Typed::F16(x.iter().map(|&x| f16::from_f32(x).to_bits()).collect()),
    }
}

/// What numbers of an element type are.
pub fn widen(x: &Typed<Vec<f32>, Vec<u16>>) -> Vec<f32> {
    match x {
        Typed::F32(x) => x.clone(),
        Typed::Bf16(x) => x.iter().map(|&bits| bf16::from_bits(bits).to_f32()).collect(),
        Typed::F16(x) => x.iter().map(|&bits| f16::from_bits(bits).to_f32()).collect(),
    }
}

/// The largest relative error of a rounding to this type.
pub fn unit(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => 2f64.powi(-24),
        Dtype::Bf16 => 2f64.powi(-8),
        Dtype::F16 => 2f64.powi(-11),
    }
}

/// Numbers by their bits; one NaN equals another.
pub fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
}

/// A matrix of one of the element types, with room between its rows.
#[derive(Clone, Debug)]
pub struct Stored {
    pub dtype: Dtype,
    pub rows: usize,
    pub columns: usize,
    stride: usize,
    numbers: Typed<Vec<f32>, Vec<u16>>,
    wide: Vec<f32>,
}

impl Stored {
    /// Rounds `values`, `[rows, columns]`, to `dtype`; `gap` elements of NaN lie between the rows.
    pub fn new(values: &[f32], rows: usize, columns: usize, gap: usize, dtype: Dtype) -> Stored {
        let stride = (columns + gap).max(1);
        let mut wide = vec![f32::NAN; rows * stride];
        for row in 0..rows {
            wide[row * stride..][..columns].copy_from_slice(&values[row * columns..][..columns]);
        }
        let numbers = narrow(&wide, dtype);
        Stored { dtype, rows, columns, stride, wide: widen(&numbers), numbers }
    }

    pub fn matrix(&self) -> Matrix<'_> {
        let (shape, columns) = ((self.rows, self.stride), s![.., ..self.columns]);
        map!(x in &self.numbers => ArrayView2::from_shape(shape, x).unwrap().slice_move(columns))
    }

    /// Address of the first element and the distance between rows in elements.
    pub fn place(&self) -> (u64, i64) {
        (each!(x in &self.numbers => x.as_ptr() as u64), self.stride as i64)
    }

    /// The values of a row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.wide[row * self.stride..][..self.columns]
    }

    pub fn f64_row(&self, row: usize) -> Vec<f64> {
        self.row(row).iter().map(|&x| f64::from(x)).collect()
    }

    /// A matrix of these rows.
    pub fn pick(&self, rows: &[usize]) -> Stored {
        let values: Vec<f32> = rows.iter().flat_map(|&row| self.row(row).to_vec()).collect();
        Stored::new(&values, rows.len(), self.columns, 1, self.dtype)
    }
}
