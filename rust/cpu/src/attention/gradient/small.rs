//! Gradients that are sums over many rows: of tables, scales, biases and sinks. Sums run in a fixed order, in float64.

use super::Pass;
use super::packed::known;
use crate::ViewMut;
use crate::arch::attention::MAX_DIM;
use crate::arch::lanes::LANES;
use crate::attention::context::QueryBlock;
use crate::threads;
use farspan_core::attention::Shape;
use farspan_core::{Error, Result};
use ndarray::ArrayViewMut3;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Adds parts in the order of their numbers, whichever order they come in.
#[derive(Debug, Default)]
pub(super) struct InOrder {
    next: usize,
    total: Vec<f64>,
    waiting: BTreeMap<usize, Vec<f64>>,
}

impl InOrder {
    /// Takes part `number`.
    pub(super) fn add(&mut self, number: usize, part: Vec<f64>) {
        self.waiting.insert(number, part);
        while let Some(part) = self.waiting.remove(&self.next) {
            self.next += 1;
            if self.total.is_empty() {
                self.total = part;
            } else {
                self.total.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
            }
        }
    }

    /// The sum, once `count` parts have come.
    pub(super) fn finished(&mut self, count: usize) -> Option<Vec<f64>> {
        (self.next == count).then(|| std::mem::take(&mut self.total))
    }
}

/// For each key head, the sums of the gradient of its heads' tables over the sequences.
pub(super) fn tables(asked: bool, shape: &Shape, columns: usize) -> Vec<Mutex<InOrder>> {
    let empty = || InOrder { total: vec![0.0; shape.group() * columns], ..InOrder::default() };
    (0..if asked { shape.key_heads } else { 0 }).map(|_| Mutex::new(empty())).collect()
}

/// Writes the tables' gradient; of one row it is the sum over the heads.
pub(super) fn write_tables(tables: Vec<Mutex<InOrder>>, columns: usize, out: &mut ViewMut<f32, 2>) {
    let totals = tables.into_iter().map(|table| table.into_inner().unwrap_or_else(PoisonError::into_inner).total);
    let kept = out.shape()[0] * columns;
    let mut sums = vec![0.0f64; kept];
    for (place, x) in totals.flatten().enumerate() {
        sums[place % kept] += x;
    }
    for (row, sums) in sums.chunks_exact(columns).enumerate() {
        out.row_mut([row, 0]).iter_mut().zip(sums).for_each(|(out, sum)| *out = *sum as f32);
    }
}

/// One float32 for each row of each head, before it is summed to the shape that was broadcast.
pub(super) struct PerRow {
    numbers: Option<Vec<f32>>,
    sizes: [usize; 3],
}

impl PerRow {
    /// Zeros, where they are asked for.
    pub(super) fn new(asked: bool, sizes: [usize; 3]) -> Self {
        PerRow { numbers: asked.then(|| vec![0.0; sizes.iter().product()]), sizes }
    }

    /// To be written.
    pub(super) fn view(&mut self) -> Result<Option<ViewMut<'_, f32, 3>>> {
        let Some(numbers) = &mut self.numbers else { return Ok(None) };
        let mut array = ArrayViewMut3::from_shape(self.sizes, numbers)
            .map_err(|error| Error::argument("query", "sizes that can be multiplied", &error).because(error))?;
        ViewMut::new("query", &mut array).map(Some)
    }

    /// Sums over the dimensions in which `out` has one entry.
    pub(super) fn sum_to(&self, out: &mut ViewMut<f32, 3>) {
        let ([batch, heads, time], kept) = (self.sizes, out.shape());
        let place = |b: usize, h: usize| (if kept[0] == 1 { 0 } else { b }, if kept[1] == 1 { 0 } else { h });
        let mut sums = vec![0.0f64; kept.iter().product()];
        let rows = self.numbers.iter().flat_map(|numbers| numbers.chunks_exact(time.max(1)));
        for (row, numbers) in rows.enumerate().take(batch * heads) {
            let (b, h) = place(row / heads, row % heads);
            let sums = &mut sums[(b * kept[1] + h) * kept[2]..][..kept[2]];
            match kept[2] == time {
                true => sums.iter_mut().zip(numbers).for_each(|(sum, x)| *sum += f64::from(*x)),
                false => numbers.iter().for_each(|x| sums[0] += f64::from(*x)),
            }
        }
        for (row, sums) in sums.chunks_exact(kept[2].max(1)).enumerate() {
            let out = out.row_mut([row / kept[1], row % kept[1], 0]);
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = *sum as f32);
        }
    }
}

/// The gradient of each head's sink: of every row, its share of the softmax, which has no value.
pub(super) fn sinks(pass: &Pass, alone: bool, out: &mut ViewMut<f32, 1>) -> Result<()> {
    let Pass { context, .. } = pass;
    let Some(sink) = context.problem.sink else { return Ok(()) };
    let (sequences, group) = (context.problem.sequences, context.shape.group());
    let mut sums = vec![0.0f64; sequences.len() * context.shape.query_heads];
    threads::scope(alone, |spawner| {
        for (place, sum) in sums.iter_mut().enumerate() {
            let (index, head) = (place / context.shape.query_heads, place % context.shape.query_heads);
            let queries = 0..context.sequence(index).queries;
            let of_head = QueryBlock { sequence: index, key_head: head / group, heads: head..head + 1, queries };
            let sink = f64::from(sink.at([head]));
            spawner.spawn(move |_| {
                let mut room = [[0.0; LANES * MAX_DIM]; 2];
                let rows = if sink == f64::NEG_INFINITY { 0 } else { of_head.rows() };
                for first in (0..rows).step_by(LANES) {
                    let rows = first..(first + LANES).min(rows);
                    let size = rows.len() * context.width();
                    let [upstream, output] = room.each_mut().map(|room| &mut room[..size]);
                    let shares = &mut [0.0; LANES][..rows.len()];
                    for known in known(pass, &of_head, rows, upstream, output, shares) {
                        *sum -= (sink - f64::from(known.lse)).exp() * f64::from(known.share);
                    }
                }
            });
        }
    })?;
    let gradient = out.row_mut([0]);
    let kept = gradient.len();
    for (head, out) in gradient.iter_mut().enumerate() {
        *out = sums.iter().skip(head).step_by(kept).sum::<f64>() as f32;
    }
    Ok(())
}
