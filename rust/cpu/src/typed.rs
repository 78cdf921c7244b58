//! The one choice between element types: a thing that is one of three, and what is done to whichever it is.
//!
//! The macros compile an expression once for each type, as a match with the same arm three times would: a loop inside
//! knows its type.

use farspan_core::Dtype;

/// A thing of one of the element types: what it is for float32, or what it is for the bits of a half type.
#[derive(Clone, Copy, Debug)]
pub enum Typed<F, H> {
    /// float32
    F32(F),
    /// The bits of bfloat16.
    Bf16(H),
    /// The bits of float16.
    F16(H),
}

/// What an expression makes of the thing `x`, whichever it is: `each!(x in typed => x.len())`. With `as wrap`, `wrap`
/// makes a [`Typed`] of that element type.
#[macro_export]
macro_rules! each {
    ($x:pat in $typed:expr => $body:expr) => {
        match $typed {
            $crate::Typed::F32($x) => $body,
            $crate::Typed::Bf16($x) => $body,
            $crate::Typed::F16($x) => $body,
        }
    };
    ($x:ident as $wrap:ident in $typed:expr => $body:expr) => {
        match $typed {
            $crate::Typed::F32($x) => {
                let $wrap = $crate::Typed::F32;
                $body
            }
            $crate::Typed::Bf16($x) => {
                let $wrap = $crate::Typed::Bf16;
                $body
            }
            $crate::Typed::F16($x) => {
                let $wrap = $crate::Typed::F16;
                $body
            }
        }
    };
}

/// As [`each!`], of the same element type again: `map!(x in typed => x.view())`.
#[macro_export]
macro_rules! map {
    ($x:ident in $typed:expr => $body:expr) => {
        $crate::each!($x as wrap in $typed => wrap($body))
    };
}

/// A [`Typed`] of the [`Dtype`] that is given: `of_dtype!(dtype => read(argument)?)`.
#[macro_export]
macro_rules! of_dtype {
    ($dtype:expr => $body:expr) => {
        match $dtype {
            $crate::Dtype::F32 => $crate::Typed::F32($body),
            $crate::Dtype::Bf16 => $crate::Typed::Bf16($body),
            $crate::Dtype::F16 => $crate::Typed::F16($body),
        }
    };
}

impl<F, H> Typed<F, H> {
    /// The element type.
    #[inline(always)]
    pub const fn dtype(&self) -> Dtype {
        match self {
            Typed::F32(_) => Dtype::F32,
            Typed::Bf16(_) => Dtype::Bf16,
            Typed::F16(_) => Dtype::F16,
        }
    }
}

impl<F, G, H, I> Typed<(F, G), (H, I)> {
    /// The two things of a pair.
    pub(crate) fn unzip(self) -> (Typed<F, H>, Typed<G, I>) {
        match self {
            Typed::F32((a, b)) => (Typed::F32(a), Typed::F32(b)),
            Typed::Bf16((a, b)) => (Typed::Bf16(a), Typed::Bf16(b)),
            Typed::F16((a, b)) => (Typed::F16(a), Typed::F16(b)),
        }
    }
}

/// A contiguous part of a row to be written.
pub(crate) type RowMut<'a> = Typed<&'a mut [f32], &'a mut [u16]>;

impl RowMut<'_> {
    /// How many numbers it takes.
    pub(crate) fn len(&self) -> usize {
        each!(row in self => row.len())
    }

    /// `count` numbers from number `first`.
    pub(crate) fn part(&mut self, first: usize, count: usize) -> RowMut<'_> {
        map!(row in self => &mut row[first..][..count])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_keeps_its_element_type() {
        for dtype in Dtype::ALL {
            let made: Typed<Vec<f32>, Vec<u16>> = of_dtype!(dtype => vec![Default::default(); 3]);
            assert_eq!(made.dtype(), dtype);
            assert_eq!(each!(x in &made => x.len()), 3);
            let (first, rest) = map!(x in &made => x.split_at(1)).unzip();
            assert_eq!((first.dtype(), rest.dtype()), (dtype, dtype));
            assert_eq!([each!(x in first => x.len()), each!(x in rest => x.len())], [1, 2]);
        }
    }

    #[test]
    fn an_expression_knows_the_type_of_its_numbers() {
        let sizes = [Typed::F32(1.0f32), Typed::Bf16(1u16), Typed::F16(1)].map(|x| each!(x in x => size_of_val(&x)));
        assert_eq!(sizes, [4, 2, 2]);
    }

    #[test]
    fn a_part_of_a_row_is_written_where_it_lies() {
        let mut numbers = [0u16; 5];
        let mut row = RowMut::F16(&mut numbers);
        assert_eq!(row.len(), 5);
        let Typed::F16(part) = row.part(1, 3) else { panic!("another element type") };
        part.fill(7);
        assert_eq!(numbers, [0, 7, 7, 7, 0]);
    }
}
