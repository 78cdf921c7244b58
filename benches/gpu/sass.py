"""Machine code as nvdisasm tells it: the loop that a kernel spends its time in, and what a trip through it costs.

The path that counts is the one that does the work: of all ways through the loop those with the most products, of these
those that copy the most, of these those with the most instructions of a kind that may be asked for, and of these the
shortest. A loop within is walked once, and more often where a trip is known to have more products or copies than that.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

INSTALL = "pip install nvidia-cuda-nvdisasm"
ENDS = ("EXIT", "RET", "BPT")
PRODUCTS = ("HMMA", "IMMA", "DMMA")
COPIES = ("LDGSTS", "UTMALDG")


@dataclass(frozen=True)
class Instruction:
    opcode: str
    operands: str
    conditional: bool

    @property
    def kind(self) -> str:
        """`IMAD` of `IMAD.MOV.U32`."""
        return self.opcode.partition(".")[0]

    @property
    def target(self) -> int | None:
        """Where a branch goes, as an index; None for others."""
        found = re.findall(r"0x([0-9a-f]+)", self.operands) if self.kind in ("BRA", "JMP") else []
        return int(found[-1], 16) // 16 if found else None


@dataclass
class Cost:
    """A way through some code."""

    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def products(self) -> int:
        return sum(self.kinds[kind] for kind in PRODUCTS)

    @property
    def copies(self) -> int:
        return sum(self.kinds[kind] for kind in COPIES)

    @property
    def instructions(self) -> int:
        return self.kinds.total()

    def rank(self, most: str) -> tuple[int, int, int, int]:
        return self.products, self.copies, self.kinds[most], -self.instructions

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.kinds + other.kinds)


def find_nvdisasm() -> str | None:
    """Where `FARSPAN_NVDISASM` says, on the path, or in Python's packages: NVIDIA's own, or the one in triton."""
    named = os.environ.get("FARSPAN_NVDISASM") or shutil.which("nvdisasm")
    if named:
        return named
    imported = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    packages = dict.fromkeys([sysconfig.get_path("purelib"), *imported])
    places = ("nvidia/cu*/bin/nvdisasm", "nvidia/cuda_nvdisasm/bin/nvdisasm", "triton/backends/nvidia/bin/nvdisasm")
    found = (path for place in places for folder in packages for path in sorted(Path(folder).glob(place), reverse=True))
    return next(map(str, found), None)


def disassembled(nvdisasm: str, cubin: bytes) -> list[Instruction]:
    """The instructions of the only kernel in a file. Some versions list the compiler's own subroutines behind it."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([nvdisasm, "-json", file.name], check=True, capture_output=True, text=True).stdout
    _, functions = json.loads(text)
    (function,) = (function for function in functions if not function["function-name"].startswith("$"))
    return [
        Instruction(x["opcode"], x.get("operands", ""), _is_conditional(x)) for x in function["sass-instructions"]
    ]  # fmt: skip


def _is_conditional(x: Mapping[str, str]) -> bool:
    """A predicate before the instruction, or one among a branch's operands."""
    return x.get("predicate", "@PT") != "@PT" or (x["opcode"].startswith("BRA") and "," in x.get("operands", ""))


def successors(code: Sequence[Instruction]) -> list[list[int]]:
    found = []
    for at, instruction in enumerate(code):
        target, ends = instruction.target, instruction.kind in ENDS
        goes_on = instruction.conditional or not (ends or target is not None)
        following = [at + 1] if goes_on and at + 1 < len(code) else []
        found.append([*following, *([target] if target is not None and target < len(code) else [])])
    return found


def loops(nodes: Iterable[int], edges: Mapping[int, Iterable[int]]) -> list[list[int]]:
    """The strongly connected parts of more than one node, or with an edge to itself: Tarjan 1972, without recursion."""
    inside, order, low, stack, on_stack, found = set(nodes), {}, {}, [], set(), []
    for root in sorted(inside):
        work = [(root, iter(()))] if root not in order else []
        while work:
            node, rest = work.pop()
            if node not in order:
                order[node] = low[node] = len(order)
                stack.append(node)
                on_stack.add(node)
                rest = iter([to for to in edges[node] if to in inside])
            descended = False
            for to in rest:
                if to not in order:
                    work += [(node, rest), (to, iter(()))]
                    descended = True
                    break
                if to in on_stack:
                    low[node] = min(low[node], low[to])
            if descended:
                continue
            if low[node] == order[node]:
                part = []
                while not part or part[-1] != node:
                    part.append(stack.pop())
                    on_stack.discard(part[-1])
                if len(part) > 1 or node in edges[node]:
                    found.append(sorted(part))
            if work:
                parent = work[-1][0]
                low[parent] = min(low[parent], low[node])
    return found


@dataclass(frozen=True)
class Trip:
    """One trip through a loop, without the loops within it; and one trip through each of these that is on its way."""

    once: Cost
    within: tuple[Cost, ...] = ()

    def whole(self) -> Cost:
        return sum(self.within, self.once)

    def then(self, other: Trip) -> Trip:
        return Trip(self.once + other.once, self.within + other.within)


def trip(
    part: Sequence[int], code: Sequence[Instruction], edges: Mapping[int, Sequence[int]], header: int, most: str = ""
) -> Trip:
    """The way through a loop that does the most work in the fewest instructions; `most` is a kind of them that is work
    too."""
    nodes = set(part)
    inner = {node: [to for to in edges[node] if to in nodes and to != header] for node in nodes}
    nested = loops(nodes, inner)
    member = {node: index for index, loop in enumerate(nested) for node in loop}
    heads = [min(loop) for loop in nested]
    within = []
    for loop, head in zip(nested, heads, strict=True):
        entries = {to for node in nodes - set(loop) for to in inner[node] if to in set(loop)}
        own = trip(loop, code, edges, min(entries, default=head), most)
        within.append(own.whole())

    def place(node: int) -> int:
        return -1 - member[node] if node in member else node

    graph: dict[int, set[int]] = {place(node): set() for node in nodes}
    for node in nodes:
        graph[place(node)] |= {place(to) for to in inner[node]} - {place(node)}
    ends = {place(node) for node in nodes if header in edges[node]}
    best: dict[int, tuple[tuple[int, int, int, int], Trip]] = {}

    def own(at: int) -> Trip:
        if at < 0:
            return Trip(Cost(), (within[-1 - at],))
        return Trip(Cost(Counter([code[at].kind])))

    for at in _behind_first(graph, place(header)):
        ways = [best[to] for to in graph[at] if to in best]
        if not ways and at not in ends:
            continue
        here = own(at)
        chosen = [here.then(way) for _, way in ways] + ([here] if at in ends else [])
        ranked = [(way.whole().rank(most), way) for way in chosen]
        best[at] = max(ranked, key=lambda pair: pair[0])
    return best[place(header)][1]


def _behind_first(graph: Mapping[int, Iterable[int]], root: int) -> list[int]:
    """The nodes of a graph without cycles, each after all that it leads to."""
    done: list[int] = []
    seen, work = {root}, [(root, iter(sorted(graph[root])))]
    while work:
        node, rest = work[-1]
        following = next((to for to in rest if to not in seen), None)
        if following is None:
            work.pop()
            done.append(node)
        else:
            seen.add(following)
            work.append((following, iter(sorted(graph[following]))))
    return done


def main_loop(code: Sequence[Instruction]) -> tuple[list[int], int] | None:
    """The instructions of the outermost loop with the most products, or with the most instructions, and its header."""
    edges = dict(enumerate(successors(code)))
    parts = loops(edges, edges)
    if not parts:
        return None
    part = max(parts, key=lambda part: (sum(code[at].kind in PRODUCTS for at in part), len(part)))
    inside = set(part)
    entries = Counter(to for at in edges if at not in inside for to in edges[at] if to in inside)
    return part, min(entries, default=part[0])


def way(code: Sequence[Instruction], most: str) -> Trip:
    """From a kernel's beginning to an end of it."""
    ends = [at for at, instruction in enumerate(code) if instruction.kind == "EXIT"]
    edges = dict(enumerate(successors(code))) | {at: [*successors(code)[at], 0] for at in ends}
    return trip(range(len(code)), code, edges, 0, most)


def cost_of_trip(code: Sequence[Instruction], copies: int = 0, products: int = 0, most: str = "") -> Cost | None:
    """One trip through the main loop, in which a thread copies so many pieces and takes part in so many products, if
    the loops within are walked often enough for that; None where there is no loop."""
    found = main_loop(code)
    if found is None:
        return None
    part, header = found
    one = trip(part, code, dict(enumerate(successors(code))), header, most)
    cost = one.once
    for loop in one.within:
        of_copies = [x.copies for x in one.within if not x.products]
        of_products = [x.products for x in one.within]
        if loop.products:
            times = (products - one.once.products) / sum(of_products)
        else:
            times = (copies - one.once.copies) / sum(of_copies) if loop.copies else 1.0
        cost += Cost(Counter({kind: round(max(1.0, times) * count) for kind, count in loop.kinds.items()}))
    return cost
