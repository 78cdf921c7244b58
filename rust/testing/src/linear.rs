//! Random linear layers, and the suite of the instruction sets that compute them.

use crate::cpu::Cpu;
use crate::numbers::{Stored, bits, narrow, normals, unit, widen};
use farspan_core::Dtype;
use farspan_cpu::linear::{linear, weight_gradient, x_gradient};
use farspan_cpu::map;
use ndarray::ArrayViewMut2;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Instantiates the suite.
#[macro_export]
macro_rules! linear_suite {
    ($name:ident = $backend:expr) => {
        $crate::instantiate! {
            $name = $backend, [$crate::linear]:
            products_are_right_and_have_the_same_bits_in_every_call
            gradients_are_right_and_have_the_same_bits_in_every_call
        }
    };
}

/// A linear layer.
#[derive(Clone, Debug)]
pub struct Case {
    pub x: Stored,
    pub weight: Stored,
    pub bias: Option<Vec<f32>>,
}

impl Case {
    /// The numbers of the output.
    fn run(&self) -> Vec<f32> {
        let shape = (self.x.rows, self.weight.rows);
        let mut out = narrow(&vec![7.0; shape.0 * shape.1], self.x.dtype);
        let view = map!(x in &mut out => ArrayViewMut2::from_shape(shape, x).unwrap());
        linear(self.x.matrix(), self.weight.matrix(), self.bias.as_deref(), view).unwrap();
        widen(&out)
    }

    /// The product in float64 and the error it may have: that of its sum and of one rounding.
    fn truth(&self, row: usize, column: usize) -> (f64, f64) {
        let products: Vec<f64> =
            self.x.f64_row(row).iter().zip(self.weight.f64_row(column)).map(|(a, b)| a * b).collect();
        let bias = f64::from(self.bias.as_ref().map_or(0.0, |bias| bias[column]));
        let truth = products.iter().sum::<f64>() + bias;
        let size = products.iter().map(|p| p.abs()).sum::<f64>() + bias.abs();
        let steps = self.x.columns.div_ceil(16) as f64 + 6.0;
        (truth, steps * 2f64.powi(-24) * size + 1.01 * unit(self.x.dtype) * truth.abs() + 1e-7)
    }
}

/// A gradient of a linear layer: `of_weight` or of x, from the slope by the result and the other operand.
#[derive(Clone, Debug)]
struct Slope {
    of_weight: bool,
    slope: Stored,
    other: Stored,
}

impl Slope {
    fn new(case: &Case, of_weight: bool, seed: u64) -> Slope {
        let (rows, features) = (case.x.rows, case.weight.rows);
        let slope = Stored::new(&normals(seed ^ 3, rows * features), rows, features, seed as usize % 4, case.x.dtype);
        Slope { of_weight, slope, other: if of_weight { case.x.clone() } else { case.weight.clone() } }
    }

    /// Rows of the result, terms of each of its sums.
    fn sizes(&self) -> (usize, usize) {
        let sizes = (self.slope.rows, self.slope.columns);
        if self.of_weight { (sizes.1, sizes.0) } else { sizes }
    }

    fn run(&self) -> Vec<f32> {
        let shape = (self.sizes().0, self.other.columns);
        let mut out = narrow(&vec![7.0; shape.0 * shape.1], self.slope.dtype);
        let view = map!(x in &mut out => ArrayViewMut2::from_shape(shape, x).unwrap());
        let product = if self.of_weight { weight_gradient } else { x_gradient };
        product(self.slope.matrix(), self.other.matrix(), view).unwrap();
        widen(&out)
    }

    /// Each number in float64, and the error it may have.
    fn truth(&self) -> Vec<(f64, f64)> {
        let read = |stored: &Stored| (0..stored.rows).map(|i| stored.f64_row(i)).collect::<Vec<_>>();
        let (slope, other) = (read(&self.slope), read(&self.other));
        let (rows, terms) = self.sizes();
        let factor = |row: usize, term: usize| if self.of_weight { slope[term][row] } else { slope[row][term] };
        let steps = terms.min(256) as f64 + 6.0;
        let one = |(row, column): (usize, usize)| {
            let products: Vec<f64> = (0..terms).map(|term| factor(row, term) * other[term][column]).collect();
            let (truth, size) = (products.iter().sum::<f64>(), products.iter().map(|p| p.abs()).sum::<f64>());
            (truth, steps * 2f64.powi(-24) * size + 1.01 * unit(self.slope.dtype) * truth.abs() + 1e-7)
        };
        (0..rows).flat_map(|row| (0..self.other.columns).map(move |column| (row, column))).map(one).collect()
    }
}

/// Sizes and element types that reach every branch; many rows of whole vectors of float32 among them.
pub fn cases() -> impl Strategy<Value = Case> {
    let dtype = || prop_oneof![Just(Dtype::F32), Just(Dtype::Bf16), Just(Dtype::F16)];
    let rows = prop_oneof![3 => 0usize..10, 1 => 10usize..150];
    let features = prop_oneof![3 => 0usize..80, 1 => 500usize..600];
    let inner = prop_oneof![3 => 0usize..70, 1 => 200usize..280];
    let vectors = (48usize..150, 0usize..80, (3usize..10).prop_map(|count| 16 * count), Just(Dtype::F32));
    let sizes = prop_oneof![4 => (rows, features, inner, dtype()), 1 => vectors];
    (sizes, dtype(), any::<bool>(), any::<u64>()).prop_map(|((rows, features, inner, x), weight, biased, seed)| Case {
        x: Stored::new(&normals(seed, rows * inner), rows, inner, seed as usize % 3, x),
        weight: Stored::new(&normals(seed ^ 1, features * inner), features, inner, seed as usize % 5, weight),
        bias: biased.then(|| normals(seed ^ 2, features)),
    })
}

pub fn products_are_right_and_have_the_same_bits_in_every_call(cpu: &Cpu) {
    let count = if cpu.name() == "portable" { 30 } else { 140 };
    let mut runner = TestRunner::new(ProptestConfig::with_cases(count));
    let checked = runner.run(&(cases(), any::<prop::sample::Index>()), |(case, pick)| {
        let (rows, features) = (case.x.rows, case.weight.rows);
        let whole = cpu.alone(0, || case.run());
        for row in 0..rows {
            for column in 0..features {
                let got = f64::from(whole[row * features + column]);
                let (truth, allowed) = case.truth(row, column);
                prop_assert!((got - truth).abs() <= allowed, "[{row}, {column}]: {got}, not {truth}, by {allowed:e}");
            }
        }
        prop_assert_eq!(bits(&whole), bits(&cpu.alone(1, || case.run())), "one thread");
        if rows > 0 {
            let row = pick.index(rows);
            let alone = Case { x: case.x.pick(&[row]), ..case.clone() };
            let alone = cpu.alone(2, || alone.run());
            prop_assert_eq!(bits(&whole[row * features..(row + 1) * features]), bits(&alone), "row {} alone", row);
        }
        for other in Cpu::all() {
            prop_assert_eq!(bits(&whole), bits(&other.alone(0, || case.run())), "{}", other.name());
        }
        Ok(())
    });
    checked.unwrap();
}

pub fn gradients_are_right_and_have_the_same_bits_in_every_call(cpu: &Cpu) {
    let count = if cpu.name() == "portable" { 20 } else { 80 };
    let mut runner = TestRunner::new(ProptestConfig::with_cases(count));
    let checked = runner.run(&(cases(), any::<bool>(), any::<u64>()), |(case, of_weight, seed)| {
        let slope = Slope::new(&case, of_weight, seed);
        let whole = cpu.alone(0, || slope.run());
        for (i, ((truth, allowed), got)) in slope.truth().into_iter().zip(&whole).enumerate() {
            prop_assert!((f64::from(*got) - truth).abs() <= allowed, "number {i}: {got}, not {truth}, by {allowed:e}");
        }
        prop_assert_eq!(bits(&whole), bits(&cpu.alone(1, || slope.run())), "one thread");
        if !of_weight && case.x.rows > 0 {
            let row = seed as usize % case.x.rows;
            let alone = Slope { slope: slope.slope.pick(&[row]), ..slope.clone() };
            let alone = cpu.alone(2, || alone.run());
            let columns = slope.other.columns;
            prop_assert_eq!(bits(&whole[row * columns..(row + 1) * columns]), bits(&alone), "row {} alone", row);
        }
        for other in Cpu::all() {
            prop_assert_eq!(bits(&whole), bits(&other.alone(0, || slope.run())), "{}", other.name());
        }
        Ok(())
    });
    checked.unwrap();
}
