//! Runs attention cases on the emulator: inputs laid out in memory as a call may find them, surrounded by poison.

use farspan_core::attention::Shape;
use farspan_core::{Dtype, Result};
use farspan_cuda::attention::{
    Attention, DistanceBias, Far, Large, NumberType, Numbers, Offsets, Rotary, Sequences, attention, workspace_bytes,
};
use farspan_cuda::emulator::Emulator;
use farspan_cuda::{Device, Limits, Tensor, Workspace};
use farspan_cuda_emulator::forbid;
use farspan_testing::attention::{Backend, Case, Pages, Result32, judge};
use half::{bf16, f16};

/// How a call differs from the plainest one that asks the same.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Order of the emulator's threads.
    pub seed: u64,
    /// Of the device: more of them share out chunks.
    pub multiprocessors: u32,
    /// Of the device.
    pub shared_bytes: u32,
    /// How arrays lie in memory.
    pub layout: Layout,
    /// Integers are int32, positions float32.
    pub short: bool,
    /// Bytes of workspace that the call needs and does not get.
    pub missing_workspace: usize,
}

/// How query, key, value and output lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[batch, heads, time, dim]`
    Contiguous,
    /// `[batch, time, heads, dim]` with eight more numbers behind each row.
    TimeFirst,
    /// As contiguous, from an address that is aligned to an element only.
    Unaligned,
    /// Inputs are expanded: all entries of the batch are the first one. The output is contiguous.
    Expanded,
}

impl Default for Setting {
    fn default() -> Self {
        Setting {
            seed: 1,
            multiprocessors: 1,
            shared_bytes: 99 << 10,
            layout: Layout::Contiguous,
            short: false,
            missing_workspace: 0,
        }
    }
}

impl Setting {
    /// One of many that ask the same; 0 is the plainest, 1 shares out chunks among many multiprocessors.
    pub fn varied(variation: u64) -> Setting {
        let pick = |place: u64, count: usize| (variation / place) as usize % count;
        Setting {
            seed: variation,
            multiprocessors: [1, 64, 4][pick(1, 3)],
            shared_bytes: [99, 227][pick(3, 2)] << 10,
            layout: [Layout::Contiguous, Layout::TimeFirst, Layout::Unaligned][pick(6, 3)],
            short: pick(18, 2) == 1,
            ..Setting::default()
        }
    }
}

/// The kernels on the emulator, as a backend of the suite.
pub struct Emulated;

impl Backend for Emulated {
    const CHUNK: usize = 64;

    fn cases(&self) -> u32 {
        64
    }

    fn run(&self, case: &Case, variation: u64) -> Result32 {
        run(case, Setting::varied(variation))
    }

    fn judge(&self, case: &Case, result: &Result32) {
        judge::tensor_cores(case, result);
    }
}

/// Memory aligned to sixteen bytes, of ones in every bit where nothing was put: NaN in every element type.
struct Memory(Vec<u128>);

/// Bytes before and behind what is put into a [`Memory`].
const MARGIN: usize = 64;

impl Memory {
    fn new(bytes: usize) -> Self {
        let memory = Memory(vec![u128::MAX; bytes.div_ceil(16) + 2 * MARGIN / 16]);
        forbid(memory.pointer() - MARGIN as u64, MARGIN);
        forbid(memory.pointer() + bytes as u64, memory.0.len() * 16 - MARGIN - bytes);
        memory
    }

    fn of<T: Copy>(data: &[T]) -> Self {
        let mut memory = Memory::new(size_of_val(data));
        for (i, x) in data.iter().enumerate() {
            memory.set(i * size_of::<T>(), *x);
        }
        memory
    }

    fn pointer(&self) -> u64 {
        self.0.as_ptr() as u64 + MARGIN as u64
    }

    fn at<T>(&self, byte: usize) -> *const T {
        assert!(byte + size_of::<T>() <= self.0.len() * 16 - MARGIN);
        (self.pointer() as usize + byte) as *const T
    }

    fn set<T>(&mut self, byte: usize, x: T) {
        // SAFETY: inside the memory, which is borrowed mutably; of plain numbers.
        unsafe { self.at::<T>(byte).cast_mut().write_unaligned(x) }
    }

    fn get<T: Copy>(&self, byte: usize) -> T {
        // SAFETY: inside the memory, which is initialised; of plain numbers.
        unsafe { self.at::<T>(byte).read_unaligned() }
    }

    /// Whether a byte still has all its bits.
    fn is_untouched(&self, byte: isize) -> bool {
        let at = (MARGIN as isize + byte) as usize;
        self.0[at / 16].to_ne_bytes()[at % 16] == 0xff
    }
}

/// A matrix in memory.
pub struct Placed {
    memory: Memory,
    tensor: Tensor<4>,
    dtype: Dtype,
    /// Byte of the first element.
    start: usize,
}

impl Placed {
    pub fn new(shape: [usize; 4], dtype: Dtype, layout: Layout) -> Self {
        let [batch, heads, time, dim] = shape.map(|n| n as i64);
        let (strides, start) = match layout {
            Layout::Contiguous => ([heads * time * dim, time * dim, dim, 1], 0),
            Layout::TimeFirst => ([time * heads * (dim + 8), dim + 8, heads * (dim + 8), 1], 0),
            Layout::Unaligned => ([heads * time * dim, time * dim, dim, 1], dtype.size()),
            Layout::Expanded => ([0, time * dim, dim, 1], 0),
        };
        let entries = if layout == Layout::Expanded { heads * time * dim } else { batch * strides[0] };
        let memory = Memory::new(start + entries as usize * dtype.size());
        let tensor = Tensor { pointer: memory.pointer() + start as u64, shape, strides };
        Placed { memory, tensor, dtype, start }
    }

    pub fn of(data: &[f32], shape: [usize; 4], dtype: Dtype, layout: Layout) -> Self {
        let mut placed = Placed::new(shape, dtype, layout);
        for (i, x) in data.iter().enumerate() {
            let byte = placed.byte(i);
            match dtype {
                Dtype::F32 => placed.memory.set(byte, *x),
                Dtype::Bf16 => placed.memory.set(byte, bf16::from_f32(*x).to_bits()),
                Dtype::F16 => placed.memory.set(byte, f16::from_f32(*x).to_bits()),
            }
        }
        placed
    }

    /// Byte of element `i` in row-major order.
    fn byte(&self, mut i: usize) -> usize {
        let mut element = 0;
        for axis in (0..4).rev() {
            element += (i % self.tensor.shape[axis]) * self.tensor.strides[axis] as usize;
            i /= self.tensor.shape[axis];
        }
        self.start + element * self.dtype.size()
    }

    pub fn matrix(&self) -> Large {
        Large { dtype: self.dtype, tensor: self.tensor }
    }

    /// Of one entry along the first axis, the others.
    pub fn rows(&self) -> Tensor<3> {
        let Tensor { pointer, shape: [_, batch, heads, time], strides: [_, by_batch, by_head, by_time] } = self.tensor;
        Tensor { pointer, shape: [batch, heads, time], strides: [by_batch, by_head, by_time] }
    }

    /// The numbers in row-major order; whatever else there is must be untouched.
    pub fn read(&self) -> Vec<f32> {
        let mut owned = vec![false; self.memory.0.len() * 16 - 2 * MARGIN];
        let numbers = (0..self.tensor.elements()).map(|i| {
            let byte = self.byte(i);
            owned[byte..byte + self.dtype.size()].fill(true);
            match self.dtype {
                Dtype::F32 => self.memory.get(byte),
                Dtype::Bf16 => bf16::from_bits(self.memory.get(byte)).to_f32(),
                Dtype::F16 => f16::from_bits(self.memory.get(byte)).to_f32(),
            }
        });
        let numbers = numbers.collect();
        let outside = (0..MARGIN as isize).flat_map(|i| [-1 - i, owned.len() as isize + i]);
        let gaps = owned.iter().enumerate().filter(|(_, owned)| !**owned).map(|(byte, _)| byte as isize);
        for byte in outside.chain(gaps) {
            assert!(self.memory.is_untouched(byte), "byte {byte} of the output is not the output's");
        }
        numbers
    }
}

fn table<const N: usize>(memory: &Memory, shape: [usize; N]) -> Tensor<N> {
    Tensor::contiguous(memory.pointer(), shape)
}

/// The same of an axis of sequences, or of a batch, whose entries may all be the first one.
fn shared_table<const N: usize>(memory: &Memory, shape: [usize; N], layout: Layout) -> Tensor<N> {
    let mut tensor = table(memory, shape);
    if layout == Layout::Expanded {
        tensor.strides[0] = 0;
    }
    tensor
}

/// Runs a case.
pub fn run(case: &Case, setting: Setting) -> Result32 {
    try_run(case, setting).unwrap_or_else(|error| panic!("{error} in {case:?} {setting:?}"))
}

/// Has `call` called with the emulator and a case laid out as a setting says.
pub fn with_problem<R>(
    case: &Case,
    setting: Setting,
    call: impl FnOnce(&Emulator, &Attention) -> Result<R>,
) -> Result<R> {
    let o = &case.oracle;
    let Shape { batch, query_heads, key_heads, query_time, key_batch, key_time, head_dim, value_dim } = o.shape;
    let Setting { layout, seed, multiprocessors, shared_bytes, .. } = setting;
    let limits = Limits { multiprocessors, shared_bytes_per_block: shared_bytes, architecture: 80 };
    let device = Emulator::open(&farspan_cuda_emulator::library())?.with_seed(seed).with_limits(limits);
    let place = |data: &[f32], shape| Placed::of(data, shape, case.dtype, layout);
    let query = place(&o.query, [batch, query_heads, query_time, head_dim]);
    let pages = case.page_size.map(|size| Pages::new(o, size));
    let (keys, values) = pages.as_ref().map_or((&o.key, &o.value), |pages| (&pages.key, &pages.value));
    let [first, time] = pages.as_ref().map_or([key_batch, key_time], |pages| [pages.count, pages.size]);
    let key = place(keys, [first, key_heads, time, head_dim]);
    let value = place(values, [first, key_heads, time, value_dim]);

    let signed = |x: &[i64]| match setting.short {
        true => Memory::of(&x.iter().map(|x| *x as i32).collect::<Vec<_>>()),
        false => Memory::of(x),
    };
    let integers = |x: &[usize]| signed(&x.iter().map(|x| *x as i64).collect::<Vec<_>>());
    let kind = if setting.short { NumberType::I32 } else { NumberType::I64 };
    let dense =
        o.sequences.len() == batch && o.sequences.iter().enumerate().all(|(b, s)| s.batch == b && s.key_start == 0);
    let block_table = pages.as_ref().map(|pages| (signed(&pages.table), [key_batch, key_time / pages.size]));
    let lengths: Vec<usize> = o.sequences.iter().map(|s| s.keys).collect();
    let starts = |start: fn(&farspan_core::attention::Sequence) -> usize, end: usize| {
        o.sequences.iter().map(start).chain([end]).collect::<Vec<_>>()
    };
    let lengths = integers(&lengths);
    let query_offsets = integers(&starts(|s| s.query_start, query_time));
    let key_offsets = integers(&starts(|s| s.key_start, key_time));
    let numbers = |memory: &Memory, count| Numbers { kind, tensor: table(memory, [count]) };
    let count = o.sequences.len();

    let floats = |x: &Option<Vec<f32>>| x.as_ref().map(|x| Memory::of(x));
    let (query_scale, key_bias, sink) = (floats(&o.query_scale), floats(&o.key_bias), floats(&o.sink));
    let by_distance =
        o.distance_bias.as_ref().map(|(rows, minimum)| (Memory::of(&rows.concat()), rows[0].len(), *minimum));
    // Positions of half units are exact in float32 too.
    let positions = |x: &[f64]| match setting.short {
        true => Memory::of(&x.iter().map(|x| *x as f32).collect::<Vec<_>>()),
        false => Memory::of(x),
    };
    let position_kind = if setting.short { NumberType::F32 } else { NumberType::F64 };
    let times = |memory: &Memory, shape| Numbers { kind: position_kind, tensor: shared_table(memory, shape, layout) };
    let query_positions = o.query_positions.as_ref().map(|x| positions(x));
    let key_positions = o.key_positions.as_ref().map(|x| positions(x));
    let rotary = o.rotary.as_ref().map(|rotary| {
        let far = rotary.far.as_ref().map(|(border, q, k)| (*border, positions(q), positions(k)));
        (rotary, Memory::of(&rotary.inv_freq.concat()), rotary.inv_freq[0].len(), far)
    });

    let problem = Attention {
        query: query.matrix(),
        key: key.matrix(),
        value: value.matrix(),
        block_table: block_table.as_ref().map(|(x, shape)| Numbers { kind, tensor: table(x, *shape) }),
        sequences: Sequences {
            offsets: (!dense).then(|| Offsets {
                query: numbers(&query_offsets, count + 1),
                key: block_table.is_none().then(|| numbers(&key_offsets, count + 1)),
            }),
            key_lengths: (dense || block_table.is_some()).then(|| numbers(&lengths, count)),
        },
        rules: o.rules,
        query_scale: query_scale.as_ref().map(|x| shared_table(x, [batch, query_heads, query_time], layout)),
        key_bias: key_bias.as_ref().map(|x| shared_table(x, [key_batch, query_heads, key_time], layout)),
        distance_bias: by_distance
            .as_ref()
            .map(|(x, columns, minimum)| DistanceBias { table: table(x, [query_heads, *columns]), minimum: *minimum }),
        sink: sink.as_ref().map(|x| table(x, [query_heads])),
        query_positions: query_positions.as_ref().map(|x| times(x, [batch, query_time])),
        key_positions: key_positions.as_ref().map(|x| times(x, [key_batch, key_time])),
        rotary: rotary.as_ref().map(|(rotary, inv_freq, half, far)| Rotary {
            inv_freq: shared_table(inv_freq, [count, *half], layout),
            magnitude: rotary.magnitude,
            interleaved: rotary.interleaved,
            far: far.as_ref().map(|(border, q, k)| Far {
                border: *border,
                query_positions: times(q, [batch, query_time]),
                key_positions: times(k, [key_batch, key_time]),
            }),
        }),
    };
    call(&device, &problem)
}

/// How results lie where inputs lie like this.
pub fn layout_of_results(layout: Layout) -> Layout {
    if layout == Layout::Expanded { Layout::Contiguous } else { layout }
}

/// Has `call` called with a workspace, beside which it must touch nothing.
pub fn with_workspace(bytes: usize, call: impl FnOnce(Workspace) -> Result<()>) -> Result<()> {
    let workspace = Memory::new(bytes);
    call(Workspace { pointer: workspace.pointer(), bytes })?;
    for byte in (0..MARGIN as isize).flat_map(|i| [-1 - i, bytes as isize + i]) {
        assert!(workspace.is_untouched(byte), "byte {byte} of the workspace is not the workspace's");
    }
    Ok(())
}

/// Runs a case, or tells why not.
pub fn try_run(case: &Case, setting: Setting) -> Result<Result32> {
    let Shape { batch, query_heads, query_time, value_dim, .. } = case.oracle.shape;
    with_problem(case, setting, |device, problem| {
        let of_results = layout_of_results(setting.layout);
        let output = Placed::new([batch, query_heads, query_time, value_dim], case.dtype, of_results);
        let lse = Placed::new([1, batch, query_heads, query_time], Dtype::F32, of_results);
        let bytes = workspace_bytes(problem, &device.limits())? - setting.missing_workspace;
        with_workspace(bytes, |workspace| {
            // SAFETY: every tensor lies in memory that lives to the end of this function.
            unsafe { attention(device, problem, output.matrix(), Some(lse.rows()), workspace) }
        })?;
        Ok(Result32 { output: output.read(), lse: lse.read() })
    })
}
