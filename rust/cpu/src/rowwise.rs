//! RMS normalisation and activations, row by row: a row has the same bits whatever the other rows are.

pub use crate::arch::rowwise::Activation;

use crate::arch::rowwise::{self, Activated, Normalized};
use crate::{dispatch, threads};
use farspan_core::{Error, Result};
use ndarray::{ArrayView2, Axis};

/// Numbers below which waking threads costs more than it saves.
const ALONE: usize = 1 << 15;
/// Rows whose slopes by a weight are summed before they are added to those of others.
const BLOCK: usize = 64;

/// How many rows a thread takes together; no result depends on it.
fn rows_together(width: usize) -> usize {
    (ALONE / 4 / width.max(1)).clamp(1, BLOCK)
}

/// `out = x / sqrt(mean(x^2) + eps) * weight` for each row of `x`; `out` holds the rows one after the other.
pub fn rms_norm(x: ArrayView2<f32>, weight: &[f32], eps: f32, out: &mut [f32]) -> Result<()> {
    let width = x.ncols();
    check_weight(weight, width)?;
    let kernels = rowwise::kernels(dispatch::machine()?);
    each_row(x, width, out, |_, row, out| kernels.normalize(row, weight, eps, out))
}

/// `out = activation(x)` for each row of `x`; where `gated`, a row is a gate and, as long, what it is multiplied with.
pub fn activate(x: ArrayView2<f32>, activation: Activation, gated: bool, out: &mut [f32]) -> Result<()> {
    let width = activated_width(&x, gated)?;
    let kernels = rowwise::kernels(dispatch::machine()?);
    each_row(x, width, out, |_, row, out| {
        let (gate, up) = row.split_at(width);
        kernels.activate(gate, gated.then_some(up), activation, out);
    })
}

/// How many numbers of a row an activation gives.
fn activated_width(x: &ArrayView2<f32>, gated: bool) -> Result<usize> {
    if gated && !x.ncols().is_multiple_of(2) {
        return Err(Error::argument("x", "an even number of columns, gate and product", x.ncols()));
    }
    Ok(if gated { x.ncols() / 2 } else { x.ncols() })
}

/// `sum = x + y`, and `out` as [`rms_norm`] of the sum.
pub fn add_rms_norm(
    x: ArrayView2<f32>,
    y: ArrayView2<f32>,
    weight: &[f32],
    eps: f32,
    sum: &mut [f32],
    out: &mut [f32],
) -> Result<()> {
    let width = x.ncols();
    check_weight(weight, width)?;
    check_rows("y", &y, x.dim())?;
    check_rows("x", &x, x.dim())?;
    check_numbers("sum", sum, x.dim())?;
    check_numbers("out", out, x.dim())?;
    let kernels = rowwise::kernels(dispatch::machine()?);
    let rows = rows_together(width);
    let work = |block: usize, (sum, out): (&mut [f32], &mut [f32])| {
        for (i, (sum, out)) in sum.chunks_exact_mut(width).zip(out.chunks_exact_mut(width)).enumerate() {
            let row = block * rows + i;
            kernels.add(numbers(&x, row), numbers(&y, row), sum);
            kernels.normalize(sum, weight, eps, out);
        }
    };
    let (size, count) = ((rows * width).max(1), out.len());
    each_block(count, sum.chunks_mut(size).zip(out.chunks_mut(size)), work)
}

/// The slopes of a result by what [`rms_norm`] was given, from the `slope` by what it gave: of `x` in `out`, of the
/// weight in `of_weight`. Where x is used beside its norm, `beside` is the slope by that, and is added.
pub fn rms_norm_gradient(
    x: ArrayView2<f32>,
    weight: &[f32],
    eps: f32,
    slope: ArrayView2<f32>,
    beside: Option<ArrayView2<f32>>,
    out: &mut [f32],
    of_weight: &mut [f32],
) -> Result<()> {
    let width = x.ncols();
    check_weight(weight, width)?;
    check_rows("x", &x, x.dim())?;
    check_rows("slope", &slope, x.dim())?;
    beside.as_ref().map_or(Ok(()), |beside| check_rows("beside", beside, x.dim()))?;
    check_numbers("out", out, x.dim())?;
    check_numbers("of_weight", of_weight, (1, width))?;
    let kernels = rowwise::kernels(dispatch::machine()?);
    let mut sums = vec![0.0; x.nrows().div_ceil(BLOCK) * width];
    let work = |block: usize, (out, sums): (&mut [f32], &mut [f32])| {
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            let row = block * BLOCK + i;
            let beside = beside.as_ref().map(|beside| numbers(beside, row));
            let row = Normalized { x: numbers(&x, row), weight, eps, slope: numbers(&slope, row), beside };
            kernels.normalize_gradient(&row, out, sums);
        }
    };
    let (size, count) = ((BLOCK * width).max(1), out.len());
    each_block(count, out.chunks_mut(size).zip(sums.chunks_mut(width.max(1))), work)?;
    of_weight.fill(0.0);
    for sums in sums.chunks_exact(width.max(1)) {
        of_weight.iter_mut().zip(sums).for_each(|(sum, more)| *sum += more);
    }
    Ok(())
}

/// The slopes of a result by the rows that [`activate`] was given, from the `slope` by what it gave; as long as x.
pub fn activate_gradient(
    x: ArrayView2<f32>,
    activation: Activation,
    gated: bool,
    slope: ArrayView2<f32>,
    out: &mut [f32],
) -> Result<()> {
    let width = activated_width(&x, gated)?;
    check_rows("slope", &slope, (x.nrows(), width))?;
    let kernels = rowwise::kernels(dispatch::machine()?);
    let columns = x.ncols();
    each_row(x, columns, out, |index, row, out| {
        let (gate, up) = row.split_at(width);
        let (out, of_up) = out.split_at_mut(width);
        let up = gated.then_some(up);
        kernels.activate_gradient(&Activated { x: gate, up, activation, slope: numbers(&slope, index) }, out, of_up);
    })
}

/// Row `index`, of which [`check_rows`] has found that it is contiguous.
fn numbers<'a>(rows: &ArrayView2<'a, f32>, index: usize) -> &'a [f32] {
    (*rows).index_axis_move(Axis(0), index).to_slice().expect("a row like the first")
}

fn check_weight(weight: &[f32], width: usize) -> Result<()> {
    if weight.len() != width {
        return Err(Error::argument("weight", format!("{width} numbers, one per column"), weight.len()));
    }
    Ok(())
}

fn check_rows(argument: &'static str, rows: &ArrayView2<f32>, shape: (usize, usize)) -> Result<()> {
    if rows.dim() != shape {
        return Err(Error::argument(argument, format!("shape {shape:?}"), format!("{:?}", rows.dim())));
    }
    if rows.nrows() > 0 && rows.row(0).as_slice().is_none() {
        return Err(Error::argument(argument, "a contiguous last dimension", "a strided one"));
    }
    Ok(())
}

fn check_numbers(argument: &'static str, numbers: &[f32], (rows, width): (usize, usize)) -> Result<()> {
    if numbers.len() != rows * width {
        return Err(Error::argument(argument, format!("{rows} rows of {width}"), numbers.len()));
    }
    Ok(())
}

/// Calls `work` with each row, its index and its `width` numbers of `out`.
fn each_row(
    x: ArrayView2<f32>,
    width: usize,
    out: &mut [f32],
    work: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) -> Result<()> {
    check_numbers("out", out, (x.nrows(), width))?;
    if out.is_empty() {
        return Ok(());
    }
    check_rows("x", &x, x.dim())?;
    let rows = rows_together(width);
    each_block(out.len(), out.chunks_mut(rows * width), |block, out: &mut [f32]| {
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            let index = block * rows + i;
            work(index, numbers(&x, index), out);
        }
    })
}

/// Calls `work` with each block of rows and its index: in turn where there are few numbers, else on all threads.
fn each_block<T: Send>(
    numbers: usize,
    blocks: impl Iterator<Item = T>,
    work: impl Fn(usize, T) + Send + Sync,
) -> Result<()> {
    threads::each(numbers < ALONE, blocks.enumerate(), |(index, block)| work(index, block))
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
    fn slopes_do_not_depend_on_threads_nor_on_other_rows() {
        let make = |width: usize, step: usize| {
            Array2::from_shape_fn((200, width), |(i, j)| ((i * step + j * 17) % 101) as f32 / 20.0 - 2.5)
        };
        let (x, slope, weight) = (make(333, 31), make(333, 7), vec![0.5; 333]);
        let run = |rows: std::ops::Range<usize>| {
            let (x, slope) = (x.slice(s![rows.clone(), ..]), slope.slice(s![rows, ..]));
            let (mut out, mut of_weight) = (vec![0.0; x.len()], vec![0.0; 333]);
            rms_norm_gradient(x, &weight, 1e-6, slope, Some(slope), &mut out, &mut of_weight).unwrap();
            (out, of_weight)
        };
        let one = threads::with_threads(1, || run(0..200));
        assert_eq!(threads::with_threads(3, || run(0..200)), one);
        assert_eq!(run(70..71).0, one.0[70 * 333..][..333]);
    }

    #[test]
    fn a_norm_of_a_sum_is_the_norm_of_that_sum() {
        let x = Array2::from_shape_fn((300, 130), |(i, j)| ((i * 31 + j * 17) % 101) as f32 / 20.0 - 2.5);
        let y = x.mapv(|x| 0.3 * x + 1.0);
        let weight = vec![0.5; 130];
        let (mut sum, mut out, mut expected) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; x.len()]);
        add_rms_norm(x.view(), y.view(), &weight, 1e-6, &mut sum, &mut out).unwrap();
        let total = &x + &y;
        rms_norm(total.view(), &weight, 1e-6, &mut expected).unwrap();
        assert_eq!((sum.as_slice(), out), (total.as_slice().unwrap(), expected));
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let x = Array2::zeros((2, 5));
        let mut out = vec![0.0; 10];
        assert!(rms_norm(x.view(), &[1.0; 4], 0.0, &mut out).unwrap_err().to_string().starts_with("weight"));
        assert!(rms_norm(x.view(), &[1.0; 5], 0.0, &mut out[..9]).unwrap_err().to_string().starts_with("out"));
        assert!(activate(x.view(), Activation::Relu, true, &mut out).unwrap_err().to_string().starts_with("x"));
        let slope = Array2::zeros((2, 2));
        let told = activate_gradient(x.view(), Activation::Relu, true, slope.view(), &mut out);
        assert!(told.unwrap_err().to_string().starts_with("x"));
        let flipped = Array2::<f32>::zeros((5, 2));
        assert!(activate(flipped.t(), Activation::Relu, false, &mut out).unwrap_err().to_string().starts_with("x"));
        activate(Array2::zeros((0, 4)).view(), Activation::Relu, true, &mut []).unwrap();
    }
}
