//! Each kernel of the unembedding compiled for each machine, behind functions that check what they are given.

use super::noise::{self, PAIRED};
use super::rows::{self, Rule};
use crate::arch::lanes::LANES;
use crate::arch::portable::Portable;
use crate::arch::product;
use crate::dispatch::Machine;
use farspan_core::merge::Best;
use farspan_core::noise::NoiseKey;

type Sums = unsafe fn(&[f32], f32, f32) -> [f32; 4];

/// The functions of one machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernels {
    /// Those that the products themselves take.
    pub products: product::Kernels,
    apply_rule: unsafe fn(&mut [f32], usize, &Rule) -> f32,
    plain_sums: Sums,
    moment_sums: Sums,
    tempered_sums: Sums,
    deviations: [unsafe fn(&[f32], f32) -> f32; 2],
    keep_bits: unsafe fn(&mut [f32], &[i32]),
    count_above: unsafe fn(&[f32], f32, usize) -> usize,
    places_at_least: unsafe fn(&[f32], f32, &mut [u32]) -> usize,
    noise: unsafe fn(u32, &NoiseKey, &mut [f32]),
    best_perturbed: unsafe fn(&[f32], u32, &NoiseKey, f32, &mut Best),
}

/// Every call below: the table is made for a machine that is available, and the assertions before it are what the
/// kernel asks of its operands.
impl Kernels {
    /// Turns the first `count` products of `row` into logits, the rest into -inf. The largest logit: NaN if any is NaN.
    pub(crate) fn apply_rule(&self, row: &mut [f32], count: usize, rule: &Rule) -> f32 {
        assert!(row.len().is_multiple_of(LANES) && rule.bias.is_none_or(|bias| bias.len() >= count.min(row.len())));
        // SAFETY: see the impl.
        unsafe { (self.apply_rule)(row, count, rule) }
    }

    /// `sum(exp(l - max))`; `max` is finite and at least every logit of the row.
    pub(crate) fn sum(&self, row: &[f32], max: f32) -> f32 {
        // SAFETY: see the impl.
        unsafe { (self.plain_sums)(row, max, 1.0)[0] }
    }

    /// Of `x = l - max` the sums of `exp(x)` and `exp(x) x`.
    pub(crate) fn moment_sums(&self, row: &[f32], max: f32) -> [f32; 2] {
        // SAFETY: see the impl.
        let [sum, moment, ..] = unsafe { (self.moment_sums)(row, max, 1.0) };
        [sum, moment]
    }

    /// As [`Kernels::moment_sums`], then both of `x = (l - max) * inverse_temperature`.
    pub(crate) fn tempered_sums(&self, row: &[f32], max: f32, inverse_temperature: f32) -> [f32; 4] {
        // SAFETY: see the impl.
        unsafe { (self.tempered_sums)(row, max, inverse_temperature) }
    }

    /// Sum of `l - centre` over the entries above -inf.
    pub(crate) fn deviations(&self, row: &[f32], centre: f32) -> f32 {
        // SAFETY: see the impl.
        unsafe { (self.deviations[0])(row, centre) }
    }

    /// Sum of `(l - centre)^2` over the entries above -inf.
    pub(crate) fn squared_deviations(&self, row: &[f32], centre: f32) -> f32 {
        // SAFETY: see the impl.
        unsafe { (self.deviations[1])(row, centre) }
    }

    /// -inf where the bit of an entry is 0: bit i % 32 of word i / 32, words that are missing count as 0.
    pub(crate) fn keep_bits(&self, row: &mut [f32], words: &[i32]) {
        // SAFETY: see the impl.
        unsafe { (self.keep_bits)(row, words) }
    }

    /// How many entries are above `value`, or in the first `ties` places at least `value`.
    pub(crate) fn count_above(&self, row: &[f32], value: f32, ties: usize) -> usize {
        // SAFETY: see the impl.
        unsafe { (self.count_above)(row, value, ties) }
    }

    /// Writes the places of the entries that are at least `value`, in order, and says how many there are.
    pub(crate) fn places_at_least(&self, row: &[f32], value: f32, places: &mut [u32]) -> usize {
        assert!(places.len() >= row.len());
        // SAFETY: see the impl.
        unsafe { (self.places_at_least)(row, value, places) }
    }

    /// The noise of the tokens from `first_token`, which is even.
    #[cfg_attr(not(test), expect(dead_code, reason = "the definition that tests hold best_perturbed to"))]
    pub(crate) fn noise(&self, first_token: u32, key: &NoiseKey, out: &mut [f32]) {
        assert!(first_token.is_multiple_of(2) && out.len().is_multiple_of(PAIRED));
        // SAFETY: see the impl.
        unsafe { (self.noise)(first_token, key, out) }
    }

    /// Lets each token that is not -inf try to beat `best` with `logit * inverse_temperature + noise`.
    pub(crate) fn best_perturbed(
        &self,
        logits: &[f32],
        first_token: u32,
        key: &NoiseKey,
        inverse_temperature: f32,
        best: &mut Best,
    ) {
        assert!(first_token.is_multiple_of(2) && logits.len().is_multiple_of(PAIRED));
        // SAFETY: see the impl.
        unsafe { (self.best_perturbed)(logits, first_token, key, inverse_temperature, best) }
    }
}

/// Compiles the kernels for one machine.
macro_rules! compile {
    ($module:ident, $machine:ty $(, $feature:literal)?) => {
        mod $module {
            use super::*;

            $(#[target_feature(enable = $feature)])?
            unsafe fn apply_rule(row: &mut [f32], count: usize, rule: &Rule) -> f32 {
                // SAFETY: the caller's.
                unsafe { rows::apply_rule::<$machine>(row, count, rule) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn plain_sums(row: &[f32], max: f32, inverse_temperature: f32) -> [f32; 4] {
                // SAFETY: the caller's.
                unsafe { rows::sums::<$machine, false, false>(row, max, inverse_temperature) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn moment_sums(row: &[f32], max: f32, inverse_temperature: f32) -> [f32; 4] {
                // SAFETY: the caller's.
                unsafe { rows::sums::<$machine, false, true>(row, max, inverse_temperature) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn tempered_sums(row: &[f32], max: f32, inverse_temperature: f32) -> [f32; 4] {
                // SAFETY: the caller's.
                unsafe { rows::sums::<$machine, true, true>(row, max, inverse_temperature) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn deviations(row: &[f32], centre: f32) -> f32 {
                // SAFETY: the caller's.
                unsafe { rows::deviations::<$machine, false>(row, centre) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn squared_deviations(row: &[f32], centre: f32) -> f32 {
                // SAFETY: the caller's.
                unsafe { rows::deviations::<$machine, true>(row, centre) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn keep_bits(row: &mut [f32], words: &[i32]) {
                // SAFETY: the caller's.
                unsafe { rows::keep_bits::<$machine>(row, words) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn count_above(row: &[f32], value: f32, ties: usize) -> usize {
                // SAFETY: the caller's.
                unsafe { rows::count_above::<$machine>(row, value, ties) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn places_at_least(row: &[f32], value: f32, places: &mut [u32]) -> usize {
                // SAFETY: the caller's.
                unsafe { rows::places_at_least::<$machine>(row, value, places) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn noise(first_token: u32, key: &NoiseKey, out: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe { noise::noise::<$machine>(first_token, key, out) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn best_perturbed(
                logits: &[f32],
                first_token: u32,
                key: &NoiseKey,
                inverse_temperature: f32,
                best: &mut Best,
            ) {
                // SAFETY: the caller's.
                unsafe { noise::best_perturbed::<$machine>(logits, first_token, key, inverse_temperature, best) }
            }

            pub(super) fn with(products: product::Kernels) -> Kernels {
                Kernels {
                    products,
                    apply_rule,
                    plain_sums,
                    moment_sums,
                    tempered_sums,
                    deviations: [deviations, squared_deviations],
                    keep_bits,
                    count_above,
                    places_at_least,
                    noise,
                    best_perturbed,
                }
            }
        }
    };
}

compile!(portable, Portable);
#[cfg(target_arch = "x86_64")]
compile!(avx2, crate::arch::avx2::Avx2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
compile!(avx512, crate::arch::avx512::Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c");

/// The kernels of an available machine.
pub(crate) fn kernels(machine: Machine) -> Kernels {
    let products = product::kernels(machine);
    match machine {
        #[cfg(target_arch = "x86_64")]
        Machine::Avx2 => avx2::with(products),
        #[cfg(target_arch = "x86_64")]
        Machine::Avx512 => avx512::with(products),
        _ => portable::with(products),
    }
}
