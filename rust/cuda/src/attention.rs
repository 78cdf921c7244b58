//! Fused attention on a GPU: what it is asked, how it is cut, and its launches.
//!
//! Blocks walk the keys of 16 rows a warp, chunk after chunk of 64 keys, each chunk under its own maximum. Where there
//! are too few rows to keep the device busy, several blocks share the chunks of a row and a second kernel merges their
//! results in the order of the chunks, as a block does by itself: a row has the same bits either way.

pub mod gradient;
mod params;
pub mod plan;
mod problem;
pub mod variants;

pub use problem::{Attention, DistanceBias, Far, Large, NumberType, Numbers, Offsets, Rotary, Sequences, Tensors};
pub use variants::variants;
pub(crate) use variants::{CHUNK, WARP_ROWS, WIDTHS, type_names};

use crate::device::{Device, Limits, Params};
use crate::tensor::{Tensor, Workspace};
use farspan_core::attention::Shape;
use farspan_core::{Error, Result};
use params::{
    ArrayAt, AttentionParams, PagesAt, PlanParams, PositionsAt, PrepareParams, PreparedAt, ProblemParams, ResultParams,
    SequencesAt,
};
use plan::{Plan, Workload};
use variants::{COMBINE_ROWS, PREPARE_THREADS, combine, walk};

/// Bytes of workspace that a call needs on a device of these limits; known without reading device memory.
pub fn workspace_bytes(problem: &Attention, limits: &Limits) -> Result<usize> {
    let shape = problem::check(problem)?;
    let call = Call::new(problem, shape, limits);
    Ok(call.layout(0).bytes)
}

/// Starts the kernels that compute the output and, where asked, the LSE `[batch, query_heads, query_time]` of float32.
/// The arguments are checked first. Nothing is allocated, read back or waited for.
///
/// # Safety
/// All tensors are memory of the device, valid until the kernels have run; results and workspace overlap nothing else.
pub unsafe fn attention(
    device: &dyn Device,
    problem: &Attention,
    output: Large,
    lse: Option<Tensor<3>>,
    workspace: Workspace,
) -> Result<()> {
    let shape = problem::check(problem)?;
    problem::check_results(problem, &shape, &output, lse.as_ref())?;
    let call = Call::new(problem, shape, &device.limits());
    let layout = call.layout(workspace.pointer);
    if workspace.bytes < layout.bytes || !workspace.pointer.is_multiple_of(ALIGNMENT as u64) {
        let expected = format!("{} bytes, aligned to {ALIGNMENT}", layout.bytes);
        return Err(Error::argument("workspace", expected, format!("{workspace:?}")));
    }
    if call.work.rows() == 0 {
        return Ok(());
    }
    let grid = call.grid()?;
    // SAFETY: the caller's pointers, and those into the workspace, which is as large as the layout says.
    unsafe { call.prepare(device, [layout.queries, layout.keys])? };
    let params = call.params(&layout, &output, lse.as_ref());
    let Plan { width, warps, splits, shared_bytes, .. } = call.plan;
    let kernel = walk(problem.query.dtype, width, warps, call.has_hooks());
    // SAFETY: as above.
    unsafe { device.launch(&kernel, grid, shared_bytes as u32, params.bytes())? };
    if splits > 1 {
        let grid = [call.work.rows().div_ceil(COMBINE_ROWS as usize) as u32, 1, 1];
        // SAFETY: as above; the launch before has written the partial results of all chunks that a row sees.
        unsafe { device.launch(&combine(problem.query.dtype, width), grid, 0, params.bytes())? };
    }
    Ok(())
}

/// So many blocks along the one axis of a grid that has room for them. Kernels count in 32 bits.
fn in_a_row(argument: &'static str, blocks: usize, what: &str) -> Result<u32> {
    match i32::try_from(blocks) {
        Ok(blocks) => Ok(blocks as u32),
        Err(_) => Err(Error::argument(argument, format!("at most {} {what}", i32::MAX), blocks)),
    }
}

/// Of what lies in the workspace.
const ALIGNMENT: usize = 16;

/// A checked problem and its plan.
struct Call<'a> {
    problem: &'a Attention,
    shape: Shape,
    work: Workload,
    plan: Plan,
}

/// Where things lie in the workspace; 0: nowhere.
struct Layout {
    queries: PreparedAt,
    keys: PreparedAt,
    partial_values: u64,
    partial_states: u64,
    bytes: usize,
}

impl<'a> Call<'a> {
    fn new(problem: &'a Attention, shape: Shape, limits: &Limits) -> Self {
        let work = Workload {
            dtype: problem.query.dtype,
            head_dim: shape.head_dim,
            value_dim: shape.value_dim,
            query_heads: shape.query_heads,
            group: shape.group(),
            batch: shape.batch,
            ragged: problem.sequences.offsets.map(|_| problem.sequence_count()),
            query_time: shape.query_time,
            key_time: shape.key_time,
            far: border(problem).is_some(),
        };
        Call { problem, shape, work, plan: work.plan(limits) }
    }

    /// Of the walk: the tiles of all key heads, one head after the other, by the chunks' splits.
    fn grid(&self) -> Result<[u32; 3]> {
        let Plan { tiles, parts, splits, .. } = self.plan;
        let heads = self.shape.key_heads;
        let blocks = tiles.saturating_mul(heads).saturating_mul(parts);
        let what = format!("blocks of rows, of {heads} key heads");
        Ok([in_a_row("query", blocks, &what)?, splits as u32, 1])
    }

    /// Whether scores know more than a scale and a mask.
    fn has_hooks(&self) -> bool {
        let Attention { query_scale, key_bias, distance_bias, rules, .. } = self.problem;
        let tables = query_scale.is_some() || key_bias.is_some() || distance_bias.is_some();
        tables || rules.softcap.is_some() || self.problem.half() > 0
    }

    fn layout(&self, start: u64) -> Layout {
        let mut bytes = 0;
        let mut place = |needed: bool, size: usize| {
            let at = start + bytes as u64;
            let size = if needed { size.next_multiple_of(ALIGNMENT) } else { 0 };
            bytes += size;
            if size > 0 { at } else { 0 }
        };
        let [queries, keys] = self.prepared(&mut place);
        let results = self.work.chunks() * self.work.rows();
        let split = self.plan.splits > 1;
        let partial_values = place(split, results * self.shape.value_dim * size_of::<f32>());
        let partial_states = place(split, results * size_of::<[f32; 2]>());
        Layout { queries, keys, partial_values, partial_states, bytes }
    }

    /// Where what is prepared of queries and of keys lies; `place` gives room for so many bytes, where they are needed.
    fn prepared(&self, place: &mut impl FnMut(bool, usize) -> u64) -> [PreparedAt; 2] {
        let far = border(self.problem).is_some();
        let by_distance = far || self.problem.distance_bias.is_some();
        let Shape { batch, query_time, key_batch, key_time, .. } = self.shape;
        [(batch, query_time), (key_batch, key_time)].map(|(batch, time)| {
            let rows = batch * time;
            PreparedAt {
                positions: place(by_distance, rows * size_of::<f64>()),
                turns: place(self.problem.half() > 0, rows * self.problem.half() * size_of::<[f32; 2]>()),
                far_turns: place(far, rows * self.problem.half() * size_of::<[f32; 2]>()),
            }
        })
    }

    /// Starts the kernels that write down what positions mean.
    ///
    /// # Safety
    /// As [`attention`]; the places are as large as [`Call::prepared`] asked for.
    unsafe fn prepare(&self, device: &dyn Device, prepared: [PreparedAt; 2]) -> Result<()> {
        let Shape { batch, query_time, key_batch, key_time, .. } = self.shape;
        for (prepared, of_queries, batch, axis) in
            [(prepared[0], true, batch, query_time), (prepared[1], false, key_batch, key_time)]
        {
            let params = self.prepare_params(prepared, of_queries);
            let numbers = axis * self.problem.half().max(1);
            let blocks = batch * numbers.div_ceil(PREPARE_THREADS as usize);
            let blocks = in_a_row(if of_queries { "query" } else { "key" }, blocks, "blocks of positions")?;
            if (prepared.positions != 0 || prepared.turns != 0) && blocks > 0 {
                // SAFETY: the caller's.
                unsafe { device.launch(&variants::prepare(), [blocks, 1, 1], 0, params.bytes())? };
            }
        }
        Ok(())
    }

    fn sequences(&self) -> SequencesAt {
        let at = |numbers: Option<Numbers<1>>| numbers.map_or((0, 0), |n| (n.tensor.pointer, n.kind.code()));
        let Sequences { offsets, key_lengths } = self.problem.sequences;
        let (key_lengths, lengths_kind) = at(key_lengths);
        let (query_offsets, query_offsets_kind) = at(offsets.map(|offsets| offsets.query));
        let (key_offsets, key_offsets_kind) = at(offsets.and_then(|offsets| offsets.key));
        SequencesAt {
            key_lengths,
            query_offsets,
            key_offsets,
            count: self.problem.sequence_count() as i32,
            query_time: self.shape.query_time as i32,
            key_time: self.shape.key_time as i32,
            lengths_kind,
            query_offsets_kind,
            key_offsets_kind,
        }
    }

    fn pages(&self) -> PagesAt {
        let Some(table) = self.problem.block_table else { return PagesAt::default() };
        let [count, _, size, _] = self.problem.key.tensor.shape;
        PagesAt {
            table: table.tensor.pointer,
            stride: table.tensor.strides[0],
            kind: table.kind.code(),
            count: count as i32,
            size: size as i32,
            shift: if size.is_power_of_two() { size.ilog2() as i32 } else { -1 },
        }
    }

    fn prepare_params(&self, prepared: PreparedAt, of_queries: bool) -> PrepareParams {
        let Attention { rotary, query_positions, key_positions, .. } = self.problem;
        let far = rotary.and_then(|rotary| rotary.far);
        let (positions, far_positions) = match of_queries {
            true => (*query_positions, far.map(|far| far.query_positions)),
            false => (*key_positions, far.map(|far| far.key_positions)),
        };
        let inv_freq = rotary.map(|rotary| rotary.inv_freq);
        PrepareParams {
            sequences: self.sequences(),
            positions: positions_at(positions),
            far_positions: positions_at(far_positions),
            prepared,
            inv_freq: inv_freq.map_or(0, |tensor| tensor.pointer),
            inv_freq_stride: inv_freq.map_or(0, |tensor| tensor.strides[0]),
            of_queries: i32::from(of_queries),
            half: self.problem.half() as i32,
            magnitude: rotary.map_or(1.0, |rotary| rotary.magnitude),
            padding: 0,
        }
    }

    fn params(&self, layout: &Layout, output: &Large, lse: Option<&Tensor<3>>) -> AttentionParams {
        let Attention { query, key, value, .. } = self.problem;
        AttentionParams {
            problem: self.problem_params([layout.queries, layout.keys]),
            plan: PlanParams {
                chunks_per_block: self.plan.chunks_per_block as i32,
                parts: self.plan.parts as i32,
                in_pieces: [query, key, value].map(|matrix| i32::from(is_in_pieces(matrix))),
                tiles: self.plan.tiles as i32,
            },
            results: ResultParams {
                output: matrix_at(output),
                lse: table_at(lse),
                partial_values: layout.partial_values,
                partial_states: layout.partial_states,
            },
        }
    }

    fn problem_params(&self, [queries, keys]: [PreparedAt; 2]) -> ProblemParams {
        let Attention { query, key, value, rules, distance_bias, sink, .. } = self.problem;
        let bounded = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let bound = |bound: Option<usize>| bound.map_or(-1, bounded);
        ProblemParams {
            query: matrix_at(query),
            key: matrix_at(key),
            value: matrix_at(value),
            query_scale: table_at(self.problem.query_scale.as_ref()),
            key_bias: table_at(self.problem.key_bias.as_ref()),
            sequences: self.sequences(),
            pages: self.pages(),
            queries,
            keys,
            distance_table: distance_bias.map_or(0, |bias| bias.table.pointer),
            sink: sink.map_or(0, |sink| sink.pointer),
            distance_stride: distance_bias.map_or(0, |bias| bias.table.strides[0]),
            sink_stride: sink.map_or(0, |sink| sink.strides[0]),
            border: border(self.problem).unwrap_or(f64::INFINITY),
            distance_minimum: distance_bias.map_or(0.0, |bias| bias.minimum as f64),
            query_heads: self.shape.query_heads as i32,
            group: self.shape.group() as i32,
            head_dim: self.shape.head_dim as i32,
            value_dim: self.shape.value_dim as i32,
            causal: i32::from(rules.causal),
            window: [bound(rules.window.0), bound(rules.window.1)],
            keep_first: bounded(rules.keep_first),
            half: self.problem.half() as i32,
            interleaved: i32::from(self.problem.rotary.is_some_and(|rotary| rotary.interleaved)),
            distance_length: distance_bias.map_or(0, |bias| bias.table.shape[1] as i32),
            scale: rules.scale,
            softcap: rules.softcap.unwrap_or(0.0),
            softcap_inverse: rules.softcap.map_or(0.0, |cap| 1.0 / cap),
        }
    }
}

/// The distance from which far positions count, if there are two rotations at all.
fn border(problem: &Attention) -> Option<f64> {
    let rotary = problem.rotary.filter(|rotary| rotary.inv_freq.shape[1] > 0)?;
    rotary.far.map(|far| far.border).filter(|border| *border < f64::INFINITY)
}

impl NumberType {
    /// `NUMBERS_...` of the kernels.
    fn code(self) -> i32 {
        match self {
            NumberType::F64 => 0,
            NumberType::F32 => 1,
            NumberType::I64 => 2,
            NumberType::I32 => 3,
        }
    }
}

fn matrix_at(matrix: &Large) -> ArrayAt {
    let [batch, head, time, _] = matrix.tensor.strides;
    ArrayAt { pointer: matrix.tensor.pointer, strides: [batch, head, time] }
}

fn table_at(tensor: Option<&Tensor<3>>) -> ArrayAt {
    tensor.map_or(ArrayAt::default(), |t| ArrayAt { pointer: t.pointer, strides: t.strides })
}

fn positions_at(numbers: Option<Numbers<2>>) -> PositionsAt {
    numbers.map_or(PositionsAt::default(), |numbers| PositionsAt {
        pointer: numbers.tensor.pointer,
        strides: numbers.tensor.strides,
        kind: numbers.kind.code(),
        padding: 0,
    })
}

/// Whether rows can be read sixteen bytes at a time.
fn is_in_pieces(matrix: &Large) -> bool {
    let Tensor { pointer, shape, strides } = matrix.tensor;
    let size = matrix.dtype.size() as i64;
    let aligned = |elements: i64| elements * size % ALIGNMENT as i64 == 0;
    pointer.is_multiple_of(ALIGNMENT as u64)
        && aligned(shape[3] as i64)
        && strides[..3].iter().all(|stride| aligned(*stride))
}
