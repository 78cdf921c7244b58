//! Libraries that stand in for NVIDIA's, and processes that use them.
#![allow(dead_code)] // each test program uses a part

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder that is empty at first and gone at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder); // of an earlier process with the same number
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Builds one of the C files beside this one as a shared library; gives its folder.
fn build(source: &str, options: &[&str], folder: &str, names: &[&str]) -> PathBuf {
    let scratch = Folder::new();
    let library = scratch.join("library");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(source);
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"];
    let status = Command::new(compiler).args(flags).arg(&library).arg(source).args(options).status().unwrap();
    assert!(status.success(), "{folder} does not compile");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    fs::create_dir_all(&folder).unwrap();
    for name in names {
        let copy = scratch.join(name);
        fs::copy(&library, &copy).unwrap();
        fs::rename(copy, folder.join(name)).unwrap(); // another test program may be using the one before
    }
    folder
}

/// The compiler that stands in for NVRTC, with its builtins beside it.
pub fn fake_nvrtc() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let builtins = "libnvrtc-builtins.so.13.0";
        build("fake_nvrtc.c", &[&format!("-Wl,-soname,{builtins}")], "fake-nvrtc", &[builtins]);
        build("fake_nvrtc.c", &[], "fake-nvrtc", &["libnvrtc.so.13"]).join("libnvrtc.so.13")
    })
}

/// Names by which the loader is asked for a driver.
const DRIVER_NAMES: [&str; 2] = ["libcuda.so", "libcuda.so.1"];

/// The folder of a driver.
pub fn fake_driver() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| build("fake_driver.c", &[], "fake-driver", &DRIVER_NAMES))
}

/// The folder of a driver that lacks a function.
pub fn driver_without_launch() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| build("fake_driver.c", &["-DWITHOUT_LAUNCH"], "driver-without-launch", &DRIVER_NAMES))
}

const CHILD: &str = "FARSPAN_TEST_CHILD";

/// Runs the body of the test `name` in a process of its own, which finds its driver in `libraries`. The test calls this
/// with its body; the process is the same program with the same test, which then comes here again.
pub fn in_process(name: &str, libraries: &Path, variables: &[(&str, &str)], body: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some_and(|child| child == name) {
        return body();
    }
    let scratch = Folder::new();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("LD_LIBRARY_PATH", libraries)
        .env("FARSPAN_CACHE_DIR", scratch.join("cache"))
        .env("FAKE_CUDA_NOTES", scratch.join("notes"))
        .env(CHILD, name)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "the process of {name}:\n{out}\n{err}");
}

/// What the driver noted in this process.
pub fn notes() -> Vec<String> {
    let path = std::env::var_os("FAKE_CUDA_NOTES").unwrap();
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}
