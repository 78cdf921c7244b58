//! Borrowed memory of the caller: a pointer, a shape and strides, with a contiguous last dimension.

use farspan_core::{Error, Result};
use ndarray::{ArrayView, ArrayViewMut, Dimension};
use std::marker::PhantomData;

/// A read-only array of `N` dimensions. Strides are in elements, never negative; the last one is 1 (or its size is <
/// 2).
#[derive(Clone, Copy, Debug)]
pub struct View<'a, T, const N: usize> {
    pointer: *const T,
    shape: [usize; N],
    strides: [usize; N],
    memory: PhantomData<&'a [T]>,
}

/// A writable array of `N` dimensions whose elements do not overlap.
#[derive(Debug)]
pub struct ViewMut<'a, T, const N: usize> {
    pointer: *mut T,
    shape: [usize; N],
    strides: [usize; N],
    memory: PhantomData<&'a mut [T]>,
}

// SAFETY: a view is a shared borrow of plain data.
unsafe impl<T: Sync, const N: usize> Send for View<'_, T, N> {}
// SAFETY: as above.
unsafe impl<T: Sync, const N: usize> Sync for View<'_, T, N> {}
// SAFETY: a mutable view is an exclusive borrow of plain data; threads write only rows that the algorithms hand out
// once.
unsafe impl<T: Send, const N: usize> Send for ViewMut<'_, T, N> {}
// SAFETY: as above; the only method that writes through `&self` is unsafe and states the condition.
unsafe impl<T: Send, const N: usize> Sync for ViewMut<'_, T, N> {}

fn geometry<const N: usize>(
    argument: &'static str,
    shape: &[usize],
    strides: &[isize],
) -> Result<([usize; N], [usize; N])> {
    let wrong = |expected: String, given: String| Error::argument(argument, expected, given);
    if shape.len() != N {
        return Err(wrong(format!("{N} dimensions"), format!("shape {shape:?}")));
    }
    let mut out = ([0; N], [0; N]);
    for i in 0..N {
        let stride = if shape[i] < 2 { 0 } else { strides[i] };
        if i + 1 == N && shape[i] > 1 && stride != 1 && stride != 0 {
            return Err(wrong("a contiguous last dimension".into(), format!("stride {stride} elements")));
        }
        let stride = usize::try_from(stride).map_err(|_| wrong("strides >= 0".into(), format!("{strides:?}")))?;
        out.0[i] = shape[i];
        out.1[i] = stride;
    }
    Ok(out)
}

impl<'a, T, const N: usize> View<'a, T, N> {
    /// Borrows `array`. An error names `argument` when the rank is not `N`, a stride is negative or the last dimension
    /// is strided. A last dimension of stride 0 is accepted for [`View::at`] only: see [`View::is_contiguous`].
    pub fn new<D: Dimension>(argument: &'static str, array: &ArrayView<'a, T, D>) -> Result<Self> {
        let (shape, strides) = geometry(argument, array.shape(), array.strides())?;
        Ok(View { pointer: array.as_ptr(), shape, strides, memory: PhantomData })
    }

    /// The sizes.
    pub fn shape(&self) -> [usize; N] {
        self.shape
    }

    /// The strides in elements; 0 for a dimension of size 1.
    pub fn strides(&self) -> [usize; N] {
        self.strides
    }

    /// Whether the last dimension's elements lie side by side, as [`View::row`] needs.
    pub fn is_contiguous(&self) -> bool {
        self.shape[N - 1] < 2 || self.strides[N - 1] == 1 || self.shape.contains(&0)
    }

    /// The same memory seen as `shape`: dimensions of size 1 are repeated by a zero stride.
    pub fn broadcast(&self, argument: &'static str, shape: [usize; N]) -> Result<Self> {
        let mut strides = self.strides;
        for i in 0..N {
            if self.shape[i] == 1 {
                strides[i] = 0;
            } else if self.shape[i] != shape[i] {
                return Err(Error::argument(
                    argument,
                    format!("broadcastable to {shape:?}"),
                    format!("{:?}", self.shape),
                ));
            }
        }
        Ok(View { shape, strides, ..*self })
    }

    /// One element.
    ///
    /// # Panics
    /// When an index is out of range.
    pub fn at(&self, index: [usize; N]) -> T
    where
        T: Copy,
    {
        let offset = self.offset(index);
        // SAFETY: every index is below its size, so the ndarray view that this came from has the element.
        unsafe { *self.pointer.add(offset) }
    }

    /// The last dimension at `index` (whose last entry is where the slice starts) to its end.
    ///
    /// # Panics
    /// When an index is out of range or the last dimension is not contiguous.
    pub fn row(&self, mut index: [usize; N]) -> &'a [T] {
        assert!(self.is_contiguous(), "rows need a contiguous last dimension");
        let start = std::mem::take(&mut index[N - 1]);
        let length = self.shape[N - 1].checked_sub(start).expect("start within the row");
        if length == 0 {
            return &[];
        }
        index[N - 1] = start;
        let offset = self.offset(index);
        // SAFETY: the elements from `start` to the end of the row exist and lie side by side.
        unsafe { std::slice::from_raw_parts(self.pointer.add(offset), length) }
    }

    /// Where the element of `index` lies, for kernels that walk rows by stride.
    ///
    /// # Panics
    /// When an index is out of range.
    pub fn pointer_at(&self, index: [usize; N]) -> *const T {
        self.pointer.wrapping_add(self.offset(index))
    }

    fn offset(&self, index: [usize; N]) -> usize {
        (0..N)
            .map(|i| {
                assert!(index[i] < self.shape[i], "index {index:?} outside shape {:?}", self.shape);
                index[i] * self.strides[i]
            })
            .sum()
    }
}

impl<'a, T, const N: usize> ViewMut<'a, T, N> {
    /// Borrows `array` for writing. An error names `argument` when the rank is not `N`, a stride is negative or the
    /// last dimension is strided.
    pub fn new<D: Dimension>(argument: &'static str, array: &mut ArrayViewMut<'a, T, D>) -> Result<Self> {
        let (shape, strides) = geometry::<N>(argument, array.shape(), array.strides())?;
        Ok(ViewMut { pointer: array.as_mut_ptr(), shape, strides, memory: PhantomData })
    }

    /// The sizes.
    pub fn shape(&self) -> [usize; N] {
        self.shape
    }

    /// The indices below `at` of a dimension, and the others.
    ///
    /// # Panics
    /// When `at` is larger than the dimension.
    pub fn split(self, dimension: usize, at: usize) -> (Self, Self) {
        let mut shapes = [self.shape; 2];
        shapes[1][dimension] = self.shape[dimension].checked_sub(at).expect("a split within the dimension");
        shapes[0][dimension] = at;
        let skip = if shapes[1][dimension] == 0 { 0 } else { at * self.strides[dimension] };
        let part = |pointer, shape| ViewMut { pointer, shape, strides: self.strides, memory: PhantomData };
        (part(self.pointer, shapes[0]), part(self.pointer.wrapping_add(skip), shapes[1]))
    }

    /// The last dimension at `index`, whose last entry is ignored.
    ///
    /// # Panics
    /// When an index is out of range.
    pub fn row_mut(&mut self, index: [usize; N]) -> &mut [T] {
        // SAFETY: `&mut self` makes this the only row borrowed.
        unsafe { self.row_shared(index) }
    }

    /// Where the row at `index`, whose last entry is ignored, and the `count` - 1 rows behind it along the dimension
    /// before the last begin, for kernels that walk rows by stride: the first, and how far apart they are.
    ///
    /// # Panics
    /// When one of them does not exist.
    pub(crate) fn rows_from(&mut self, index: [usize; N], count: usize) -> (*mut T, usize) {
        assert!(count <= self.shape[N - 2].saturating_sub(index[N - 2]), "{count} rows from {index:?}");
        let mut offset = 0;
        for i in 0..N - 1 {
            assert!(index[i] < self.shape[i], "index {index:?} outside shape {:?}", self.shape);
            offset += index[i] * self.strides[i];
        }
        (self.pointer.wrapping_add(offset), self.strides[N - 2])
    }

    /// As [`ViewMut::row_mut`], for threads that share the view.
    ///
    /// # Panics
    /// When an index is out of range.
    ///
    /// # Safety
    /// No two rows borrowed at the same time have the same index.
    #[expect(clippy::mut_from_ref, reason = "the condition above")]
    pub(crate) unsafe fn row_shared(&self, mut index: [usize; N]) -> &mut [T] {
        index[N - 1] = 0;
        let length = self.shape[N - 1];
        if length == 0 {
            return &mut [];
        }
        let mut offset = 0;
        for i in 0..N {
            assert!(index[i] < self.shape[i], "index {index:?} outside shape {:?}", self.shape);
            offset += index[i] * self.strides[i];
        }
        // SAFETY: the row exists, is contiguous, does not overlap another row, and the caller borrows it once.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(offset), length) }
    }
}
