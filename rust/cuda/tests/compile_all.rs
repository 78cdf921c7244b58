//! Every kernel compiles for every architecture and keeps its registers, with no GPU present.

mod support;

use farspan_cuda::cache::Cache;
use farspan_cuda::compiler::Compiler;
use farspan_cuda::nvrtc::Nvrtc;
use farspan_cuda::survey::{ARCHITECTURES, survey};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use support::in_process;

/// NVRTC where `FARSPAN_NVRTC` says; the tests' runner sets it. What was compiled before is in `FARSPAN_CACHE_DIR`, or,
/// where that is not set, among cargo's own files.
fn compiler() -> Option<Compiler> {
    let Some(path) = std::env::var_os("FARSPAN_NVRTC").map(PathBuf::from) else {
        eprintln!("skipped: FARSPAN_NVRTC names no NVRTC library; `pip install nvidia-cuda-nvrtc` brings one");
        return None;
    };
    let cache = match std::env::var_os("FARSPAN_CACHE_DIR") {
        Some(folder) if !folder.is_empty() => Cache::new(folder),
        _ => Cache::new(Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels")),
    };
    Some(Compiler::new(Nvrtc::open(&path).unwrap(), cache))
}

#[test]
fn every_kernel_compiles_for_every_architecture_without_spills() {
    let Some(compiler) = compiler() else { return };
    let threads = available_parallelism().map_or(1, usize::from);
    let needs: Vec<_> = ARCHITECTURES.into_iter().flat_map(|target| survey(&compiler, target, threads)).collect();
    let failed = needs.iter().filter_map(|need| need.as_ref().err().map(ToString::to_string));
    let needy = needs.iter().flatten().filter_map(|need| need.complaint());
    let complaints: Vec<_> = failed.chain(needy).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert_eq!(compiler.take_warning(), None);
    let fresh = needs.iter().flatten().filter(|need| need.fresh).count();
    let kernels = needs.len() / ARCHITECTURES.len();
    let kept = needs.len() - fresh;
    let text = format!(
        "compile-all: {kernels} kernels for {} architectures without spills, {fresh} compiled, {kept} from the cache",
        ARCHITECTURES.len()
    );
    writeln!(io::stderr(), "{text}").unwrap(); // past the harness, which keeps what passing tests print to itself
}

#[test]
fn what_the_compiler_refuses_is_an_error_with_its_words() {
    let Some(compiler) = compiler() else { return };
    let mut variant = farspan_cuda::variants().remove(0);
    variant.line = "not C++".into();
    let message = compiler.compile(&variant, 80).unwrap_err().to_string();
    assert!(message.contains("NVRTC_ERROR_COMPILATION") && message.contains("not"), "{message}");
    let message = compiler.compile(&farspan_cuda::variants()[0], 999).unwrap_err().to_string();
    assert!(message.contains("sm_999") && message.contains("pip install -U nvidia-cuda-nvrtc"), "{message}");
}

#[test]
fn lines_of_the_text_are_in_the_machine_code_where_they_are_asked_for() {
    let name = "lines_of_the_text_are_in_the_machine_code_where_they_are_asked_for";
    in_process(name, Path::new("/nowhere"), &[("FARSPAN_CUDA_LINEINFO", "1")], || {
        let Some(compiler) = compiler() else { return };
        let probe = &farspan_cuda::probe::variants()[0];
        let names_lines = || compiler.compile(probe, 90).unwrap().cubin.windows(9).any(|text| text == b"probe.cuh");
        assert!(names_lines());
        // SAFETY: no other thread of this process reads the environment now.
        unsafe { std::env::remove_var("FARSPAN_CUDA_LINEINFO") };
        assert!(!names_lines());
    });
}

#[test]
fn the_committed_table_has_every_kernel() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/results/kernels.json");
    let table = std::fs::read_to_string(&path).unwrap();
    let mut names: Vec<_> =
        table.lines().filter_map(|line| line.strip_prefix("{\"name\": \"")?.split('"').next()).collect();
    let kernels = farspan_cuda::variants();
    let mut expected: Vec<_> = kernels.iter().map(|kernel| kernel.name.as_str()).collect();
    names.sort_unstable();
    expected.sort_unstable();
    assert_eq!(names, expected, "benches/gpu/static.py makes it anew");
}
