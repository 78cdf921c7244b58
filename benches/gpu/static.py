"""What the kernels cost by their machine code, without a GPU; writes benches/results/kernels.json.

    python benches/gpu/static.py            every kernel, for every architecture
    python benches/gpu/static.py --quick    the kernels of LIMITS, printed

NVRTC compiles the kernels, and nvdisasm reads the loop that each spends its time in. NVRTC comes with torch; nvdisasm
does with triton, or by `pip install nvidia-cuda-nvdisasm`. An issue slot is one instruction of one warp. What a trip
through the loop is:

    attention_*, attention_statistics_*     a warp's 16 rows and a chunk of 64 keys
    unembed_*_rows*                         128 bytes of each row of a tile: copied, and multiplied

Kernels of float32 use no tensor cores, by which the way through a loop is known: no trip is told of these. A lone warp
of attention may turn keys where they lie: a trip with that is told too. Of kernels around these loops, and of what
comes behind the loop of unembed_*, the way is told: its instructions outside of loops, and one trip through each loop.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farspan import _core
from farspan._backend.compiler import cuda_status, open_compiler
from sass import INSTALL, Cost, Instruction, cost_of_trip, disassembled, find_nvdisasm, main_loop, way

RESULTS = Path(__file__).resolve().parent.parent / "results" / "kernels.json"
LOOPS_ON = 90
"""The compute capability whose loops are read."""

LIMITS = {
    "attention_bf16_d128_w4": 950, "attention_bf16_d128_w1": 1190, "attention_bf16_d128_w1, keys turned": 2270,
    "attention_bf16_d64_w1, keys turned": 1420, "unembed_bf16_rows8": 150,
}  # fmt: skip
"""The most issue slots of a trip through the loops that most calls run: prefill, decode, and a draw of few rows."""

TURNING = ", keys turned"
"""Behind the name of a kernel: where it turns keys in its tiles."""

ROUNDINGS, WEIGHTS, LOADS, STORES = "F2FP", "MUFU", "LDG", "STG"
"""Kinds of instructions that tell a way that turns keys, one that weighs them, and one that reads or writes all."""

AROUND = {
    "attention_prepare": STORES, "attention_rotate": STORES, "attention_combine": LOADS,
    "attention_statistics_combine": LOADS, "unembed_": STORES,
}  # fmt: skip
"""Kernels around the loops, and what the way through them does most."""


@dataclass(frozen=True)
class Multiprocessor:
    """What bounds its blocks."""

    shared_bytes: int
    threads: int
    blocks: int
    registers: int = 1 << 16
    reserved_shared_bytes: int = 1 << 10

    def blocks_of(self, threads: int, registers: int, shared_bytes: int) -> int:
        """Registers are given to warps, by 256."""
        of_warp = -(-32 * registers // 256) * 256
        by_registers = self.registers // of_warp // (threads // 32)
        by_shared = self.shared_bytes // (shared_bytes + self.reserved_shared_bytes)
        return min(by_registers, by_shared, self.threads // threads, self.blocks)


MULTIPROCESSORS = {
    80: Multiprocessor(164 << 10, 2048, 32),
    86: Multiprocessor(100 << 10, 1536, 16),
    89: Multiprocessor(100 << 10, 1536, 24),
    90: Multiprocessor(228 << 10, 2048, 32),
    100: Multiprocessor(228 << 10, 2048, 32),
    120: Multiprocessor(100 << 10, 1536, 24),
}
"""By compute capability, from the CUDA programming guide: those of `farspan_cuda::survey::ARCHITECTURES`."""


def target(architecture: int) -> str:
    return f"sm_{architecture}{'a' if 90 <= architecture < 120 else ''}"


def work_of(name: str, threads: int) -> tuple[int, int] | None:
    """How many pieces of 16 bytes a thread copies in one trip, of a chunk's keys and values or of a slab of a tile, and
    in how many products of tensor cores it takes part. None where a kernel has no such trip."""
    family, *words = name.split("_")
    weighs = words[0] != "statistics"
    words = words if weighs else words[1:]
    if words[0] not in ("bf16", "f16"):
        return None
    if family == "attention":
        width = int(words[1][1:])
        columns = width + (min(width, 128) if weighs else 0)
        return 64 * columns * 2 // 16 // threads, 64 * columns // 128
    if family == "unembed":
        rows = int(words[1][4:])
        products = (128 // 16) * (rows // 8) * (128 // 2 // 16) // (threads // 32)
        return -(-(128 + rows) * 128 // (16 * threads)), products
    return None


def most_of(name: str) -> str:
    """The kind of instructions that the way through a kernel's loop has most of, where products and copies alone do not
    tell it; the name may end in TURNING."""
    if name.endswith(TURNING):
        return ROUNDINGS
    return WEIGHTS if name.startswith("attention_statistics") else ""  # a way without products of values may weigh none


def trip_of(code: Sequence[Instruction], name: str, threads: int) -> dict[str, int] | None:
    """The loop of a kernel; None where the kernel has none of its own."""
    loop, work = main_loop(code), work_of(name, threads)
    cost = cost_of_trip(code, *work, most_of(name)) if work is not None else None
    if loop is None or work is None or cost is None:
        return None
    found = {
        "instructions": len(loop[0]), "issue slots": cost.instructions, "products": cost.products,
        "copies": cost.copies, "special functions": cost.kinds[WEIGHTS],
    }  # fmt: skip
    turned = cost_of_trip(code, *work, most_of(name + TURNING)) if turns_keys(name, threads) else None
    if turned is not None:
        found["issue slots" + TURNING] = turned.instructions
    return found


def turns_keys(name: str, threads: int) -> bool:
    return name.startswith("attention") and threads == 32


def way_of(code: Sequence[Instruction], name: str) -> dict[str, Any] | None:
    """The way through a kernel around the loops; None of others."""
    most = next((most for prefix, most in AROUND.items() if name.startswith(prefix)), None)
    if most is None:
        return None
    found = way(code, most)
    loops = sorted((loop.instructions for loop in found.within if not loop.products), reverse=True)
    return {"issue slots": found.once.instructions, "of a trip through each loop": loops}


def kernel_row(nvdisasm: str, kernel: tuple[str, int, int, int], architectures: list[int]) -> dict[str, Any]:
    name, threads, shared, stack = kernel
    needs, params = {}, 0
    for architecture in architectures:
        machine = MULTIPROCESSORS[architecture]
        _, (registers, local, params, size) = _core.cuda_compile(name, architecture)
        blocks = machine.blocks_of(threads, registers, shared)
        needs[target(architecture)] = [registers, max(0, local - stack), size, blocks]
    code = disassembled(nvdisasm, _core.cuda_compile(name, LOOPS_ON)[0])
    return {
        "name": name, "threads": threads, "params_bytes": params, "stack_bytes": stack, "shared_bytes": shared,
        "registers, spilled bytes, code bytes, blocks of a multiprocessor": needs,
        "trip": trip_of(code, name, threads), "way": way_of(code, name),
    }  # fmt: skip


def table(architectures: list[int]) -> dict[str, Any]:
    nvdisasm = find_nvdisasm()
    if nvdisasm is None:
        raise SystemExit(f"static: no nvdisasm: {INSTALL}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(lambda kernel: kernel_row(nvdisasm, kernel, architectures), _core.cuda_kernels()))
    before = json.loads(RESULTS.read_text()).get("before", {}) if RESULTS.exists() else {}
    nvrtc = cuda_status()["nvrtc"]["version"]
    return {"nvrtc": nvrtc, "loops on": target(LOOPS_ON), "before": before, "kernels": rows}


def text_of(found: dict[str, Any]) -> str:
    """A line for each kernel."""
    head = [f"{json.dumps(name)}: {json.dumps(x)}" for name, x in found.items() if name != "kernels"]
    rows = ",\n".join(json.dumps(row) for row in found["kernels"])
    return "{\n" + ",\n".join(head) + ',\n"kernels": [\n' + rows + "\n]\n}\n"


def line(row: dict[str, Any], before: dict[str, int]) -> str:
    registers, spilled, _, blocks = row["registers, spilled bytes, code bytes, blocks of a multiprocessor"][
        target(LOOPS_ON)
    ]
    needs = f"{registers} registers, {spilled} spilled, {row['shared_bytes']} shared, {blocks} blocks"
    trip, around = row["trip"], row["way"]
    if around is not None:
        needs += f"; the way: {around['issue slots']} slots, and {around['of a trip through each loop']}"
    if trip is None:
        return f"{row['name']:<30} {needs}"
    was = f" (before: {before[row['name']]})" if row["name"] in before else ""
    turned = trip.get("issue slots" + TURNING)
    with_turns = "" if turned is None else f", {turned} where keys turn"
    return f"{row['name']:<30} {needs}; a trip: {trip['issue slots']} slots{was}{with_turns}"


def quick() -> dict[str, Cost]:
    """The trips of the kernels of LIMITS."""
    nvdisasm = find_nvdisasm()
    assert nvdisasm is not None
    threads = {name: threads for name, threads, _, _ in _core.cuda_kernels()}
    open_compiler()
    found = {}
    for limited in LIMITS:
        name = limited.removesuffix(TURNING)
        cubin, _ = _core.cuda_compile(name, LOOPS_ON)
        work = work_of(name, threads[name])
        assert work is not None
        cost = cost_of_trip(disassembled(nvdisasm, cubin), *work, most_of(limited))
        assert cost is not None
        found[limited] = cost
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some kernels, nothing written")
    what = f"compute capabilities; those of the loops, {LOOPS_ON}, are always among them (default: all)"
    parser.add_argument("--on", type=int, nargs="+", choices=MULTIPROCESSORS, default=[*MULTIPROCESSORS], help=what)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where to write the table instead")
    chosen = parser.parse_args()
    if find_nvdisasm() is None:
        print(f"static: no nvdisasm here: {INSTALL}", file=sys.stderr)
        return 2
    open_compiler()
    if chosen.quick:
        for name, cost in quick().items():
            most = ", ".join(f"{count} {kind}" for kind, count in cost.kinds.most_common(8))
            print(f"{name:<30} {cost.instructions} issue slots, at most {LIMITS[name]}: {most}")
        return 0
    found = table(sorted({*chosen.on, LOOPS_ON}))
    for row in found["kernels"]:
        print(line(row, found["before"].get("issue slots", {})))
    chosen.out.write_text(text_of(found))
    print(f"written: {os.path.relpath(chosen.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
