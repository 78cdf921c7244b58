//! Every kernel compiles for every architecture and keeps its registers, with no GPU present.

mod support;

use farspan_cuda::cache::Cache;
use farspan_cuda::compiler::Compiler;
use farspan_cuda::nvrtc::Nvrtc;
use farspan_cuda::survey::{ARCHITECTURES, survey};
use std::collections::BTreeSet;
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
    let rows = table.lines().filter(|line| line.starts_with("{\"name\": "));
    let committed: BTreeSet<_> =
        rows.map(|row| ["name", "threads", "stack_bytes", "shared_bytes"].map(|field| value(row, field))).collect();
    let kernels = farspan_cuda::variants();
    let expected = kernels.iter().map(|kernel| {
        let [threads, stack, shared] =
            [kernel.threads, kernel.stack_bytes, kernel.shared_bytes].map(|size| size.to_string());
        [kernel.name.clone(), threads, stack, shared]
    });
    let expected: BTreeSet<_> = expected.collect();
    let differing: Vec<_> = committed.symmetric_difference(&expected).collect();
    assert!(differing.is_empty(), "benches/gpu/static.py makes it anew; one of the two has these alone: {differing:?}");
}

/// A field of a row of the table; every row is a line.
fn value(row: &str, field: &str) -> String {
    let (_, behind) = row.split_once(&format!("\"{field}\": ")).unwrap_or_else(|| panic!("no {field} in {row}"));
    behind.split(',').next().unwrap_or_default().trim_matches('"').to_string()
}
