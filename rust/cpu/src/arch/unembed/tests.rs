//! The noise of every machine against the definition in core, bit for bit; the shortcut against doing without it.

use super::{PAIRED, kernels};
use crate::dispatch::MACHINES;
use farspan_core::merge::Best;
use farspan_core::noise::{NoiseKey, noise, philox};

fn keys(count: u32) -> impl Iterator<Item = NoiseKey> {
    (0..count).map(|i| {
        let [a, b, stream, position] = philox([i, 0, 0, 1], [5, 6]);
        NoiseKey { seed: u64::from(a) << 32 | u64::from(b), stream, position }
    })
}

#[test]
fn every_machine_has_the_noise_of_the_definition() {
    const TOKENS: usize = 64 * PAIRED;
    for machine in MACHINES.into_iter().filter(|machine| machine.is_available()) {
        let kernels = kernels(machine);
        for (i, key) in keys(1000).enumerate() {
            let first = (i * 2_000_000) as u32 & !1;
            let mut out = [0.0; TOKENS];
            kernels.noise(first, &key, &mut out);
            for (token, got) in (first..).zip(out) {
                assert_eq!(got.to_bits(), noise(&key, token).to_bits(), "{}: {key:?}, token {token}", machine.name());
            }
        }
    }
}

#[test]
fn the_bound_never_hides_the_best_token() {
    for machine in MACHINES.into_iter().filter(|machine| machine.is_available()) {
        let kernels = kernels(machine);
        for (i, key) in keys(3000).enumerate() {
            let spread = [0.0, 0.5, 2.0, 30.0][i % 4];
            let logits: [f32; 8 * PAIRED] = std::array::from_fn(|v| {
                let word = philox([v as u32, i as u32, 0, 2], [7, 8])[0];
                if word.is_multiple_of(9) { f32::NEG_INFINITY } else { spread * (word as f32 / 2f32.powi(31) - 1.0) }
            });
            let inverse_temperature = [1.0, 0.3, 40.0, 1e7, 1e30][i % 5];
            let first = 2 * i as u32;
            let mut expected = Best::NOTHING;
            for (v, &logit) in logits.iter().enumerate().filter(|(_, l)| **l > f32::NEG_INFINITY) {
                let token = first + v as u32;
                expected = expected.merge(Best::perturbed(logit, inverse_temperature, noise(&key, token), token));
            }
            let mut best = Best::NOTHING;
            kernels.best_perturbed(&logits, first, &key, inverse_temperature, &mut best);
            assert_eq!(best, expected, "{}", machine.name());
        }
    }
}
