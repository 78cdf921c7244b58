//! Machines without a usable GPU, and GPUs that fail: each gives an error that says what to do, and none a crash. A
//! driver and a compiler made for these tests stand in for NVIDIA's, each test in a process of its own.

mod support;

use farspan_core::Dtype;
use farspan_cuda::cache::Cache;
use farspan_cuda::driver;
use farspan_cuda::nvrtc::Nvrtc;
use farspan_cuda::{Compiler, Device, Gpu, Result, Variant, probe, status};
use std::path::Path;
use std::thread;
use support::{Folder, driver_without_launch, fake_driver, fake_nvrtc, in_process, notes};

fn compiler() -> Compiler {
    Compiler::new(Nvrtc::open(fake_nvrtc()).unwrap(), Cache::usual())
}

/// One launch with parameters of which the driver notes the bytes.
fn launch(gpu: &Gpu) -> Result<()> {
    // SAFETY: the driver of these tests runs nothing.
    unsafe { probe::product(gpu, Dtype::Bf16, 3, 0x0102_0304_0506_0708, 0x11, u64::MAX) }
}

fn launch_on(ordinal: usize) -> Result<()> {
    let compiler = compiler();
    // SAFETY: the driver of these tests does not look at streams.
    launch(&unsafe { Gpu::new(ordinal, 0xabc, &compiler) }?)
}

/// That an error names what it must.
#[track_caller]
fn assert_says<T>(result: Result<T>, words: &[&str]) {
    let message = result.err().expect("an error").to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

/// A test of what is said when a driver is as `variables` tell.
macro_rules! said {
    ($($(#[$doc:meta])* $name:ident: $variables:expr => $words:expr;)*) => {
        $($(#[$doc])* #[test]
        fn $name() {
            in_process(stringify!($name), fake_driver(), &$variables, || assert_says(launch_on(0), &$words));
        })*
    };
}

said! {
    a_driver_that_is_too_old: [("FAKE_CUDA_VERSION", "11080")]
        => ["NVIDIA driver: expected", "CUDA 12.0 or newer", "CUDA 11.8"];
    a_driver_whose_library_and_module_differ: [("FAKE_CUDA_FAIL", "cuInit=803")]
        => ["restart", "refused to start", "FAKE_ERROR_803"];
    a_driver_that_finds_no_gpu: [("FAKE_CUDA_FAIL", "cuInit=100")]
        => ["device: expected an NVIDIA GPU", "FAKE_ERROR_100"];
    no_gpu_is_visible: [("FAKE_CUDA_DEVICES", "0")] => ["CUDA_VISIBLE_DEVICES", "none visible"];
    a_gpu_that_is_too_old: [("FAKE_CUDA_CAPABILITY", "75")]
        => ["8.0 or newer", "farspan.reference", "Fake 0, of compute capability 7.5"];
    a_forked_process: [("FAKE_CUDA_FAIL", "cuDevicePrimaryCtxRetain=3")] => ["forked", "spawn"];
    no_memory_for_the_context: [("FAKE_CUDA_FAIL", "cuDevicePrimaryCtxRetain=2")]
        => ["device memory: expected", "smaller"];
    no_memory_for_a_kernel: [("FAKE_CUDA_FAIL", "cuModuleLoadData=2")] => ["device memory", "to load probe_bf16"];
    a_driver_older_than_the_compiler: [("FAKE_CUDA_FAIL", "cuModuleLoadData=200")]
        => ["as new as NVRTC", "update the driver", "to load probe_bf16"];
    machine_code_without_the_kernel: [("FAKE_CUDA_FAIL", "cuModuleGetFunction=500")]
        => ["probe_bf16", "FAKE_ERROR_500"];
    a_context_that_somebody_reset: [("FAKE_CUDA_FAIL", "cuCtxPushCurrent_v2=709")] => ["start the process anew"];
    a_launch_that_fails: [("FAKE_CUDA_FAIL", "cuLaunchKernel=701")]
        => ["to launch probe_bf16 (3 x 1 x 1 blocks of 32 threads, 0 bytes)", "FAKE_ERROR_701"];
    an_earlier_kernel_that_failed: [("FAKE_CUDA_FAIL", "cuLaunchKernel=700")]
        => ["this or an earlier kernel", "compute-sanitizer", "FAKE_ERROR_700"];
    a_capture_that_needs_a_kernel_not_loaded: [("FAKE_CUDA_CAPTURING", "1")]
        => ["CUDA graph", "before the capture", "probe_bf16, not loaded yet"];
}

#[test]
fn no_driver() {
    in_process("no_driver", &Folder::new(), &[], || {
        // SAFETY: loading NVIDIA's driver has no requirements.
        if unsafe { cudarc::driver::sys::is_culib_present() } {
            return eprintln!("skipped: this machine has a driver that the loader finds everywhere");
        }
        assert_says(launch_on(0), &["NVIDIA driver: expected", "no libcuda.so.1"]);
        assert_says(driver::devices(), &["no libcuda.so.1"]);
        let here = status(Ok(fake_nvrtc()));
        assert_eq!(here.nvrtc, Ok((13, 0)));
        assert_says(here.check(), &["no libcuda.so.1"]);
    });
}

#[test]
fn a_driver_without_a_function() {
    in_process("a_driver_without_a_function", driver_without_launch(), &[], || {
        assert_says(launch_on(0), &["NVIDIA driver: expected", "one without cuLaunchKernel"]);
    });
}

#[test]
fn a_gpu_that_does_not_exist() {
    in_process("a_gpu_that_does_not_exist", fake_driver(), &[], || {
        assert_says(launch_on(2), &["device: expected", "number 2 of 2"]);
        launch_on(1).unwrap();
        launch_on(0).unwrap();
    });
}

#[test]
fn a_failed_load_leaves_nothing_behind_and_may_be_tried_again() {
    let fail = [("FAKE_CUDA_FAIL", "cuFuncSetAttribute=1")];
    in_process("a_failed_load_leaves_nothing_behind_and_may_be_tried_again", fake_driver(), &fail, || {
        assert_says(launch_on(0), &["to load probe_bf16"]);
        assert_eq!(notes(), ["retain", "load", "unload"]);
        assert_says(launch_on(0), &["to load probe_bf16"]);
        assert_eq!(notes().len(), 5);
    });
}

#[test]
fn the_driver_gets_what_the_caller_said() {
    in_process("the_driver_gets_what_the_caller_said", fake_driver(), &[], || {
        let compiler = compiler();
        // SAFETY: the driver of these tests does not look at streams.
        let gpu = unsafe { Gpu::new(1, 0xabc, &compiler) }.unwrap();
        assert_eq!((gpu.limits().multiprocessors, gpu.limits().architecture), (101, 90));
        assert_eq!(gpu.limits().shared_bytes_per_block, 227 << 10);
        let [bf16, f16] = probe::variants().try_into().unwrap();
        let f16 = Variant { threads: 96, ..f16 };
        let params: Vec<u8> = (0..24).collect();
        for (grid, shared) in [([7, 8, 9], 100 << 10), ([0, 1, 1], 0), ([1, 1, 1], 16)] {
            // SAFETY: the driver of these tests runs nothing.
            unsafe { gpu.launch(&f16, grid, shared, &params) }.unwrap();
        }
        let bytes = "000102030405060708090a0b0c0d0e0f1011121314151617";
        let launched = |grid, shared| {
            format!("launch probe_f16 {grid} threads 96x1x1 shared {shared} stream abc context c1 params {bytes}")
        };
        let loaded = ["retain", "load", "allow probe_f16 231424"].map(str::to_owned);
        let expected = [&loaded[..], &[launched("7x8x9", 102400), launched("1x1x1", 16)]].concat();
        assert_eq!(notes(), expected, "an empty grid is no launch, and a kernel is loaded once");
        // SAFETY: as above.
        let wide = unsafe { gpu.launch(&f16, [1, 65536, 1], 0, &params) };
        assert_says(wide, &["2147483647 x 65535 x 65535 blocks of probe_f16", "given 1 x 65536 x 1"]);
        // SAFETY: as above.
        let wrong = unsafe { gpu.launch(&bf16, [1, 1, 1], 0, &params[..20]) };
        assert_says(wrong, &["the 24 bytes of probe_bf16's parameters", "given 20"]);
    });
}

#[test]
fn each_gpu_has_its_context_and_the_thread_keeps_its_own() {
    in_process("each_gpu_has_its_context_and_the_thread_keeps_its_own", fake_driver(), &[], || {
        use cudarc::driver::{result::ctx, sys};
        driver::version().unwrap();
        launch_on(0).unwrap();
        assert_eq!(ctx::get_current().unwrap(), None);
        let torchs = 0xc0 as sys::CUcontext; // of GPU 0, as that driver gives it
        // SAFETY: the driver of these tests takes any address.
        unsafe { sys::cuCtxPushCurrent_v2(torchs) }.result().unwrap();
        launch_on(1).unwrap();
        assert_eq!(ctx::get_current().unwrap(), Some(torchs));
        launch_on(0).unwrap();
        assert_eq!(ctx::get_current().unwrap(), Some(torchs));
        let contexts: Vec<_> =
            notes().iter().filter_map(|note| Some(note.split_once("context ")?.1[..2].to_owned())).collect();
        assert_eq!(contexts, ["c0", "c1", "c0"]);
        assert_eq!(notes().iter().filter(|note| *note == "retain").count(), 2);
        assert_eq!(notes().iter().filter(|note| *note == "load").count(), 2);
    });
}

#[test]
fn threads_share_what_is_loaded() {
    in_process("threads_share_what_is_loaded", fake_driver(), &[], || {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..50).for_each(|_| launch_on(0).unwrap()));
            }
        });
        let count = |word: &str| notes().iter().filter(|note| note.starts_with(word)).count();
        assert_eq!((count("retain"), count("load"), count("launch")), (1, 1, 400));
    });
}

#[test]
fn prepared_kernels_are_loaded() {
    in_process("prepared_kernels_are_loaded", fake_driver(), &[], || {
        let compiler = compiler();
        // SAFETY: the driver of these tests does not look at streams.
        let gpu = unsafe { Gpu::new(0, 0, &compiler) }.unwrap();
        gpu.prepare(&probe::variants()).unwrap();
        // SAFETY: no other thread of this process reads the environment now.
        unsafe { std::env::set_var("FAKE_CUDA_CAPTURING", "1") };
        launch(&gpu).unwrap();
    });
}

#[test]
fn the_status_of_a_machine_that_has_everything() {
    in_process("the_status_of_a_machine_that_has_everything", fake_driver(), &[], || {
        let here = status(Ok(fake_nvrtc()));
        assert_eq!(here.check(), Ok(()));
        assert_eq!((here.driver, here.nvrtc), (Ok((13, 0)), Ok((13, 0))));
        let second = &here.devices.unwrap()[1];
        assert_eq!((second.ordinal, second.name.as_str(), second.memory), (1, "Fake 1", 32 << 30));
        let none = status(Ok(Path::new("/nowhere/libnvrtc.so")));
        assert_says(none.check(), &["NVRTC", "pip install nvidia-cuda-nvrtc", "/nowhere/libnvrtc.so"]);
    });
}

#[test]
fn what_is_no_compiler() {
    assert_says(Nvrtc::open(Path::new("/nowhere/libnvrtc.so.13")).map(drop), &["NVRTC: expected", "/nowhere"]);
    let folder = Folder::new();
    let file = folder.join("libnvrtc.so");
    std::fs::write(&file, "garbage").unwrap();
    assert_says(Nvrtc::open(&file).map(drop), &["NVRTC: expected", "libnvrtc.so", "pip install nvidia-cuda-nvrtc"]);
    let other = fake_driver().join("libcuda.so.1");
    assert_says(Nvrtc::open(&other).map(drop), &["NVRTC: expected", "libcuda.so.1", "nvrtcVersion"]);
}

#[test]
fn a_compiler_that_is_too_old() {
    in_process("a_compiler_that_is_too_old", &Folder::new(), &[("FAKE_NVRTC_VERSION", "11")], || {
        assert_says(Nvrtc::open(fake_nvrtc()).map(drop), &["CUDA 12 or newer", "of CUDA 11.0"]);
    });
}

#[test]
fn what_the_compiler_says() {
    let mut variant = probe::variants().remove(0);
    variant.line = "not C++".into();
    let folder = Folder::new();
    let compiler = Compiler::new(Nvrtc::open(fake_nvrtc()).unwrap(), Cache::new(&*folder));
    let refused = compiler.compile(&variant, 90);
    assert_says(refused, &["probe_bf16 to compile", "NVRTC_ERROR_COMPILATION for sm_90a", "error: that is not C++"]);
}
