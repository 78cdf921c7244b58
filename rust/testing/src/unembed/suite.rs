//! What every backend of the unembedding has to do: meet the oracle, give a row the same bits in every call, and mind
//! the edges.

use super::judge::{judge, number};
use super::{Backend, Case, cases, of_bias};
use crate::DTYPES;
use crate::numbers::{Stored, normals};
use farspan_core::Dtype;
use farspan_core::merge::Ranked;
use farspan_core::unembed::{FLAG_EMPTY, FLAG_NAN};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Instantiates the suite.
#[macro_export]
macro_rules! unembed_suite {
    ($name:ident = $backend:expr) => {
        $crate::instantiate! {
            $name = $backend, [$crate::unembed::suite]:
            every_operation_meets_the_oracle
            a_row_has_the_same_bits_in_any_batch_and_place
            a_nan_is_flagged_in_its_row_alone
            one_nan_logit_flags_its_row
            what_is_banned_or_past_the_vocabulary_has_no_influence
            nothing_to_choose_is_flagged
            infinite_logits_share_the_mass
            ties_go_to_the_lowest_id_across_tiles_and_segments
            lists_are_exact_wherever_the_largest_lie
        }
    };
}

/// One of two sizes, the larger where the backend bears it.
fn size<B: Backend>(small: usize, large: usize) -> usize {
    if B::QUICK { large } else { small }
}

/// Random problems that the backend bears.
fn bearable<B: Backend>() -> impl Strategy<Value = Case> {
    cases().prop_filter("small", |case| B::QUICK || case.hidden.rows * case.weight.rows <= 24_000)
}

fn runner<B: Backend>(backend: &B) -> TestRunner {
    TestRunner::new(ProptestConfig::with_cases(backend.cases()))
}

pub fn every_operation_meets_the_oracle<B: Backend>(backend: &B) {
    let checked = runner(backend)
        .run(&bearable::<B>(), |case| judge(&case, &backend.run(&case, 0), |row| backend.allowed(&case, row)));
    checked.unwrap();
}

pub fn a_row_has_the_same_bits_in_any_batch_and_place<B: Backend>(backend: &B) {
    let strategy = (bearable::<B>(), any::<prop::sample::Index>());
    let checked = runner(backend).run(&strategy, |(case, shift)| {
        let (whole, rows) = (backend.run(&case, 0), case.hidden.rows);
        if rows > 0 {
            let turned: Vec<usize> = (0..rows).map(|row| (row + shift.index(rows)) % rows).collect();
            prop_assert_eq!(case.slice(&whole, &turned), backend.run(&case.pick(&turned), 1), "turned rows");
            let one = [shift.index(rows)];
            prop_assert_eq!(case.slice(&whole, &one), backend.run(&case.pick(&one), 2), "a row alone");
        }
        Ok(())
    });
    checked.unwrap();
}

pub fn a_nan_is_flagged_in_its_row_alone<B: Backend>(backend: &B) {
    let (rows, vocab, dim) = (size::<B>(11, 70), size::<B>(300, 3000), 20);
    let bad_row = rows - 2;
    for dtype in DTYPES {
        let mut hidden = normals(1, rows * dim);
        let weight = Stored::new(&normals(2, vocab * dim), vocab, dim, 0, dtype);
        let case = |hidden: &[f32]| Case {
            hidden: Stored::new(hidden, rows, dim, 0, dtype),
            weight: weight.clone(),
            bias: None,
            targets: vec![5; rows],
            valid_vocab: vocab,
            k: 3,
            ..of_bias(vec![0.0; vocab], rows)
        };
        let clean = backend.run(&case(&hidden), 0);
        hidden[bad_row * dim + 7] = f32::NAN;
        let bad = case(&hidden);
        let results = backend.run(&bad, 0);
        let rest: Vec<usize> = (0..rows).filter(|row| *row != bad_row).collect();
        assert_eq!(bad.slice(&clean, &rest), bad.slice(&results, &rest));
        for chosen in [&results.greedy, &results.sample] {
            assert_eq!((chosen.token[bad_row], chosen.flag[bad_row]), (-1, FLAG_NAN));
            assert!(chosen.numbers.iter().all(|numbers| number(numbers[bad_row]).is_nan()));
        }
        assert_eq!((results.rank[bad_row], results.top_token[3 * bad_row]), (-1, -1));
        assert!(results.score.iter().all(|numbers| number(numbers[bad_row]).is_nan()));
    }
}

pub fn one_nan_logit_flags_its_row<B: Backend>(backend: &B) {
    for token in [0, 1, 130, 201, 299] {
        let mut bias = normals(6, 300);
        bias[token] = f32::NAN;
        let results = backend.run(&of_bias(bias, 2), 0);
        for chosen in [&results.greedy, &results.sample] {
            assert_eq!((&chosen.token[..], &chosen.flag[..]), (&[-1, -1][..], &[FLAG_NAN, FLAG_NAN][..]), "{token}");
        }
        assert_eq!((&results.rank[..], results.top_token[0]), (&[-1, -1][..], -1), "{token}");
    }
}

pub fn what_is_banned_or_past_the_vocabulary_has_no_influence<B: Backend>(backend: &B) {
    let (rows, vocab, dim) = (size::<B>(3, 12), size::<B>(700, 1500), 24);
    let (banned, exist) = (vocab / 2 - 50..vocab / 2 + 50, vocab - 100);
    let weight = normals(4, vocab * dim);
    let mut case = Case {
        hidden: Stored::new(&normals(3, rows * dim), rows, dim, 0, Dtype::F32),
        weight: Stored::new(&weight, vocab, dim, 0, Dtype::F32),
        targets: vec![1; rows],
        ..of_bias(vec![0.0; vocab], rows)
    };
    case.valid_vocab = exist;
    case.bias.as_mut().unwrap()[banned.clone()].fill(f32::NEG_INFINITY);
    let clean = backend.run(&case, 0);
    assert!(clean.sample.flag.iter().all(|flag| *flag == 0));
    for filling in [f32::NAN, f32::INFINITY, 1e30] {
        let mut weight = weight.clone();
        weight[banned.start * dim..banned.end * dim].fill(filling);
        weight[exist * dim..].fill(filling);
        let filled = Case { weight: Stored::new(&weight, vocab, dim, 0, Dtype::F32), ..case.clone() };
        assert_eq!(clean, backend.run(&filled, 0), "filled with {filling}");
    }
}

pub fn nothing_to_choose_is_flagged<B: Backend>(backend: &B) {
    let mut case = of_bias(vec![f32::NEG_INFINITY; size::<B>(200, 700)], 2);
    case.k = 0;
    for valid_vocab in [case.valid_vocab, 0] {
        case.valid_vocab = valid_vocab;
        let results = backend.run(&case, 0);
        for chosen in [&results.greedy, &results.sample] {
            assert_eq!((&chosen.token[..], &chosen.flag[..]), (&[-1, -1][..], &[FLAG_EMPTY, FLAG_EMPTY][..]));
            assert!(chosen.numbers.iter().flatten().all(|x| number(*x) == f64::NEG_INFINITY));
        }
    }
}

pub fn infinite_logits_share_the_mass<B: Backend>(backend: &B) {
    let mut bias = vec![0.0; 2500];
    bias[600] = f32::INFINITY;
    bias[2400] = f32::INFINITY;
    let results = backend.run(&of_bias(bias, size::<B>(3, 30)), 0);
    assert!(results.greedy.token.iter().all(|token| *token == 600));
    assert!(results.sample.token.iter().all(|token| *token == 600), "infinite scores tie, ties go to the lowest id");
    for chosen in [&results.greedy, &results.sample] {
        assert!(chosen.numbers[1].iter().all(|raw| (number(*raw) + 2f64.ln()).abs() < 1e-6));
        assert!(chosen.numbers[2].iter().all(|lse| number(*lse) == f64::INFINITY));
    }
}

pub fn ties_go_to_the_lowest_id_across_tiles_and_segments<B: Backend>(backend: &B) {
    let vocab = size::<B>(2100, 4100);
    for ids in [[0, vocab - 1], [127, 128], [511, 512], [2047, 2048], [31, 32], [4, 5], [vocab - 2, vocab - 1]] {
        let mut bias = vec![-50.0; vocab];
        ids.iter().for_each(|id| bias[*id] = 2.0);
        let mut case = of_bias(bias, 3);
        case.temperature = vec![0.0; 3];
        case.targets = vec![ids[1] as i64; 3];
        for variation in 0..3 {
            let results = backend.run(&case, variation);
            assert_eq!(results.greedy.token, [ids[0] as i64; 3]);
            assert_eq!(results.sample.token, [ids[0] as i64; 3]);
            assert_eq!(results.rank, [1; 3]);
            let lowest: Vec<i64> = (0..6).filter(|v| !ids.contains(&(*v as usize))).collect();
            assert_eq!(results.top_token[..4], [ids[0] as i64, ids[1] as i64, lowest[0], lowest[1]]);
        }
    }
}

pub fn lists_are_exact_wherever_the_largest_lie<B: Backend>(backend: &B) {
    let vocab = 3000;
    let spread = normals(8, vocab);
    let mut crowded = spread.clone();
    (0..128).for_each(|v| crowded[1280 + v] += 9.0);
    (0..40).for_each(|v| crowded[2900 + v] += 9.0);
    let few = (0..vocab).map(|v| if v % 900 == 5 { 1.0 } else { f32::NEG_INFINITY }).collect();
    let equal = vec![0.5; vocab];
    for (name, bias) in [("spread", spread), ("crowded", crowded), ("few", few), ("equal", equal)] {
        let mut truth: Vec<Ranked> = bias.iter().zip(0..).map(|(l, v)| Ranked::new(*l, v)).collect();
        truth.sort_unstable_by(|a, b| b.cmp(a));
        let mut case = of_bias(bias, 1);
        for k in [1, 16, 17, 33, 200, 1024, 1025, 2200, 3000] {
            case.k = k;
            let results = backend.run(&case, 0);
            let expected: Vec<i64> = truth[..k].iter().map(|entry| entry.token().into()).collect();
            assert_eq!(results.top_token, expected, "{name}: {k}");
            let logits = results.top[0].iter().map(|bits| f32::from_bits(*bits));
            assert!(logits.zip(&truth).all(|(logit, entry)| logit == entry.logit()), "{name}: {k}");
        }
    }
}
