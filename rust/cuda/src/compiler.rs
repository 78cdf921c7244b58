//! From a kernel's text to machine code, by way of the cache.

use crate::cache::{Cache, Key};
use crate::device::Variant;
use crate::nvrtc::{self, Nvrtc};
use crate::source::{self, Program};
use farspan_core::{Error, Result};
use std::iter;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;

/// NVRTC with a cache before it.
pub struct Compiler {
    nvrtc: Nvrtc,
    cache: Cache,
    warning: Mutex<Option<String>>,
}

/// Machine code, and whether it had to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The file that the driver loads.
    pub cubin: Vec<u8>,
    /// False when it was in the cache.
    pub fresh: bool,
}

static SHARED: OnceLock<Compiler> = OnceLock::new();

impl Compiler {
    /// The compiler of this process, over the usual cache. The library is that of the first call.
    pub fn open_shared(nvrtc: &Path) -> Result<&'static Compiler> {
        if let Some(compiler) = SHARED.get() {
            return Ok(compiler);
        }
        let compiler = Compiler::new(Nvrtc::open(nvrtc)?, Cache::usual());
        Ok(SHARED.get_or_init(|| compiler))
    }

    /// The compiler of this process, once it is open.
    pub fn shared() -> Result<&'static Compiler> {
        SHARED.get().ok_or_else(|| Error::backend("NVRTC", "to be opened before the first kernel", "none"))
    }

    /// Compiles by `nvrtc` what `cache` does not hold.
    pub fn new(nvrtc: Nvrtc, cache: Cache) -> Compiler {
        Compiler { nvrtc, cache, warning: Mutex::new(None) }
    }

    /// The compiler behind the cache.
    pub fn nvrtc(&self) -> &Nvrtc {
        &self.nvrtc
    }

    /// The cache before the compiler.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The machine code of `variant` for devices of compute capability `architecture`. A cache that cannot be written
    /// is no failure; [`Compiler::take_warning`] tells of it.
    pub fn compile(&self, variant: &Variant, architecture: u32) -> Result<Compiled> {
        let program = source::program(variant);
        let target = nvrtc::target(architecture);
        let key = key(&program, &target, self.nvrtc.version());
        if let Some(cubin) = self.cache.get(&key) {
            return Ok(Compiled { cubin, fresh: false });
        }
        let cubin = self.nvrtc.compile(&variant.name, &program, &target)?;
        if let Err(error) = self.cache.put(&key, &cubin) {
            let folder = self.cache.folder().display();
            let text = format!(
                "compiled kernels cannot be kept in {folder} ({error}) and are compiled anew by each process; \
                 set FARSPAN_CACHE_DIR to a folder that can be written"
            );
            *self.warning.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(text);
        }
        Ok(Compiled { cubin, fresh: true })
    }

    /// Compiles `variants` on `threads` threads; the results are in their order.
    pub fn compile_all(&self, variants: &[Variant], architecture: u32, threads: usize) -> Vec<Result<Compiled>> {
        let next = AtomicUsize::new(0);
        let take = || {
            let index = next.fetch_add(1, Ordering::Relaxed);
            variants.get(index).map(|variant| (index, self.compile(variant, architecture)))
        };
        let mut done: Vec<_> = thread::scope(|scope| {
            let worker = || scope.spawn(|| iter::from_fn(take).collect::<Vec<_>>());
            let workers: Vec<_> = (0..threads.max(1)).map(|_| worker()).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        done.sort_unstable_by_key(|&(index, _)| index);
        done.into_iter().map(|(_, result)| result).collect()
    }

    /// What went wrong without being a failure, told once.
    pub fn take_warning(&self) -> Option<String> {
        self.warning.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }
}

/// All that the machine code depends on.
fn key(program: &Program, target: &str, (major, minor): (i32, i32)) -> Key {
    let version = format!("NVRTC {major}.{minor}");
    let own = [env!("CARGO_PKG_VERSION"), &version, target, &program.text];
    let headers = program.headers.iter().flat_map(|&(name, text)| [name, text]);
    Key::of(own.into_iter().chain(nvrtc::options()).chain(headers))
}

#[cfg(test)]
mod tests {
    use super::key;
    use crate::{probe, source};

    #[test]
    fn a_key_is_of_everything() {
        let program = source::program(&probe::variants()[0]);
        let usual = key(&program, "sm_80", (13, 0));
        assert_eq!(usual, key(&program.clone(), "sm_80", (13, 0)));
        let mut text = program.clone();
        text.text.push(' ');
        let mut header = program.clone();
        header.headers[1].1 = "// another text";
        let others = [
            key(&text, "sm_80", (13, 0)),
            key(&header, "sm_80", (13, 0)),
            key(&program, "sm_86", (13, 0)),
            key(&program, "sm_80", (12, 0)),
            key(&program, "sm_80", (13, 1)),
        ];
        assert!(others.iter().all(|other| *other != usual));
    }
}
