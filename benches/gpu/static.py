"""What the kernels cost by their machine code, without a GPU; writes benches/results/kernels.json.

    python benches/gpu/static.py            every kernel, for every architecture
    python benches/gpu/static.py --quick    the kernels of LIMITS, printed

NVRTC compiles the kernels, and nvdisasm reads the loop that each spends its time in. NVRTC comes with torch; nvdisasm
does with triton, or by `pip install nvidia-cuda-nvdisasm`. An issue slot is one instruction of one warp. What a trip
through the loop is:

    attention_*            a warp's 16 rows and a chunk of 64 keys
    unembed_*_rows*        128 bytes of each row of a tile: copied, and multiplied

Kernels of float32 use no tensor cores, by which the way through a loop is known: no trip is told of these.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farspan import _core
from farspan._backend.compiler import cuda_status, open_compiler
from sass import INSTALL, Cost, cost_of_trip, disassembled, find_nvdisasm, main_loop

RESULTS = Path(__file__).resolve().parent.parent / "results" / "kernels.json"
LOOPS_ON = 90
"""The compute capability whose loops are read."""

LIMITS = {"attention_bf16_d128_w4": 950, "attention_bf16_d128_w1": 1190, "unembed_bf16_rows8": 150}
"""The most issue slots of a trip through the loops that most calls run: prefill, decode, and a draw of few rows."""


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
    if words[0] not in ("bf16", "f16"):
        return None
    if family == "attention":
        width = int(words[1][1:])
        columns = width + (width // 2 if width > 128 else width)
        return 64 * columns * 2 // 16 // threads, 64 * columns // 128
    if family == "unembed":
        rows = int(words[1][4:])
        products = (128 // 16) * (rows // 8) * (128 // 2 // 16) // (threads // 32)
        return -(-(128 + rows) * 128 // (16 * threads)), products
    return None


def trip_of(nvdisasm: str, name: str, threads: int) -> dict[str, int] | None:
    """The loop of a kernel; None where the kernel has none of its own."""
    cubin, _ = _core.cuda_compile(name, LOOPS_ON)
    code = disassembled(nvdisasm, cubin)
    loop, work = main_loop(code), work_of(name, threads)
    cost = cost_of_trip(code, *work) if work is not None else None
    if loop is None or cost is None:
        return None
    return {
        "instructions": len(loop[0]), "issue slots": cost.instructions, "products": cost.products,
        "copies": cost.copies, "special functions": cost.kinds["MUFU"],
    }  # fmt: skip


def kernel_row(nvdisasm: str, kernel: tuple[str, int, int, int], architectures: list[int]) -> dict[str, Any]:
    name, threads, shared, stack = kernel
    needs, params = {}, 0
    for architecture in architectures:
        machine = MULTIPROCESSORS[architecture]
        _, (registers, local, params, code) = _core.cuda_compile(name, architecture)
        blocks = machine.blocks_of(threads, registers, shared)
        needs[target(architecture)] = [registers, max(0, local - stack), code, blocks]
    return {
        "name": name, "threads": threads, "params_bytes": params, "stack_bytes": stack, "shared_bytes": shared,
        "registers, spilled bytes, code bytes, blocks of a multiprocessor": needs,
        "trip": trip_of(nvdisasm, name, threads),
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
    trip = row["trip"]
    if trip is None:
        return f"{row['name']:<30} {needs}"
    was = f" (before: {before[row['name']]})" if row["name"] in before else ""
    return f"{row['name']:<30} {needs}; a trip: {trip['issue slots']} slots{was} of {trip['instructions']} instructions"


def quick() -> dict[str, Cost]:
    """The trips of the kernels of LIMITS."""
    nvdisasm = find_nvdisasm()
    assert nvdisasm is not None
    threads = {name: threads for name, threads, _, _ in _core.cuda_kernels()}
    open_compiler()
    found = {}
    for name in LIMITS:
        cubin, _ = _core.cuda_compile(name, LOOPS_ON)
        work = work_of(name, threads[name])
        assert work is not None
        cost = cost_of_trip(disassembled(nvdisasm, cubin), *work)
        assert cost is not None
        found[name] = cost
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
