//! The kernels of attention's statistics on the emulator: the suite of every backend, and what only a device can be
//! asked.

#[allow(dead_code)]
#[path = "support/attention_call.rs"]
mod attention_call;
#[path = "support/statistics_call.rs"]
mod statistics_call;

use attention_call::{Setting, run};
use farspan_core::Dtype;
use farspan_testing::attention::suite::causal;
use farspan_testing::attention::{Hooks, cases};
use farspan_testing::statistics_suite;
use proptest::prelude::*;
use statistics_call::{Emulated, statistics, with_rows};

statistics_suite!(emulated = Some(Emulated));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_lse_is_that_of_attention(draft in cases(), variations in prop::array::uniform2(any::<u64>())) {
        let case = draft.build();
        let [weighed, seen] = variations.map(Setting::varied);
        let (expected, found) = (run(&case, weighed), statistics(&case, seen).unwrap());
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&expected.lse), bits(&found.lse));
    }
}

#[test]
fn a_call_that_lacks_workspace_is_refused() {
    let case = causal(5, 300, 8, Hooks::ALL, Dtype::F32);
    let setting = Setting { multiprocessors: 64, missing_workspace: 1, ..Setting::default() };
    let error = statistics(&case, setting).err().unwrap().to_string();
    assert!(error.starts_with("workspace: expected "), "{error}");
}

#[test]
fn results_of_other_shapes_are_refused_by_name() {
    let case = causal(3, 5, 8, Hooks::default(), Dtype::Bf16);
    for (index, name) in ["lse", "entropy", "largest", "first", "sink", "distance"].into_iter().enumerate() {
        let longer = |of| usize::from(of == index);
        let error = with_rows(&case, Setting::default(), longer).err().unwrap().to_string();
        assert!(error.starts_with(name), "{error}");
    }
}
