//! The three element types as memory that loads into, and stores from, sixteen float32 lanes.

use super::lanes::{LANES, Lanes};

/// One element of a large array.
///
/// # Safety
/// As [`Lanes`], of which the methods take the pointers.
pub(crate) unsafe trait Element: Copy + Send + Sync + 'static {
    /// Sixteen elements from `p`, widened.
    unsafe fn load<L: Lanes>(p: *const Self) -> L::F;
    /// Sixteen elements to `p`, rounded.
    unsafe fn store<L: Lanes>(p: *mut Self, x: L::F);

    /// `count <= 16` elements from `p`, zeros behind; reads no byte past them.
    #[inline(always)]
    unsafe fn load_part<L: Lanes>(p: *const Self, count: usize) -> L::F {
        let mut whole = [std::mem::MaybeUninit::<Self>::zeroed(); LANES];
        // SAFETY: the caller's pointer; zeros are elements.
        unsafe {
            std::ptr::copy_nonoverlapping(p, whole.as_mut_ptr().cast(), count.min(LANES));
            Self::load::<L>(whole.as_ptr().cast())
        }
    }

    /// The first `count <= 16` lanes to `p`; writes no byte past them.
    #[inline(always)]
    unsafe fn store_part<L: Lanes>(p: *mut Self, x: L::F, count: usize) {
        let mut whole = [std::mem::MaybeUninit::<Self>::zeroed(); LANES];
        // SAFETY: the caller's pointer.
        unsafe {
            Self::store::<L>(whole.as_mut_ptr().cast(), x);
            std::ptr::copy_nonoverlapping(whole.as_ptr().cast(), p, count.min(LANES));
        }
    }
}

/// The bits of a bfloat16.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Bf16(u16);

/// The bits of a float16.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct F16(u16);

/// As [`each!`](crate::each), with the element type: `each_element!(E, x in typed => read::<E>(x.cast()))`.
macro_rules! each_element {
    ($element:ident, $x:ident in $typed:expr => $body:expr) => {
        match $typed {
            $crate::Typed::F32($x) => {
                type $element = f32;
                $body
            }
            $crate::Typed::Bf16($x) => {
                type $element = $crate::arch::element::Bf16;
                $body
            }
            $crate::Typed::F16($x) => {
                type $element = $crate::arch::element::F16;
                $body
            }
        }
    };
}
pub(crate) use each_element;

// SAFETY: forwards to the lanes.
unsafe impl Element for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const Self) -> L::F {
        // SAFETY: the caller's.
        unsafe { L::load(p) }
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(p: *mut Self, x: L::F) {
        // SAFETY: the caller's.
        unsafe { L::store(p, x) }
    }
    #[inline(always)]
    unsafe fn load_part<L: Lanes>(p: *const Self, count: usize) -> L::F {
        // SAFETY: the caller's.
        unsafe { L::load_part(p, count) }
    }
    #[inline(always)]
    unsafe fn store_part<L: Lanes>(p: *mut Self, x: L::F, count: usize) {
        // SAFETY: the caller's.
        unsafe { L::store_part(p, x, count) }
    }
}

// SAFETY: forwards to the lanes.
unsafe impl Element for Bf16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const Self) -> L::F {
        // SAFETY: the caller's.
        unsafe { L::load_bf16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(p: *mut Self, x: L::F) {
        // SAFETY: the caller's.
        unsafe { L::store_bf16(p.cast(), x) }
    }
}

// SAFETY: forwards to the lanes.
unsafe impl Element for F16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const Self) -> L::F {
        // SAFETY: the caller's.
        unsafe { L::load_f16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(p: *mut Self, x: L::F) {
        // SAFETY: the caller's.
        unsafe { L::store_f16(p.cast(), x) }
    }
}
