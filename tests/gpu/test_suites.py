"""The property suites of the CPU, on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from property.test_attention_gradients import (
    test_a_sequence_of_a_batch_has_the_bits_it_has_alone,
    test_gradients_are_those_of_the_definition,
)
from property.test_attention_property import test_attention_is_its_definition
from property.test_loss_property import test_losses_and_their_gradients_are_their_definitions
from property.test_sampler_property import run, test_settings_are_their_definition
from property.test_statistics_property import test_statistics_are_their_definition
from property.test_unembed_property import test_unembedding_is_its_definition
from support.on_gpu import gpu_kernels
from support.sampler_cases import Case
from unit.test_determinism import (
    test_a_draw_does_not_change_with_its_batch,
    test_a_prefill_row_is_the_decode_step,
    test_keys_in_pages_change_no_bit,
)
from unit.test_noise import test_the_far_tail_has_64_bits, test_the_kernels_noise_is_the_reference

import farspan

__all__ = [
    "test_a_draw_does_not_change_with_its_batch",
    "test_a_prefill_row_is_the_decode_step",
    "test_a_sequence_of_a_batch_has_the_bits_it_has_alone",
    "test_attention_is_its_definition",
    "test_gradients_are_those_of_the_definition",
    "test_keys_in_pages_change_no_bit",
    "test_losses_and_their_gradients_are_their_definitions",
    "test_settings_are_their_definition",
    "test_statistics_are_their_definition",
    "test_the_far_tail_has_64_bits",
    "test_the_kernels_noise_is_the_reference",
    "test_unembedding_is_its_definition",
]


def on_gpu(case: Case, kind: str) -> farspan.Sample:
    with gpu_kernels():
        result = run(case, kind)
        assert result.rank is not None  # counted while the GPU's kernels are in place
    return result


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The sampler suite draws here by the GPU alone."""
    if metafunc.function is test_settings_are_their_definition:
        draw: Callable[[Case, str], farspan.Sample] = on_gpu
        metafunc.definition.own_markers[:] = [m for m in metafunc.definition.own_markers if m.name != "parametrize"]
        metafunc.parametrize("draw", [draw], ids=["cuda"])
