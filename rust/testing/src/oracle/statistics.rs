//! Statistics of attention's weights in float64, one score after the other.

use super::attention::{Problem, scores};
use farspan_core::attention::Shape;

/// Numbers of each row, `[batch, query_heads, query_time]`.
#[derive(Clone, Debug, Default)]
pub struct Statistics<T> {
    pub lse: Vec<T>,
    pub entropy: Vec<T>,
    pub largest: Vec<T>,
    pub first: Vec<T>,
    pub sink: Vec<T>,
    pub distance: Vec<T>,
}

impl<T> Statistics<T> {
    pub fn named(&self) -> [(&'static str, &[T]); 6] {
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

    /// The same of what `change` makes of each.
    pub fn map<U>(&self, change: impl Fn(&[T]) -> Vec<U>) -> Statistics<U> {
        Statistics {
            lse: change(&self.lse),
            entropy: change(&self.entropy),
            largest: change(&self.largest),
            first: change(&self.first),
            sink: change(&self.sink),
            distance: change(&self.distance),
        }
    }
}

/// The truth.
pub fn statistics(problem: &Problem) -> Statistics<f64> {
    let Shape { batch, query_heads, query_time, .. } = problem.shape;
    let zeros = || vec![0.0; batch * query_heads * query_time];
    let mut found = Statistics {
        lse: vec![f64::NEG_INFINITY; batch * query_heads * query_time],
        entropy: zeros(),
        largest: zeros(),
        first: zeros(),
        sink: zeros(),
        distance: zeros(),
    };
    for (index, sequence) in problem.sequences.iter().enumerate() {
        for (head, query) in (0..query_heads).flat_map(|head| (0..sequence.queries).map(move |query| (head, query))) {
            let row = (sequence.batch * query_heads + head) * query_time + sequence.query_start + query;
            let keys = scores(problem, index, head, query);
            let sink = problem.sink.as_ref().map(|sink| f64::from(sink[head])).filter(|sink| *sink > f64::NEG_INFINITY);
            let all = || keys.iter().map(|(_, score)| *score).chain(sink);
            let top = all().fold(f64::NEG_INFINITY, f64::max);
            if top == f64::NEG_INFINITY {
                continue;
            }
            let lse = top + all().map(|score| (score - top).exp()).sum::<f64>().ln();
            found.lse[row] = lse;
            found.entropy[row] = all().map(|score| (score - lse).exp() * (lse - score)).sum();
            found.sink[row] = sink.map_or(0.0, |sink| (sink - lse).exp());
            for (key, score) in keys {
                let share = (score - lse).exp();
                found.largest[row] = found.largest[row].max(share);
                found.first[row] += if key == 0 { share } else { 0.0 };
                found.distance[row] += share * (sequence.query_order(query) - key as i64) as f64;
            }
        }
    }
    found
}
