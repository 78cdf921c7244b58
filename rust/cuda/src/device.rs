//! What a kernel is called and where it runs.

use farspan_core::{Error, Result};

/// What a device offers to one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// How many blocks can run at the same time, at one per multiprocessor.
    pub multiprocessors: u32,
    /// The most dynamic shared memory that a block may ask for.
    pub shared_bytes_per_block: u32,
    /// The compute capability: 80 for 8.0, 90 for 9.0, 120 for 12.0.
    pub architecture: u32,
}

/// One kernel: a template of a header with its parameters chosen. It is a program, and a cache entry, of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The name of the compiled function.
    pub name: String,
    /// The header that defines the template, among [`crate::source::HEADERS`].
    pub header: &'static str,
    /// The `FARSPAN_KERNEL(...)` line that names and instantiates it.
    pub line: String,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of a thread's arrays that loops index, which therefore lie in its local memory. What a compiled kernel has
    /// beyond them is registers that did not fit.
    pub stack_bytes: u32,
    /// Bytes of dynamic shared memory of a usual launch, where they decide how many blocks fit; 0 elsewhere.
    pub shared_bytes: u32,
}

/// The most blocks along each axis of a grid, on every GPU.
pub const MOST_BLOCKS: [u32; 3] = [i32::MAX as u32, 65535, 65535];

/// Refuses a grid that no GPU takes.
pub fn check_grid(variant: &Variant, grid: [u32; 3]) -> Result<()> {
    if grid.iter().zip(MOST_BLOCKS).all(|(blocks, most)| *blocks <= most) {
        return Ok(());
    }
    let [[x, y, z], [most_x, most_y, most_z]] = [grid, MOST_BLOCKS];
    let expected = format!("at most {most_x} x {most_y} x {most_z} blocks of {}", variant.name);
    Err(Error::backend("kernel", expected, format!("{x} x {y} x {z}")))
}

/// Where kernels run: a GPU through its driver, or the emulator.
pub trait Device {
    /// What this device offers.
    fn limits(&self) -> Limits;

    /// Starts `grid` blocks of a kernel; they run after everything that its stream was given before. An empty
    /// grid is no launch.
    ///
    /// # Safety
    /// `params` are the bytes of the struct that the kernel takes, and its pointers are valid on this device for all
    /// that the kernel does with them, until it has run.
    unsafe fn launch(&self, variant: &Variant, grid: [u32; 3], shared_bytes: u32, params: &[u8]) -> Result<()>;
}

/// The one struct that a kernel takes, by value.
///
/// # Safety
/// The type is `#[repr(C)]`, made of plain numbers without padding between or after them, and the kernel's C++ struct
/// has the same fields in the same order.
pub unsafe trait Params: Copy {
    /// The struct as a launch takes it.
    fn bytes(&self) -> &[u8] {
        // SAFETY: a type of this trait has no padding, so each of its bytes is initialised; the borrow is of `self`.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}
