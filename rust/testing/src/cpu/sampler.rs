//! Draws with sampler settings on the CPU.

use super::Cpu;
use crate::sampler::{Backend, Case};
use farspan_core::draw::{Part, Results, Samples, merge, plans};
use farspan_core::unembed::{Rules, Shard};
use farspan_cpu::matrix::Matrix;
use farspan_cpu::unembed::{part, sample};
use ndarray::s;

impl Backend for Cpu {
    fn cases(&self) -> u32 {
        match self.name() {
            "portable" => 30,
            _ => 120,
        }
    }

    fn run(&self, case: &Case, variation: u64) -> Samples {
        case.call(|hidden, weight, draws, settings, out| {
            let (hidden, weight) = (Matrix::F32(hidden.view()), Matrix::F32(weight.view()));
            self.alone(variation, || sample(hidden, weight, draws, Some(settings), &Rules::default(), out).unwrap());
        })
    }

    /// Parts are sent as bytes, and arrive in reverse.
    fn run_in_parts(&self, case: &Case, ends: &[usize]) -> Samples {
        case.call(|hidden, weight, draws, settings, out| {
            let (count, vocab) = (case.rows.len(), weight.nrows());
            let parts = |undecided: Option<&[usize]>| -> Vec<Part> {
                let read = |(index, &end): (usize, &usize)| {
                    let first = if index == 0 { 0 } else { ends[index - 1] };
                    let weight = weight.slice(s![first..end, ..]);
                    let (hidden, weight) = (Matrix::F32(hidden.view()), Matrix::F32(weight));
                    let shard = Shard { first, vocab };
                    let part = part(hidden, weight, draws, Some(settings), &Rules::default(), shard, undecided);
                    Part::from_bytes(&part.unwrap().to_bytes().unwrap()).unwrap()
                };
                self.alone(0, || ends.iter().enumerate().map(read).rev().collect())
            };
            let plans = plans(Some(draws), Some(settings), count, vocab);
            let mut results = Results::new(out, count, case.samples, case.top).unwrap();
            let all: Vec<usize> = (0..count).collect();
            let undecided = merge(parts(None), &plans, &all, false, vocab, &mut results).unwrap();
            let left = merge(parts(Some(&undecided)), &plans, &undecided, true, vocab, &mut results).unwrap();
            assert!(left.is_empty());
        })
    }
}
