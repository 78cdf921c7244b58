"""The wheel as a stranger gets it: small, portable, and working with numpy alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_MEGABYTES = 10
OLDEST_GLIBC = (2, 17)

LINUX = sys.platform.startswith("linux")


@pytest.fixture(scope="session")
def wheel() -> Path:
    """What `make wheel` builds; make itself knows whether the one in dist/ is still current."""
    built = subprocess.run(["make", "wheel"], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = (ROOT / "dist").glob("farspan-*.whl")
    return found


@pytest.fixture(scope="session")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds numpy and the wheel, and was never offered anything else."""
    folder = tmp_path_factory.mktemp("stranger")
    venv.create(folder, with_pip=True, symlinks=True)
    executable = folder / "bin" / "python"
    (site_packages,) = folder.glob("lib/python3*/site-packages")
    copy_numpy(site_packages)
    # Without an index, pip fails if the wheel asks for anything that is not there yet.
    command = [executable, "-m", "pip", "install", "--no-index", "--disable-pip-version-check", wheel]
    installed = subprocess.run(command, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    return executable


def copy_numpy(site_packages: Path) -> None:
    """Copied from the running Python, so that the test needs no network."""
    source = Path(numpy.__file__).parent
    for folder in (source, *source.parent.glob("numpy.libs"), *source.parent.glob("numpy-*-info")):
        shutil.copytree(folder, site_packages / folder.name, ignore=shutil.ignore_patterns("tests", "__pycache__"))


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run from the environment's own folder, isolated from this repository and from PYTHONPATH."""
    return shown([str(python), "-I", *arguments], python.parent)


def shown(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FARSPAN"))}
    return subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True, timeout=120)


def output_of(python: Path, program: str) -> str:
    done = run(python, "-c", program)
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_size(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_MEGABYTES * 1e6


@pytest.mark.skipif(not LINUX, reason="manylinux tags exist on Linux only")
def test_tag_serves_every_python_from_311_and_old_linux(wheel: Path) -> None:
    _, _, python_tag, abi_tag, platform_tag = wheel.stem.split("-")
    assert (python_tag, abi_tag) == ("cp311", "abi3")
    assert any(tag.startswith("manylinux_2_17_") for tag in platform_tag.split("."))


@pytest.mark.skipif(not LINUX, reason="glibc symbol versions exist on Linux only")
def test_compiled_module_needs_no_newer_glibc(wheel: Path) -> None:
    ((name, module),) = [(name, data) for name, data in contents(wheel).items() if name.endswith(".so")]
    assert name == "farspan/_core.abi3.so"
    # Version names stand in the dynamic string table as they are spelt.
    versions = {(int(major), int(minor)) for major, minor in re.findall(rb"GLIBC_(\d+)\.(\d+)", module)}
    assert versions, "a module that calls the C library names its versions"
    assert max(versions) <= OLDEST_GLIBC


def test_contents(wheel: Path) -> None:
    names = contents(wheel).keys()
    embedded = {f"farspan/embedded/{name}" for name in ("CARD.md", "config.json", "model.safetensors")}
    assert {"farspan/py.typed", "farspan/_core.pyi", *embedded} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    strangers = [name for name in names if not re.match(r"farspan/|farspan-[\d.]+\.(dist-info|data)/", name)]
    assert not strangers


def test_nothing_names_a_folder_of_the_building_machine(wheel: Path) -> None:
    folders = [str(folder).encode() for folder in (ROOT, Path.home()) if folder != Path("/")]
    naming = [name for name, data in contents(wheel).items() if any(folder in data for folder in folders)]
    assert not naming


def metadata_of(wheel: Path) -> str:
    (metadata,) = [data.decode() for name, data in contents(wheel).items() if name.endswith(".dist-info/METADATA")]
    return metadata


def description_of(wheel: Path) -> str:
    """What package pages show: the text behind the headers."""
    return metadata_of(wheel).partition("\n\n")[2]


def test_the_package_page_has_no_link_that_leads_nowhere(wheel: Path) -> None:
    """There are no files beside a package page: a link is whole, or leads to a heading of the page itself."""
    description = description_of(wheel)
    assert len(description) > 1000
    links = re.findall(r"\]\(([^)\s]+)\)|(?:href|src)=\"([^\"]+)\"|^\[[^\]]+\]:\s*(\S+)", description, re.MULTILINE)
    assert [link for found in links for link in found if link and not re.match(r"https?://|#", link)] == []
    assert "python/README.md" not in description


def test_the_examples_of_the_package_page_run_with_numpy_alone(wheel: Path, python: Path) -> None:
    examples = re.findall(r"^```python\n(.*?)^```$", description_of(wheel), re.MULTILINE | re.DOTALL)
    assert len(examples) >= 2
    alone = [example for example in examples if "load_embedded" not in example]
    assert alone
    output_of(python, "\n".join(alone))
    with_torch = [example for example in examples if "load_embedded" in example]
    for example in with_torch:
        compile(example, "package page", "exec")
        assert "pip install torch" in run(python, "-c", example).stderr


def test_numpy_is_the_only_requirement(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert [re.match(r"Requires-Dist: ([\w-]+)", line).group(1) for line in required] == ["numpy"]


def test_import_is_quick_and_loads_no_torch(python: Path) -> None:
    program = """
import sys, time
started = time.perf_counter()
import farspan
print(time.perf_counter() - started, "torch" in sys.modules)
"""
    runs = [output_of(python, program).split() for _ in range(3)]
    assert min(float(seconds) for seconds, _ in runs) < 1.0
    assert {torch for _, torch in runs} == {"False"}


def test_attention_on_numpy(python: Path) -> None:
    program = """
import farspan, numpy as np
rng = np.random.default_rng(0)
query, key, value = (rng.standard_normal((2, 4, 9, 16), dtype=np.float32) for _ in range(3))
scores = query @ key.swapaxes(-1, -2) / 4 + np.where(np.tri(9, dtype=bool), 0, -np.inf)
weights = np.exp(scores - scores.max(-1, keepdims=True))
expected = weights @ value / weights.sum(-1, keepdims=True)
output = farspan.attention(query, key, value, causal=True)
assert type(output) is np.ndarray and output.dtype == np.float32
print(np.abs(output - expected).max())
"""
    assert float(output_of(python, program)) < 1e-5


def test_sampling_on_numpy(python: Path) -> None:
    program = """
import farspan, numpy as np
rng = np.random.default_rng(0)
hidden, weight = rng.standard_normal((5, 32), dtype=np.float32), rng.standard_normal((1000, 32), dtype=np.float32)
logits = hidden @ weight.T
assert (farspan.greedy(hidden, weight).token == logits.argmax(-1)).all()
together = farspan.sample(hidden, weight, seed=7, position=3, stream=np.arange(5))
alone = farspan.sample(hidden[4], weight, seed=7, position=3, stream=4)
assert together.token[4] == alone.token and together.logprob[4] == alone.logprob
normal = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
print(np.abs(together.logprob - (logits[np.arange(5), together.token] - normal)).max())
"""
    assert float(output_of(python, program)) < 1e-4


def test_info_for_people_and_for_programs(python: Path) -> None:
    command = str(python.parent / "farspan")
    table, document = shown([command, "info"], python.parent), shown([command, "info", "--json"], python.parent)
    assert (table.returncode, document.returncode) == (0, 0), table.stderr + document.stderr
    assert "attention" in table.stdout
    assert "torch" in table.stdout
    assert "attention" in json.dumps(json.loads(document.stdout))


def test_without_torch_a_model_is_one_clear_line(python: Path) -> None:
    done = run(python, "-m", "farspan", "generate", "--prompt", "x", "--max-new-tokens", "1")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("pip install torch")
