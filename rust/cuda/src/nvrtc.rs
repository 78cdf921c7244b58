//! NVIDIA's run-time compiler, from a library file that the caller found. It needs neither a GPU nor a driver.

use crate::fault::loader;
use crate::source::Program;
use farspan_core::{Error, Result};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

type Handle = *mut c_void;

macro_rules! functions {
    ($($name:ident($($argument:ty),*) -> $result:ty;)*) => {
        #[allow(non_snake_case)] // as the library spells them
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions {
            /// # Safety
            /// The library's functions of these names have these signatures.
            unsafe fn of(library: &Library) -> std::result::Result<Functions, libloading::Error> {
                // SAFETY: the caller says so.
                unsafe { Ok(Functions { $($name: *library.get(concat!(stringify!($name), "\0"))?,)* }) }
            }
        }
    };
}

functions! {
    nvrtcVersion(*mut c_int, *mut c_int) -> c_int;
    nvrtcGetErrorString(c_int) -> *const c_char;
    nvrtcCreateProgram(
        *mut Handle, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char
    ) -> c_int;
    nvrtcDestroyProgram(*mut Handle) -> c_int;
    nvrtcCompileProgram(Handle, c_int, *const *const c_char) -> c_int;
    nvrtcGetProgramLogSize(Handle, *mut usize) -> c_int;
    nvrtcGetProgramLog(Handle, *mut c_char) -> c_int;
    nvrtcGetCUBINSize(Handle, *mut usize) -> c_int;
    nvrtcGetCUBIN(Handle, *mut c_char) -> c_int;
}

/// What every kernel is compiled with, beside the architecture. Contraction is off because the kernels say themselves
/// where a product and a sum are one operation: their bits shall not depend on the compiler's taste.
pub const OPTIONS: [&str; 2] = ["--std=c++17", "--fmad=false"];

/// Beside these where `FARSPAN_CUDA_LINEINFO` is set: machine code that names the lines of the kernels' text, for
/// compute-sanitizer and profilers. The instructions are the same.
const LINE_INFO: &str = "--generate-line-info";

/// What a kernel is compiled with now.
pub fn options() -> Vec<&'static str> {
    let with_lines = std::env::var_os("FARSPAN_CUDA_LINEINFO").is_some_and(|set| !set.is_empty() && set != "0");
    OPTIONS.into_iter().chain(with_lines.then_some(LINE_INFO)).collect()
}

/// The compiler's target for a device of this compute capability. From 9.0 to 11.x it is the exact architecture, whose
/// instructions no later one has.
pub fn target(architecture: u32) -> String {
    let exact = if (90..120).contains(&architecture) { "a" } else { "" };
    format!("sm_{architecture}{exact}")
}

/// An opened NVRTC library.
pub struct Nvrtc {
    functions: Functions,
    version: (i32, i32),
    path: PathBuf,
    _library: Library,
}

impl Nvrtc {
    /// Opens the library at `path`.
    pub fn open(path: &Path) -> Result<Nvrtc> {
        let needed = "a library libnvrtc.so of CUDA 12 or newer (pip install nvidia-cuda-nvrtc)";
        let fault = |error: libloading::Error| {
            let given = format!("{}: {}", path.display(), loader(&error));
            Error::backend("NVRTC", needed, given).because(error)
        };
        preload_builtins(path);
        // SAFETY: the caller found it as NVIDIA's library, whose loading has no requirements.
        let library = unsafe { Library::new(path) }.map_err(fault)?;
        // SAFETY: these are the signatures of nvrtc.h, unchanged since CUDA 11.
        let functions = unsafe { Functions::of(&library) }.map_err(fault)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both point to integers.
        let status = unsafe { (functions.nvrtcVersion)(&mut major, &mut minor) };
        if status != 0 || major < 12 {
            return Err(Error::backend("NVRTC", needed, format!("{} of CUDA {major}.{minor}", path.display())));
        }
        Ok(Nvrtc { functions, version: (major, minor), path: path.to_owned(), _library: library })
    }

    /// The CUDA version it belongs to.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// The file it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The machine code of `program` for `target`. `name` stands in the compiler's messages.
    pub fn compile(&self, name: &str, program: &Program, target: &str) -> Result<Vec<u8>> {
        let compilation = Compilation::new(&self.functions, name, program)?;
        let mut options = vec![c_string(&format!("--gpu-architecture={target}"))];
        options.extend(self::options().into_iter().map(c_string));
        let pointers = pointers(&options);
        // SAFETY: the program is alive, and so are the options behind the pointers, as many as told.
        let status = unsafe {
            (self.functions.nvrtcCompileProgram)(compilation.handle, pointers.len() as c_int, pointers.as_ptr())
        };
        if status != 0 {
            let (major, minor) = self.version;
            let given = format!(
                "{} for {target} from NVRTC {major}.{minor} ({}): {}",
                error_string(&self.functions, status),
                self.path.display(),
                compilation.log()
            );
            return Err(Error::backend(
                "NVRTC",
                format!("{name} to compile; pip install -U nvidia-cuda-nvrtc may help"),
                given,
            ));
        }
        compilation.cubin()
    }
}

/// NVRTC opens its builtins by their bare name, which the loader finds only where it looks or where they are open
/// already.
fn preload_builtins(path: &Path) {
    let Some(entries) = path.parent().and_then(|folder| folder.read_dir().ok()) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so") {
            // SAFETY: a table of data, whose loading has no requirements. What cannot be opened, NVRTC will report.
            if let Ok(library) = unsafe { Library::new(entry.path()) } {
                std::mem::forget(library);
            }
        }
    }
}

/// A program inside the compiler.
struct Compilation<'a> {
    functions: &'a Functions,
    handle: Handle,
}

impl<'a> Compilation<'a> {
    fn new(functions: &'a Functions, name: &str, program: &Program) -> Result<Self> {
        let text = c_string(&program.text);
        let name = c_string(name);
        let (names, headers): (Vec<_>, Vec<_>) =
            program.headers.iter().map(|(name, text)| (c_string(name), c_string(text))).unzip();
        let mut handle = ptr::null_mut();
        // SAFETY: all strings are alive during the call, and both arrays have as many as told.
        let status = unsafe {
            (functions.nvrtcCreateProgram)(
                &mut handle,
                text.as_ptr(),
                name.as_ptr(),
                headers.len() as c_int,
                pointers(&headers).as_ptr(),
                pointers(&names).as_ptr(),
            )
        };
        if status != 0 {
            return Err(Error::backend("NVRTC", "to take a program", error_string(functions, status)));
        }
        Ok(Compilation { functions, handle })
    }

    fn log(&self) -> String {
        let log = self.bytes(self.functions.nvrtcGetProgramLogSize, self.functions.nvrtcGetProgramLog);
        let text = log.unwrap_or_default();
        String::from_utf8_lossy(&text).trim_matches(['\0', '\n']).to_owned()
    }

    fn cubin(&self) -> Result<Vec<u8>> {
        let fault = |status| Error::backend("NVRTC", "machine code", error_string(self.functions, status));
        self.bytes(self.functions.nvrtcGetCUBINSize, self.functions.nvrtcGetCUBIN).map_err(fault)
    }

    fn bytes(
        &self,
        size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
        get: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    ) -> std::result::Result<Vec<u8>, c_int> {
        let mut count = 0;
        // SAFETY: the program is alive.
        let status = unsafe { size(self.handle, &mut count) };
        if status != 0 {
            return Err(status);
        }
        let mut bytes = vec![0; count];
        // SAFETY: the program is alive and the buffer has the size that it asked for.
        match unsafe { get(self.handle, bytes.as_mut_ptr().cast()) } {
            0 => Ok(bytes),
            status => Err(status),
        }
    }
}

impl Drop for Compilation<'_> {
    fn drop(&mut self) {
        // SAFETY: the program is alive and not used again.
        unsafe { (self.functions.nvrtcDestroyProgram)(&mut self.handle) };
    }
}

fn error_string(functions: &Functions, status: c_int) -> String {
    // SAFETY: the function gives a string constant for any number.
    let text = unsafe { (functions.nvrtcGetErrorString)(status) };
    if text.is_null() {
        return format!("error {status}");
    }
    // SAFETY: it is that constant.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Text up to its first zero byte; ours has none.
fn c_string(text: &str) -> CString {
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).collect()
}

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn targets_are_exact_where_an_architecture_has_instructions_of_its_own() {
        let targets = [80, 86, 89, 90, 100, 103, 110, 120, 121].map(target);
        assert_eq!(targets, ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_103a", "sm_110a", "sm_120", "sm_121"]);
    }
}
