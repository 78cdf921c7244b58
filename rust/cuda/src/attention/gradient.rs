//! The backward pass of attention on a GPU: weights are computed again from the LSE, tile by tile.
//!
//! A walk gives one gradient. Its blocks own 16 lines a warp, rows for the gradient of queries, keys for those of keys
//! and values, and meet the lines of the other kind in chunks of 64, counted from the first of their sequence. So the
//! order of every sum depends on its sequence alone, and no sum needs an atomic operation. What turns is turned before
//! the walks, and its gradient turned back behind them. Where a border asks for two rotations, pairs on either side of
//! it are met by blocks of their own.

mod params;
mod variants;

pub use variants::{Of, variants};

use super::params::ArrayAt;
use super::{ALIGNMENT, Call, Large, ROWS_OF_WARPS, Tensors, WARP_ROWS};
use super::{border, in_a_row, is_in_pieces, matrix_at, problem as checks, table_at};
use crate::device::{Device, Limits, Params};
use crate::tensor::{Tensor, Workspace};
use farspan_core::Result;
use farspan_core::array::check_contiguous;
use farspan_core::attention::Shape;
use farspan_core::attention::problem::{self, SmallShapes};
use params::{ClearParams, GradientParams, KnownParams, SumParams, TurnParams};
use variants::{SUM_ALONE, SUM_THREADS};
use variants::{clear, known, most_sums, shared_bytes, sum, turn_back, walk, warps};

/// A call whose gradients are asked for.
pub type Backward = problem::Backward<Tensors>;

/// Where the gradients go that are asked for. All must hold zeros: what belongs to no key or query that exists is not
/// written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gradients {
    /// As the query.
    pub query: Option<Large>,
    /// As the key.
    pub key: Option<Large>,
    /// As the value.
    pub value: Option<Large>,
    /// `[batch, query_heads, query_time]`, each size 1 where the scale was broadcast.
    pub query_scale: Option<Tensor<3>>,
    /// `[batch, query_heads, key_time]`, each size 1 where the bias was broadcast.
    pub key_bias: Option<Tensor<3>>,
    /// `[query_heads or 1, L]`
    pub distance_bias: Option<Tensor<2>>,
    /// `[query_heads or 1]`
    pub sink: Option<Tensor<1>>,
}

/// Most memory for tables that blocks sum by themselves.
const MOST_TABLE_BYTES: usize = 32 << 20;
/// Most blocks that share the rows of a head for its table.
const MOST_STRIPES: usize = 64;

/// Bytes of workspace that a call needs; known without reading device memory.
pub fn workspace_bytes(call: &Backward, gradients: &Gradients, limits: &Limits) -> Result<usize> {
    Ok(Pass::new(call, gradients, limits)?.layout(0).bytes)
}

/// Starts the kernels that compute the gradients. The arguments are checked first. Nothing is allocated, read back or
/// waited for.
///
/// # Safety
/// All tensors are memory of the device, valid until the kernels have run; gradients and workspace overlap nothing
/// else.
pub unsafe fn attention_backward(
    device: &dyn Device,
    call: &Backward,
    gradients: &Gradients,
    workspace: Workspace,
) -> Result<()> {
    let pass = Pass::new(call, gradients, &device.limits())?;
    let layout = pass.layout(workspace.pointer);
    workspace.check(layout.bytes, ALIGNMENT)?;
    if pass.forward.work.rows() == 0 {
        return Ok(());
    }
    // SAFETY: the caller's pointers, and those into the workspace, which is as large as the layout says.
    unsafe {
        pass.forward.prepare(device, &layout.forward)?;
        pass.know(device, &layout)?;
        pass.clear(device, &layout)?;
        for job in pass.walks(&layout) {
            pass.walk(device, &layout, &job)?;
        }
        pass.turn_back(device, &layout)?;
        for params in pass.sums(&layout) {
            add_up(device, &params)?;
        }
    }
    Ok(())
}

/// A checked call.
struct Pass<'a> {
    call: &'a Backward,
    gradients: &'a Gradients,
    forward: Call<'a>,
    /// On which sides of a border pairs may be.
    sides: usize,
}

/// Where things lie in the workspace; 0: nowhere.
struct Layout {
    /// As the forward pass has it.
    forward: super::Layout,
    known: u64,
    /// Sums of turned rows, near and far: of queries, then of keys.
    sums: [[ArrayAt; 2]; 2],
    query_scale: u64,
    key_bias: u64,
    tables: u64,
    sinks: u64,
    bytes: usize,
}

/// One launch of a walk.
struct Walk {
    of: Of,
    gradient: Option<Large>,
    sums: [ArrayAt; 2],
    numbers: u64,
    tables: u64,
    stripes: Option<usize>,
    heads_apart: bool,
}

impl<'a> Pass<'a> {
    fn new(call: &'a Backward, gradients: &'a Gradients, limits: &Limits) -> Result<Self> {
        let shape = call.check()?;
        checks::check(&call.problem)?;
        let problem = &call.problem;
        for (argument, of, gradient) in [
            ("query", &problem.query, &gradients.query),
            ("key", &problem.key, &gradients.key),
            ("value", &problem.value, &gradients.value),
        ] {
            if let Some(gradient) = gradient {
                call.check_large(argument, of, gradient.dtype, gradient.tensor.shape)?;
                check_contiguous(argument, gradient)?;
            }
        }
        let small = SmallShapes {
            query_scale: gradients.query_scale.map(|x| x.shape),
            key_bias: gradients.key_bias.map(|x| x.shape),
            distance_bias: gradients.distance_bias.map(|x| x.shape),
            sink: gradients.sink.map(|x| x.shape),
        };
        call.check_small(&shape, &small)?;
        let sides = if border(problem).is_some() { 2 } else { 1 };
        Ok(Pass { call, gradients, forward: Call::new(problem, shape, limits), sides })
    }

    fn shape(&self) -> &Shape {
        &self.forward.shape
    }

    fn half(&self) -> usize {
        self.call.problem.half()
    }

    /// Batch, heads and time of queries, then of keys.
    fn sizes(&self) -> [[usize; 3]; 2] {
        let Shape { batch, query_heads, key_heads, query_time, key_batch, key_time, .. } = *self.shape();
        [[batch, query_heads, query_time], [key_batch, key_heads, key_time]]
    }

    fn layout(&self, start: u64) -> Layout {
        let mut bytes = 0;
        let mut place = |needed: bool, size: usize| {
            let at = start + bytes as u64;
            let size = if needed { size.next_multiple_of(ALIGNMENT) } else { 0 };
            bytes += size;
            if size > 0 { at } else { 0 }
        };
        let Shape { batch, query_heads, query_time, head_dim, .. } = *self.shape();
        let Gradients { query, key, query_scale, key_bias, distance_bias, sink, .. } = self.gradients;
        let rows = batch * query_heads * query_time;
        let [queries, keys] = self.forward.prepared(&mut place, true);
        let forward = super::Layout { queries, keys, partial_sums: 0, partial_states: 0, bytes: 0 };
        let known = place(true, rows * size_of::<[f32; 2]>());
        let turns = self.half() > 0;
        let mut sums_of = |needed: bool, [batch, heads, time]: [usize; 3]| {
            [0, 1].map(|side| {
                let needed = needed && turns && side < self.sides;
                let pointer = place(needed, batch * heads * time * head_dim * size_of::<f32>());
                in_rows(pointer, [heads, time, head_dim])
            })
        };
        let [of_queries, of_keys] = self.sizes();
        let sums = [sums_of(query.is_some(), of_queries), sums_of(key.is_some(), of_keys)];
        let [of_scale, of_bias] = self.numbers().map(|numbers| self.sides * numbers * size_of::<f32>());
        let (query_scale, key_bias) = (place(query_scale.is_some(), of_scale), place(key_bias.is_some(), of_bias));
        let tables = place(distance_bias.is_some(), query_heads * self.tables_of_head() * self.columns() * 4);
        let sinks = place(sink.is_some(), rows * 4);
        Layout { forward, known, sums, query_scale, key_bias, tables, sinks, bytes }
    }

    fn columns(&self) -> usize {
        self.call.problem.distance_bias.map_or(0, |bias| bias.table.shape[1])
    }

    /// Blocks that share the rows of a head for its table, on each side of the border.
    fn stripes(&self) -> usize {
        let bytes = self.shape().query_heads * self.sides * self.warps() * self.columns() * size_of::<f32>();
        let tiles = self.tiles(Of::Query, 1).max(1);
        (MOST_TABLE_BYTES / bytes.max(1)).clamp(1, MOST_STRIPES).min(tiles)
    }

    fn tables_of_head(&self) -> usize {
        self.sides * self.stripes() * self.warps()
    }

    fn warps(&self) -> usize {
        warps(self.call.problem.query.dtype, self.forward.plan.width) as usize
    }

    /// Blocks along the lines of a head, over all sequences.
    fn tiles(&self, of: Of, group: usize) -> usize {
        let lines = self.warps() * WARP_ROWS;
        let [[batch, _, query_time], [key_batch, _, key_time]] = self.sizes();
        let (batch, count) = if of == Of::Query { (batch, query_time * group) } else { (key_batch, key_time) };
        match self.forward.work.ragged {
            None => batch * count.div_ceil(lines),
            // Each sequence may begin a tile of its own.
            Some(sequences) => count.div_ceil(lines) + sequences,
        }
    }

    /// Queries and keys as the walks read them, and whether in pieces.
    fn turned(&self, layout: &Layout) -> [([ArrayAt; 2], bool); 2] {
        let problem = &self.call.problem;
        let prepared = [layout.forward.queries, layout.forward.keys];
        let mut sides = [&problem.query, &problem.key].into_iter().zip(prepared).zip(self.sizes());
        [(); 2].map(|()| {
            let Some(((plain, prepared), [_, heads, time])) = sides.next() else { unreachable!("two sides") };
            let of = |pointer| in_rows(pointer, [heads, time, self.forward.turned_dim()]);
            match prepared.turned {
                0 => ([matrix_at(plain); 2], is_in_pieces(plain)),
                _ => ([of(prepared.turned), of(prepared.far_turned)], true),
            }
        })
    }

    fn turn_params(&self, layout: &Layout, of_keys: usize, plain: &Large, turned: [ArrayAt; 2]) -> TurnParams {
        let [batch, heads, _] = self.sizes()[of_keys];
        TurnParams {
            sequences: self.forward.sequences(),
            prepared: if of_keys == 0 { layout.forward.queries } else { layout.forward.keys },
            plain: matrix_at(plain),
            turned,
            of_queries: i32::from(of_keys == 0),
            batch: batch as i32,
            heads: heads as i32,
            dim: self.shape().head_dim as i32,
            half: self.half() as i32,
            interleaved: i32::from(self.call.problem.rotary.is_some_and(|rotary| rotary.interleaved)),
        }
    }

    /// # Safety
    /// As [`attention_backward`], with the layout of its workspace; so are those below.
    unsafe fn turn_back(&self, device: &dyn Device, layout: &Layout) -> Result<()> {
        for (of_keys, gradient) in [self.gradients.query, self.gradients.key].into_iter().enumerate() {
            let (Some(gradient), sums) = (gradient, layout.sums[of_keys]) else { continue };
            let params = self.turn_params(layout, of_keys, &gradient, sums);
            let blocks = by_rows(self.sizes()[of_keys])?;
            if sums[0].pointer != 0 {
                // SAFETY: the caller's.
                unsafe { device.launch(&turn_back(gradient.dtype), [blocks, 1, 1], 0, params.bytes())? };
            }
        }
        Ok(())
    }

    unsafe fn know(&self, device: &dyn Device, layout: &Layout) -> Result<()> {
        let params = KnownParams {
            problem: self.forward.problem_params(&layout.forward),
            output: matrix_at(&self.call.output),
            output_gradient: matrix_at(&self.call.output_gradient),
            lse: table_at(Some(&self.call.lse)),
            lse_gradient: table_at(self.call.lse_gradient.as_ref()),
            known: layout.known,
            sinks: layout.sinks,
        };
        let blocks = by_rows(self.sizes()[0])?;
        // SAFETY: the caller's.
        unsafe { device.launch(&known(self.call.problem.query.dtype), [blocks, 1, 1], 0, params.bytes()) }
    }

    /// Numbers of the gradients of query_scale and of key_bias, on each side of the border.
    fn numbers(&self) -> [usize; 2] {
        let Shape { batch, query_heads, query_time, key_batch, key_time, .. } = *self.shape();
        [batch * query_heads * query_time, key_batch * query_heads * key_time]
    }

    unsafe fn clear(&self, device: &dyn Device, layout: &Layout) -> Result<()> {
        for (to, numbers) in [layout.query_scale, layout.key_bias].into_iter().zip(self.numbers()) {
            let count = self.sides * numbers;
            let blocks = in_a_row("query", count.div_ceil(SUM_THREADS as usize), "blocks of numbers")?;
            if to != 0 {
                let params = ClearParams { to, count: count as i64 };
                // SAFETY: the caller's.
                unsafe { device.launch(&clear(), [blocks, 1, 1], 0, params.bytes())? };
            }
        }
        Ok(())
    }

    fn walks(&self, layout: &Layout) -> Vec<Walk> {
        let Gradients { query, key, value, query_scale, key_bias, distance_bias, .. } = *self.gradients;
        let grouped = self.shape().group() > 1;
        let plain = |of, gradient| Walk {
            of,
            gradient,
            sums: Default::default(),
            numbers: 0,
            tables: 0,
            stripes: None,
            heads_apart: false,
        };
        let mut walks = Vec::new();
        if query.is_some() || query_scale.is_some() {
            walks.push(Walk { sums: layout.sums[0], numbers: layout.query_scale, ..plain(Of::Query, query) });
        }
        // The bias of a key is that of one query head.
        let of_biases = if grouped { 0 } else { layout.key_bias };
        if key.is_some() || of_biases != 0 {
            walks.push(Walk { sums: layout.sums[1], numbers: of_biases, ..plain(Of::Key, key) });
        }
        if value.is_some() {
            walks.push(plain(Of::Value, value));
        }
        if key_bias.is_some() && grouped {
            walks.push(Walk { numbers: layout.key_bias, heads_apart: true, ..plain(Of::Key, None) });
        }
        if distance_bias.is_some() {
            let stripes = Some(self.stripes());
            walks.push(Walk { tables: layout.tables, stripes, heads_apart: true, ..plain(Of::Query, None) });
        }
        walks
    }

    unsafe fn walk(&self, device: &dyn Device, layout: &Layout, job: &Walk) -> Result<()> {
        let problem = &self.call.problem;
        let Shape { query_heads, key_heads, head_dim, value_dim, .. } = *self.shape();
        let group = if job.heads_apart { 1 } else { self.shape().group() };
        let heads = if job.heads_apart { query_heads } else { key_heads };
        let asked = job.gradient.is_some();
        let dim = if job.of == Of::Value { value_dim } else { head_dim };
        let (dtype, width) = (problem.query.dtype, self.forward.plan.width);
        let parts = if asked { dim.div_ceil(most_sums(dtype, width)) } else { 1 };
        let tiles = self.tiles(job.of, group);
        let stripes = job.stripes.unwrap_or(tiles);
        let [(query, query_in_pieces), (key, key_in_pieces)] = self.turned(layout);
        let above = &self.call.output_gradient;
        let is_turned = job.sums[0].pointer != 0;
        let [of_scale, of_bias] = self.numbers();
        let params = GradientParams {
            problem: self.forward.problem_params(&layout.forward),
            query,
            key,
            output_gradient: matrix_at(above),
            known: layout.known,
            gradient: job.gradient.filter(|_| !is_turned).map_or(ArrayAt::default(), |gradient| matrix_at(&gradient)),
            sums: job.sums,
            numbers: job.numbers,
            numbers_side: if job.of == Of::Query { of_scale } else { of_bias } as i64,
            tables: job.tables,
            tiles: tiles as i32,
            parts: parts as i32,
            stripes: stripes as i32,
            sides: self.sides as i32,
            heads_apart: i32::from(job.heads_apart),
            in_pieces: [query_in_pieces, key_in_pieces, is_in_pieces(&problem.value), is_in_pieces(above)]
                .map(i32::from),
            padding: 0,
        };
        let what = format!("blocks of lines, of {heads} heads");
        let blocks = in_a_row("query", stripes.saturating_mul(heads).saturating_mul(parts), &what)?;
        let sides = if job.of == Of::Value { 1 } else { self.sides as u32 };
        let kernel = walk(dtype, width, job.of, self.forward.has_hooks());
        let shared = shared_bytes(dtype, width, job.of) as u32;
        // SAFETY: the caller's.
        unsafe { device.launch(&kernel, [blocks, sides, 1], shared, params.bytes()) }
    }

    /// What is summed to the shapes of arguments that were broadcast.
    fn sums(&self, layout: &Layout) -> Vec<SumParams> {
        let Shape { batch, query_heads, query_time, key_batch, key_time, .. } = *self.shape();
        let mut sums = Vec::new();
        for (to, from, sizes) in [
            (self.gradients.query_scale, layout.query_scale, [batch, query_heads, query_time]),
            (self.gradients.key_bias, layout.key_bias, [key_batch, query_heads, key_time]),
        ] {
            sums.extend(to.map(|to| repeated(from, [self.sides, sizes[0], sizes[1], sizes[2]], to)));
        }
        if let Some(Tensor { pointer, shape: [heads, columns], strides: [by_head, by_column] }) =
            self.gradients.distance_bias
        {
            // [head][table][column]: the tables of a head, and those of all heads where they share one.
            let to = Tensor { pointer, shape: [heads, 1, columns], strides: [by_head, 0, by_column] };
            sums.push(repeated(layout.tables, [1, query_heads, self.tables_of_head(), columns], to));
        }
        if let Some(Tensor { pointer, shape: [heads], strides: [by_head] }) = self.gradients.sink {
            let to = Tensor { pointer, shape: [1, heads, 1], strides: [0, by_head, 0] };
            sums.push(repeated(layout.sinks, [1, batch, query_heads, query_time], to));
        }
        sums
    }
}

/// The sum of a contiguous array over its first axis, and over each other one of which `to` has a single entry.
fn repeated(from: u64, sizes: [usize; 4], to: Tensor<3>) -> SumParams {
    let sizes = sizes.map(|size| size as i64);
    let strides = [sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3], 1];
    let kept = to.shape.map(|size| size as i64);
    let stays = |axis: usize| kept[axis] == sizes[axis + 1];
    let of_kept = |numbers: [i64; 4]| [0, 1, 2].map(|axis| if stays(axis) { numbers[axis + 1] } else { 0 });
    let gone = [0, 1, 2].map(|axis| if stays(axis) { 1 } else { sizes[axis + 1] });
    SumParams {
        from,
        to: to.pointer,
        kept,
        kept_from: of_kept(strides),
        kept_to: to.strides,
        gone: [sizes[0], gone[0], gone[1], gone[2]],
        gone_from: strides,
    }
}

/// Contiguous rows of `[batch, heads, time, width]`.
fn in_rows(pointer: u64, [heads, time, width]: [usize; 3]) -> ArrayAt {
    let strides = [heads * time * width, time * width, width].map(|stride| stride as i64);
    if pointer == 0 { ArrayAt::default() } else { ArrayAt { pointer, strides } }
}

/// # Safety
/// The arrays are as large as the parameters say.
unsafe fn add_up(device: &dyn Device, params: &SumParams) -> Result<()> {
    let sums = params.kept.iter().product::<i64>() as usize;
    let alone = params.gone.iter().product::<i64>() <= SUM_ALONE;
    let blocks = if alone { sums.div_ceil(SUM_THREADS as usize) } else { sums };
    let kernel = sum();
    // SAFETY: the caller's.
    unsafe { device.launch(&kernel, [in_a_row("query", blocks, "sums")?, 1, 1], kernel.shared_bytes, params.bytes()) }
}

/// Blocks that take a warp for each row.
fn by_rows([batch, heads, time]: [usize; 3]) -> Result<u32> {
    in_a_row("query", (batch * heads * time).div_ceil(ROWS_OF_WARPS as usize), "blocks of rows")
}
