"""The kernels' loops by their machine code: how they are read, and that the most used ones have not grown."""

from __future__ import annotations

from pathlib import Path

import pytest

import static
from farspan._backend.nvrtc import find_nvrtc
from sass import INSTALL, Instruction, cost_of_trip, find_nvdisasm, loops, main_loop, way


def code(text: str) -> list[Instruction]:
    """An instruction a line: `? OPCODE operands`, `?` where it is conditional; a branch names the line it goes to."""
    found = []
    for line in text.strip().splitlines():
        words = line.split()
        conditional = words[0] == "?"
        opcode, *operands = words[conditional:]
        operands = [hex(16 * int(operands[0]))] if opcode == "BRA" else operands
        found.append(Instruction(opcode, " ".join(operands), conditional))
    return found


LOOP = """
MOV
HMMA
? BRA 5
LDGSTS
? BRA 3
FADD
? BRA 10
HMMA
? BRA 1
EXIT
MUFU
MUFU
BRA 7
"""
"""Lines 1 to 8 are a loop, 3 and 4 one within it, and 10 to 12 lie behind the end but belong to it."""


def test_a_trip_does_the_most_work_in_the_fewest_instructions() -> None:
    instructions = code(LOOP)
    found = main_loop(instructions)
    assert found == ([1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12], 1)
    cost = cost_of_trip(instructions)
    assert cost is not None
    assert (cost.products, cost.copies) == (2, 1), "the copies are on the way, what lies behind the end is not"
    assert cost.instructions == 8
    filled = cost_of_trip(instructions, copies=4)
    assert filled is not None
    assert (filled.copies, filled.instructions) == (4, 8 + 3 * 2), "the loop within copies once a trip"


def test_a_kind_that_is_asked_for_is_work_too() -> None:
    loop = code("MOV\nHMMA\n? BRA 6\nF2FP\nF2FP\nFMUL\n? BRA 1\nEXIT")
    costs = [cost_of_trip(loop, most=most) for most in ("", "F2FP")]
    assert [cost.instructions for cost in costs if cost is not None] == [3, 6]


def test_the_way_through_a_kernel_has_its_loops_beside_it() -> None:
    kernel = code("MOV\n? BRA 6\nSTG\nFADD\n? BRA 3\nEXIT\nEXIT")
    found = way(kernel, "STG")
    assert found.once.kinds == {"MOV": 1, "BRA": 1, "STG": 1, "EXIT": 1}
    assert [loop.kinds for loop in found.within] == [{"FADD": 1, "BRA": 1}]


def test_code_without_a_loop_has_no_trip() -> None:
    assert cost_of_trip(code("MOV\n? BRA 3\nFADD\nEXIT")) is None
    assert loops([0, 1, 2], {0: [1], 1: [2], 2: [1]}) == [[1, 2]]
    assert loops([0], {0: [0]}) == [[0]]


def test_blocks_are_bounded_by_the_scarcest() -> None:
    machine = static.Multiprocessor(shared_bytes=100 << 10, threads=1536, blocks=16)
    assert machine.blocks_of(threads=128, registers=32, shared_bytes=0) == 12
    assert machine.blocks_of(threads=32, registers=32, shared_bytes=0) == 16
    assert machine.blocks_of(threads=128, registers=168, shared_bytes=0) == 3
    assert machine.blocks_of(threads=128, registers=32, shared_bytes=49 << 10) == 2


def test_a_loop_of_products_is_walked_as_often_as_a_trip_has_products() -> None:
    within = code("MOV\nHMMA\n? BRA 1\nLDGSTS\n? BRA 3\n? BRA 0\nEXIT")
    cost = cost_of_trip(within, copies=3, products=5)
    assert cost is not None
    assert (cost.products, cost.copies, cost.instructions) == (5, 3, 5 * 2 + 3 * 2 + 2)


def test_the_work_of_a_trip_fills_its_tiles() -> None:
    assert static.work_of("attention_bf16_d128_w4", 128) == (16, 128)
    assert static.work_of("attention_f16_d256_w4_hooks", 128) == (24, 192)
    assert static.work_of("attention_statistics_bf16_d128_w4", 128) == (8, 64)
    assert static.work_of("unembed_bf16_rows8", 256) == (5, 4)
    without = (
        "attention_prepare", "attention_combine_bf16_d128", "attention_statistics_combine", "unembed_target_bf16",
        "unembed_merge_rows", "attention_f32_d256_w1_hooks", "unembed_f32_rows64", "probe_bf16",
    )  # fmt: skip
    for name in without:
        assert static.work_of(name, 128) is None, name


@pytest.mark.skipif(find_nvdisasm() is None, reason=f"no nvdisasm here: {INSTALL}")
@pytest.mark.skipif(find_nvrtc().path is None, reason="no NVRTC here: pip install nvidia-cuda-nvrtc")
def test_the_loops_that_most_calls_run_have_not_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = static.quick()
    grown = {name: cost.instructions for name, cost in found.items() if cost.instructions > static.LIMITS[name]}
    assert not grown, f"issue slots of a trip; benches/gpu/static.py has the limits {static.LIMITS}"
    assert found["attention_bf16_d128_w4"].products == 128
