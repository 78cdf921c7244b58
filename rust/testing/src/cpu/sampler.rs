//! Draws with sampler settings on the CPU.

use super::Cpu;
use crate::sampler::{Backend, Case};
use farspan_core::draw::Samples;
use farspan_core::unembed::{Rules, Shard};
use farspan_cpu::matrix::Matrix;
use farspan_cpu::unembed::{Problem, sample, sample_of_shard};
use ndarray::{Array2, s};
use std::ops::Range;

impl Backend for Cpu {
    fn cases(&self) -> u32 {
        match self.name() {
            "portable" => 30,
            _ => 120,
        }
    }

    fn run(&self, case: &Case, variation: u64) -> Samples {
        case.call(|hidden, weight, draws, settings, out| {
            let problem = problem(hidden, weight, None);
            self.alone(variation, || sample(&problem, draws, Some(settings), out).unwrap());
        })
    }

    fn run_in_parts(&self, case: &Case, ends: &[usize]) -> Vec<Samples> {
        self.alone(0, || {
            case.each_part(ends, |hidden, weight, part, draws, settings, mut exchange, out| {
                let problem = problem(hidden, weight, Some(part));
                sample_of_shard(&problem, draws, Some(settings), &mut exchange, out).unwrap();
            })
        })
    }
}

/// Hidden states against all rows of a weight, or against those of one part of a vocabulary.
fn problem<'a>(hidden: &'a Array2<f32>, weight: &'a Array2<f32>, part: Option<Range<usize>>) -> Problem<'a> {
    let shard = part.as_ref().map(|part| Shard { first: part.start, vocab: weight.nrows() });
    let part = part.unwrap_or(0..weight.nrows());
    let (hidden, weight) = (Matrix::F32(hidden.view()), Matrix::F32(weight.slice(s![part, ..])));
    Problem { hidden, weight, rules: Rules::default(), shard }
}
