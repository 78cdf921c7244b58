//! Prints what every kernel needs on every architecture, as JSON: `benches/results/kernels.json`. After the tests,
//! which build it, it takes a moment, for it finds the kernels in their cache.
//!
//! ```console
//! export FARSPAN_NVRTC=$(.venv/bin/python -c 'from farspan._cuda_libs import find_nvrtc; print(find_nvrtc().path)')
//! cargo test -p farspan-cuda
//! FARSPAN_CACHE_DIR=target/tmp/kernels target/debug/examples/kernel_table > benches/results/kernels.json
//! ```

use farspan_cuda::cache::Cache;
use farspan_cuda::compiler::Compiler;
use farspan_cuda::nvrtc::{self, Nvrtc};
use farspan_cuda::survey::{ARCHITECTURES, Need, survey};
use std::path::Path;
use std::process::ExitCode;
use std::thread::available_parallelism;

fn main() -> ExitCode {
    match table() {
        Ok(table) => {
            print!("{table}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("kernel_table: {error}");
            ExitCode::FAILURE
        }
    }
}

fn table() -> Result<String, Box<dyn std::error::Error>> {
    let library = std::env::var_os("FARSPAN_NVRTC").ok_or("FARSPAN_NVRTC names no NVRTC library")?;
    let compiler = Compiler::new(Nvrtc::open(Path::new(&library))?, Cache::usual());
    let threads = available_parallelism()?.into();
    let surveys = ARCHITECTURES.map(|architecture| survey(&compiler, architecture, threads));
    let mut lines = Vec::new();
    for index in 0..farspan_cuda::variants().len() {
        let needs = surveys.iter().map(|survey| survey[index].clone()).collect::<Result<Vec<_>, _>>()?;
        lines.push(line(&needs));
    }
    let (major, minor) = compiler.nvrtc().version();
    let options = nvrtc::OPTIONS.map(|option| format!("\"{option}\"")).join(", ");
    let head = format!("\"nvrtc\": \"{major}.{minor}\",\n\"options\": [{options}]");
    Ok(format!("{{\n{head},\n\"kernels\": [\n{}\n]\n}}\n", lines.join(",\n")))
}

/// One kernel; names are those of C functions and need no escapes.
fn line(needs: &[Need]) -> String {
    let (variant, params) = (&needs[0].variant, needs[0].resources.params_bytes);
    let on = needs.iter().map(|Need { architecture, resources: r, .. }| {
        let target = nvrtc::target(*architecture);
        let spilled = r.stack_bytes.saturating_sub(variant.stack_bytes);
        format!("\"{target}\": [{}, {spilled}, {}]", r.registers, r.code_bytes)
    });
    let on = on.collect::<Vec<_>>().join(", ");
    format!(
        "{{\"name\": \"{}\", \"threads\": {}, \"params_bytes\": {params}, \"stack_bytes\": {}, \
         \"registers, spilled bytes, code bytes\": {{{on}}}}}",
        variant.name, variant.threads, variant.stack_bytes
    )
}
