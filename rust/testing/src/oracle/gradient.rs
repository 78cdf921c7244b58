//! The gradients of attention in float64, one score after the other.

use super::attention::{Pair, Problem, attention, pair, query_scale, rotate, sees};
use farspan_core::attention::Shape;

/// The gradients of everything that has one, each laid out as its argument is in the problem.
#[derive(Clone, Debug, Default)]
pub struct Gradients<T> {
    pub query: Vec<T>,
    pub key: Vec<T>,
    pub value: Vec<T>,
    /// `[batch, query_heads, query_time]`
    pub query_scale: Vec<T>,
    /// `[key_batch, query_heads, key_time]`
    pub key_bias: Vec<T>,
    /// `[query_heads, L]`
    pub distance_bias: Vec<T>,
    /// `[query_heads]`
    pub sink: Vec<T>,
}

impl<T> Gradients<T> {
    /// With their names.
    pub fn named(&self) -> [(&'static str, &Vec<T>); 7] {
        [
            ("query", &self.query),
            ("key", &self.key),
            ("value", &self.value),
            ("query_scale", &self.query_scale),
            ("key_bias", &self.key_bias),
            ("distance_bias", &self.distance_bias),
            ("sink", &self.sink),
        ]
    }
}

/// A gradient as a sum of terms.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    pub total: f64,
    /// Of the sizes of its terms, and of the sizes of theirs: what a relative error of each is an error of.
    pub size: f64,
}

impl Sum {
    fn add(&mut self, term: f64, size: f64) {
        self.total += term;
        self.size += size.abs();
    }
}

/// The gradients of a call whose output and LSE have the gradients `output_gradient [batch, query_heads, query_time,
/// value_dim]` and `lse_gradient [batch, query_heads, query_time]`.
pub fn gradients(problem: &Problem, output_gradient: &[f32], lse_gradient: &[f32]) -> Gradients<Sum> {
    let Shape { batch, query_heads, key_heads, query_time, key_batch, key_time, head_dim, value_dim } = problem.shape;
    let zeros = |count: usize| vec![Sum::default(); count];
    let columns = problem.distance_bias.as_ref().map_or(0, |(table, _)| table[0].len());
    let mut found = Gradients {
        query: zeros(batch * query_heads * query_time * head_dim),
        key: zeros(key_batch * key_heads * key_time * head_dim),
        value: zeros(key_batch * key_heads * key_time * value_dim),
        query_scale: zeros(batch * query_heads * query_time),
        key_bias: zeros(key_batch * query_heads * key_time),
        distance_bias: zeros(query_heads * columns),
        sink: zeros(query_heads),
    };
    let (output, lse) = attention(problem);
    for (index, sequence) in problem.sequences.iter().enumerate() {
        for (head, query) in (0..query_heads).flat_map(|head| (0..sequence.queries).map(move |query| (head, query))) {
            let row = (sequence.batch * query_heads + head) * query_time + sequence.query_start + query;
            let values = row * value_dim..(row + 1) * value_dim;
            let upstream = &output_gradient[values.clone()];
            let terms = |of: &[f64]| of.iter().zip(upstream).map(|(x, up)| x * f64::from(*up)).collect::<Vec<f64>>();
            let (of_output, of_lse) = (terms(&output[values]), f64::from(lse_gradient[row]));
            let share = of_output.iter().sum::<f64>() - of_lse;
            let share_size = of_output.iter().map(|x| x.abs()).sum::<f64>() + of_lse.abs();
            if let Some(sink) = problem.sink.as_ref().map(|sink| f64::from(sink[head])) {
                let weight = if sink == f64::NEG_INFINITY { 0.0 } else { (sink - lse[row]).exp() };
                found.sink[head].add(-weight * share, weight * share_size);
            }
            for key in (0..sequence.keys).filter(|&key| sees(&problem.rules, sequence, query, key)) {
                let pair = pair(problem, index, head, query, key);
                if pair.score == f64::NEG_INFINITY {
                    continue;
                }
                let weight = (pair.score - lse[row]).exp();
                let time = (sequence.key_batch * key_heads + head / problem.shape.group()) * key_time;
                let key_row = time + sequence.key_start + key;
                let value: Vec<f64> =
                    problem.value[key_row * value_dim..][..value_dim].iter().map(|x| f64::from(*x)).collect();
                for (sum, up) in found.value[key_row * value_dim..].iter_mut().zip(upstream) {
                    sum.add(weight * f64::from(*up), weight * f64::from(*up));
                }
                let of_value = terms(&value);
                let slope = weight * (of_value.iter().sum::<f64>() - share);
                let size = weight * (of_value.iter().map(|x| x.abs()).sum::<f64>() + share_size);
                if problem.key_bias.is_some() {
                    let row = (sequence.key_batch * query_heads + head) * key_time + sequence.key_start + key;
                    found.key_bias[row].add(slope, size);
                }
                if problem.distance_bias.is_some() {
                    found.distance_bias[head * columns + pair.column].add(slope, size);
                }
                let factor = query_scale(problem, index, head, query);
                // The cap's own derivative is a difference of numbers up to 1.
                let (slope, size) = (slope * pair.slope, size);
                found.query_scale[row].add(
                    slope * pair.dot * f64::from(problem.rules.scale),
                    size * f64::from(problem.rules.scale) * magnitude(&pair),
                );
                let turned = |x: &[f64], position| back(problem, index, x, position);
                let of_query = turned(&pair.key, pair.positions.0);
                for (sum, x) in found.query[row * head_dim..].iter_mut().zip(of_query) {
                    sum.add(slope * factor * x, size * factor * largest(&pair.key));
                }
                let of_key = turned(&pair.query, pair.positions.1);
                for (sum, x) in found.key[key_row * head_dim..].iter_mut().zip(of_key) {
                    sum.add(slope * factor * x, size * factor * largest(&pair.query));
                }
            }
        }
    }
    found
}

/// The sum of the sizes of the terms of a pair's product.
fn magnitude(pair: &Pair) -> f64 {
    pair.query.iter().zip(&pair.key).map(|(x, y)| (x * y).abs()).sum()
}

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |top, x| top.max(x.abs()))
}

/// The transposed rotation.
fn back(problem: &Problem, index: usize, x: &[f64], position: f64) -> Vec<f64> {
    let mut turned = x.to_vec();
    if let Some(rotary) = &problem.rotary {
        // The transpose of a rotation is the rotation by the opposite angle; the magnitude stays.
        rotate(&mut turned, -position, rotary, &rotary.inv_freq[index]);
    }
    turned
}
