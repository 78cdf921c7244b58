//! The gradients of attention on the CPU.

use super::Cpu;
use super::attention::{Stored, array, run};
use crate::attention::{Case, Result32};
use crate::gradient::{Ask, Backend, Gradients, Rounding, small};
use crate::numbers::{narrow, widen};
use farspan_core::attention::Shape;
use farspan_cpu::attention::{Backward, Gradients as Wanted, attention_backward};
use farspan_cpu::{ViewMut, map};
use ndarray::{ArrayViewMut, Dim, Dimension, IntoDimension};

impl Backend for Cpu {
    fn cases(&self) -> u32 {
        match self.name() {
            "portable" => 16,
            _ => 64,
        }
    }

    fn run(&self, case: &Case, upstream: &Result32, ask: &Ask, variation: u64) -> Gradients<f32> {
        self.alone(variation, || backward(case, upstream, ask))
    }

    fn rounding(&self, _case: &Case) -> Rounding {
        Rounding::default()
    }
}

/// The answer of the instruction set and the threads that are set.
fn backward(case: &Case, upstream: &Result32, ask: &Ask) -> Gradients<f32> {
    let o = &case.oracle;
    let Shape { batch, query_heads, key_heads, query_time, key_batch, key_time, head_dim, value_dim } = o.shape;
    let Result32 { output, lse } = run(case);
    let [output, above] = [&output, &upstream.output].map(|x| narrow(x, case.dtype));
    let large = [
        ("query", [batch, query_heads, query_time, head_dim]),
        ("key", [key_batch, key_heads, key_time, head_dim]),
        ("value", [key_batch, key_heads, key_time, value_dim]),
    ];
    let mut found =
        large.map(|(name, sizes)| ask.wants(name).then(|| narrow(&vec![0.0; sizes.iter().product()], case.dtype)));
    let small = small(case, ask.summed);
    let mut numbers =
        small.map(|(name, sizes, present)| (present && ask.wants(name)).then(|| vec![0.0f32; sizes.iter().product()]));

    let [query, key, value] = &mut found;
    let [scale, bias, table, sink] = &mut numbers;
    let gradients = Wanted {
        query: query.as_mut().map(|x| map!(x in x => view(x, large[0].1))),
        key: key.as_mut().map(|x| map!(x in x => view(x, large[1].1))),
        value: value.as_mut().map(|x| map!(x in x => view(x, large[2].1))),
        query_scale: scale.as_mut().map(|x| view(x, small[0].1)),
        key_bias: bias.as_mut().map(|x| view(x, small[1].1)),
        distance_bias: table.as_mut().map(|x| view(x, [small[2].1[1], small[2].1[2]])),
        sink: sink.as_mut().map(|x| view(x, [query_heads])),
    };
    let (rows, of_output) = ([batch, query_heads, query_time], [batch, query_heads, query_time, value_dim]);
    let stored = Stored::new(case);
    let call = Backward {
        problem: stored.problem(),
        output: map!(x in &output => array(of_output, x)),
        lse: array(rows, &lse),
        output_gradient: map!(x in &above => array(of_output, x)),
        lse_gradient: Some(array(rows, &upstream.lse)),
    };
    attention_backward(&call, gradients).unwrap();
    let [query, key, value] = found.map(|array| array.map_or_else(Vec::new, |array| widen(&array)));
    let [query_scale, key_bias, distance_bias, sink] = numbers.map(Option::unwrap_or_default);
    Gradients { query, key, value, query_scale, key_bias, distance_bias, sink }
}

fn view<const N: usize, T>(data: &mut [T], sizes: [usize; N]) -> ViewMut<'_, T, N>
where
    Dim<[usize; N]>: Dimension,
    [usize; N]: IntoDimension<Dim = Dim<[usize; N]>>,
{
    ViewMut::new("test", &mut ArrayViewMut::from_shape(sizes, data).unwrap()).unwrap()
}
