//! The unembedding on every instruction set, which all give the same bits, and the distribution of its draws.

use farspan_cpu::dispatch::Machine;
use farspan_testing::cpu::Cpu;
use farspan_testing::numbers::normals;
use farspan_testing::oracle::unembed as oracle;
use farspan_testing::unembed::{Backend, cases, of_bias};
use farspan_testing::unembed_suite;
use proptest::prelude::*;

unembed_suite!(portable = Cpu::on(Machine::Portable));
unembed_suite!(avx2 = Cpu::on(Machine::Avx2));
unembed_suite!(avx512 = Cpu::on(Machine::Avx512));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn every_machine_gives_the_same_bits(case in cases()) {
        let expected = Cpu::best().run(&case, 0);
        for cpu in Cpu::all() {
            prop_assert_eq!(&cpu.run(&case, 0), &expected, "{}", cpu.name());
        }
    }
}

#[test]
fn the_noise_is_the_same_with_and_without_the_shortcut() {
    let vocab = 5000;
    let case = of_bias(normals(5, vocab).iter().map(|x| 3.0 * x).collect(), 40);
    let chosen = Cpu::best().choose(&case, true);
    for row in 0..40 {
        let bias = case.bias.as_ref().unwrap();
        let scores = (0..vocab).map(|v| bias[v] + farspan_core::noise::noise(&case.key(row), v as u32));
        let best =
            scores.enumerate().fold((0, f32::NEG_INFINITY), |best, (v, s)| if s > best.1 { (v, s) } else { best });
        assert_eq!(chosen.token[row], best.0 as i64, "row {row}");
    }
}

#[test]
fn a_million_draws_follow_their_distribution() {
    let (vocab, rows) = (40, 1_000_000);
    let bias = normals(9, vocab);
    let logits: Vec<f64> = bias.iter().map(|b| f64::from(*b) / 0.8).collect();
    let lse = oracle::lse(&logits);
    let mut case = of_bias(bias, rows);
    case.temperature = vec![0.8; rows];
    case.position = (0..rows as u32).collect();
    case.seed = vec![11; rows];
    let chosen = Cpu::best().choose(&case, true);
    let mut counts = vec![0u32; vocab];
    chosen.token.iter().for_each(|token| counts[*token as usize] += 1);
    let statistic: f64 = counts
        .iter()
        .zip(&logits)
        .map(|(count, l)| {
            let expected = rows as f64 * (l - lse).exp();
            (f64::from(*count) - expected).powi(2) / expected
        })
        .sum();
    assert!(statistic < 97.0, "chi-square {statistic} on 39 degrees of freedom: one in a million");
}

#[test]
fn the_tail_is_drawn_as_often_as_it_should() {
    // A head and 2^17 tokens at gap 28: with 32-bit uniforms no noise reaches further than 22.9, and none would ever
    // win.
    let (tail, gap) = (1 << 17, 28.0f64);
    let lift = (tail as f64).ln();
    // The tail's own largest noise exceeds 28 in about one draw of 11 million; one token of the same mass stands for
    // it.
    let mut case = of_bias(vec![0.0, -(gap - lift) as f32], 1_000_000);
    case.position = (0..1_000_000).collect();
    case.seed = vec![3; 1_000_000];
    let odds = (-(gap - lift)).exp();
    let expected = 1e6 * odds / (1.0 + odds);
    let drawn = Cpu::best().choose(&case, true).token.iter().sum::<i64>() as f64;
    assert!((drawn - expected).abs() < 5.0 * expected.sqrt() + 1.0, "{drawn} tail draws, {expected} expected");
}
