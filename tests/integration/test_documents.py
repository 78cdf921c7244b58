"""The documents are true: their examples and commands run, and together they name everything a user can call."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

farspan = pytest.importorskip("farspan")
pytest.importorskip("torch", reason="the examples use torch")

from support.documents import PAGES, ROOT, Block, blocks, matches, run_page  # noqa: E402

DOCUMENTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
README_BYTES = 14_000
SOURCES = {".py", ".rs", ".cuh"}
EVERY_BLOCK = [block for page in PAGES for block in blocks(page)]
EXAMPLES = "".join(block.code for block in EVERY_BLOCK if block.language == "python")
COMMANDS = [command for block in EVERY_BLOCK if block.language == "console" for command in block.commands]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.runs for block in blocks(page))], ids=name_of)
def test_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page)


def test_readme_is_short_enough_to_be_read() -> None:
    assert (ROOT / "README.md").stat().st_size <= README_BYTES


@pytest.mark.parametrize("target", sorted({command[1] for command in COMMANDS if command[0] == "make"}))
def test_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_readme_names_the_two_commands() -> None:
    readme = [command for block in blocks(ROOT / "README.md") for command in block.commands]
    assert ["make", "demo"] in readme
    assert ["make", "test"] in readme


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_paths_it_names_exist(document: Path) -> None:
    text = document.read_text()
    named = re.findall(r"`((?:\.ci|benches|docs|python|rust|tests|tools)/[\w./-]+)`", text)
    assert [path for path in named if not (ROOT / path).exists()] == []
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if not is_target(document, link)] == []


def is_target(document: Path, link: str) -> bool:
    """Whether a relative link leads to a file, and to a heading of it where the link names one."""
    path, _, heading = link.partition("#")
    file = document.parent / path if path else document
    if not heading or not file.is_file():
        return file.exists()
    titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return heading in {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=name_of)
def test_the_index_leads_to_every_page(page: Path) -> None:
    index = ROOT / "docs" / "index.md"
    assert page == index or f"({page.name})" in index.read_text()


@pytest.mark.parametrize("name", sorted(farspan.__all__))
def test_public_name_is_in_an_example(name: str) -> None:
    assert re.search(rf"\b{name}\b", EXAMPLES)


@pytest.mark.parametrize("operation", [farspan.attention, farspan.sample], ids=lambda operation: operation.__name__)
def test_every_argument_is_in_an_example(operation: Callable[..., object]) -> None:
    missing = [name for name in inspect.signature(operation).parameters if not re.search(rf"\b{name}\b", EXAMPLES)]
    assert not missing


@pytest.mark.parametrize("scheme", [scheme.__name__ for scheme in farspan.positions.SCHEMES])
def test_every_position_scheme_is_in_an_example(scheme: str) -> None:
    assert f"positions.{scheme}(" in EXAMPLES


EXPLAINED = ("demo", "generate", "measure", "extend", "extrapolate", "lens", "train", "info", "cache")


@pytest.mark.parametrize("command", EXPLAINED)
def test_every_option_is_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from farspan.cli import main

    with pytest.raises(SystemExit):
        main([command, "--help"])
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    page = (ROOT / "docs" / "command-line.md").read_text()
    assert sorted(option for option in options if not re.search(rf"{option}(?![\w-])", page)) == []


@pytest.mark.parametrize("block", [b for b in EVERY_BLOCK if b.language == "text"], ids=lambda block: block.where)
def test_a_message_without_an_example_is_one_that_the_code_gives(block: Block) -> None:
    sources = [path for folder in ("python", "rust") for path in (ROOT / folder).rglob("*") if path.suffix in SOURCES]
    wanted = block.code.strip()
    assert any(wanted in re.sub(r"\s+", " ", path.read_text().replace("\\\n", "")) for path in sources)


def test_the_picture_of_the_schemes_is_drawn_and_shows_each(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture is drawn with it")
    import positions_picture as picture

    shown = {type(scheme) for scheme in (*picture.SEEN.values(), *picture.SLOWED.values(), *picture.OTHERS)}
    positions = farspan.positions  # what a layer learns, or a caller says, is in no picture
    untold = {scheme for scheme in positions.SCHEMES if issubclass(scheme, (positions.Learned, positions.Coupled))}
    assert shown == set(positions.SCHEMES) - untold
    picture.draw(tmp_path / "positions.png")
    distance, seen = picture.seen_distance(farspan.positions.ReRoPE(128))
    assert (seen == distance.clip(max=128)).all()


def test_the_picture_of_two_tasks_is_drawn_from_what_heads_look_at(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture is drawn with it")
    import inside_picture as picture

    trials = [picture.trial_of(task, 1) for task in picture.STEPS]
    seen = [picture.look_inside(trial, picture.Subject(trial).model) for trial in trials]
    for one in seen:
        assert one.right.shape == (picture.LAYERS + 1,)
        np.testing.assert_allclose(one.maps.sum(-1), 1, atol=1e-5)
        assert (one.heads["answer"] > 0.005).all(), "weights of a model that has not learnt are everywhere"
    picture.draw(seen, tmp_path / "inside.png")
    assert (tmp_path / "inside.png").exists()


def test_the_picture_of_visibility_is_drawn_from_attention(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture is drawn with it")
    import visibility_picture as picture

    assert (picture.visible(12, {"causal": True}) == np.tri(12, dtype=bool)).all()
    picture.draw(tmp_path / "visibility.png")


def test_an_answer_with_dots_matches_anything_there() -> None:
    assert matches("key: expected 3,\n  given 4\n", "key: expected ... given 4")
    assert matches("/tmp/x/config.json: No such file", ".../config.json: No such file")
    assert not matches("key: expected 3, given 5", "key: expected ... given 4")
