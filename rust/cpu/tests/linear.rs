//! Linear layers against float64, their rounding, and the promise that a row has the same bits in every call.

#[path = "support/unembed_case.rs"]
#[expect(dead_code, reason = "shared with the tests of the unembedding")]
mod unembed_case;

use farspan_core::{Dtype, Error};
use farspan_cpu::dispatch::{MACHINES, force};
use farspan_cpu::linear::linear;
use farspan_cpu::matrix::MatrixMut;
use farspan_cpu::threads::set_num_threads;
use half::{bf16, f16};
use ndarray::Array2;
use proptest::prelude::*;
use std::sync::{Mutex, PoisonError};
use unembed_case::{Stored, normals};

/// Machine and thread count are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

#[derive(Clone, Debug)]
struct Case {
    x: Stored,
    weight: Stored,
    bias: Option<Vec<f32>>,
}

impl Case {
    /// The output's bits, those of a float32 or of a half.
    fn run(&self) -> Vec<u32> {
        let shape = (self.x.rows, self.weight.rows);
        let mut wide = Array2::from_elem(shape, 7.0f32);
        let mut half = Array2::from_elem(shape, 7u16);
        let out = match self.x.dtype {
            Dtype::F32 => MatrixMut::F32(wide.view_mut()),
            Dtype::Bf16 => MatrixMut::Bf16(half.view_mut()),
            Dtype::F16 => MatrixMut::F16(half.view_mut()),
        };
        linear(self.x.matrix(), self.weight.matrix(), self.bias.as_deref(), out).unwrap();
        match self.x.dtype {
            Dtype::F32 => wide.iter().map(|x| x.to_bits()).collect(),
            _ => half.iter().map(|x| u32::from(*x)).collect(),
        }
    }

    fn number(&self, bits: u32) -> f64 {
        match self.x.dtype {
            Dtype::F32 => f64::from(f32::from_bits(bits)),
            Dtype::Bf16 => bf16::from_bits(bits as u16).to_f64(),
            Dtype::F16 => f16::from_bits(bits as u16).to_f64(),
        }
    }

    /// The product in float64 and the error it may have: that of its sum and of one rounding.
    fn truth(&self, row: usize, column: usize) -> (f64, f64) {
        let products: Vec<f64> =
            self.x.f64_row(row).iter().zip(self.weight.f64_row(column)).map(|(a, b)| a * b).collect();
        let bias = f64::from(self.bias.as_ref().map_or(0.0, |bias| bias[column]));
        let truth = products.iter().sum::<f64>() + bias;
        let size = products.iter().map(|p| p.abs()).sum::<f64>() + bias.abs();
        let steps = self.x.columns.div_ceil(16) as f64 + 6.0;
        let rounding = match self.x.dtype {
            Dtype::F32 => 2f64.powi(-24),
            Dtype::Bf16 => 2f64.powi(-8),
            Dtype::F16 => 2f64.powi(-11),
        };
        (truth, steps * 2f64.powi(-24) * size + 1.01 * rounding * truth.abs() + 1e-7)
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let dtype = || prop_oneof![Just(Dtype::F32), Just(Dtype::Bf16), Just(Dtype::F16)];
    let rows = prop_oneof![3 => 0usize..10, 1 => 10usize..150];
    let features = prop_oneof![3 => 0usize..80, 1 => 500usize..600];
    let inner = prop_oneof![3 => 0usize..70, 1 => 200usize..280];
    (rows, features, inner, dtype(), dtype(), any::<bool>(), any::<u64>()).prop_map(
        |(rows, features, inner, x, weight, biased, seed)| Case {
            x: Stored::new(&normals(seed, rows * inner), rows, inner, seed as usize % 3, x),
            weight: Stored::new(&normals(seed ^ 1, features * inner), features, inner, seed as usize % 5, weight),
            bias: biased.then(|| normals(seed ^ 2, features)),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn products_are_right_and_have_the_same_bits_everywhere(case in cases(), pick in any::<prop::sample::Index>()) {
        let _guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        force(None);
        set_num_threads(2).unwrap();
        let (rows, features) = (case.x.rows, case.weight.rows);
        let whole = case.run();
        for row in 0..rows {
            for column in 0..features {
                let got = case.number(whole[row * features + column]);
                let (truth, allowed) = case.truth(row, column);
                prop_assert!((got - truth).abs() <= allowed, "[{row}, {column}]: {got}, not {truth}, by {allowed:e}");
            }
        }
        set_num_threads(1).unwrap();
        prop_assert_eq!(&whole, &case.run(), "one thread");
        set_num_threads(3).unwrap();
        if rows > 0 {
            let row = pick.index(rows);
            let alone = Case { x: case.x.pick(&[row]), ..case.clone() };
            prop_assert_eq!(&whole[row * features..(row + 1) * features], &alone.run()[..], "row {} alone", row);
        }
        for machine in MACHINES.into_iter().filter(|machine| machine.is_available()) {
            force(Some(machine));
            prop_assert_eq!(&whole, &case.run(), "{}", machine.name());
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let _guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let x = Stored::new(&[1.0; 12], 3, 4, 0, Dtype::F32);
    let weight = Stored::new(&[1.0; 8], 2, 4, 0, Dtype::F32);
    let narrow = Stored::new(&[1.0; 6], 2, 3, 0, Dtype::F32);
    let mut wide = Array2::zeros((3, 2));
    let mut half = Array2::zeros((3, 2));
    let mut small = Array2::zeros((3, 1));
    let name = |result: farspan_core::Result<()>| match result.unwrap_err() {
        Error::Argument { argument, .. } | Error::Dtype { argument, .. } | Error::Backend { argument, .. } => argument,
    };
    assert_eq!(name(linear(x.matrix(), narrow.matrix(), None, MatrixMut::F32(wide.view_mut()))), "weight");
    assert_eq!(name(linear(x.matrix(), weight.matrix(), Some(&[0.0; 3]), MatrixMut::F32(wide.view_mut()))), "bias");
    assert_eq!(name(linear(x.matrix(), weight.matrix(), None, MatrixMut::F32(small.view_mut()))), "out");
    assert_eq!(name(linear(x.matrix(), weight.matrix(), None, MatrixMut::Bf16(half.view_mut()))), "out");
}
