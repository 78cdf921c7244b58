//! Adding a chunk's logits to a row's softmax sums.

use super::pass::Chunk;
use crate::arch::unembed::Kernels;
use farspan_core::merge::Mass;

/// Which sums an epilogue needs beside `sum(exp(l - max))`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    /// None.
    Plain,
    /// `Mass::moment`.
    Moment,
    /// `Mass::moment`, then `Mass::tempered` and its moment at this inverse temperature.
    Tempered(f32),
}

/// Extends `mass`, which is not NaN, by the logits of `chunk`.
pub(crate) fn extend(kernels: &Kernels, chunk: &Chunk, wanted: Wanted, mass: &mut Mass) {
    let inverse = if let Wanted::Tempered(inverse) = wanted { inverse } else { 1.0 };
    if chunk.max == f32::INFINITY {
        // exp(inf - inf) is not a number: infinite logits share the mass evenly.
        let infinities = kernels.count_above(chunk.logits, f32::MAX, 0);
        *mass = mass.merge(Mass::of_infinities(infinities), inverse);
        return;
    }
    if mass.max == f32::INFINITY || chunk.max == f32::NEG_INFINITY {
        return;
    }
    let max = mass.max.max(chunk.max);
    let mut sums = mass.relative_to(max, inverse);
    sums.max = max;
    match wanted {
        Wanted::Plain => sums.sum += kernels.sum(chunk.logits, max),
        Wanted::Moment => {
            let [sum, moment] = kernels.moment_sums(chunk.logits, max);
            sums.sum += sum;
            sums.moment += moment;
        }
        Wanted::Tempered(inverse) => {
            let [sum, moment, tempered, tempered_moment] = kernels.tempered_sums(chunk.logits, max, inverse);
            sums.sum += sum;
            sums.moment += moment;
            sums.tempered += tempered;
            sums.tempered_moment += tempered_moment;
        }
    }
    *mass = sums;
}
