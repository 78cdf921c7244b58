//! RMS normalisation and activations, row by row: a row has the same bits whatever the other rows are.

pub use crate::arch::rowwise::Activation;

use crate::arch::rowwise;
use crate::{dispatch, threads};
use farspan_core::{Error, Result};
use ndarray::ArrayView2;
use rayon::prelude::*;

/// Numbers below which waking threads costs more than it saves.
const ALONE: usize = 1 << 15;

/// `out = x / sqrt(mean(x^2) + eps) * weight` for each row of `x`; `out` holds the rows one after the other.
pub fn rms_norm(x: ArrayView2<f32>, weight: &[f32], eps: f32, out: &mut [f32]) -> Result<()> {
    let width = x.ncols();
    if weight.len() != width {
        return Err(Error::argument("weight", format!("{width} numbers, one per column"), weight.len()));
    }
    let kernels = rowwise::kernels(dispatch::machine()?);
    each_row(x, width, out, |row, out| kernels.normalize(row, weight, eps, out))
}

/// `out = activation(x)` for each row of `x`; where `gated`, a row is a gate and, as long, what it is multiplied with.
pub fn activate(x: ArrayView2<f32>, activation: Activation, gated: bool, out: &mut [f32]) -> Result<()> {
    let width = if gated { x.ncols() / 2 } else { x.ncols() };
    if gated && !x.ncols().is_multiple_of(2) {
        return Err(Error::argument("x", "an even number of columns, gate and product", x.ncols()));
    }
    let kernels = rowwise::kernels(dispatch::machine()?);
    each_row(x, width, out, |row, out| {
        let (gate, up) = row.split_at(width);
        kernels.activate(gate, gated.then_some(up), activation, out);
    })
}

/// Calls `work` with each row and its `width` numbers of `out`.
fn each_row(x: ArrayView2<f32>, width: usize, out: &mut [f32], work: impl Fn(&[f32], &mut [f32]) + Sync) -> Result<()> {
    if out.len() != x.nrows() * width {
        return Err(Error::argument("out", format!("{} rows of {width}", x.nrows()), out.len()));
    }
    if out.is_empty() {
        return Ok(());
    }
    if x.row(0).as_slice().is_none() {
        return Err(Error::argument("x", "a contiguous last dimension", "a strided one"));
    }
    let one = |(index, out): (usize, &mut [f32])| {
        let row = x.row(index);
        work(row.as_slice().expect("a row like the first"), out);
    };
    if out.len() < ALONE {
        out.chunks_exact_mut(width).enumerate().for_each(one);
        return Ok(());
    }
    threads::run(|| out.par_chunks_exact_mut(width).enumerate().for_each(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, s};

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let x = Array2::from_shape_fn((200, 2 * 333), |(i, j)| ((i * 31 + j * 17) % 101) as f32 / 20.0 - 2.5);
        let mut whole = vec![0.0; 200 * 333];
        activate(x.view(), Activation::Silu, true, &mut whole).unwrap();
        for row in [0, 7, 199] {
            let mut alone = vec![0.0; 333];
            activate(x.slice(s![row..=row, ..]), Activation::Silu, true, &mut alone).unwrap();
            assert_eq!(alone, whole[row * 333..][..333]);
        }
        let weight = vec![0.5; 333];
        let part = x.slice(s![.., ..333]);
        rms_norm(part, &weight, 1e-6, &mut whole).unwrap();
        let mut alone = vec![0.0; 333];
        rms_norm(part.slice(s![9..10, ..]), &weight, 1e-6, &mut alone).unwrap();
        assert_eq!(alone, whole[9 * 333..][..333]);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let x = Array2::zeros((2, 5));
        let mut out = vec![0.0; 10];
        assert!(rms_norm(x.view(), &[1.0; 4], 0.0, &mut out).unwrap_err().to_string().starts_with("weight"));
        assert!(rms_norm(x.view(), &[1.0; 5], 0.0, &mut out[..9]).unwrap_err().to_string().starts_with("out"));
        assert!(activate(x.view(), Activation::Relu, true, &mut out).unwrap_err().to_string().starts_with("x"));
        let flipped = Array2::<f32>::zeros((5, 2));
        assert!(activate(flipped.t(), Activation::Relu, false, &mut out).unwrap_err().to_string().starts_with("x"));
        activate(Array2::zeros((0, 4)).view(), Activation::Relu, true, &mut []).unwrap();
    }
}
