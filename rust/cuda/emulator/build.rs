//! Compiles every variant of every kernel family for the host.

#[allow(dead_code)]
#[path = "../src/device.rs"]
mod device;

#[allow(dead_code)]
#[path = "../src/attention/variants.rs"]
mod attention;

#[allow(dead_code)]
#[path = "../src/attention/gradient/variants.rs"]
mod gradient;

#[allow(dead_code)]
#[path = "../src/attention/statistics/variants.rs"]
mod statistics;

#[allow(dead_code)]
#[path = "../src/loss/variants.rs"]
mod loss;

#[path = "../src/probe/variants.rs"]
mod probe;

#[allow(dead_code)]
#[path = "../src/unembed/variants.rs"]
mod unembed;

use device::Variant;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Variants that share a source file: each file parses the headers anew, so a few share one.
const VARIANTS_PER_FILE: usize = 4;

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    for watched in [
        "cpp",
        "kernels",
        "../kernels",
        "../src/device.rs",
        "../src/attention/gradient/variants.rs",
        "../src/attention/statistics/variants.rs",
        "../src/attention/variants.rs",
        "../src/loss/variants.rs",
        "../src/probe/variants.rs",
        "../src/unembed/variants.rs",
    ] {
        println!("cargo::rerun-if-changed={}", here.join(watched).display());
    }
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(2).include(here.join("cpp")).include(here.join("../kernels"));
    // A multiply and an add are two roundings unless the kernel says otherwise. Another machine shall run it too, so it
    // is not built for the processor at hand; without the fused multiply-add of x86-64-v3 it would be slow.
    build.flag("-ffp-contract=off").flag_if_supported("-march=x86-64-v3").define("FARSPAN_EMULATED", None);
    // NVRTC warns of what is unused; here a header is compiled for a few of its templates.
    build.flag("-fvisibility=hidden").flag("-Wno-unused-function").flag("-Wno-unknown-pragmas");
    build.files(["fiber.cpp", "shared.cpp", "machine.cpp", "launch.cpp"].map(|file| here.join("cpp").join(file)));
    build.file(here.join("kernels/selftest.cpp"));
    let families = [
        attention::variants(),
        gradient::variants(),
        statistics::variants(),
        loss::variants(),
        probe::variants(),
        unembed::variants(),
    ];
    build.files(sources(&out, families.concat()));
    println!("cargo::rustc-check-cfg=cfg(sanitized)");
    println!("cargo::rerun-if-env-changed=FARSPAN_SANITIZE");
    if env::var_os("FARSPAN_SANITIZE").is_some() {
        sanitize(&mut build);
    }
    // Kernels register themselves when the library is loaded; nothing refers to them.
    build.link_lib_modifier("+whole-archive").compile("farspan_emulated_kernels");
}

/// Has every access to memory and every undefined operation checked. Processes have to load the runtime before other
/// libraries, see `tools/deep_checks.py`.
fn sanitize(build: &mut cc::Build) {
    build.define("FARSPAN_SANITIZED", None);
    build.flag("-fsanitize=address,undefined").flag("-fno-sanitize-recover=undefined");
    // Its test of a thread-local variable's address lives on flags that the linker's choice of `lea` does not set; a
    // null pointer is a fault anyway.
    build.flag("-fno-sanitize=null");
    let compiler = build.get_compiler();
    for library in ["asan", "ubsan"] {
        let name = format!("lib{library}.so");
        let output = compiler.to_command().arg(format!("-print-file-name={name}")).output().expect("the compiler runs");
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        // A compiler repeats the name of a file that it does not find.
        let folder = path.parent().filter(|_| path.is_absolute()).unwrap_or_else(|| {
            let compiler = compiler.path().display();
            panic!("{compiler} has no {name}: install GCC's sanitizers (Debian: g++; Fedora: libasan libubsan)")
        });
        println!("cargo::rustc-link-search=native={}", folder.display());
        println!("cargo::rustc-link-lib=dylib={library}");
    }
    println!("cargo::rustc-cfg=sanitized");
}

/// Writes the variants into source files, those of a header by themselves.
fn sources(out: &Path, mut variants: Vec<Variant>) -> Vec<PathBuf> {
    variants.sort_by_key(|variant| variant.header);
    let mut paths = Vec::new();
    for family in variants.chunk_by(|a, b| a.header == b.header) {
        let header = family[0].header;
        for (index, variants) in family.chunks(VARIANTS_PER_FILE).enumerate() {
            let lines = variants.iter().map(|variant| format!("{}\n", variant.line));
            let text = format!("#include \"{header}\"\n{}", lines.collect::<String>());
            let path = out.join(format!("{}_{index}.cpp", header.trim_end_matches(".cuh").replace('/', "_")));
            if fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
                fs::write(&path, text).expect("OUT_DIR can be written to");
            }
            paths.push(path);
        }
    }
    paths
}
