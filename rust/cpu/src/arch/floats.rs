//! What a thread's processor does with floating-point numbers besides computing: rounding, and subnormal numbers.

use std::marker::PhantomData;

/// While it lives, its thread rounds to nearest and keeps subnormal numbers, as Rust takes for granted. A caller may
/// have asked for something else (`torch.set_flush_denormal`), and then a number would depend on who computed it.
#[derive(Debug)]
pub(crate) struct PlainFloats {
    before: u32,
    of_this_thread: PhantomData<*const ()>,
}

impl PlainFloats {
    pub(crate) fn begin() -> Self {
        let before = control::read();
        if before & control::SETTINGS != control::PLAIN {
            control::write(control::PLAIN);
        }
        PlainFloats { before, of_this_thread: PhantomData }
    }
}

impl Drop for PlainFloats {
    fn drop(&mut self) {
        if self.before & control::SETTINGS != control::PLAIN {
            control::write(self.before);
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod control {
    //! Both may touch memory, for all that the compiler knows: so what is computed from memory and to memory stays on
    //! its side of them.

    use std::arch::asm;

    /// All but the notes of what has happened.
    pub(crate) const SETTINGS: u32 = !0x3f;
    /// To nearest, no exceptions, no flushing.
    pub(crate) const PLAIN: u32 = 0x1f80;

    pub(crate) fn read() -> u32 {
        let mut word = 0u32;
        // SAFETY: it writes four bytes, which are there.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut word, options(nostack, preserves_flags)) }
        word
    }

    pub(crate) fn write(word: u32) {
        // SAFETY: it reads four bytes, which are there; words come from `read`, or are the one Rust assumes.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const word, options(nostack, preserves_flags)) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) mod control {
    pub(crate) const SETTINGS: u32 = 0;
    pub(crate) const PLAIN: u32 = 0;

    pub(crate) fn read() -> u32 {
        PLAIN
    }

    pub(crate) fn write(_: u32) {}
}
