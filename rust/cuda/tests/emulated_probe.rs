//! The probe's product in the emulator: right, and for each row the same wherever it stands in its tile. That last is
//! the emulator's by construction; `tests/gpu` asks a GPU the same.

use farspan_core::Dtype;
use farspan_cuda::emulator::Emulator;
use farspan_cuda::probe::product;

const ROWS: usize = 16;
const DEPTH: usize = 16;
const COLUMNS: usize = 8;

/// Small whole numbers, whose products and sums no format rounds.
fn numbers(count: usize, start: usize) -> Vec<i32> {
    (start..start + count).map(|i| (i * i % 13) as i32 - 6).collect()
}

/// A whole number in bfloat16: it has so few bits that the upper half of a float32 holds all of them.
fn bfloat16(number: &i32) -> u16 {
    ((*number as f32).to_bits() >> 16) as u16
}

fn emulated(a: &[i32], b: &[i32]) -> Vec<f32> {
    let emulator = Emulator::open(&farspan_cuda_emulator::library()).unwrap();
    let (a, b): (Vec<_>, Vec<_>) = (a.iter().map(bfloat16).collect(), b.iter().map(bfloat16).collect());
    let tiles = a.len() / (ROWS * DEPTH);
    let mut c = vec![f32::NAN; tiles * ROWS * COLUMNS];
    let address = |pointer: *const u16| pointer as u64;
    // SAFETY: the three vectors are of the shapes that the product takes, and outlive it.
    unsafe {
        product(&emulator, Dtype::Bf16, tiles as u32, address(a.as_ptr()), address(b.as_ptr()), c.as_mut_ptr() as u64)
    }
    .unwrap();
    c
}

#[test]
fn the_product_is_right() {
    let (a, b) = (numbers(2 * ROWS * DEPTH, 0), numbers(2 * COLUMNS * DEPTH, 5));
    let c = emulated(&a, &b);
    for (i, &found) in c.iter().enumerate() {
        let (row, column) = (i / COLUMNS, i / (ROWS * COLUMNS) * COLUMNS + i % COLUMNS);
        let expected: i32 = (0..DEPTH).map(|k| a[row * DEPTH + k] * b[column * DEPTH + k]).sum();
        assert_eq!(found, expected as f32, "row {row}, column {column}");
    }
}

#[test]
fn a_row_is_the_same_in_every_place() {
    let (a, b) = (numbers(ROWS * DEPTH, 0), numbers(COLUMNS * DEPTH, 5));
    let c = emulated(&a, &b);
    for shift in 1..ROWS {
        let turned = [&a[shift * DEPTH..], &a[..shift * DEPTH]].concat();
        assert_eq!(emulated(&turned, &b), [&c[shift * COLUMNS..], &c[..shift * COLUMNS]].concat());
    }
}

#[test]
fn float32_has_no_such_product() {
    let emulator = Emulator::open(&farspan_cuda_emulator::library()).unwrap();
    // SAFETY: nothing is launched.
    let refused = unsafe { product(&emulator, Dtype::F32, 1, 0, 0, 0) };
    assert_eq!(refused.unwrap_err().to_string(), "a: expected bfloat16 or float16, given float32");
}
