//! What the benches share: arrays of reproducible random numbers in each element type, and views of them.

use farspan_core::Dtype;
use farspan_cpu::attention::{Input, Output};
use farspan_cpu::matrix::{Matrix, MatrixMut};
use farspan_cpu::{Typed, View, ViewMut, map};
use half::{bf16, f16};
use ndarray::{ArrayD, ArrayView2, ArrayViewMut2, Ix2, IxDyn};

/// The element types, in the order the benches run them.
pub const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

/// Memory of an input or an output. bfloat16 and float16 are held as bits.
pub struct Tensor(Typed<ArrayD<f32>, ArrayD<u16>>);

impl Tensor {
    /// Numbers in `[-1, 1)`, the same for the same seed.
    pub fn random(dtype: Dtype, shape: &[usize], seed: u64) -> Tensor {
        let mut state = seed;
        let numbers = ArrayD::from_shape_simple_fn(IxDyn(shape), || unit(&mut state) * 2.0 - 1.0);
        Tensor(match dtype {
            Dtype::F32 => Typed::F32(numbers),
            Dtype::Bf16 => Typed::Bf16(numbers.mapv(|x| bf16::from_f32(x).to_bits())),
            Dtype::F16 => Typed::F16(numbers.mapv(|x| f16::from_f32(x).to_bits())),
        })
    }

    /// As an input of attention; panics unless it has four dimensions.
    pub fn input(&self) -> Input<'_> {
        map!(array in &self.0 => view(array))
    }

    /// As the output of attention; panics unless it has four dimensions.
    pub fn output(&mut self) -> Output<'_> {
        map!(array in &mut self.0 => view_mut(array))
    }

    /// As hidden states or weights; panics unless it has two dimensions.
    pub fn matrix(&self) -> Matrix<'_> {
        map!(array in &self.0 => rows(array))
    }

    /// As their gradients; panics unless it has two dimensions.
    pub fn matrix_mut(&mut self) -> MatrixMut<'_> {
        map!(array in &mut self.0 => rows_mut(array))
    }
}

fn view<T>(array: &ArrayD<T>) -> View<'_, T, 4> {
    View::new("array", &array.view()).expect("four dimensions")
}

fn view_mut<T>(array: &mut ArrayD<T>) -> ViewMut<'_, T, 4> {
    ViewMut::new("array", &mut array.view_mut()).expect("four dimensions")
}

fn rows<T>(array: &ArrayD<T>) -> ArrayView2<'_, T> {
    array.view().into_dimensionality::<Ix2>().expect("two dimensions")
}

fn rows_mut<T>(array: &mut ArrayD<T>) -> ArrayViewMut2<'_, T> {
    array.view_mut().into_dimensionality::<Ix2>().expect("two dimensions")
}

/// The next number in `[0, 1)` of the SplitMix64 sequence (Steele, Lea and Flood 2014).
fn unit(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(seed: u64) -> Vec<f32> {
        let Tensor(Typed::F32(array)) = Tensor::random(Dtype::F32, &[1000], seed) else {
            unreachable!("asked for float32")
        };
        array.into_raw_vec_and_offset().0
    }

    #[test]
    fn random_numbers_repeat_and_fill_the_interval() {
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
        assert!(numbers(7).iter().all(|x| (-1.0..1.0).contains(x)));
        assert!(numbers(7).iter().any(|x| *x < -0.9) && numbers(7).iter().any(|x| *x > 0.9));
    }
}
