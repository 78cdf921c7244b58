//! What an attention problem is: its shapes, its sequences and who sees whom, each checked once and for every backend.
//!
//! Sequences are described inside arrays `[batch, heads, time, dim]`. A ragged batch `[total, heads, dim]` is the same
//! thing with a batch of one whose time axis holds the sequences one behind the other, so nothing below tells them
//! apart.

pub mod plan;
pub mod problem;

pub use plan::KEY_CHUNK;

use crate::error::{Error, Result};

/// Largest head dimension of queries, keys and values.
pub const MAX_HEAD_DIM: usize = 256;

/// Sizes of `query [batch, query_heads, query_time, head_dim]`, `key [batch, key_heads, key_time, head_dim]` and
/// `value [batch, key_heads, key_time, value_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Entries of the first axis of all arrays.
    pub batch: usize,
    /// Heads of query and output.
    pub query_heads: usize,
    /// Heads of key and value.
    pub key_heads: usize,
    /// Length of the time axis of query and output.
    pub query_time: usize,
    /// Entries of the first axis of what is said of keys, one by one: `batch`, or the sequences of a block table.
    pub key_batch: usize,
    /// Length of the time axis of key and value: of the pages that a row of a block table names, all together.
    pub key_time: usize,
    /// Last axis of query and key.
    pub head_dim: usize,
    /// Last axis of value and output.
    pub value_dim: usize,
}

impl Shape {
    /// Checks that the arrays fit together: query, key and value, and a block table `[sequences, blocks]` where keys
    /// and values lie in pages.
    pub fn of(query: [usize; 4], key: [usize; 4], value: [usize; 4], table: Option<[usize; 2]>) -> Result<Self> {
        match table {
            Some(table) => Shape::paged(query, key, value, table),
            None => Shape::new(query, key, value),
        }
    }

    /// Checks that the three arrays fit together.
    pub fn new(query: [usize; 4], key: [usize; 4], value: [usize; 4]) -> Result<Self> {
        let shape = Shape::heads(query, key, value)?;
        let Shape { batch, key_heads, key_time, head_dim, .. } = shape;
        check_shape("key", &[batch, key_heads, key_time, head_dim], &key)?;
        shape.check_value([batch, key_heads, key_time], value)?;
        Ok(shape)
    }

    /// The same where keys and values lie in pages: `key [pages, key_heads, page_size, head_dim]`, and a block table
    /// `[sequences, blocks]`.
    pub fn paged(query: [usize; 4], key: [usize; 4], value: [usize; 4], table: [usize; 2]) -> Result<Self> {
        let shape = Shape::heads(query, key, value)?;
        let Shape { key_heads, head_dim, .. } = shape;
        let ([pages, _, page_size, _], [sequences, blocks]) = (key, table);
        check_shape("key", &[pages, key_heads, page_size, head_dim], &key)?;
        shape.check_value([pages, key_heads, page_size], value)?;
        if pages == 0 && sequences > 0 && blocks > 0 {
            return Err(Error::argument("key", "pages, as block_table names some", "none"));
        }
        let key_time = blocks.checked_mul(page_size).filter(|keys| isize::try_from(*keys).is_ok());
        let key_time = key_time.ok_or_else(|| Error::argument("block_table", "keys that can be counted", blocks))?;
        Ok(Shape { key_batch: sequences, key_time, ..shape })
    }

    /// What does not depend on where the keys lie.
    fn heads(query: [usize; 4], key: [usize; 4], value: [usize; 4]) -> Result<Self> {
        let [batch, query_heads, query_time, head_dim] = query;
        let [_, key_heads, key_time, _] = key;
        let value_dim = value[3];
        if !(1..=MAX_HEAD_DIM).contains(&head_dim) {
            return Err(Error::argument("query", format!("a last dimension from 1 to {MAX_HEAD_DIM}"), head_dim));
        }
        if key_heads == 0 || query_heads == 0 || !query_heads.is_multiple_of(key_heads) {
            let expected = format!("heads that divide query's {query_heads}");
            return Err(Error::argument("key", expected, format!("{key_heads} heads")));
        }
        Ok(Shape { batch, query_heads, key_heads, query_time, key_batch: batch, key_time, head_dim, value_dim })
    }

    /// Refuses values that do not lie as the keys do.
    fn check_value(&self, [first, heads, time]: [usize; 3], value: [usize; 4]) -> Result<()> {
        if !(1..=MAX_HEAD_DIM).contains(&self.value_dim) {
            return Err(Error::argument("value", format!("a last dimension from 1 to {MAX_HEAD_DIM}"), self.value_dim));
        }
        check_shape("value", &[first, heads, time, self.value_dim], &value)
    }

    /// Query heads that share one key head.
    pub fn group(&self) -> usize {
        self.query_heads / self.key_heads
    }
}

/// Refuses an array whose shape is not the expected one.
pub fn check_shape(argument: &'static str, expected: &[usize], given: &[usize]) -> Result<()> {
    if expected == given {
        return Ok(());
    }
    Err(Error::argument(argument, format!("shape {expected:?}"), format!("shape {given:?}")))
}

/// One sequence: which queries meet which keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Index on the first axis of queries.
    pub batch: usize,
    /// First query on the time axis.
    pub query_start: usize,
    /// Number of queries.
    pub queries: usize,
    /// Index on the first axis of what is said of keys: the row of a block table.
    pub key_batch: usize,
    /// First key on the time axis.
    pub key_start: usize,
    /// Number of keys that exist.
    pub keys: usize,
}

impl Sequence {
    /// The order of query `i`: the ends of queries and keys align, so with more queries than keys it starts below zero.
    pub fn query_order(&self, i: usize) -> i64 {
        i as i64 + self.keys as i64 - self.queries as i64
    }
}

/// The sequences of a dense batch; `key_lengths` says how many keys of each exist.
pub fn dense_sequences(shape: &Shape, key_lengths: Option<&[i64]>) -> Result<Vec<Sequence>> {
    let whole = vec![shape.key_time; shape.batch];
    let keys = existing_keys(&whole, key_lengths)?;
    let (query_start, queries, key_start) = (0, shape.query_time, 0);
    let sequence = |(batch, keys)| Sequence { batch, query_start, queries, key_batch: batch, key_start, keys };
    Ok(keys.into_iter().enumerate().map(sequence).collect())
}

/// The sequences of a ragged batch (`shape.batch` is 1): sequence s has queries `query_offsets[s]..query_offsets[s +
/// 1]` and keys `key_offsets[s]..key_offsets[s + 1]`, of which the first `key_lengths[s]` exist.
pub fn ragged_sequences(
    shape: &Shape,
    query_offsets: &[i64],
    key_offsets: &[i64],
    key_lengths: Option<&[i64]>,
) -> Result<Vec<Sequence>> {
    let queries = ragged_queries(shape, query_offsets)?;
    let keys = segments("key_offsets", key_offsets, shape.key_time)?;
    if queries.len() != keys.len() {
        let expected = format!("{} numbers, as query_offsets has", query_offsets.len());
        return Err(Error::argument("key_offsets", expected, key_offsets.len()));
    }
    let existing = existing_keys(&keys.iter().map(|k| k.1).collect::<Vec<_>>(), key_lengths)?;
    let joined = queries.into_iter().zip(keys).zip(existing);
    Ok(joined
        .map(|(((query_start, queries), (key_start, _)), keys)| Sequence {
            batch: 0,
            query_start,
            queries,
            key_batch: 0,
            key_start,
            keys,
        })
        .collect())
}

/// The sequences of ragged queries whose keys are found by a block table: sequence s has queries
/// `query_offsets[s]..query_offsets[s + 1]` and the first `key_lengths[s]` keys of row s of the table.
pub fn paged_sequences(shape: &Shape, query_offsets: &[i64], key_lengths: Option<&[i64]>) -> Result<Vec<Sequence>> {
    let queries = ragged_queries(shape, query_offsets)?;
    let keys = existing_keys(&vec![shape.key_time; queries.len()], key_lengths)?;
    let joined = queries.into_iter().zip(keys).enumerate();
    Ok(joined
        .map(|(key_batch, ((query_start, queries), keys))| Sequence {
            batch: 0,
            query_start,
            queries,
            key_batch,
            key_start: 0,
            keys,
        })
        .collect())
}

fn ragged_queries(shape: &Shape, offsets: &[i64]) -> Result<Vec<(usize, usize)>> {
    if shape.batch != 1 {
        return Err(Error::argument("query", "a ragged batch [total, heads, dim]", format!("batch {}", shape.batch)));
    }
    segments("query_offsets", offsets, shape.query_time)
}

/// Offsets `[0, ..., total]` as (start, length) pairs.
fn segments(argument: &'static str, offsets: &[i64], total: usize) -> Result<Vec<(usize, usize)>> {
    let rises = offsets.windows(2).all(|w| w[0] <= w[1]);
    let spans = offsets.first() == Some(&0) && offsets.last().is_some_and(|&end| usize::try_from(end) == Ok(total));
    if !rises || !spans {
        let expected = format!("numbers that rise from 0 to {total}, the length of the time axis");
        return Err(Error::argument(argument, expected, format!("{offsets:?}")));
    }
    Ok(offsets.windows(2).map(|w| (w[0] as usize, (w[1] - w[0]) as usize)).collect())
}

fn existing_keys(whole: &[usize], key_lengths: Option<&[i64]>) -> Result<Vec<usize>> {
    let Some(lengths) = key_lengths else { return Ok(whole.to_vec()) };
    check_shape("key_lengths", &[whole.len()], &[lengths.len()])?;
    let checked = whole.iter().zip(lengths).map(|(&longest, &given)| match usize::try_from(given) {
        Ok(length) if length <= longest => Ok(length),
        _ => Err(Error::argument("key_lengths", format!("a length from 0 to {longest}"), given)),
    });
    checked.collect()
}

/// Who sees whom, and how a product becomes a score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Keys of a higher order than the query are hidden.
    pub causal: bool,
    /// How many keys before and after the query's order are visible; `None`: all.
    pub window: (Option<usize>, Option<usize>),
    /// That many first keys stay visible whatever the window says.
    pub keep_first: usize,
    /// Factor of every product.
    pub scale: f32,
    /// `s = softcap * tanh(s / softcap)`.
    pub softcap: Option<f32>,
}

impl Rules {
    /// Everything visible, the default scale, no cap.
    pub fn plain(head_dim: usize) -> Self {
        let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
        Rules { causal: false, window: (None, None), keep_first: 0, scale, softcap: None }
    }

    /// Checks the scalars as they come from a caller; `scale` None means `1 / sqrt(head_dim)`.
    pub fn new(
        head_dim: usize,
        causal: bool,
        window: (Option<i64>, Option<i64>),
        keep_first: i64,
        scale: Option<f64>,
        softcap: Option<f64>,
    ) -> Result<Self> {
        let reach = |bound: Option<i64>| match bound {
            None => Ok(None),
            Some(n) if n >= 0 => Ok(Some(n as usize)),
            Some(n) => Err(Error::argument("window", "bounds of 0 or more", n)),
        };
        let plain = Rules::plain(head_dim);
        let scale = scale.map_or(plain.scale, |s| s as f32);
        if !scale.is_finite() {
            return Err(Error::argument("scale", "a finite float32", scale));
        }
        let softcap = softcap.map(|s| s as f32);
        if let Some(cap) = softcap.filter(|cap| !(cap.is_finite() && *cap > 0.0)) {
            return Err(Error::argument("softcap", "a finite float32 above 0", cap));
        }
        let keep_first = usize::try_from(keep_first)
            .map_err(|_| Error::argument("keep_first", "a count of 0 or more", keep_first))?;
        Ok(Rules { causal, window: (reach(window.0)?, reach(window.1)?), keep_first, scale, softcap })
    }

    /// The keys that a query of this order sees among `keys`.
    pub fn visible(&self, order: i64, keys: usize) -> Visible {
        let clamp = |bound: i64| usize::try_from(bound).unwrap_or(0).min(keys);
        let reach = |bound: usize| i64::try_from(bound).unwrap_or(i64::MAX);
        let future = if self.causal { clamp(order.saturating_add(1)) } else { keys };
        let start = self.window.0.map_or(0, |left| clamp(order.saturating_sub(reach(left))));
        let end = self.window.1.map_or(keys, |right| clamp(order.saturating_add(reach(right)).saturating_add(1)));
        Visible { start, end: end.min(future).max(start), first: self.keep_first.min(future) }
    }
}

/// The keys `start..end` and `0..first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visible {
    /// First key inside the window.
    pub start: usize,
    /// End of the window.
    pub end: usize,
    /// End of the keys that are visible anyway.
    pub first: usize,
}

impl Visible {
    /// Whether this key is one of them.
    pub fn contains(&self, key: usize) -> bool {
        (self.start..self.end).contains(&key) || key < self.first
    }
}
