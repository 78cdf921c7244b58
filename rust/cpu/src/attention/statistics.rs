//! What the weights of each row look like, from the walk that attention takes, without values.

use super::Attention;
use super::arrays::check_problem;
use super::context::{Context, QueryBlock};
use super::output::{Block, Rows, cut, logarithm_of_sum};
use super::packing::TileRows;
use super::walk::{Scratch, Visitor, tiles_of, walk};
use crate::arch::attention::{Moments, Orders, PackedKeys, Scores, Spread, Tile};
use crate::arch::lanes::LANES;
use crate::{ViewMut, dispatch, threads};
use farspan_core::Result;
use farspan_core::attention::{Sequence, check_shape};
use std::cell::RefCell;
use std::ops::Range;

/// Statistics of each row, `[batch, query_heads, query_time]`. With a row's weights `p = exp(score - lse)`:
#[derive(Debug)]
pub struct Statistics<'a> {
    /// `ln(sum of exp(scores))`, a sink among them.
    pub lse: ViewMut<'a, f32, 3>,
    /// `-sum of p ln p`, in nats, a sink's share among them.
    pub entropy: ViewMut<'a, f32, 3>,
    /// The largest p of a key.
    pub largest: ViewMut<'a, f32, 3>,
    /// p of the sequence's first key.
    pub first: ViewMut<'a, f32, 3>,
    /// p of the sink.
    pub sink: ViewMut<'a, f32, 3>,
    /// Sum of p times the order of the query less that of the key.
    pub distance: ViewMut<'a, f32, 3>,
}

/// The same of one row.
struct OfRow {
    lse: f32,
    entropy: f32,
    largest: f32,
    first: f32,
    sink: f32,
    distance: f32,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Computes the statistics of the weights that [`attention`](super::attention) would give the values, at which nobody
/// looks. The LSE has the same bits. The arguments are checked first.
pub fn attention_statistics(problem: &Attention<'_>, statistics: Statistics<'_>) -> Result<()> {
    let shape = check_problem(problem)?;
    for (argument, view) in statistics.named() {
        check_shape(argument, &[shape.batch, shape.query_heads, shape.query_time], &view.shape())?;
    }
    let context = Context::new(problem, shape, dispatch::machine()?);
    // A decode step is a block like any other: keys are packed for one row as for many.
    let (few, many) = cut(&context, statistics);
    threads::scope(context.work.is_little(problem.sequences), |spawner| {
        for mut block in few.into_iter().flatten().chain(many) {
            let context = &context;
            spawner.spawn(move |_| SCRATCH.with_borrow_mut(|scratch| run(context, &mut block, scratch)));
        }
    })
}

fn run(context: &Context, block: &mut Block<Statistics>, scratch: &mut Scratch) {
    let query_block = &block.query_block;
    let tiles = tiles_of(context, query_block);
    let seen = |tile: &TileRows| Moments::of(context.first_state(query_block, tile.first..tile.first + tile.rows));
    let mut observing = Observing {
        context,
        query_block,
        tiles: &tiles,
        moments: tiles.iter().map(seen).collect(),
        orders: Orders { gaps: [0.0; LANES], is_start: true },
        start: 0,
    };
    walk(context, query_block, &tiles, scratch, &mut observing);
    for (tile_rows, moments) in tiles.iter().zip(&observing.moments) {
        for lane in 0..tile_rows.rows {
            let (head, query) = query_block.row(tile_rows.first + lane);
            let sink = context.problem.sink.map(|sink| sink.at([head]));
            let row = [0, head - query_block.heads.start, 0];
            block.results.write(row, query - query_block.queries.start, &OfRow::new(moments, lane, sink));
        }
    }
}

/// Adds up moments.
struct Observing<'w, 'a> {
    context: &'w Context<'w, 'a>,
    query_block: &'w QueryBlock,
    tiles: &'w [TileRows],
    moments: Vec<Moments>,
    orders: Orders,
    /// The chunk's first key.
    start: usize,
}

impl Visitor for Observing<'_, '_> {
    fn chunk(&mut self, _: &Sequence, keys: &Range<usize>, _: &mut Spread) {
        self.start = keys.start;
        self.orders.is_start = keys.start == 0;
    }

    fn tile(&mut self, index: usize, tile: &Tile, keys: &PackedKeys, panels: Range<usize>, scores: &mut Scores) {
        let TileRows { first, rows, .. } = self.tiles[index];
        let sequence = self.context.sequence(self.query_block.sequence);
        for (lane, gap) in self.orders.gaps[..rows].iter_mut().enumerate() {
            *gap = (sequence.query_order(self.query_block.row(first + lane).1) - self.start as i64) as f32;
        }
        self.context.kernels.observe(tile, keys, panels, &self.orders, scores, &mut self.moments[index]);
    }
}

impl OfRow {
    /// Of the row of a lane.
    fn new(moments: &Moments, lane: usize, sink: Option<f32>) -> Self {
        let (maximum, sum) = (moments.state.maximum[lane], moments.state.sum[lane]);
        let lse = logarithm_of_sum(maximum, sum);
        if sum == 0.0 {
            return OfRow { lse, entropy: 0.0, largest: 0.0, first: 0.0, sink: 0.0, distance: 0.0 };
        }
        let total = f64::from(sum);
        let share = |score: f32| (f64::from(score - maximum).exp() / total) as f32;
        // Adding zero takes the sign from a zero: that depends on chunks of which the row sees nothing.
        let mean = |sum: f32| (f64::from(sum) / total) as f32 + 0.0;
        OfRow {
            lse,
            entropy: (total.ln() + f64::from(moments.spread[lane]) / total) as f32,
            largest: share(moments.largest[lane]),
            first: share(moments.first[lane]),
            sink: sink.map_or(0.0, share),
            distance: mean(moments.distance[lane]),
        }
    }
}

impl<'a> Statistics<'a> {
    fn named(&self) -> [(&'static str, &ViewMut<'a, f32, 3>); 6] {
        let Statistics { lse, entropy, largest, first, sink, distance } = self;
        [
            ("lse", lse),
            ("entropy", entropy),
            ("largest", largest),
            ("first", first),
            ("sink", sink),
            ("distance", distance),
        ]
    }

    fn write(&mut self, row: [usize; 3], query: usize, found: &OfRow) {
        self.lse.row_mut(row)[query] = found.lse;
        self.entropy.row_mut(row)[query] = found.entropy;
        self.largest.row_mut(row)[query] = found.largest;
        self.first.row_mut(row)[query] = found.first;
        self.sink.row_mut(row)[query] = found.sink;
        self.distance.row_mut(row)[query] = found.distance;
    }
}

impl Rows for Statistics<'_> {
    fn split(self, axis: usize, at: usize) -> (Self, Self) {
        let Statistics { lse, entropy, largest, first, sink, distance } = self;
        let [lse, entropy, largest, first, sink, distance] =
            [lse, entropy, largest, first, sink, distance].map(|view| view.split(axis, at));
        let part =
            |lse, entropy, largest, first, sink, distance| Statistics { lse, entropy, largest, first, sink, distance };
        (
            part(lse.0, entropy.0, largest.0, first.0, sink.0, distance.0),
            part(lse.1, entropy.1, largest.1, first.1, sink.1, distance.1),
        )
    }
}
