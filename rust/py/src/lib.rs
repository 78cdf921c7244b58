//! `farspan._core`: every operation of the backend as one Python function over NumPy arrays. Arguments are positional
//! and already normalised by `farspan.attention` and its siblings; outputs are allocated by the caller.
#![deny(unsafe_code)]

mod arrays;
mod attention;
#[expect(unsafe_code, reason = "memory of a device has addresses, for which Python answers")]
mod cuda;
mod failure;
mod layout;
mod linear;
mod loss;
mod machine;
mod named;
mod rowwise;
mod settings;
mod shard;
mod unembed;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(attention::attention, module)?)?;
    module.add("HOOKS", PyTuple::new(module.py(), attention::hooks::Hooks::<()>::NAMES)?)?;
    module.add_function(wrap_pyfunction!(attention::backward::attention_backward, module)?)?;
    module.add_function(wrap_pyfunction!(attention::backward::attention_backward_of_heads, module)?)?;
    module.add("ABOVE", PyTuple::new(module.py(), attention::backward::Above::<()>::NAMES)?)?;
    module.add("GRADIENTS", PyTuple::new(module.py(), attention::backward::Gradients::<()>::NAMES)?)?;
    module.add_function(wrap_pyfunction!(attention::statistics::attention_statistics, module)?)?;
    module.add("STATISTICS", PyTuple::new(module.py(), attention::statistics::Statistics::<()>::NAMES)?)?;
    module.add_function(wrap_pyfunction!(linear::linear, module)?)?;
    module.add_function(wrap_pyfunction!(linear::linear_x_gradient, module)?)?;
    module.add_function(wrap_pyfunction!(linear::linear_weight_gradient, module)?)?;
    module.add_function(wrap_pyfunction!(rowwise::rms_norm, module)?)?;
    module.add_function(wrap_pyfunction!(rowwise::add_rms_norm, module)?)?;
    module.add_function(wrap_pyfunction!(rowwise::rms_norm_gradient, module)?)?;
    module.add_function(wrap_pyfunction!(rowwise::activate, module)?)?;
    module.add_function(wrap_pyfunction!(rowwise::activate_gradient, module)?)?;
    for (list, names) in settings::lists() {
        module.add(list, PyTuple::new(module.py(), names)?)?;
    }
    module.add_function(wrap_pyfunction!(unembed::greedy, module)?)?;
    module.add_function(wrap_pyfunction!(unembed::sample, module)?)?;
    module.add("SHARD_UNIT", farspan_core::unembed::SHARD_UNIT)?;
    module.add_function(wrap_pyfunction!(shard::sum_of_ranks, module)?)?;
    module.add_function(wrap_pyfunction!(unembed::score, module)?)?;
    module.add_function(wrap_pyfunction!(unembed::top, module)?)?;
    module.add_function(wrap_pyfunction!(loss::linear_cross_entropy, module)?)?;
    module.add_function(wrap_pyfunction!(loss::linear_cross_entropy_gradient, module)?)?;
    module.add_function(wrap_pyfunction!(loss::score_gradient, module)?)?;
    module.add_function(wrap_pyfunction!(loss::divergence, module)?)?;
    module.add_function(wrap_pyfunction!(loss::divergence_gradient, module)?)?;
    module.add_function(wrap_pyfunction!(unembed::rank, module)?)?;
    module.add_function(wrap_pyfunction!(unembed::second_passes, module)?)?;
    module.add_function(wrap_pyfunction!(machine::set_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(machine::num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(machine::force_cpu, module)?)?;
    module.add_function(wrap_pyfunction!(machine::cpu_info, module)?)?;
    module.add_class::<cuda::device::Emulator>()?;
    module.add_function(wrap_pyfunction!(cuda::attention::cuda_attention, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::attention::cuda_attention_backward, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::attention::cuda_attention_statistics, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::unembed::cuda_sample, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::unembed::cuda_sample_on_host, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::unembed::cuda_rank, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::unembed::cuda_score, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::unembed::cuda_top, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::loss::cuda_linear_cross_entropy, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::loss::cuda_linear_cross_entropy_gradient, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::loss::cuda_score_gradient, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::loss::cuda_divergence, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::loss::cuda_divergence_gradient, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::probe::cuda_probe, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::cuda_status, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::cuda_open, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::cuda_warning, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::cuda_cache, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::cuda_clear_cache, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::cuda_warm, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::cuda_kernels, module)?)?;
    module.add_function(wrap_pyfunction!(cuda::cuda_compile, module)?)?;
    Ok(())
}
