//! Borrowed memory of a device.

use farspan_core::array::{Array, FloatArray};
use farspan_core::{Dtype, Error, Result};

/// Where a tensor of `N` dimensions lies. Nothing is owned and nothing is read here: the address may be that of another
/// machine's memory, as far as this type knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor<const N: usize> {
    /// The address of the first element.
    pub pointer: u64,
    /// The extent of each dimension.
    pub shape: [usize; N],
    /// The distance between neighbours along each dimension, in elements.
    pub strides: [i64; N],
}

/// A tensor of one of the floating element types, the last dimension contiguous.
#[derive(Clone, Copy, Debug)]
pub struct FloatTensor<const N: usize> {
    /// Of its elements.
    pub dtype: Dtype,
    /// Where it lies.
    pub tensor: Tensor<N>,
}

impl<const N: usize> Array<N> for Tensor<N> {
    fn shape(&self) -> [usize; N] {
        self.shape
    }

    fn last_stride(&self) -> i64 {
        self.strides[N - 1]
    }
}

impl<const N: usize> Array<N> for FloatTensor<N> {
    fn shape(&self) -> [usize; N] {
        self.tensor.shape
    }

    fn last_stride(&self) -> i64 {
        self.tensor.last_stride()
    }
}

impl<const N: usize> FloatArray<N> for FloatTensor<N> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
}

impl<const N: usize> Tensor<N> {
    /// A tensor whose elements follow each other without gaps, the last dimension fastest.
    pub fn contiguous(pointer: u64, shape: [usize; N]) -> Self {
        let mut strides = [1; N];
        for i in (1..N).rev() {
            strides[i - 1] = strides[i] * shape[i].max(1) as i64;
        }
        Tensor { pointer, shape, strides }
    }

    /// A tensor of these sizes and strides seen as `shape`: leading dimensions are added, dimensions of size 1
    /// repeated. `None` where that cannot be.
    pub fn broadcast(pointer: u64, given: &[usize], strides: &[i64], shape: [usize; N]) -> Option<Self> {
        let added = N.checked_sub(given.len()).filter(|_| given.len() == strides.len())?;
        let mut repeated = [0; N];
        for (at, (&size, &stride)) in given.iter().zip(strides).enumerate() {
            let wanted = shape[added + at];
            repeated[added + at] = match size {
                _ if size == wanted => stride,
                1 => 0,
                _ => return None,
            };
        }
        Some(Tensor { pointer, shape, strides: repeated })
    }

    /// How many elements there are.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Device memory that a call may use until it has run.
#[derive(Clone, Copy, Debug)]
pub struct Workspace {
    /// Where it lies, at a multiple of 256.
    pub pointer: u64,
    /// How much there is.
    pub bytes: usize,
}

impl Workspace {
    /// That there are so many bytes, at a multiple of `alignment`.
    pub(crate) fn check(&self, bytes: usize, alignment: usize) -> Result<()> {
        if self.bytes >= bytes && self.pointer.is_multiple_of(alignment as u64) {
            return Ok(());
        }
        let expected = format!("at least {bytes} bytes at a multiple of {alignment}");
        Err(Error::argument("workspace", expected, format!("{} bytes at {:#x}", self.bytes, self.pointer)))
    }
}

#[cfg(test)]
mod tests {
    use super::Tensor;

    #[test]
    fn sizes_of_one_repeat() {
        let table = Tensor::broadcast(64, &[3, 1], &[1, 1], [2, 3, 5]).unwrap();
        assert_eq!(table, Tensor { pointer: 64, shape: [2, 3, 5], strides: [0, 1, 0] });
        assert_eq!(Tensor::broadcast(0, &[], &[], [2]).unwrap().strides, [0]);
        assert_eq!(Tensor::broadcast(0, &[4], &[1], [2, 3]), None);
        assert_eq!(Tensor::broadcast(0, &[1, 1, 3], &[3, 3, 1], [2, 3]), None);
        assert_eq!(Tensor::broadcast(0, &[3], &[1, 1], [2, 3]), None);
    }

    #[test]
    fn contiguous_strides() {
        assert_eq!(Tensor::contiguous(0, [2, 3, 4]).strides, [12, 4, 1]);
        assert_eq!(Tensor::contiguous(0, [2, 0, 4]).strides, [4, 4, 1]);
        assert_eq!(Tensor::contiguous(64, [5]), Tensor { pointer: 64, shape: [5], strides: [1] });
        assert_eq!(Tensor::contiguous(0, [2, 3, 4]).elements(), 24);
    }
}
