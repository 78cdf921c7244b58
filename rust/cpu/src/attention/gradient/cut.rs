//! The gradients cut into the parts of jobs: key head by key head of each sequence.

use super::Pass;
use super::job::{Block, Job, KeyTask};
use crate::ViewMut;
use crate::attention::Output;
use crate::attention::context::QueryBlock;
use farspan_core::attention::Sequence;
use farspan_core::attention::plan::GRADIENT_KEYS;
use farspan_core::{Error, Result};

/// What belongs to queries: `[batch, query_heads, query_time]`, and the head dimension behind.
pub(super) struct QueryParts<'a> {
    pub query: Option<Output<'a>>,
    pub scale: Option<ViewMut<'a, f32, 3>>,
}

/// What belongs to keys: `[batch, key_heads, key_time]` with a dimension behind, and `[batch, query_heads, key_time]`.
pub(super) struct KeyParts<'a> {
    pub key: Option<Output<'a>>,
    pub value: Option<Output<'a>>,
    pub bias: Option<ViewMut<'a, f32, 3>>,
}

const BATCH: usize = 0;
const HEADS: usize = 1;
const TIME: usize = 2;

fn split_rows(rows: Option<Output>, dimension: usize, at: usize) -> (Option<Output>, Option<Output>) {
    rows.map(|rows| rows.split(dimension, at)).unzip()
}

fn split_numbers(
    numbers: Option<ViewMut<f32, 3>>,
    dimension: usize,
    at: usize,
) -> (Option<ViewMut<f32, 3>>, Option<ViewMut<f32, 3>>) {
    numbers.map(|numbers| numbers.split(dimension, at)).unzip()
}

impl QueryParts<'_> {
    /// What lies below `at`; the others stay.
    fn take(&mut self, dimension: usize, at: usize) -> Self {
        let (query, query_rest) = split_rows(self.query.take(), dimension, at);
        let (scale, scale_rest) = split_numbers(self.scale.take(), dimension, at);
        *self = QueryParts { query: query_rest, scale: scale_rest };
        QueryParts { query, scale }
    }
}

impl KeyParts<'_> {
    /// What lies below `at`; the others stay.
    fn take(&mut self, dimension: usize, at: usize) -> Self {
        self.take_both(dimension, at, at)
    }

    /// The first key head, which has `group` heads of the bias.
    fn take_head(&mut self, group: usize) -> Self {
        self.take_both(HEADS, 1, group)
    }

    fn take_both(&mut self, dimension: usize, at: usize, bias_at: usize) -> Self {
        let (key, key_rest) = split_rows(self.key.take(), dimension, at);
        let (value, value_rest) = split_rows(self.value.take(), dimension, at);
        let (bias, bias_rest) = split_numbers(self.bias.take(), dimension, bias_at);
        *self = KeyParts { key: key_rest, value: value_rest, bias: bias_rest };
        KeyParts { key, value, bias }
    }
}

/// The jobs of a call, sequence by sequence. Sequences without queries or keys have none.
pub(super) fn jobs<'a>(pass: &Pass, mut rows: QueryParts<'a>, mut keys: KeyParts<'a>) -> Result<Vec<Job<'a>>> {
    let context = &pass.context;
    let group = context.shape.group();
    let dense = context.shape.batch == context.problem.sequences.len();
    let (mut jobs, mut ordinal, mut end) = (Vec::new(), 0, 0);
    for (index, sequence) in context.problem.sequences.iter().enumerate() {
        let (mut of_queries, mut of_keys);
        if dense {
            (of_queries, of_keys) = (rows.take(BATCH, 1), keys.take(BATCH, 1));
            of_keys.take(TIME, sequence.key_start);
        } else {
            of_queries = rows.take(TIME, sequence.queries);
            let gap = sequence.key_start.checked_sub(end).ok_or_else(|| overlap(sequence))?;
            keys.take(TIME, gap);
            of_keys = keys.take(TIME, sequence.keys);
            end = sequence.key_start + sequence.keys;
        }
        if sequence.queries == 0 || sequence.keys == 0 {
            continue;
        }
        for key_head in 0..context.shape.key_heads {
            let heads = key_head * group..(key_head + 1) * group;
            let whole = QueryBlock { sequence: index, key_head, heads, queries: 0..sequence.queries };
            let blocks = blocks(pass, &whole, of_queries.take(HEADS, group));
            let tasks = tasks(pass, &whole, of_keys.take_head(group));
            jobs.push(Job::new(whole, ordinal, blocks, tasks));
        }
        ordinal += 1;
    }
    Ok(jobs)
}

fn overlap(sequence: &Sequence) -> Error {
    Error::argument("sequences", "keys that no other sequence has", format!("{sequence:?}"))
}

fn blocks<'a>(pass: &Pass, whole: &QueryBlock, mut rows: QueryParts<'a>) -> Vec<Block<'a>> {
    let (length, all) = (pass.context.work.gradient_queries(), whole.queries.end);
    let block = |start: usize| {
        let queries = start..(start + length).min(all);
        let parts = rows.take(TIME, queries.len());
        Block::new(pass, QueryBlock { queries, ..whole.clone() }, parts)
    };
    (0..all).step_by(length).map(block).collect()
}

fn tasks<'a>(pass: &Pass, whole: &QueryBlock, mut keys: KeyParts<'a>) -> Vec<KeyTask<'a>> {
    let all = pass.context.sequence(whole.sequence).keys;
    let task = |(index, start): (usize, usize)| {
        let range = start..(start + GRADIENT_KEYS).min(all);
        KeyTask { index, parts: keys.take(TIME, range.len()), keys: range }
    };
    (0..all).step_by(GRADIENT_KEYS).enumerate().map(task).collect()
}
