//! Linear layers on every instruction set, and the arguments that are refused.

use farspan_core::{Dtype, Error};
use farspan_cpu::dispatch::Machine;
use farspan_cpu::linear::{linear, weight_gradient, x_gradient};
use farspan_cpu::matrix::MatrixMut;
use farspan_testing::cpu::Cpu;
use farspan_testing::linear_suite;
use farspan_testing::numbers::Stored;
use ndarray::Array2;

linear_suite!(portable = Cpu::on(Machine::Portable));
linear_suite!(avx2 = Cpu::on(Machine::Avx2));
linear_suite!(avx512 = Cpu::on(Machine::Avx512));

#[test]
fn what_does_not_fit_is_named() {
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
    let mut four = Array2::zeros((3, 4));
    assert_eq!(name(x_gradient(x.matrix(), weight.matrix(), MatrixMut::F32(four.view_mut()))), "weight");
    assert_eq!(name(weight_gradient(x.matrix(), weight.matrix(), MatrixMut::F32(four.view_mut()))), "x");
    assert_eq!(name(weight_gradient(x.matrix(), x.matrix(), MatrixMut::F32(four.view_mut()))), "out");
}

#[test]
fn signs_of_zeros_and_of_infinities_do_not_depend_on_the_rows_beside() {
    let products = |x: &Stored, weight: &Stored, bias: Option<&[f32]>| {
        let mut out = Array2::zeros((x.rows, weight.rows));
        linear(x.matrix(), weight.matrix(), bias, MatrixMut::F32(out.view_mut())).unwrap();
        out.row(0).iter().map(|number: &f32| number.to_bits()).collect::<Vec<_>>()
    };
    for columns in [1, 3, 4, 5, 8, 9, 15, 16, 17, 32, 40, 47] {
        let many = Stored::new(&vec![1e-30; 20 * columns], 20, columns, 0, Dtype::F32);
        let alone = many.pick(&[0]);
        let weight = Stored::new(&vec![-1e-30; 18 * columns], 18, columns, 0, Dtype::F32);
        for bias in [None, Some([0.0; 18]), Some([-0.0; 18]), Some([f32::NEG_INFINITY; 18])] {
            let bias = bias.as_ref().map(|bias| &bias[..]);
            for cpu in Cpu::all() {
                let found = cpu.alone(0, || products(&many, &weight, bias));
                assert_eq!(found, cpu.alone(0, || products(&alone, &weight, bias)), "{columns} columns, {bias:?}");
            }
        }
    }
}

#[test]
fn many_short_rows_have_the_bits_of_each_alone() {
    let numbers = |count: usize, seed: usize| -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1013) as f32 / 101.0 - 5.0).collect()
    };
    for (columns, features) in [(1, 18), (3, 33), (4, 80), (4, 6200), (5, 33), (8, 80), (9, 18), (16, 33), (47, 2100)] {
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            let many = Stored::new(&numbers(11 * columns, 1), 11, columns, 0, dtype);
            let weight = Stored::new(&numbers(features * columns, 2), features, columns, 0, dtype);
            let bias = numbers(features, 3);
            let products = |x: &Stored| -> Vec<u32> {
                let shape = (x.rows, features);
                let (mut wide, mut half) = (Array2::<f32>::zeros(shape), Array2::<u16>::zeros(shape));
                let out = match dtype {
                    Dtype::F32 => MatrixMut::F32(wide.view_mut()),
                    Dtype::Bf16 => MatrixMut::Bf16(half.view_mut()),
                    Dtype::F16 => MatrixMut::F16(half.view_mut()),
                };
                linear(x.matrix(), weight.matrix(), Some(&bias), out).unwrap();
                match dtype {
                    Dtype::F32 => wide.iter().map(|x| x.to_bits()).collect(),
                    _ => half.iter().copied().map(u32::from).collect(),
                }
            };
            for cpu in Cpu::all() {
                let together = cpu.alone(0, || products(&many));
                for row in [0, 7, 10] {
                    let alone = cpu.alone(0, || products(&many.pick(&[row])));
                    assert_eq!(together[row * features..][..features], alone, "{columns} columns, {dtype:?}");
                }
            }
        }
    }
}
