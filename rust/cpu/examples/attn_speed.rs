//! Temporary timing harness.
use farspan_core::attention::{Rules, Shape, dense_sequences};
use farspan_cpu::attention::*;
use farspan_cpu::{View, ViewMut, threads::set_num_threads};
use ndarray::{ArrayD, IxDyn};
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let what = args.get(1).map_or("prefill", |s| s);
    let threads: usize = args.get(2).map_or(1, |s| s.parse().unwrap());
    set_num_threads(threads).unwrap();
    let dims: Vec<usize> = args.get(3).map_or(vec![128], |s| s.split(',').map(|x| x.parse().unwrap()).collect());
    let rotary = args.get(4).is_some_and(|s| s == "rotary");
    for d in dims {
        let cases: Vec<(usize, usize, usize, usize, bool)> = if what == "prefill" {
            vec![
                (8, 8, 1024, 1024, false),
                (8, 8, 1024, 1024, true),
                (2, 2, 4096, 4096, false),
                (2, 2, 4096, 4096, true),
            ]
        } else {
            vec![(32, 8, 1, 8192, true), (8, 8, 1, 8192, true), (32, 8, 1, 200, true)]
        };
        for (h, g, n, m, causal) in cases {
            for dtype in ["f32", "bf16", "f16"] {
                one(h, g, n, m, d, causal, dtype, rotary);
            }
        }
    }
}

fn one(h: usize, g: usize, n: usize, m: usize, d: usize, causal: bool, dtype: &str, rotary: bool) {
    let shape = Shape::new([1, h, n, d], [1, g, m, d], [1, g, m, d]).unwrap();
    let mut seed = 1u64;
    let mut fill = |count: usize| -> Vec<f32> {
        (0..count)
            .map(|_| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((seed >> 40) as f32 / (1 << 23) as f32 - 1.0) * 1.7
            })
            .collect()
    };
    let (q, k, v) = (fill(h * n * d), fill(g * m * d), fill(g * m * d));
    let narrow =
        |x: &Vec<f32>| -> Vec<u16> {
            x.iter()
                .map(|x| {
                    if dtype == "bf16" { half::bf16::from_f32(*x).to_bits() } else { half::f16::from_f32(*x).to_bits() }
                })
                .collect()
        };
    let arr = |s: [usize; 4], x: Vec<f32>| ArrayD::from_shape_vec(IxDyn(&s), x).unwrap();
    let arr16 = |s: [usize; 4], x: Vec<u16>| ArrayD::from_shape_vec(IxDyn(&s), x).unwrap();
    let (sq, sk) = ([1, h, n, d], [1, g, m, d]);
    let (qh, kh, vh) = (arr16(sq, narrow(&q)), arr16(sk, narrow(&k)), arr16(sk, narrow(&v)));
    let (q, k, v) = (arr(sq, q), arr(sk, k), arr(sk, v));
    let sequences = dense_sequences(&shape, None).unwrap();
    let rules = Rules { causal, ..Rules::plain(d) };
    fn view<'a, T>(a: &'a ArrayD<T>) -> View<'a, T, 4> {
        View::new("x", &a.view()).unwrap()
    }
    let input = |a: &'static str| match (dtype, a) {
        ("f32", "q") => Input::F32(view(&q)),
        ("f32", "k") => Input::F32(view(&k)),
        ("f32", _) => Input::F32(view(&v)),
        ("bf16", "q") => Input::Bf16(view(&qh)),
        ("bf16", "k") => Input::Bf16(view(&kh)),
        ("bf16", _) => Input::Bf16(view(&vh)),
        (_, "q") => Input::F16(view(&qh)),
        (_, "k") => Input::F16(view(&kh)),
        (_, _) => Input::F16(view(&vh)),
    };
    let inv = ndarray::Array2::from_shape_fn((1, d / 2), |(_, i)| 10000f32.powf(-2.0 * i as f32 / d as f32));
    let problem = Attention {
        query: input("q"),
        key: input("k"),
        value: input("v"),
        sequences: &sequences,
        rules,
        query_scale: None,
        key_bias: None,
        distance_bias: None,
        sink: None,
        query_positions: None,
        key_positions: None,
        rotary: rotary.then(|| Rotary {
            inv_freq: View::new("inv", &inv.view()).unwrap(),
            magnitude: 1.0,
            interleaved: false,
            far: None,
        }),
    };
    let mut out = ArrayD::<f32>::zeros(IxDyn(&sq));
    let mut out16 = ArrayD::<u16>::zeros(IxDyn(&sq));
    let mut best = f64::INFINITY;
    let start = Instant::now();
    let mut rounds = 0;
    while rounds < 3 || start.elapsed().as_secs_f64() < 0.8 {
        let t = Instant::now();
        let output = match dtype {
            "f32" => Output::F32(ViewMut::new("o", &mut out.view_mut()).unwrap()),
            "bf16" => Output::Bf16(ViewMut::new("o", &mut out16.view_mut()).unwrap()),
            _ => Output::F16(ViewMut::new("o", &mut out16.view_mut()).unwrap()),
        };
        attention(&problem, output, None).unwrap();
        best = best.min(t.elapsed().as_secs_f64());
        rounds += 1;
    }
    let flops = 4.0 * h as f64 * n as f64 * m as f64 * d as f64 * if causal && n > 1 { 0.5 } else { 1.0 };
    let bytes = (g * m * d * 2 * if dtype == "f32" { 4 } else { 2 }) as f64;
    println!(
        "{dtype:5} h{h}/{g} n{n} m{m} d{d} causal={causal:5} {:8.3} ms  {:6.1} GF/s {:6.1} GB/s",
        best * 1e3,
        flops / best / 1e9,
        bytes / best / 1e9
    );
}
