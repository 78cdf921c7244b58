//! Fused attention on a GPU: what it is asked, how it is cut, and its launches.
//!
//! Blocks walk the keys of 16 rows a warp, chunk after chunk of 64 keys, each chunk under its own maximum. Where there
//! are too few rows to keep the device busy, several blocks share the chunks of a row and a second kernel merges their
//! results in the order of the chunks, as a block does by itself: a row has the same bits either way.

pub mod gradient;
mod params;
pub mod plan;
mod problem;
pub mod statistics;
pub mod variants;

pub use problem::{Attention, DistanceBias, Far, Large, NumberType, Numbers, Offsets, Rotary, Sequences, Tensors};
pub use variants::variants;
pub(crate) use variants::{CHUNK, ROWS_OF_WARPS, WARP_ROWS, WARPS, hooks_stack_bytes, shared_bytes, type_names, walks};

use crate::device::{Device, Limits, Params, Variant};
use crate::tensor::{Tensor, Workspace};
use farspan_core::attention::Shape;
use farspan_core::{Error, Result};
use params::{
    ArrayAt, AttentionParams, PagesAt, PlanParams, PositionsAt, PrepareParams, PrepareSideParams, PreparedAt,
    ProblemParams, ResultParams, RotateParams, SequencesAt,
};
use plan::{Plan, Sums, Workload};
use variants::{PREPARE_THREADS, ROTATE_THREADS, combine, panel_bytes, rotate, walk};

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
    let Some(layout) = call.place(workspace)? else { return Ok(()) };
    let params = call.params(&layout, &output, lse.as_ref());
    let (dtype, Plan { width, warps, .. }) = (problem.query.dtype, call.plan);
    let kernel = walk(dtype, width, warps, call.has_hooks());
    // SAFETY: the caller's pointers, and those into the workspace.
    unsafe { call.launch(device, &layout, &params, &kernel, || combine(dtype, width)) }
}

/// The blocks of a kernel that goes over all queries, then over all keys, each given as the entries of a batch and the
/// threads for one of them: those of the queries, and those of both.
fn blocks_over(queries: (usize, usize), keys: (usize, usize), threads: u32, what: &str) -> Result<(i32, u32)> {
    let blocks = |(batch, numbers): (usize, usize)| batch.saturating_mul(numbers.div_ceil(threads as usize));
    let (of_queries, of_keys) = (blocks(queries), blocks(keys));
    let all = in_a_row(if of_keys > of_queries { "key" } else { "query" }, of_queries.saturating_add(of_keys), what)?;
    Ok((of_queries as i32, all))
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
    /// Of each row and chunk its values, or its moments.
    partial_sums: u64,
    partial_states: u64,
    bytes: usize,
}

impl<'a> Call<'a> {
    fn new(problem: &'a Attention, shape: Shape, limits: &Limits) -> Self {
        Call::summing(Sums::Values(shape.value_dim), problem, shape, limits)
    }

    /// A call that sums up this for each row, beside its weights.
    fn summing(sums: Sums, problem: &'a Attention, shape: Shape, limits: &Limits) -> Self {
        let work = Workload {
            dtype: problem.query.dtype,
            head_dim: shape.head_dim,
            sums,
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

    /// Where things lie in a workspace that is as large as they need; None: there is no row to compute.
    fn place(&self, workspace: Workspace) -> Result<Option<Layout>> {
        let layout = self.layout(workspace.pointer);
        workspace.check(layout.bytes, ALIGNMENT)?;
        Ok((self.work.rows() > 0).then_some(layout))
    }

    /// Starts a walk behind what it reads and, where chunks were shared out, what merges its partial results.
    ///
    /// # Safety
    /// As [`attention`]; `params` are those of both kernels, and point into a workspace that passed [`Call::place`].
    unsafe fn launch(
        &self,
        device: &dyn Device,
        layout: &Layout,
        params: &impl Params,
        walk: &Variant,
        combine: impl FnOnce() -> Variant,
    ) -> Result<()> {
        let grid = self.grid()?;
        // SAFETY: the caller's.
        unsafe {
            self.prepare(device, layout)?;
            device.launch(walk, grid, self.plan.shared_bytes as u32, params.bytes())?;
        }
        if self.plan.splits > 1 {
            let grid = [self.work.rows().div_ceil(ROWS_OF_WARPS as usize) as u32, 1, 1];
            // SAFETY: the caller's; the launch before has written the partial results of all chunks that a row sees.
            unsafe { device.launch(&combine(), grid, 0, params.bytes())? };
        }
        Ok(())
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
        tables || rules.softcap.is_some() || border(self.problem).is_some()
    }

    fn layout(&self, start: u64) -> Layout {
        let mut bytes = 0;
        let mut place = |needed: bool, size: usize| {
            let at = start + bytes as u64;
            let size = if needed { size.next_multiple_of(ALIGNMENT) } else { 0 };
            bytes += size;
            if size > 0 { at } else { 0 }
        };
        let [queries, keys] = self.prepared(&mut place, !self.turns_in_tiles());
        let results = self.work.chunks() * self.work.rows();
        let split = self.plan.splits > 1;
        let partial_sums = place(split, results * self.work.sums.count() * size_of::<f32>());
        let partial_states = place(split, results * size_of::<[f32; 2]>());
        Layout { queries, keys, partial_sums, partial_states, bytes }
    }

    /// Where what stands before attention begins lies, of queries and of keys, which turn before or not; `place` gives
    /// room for so many bytes, where they are needed.
    fn prepared(&self, place: &mut impl FnMut(bool, usize) -> u64, keys_turn: bool) -> [PreparedAt; 2] {
        let far = border(self.problem).is_some();
        let by_distance = far || self.problem.distance_bias.is_some();
        let Shape { batch, query_heads, query_time, key_batch, key_heads, key_time, .. } = self.shape;
        let half = self.problem.half();
        let row_bytes = self.turned_dim() * self.work.dtype.size();
        let mut prepared = |batch: usize, heads: usize, time: usize, turn: bool| {
            let rows = batch * time;
            PreparedAt {
                positions: place(by_distance, rows * size_of::<f64>()),
                turns: place(half > 0, rows * half * size_of::<[f32; 2]>()),
                far_turns: place(far, rows * half * size_of::<[f32; 2]>()),
                turned: place(turn, rows * heads * row_bytes),
                far_turned: place(far, rows * heads * row_bytes),
            }
        };
        [
            prepared(batch, query_heads, query_time, half > 0),
            prepared(key_batch, key_heads, key_time, half > 0 && keys_turn),
        ]
    }

    /// Starts the kernels that write it.
    ///
    /// # Safety
    /// As [`attention`], with the layout of its workspace.
    unsafe fn prepare(&self, device: &dyn Device, layout: &Layout) -> Result<()> {
        let Layout { queries, keys, .. } = layout;
        if [queries, keys].iter().any(|side| side.positions != 0 || side.turns != 0) {
            let (params, blocks) = self.prepare_params(layout)?;
            // SAFETY: the caller's.
            unsafe { device.launch(&variants::prepare(), [blocks, 1, 1], 0, params.bytes())? };
        }
        if queries.turned != 0 || keys.turned != 0 {
            let (params, blocks) = self.rotate_params(layout)?;
            // SAFETY: the caller's; the launch before has written the turns of all queries and keys that exist.
            unsafe { device.launch(&rotate(self.work.dtype), [blocks, 1, 1], 0, params.bytes())? };
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

    /// Of `attention_prepare`, and its blocks.
    fn prepare_params(&self, layout: &Layout) -> Result<(PrepareParams, u32)> {
        let Attention { rotary, query_positions, key_positions, .. } = self.problem;
        let Shape { batch, query_time, key_batch, key_time, .. } = self.shape;
        let pairs = self.problem.half().max(1);
        let (queries, keys) = ((batch, query_time * pairs), (key_batch, key_time * pairs));
        let (query_blocks, blocks) = blocks_over(queries, keys, PREPARE_THREADS, "blocks of positions")?;
        let far = rotary.and_then(|rotary| rotary.far);
        let side = |positions: &Option<Numbers<2>>, far_positions: Option<Numbers<2>>, prepared| PrepareSideParams {
            positions: positions_at(*positions),
            far_positions: positions_at(far_positions),
            prepared,
        };
        let inv_freq = rotary.map(|rotary| rotary.inv_freq);
        let params = PrepareParams {
            sequences: self.sequences(),
            queries: side(query_positions, far.map(|far| far.query_positions), layout.queries),
            keys: side(key_positions, far.map(|far| far.key_positions), layout.keys),
            inv_freq: inv_freq.map_or(0, |tensor| tensor.pointer),
            inv_freq_stride: inv_freq.map_or(0, |tensor| tensor.strides[0]),
            half: self.problem.half() as i32,
            query_blocks,
            magnitude: rotary.map_or(1.0, |rotary| rotary.magnitude),
            padding: 0,
        };
        Ok((params, blocks))
    }

    /// Of `attention_rotate`, and its blocks.
    fn rotate_params(&self, layout: &Layout) -> Result<(RotateParams, u32)> {
        let Attention { query, key, .. } = self.problem;
        let Shape { batch, query_heads, query_time, key_batch, key_heads, key_time, .. } = self.shape;
        let pieces = self.turned_dim() * self.work.dtype.size() / ALIGNMENT;
        let of = |time: usize, heads: usize| time.saturating_mul(heads).saturating_mul(pieces);
        let key_batch = if layout.keys.turned == 0 { 0 } else { key_batch };
        let (queries, keys) = ((batch, of(query_time, query_heads)), (key_batch, of(key_time, key_heads)));
        let (query_blocks, blocks) = blocks_over(queries, keys, ROTATE_THREADS, "blocks of rows that turn")?;
        let in_pieces = [query, key].map(|matrix| i32::from(is_in_pieces(matrix)));
        Ok((RotateParams { problem: self.problem_params(layout), query_blocks, in_pieces, padding: 0 }, blocks))
    }

    /// Whether the walk turns keys in its tiles. Few rows read a key once: to write it down turned and to read it again
    /// would take longer than to turn it. A tile has to hold both numbers of each pair, in whole pieces.
    fn turns_in_tiles(&self) -> bool {
        let Some(rotary) = self.problem.rotary else { return false };
        let (half, size) = (self.problem.half(), self.work.dtype.size());
        let pairs_in_tile = 2 * half * size <= panel_bytes(self.work.dtype, self.plan.width);
        let whole = (half * size).is_multiple_of(ALIGNMENT) && is_in_pieces(&self.problem.key);
        self.plan.warps == 1 && !rotary.interleaved && border(self.problem).is_none() && pairs_in_tile && whole
    }

    /// The head dimension in whole pieces of sixteen bytes.
    fn turned_dim(&self) -> usize {
        self.shape.head_dim.next_multiple_of(ALIGNMENT / self.work.dtype.size())
    }

    /// What the walk reads: queries that turned in their place, and keys too, or their turns.
    fn turned_params(&self, layout: &Layout) -> ProblemParams {
        let given = self.problem_params(layout);
        let dim = self.turned_dim();
        let array = |given: ArrayAt, pointer: u64, heads: usize, time: usize| {
            let strides = [heads * time * dim, time * dim, dim].map(|stride| stride as i64);
            if pointer == 0 { given } else { ArrayAt { pointer, strides } }
        };
        let Shape { query_heads, query_time, key_heads, key_time, .. } = self.shape;
        let (queries, keys) = (layout.queries, layout.keys);
        ProblemParams {
            query: array(given.query, queries.turned, query_heads, query_time),
            key: array(given.key, keys.turned, key_heads, key_time),
            keys: PreparedAt { turns: if self.turns_in_tiles() { keys.turns } else { 0 }, ..keys },
            head_dim: if keys.turned == 0 { given.head_dim } else { dim as i32 },
            keys_turned: i32::from(keys.turned != 0),
            ..given
        }
    }

    fn params(&self, layout: &Layout, output: &Large, lse: Option<&Tensor<3>>) -> AttentionParams {
        AttentionParams {
            problem: self.turned_params(layout),
            plan: self.plan_params(layout),
            results: ResultParams {
                output: matrix_at(output),
                lse: table_at(lse),
                partial_values: layout.partial_sums,
                partial_states: layout.partial_states,
            },
        }
    }

    fn plan_params(&self, layout: &Layout) -> PlanParams {
        let Attention { query, key, value, .. } = self.problem;
        let (queries, keys) = (layout.queries, layout.keys);
        let in_pieces =
            [queries.turned != 0 || is_in_pieces(query), keys.turned != 0 || is_in_pieces(key), is_in_pieces(value)];
        PlanParams {
            chunks_per_block: self.plan.chunks_per_block as i32,
            parts: self.plan.parts as i32,
            in_pieces: in_pieces.map(i32::from),
            tiles: self.plan.tiles as i32,
        }
    }

    fn problem_params(&self, layout: &Layout) -> ProblemParams {
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
            queries: layout.queries,
            keys: layout.keys,
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
            turned_dim: self.turned_dim() as i32,
            keys_turned: 0,
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
