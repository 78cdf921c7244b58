//! What gives the gradients of attention, and the suite of those that do.

pub mod suite;

use crate::attention::{Case, Result32};
use crate::numbers::{narrow, normals, unit, widen};
use crate::oracle::gradient::gradients;
pub use crate::oracle::gradient::{Gradients, Sum};
use farspan_core::Dtype;
use farspan_core::attention::Shape;

/// What runs the backward pass of attention.
pub trait Backend {
    /// Random problems that a test of it takes.
    fn cases(&self) -> u32;

    /// Runs a case forward, and backward from `upstream`. Calls of another `variation` are made under other
    /// circumstances, which must not show in any gradient.
    fn run(&self, case: &Case, upstream: &Result32, ask: &Ask, variation: u64) -> Gradients<f32>;

    /// What its arithmetic rounds, beside float32 numbers, the saved output and the gradients.
    fn rounding(&self, case: &Case) -> Rounding;
}

/// Roundings of a backend's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rounding {
    /// Relative, of weights and slopes, and of turned queries and keys.
    pub of_terms: f64,
    /// Of products of a query and a key, relative to the largest there may be.
    pub of_products: f64,
}

impl Rounding {
    /// Of tensor cores: their operands have the case's type.
    pub fn tensor_cores(case: &Case) -> Rounding {
        let unit = if case.dtype == Dtype::F32 { 0.0 } else { unit(case.dtype) };
        let turns = case.oracle.rotary.is_some();
        Rounding { of_terms: unit * if turns { 2.5 } else { 1.5 }, of_products: if turns { unit } else { 0.0 } }
    }
}

/// Which gradients are asked for; the others are empty.
#[derive(Clone, Debug)]
pub struct Ask {
    /// By name.
    pub only: Option<&'static str>,
    /// Gradients of the query scale, the key bias and the table as one number: that of what was broadcast from one.
    pub summed: bool,
}

impl Ask {
    /// Everything, nothing broadcast.
    pub const ALL: Ask = Ask { only: None, summed: false };

    pub fn wants(&self, name: &str) -> bool {
        self.only.is_none_or(|only| only == name)
    }
}

/// Name, sizes and presence of the small gradients, in the order of [`Gradients`]; those of tables and sinks behind
/// ones.
pub fn small(case: &Case, summed: bool) -> [(&'static str, [usize; 3], bool); 4] {
    let o = &case.oracle;
    let Shape { batch, query_heads, query_time, key_batch, key_time, .. } = o.shape;
    let sizes = |whole: [usize; 3]| if summed { [1; 3] } else { whole };
    let columns = o.distance_bias.as_ref().map_or(0, |(table, _)| table[0].len());
    [
        ("query_scale", sizes([batch, query_heads, query_time]), o.query_scale.is_some()),
        ("key_bias", sizes([key_batch, query_heads, key_time]), o.key_bias.is_some()),
        ("distance_bias", [1, if summed { 1 } else { query_heads }, columns], o.distance_bias.is_some()),
        ("sink", [1, 1, query_heads], o.sink.is_some()),
    ]
}

/// Random gradients of output and LSE, those of the output exact in the case's type.
pub fn upstream(case: &Case, seed: u64) -> Result32 {
    let Shape { batch, query_heads, query_time, value_dim, .. } = case.oracle.shape;
    let rows = batch * query_heads * query_time;
    let output = widen(&narrow(&normals(seed, rows * value_dim), case.dtype));
    Result32 { output, lse: normals(seed + 1, rows) }
}

/// Holds gradients to the rounding of float32 arithmetic, of the saved output, and of their own type.
pub fn judge(case: &Case, upstream: &Result32, found: &Gradients<f32>, rounding: Rounding) {
    let o = &case.oracle;
    let truth = gradients(o, &upstream.output, &upstream.lse);
    let largest = |x: &[f32]| x.iter().filter(|x| x.is_finite()).fold(0.0f64, |top, x| top.max(f64::from(x.abs())));
    let factor = f64::from(o.rules.scale) * o.query_scale.as_ref().map_or(1.0, |x| largest(x));
    let magnitude = o.rotary.as_ref().map_or(1.0, |rotary| f64::from(rotary.magnitude).powi(2).max(1.0));
    let product = largest(&o.query) * largest(&o.key) * magnitude * o.shape.head_dim as f64 * factor / 2.0;
    let biases = o.key_bias.as_ref().map_or(0.0, |x| largest(x)) + 10.0;
    let of_output = if case.dtype == Dtype::F32 { 0.0 } else { unit(case.dtype) };
    let relative = 4e-7 * (1.0 + biases + product) + of_output + rounding.of_terms + rounding.of_products * product;
    let rounded = |name: &str| if ["query", "key", "value"].contains(&name) { unit(case.dtype) } else { 0.0 };
    for ((name, found), (_, truth)) in found.named().into_iter().zip(truth.named()) {
        assert!(found.is_empty() || found.len() == truth.len(), "{name}: {} and {}", found.len(), truth.len());
        for (i, (x, sum)) in found.iter().zip(truth).enumerate() {
            let allowed = relative * sum.size + rounded(name) * (sum.total.abs() + 1e-4) + 1e-30;
            let error = (f64::from(*x) - sum.total).abs();
            assert!(error <= allowed, "{name} {i}: {x} and {}, allowed {allowed}, {case:?}", sum.total);
        }
    }
}

/// The gradients of what one sequence has alone, laid out as [`Case::only`] lays it out; the others are empty.
pub fn sequence(case: &Case, found: &Gradients<f32>, index: usize) -> Gradients<f32> {
    let o = &case.oracle;
    let s = o.sequences[index];
    let Shape { query_heads, key_heads, query_time, key_time, head_dim, value_dim, .. } = o.shape;
    let cut = |x: &[f32], heads: usize, time: usize, size: usize, (batch, start, count): (usize, usize, usize)| {
        let rows = |head: usize| (((batch * heads + head) * time) + start) * size;
        let part = |head: usize| x[rows(head)..rows(head) + count * size].to_vec();
        if x.is_empty() { Vec::new() } else { (0..heads).flat_map(part).collect() }
    };
    let (queries, keys) = ((s.batch, s.query_start, s.queries), (s.key_batch, s.key_start, s.keys));
    Gradients {
        query: cut(&found.query, query_heads, query_time, head_dim, queries),
        key: cut(&found.key, key_heads, key_time, head_dim, keys),
        value: cut(&found.value, key_heads, key_time, value_dim, keys),
        query_scale: cut(&found.query_scale, query_heads, query_time, 1, queries),
        key_bias: cut(&found.key_bias, query_heads, key_time, 1, keys),
        ..Gradients::default()
    }
}

/// What one sequence of a result is, laid out as [`Case::only`] lays it out.
pub fn assert_bits(expected: &Gradients<f32>, given: &Gradients<f32>, what: &str) {
    for ((name, a), (_, b)) in expected.named().into_iter().zip(given.named()) {
        if a.is_empty() || b.is_empty() {
            continue;
        }
        assert_eq!(a.len(), b.len(), "{what}: {name}");
        for (i, (x, y)) in a.iter().zip(b).enumerate() {
            assert!(x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan(), "{what}: {name} {i}: {x:?} and {y:?}");
        }
    }
}
