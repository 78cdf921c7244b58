//! What can be said of an array without reading it, whichever way a backend holds it: a view of the host's memory, or
//! an address in a device's.

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use std::fmt::Debug;

/// An array of `N` dimensions.
pub trait Array<const N: usize>: Copy + Debug {
    /// The extent of each dimension.
    fn shape(&self) -> [usize; N];

    /// The distance between neighbours along the last dimension, in elements.
    fn last_stride(&self) -> i64;
}

/// An array of one of the element types that the large inputs may have.
pub trait FloatArray<const N: usize>: Array<N> {
    /// The type of its elements.
    fn dtype(&self) -> Dtype;
}

impl<T: Debug> Array<1> for &[T] {
    fn shape(&self) -> [usize; 1] {
        [self.len()]
    }

    fn last_stride(&self) -> i64 {
        1
    }
}

/// Refuses an array whose rows do not lie side by side in memory, element by element.
pub fn check_contiguous<const N: usize>(argument: &'static str, array: &impl Array<N>) -> Result<()> {
    let shape = array.shape();
    match shape[N - 1] <= 1 || array.last_stride() == 1 || shape.contains(&0) {
        true => Ok(()),
        false => {
            let given = format!("stride {}", array.last_stride());
            Err(Error::argument(argument, "a contiguous last dimension", given))
        }
    }
}
