//! The statistics of attention on every instruction set, which all give the same bits, and the LSE of attention.

use farspan_core::attention::{Rules, Shape, dense_sequences};
use farspan_cpu::attention::{Attention, Input, Statistics, attention_statistics};
use farspan_cpu::dispatch::Machine;
use farspan_cpu::{View, ViewMut};
use farspan_testing::attention::{self, cases};
use farspan_testing::cpu::Cpu;
use farspan_testing::statistics::{Backend, assert_bits};
use farspan_testing::statistics_suite;
use ndarray::{Array3, Array4};
use proptest::prelude::*;

statistics_suite!(portable = Cpu::on(Machine::Portable));
statistics_suite!(avx2 = Cpu::on(Machine::Avx2));
statistics_suite!(avx512 = Cpu::on(Machine::Avx512));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_machine_gives_the_same_statistics_and_attention_its_lse(draft in cases()) {
        let case = draft.build();
        let expected = Cpu::best().run(&case, 0);
        for cpu in Cpu::all() {
            assert_bits(&expected, &cpu.run(&case, 0), cpu.name());
        }
        let weighed = attention::Backend::run(&Cpu::best(), &case, 1);
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&weighed.lse), bits(&expected.lse));
    }
}

#[test]
fn results_of_other_shapes_are_refused_by_name() {
    let array = Array4::<f32>::zeros((1, 2, 3, 8));
    let input = Input::F32(View::new("input", &array.view()).unwrap());
    let shape = Shape::new([1, 2, 3, 8], [1, 2, 3, 8], [1, 2, 3, 8]).unwrap();
    let problem = Attention {
        query: input,
        key: input,
        value: input,
        block_table: None,
        sequences: &dense_sequences(&shape, None).unwrap(),
        rules: Rules::plain(8),
        query_scale: None,
        key_bias: None,
        distance_bias: None,
        sink: None,
        query_positions: None,
        key_positions: None,
        rotary: None,
    };
    for wrong in 0..6 {
        let mut arrays: [Array3<f32>; 6] =
            std::array::from_fn(|i| Array3::zeros((1, 2, if i == wrong { 4 } else { 3 })));
        let [lse, entropy, largest, first, sink, distance] =
            arrays.each_mut().map(|x| ViewMut::new("test", &mut x.view_mut()).unwrap());
        let views = Statistics { lse, entropy, largest, first, sink, distance };
        let error = attention_statistics(&problem, views).unwrap_err().to_string();
        let name = ["lse", "entropy", "largest", "first", "sink", "distance"][wrong];
        assert!(error.starts_with(name), "{error}");
    }
}
