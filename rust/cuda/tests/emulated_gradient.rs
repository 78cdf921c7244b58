//! The kernels of attention's backward pass on the emulator: the suite of every backend, and what only a device can be
//! asked.

#[allow(dead_code)]
#[path = "support/attention_call.rs"]
mod attention_call;
#[path = "support/gradient_call.rs"]
mod gradient_call;

use attention_call::Setting;
use farspan_core::Dtype;
use farspan_testing::attention::Hooks;
use farspan_testing::attention::suite::causal;
use farspan_testing::gradient::{Ask, upstream};
use farspan_testing::gradient_suite;
use gradient_call::{Emulated, backward};

gradient_suite!(emulated = Some(Emulated));

#[test]
fn a_call_that_lacks_workspace_is_refused() {
    let case = causal(5, 30, 8, Hooks::ALL, Dtype::F32);
    let setting = Setting { missing_workspace: 1, ..Setting::default() };
    let error = backward(&case, &upstream(&case, 1), &Ask::ALL, setting).err().unwrap().to_string();
    assert!(error.starts_with("workspace: expected "), "{error}");
}
