//! What can be said of an array without reading it, whichever way a backend holds it: a view of the host's memory, or
//! an address in a device's.

use crate::dtype::Dtype;

/// An array of `N` dimensions.
pub trait Array<const N: usize> {
    /// The extent of each dimension.
    fn shape(&self) -> [usize; N];
}

/// An array of one of the element types that the large inputs may have.
pub trait FloatArray<const N: usize>: Array<N> {
    /// The type of its elements.
    fn dtype(&self) -> Dtype;
}

impl<T> Array<1> for &[T] {
    fn shape(&self) -> [usize; 1] {
        [self.len()]
    }
}
