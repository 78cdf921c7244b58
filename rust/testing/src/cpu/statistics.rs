//! Statistics of attention on the CPU.

use super::Cpu;
use super::attention::Stored;
use crate::attention::Case;
use crate::statistics::{Backend, Statistics, judge};
use farspan_core::attention::{KEY_CHUNK, Shape};
use farspan_cpu::ViewMut;
use farspan_cpu::attention::{Statistics as Views, attention_statistics};
use ndarray::ArrayViewMut;

impl Backend for Cpu {
    const CHUNK: usize = KEY_CHUNK;

    fn cases(&self) -> u32 {
        match self.name() {
            "portable" => 24,
            _ => 96,
        }
    }

    fn run(&self, case: &Case, variation: u64) -> Statistics<f32> {
        self.alone(variation, || run(case))
    }

    fn judge(&self, case: &Case, found: &Statistics<f32>) {
        judge::float32(case, found);
    }
}

/// The answer of the instruction set and the threads that are set.
fn run(case: &Case) -> Statistics<f32> {
    let Shape { batch, query_heads, query_time, .. } = case.oracle.shape;
    let sizes = [batch, query_heads, query_time];
    let unset = vec![0.5; sizes.iter().product()];
    let mut found = Statistics::default().map(|_: &[f32]| unset.clone());
    let Statistics { lse, entropy, largest, first, sink, distance } = &mut found;
    let [lse, entropy, largest, first, sink, distance] = [lse, entropy, largest, first, sink, distance]
        .map(|x| ViewMut::new("test", &mut ArrayViewMut::from_shape(sizes, x).unwrap()).unwrap());
    let views = Views { lse, entropy, largest, first, sink, distance };
    attention_statistics(&Stored::new(case).problem(), views).unwrap();
    found
}
