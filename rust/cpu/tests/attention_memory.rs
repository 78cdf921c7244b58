//! Attention needs no memory that grows with the square of the time.
#![cfg(target_os = "linux")]

use farspan_core::attention::{Rules, Shape, dense_sequences};
use farspan_cpu::attention::{Attention, Input, Output, attention};
use farspan_cpu::{View, ViewMut, threads::set_num_threads};
use ndarray::Array4;

/// Most memory that this process has ever had, in KiB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn input(array: &Array4<f32>) -> Input<'_> {
    Input::F32(View::new("input", &array.view()).unwrap())
}

#[test]
fn scratch_stays_small_over_32k_keys() {
    const TIME: usize = 32 * 1024;
    const DIM: usize = 16;
    set_num_threads(2).unwrap();
    let sizes = (1, 1, TIME, DIM);
    let key = Array4::from_shape_fn(sizes, |(_, _, t, d)| ((t * 7 + d * 3) % 11) as f32 / 11.0);
    for queries in [TIME, 1] {
        let query = Array4::from_shape_fn((1, 1, queries, DIM), |(_, _, t, d)| ((t * 5 + d) % 13) as f32 / 13.0);
        let mut output = Array4::<f32>::ones((1, 1, queries, DIM));
        let shape = Shape::new([1, 1, queries, DIM], [1, 1, TIME, DIM], [1, 1, TIME, DIM]).unwrap();
        let sequences = dense_sequences(&shape, None).unwrap();
        let before = peak();
        let problem = Attention {
            query: input(&query),
            key: input(&key),
            value: input(&key),
            block_table: None,
            sequences: &sequences,
            rules: Rules { causal: true, window: (Some(4096), None), ..Rules::plain(DIM) },
            query_scale: None,
            key_bias: None,
            distance_bias: None,
            sink: None,
            query_positions: None,
            key_positions: None,
            rotary: None,
        };
        attention(&problem, Output::F32(ViewMut::new("output", &mut output.view_mut()).unwrap()), None).unwrap();
        let used = peak() - before;
        assert!(used < 8 * 1024, "{queries} queries on {TIME} keys took {used} KiB more");
        assert!(output.iter().all(|x| x.is_finite()));
    }
}
