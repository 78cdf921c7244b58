//! Attention in float64, one score after the other: the truth that every backend is compared with.

use farspan_core::attention::{Rules, Sequence, Shape};

/// Rotation of queries and keys.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// `[sequences][r / 2]`
    pub inv_freq: Vec<Vec<f32>>,
    /// Factor of cosine and sine.
    pub magnitude: f32,
    /// Pairs are `(2i, 2i + 1)` instead of `(i, i + r / 2)`.
    pub interleaved: bool,
    /// Border, far query positions `[batch][query_time]`, far key positions `[key_batch][key_time]`.
    pub far: Option<(f64, Vec<f64>, Vec<f64>)>,
}

/// A problem in plain arrays, row-major: `query [batch, query_heads, query_time, head_dim]` and so on.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Sizes.
    pub shape: Shape,
    /// Sequences.
    pub sequences: Vec<Sequence>,
    /// Visibility, scale, cap.
    pub rules: Rules,
    /// `[batch, query_heads, query_time, head_dim]`
    pub query: Vec<f32>,
    /// `[key_batch, key_heads, key_time, head_dim]`
    pub key: Vec<f32>,
    /// `[key_batch, key_heads, key_time, value_dim]`
    pub value: Vec<f32>,
    /// `[batch, query_heads, query_time]`
    pub query_scale: Option<Vec<f32>>,
    /// `[key_batch, query_heads, key_time]`
    pub key_bias: Option<Vec<f32>>,
    /// `[query_heads][L]` and the distance of the first column.
    pub distance_bias: Option<(Vec<Vec<f32>>, i64)>,
    /// `[query_heads]`
    pub sink: Option<Vec<f32>>,
    /// `[batch, query_time]`
    pub query_positions: Option<Vec<f64>>,
    /// `[key_batch, key_time]`
    pub key_positions: Option<Vec<f64>>,
    /// Rotation.
    pub rotary: Option<Rotary>,
}

/// Output `[batch, query_heads, query_time, value_dim]` and LSE `[batch, query_heads, query_time]`.
pub fn attention(problem: &Problem) -> (Vec<f64>, Vec<f64>) {
    let Shape { batch, query_heads, query_time, value_dim, .. } = problem.shape;
    let mut output = vec![0.0; batch * query_heads * query_time * value_dim];
    let mut lse = vec![f64::NEG_INFINITY; batch * query_heads * query_time];
    for (index, sequence) in problem.sequences.iter().enumerate() {
        for head in 0..query_heads {
            for query in 0..sequence.queries {
                let row = (sequence.batch * query_heads + head) * query_time + sequence.query_start + query;
                let (values, total) = one_row(problem, index, head, query);
                output[row * value_dim..(row + 1) * value_dim].copy_from_slice(&values);
                lse[row] = total;
            }
        }
    }
    (output, lse)
}

fn one_row(problem: &Problem, index: usize, head: usize, query: usize) -> (Vec<f64>, f64) {
    let Shape { key_heads, key_time, value_dim, .. } = problem.shape;
    let sequence = &problem.sequences[index];
    let key_head = head / problem.shape.group();
    let scores = scores(problem, index, head, query);
    let sink = problem.sink.as_ref().map_or(f64::NEG_INFINITY, |sink| f64::from(sink[head]));
    let top = scores.iter().fold(sink, |top, (_, score)| top.max(*score));
    if top == f64::NEG_INFINITY {
        return (vec![0.0; value_dim], top);
    }
    let total = scores.iter().map(|(_, score)| (score - top).exp()).sum::<f64>() + (sink - top).exp();
    let mut values = vec![0.0; value_dim];
    for (key, score) in &scores {
        let time = sequence.key_start + key;
        let start = ((sequence.key_batch * key_heads + key_head) * key_time + time) * value_dim;
        for (sum, value) in values.iter_mut().zip(&problem.value[start..]) {
            *sum += (score - top).exp() / total * f64::from(*value);
        }
    }
    (values, top + total.ln())
}

/// The keys that a query sees, and their scores.
pub(super) fn scores(problem: &Problem, index: usize, head: usize, query: usize) -> Vec<(usize, f64)> {
    let sequence = &problem.sequences[index];
    (0..sequence.keys)
        .filter(|&key| sees(&problem.rules, sequence, query, key))
        .map(|key| (key, pair(problem, index, head, query, key).score))
        .filter(|(_, score)| *score != f64::NEG_INFINITY)
        .collect()
}

pub(super) fn sees(rules: &Rules, sequence: &Sequence, query: usize, key: usize) -> bool {
    let distance = query as i128 + sequence.keys as i128 - sequence.queries as i128 - key as i128;
    let left = rules.window.0.is_none_or(|left| distance <= left as i128);
    let right = rules.window.1.is_none_or(|right| -distance <= right as i128);
    (left && right || key < rules.keep_first) && (!rules.causal || distance >= 0)
}

/// A query and a key of a head, and how their score comes about.
pub(super) struct Pair {
    /// Turned, not scaled.
    pub query: Vec<f64>,
    /// Turned.
    pub key: Vec<f64>,
    /// Where they were turned to.
    pub positions: (f64, f64),
    /// `dot(query, key)`
    pub dot: f64,
    /// Derivative of the cap at the scaled product.
    pub slope: f64,
    /// The table's column.
    pub column: usize,
    pub score: f64,
}

pub(super) fn pair(problem: &Problem, index: usize, head: usize, query: usize, key: usize) -> Pair {
    let Shape { query_heads, key_heads, query_time, key_time, head_dim, .. } = problem.shape;
    let sequence = &problem.sequences[index];
    let Sequence { batch, key_batch, .. } = *sequence;
    let (query_at, key_at) = (sequence.query_start + query, sequence.key_start + key);
    let order = query as f64 + sequence.keys as f64 - sequence.queries as f64;
    let query_position = problem.query_positions.as_ref().map_or(order, |p| p[batch * query_time + query_at]);
    let key_position = problem.key_positions.as_ref().map_or(key as f64, |p| p[key_batch * key_time + key_at]);
    let distance = query_position - key_position;

    let start = ((batch * query_heads + head) * query_time + query_at) * head_dim;
    let mut q: Vec<f64> = problem.query[start..start + head_dim].iter().map(|x| f64::from(*x)).collect();
    let start = ((key_batch * key_heads + head / problem.shape.group()) * key_time + key_at) * head_dim;
    let mut k: Vec<f64> = problem.key[start..start + head_dim].iter().map(|x| f64::from(*x)).collect();
    let mut positions = (query_position, key_position);
    if let Some(rotary) = &problem.rotary {
        if let Some((_, queries, keys)) = rotary.far.as_ref().filter(|(border, ..)| distance >= *border) {
            positions = (queries[batch * query_time + query_at], keys[key_batch * key_time + key_at]);
        }
        rotate(&mut q, positions.0, rotary, &rotary.inv_freq[index]);
        rotate(&mut k, positions.1, rotary, &rotary.inv_freq[index]);
    }
    let dot: f64 = q.iter().zip(&k).map(|(x, y)| x * y).sum();
    let mut score = query_scale(problem, index, head, query) * dot;
    let mut slope = 1.0;
    if let Some(cap) = problem.rules.softcap {
        let capped = (score / f64::from(cap)).tanh();
        (score, slope) = (f64::from(cap) * capped, 1.0 - capped * capped);
    }
    if let Some(bias) = &problem.key_bias {
        let bias = f64::from(bias[(key_batch * query_heads + head) * key_time + key_at]);
        score = if bias == f64::NEG_INFINITY { bias } else { score + bias };
    }
    let mut column = 0;
    if let Some((table, minimum)) = &problem.distance_bias {
        column = (distance.floor() - *minimum as f64).clamp(0.0, (table[head].len() - 1) as f64) as usize;
        score += f64::from(table[head][column]);
    }
    Pair { query: q, key: k, positions, dot, slope, column, score }
}

/// Factor of a query's products.
pub(super) fn query_scale(problem: &Problem, index: usize, head: usize, query: usize) -> f64 {
    let Shape { query_heads, query_time, .. } = problem.shape;
    let sequence = &problem.sequences[index];
    let row = (sequence.batch * query_heads + head) * query_time + sequence.query_start + query;
    f64::from(problem.rules.scale) * problem.query_scale.as_ref().map_or(1.0, |scale| f64::from(scale[row]))
}

pub(super) fn rotate(x: &mut [f64], position: f64, rotary: &Rotary, inv_freq: &[f32]) {
    for (i, frequency) in inv_freq.iter().enumerate() {
        let (sin, cos) = (position * f64::from(*frequency)).sin_cos();
        let (first, second) = if rotary.interleaved { (2 * i, 2 * i + 1) } else { (i, i + inv_freq.len()) };
        let (a, b) = (x[first], x[second]);
        x[first] = f64::from(rotary.magnitude) * (a * cos - b * sin);
        x[second] = f64::from(rotary.magnitude) * (b * cos + a * sin);
    }
}
