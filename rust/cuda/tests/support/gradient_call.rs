//! Runs the backward pass of attention on the emulator, in memory laid out and guarded as for the forward pass.

use crate::attention_call::{Placed, Setting, layout_of_results, run, with_problem, with_workspace};
use farspan_core::attention::Shape;
use farspan_core::{Dtype, Result};
use farspan_cuda::attention::gradient::{Backward, Gradients as Wanted, attention_backward, workspace_bytes};
use farspan_cuda::{Device, Tensor};
use farspan_testing::attention::{Case, Result32};
use farspan_testing::gradient::{Ask, Backend, Gradients, Rounding, small};

/// The kernels on the emulator, as a backend of the suite.
pub struct Emulated;

impl Backend for Emulated {
    fn cases(&self) -> u32 {
        24
    }

    fn run(&self, case: &Case, upstream: &Result32, ask: &Ask, variation: u64) -> Gradients<f32> {
        let found = backward(case, upstream, ask, Setting::varied(variation));
        found.unwrap_or_else(|error| panic!("{error} in {case:?}"))
    }

    fn rounding(&self, case: &Case) -> Rounding {
        Rounding::tensor_cores(case)
    }
}

/// The gradients of a case, or why not.
pub fn backward(case: &Case, upstream: &Result32, ask: &Ask, setting: Setting) -> Result<Gradients<f32>> {
    let Shape { batch, query_heads, key_heads, query_time, key_batch, key_time, head_dim, value_dim } =
        case.oracle.shape;
    let Result32 { output, lse } = run(case, Setting { missing_workspace: 0, ..setting });
    let (rows, of_output) = ([1, batch, query_heads, query_time], [batch, query_heads, query_time, value_dim]);
    let layout = layout_of_results(setting.layout);
    let [output, above] = [&output, &upstream.output].map(|x| Placed::of(x, of_output, case.dtype, layout));
    let [lse, lse_gradient] = [&lse, &upstream.lse].map(|x| Placed::of(x, rows, Dtype::F32, layout));
    let zeros = |shape: [usize; 4], dtype| Placed::of(&vec![0.0; shape.iter().product()], shape, dtype, layout);
    let large = [
        ("query", [batch, query_heads, query_time, head_dim]),
        ("key", [key_batch, key_heads, key_time, head_dim]),
        ("value", [key_batch, key_heads, key_time, value_dim]),
    ];
    let large = large.map(|(name, shape)| ask.wants(name).then(|| zeros(shape, case.dtype)));
    let small = small(case, ask.summed)
        .map(|(name, [a, b, c], present)| (present && ask.wants(name)).then(|| zeros([1, a, b, c], Dtype::F32)));
    let [query, key, value] = large.each_ref().map(|x| x.as_ref().map(Placed::matrix));
    let [query_scale, key_bias, table, sink] = small.each_ref().map(|x| x.as_ref().map(Placed::rows));
    let gradients = Wanted {
        query,
        key,
        value,
        query_scale,
        key_bias,
        distance_bias: table.map(|Tensor { pointer, shape: [_, a, b], strides: [_, by_a, by_b] }| Tensor {
            pointer,
            shape: [a, b],
            strides: [by_a, by_b],
        }),
        sink: sink.map(|Tensor { pointer, shape: [_, _, a], strides: [_, _, by_a] }| Tensor {
            pointer,
            shape: [a],
            strides: [by_a],
        }),
    };
    with_problem(case, setting, |device, problem| {
        let call = Backward {
            problem: *problem,
            output: output.matrix(),
            lse: lse.rows(),
            output_gradient: above.matrix(),
            lse_gradient: Some(lse_gradient.rows()),
        };
        let bytes = workspace_bytes(&call, &gradients, &device.limits())? - setting.missing_workspace;
        with_workspace(bytes, |workspace| {
            // SAFETY: every tensor lies in memory that lives to the end of this function.
            unsafe { attention_backward(device, &call, &gradients, workspace) }
        })
    })?;
    let [query, key, value] = large.map(|x| x.map_or_else(Vec::new, |x| x.read()));
    let [query_scale, key_bias, distance_bias, sink] = small.map(|x| x.map_or_else(Vec::new, |x| x.read()));
    Ok(Gradients { query, key, value, query_scale, key_bias, distance_bias, sink })
}
