//! NumPy arrays as the views that the backend takes, and the refusal of every array that cannot be one.

use crate::failure::{borrow, dtype};
use farspan_core::{Dtype, Error, Result};
use farspan_cpu::matrix::Matrix;
use farspan_cpu::{Typed, View, map, of_dtype};
use numpy::ndarray::{Array2, ArrayView, ArrayViewD, Axis, Dimension, Ix1, Ix2, IxDyn};
use numpy::{
    Element, PyArray, PyArrayMethods, PyReadonlyArray, PyReadonlyArray1, PyReadwriteArray, PyReadwriteArray1,
    PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::prelude::*;

/// No argument has more dimensions.
const MAX_DIMENSIONS: usize = 4;

/// Element types by the name that a caller knows them by.
pub(crate) trait Named: Element + Copy {
    const NAME: &'static str;
}
impl Named for f32 {
    const NAME: &'static str = "float32";
}
impl Named for u16 {
    const NAME: &'static str = "the bits of bfloat16 or float16";
}
impl Named for f64 {
    const NAME: &'static str = "float64";
}
impl Named for i64 {
    const NAME: &'static str = "int64";
}
impl Named for i32 {
    const NAME: &'static str = "int32";
}

/// The element type of this name.
pub(crate) fn named_dtype(argument: &'static str, name: &str) -> Result<Dtype> {
    let found = Dtype::ALL.into_iter().find(|d| d.name() == name);
    found.ok_or_else(|| dtype(argument, "float32, bfloat16 or float16", name))
}

/// Refuses what is no array, and memory that no Rust reference may look at.
fn inspected<'a, 'py>(
    argument: &'static str,
    object: &'a Bound<'py, PyAny>,
    item: usize,
) -> Result<&'a Bound<'py, PyUntypedArray>> {
    let array = object.cast::<PyUntypedArray>().map_err(|_| dtype(argument, "an array", object.get_type()))?;
    if array.ndim() > MAX_DIMENSIONS {
        return Err(Error::argument(argument, format!("at most {MAX_DIMENSIONS} dimensions"), array.ndim()));
    }
    if !array.is_aligned() {
        return Err(Error::argument(argument, "memory aligned to its elements", "misaligned memory"));
    }
    let whole = |&stride: &isize| stride >= 0 && stride % item as isize == 0;
    if !array.strides().iter().zip(array.shape()).all(|(stride, &size)| size == 1 || whole(stride)) {
        let given = format!("strides {:?} bytes of shape {:?}", array.strides(), array.shape());
        return Err(Error::argument(argument, format!("strides of whole {item}-byte elements, none negative"), given));
    }
    Ok(array)
}

fn typed<'a, 'py, T: Named, D: Dimension>(
    argument: &'static str,
    object: &'a Bound<'py, PyAny>,
) -> Result<&'a Bound<'py, PyArray<T, D>>> {
    let array = inspected(argument, object, size_of::<T>())?;
    if let Some(rank) = D::NDIM.filter(|&rank| rank != array.ndim()) {
        return Err(Error::argument(argument, format!("{rank} dimensions"), format!("shape {:?}", array.shape())));
    }
    object.cast::<PyArray<T, D>>().map_err(|_| dtype(argument, T::NAME, array.dtype()))
}

/// A shared borrow of an array, held for the call.
pub(crate) fn readonly<'py, T: Named, D: Dimension>(
    argument: &'static str,
    object: &Bound<'py, PyAny>,
) -> Result<PyReadonlyArray<'py, T, D>> {
    typed(argument, object)?.try_readonly().map_err(|error| borrow(argument, error))
}

/// Refuses an array of which two elements lie at one place: no exclusive reference may look at it.
fn disjoint<T>(argument: &'static str, array: &Bound<'_, PyUntypedArray>) -> Result<()> {
    let shape = array.shape();
    let stride = |(&size, &stride): (&usize, &isize)| if size < 2 { 0 } else { stride.unsigned_abs() / size_of::<T>() };
    let strides: Vec<usize> = shape.iter().zip(array.strides()).map(stride).collect();
    let mut order: Vec<usize> = (0..shape.len()).filter(|&i| shape[i] > 1).collect();
    order.sort_by_key(|&i| strides[i]);
    let mut reach = 1;
    for i in order {
        if strides[i] < reach && !shape.contains(&0) {
            let given = format!("shape {shape:?}, strides {strides:?}");
            return Err(Error::argument(argument, "elements that do not overlap", given));
        }
        reach = reach.max(strides[i].saturating_mul(shape[i]));
    }
    Ok(())
}

/// An exclusive borrow of an array, held for the call.
pub(crate) fn readwrite<'py, T: Named, D: Dimension>(
    argument: &'static str,
    object: &Bound<'py, PyAny>,
) -> Result<PyReadwriteArray<'py, T, D>> {
    let array = typed(argument, object)?;
    disjoint::<T>(argument, array.as_untyped())?;
    array.try_readwrite().map_err(|error| borrow(argument, error))
}

/// `array` seen as `shape`: leading dimensions are added, dimensions of size 1 repeated.
pub(crate) fn broadcast<'a, T: Element, const N: usize>(
    argument: &'static str,
    mut array: ArrayViewD<'a, T>,
    shape: [usize; N],
) -> Result<View<'a, T, N>> {
    if array.ndim() > N {
        return Err(Error::argument(argument, format!("broadcastable to {shape:?}"), format!("{:?}", array.shape())));
    }
    while array.ndim() < N {
        array.insert_axis_inplace(Axis(0));
    }
    View::new(argument, &array)?.broadcast(argument, shape)
}

/// One-dimensional int32 or int64 numbers.
pub(crate) fn integers(argument: &'static str, object: &Bound<'_, PyAny>) -> Result<Vec<i64>> {
    if holds::<i32>(object) {
        return collected(argument, readonly::<i32, Ix1>(argument, object)?.as_array(), i64::from);
    }
    if holds::<i64>(object) {
        return collected(argument, readonly::<i64, Ix1>(argument, object)?.as_array(), |x| x);
    }
    Err(dtype(argument, "int32 or int64", kind(object)))
}

/// Two-dimensional int32 or int64 numbers.
pub(crate) fn integer_rows(argument: &'static str, object: &Bound<'_, PyAny>) -> Result<Array2<i64>> {
    fn rows<T: Named>(argument: &'static str, object: &Bound<'_, PyAny>, map: fn(T) -> i64) -> Result<Array2<i64>> {
        let array = readonly::<T, Ix2>(argument, object)?;
        let array = array.as_array();
        let values = collected(argument, array, map)?;
        Array2::from_shape_vec(array.dim(), values).map_err(|error| Error::argument(argument, "rows", error))
    }
    if holds::<i32>(object) {
        return rows::<i32>(argument, object, i64::from);
    }
    if holds::<i64>(object) {
        return rows::<i64>(argument, object, |x| x);
    }
    Err(dtype(argument, "int32 or int64", kind(object)))
}

/// Positions `[time]` or `[batch, time]`, int32, int64 or float32, as float64, which holds each of them exactly up to
/// 2^53.
pub(crate) fn positions(argument: &'static str, object: &Bound<'_, PyAny>) -> Result<Array2<f64>> {
    if holds::<i64>(object) {
        return widened::<i64>(argument, object, |x| x as f64);
    }
    if holds::<i32>(object) {
        return widened::<i32>(argument, object, f64::from);
    }
    if holds::<f32>(object) {
        return widened::<f32>(argument, object, f64::from);
    }
    Err(dtype(argument, "int32, int64 or float32", kind(object)))
}

fn widened<T: Named>(argument: &'static str, object: &Bound<'_, PyAny>, widen: fn(T) -> f64) -> Result<Array2<f64>> {
    let array = readonly::<T, IxDyn>(argument, object)?;
    let array = array.as_array();
    let shape = match *array.shape() {
        [time] => (1, time),
        [batch, time] => (batch, time),
        ref shape => return Err(Error::argument(argument, "shape [time] or [batch, time]", format!("{shape:?}"))),
    };
    let values = collected(argument, array, widen)?;
    Array2::from_shape_vec(shape, values).map_err(|error| Error::argument(argument, "positions", error))
}

/// The elements in order. An array that repeats its elements can be larger than any memory: that is an error too.
fn collected<T: Named, U, D: Dimension>(
    argument: &'static str,
    array: ArrayView<'_, T, D>,
    map: fn(T) -> U,
) -> Result<Vec<U>> {
    let mut values = Vec::new();
    let too_many = || Error::backend(argument, "numbers that fit into memory", format!("{} of them", array.len()));
    values.try_reserve_exact(array.len()).map_err(|error| too_many().because(error))?;
    values.extend(array.iter().map(|&x| map(x)));
    Ok(values)
}

fn holds<T: Element>(object: &Bound<'_, PyAny>) -> bool {
    object.cast::<PyArray<T, IxDyn>>().is_ok()
}

/// The element type of an array, the type of anything else.
fn kind(object: &Bound<'_, PyAny>) -> String {
    match object.cast::<PyUntypedArray>() {
        Ok(array) => array.dtype().to_string(),
        Err(_) => object.get_type().to_string(),
    }
}

/// One of the large inputs; half types by their bits.
pub(crate) type Large<'py, D> = Typed<PyReadonlyArray<'py, f32, D>, PyReadonlyArray<'py, u16, D>>;

/// An output of the large inputs' element type.
pub(crate) type LargeMut<'py, D> = Typed<PyReadwriteArray<'py, f32, D>, PyReadwriteArray<'py, u16, D>>;

pub(crate) fn large<'py, D: Dimension>(
    argument: &'static str,
    dtype: Dtype,
    object: &Bound<'py, PyAny>,
) -> Result<Large<'py, D>> {
    Ok(of_dtype!(dtype => readonly(argument, object)?))
}

pub(crate) fn large_mut<'py, D: Dimension>(
    argument: &'static str,
    dtype: Dtype,
    object: &Bound<'py, PyAny>,
) -> Result<LargeMut<'py, D>> {
    Ok(of_dtype!(dtype => readwrite(argument, object)?))
}

/// A large input of two dimensions, as the backend takes it.
pub(crate) fn matrix<'a>(array: &'a Large<'_, Ix2>) -> Matrix<'a> {
    map!(x in array => x.as_array())
}

/// float32 `[n]`, or none.
pub(crate) fn optional_row<'py>(
    argument: &'static str,
    object: Option<&Bound<'py, PyAny>>,
) -> Result<Option<PyReadonlyArray1<'py, f32>>> {
    object.map(|object| readonly(argument, object)).transpose()
}

/// The numbers of a row.
pub(crate) fn slice<'a, T: Element>(argument: &'static str, row: &'a PyReadonlyArray1<'_, T>) -> Result<&'a [T]> {
    row.as_slice().map_err(|_| Error::argument(argument, "contiguous numbers", "a strided array"))
}

/// The same, to be written.
pub(crate) fn slice_mut<'a, T: Element>(
    argument: &'static str,
    row: &'a mut PyReadwriteArray1<'_, T>,
) -> Result<&'a mut [T]> {
    row.as_slice_mut().map_err(|_| Error::argument(argument, "contiguous numbers", "a strided array"))
}
