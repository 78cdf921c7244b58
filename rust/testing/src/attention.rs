//! Random attention problems, held as plain arrays and cut into smaller problems, and the suite of their backends.

pub mod judge;
pub mod suite;

use crate::numbers::{narrow, widen};
use crate::oracle::attention as oracle;
use farspan_core::Dtype;
use farspan_core::attention::{Rules, Sequence, Shape, dense_sequences, paged_sequences, ragged_sequences};
use proptest::prelude::*;

/// What runs attention.
pub trait Backend {
    /// Keys that it weighs under one maximum.
    const CHUNK: usize;

    /// Random problems that a test of it takes.
    fn cases(&self) -> u32;

    /// Runs a problem. Calls of another `variation` are made under other circumstances, which must not show in any
    /// result: another number of threads, another order of them, another layout.
    fn run(&self, case: &Case, variation: u64) -> Result32;

    /// Panics when a result is further from the oracle's than this backend's arithmetic explains.
    fn judge(&self, case: &Case, result: &Result32);
}

/// Which hooks a case has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hooks {
    pub query_scale: bool,
    pub key_bias: bool,
    pub hide: bool,
    pub distance_bias: bool,
    pub sink: bool,
    pub positions: bool,
    pub rotary: bool,
    pub interleaved: bool,
    pub far: bool,
}

impl Hooks {
    /// Everything that does not hide keys.
    pub const ALL: Hooks = Hooks {
        query_scale: true,
        key_bias: true,
        hide: false,
        distance_bias: true,
        sink: true,
        positions: false,
        rotary: true,
        interleaved: false,
        far: true,
    };
}

/// A problem whose arrays are exact in `dtype`.
#[derive(Clone, Debug)]
pub struct Case {
    pub oracle: oracle::Problem,
    pub dtype: Dtype,
    /// Keys of a page, where the backend finds its keys by a block table.
    pub page_size: Option<usize>,
}

/// What a call gave, widened.
#[derive(Clone, Debug)]
pub struct Result32 {
    pub output: Vec<f32>,
    pub lse: Vec<f32>,
}

/// The parameters that proptest draws and shrinks.
#[derive(Clone, Debug)]
pub struct Draft {
    seed: u64,
    heads: (usize, usize),
    dims: (usize, usize),
    lengths: Vec<(usize, usize)>,
    ragged: bool,
    rules: (bool, Option<usize>, Option<usize>, usize, Option<f32>),
    hooks: Hooks,
    dtype: Dtype,
    page_size: Option<usize>,
}

pub fn cases() -> impl Strategy<Value = Draft> {
    let hooks = prop::array::uniform9(any::<bool>()).prop_map(|b| Hooks {
        query_scale: b[0],
        key_bias: b[1],
        hide: b[2],
        distance_bias: b[3],
        sink: b[4],
        positions: b[5],
        rotary: b[6],
        interleaved: b[7],
        far: b[8],
    });
    let reach = || prop::option::of(prop_oneof![0usize..8, 0usize..400]);
    let rules = (any::<bool>(), reach(), reach(), 0usize..6, prop::option::of(0.5f32..20.0));
    let length = || prop_oneof![3 => 0usize..5, 2 => 5usize..60, 1 => 200usize..600];
    let dim = || prop_oneof![1usize..40, Just(64), Just(80), Just(128)];
    let dtype = prop_oneof![2 => Just(Dtype::F32), 1 => Just(Dtype::Bf16), 1 => Just(Dtype::F16)];
    let sizes = (1usize..4, 1usize..4, dim(), dim(), prop::collection::vec((length(), length()), 1..4));
    let page_size = prop::option::weighted(0.3, prop_oneof![1usize..20, Just(64), Just(256), Just(300)]);
    let layout = (any::<bool>(), page_size);
    (any::<u64>(), sizes, layout, rules, prop_oneof![Just(Hooks::default()), hooks], dtype).prop_map(
        |(seed, (group, key_heads, dim, value_dim, lengths), (ragged, page_size), rules, hooks, dtype)| Draft {
            seed,
            heads: (group * key_heads, key_heads),
            dims: (dim, value_dim),
            lengths,
            ragged,
            rules,
            hooks,
            dtype,
            page_size,
        },
    )
}

impl Draft {
    /// The same with all keys side by side.
    pub fn without_pages(&self) -> Draft {
        Draft { page_size: None, ..self.clone() }
    }

    pub fn build(&self) -> Case {
        let (query_heads, key_heads) = self.heads;
        let (head_dim, value_dim) = self.dims;
        let sizes = |batch, query_time, key_time| Shape {
            batch,
            query_heads,
            key_heads,
            query_time,
            key_batch: batch,
            key_time,
            head_dim,
            value_dim,
        };
        let key_time = self.lengths.iter().map(|l| l.1).max().unwrap();
        let whole_pages = key_time.next_multiple_of(self.page_size.unwrap_or(1));
        let lengths: Vec<i64> = self.lengths.iter().map(|l| l.1 as i64).collect();
        let (shape, sequences) = if self.ragged {
            let offsets = |part: fn(&(usize, usize)) -> usize| {
                let mut sum = 0;
                let ends = self.lengths.iter().map(|lengths| {
                    sum += part(lengths) as i64;
                    sum
                });
                std::iter::once(0).chain(ends.collect::<Vec<_>>()).collect::<Vec<i64>>()
            };
            let (queries, keys) = (offsets(|l| l.0), offsets(|l| l.1));
            if self.page_size.is_some() {
                let shape = sizes(1, *queries.last().unwrap() as usize, whole_pages);
                let shape = Shape { key_batch: self.lengths.len(), ..shape };
                (shape, paged_sequences(&shape, &queries, Some(&lengths)).unwrap())
            } else {
                let shape = sizes(1, *queries.last().unwrap() as usize, *keys.last().unwrap() as usize);
                (shape, ragged_sequences(&shape, &queries, &keys, None).unwrap())
            }
        } else {
            let shape = sizes(self.lengths.len(), self.lengths[0].0, whole_pages);
            (shape, dense_sequences(&shape, Some(&lengths)).unwrap())
        };
        let (causal, left, right, keep_first, softcap) = self.rules;
        let rules = Rules { causal, window: (left, right), keep_first, softcap, ..Rules::plain(head_dim) };
        Case { page_size: self.page_size, ..of_seed(self.seed, shape, sequences, rules, self.hooks, self.dtype) }
    }
}

/// Numbers from a seed: a linear congruence, close enough to normal by summing four.
struct Numbers(u64);

impl Numbers {
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.unit() * bound as f32) as usize % bound
    }

    fn normal(&mut self) -> f32 {
        ((0..4).map(|_| self.unit()).sum::<f32>() - 2.0) * 1.7
    }

    fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }
}

pub fn of_seed(seed: u64, shape: Shape, sequences: Vec<Sequence>, rules: Rules, hooks: Hooks, dtype: Dtype) -> Case {
    let Shape { batch, query_heads, key_heads, query_time, key_batch, key_time, head_dim, value_dim } = shape;
    let mut numbers = Numbers(seed);
    let n = &mut numbers;
    let mut exact = |count| -> Vec<f32> { widen(&narrow(&n.normals(count), dtype)) };
    let query = exact(batch * query_heads * query_time * head_dim);
    let key = exact(key_batch * key_heads * key_time * head_dim);
    let value = exact(key_batch * key_heads * key_time * value_dim);
    let walk = |n: &mut Numbers, batch: usize, time: usize| -> Vec<f64> {
        (0..batch)
            .flat_map(|_| {
                let mut at = n.below(50) as f64;
                (0..time)
                    .map(|_| {
                        at += n.below(4) as f64 * 0.5;
                        at
                    })
                    .collect::<Vec<_>>()
            })
            .collect()
    };
    let half = head_dim / 2;
    let rotary = (hooks.rotary && half > 0).then(|| {
        let used = 1 + n.below(half);
        oracle::Rotary {
            inv_freq: sequences.iter().map(|_| (0..used).map(|_| n.unit()).collect()).collect(),
            magnitude: 0.8 + n.unit(),
            interleaved: hooks.interleaved,
            far: hooks.far.then(|| (n.below(40) as f64, walk(n, batch, query_time), walk(n, key_batch, key_time))),
        }
    });
    let key_bias = hooks.key_bias.then(|| {
        let hidden = if hooks.hide { 0.3 } else { 0.0 };
        (0..key_batch * query_heads * key_time)
            .map(|_| if n.unit() < hidden { f32::NEG_INFINITY } else { n.normal() })
            .collect()
    });
    let columns = 1 + n.below(30);
    let oracle = oracle::Problem {
        query_scale: hooks.query_scale.then(|| n.normals(batch * query_heads * query_time)),
        key_bias,
        distance_bias: hooks
            .distance_bias
            .then(|| ((0..query_heads).map(|_| n.normals(columns)).collect(), n.below(20) as i64 - 10)),
        sink: hooks.sink.then(|| n.normals(query_heads)),
        query_positions: hooks.positions.then(|| walk(n, batch, query_time)),
        key_positions: hooks.positions.then(|| walk(n, key_batch, key_time)),
        rotary,
        shape,
        sequences,
        rules,
        query,
        key,
        value,
    };
    Case { oracle, dtype, page_size: None }
}

impl Case {
    /// One sequence as a dense batch of one, its keys side by side.
    pub fn only(&self, index: usize) -> Case {
        let o = &self.oracle;
        let s = o.sequences[index];
        let shape = Shape { batch: 1, query_time: s.queries, key_batch: 1, key_time: s.keys, ..o.shape };
        let queries =
            |x: &[f32], heads, size| cut(x, heads, o.shape.query_time, size, s.batch, s.query_start, s.queries);
        let keys = |x: &[f32], heads, size| cut(x, heads, o.shape.key_time, size, s.key_batch, s.key_start, s.keys);
        let query_times = |x: &Vec<f64>| cut(x, 1, o.shape.query_time, 1, s.batch, s.query_start, s.queries);
        let key_times = |x: &Vec<f64>| cut(x, 1, o.shape.key_time, 1, s.key_batch, s.key_start, s.keys);
        let oracle = oracle::Problem {
            sequences: dense_sequences(&shape, None).unwrap(),
            query: queries(&o.query, shape.query_heads, shape.head_dim),
            key: keys(&o.key, shape.key_heads, shape.head_dim),
            value: keys(&o.value, shape.key_heads, shape.value_dim),
            query_scale: o.query_scale.as_ref().map(|x| queries(x, shape.query_heads, 1)),
            key_bias: o.key_bias.as_ref().map(|x| keys(x, shape.query_heads, 1)),
            query_positions: o.query_positions.as_ref().map(query_times),
            key_positions: o.key_positions.as_ref().map(key_times),
            rotary: o.rotary.clone().map(|rotary| oracle::Rotary {
                inv_freq: vec![rotary.inv_freq[index].clone()],
                far: rotary.far.map(|(border, q, k)| (border, query_times(&q), key_times(&k))),
                ..rotary
            }),
            shape,
            ..o.clone()
        };
        Case { oracle, dtype: self.dtype, page_size: None }
    }

    /// The call that asks query `query` of a dense batch of one: only the keys up to it where the case is causal.
    pub fn step(&self, query: usize) -> Case {
        let mut alone = self.clone();
        let o = &mut alone.oracle;
        let s = o.sequences[0];
        let order = s.query_order(query);
        // Orders align at the ends, so a step must see the same order: as many keys as the query's order and itself.
        let keys = if o.rules.causal { usize::try_from(order + 1).unwrap_or(0) } else { s.keys };
        if !o.rules.causal && query + 1 != s.queries {
            // Without causality the keys behind the query stay, and so must the queries behind it.
            o.sequences = vec![Sequence { query_start: query, queries: s.queries - query, ..s }];
        } else {
            o.sequences = vec![Sequence { query_start: query, queries: 1, keys, ..s }];
        }
        let mut case = alone.only(0);
        case.oracle.rules.causal = self.oracle.rules.causal;
        case
    }

    /// Fills key and value `at` of every head with `garbage`.
    pub fn spoil_key(&mut self, at: usize, garbage: f32) {
        let Shape { key_time, head_dim, .. } = self.oracle.shape;
        for row in self.oracle.key.chunks_mut(key_time * head_dim) {
            row[at * head_dim..(at + 1) * head_dim].fill(garbage);
        }
        self.spoil_value(at, garbage);
    }

    /// Fills value `at` of every head with `garbage`.
    pub fn spoil_value(&mut self, at: usize, garbage: f32) {
        let Shape { key_time, value_dim, .. } = self.oracle.shape;
        for row in self.oracle.value.chunks_mut(key_time * value_dim) {
            row[at * value_dim..(at + 1) * value_dim].fill(garbage);
        }
    }

    /// Sets the bias of key `at` for every head.
    pub fn bias_key(&mut self, at: usize, bias: f32) {
        let key_time = self.oracle.shape.key_time;
        self.oracle.key_bias.as_mut().unwrap().chunks_mut(key_time).for_each(|row| row[at] = bias);
    }
}

/// Keys and values cut into pages that lie in another order, among pages of nobody, and the table that finds them.
pub struct Pages {
    pub size: usize,
    pub count: usize,
    pub key: Vec<f32>,
    pub value: Vec<f32>,
    /// `[sequences, blocks]`; blocks behind a sequence's last key are no page.
    pub table: Vec<i64>,
}

impl Pages {
    /// Of a problem whose key time is a multiple of the size.
    pub fn new(o: &oracle::Problem, size: usize) -> Pages {
        let Shape { key_heads, key_batch, key_time, head_dim, value_dim, .. } = o.shape;
        let blocks = key_time / size;
        let count = 2 * key_batch * blocks + 1;
        // Odd pages, backwards; what nobody may look at is NaN.
        let page = |sequence: usize, block: usize| count - 2 - 2 * (sequence * blocks + block);
        let scatter = |x: &[f32], dim: usize| {
            let mut pages = vec![f32::NAN; count * key_heads * size * dim];
            for s in &o.sequences {
                for (head, key) in (0..key_heads).flat_map(|head| (0..s.keys).map(move |key| (head, key))) {
                    let from = ((s.key_batch * key_heads + head) * key_time + key) * dim;
                    let to = ((page(s.key_batch, key / size) * key_heads + head) * size + key % size) * dim;
                    pages[to..to + dim].copy_from_slice(&x[from..from + dim]);
                }
            }
            pages
        };
        let mut table = vec![i64::MIN; key_batch * blocks];
        for s in &o.sequences {
            for block in 0..s.keys.div_ceil(size) {
                table[s.key_batch * blocks + block] = page(s.key_batch, block) as i64;
            }
        }
        Pages { size, count, key: scatter(&o.key, head_dim), value: scatter(&o.value, value_dim), table }
    }
}

/// Times `start .. start + count` of batch entry `batch` of `[batch, heads, time, size]`.
pub(crate) fn cut<T: Copy>(
    x: &[T],
    heads: usize,
    time: usize,
    size: usize,
    batch: usize,
    start: usize,
    count: usize,
) -> Vec<T> {
    (0..heads)
        .flat_map(|head| {
            let from = ((batch * heads + head) * time + start) * size;
            x[from..from + count * size].to_vec()
        })
        .collect()
}

impl Result32 {
    /// What one sequence of a case got, laid out as [`Case::only`] lays it out.
    pub fn sequence(&self, case: &Case, index: usize) -> Result32 {
        let Shape { query_heads, query_time, value_dim, .. } = case.oracle.shape;
        let s = case.oracle.sequences[index];
        let of = |x: &[f32], size| cut(x, query_heads, query_time, size, s.batch, s.query_start, s.queries);
        Result32 { output: of(&self.output, value_dim), lse: of(&self.lse, 1) }
    }

    /// What one query got; `self` is of one sequence.
    pub fn query(&self, case: &Case, query: usize) -> Result32 {
        let Shape { query_heads, value_dim, .. } = case.oracle.shape;
        let time = self.lse.len() / query_heads;
        let of = |x: &[f32], size| cut(x, query_heads, time, size, 0, query, 1);
        Result32 { output: of(&self.output, value_dim), lse: of(&self.lse, 1) }
    }
}

pub fn assert_bits(expected: &Result32, given: &Result32, what: &str) {
    for (name, a, b) in [("output", &expected.output, &given.output), ("lse", &expected.lse, &given.lse)] {
        assert_eq!(a.len(), b.len(), "{what}: {name}");
        for (i, (x, y)) in a.iter().zip(b).enumerate() {
            assert!(x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan(), "{what}: {name} {i}: {x:?} and {y:?}");
        }
    }
}
