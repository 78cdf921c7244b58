//! A head that decides must decide as the whole row does, and the borders lie where each system puts them.

use super::*;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = self.0 ^ (self.0 >> 29);
        x.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 16
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.next() as usize % choices.len()]
    }
}

fn row(random: &mut Random, size: usize, grid: f32) -> Vec<Ranked> {
    let mut entries: Vec<Ranked> = (0..size as u32)
        .map(|token| {
            let sum: f32 = (0..6).map(|_| (random.next() % 1000) as f32 / 250.0).sum();
            Ranked::new(((sum - 12.0) * grid).round() / grid, token)
        })
        .collect();
    entries.sort_by(|a, b| b.cmp(a));
    entries
}

fn summary(entries: &[Ranked], head: usize, temperature: f32) -> Summary<'_> {
    let mean = entries.iter().map(|e| f64::from(e.logit())).sum::<f64>() / entries.len() as f64;
    let square = entries.iter().map(|e| (f64::from(e.logit()) - mean).powi(2)).sum::<f64>() / entries.len() as f64;
    Summary {
        head: &entries[..head.min(entries.len())],
        size: entries.len(),
        plain: Totals::of(entries, entries[0].logit(), 1.0),
        warm: Totals::of(entries, entries[0].logit(), temperature),
        deviation: square.sqrt(),
    }
}

#[test]
fn a_head_decides_as_the_whole_row() {
    let random = &mut Random(7);
    let (mut decided, mut whole_kept) = (0, 0);
    for case in 0..6000 {
        let size = random.pick(&[1, 2, 9, 60, 300]);
        let grid = random.pick(&[1.0, 2.0, 1024.0]);
        let entries = row(random, size, grid);
        let temperature = random.pick(&[0.5, 1.0, 1.5]);
        let on = |random: &mut Random| random.next().is_multiple_of(3);
        let mut cuts = Cuts {
            order: random.pick(&[Order::Hf, Order::Vllm, Order::SgLang, Order::LlamaCpp]),
            min_keep: random.pick(&[1, 1, 3, 150]),
            xtc_threshold: random.pick(&[0.0, 0.02, 0.1, 0.6]),
            ..Cuts::default()
        };
        if on(random) {
            cuts.top_k = random.pick(&[1, 4, 20, 119, 1000]);
        }
        if on(random) {
            cuts.top_p = random.pick(&[0.0, 0.3, 0.9, 0.999]);
        }
        if on(random) {
            cuts.min_p = random.pick(&[1e-4, 0.1, 1.0]);
        }
        if on(random) {
            cuts.typical = random.pick(&[0.2, 0.9]);
        }
        if on(random) {
            cuts.epsilon = random.pick(&[1e-4, 0.02, 0.9]);
        }
        if on(random) {
            cuts.eta = random.pick(&[1e-4, 0.02, 0.9]);
        }
        if on(random) {
            cuts.top_h = random.pick(&[0.1, 0.7]);
        }
        if on(random) {
            cuts.top_n_sigma = random.pick(&[0.5, 2.0]);
        }
        let coin = on(random);
        let whole = cut(&summary(&entries, size, temperature), &cuts, temperature, coin).expect("a whole row decides");
        if let Kept::Some(kept) = &whole {
            assert!(!kept.is_empty() && kept.len() < size, "case {case}: {kept:?} of {size} with {cuts:?}");
            whole_kept += 1;
        }
        if let Ok(kept) = cut(&summary(&entries, 120, temperature), &cuts, temperature, coin) {
            // Sums over the head and sums over the row run in one order, so nothing may differ.
            assert_eq!(kept, whole, "case {case}: {cuts:?}, coin {coin}, temperature {temperature}, size {size}");
            decided += usize::from(size > 120);
        }
    }
    assert!(decided > 300 && whole_kept > 3000, "too little was compared: {decided}, {whole_kept}");
}

fn kept_of(logits: &[f32], cuts: Cuts) -> Vec<u32> {
    let mut entries: Vec<Ranked> = logits.iter().zip(0..).map(|(&logit, token)| Ranked::new(logit, token)).collect();
    entries.sort_by(|a, b| b.cmp(a));
    match cut(&summary(&entries, entries.len(), 1.0), &cuts, 1.0, false).expect("a whole row decides") {
        Kept::All => entries.iter().map(|e| e.token()).collect(),
        Kept::Some(kept) => kept.iter().map(|e| e.token()).collect(),
    }
}

#[test]
fn joint_and_sequential_cuts_differ_where_published() {
    let logits: Vec<f32> = [0.30f32, 0.25, 0.24, 0.11, 0.10].iter().map(|p| p.ln()).collect();
    for (order, expected) in [(Order::Hf, 1), (Order::Vllm, 1), (Order::SgLang, 2), (Order::LlamaCpp, 1)] {
        let cuts = Cuts { order, top_k: 3, top_p: 0.35, ..Cuts::default() };
        assert_eq!(kept_of(&logits, cuts).len(), expected, "{order:?}");
    }
}

#[test]
fn ties_with_the_kth_follow_each_system() {
    let logits = [2.0, 3.0, 2.0, 2.0, 1.0];
    for (order, expected) in [(Order::Hf, 4), (Order::Vllm, 4), (Order::SgLang, 2), (Order::LlamaCpp, 2)] {
        let kept = kept_of(&logits, Cuts { order, top_k: 2, ..Cuts::default() });
        assert_eq!(kept, [1, 0, 2, 3][..expected], "{order:?}");
    }
}

#[test]
fn top_p_at_an_exact_border() {
    for (order, expected) in [(Order::Hf, 2), (Order::Vllm, 2), (Order::SgLang, 3), (Order::LlamaCpp, 2)] {
        let cuts = Cuts { order, top_p: 0.5, ..Cuts::default() };
        assert_eq!(kept_of(&[0.0; 4], cuts), [0, 1, 2][..expected], "{order:?}");
    }
}

#[test]
fn shares_of_equal_logits_meet_their_border_exactly() {
    let kept = |logits: &[f32], cuts: &Cuts| {
        let entries: Vec<_> = logits.iter().zip(0..).map(|(&logit, token)| Ranked::new(logit, token)).collect();
        match cut(&summary(&entries, entries.len(), 1.0), cuts, 1.0, cuts.xtc_probability > 0.0) {
            Ok(Kept::Some(kept)) => kept.len(),
            _ => entries.len(),
        }
    };
    let flat = |n: usize, cuts: Cuts| kept(&vec![0.5; n], &cuts);
    for n in [2, 4, 10, 14, 20, 56, 98, 256] {
        for order in [Order::Hf, Order::Vllm, Order::LlamaCpp] {
            assert_eq!(flat(n, Cuts { order, top_p: 0.5, ..Cuts::default() }), n / 2, "{order:?}, {n} tokens");
        }
        assert_eq!(flat(n, Cuts { order: Order::SgLang, top_p: 0.5, ..Cuts::default() }), n / 2 + 1);
        assert_eq!(flat(n, Cuts { order: Order::LlamaCpp, typical: 0.5, ..Cuts::default() }), n / 2 + 1);
        let share = 1.0 / n as f64;
        assert_eq!(flat(n, Cuts { epsilon: share, ..Cuts::default() }), n);
        assert_eq!(flat(n, Cuts { epsilon: share * (1.0 + 1e-9), min_keep: 1, ..Cuts::default() }), n);
        assert_eq!(flat(n, Cuts { xtc_probability: 1.0, xtc_threshold: share, ..Cuts::default() }), 1);
    }
    let halves = [1.0f32, 0.5, 0.25, 0.125].map(f32::ln);
    assert_eq!(kept(&halves, &Cuts { min_p: 0.12, ..Cuts::default() }), 4);
    assert_eq!(kept(&halves, &Cuts { min_p: 0.13, ..Cuts::default() }), 3);
}

#[test]
fn a_spread_beyond_float32_is_left_to_the_whole_row() {
    let entries = [Ranked::new(2.0, 0), Ranked::new(1.0, 1), Ranked::new(f32::MIN, 2)];
    let cuts = Cuts { top_n_sigma: 1.0, ..Cuts::default() };
    let head = Summary { deviation: f64::INFINITY, ..summary(&entries, 2, 1.0) };
    assert_eq!(cut(&head, &cuts, 1.0, false), Err(Undecided));
    assert_eq!(cut(&summary(&entries, 3, 1.0), &cuts, 1.0, false), Ok(Kept::Some(entries[..2].to_vec())));
}
