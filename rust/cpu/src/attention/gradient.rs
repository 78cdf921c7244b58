//! The backward pass: weights are computed again from the LSE, a few rows and keys at a time, and nothing larger than
//! float32 sums for each row, key and head is ever held.
//!
//! With p = exp(score - lse), and what the output and the LSE of a row are asked for, `slope = p * (dot(output
//! gradient, value) - share)` is the gradient of a score, where `share = dot(output gradient, output) - LSE gradient`.
//! Five products make everything of it: scores and `dot(output gradient, value)` once more, and the sums over queries
//! (of the gradients of values and keys) and over keys (of those of queries).
//!
//! The keys of a sequence are taken in chunks counted from its first. A chunk meets the blocks of queries in their
//! order, so its own sums run over queries in one order. What it gives to a query is added to what the chunks before it
//! gave: threads that work on several chunks of a head take turns at each block (`job`). So every gradient has the same
//! bits at any thread count, in any batch and on every instruction set.

mod chunk;
mod cut;
mod job;
mod keys;
mod packed;
mod small;

use super::context::Context;
use super::{Output, Views, arrays};
use crate::{ViewMut, dispatch, each, threads};
use farspan_core::Result;
use farspan_core::attention::problem::SmallShapes;
use farspan_core::attention::{Shape, problem};
use small::PerRow;
use std::ops::Range;

/// A call whose gradients are asked for.
pub type Backward<'a> = problem::Backward<Views<'a>>;

/// Where the gradients go that are asked for. All must hold zeros: what belongs to no key or query that exists is not
/// written.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// As the query.
    pub query: Option<Output<'a>>,
    /// As the key, or only its last dimensions, where no rotation turns these.
    pub key: Option<Output<'a>>,
    /// As the value.
    pub value: Option<Output<'a>>,
    /// `[batch, query_heads, query_time]`, each size 1 where the scale was broadcast.
    pub query_scale: Option<ViewMut<'a, f32, 3>>,
    /// `[batch, query_heads, key_time]`, each size 1 where the bias was broadcast.
    pub key_bias: Option<ViewMut<'a, f32, 3>>,
    /// `[query_heads or 1, L]`
    pub distance_bias: Option<ViewMut<'a, f32, 2>>,
    /// `[query_heads or 1]`
    pub sink: Option<ViewMut<'a, f32, 1>>,
}

/// What every part of the pass asks of.
struct Pass<'p, 'a> {
    context: Context<'p, 'a>,
    call: &'p Backward<'a>,
    asked: Asked,
    /// The dimensions of the keys whose gradients are wanted: all, or some that no rotation turns.
    key_dims: Range<usize>,
}

/// The gradients that chunks of keys give something to.
#[derive(Clone, Copy, Debug)]
struct Asked {
    query: bool,
    query_scale: bool,
    key: bool,
    value: bool,
    key_bias: bool,
    distance_bias: bool,
}

impl Asked {
    /// Whether anything needs the sums over keys.
    fn along_keys(&self) -> bool {
        self.query || self.query_scale
    }

    /// Whether anything needs what chunks give.
    fn anything(&self) -> bool {
        self.along_keys() || self.key || self.value || self.key_bias || self.distance_bias
    }
}

/// Computes the gradients that are asked for. The arguments are checked first.
pub fn attention_backward(call: &Backward<'_>, gradients: Gradients<'_>) -> Result<()> {
    let shape = call.check()?;
    arrays::check_numbers(&call.problem)?;
    check(call, &shape, &gradients)?;
    let Gradients { query, key, value, query_scale, key_bias, distance_bias, sink } = gradients;
    let asked = Asked {
        query: query.is_some(),
        query_scale: query_scale.is_some(),
        key: key.is_some(),
        value: value.is_some(),
        key_bias: key_bias.is_some(),
        distance_bias: distance_bias.is_some(),
    };
    let context = Context::new(&call.problem, shape, dispatch::machine()?);
    let key_dim = key.as_ref().map_or(shape.head_dim, dim);
    let pass = Pass { context, call, asked, key_dims: shape.head_dim - key_dim..shape.head_dim };
    let alone = pass.context.work.is_little(call.problem.sequences);
    let mut scales = PerRow::new(asked.query_scale, [shape.batch, shape.query_heads, shape.query_time]);
    let mut biases = PerRow::new(asked.key_bias, [shape.key_batch, shape.query_heads, shape.key_time]);
    let columns = call.problem.distance_bias.map_or(0, |bias| bias.table.shape()[1]);
    let tables = small::tables(asked.distance_bias, &shape, columns);
    if asked.anything() {
        let rows = cut::QueryParts { query, scale: scales.view()? };
        let keys = cut::KeyParts { key, value, bias: biases.view()? };
        let jobs = cut::jobs(&pass, rows, keys)?;
        threads::scope(alone, |spawner| job::spawn(spawner, &pass, jobs, &tables))?;
    }
    if let Some(mut out) = query_scale {
        scales.sum_to(&mut out);
    }
    if let Some(mut out) = key_bias {
        biases.sum_to(&mut out);
    }
    if let Some(mut out) = distance_bias {
        small::write_tables(tables, columns, &mut out);
    }
    sink.map_or(Ok(()), |mut out| small::sinks(&pass, alone, &mut out))
}

/// The last dimension.
fn dim(rows: &Output) -> usize {
    each!(view in rows => view.shape()[3])
}

fn check(call: &Backward, shape: &Shape, gradients: &Gradients) -> Result<()> {
    let problem = &call.problem;
    for (argument, of, gradient) in [
        ("query", &problem.query, &gradients.query),
        ("key", &problem.key, &gradients.key),
        ("value", &problem.value, &gradients.value),
    ] {
        if let Some(gradient) = gradient {
            let mut found = each!(view in gradient => view.shape());
            let turned = 2 * problem.half();
            if argument == "key" && found[3] > 0 && found[3] + turned <= shape.head_dim {
                found[3] = shape.head_dim;
            }
            call.check_large(argument, of, gradient.dtype(), found)?;
        }
    }
    let small = SmallShapes {
        query_scale: gradients.query_scale.as_ref().map(ViewMut::shape),
        key_bias: gradients.key_bias.as_ref().map(ViewMut::shape),
        distance_bias: gradients.distance_bias.as_ref().map(ViewMut::shape),
        sink: gradients.sink.as_ref().map(ViewMut::shape),
    };
    call.check_small(shape, &small)
}
