//! Runs the statistics of attention on the emulator, in memory laid out and guarded as for attention.

use crate::attention_call::{Placed, Setting, layout_of_results, with_problem, with_workspace};
use farspan_core::attention::Shape;
use farspan_core::{Dtype, Result};
use farspan_cuda::attention::statistics::{Statistics as Places, attention_statistics, workspace_bytes};
use farspan_cuda::{Device, Tensor};
use farspan_testing::attention::Case;
use farspan_testing::statistics::{Backend, Statistics, judge};

/// The kernels on the emulator, as a backend of the suite.
pub struct Emulated;

impl Backend for Emulated {
    const CHUNK: usize = 64;

    fn cases(&self) -> u32 {
        48
    }

    fn run(&self, case: &Case, variation: u64) -> Statistics<f32> {
        let found = statistics(case, Setting::varied(variation));
        found.unwrap_or_else(|error| panic!("{error} in {case:?}"))
    }

    fn judge(&self, case: &Case, found: &Statistics<f32>) {
        judge::tensor_cores(case, found);
    }
}

/// The statistics of a case, or why not.
pub fn statistics(case: &Case, setting: Setting) -> Result<Statistics<f32>> {
    with_rows(case, setting, |_| 0)
}

/// The same, where the results have so many more queries than the case has.
pub fn with_rows(case: &Case, setting: Setting, more: impl Fn(usize) -> usize) -> Result<Statistics<f32>> {
    let Shape { batch, query_heads, query_time, .. } = case.oracle.shape;
    let layout = layout_of_results(setting.layout);
    let results: [Placed; 6] =
        std::array::from_fn(|index| Placed::new([1, batch, query_heads, query_time + more(index)], Dtype::F32, layout));
    let [lse, entropy, largest, first, sink, distance]: [Tensor<3>; 6] = results.each_ref().map(Placed::rows);
    let places = Places { lse, entropy, largest, first, sink, distance };
    with_problem(case, setting, |device, problem| {
        let problem = farspan_cuda::attention::Attention { value: problem.key, ..*problem };
        let bytes = workspace_bytes(&problem, &device.limits())? - setting.missing_workspace;
        with_workspace(bytes, |workspace| {
            // SAFETY: every tensor lies in memory that lives to the end of this function.
            unsafe { attention_statistics(device, &problem, &places, workspace) }
        })
    })?;
    let [lse, entropy, largest, first, sink, distance] = results.each_ref().map(Placed::read);
    Ok(Statistics { lse, entropy, largest, first, sink, distance })
}
