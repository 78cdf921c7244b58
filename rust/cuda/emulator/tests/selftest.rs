//! The emulator sees every mistake of the self-test kernels, and computes what they say.

use farspan_core::{elementary, noise};
use farspan_cuda_emulator::farspan_emulated_launch;
use std::ffi::CString;
use std::process::Command;

/// The struct of most self-test kernels.
#[repr(C)]
struct SelfTest {
    input: u64,
    output: u64,
    count: i32,
    mistake: i32,
}

fn launch<P>(kernel: &str, threads: u32, shared_bytes: u32, params: &P, seed: u64) -> Result<(), String> {
    launch_grid([1, 1, 1], kernel, threads, shared_bytes, params, seed)
}

fn launch_grid<P>(
    grid: [u32; 3],
    kernel: &str,
    threads: u32,
    shared_bytes: u32,
    params: &P,
    seed: u64,
) -> Result<(), String> {
    let (name, mut error) = (CString::new(kernel).unwrap(), [0u8; 500]);
    let params_bytes = size_of::<P>();
    // SAFETY: the buffers live through the call and are as long as said; parameters point to what the tests allocate.
    let status = unsafe {
        farspan_emulated_launch(
            name.as_ptr(),
            grid.as_ptr(),
            threads,
            shared_bytes,
            std::ptr::from_ref(params).cast(),
            params_bytes,
            seed,
            error.as_mut_ptr().cast(),
            error.len(),
        )
    };
    let end = error.iter().position(|&b| b == 0).unwrap();
    if status == 0 { Ok(()) } else { Err(String::from_utf8(error[..end].to_vec()).unwrap()) }
}

/// Runs a kernel over `input`; gives `outputs` numbers.
fn run<T>(
    kernel: &str,
    [threads, shared_bytes]: [u32; 2],
    input: &[T],
    [count, mistake]: [i32; 2],
    outputs: usize,
    seed: u64,
) -> Result<Vec<f32>, String> {
    let mut output = vec![f32::NAN; outputs];
    let params = SelfTest { input: input.as_ptr() as u64, output: output.as_mut_ptr() as u64, count, mistake };
    launch(kernel, threads, shared_bytes, &params, seed).map(|()| output)
}

fn refused(kernel: &str, sizes: [u32; 2], mistake: i32, with: &str) {
    let input = vec![1.0f32; 4096];
    for seed in 0..20 {
        let error = run(kernel, sizes, &input, [sizes[0] as i32, mistake], 4096, seed).unwrap_err();
        assert!(error.starts_with(with) && error.ends_with("in block (0, 0, 0)"), "{kernel} {mistake}: {error}");
    }
}

#[test]
fn threads_exchange_through_shared_memory() {
    for seed in 0..20 {
        let got = run::<f32>("selftest_block_exchange", [96, 384], &[], [96, 0], 96, seed).unwrap();
        assert!((0..96).all(|i| got[i] == 95.0 - i as f32));
        let got = run::<f32>("selftest_warp_exchange", [64, 256], &[], [64, 0], 64, seed).unwrap();
        assert!((0..64).all(|i| got[i] == (i ^ 1) as f32));
    }
}

#[test]
fn a_missing_barrier_is_a_race_in_every_order() {
    // Before the barrier the other thread may not have written yet, in which case nobody has.
    let input = [0.0f32; 1];
    for seed in 0..20 {
        let error = run("selftest_block_exchange", [96, 384], &input, [96, 1], 96, seed).unwrap_err();
        assert!(error.starts_with("race") || error.starts_with("uninitialised"), "{error}");
        let error = run("selftest_warp_exchange", [64, 256], &input, [64, 1], 64, seed).unwrap_err();
        assert!(error.starts_with("race") || error.starts_with("uninitialised"), "{error}");
    }
    refused("selftest_block_exchange", [96, 384], 2, "race");
    refused("selftest_warp_exchange", [32, 128], 2, "race");
}

#[test]
fn copies_land_at_their_wait() {
    let input: Vec<[f32; 4]> = (0..128).map(|i| [i as f32, 0.0, 0.0, 1000.0 + i as f32]).collect();
    let got = run("selftest_copies", [64, 2048], &input, [64, 0], 64, 3).unwrap();
    for (i, x) in got.iter().enumerate() {
        let next = (i + 1) % 64;
        let second = if next % 2 == 0 { 1064.0 + next as f32 } else { 0.0 };
        assert_eq!(*x, next as f32 + second);
    }
    refused("selftest_copies", [64, 2048], 1, "no wait");
    refused("selftest_copies", [64, 2048], 2, "no wait");
    refused("selftest_copies", [64, 2048], 4, "race");
    let error = run("selftest_copies", [64, 2048], &input, [64, 3], 64, 3).unwrap_err();
    assert!(["race", "no wait", "uninitialised"].iter().any(|kind| error.starts_with(kind)), "{error}");
}

#[test]
fn other_mistakes() {
    refused("selftest_mistakes", [64, 256], 1, "deadlock: 32 threads wait at a block barrier");
    refused("selftest_mistakes", [64, 256], 2, "out of bounds");
    refused("selftest_mistakes", [64, 256], 3, "uninitialised");
    refused("selftest_mistakes", [32, 128], 4, "deadlock: 0 threads wait at a block barrier, 31 of 32 lanes of warp 0");
    refused("selftest_mistakes", [32, 128], 5, "divergence");
    refused("selftest_mistakes", [32, 128], 6, "misaligned");
    refused("selftest_mistakes", [1, 16], 7, "misaligned");
    refused("selftest_mistakes", [32, 128], 8, "divergence");
}

/// A mistake ends its process, so it gets one.
#[test]
#[cfg_attr(not(sanitized), ignore = "needs the sanitized emulator: make test-deep")]
fn sanitizers_see_what_a_kernel_does_to_memory() {
    const MISTAKE: &str = "FARSPAN_TEST_MISTAKE";
    const NAME: &str = "sanitizers_see_what_a_kernel_does_to_memory";
    let numbers: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let right = |seed| assert_eq!(run("selftest_sanitized", [64, 1024], &numbers, [64, 0], 64, seed).unwrap(), numbers);
    if let Ok(mistake) = std::env::var(MISTAKE) {
        // Stacks of threads that ended, and of such as were left in the middle, are used anew.
        refused("selftest_mistakes", [64, 256], 1, "deadlock");
        right(1);
        let _ = run("selftest_sanitized", [64, 1024], &numbers, [64, mistake.parse().unwrap()], 64, 2);
        return;
    }
    (0..20).for_each(right);
    for (mistake, with) in [
        ("0", ""),
        #[cfg(target_arch = "x86_64")] // `swapcontext`, used elsewhere, has a stack's marks forgotten
        ("1", "stack-buffer-overflow"),
        ("2", "heap-buffer-overflow"),
        ("3", "heap-buffer-overflow"),
        ("4", "signed integer overflow"),
        ("5", "heap-buffer-overflow"),
    ] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", NAME, "--nocapture"]).env(MISTAKE, mistake).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() == (mistake == "0") && error.contains(with), "mistake {mistake}: {error}");
    }
}

#[test]
fn launches_that_cannot_be() {
    let params = SelfTest { input: 0, output: 0, count: 0, mistake: 0 };
    assert_eq!(launch("nothing", 32, 0, &params, 0).unwrap_err(), "unknown kernel");
    assert_eq!(launch("selftest_mistakes", 2048, 0, &params, 0).unwrap_err(), "2048 threads, not 1 to 1024");
    let error = launch("selftest_mistakes", 32, 0, &0u64, 0).unwrap_err();
    assert_eq!(error, "parameters of 8 bytes, not 24");
    for (grid, with) in [
        ([1 << 31, 1, 1], "2147483648 blocks along axis x, more than 2147483647"),
        ([1, 65536, 1], "65536 blocks along axis y, more than 65535"),
        ([1, 1, 70_000], "70000 blocks along axis z, more than 65535"),
    ] {
        assert_eq!(launch_grid(grid, "selftest_mistakes", 32, 128, &params, 0).unwrap_err(), with);
    }
}

#[test]
fn matrices_of_a_warp() {
    let got = run::<f32>("selftest_matrices", [32, 512], &[], [0, 0], 256, 0).unwrap();
    for lane in 0..32 {
        let (g, t) = (lane / 4, 2 * (lane % 4));
        for matrix in 0..4 {
            let at = |row: usize, column: usize| (64 * matrix + 8 * row + column) as f32;
            assert_eq!(got[8 * lane + matrix], at(g, t) + 1000.0 * at(g, t + 1));
            assert_eq!(got[8 * lane + 4 + matrix], at(t, g) + 1000.0 * at(t + 1, g));
        }
    }
    refused("selftest_matrices", [32, 512], 2, "race");
}

#[test]
fn products_of_a_warp() {
    let value = |i: usize| (i * 37 % 64) as f32 / 8.0 - 4.0;
    let to_bf16 = |x: f32| (x.to_bits() >> 16) as u16;
    // Numbers of a few bits: binary16 has them exactly, with another exponent.
    let to_f16 = |x: f32| match x {
        0.0 => 0,
        _ => {
            ((x.to_bits() >> 16 & 0x8000) + (((x.to_bits() >> 23 & 0xff) - 112) << 10) + (x.to_bits() >> 13 & 0x3ff))
                as u16
        }
    };
    for (kernel, convert) in
        [("selftest_product_bf16", &to_bf16 as &dyn Fn(f32) -> u16), ("selftest_product_f16", &to_f16)]
    {
        let input: Vec<u16> = (0..16 * 16 + 8 * 16).map(|i| convert(value(i))).collect();
        let got = run(kernel, [32, 0], &input, [0, 0], 128, 0).unwrap();
        for row in 0..16 {
            for column in 0..8 {
                let sum: f32 = (0..16).map(|k| value(row * 16 + k) * value(256 + column * 16 + k)).sum();
                assert_eq!(got[row * 8 + column], sum, "{kernel} {row} {column}");
            }
        }
    }
}

fn function(number: i32, input: &[f32]) -> Vec<f32> {
    run("selftest_elementary", [32, 0], input, [input.len() as i32, number], input.len(), 0).unwrap()
}

fn assert_bits(got: &[f32], expected: impl Iterator<Item = f32>) {
    for (i, (x, y)) in got.iter().zip(expected).enumerate() {
        assert!(x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan(), "{i}: {x:?} and {y:?}");
    }
}

#[test]
fn exp_ln_and_noise_have_the_bits_of_the_core() {
    let mut exponents: Vec<f32> = (0..200_000).map(|i| i as f32 * 8.9e-4 - 90.0).collect();
    exponents.extend([0.0, -0.0, f32::NEG_INFINITY, f32::NAN, 88.0, -87.33654, -1e30]);
    assert_bits(&function(0, &exponents), exponents.iter().map(|x| elementary::exp(*x)));
    let normal: Vec<f32> = (0..200_000u32).map(|i| f32::from_bits(0x0080_0000 + i * 10_620)).collect();
    assert_bits(&function(1, &normal), normal.iter().map(|x| elementary::ln(*x)));
    let words: Vec<f32> = (0..100_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9))).collect();
    assert_bits(&function(5, &words), words.iter().map(|x| noise::noise_bound(x.to_bits())));

    #[repr(C)]
    struct NoiseTest {
        key: [u64; 2],
        output: u64,
        first: u32,
        count: u32,
    }
    for (seed, stream, position, first) in [(0, 0, 0, 0), (u64::MAX, 3, 9, 1001), (1 << 63 | 5, u32::MAX, 1 << 31, 7)] {
        let key = noise::NoiseKey { seed, stream, position };
        let mut got = vec![0.0f32; 100_000];
        let packed = [seed, u64::from(stream) | u64::from(position) << 32];
        let params = NoiseTest { key: packed, output: got.as_mut_ptr() as u64, first, count: got.len() as u32 };
        launch("selftest_noise", 32, 0, &params, 0).unwrap();
        assert_bits(&got, (first..first + got.len() as u32).map(|token| noise::noise(&key, token)));
    }
}

#[test]
fn tangent_and_turns_are_accurate() {
    let input: Vec<f32> = (0..100_000).map(|i| i as f32 * 2e-4 - 10.0).collect();
    for (x, y) in input.iter().zip(function(2, &input)) {
        let truth = f64::from(*x).tanh();
        assert!((f64::from(y) - truth).abs() <= 2e-7 * truth.abs() + 1e-30, "tanh({x}) = {y}");
    }
    assert!(function(2, &[f32::NAN])[0].is_nan());
    assert_eq!(function(2, &[f32::INFINITY, f32::NEG_INFINITY]), [1.0, -1.0]);

    let angles: Vec<f64> =
        (0..50_000).flat_map(|i| [f64::from(i) * 3e-4 - 7.0, f64::from(i) * 991.7 - 1e6, 1e9 + f64::from(i)]).collect();
    for (number, truth) in [(3, f64::cos as fn(f64) -> f64), (4, f64::sin)] {
        let got = run("selftest_elementary", [32, 0], &angles, [angles.len() as i32, number], angles.len(), 0).unwrap();
        for (angle, x) in angles.iter().zip(got) {
            assert!((f64::from(x) - truth(*angle)).abs() < 1.2e-7, "function {number} of {angle}: {x}");
        }
    }
}
