"""`farspan info`: versions, processor, threads, and which backend each operation uses and why not the others."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from farspan._errors import Error
from farspan.commands.options import add_json
from farspan.commands.output import print_json
from farspan.lab.machine import processor_name

SUMMARY = "Versions, processor, and which backend each operation uses and why."

OPERATIONS = {
    "attention": "attention",
    "linear": "linear",
    "greedy, sample": "sample",
    "score": "score",
    "top": "top",
}
"""What the operations are called for people, and the function of `farspan._core` that computes them."""

OPTIONAL_PACKAGES = (
    "torch",
    "ml_dtypes",
    "transformers",
    "tokenizers",
    "huggingface_hub",
    "jinja2",
    "gguf",
    "matplotlib",
    "tqdm",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = "compute every operation, on a GPU with every kernel, and compare with the definitions; needs torch"
    parser.add_argument("--check", action="store_true", help=what)
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    print_info(as_json=options.json, check=options.check)


def info() -> dict[str, Any]:
    """Everything `farspan info` knows, as one JSON document. Needs numpy alone."""
    import numpy

    from farspan import __version__

    return {
        "farspan": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "numpy": numpy.__version__,
        "packages": {name: _version(name) for name in OPTIONAL_PACKAGES},
        **_backends(),
    }


def print_info(*, as_json: bool, check: bool = False) -> None:
    """Print what `info` gives, as JSON or in lines for people, and whether the operations here are right."""
    known = info()
    if check:
        from farspan.commands.check import check_everything

        known["check"] = check_everything()
    if as_json:
        print_json(known)
    else:
        _print_lines(known)
    wrong = [text for found in known["check"]["devices"].values() for text in found["wrong"]] if check else []
    if wrong:
        raise Error(f"check: {len(wrong)} results are wrong; the first is {wrong[0]}")


def _print_lines(known: dict[str, Any]) -> None:
    print(f"farspan {known['farspan']}, Python {known['python']}, {known['platform']}, numpy {known['numpy']}")
    found = [f"{name} {number}" for name, number in known["packages"].items() if number]
    print("packages: " + (", ".join(found) or "none of the optional ones"))
    absent = [name for name, number in known["packages"].items() if not number]
    if absent:
        print("not installed: " + ", ".join(absent))
    cpu = known["cpu"]
    print(f"processor: {cpu['name']}, {cpu['threads']} threads in use")
    for name, state in cpu["instruction_sets"].items():
        print(f"  {name:<10}{state}")
    print("operations:")
    for name, operation in known["operations"].items():
        print(f"  {name:<16}{operation['backend']}")
    for device in known["cuda"]["devices"]:
        print(f"GPU {device['ordinal']}: {device['name']}, {device['memory'] / 2**30:.0f} GiB")
    print("other backends:")
    for name, reason in _other_backends(known["cuda"]).items():
        print(f"  {name:<10}{reason}")
    if "check" in known:
        _print_check(known["check"])


def _print_check(check: dict[str, Any]) -> None:
    print("check:")
    for device, found in check["devices"].items():
        share = f"the largest error is {found['largest_share_of_allowed']:.0%} of what is allowed"
        verdict = f"{len(found['wrong'])} are wrong" if found["wrong"] else "all are right"
        print(f"  {device:<10}{found['comparisons']} results compared, {verdict}; {share}")
        for text in found["wrong"]:
            print(f"    {text}")
    if check["cuda"] is not None:
        print(f"  {'cuda':<10}off, and not checked: {check['cuda']}")


def _backends() -> dict[str, Any]:
    from farspan import _core
    from farspan._backend.compiler import cuda_status

    used, sets = _core.cpu_info()
    cuda = cuda_status()
    states = {name: _state(name, used, available) for name, available in sets}
    return {
        "cpu": {"name": processor_name(), "threads": _core.num_threads(), "instruction_sets": states},
        "operations": {name: {"backend": used} for name, core in OPERATIONS.items() if hasattr(_core, core)},
        "cuda": cuda,
        "not_used": {name: state for name, state in states.items() if name != used} | _other_backends(cuda),
    }


def _state(name: str, used: str, available: bool) -> str:
    if name == used:
        return "in use"
    if not available:
        return "this processor lacks it"
    return f"FARSPAN_CPU asks for {used}" if os.environ.get("FARSPAN_CPU") else f"{used} is faster here"


def _other_backends(cuda: dict[str, Any]) -> dict[str, str]:
    torch = "torch is installed" if importlib.util.find_spec("torch") else "torch is not installed"
    return {
        "cuda": cuda["reason"]
        or f"for tensors on a GPU: attention and unembedding, by NVRTC {cuda['nvrtc']['version']}",
        "reference": f"eager torch, for tests and training: Transformer(config, backend='reference'); {torch}",
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
