"""The page of a lens in a real browser: pointed at, clicked, and driven by keys, as a user does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import browser
from support.browser import Browser

import farspan
from farspan import Lens
from farspan.inside.page import document_of, page_of

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=str(browser.missing()))

TEXT = "for <i>:\n\tx = 1"


@pytest.fixture(scope="module")
def found() -> Lens:
    model, tokenizer = farspan.load_embedded()
    return farspan.lens(model, torch.tensor([tokenizer.encode(TEXT)]), top=3)


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    opened = Browser()
    yield opened
    opened.close()


@pytest.fixture
def page(window: Browser, found: Lens, tmp_path: Path) -> Browser:
    _, tokenizer = farspan.load_embedded()
    path = tmp_path / "lens.html"
    document = document_of(found, lambda token: tokenizer.decode([token]), "the embedded model")
    path.write_text(page_of(document), encoding="utf-8")
    window.prefer("light")
    window.open(path)
    return window


def at(layer: int, place: int) -> str:
    return f'td[data-layer="{layer}"][data-place="{place}"]'


def likeliest(found: Lens, layer: int, place: int) -> list[str]:
    _, tokenizer = farspan.load_embedded()
    seen = {" ": "\u2423", "\n": "\u21b5", "\t": "\u21e5"}
    texts = [tokenizer.decode([token]) for token in found.top_token[layer, 0, place].tolist()]
    shares = [100 * share for share in found.top_logprob[layer, 0, place].exp().tolist()]
    return [f"{seen.get(text, text)} {share:.1f} %" for text, share in zip(texts, shares, strict=True)]


def detail(page: Browser) -> list[str]:
    """The likeliest tokens that the page tells."""
    cells = "Array.from(row.cells).slice(1).map(x => x.textContent).join(' ')"
    return page.run(f"return Array.from(document.querySelectorAll('#detail tr'), row => {cells})")


def test_pointing_at_a_cell_shows_its_likeliest_tokens(page: Browser, found: Lens) -> None:
    for layer, place in ((2, 3), (6, 8)):
        page.point(at(layer, place))
        assert detail(page) == likeliest(found, layer, place)
        assert f"Layer {layer}, token {place} " in page.text("#detail p")


def test_a_click_keeps_a_cell_until_it_is_let_go(page: Browser, found: Lens) -> None:
    page.point(at(2, 3), click=True)
    page.point(at(5, 6))
    assert detail(page) == likeliest(found, 2, 3)
    page.press("Escape")
    page.point(at(5, 7))
    assert detail(page) == likeliest(found, 5, 7)


def test_the_slider_and_the_key_m_change_what_colours_mean(page: Browser) -> None:
    colour = "return getComputedStyle(document.querySelector(arguments[0])).backgroundColor"
    names, colours = [page.text("#name")], [page.run(colour, at(1, 4))]
    page.run("const s = document.getElementById('metric'); s.focus(); s.value = 1; s.dispatchEvent(new Event('input'))")
    names.append(page.text("#name"))
    colours.append(page.run(colour, at(1, 4)))
    page.press("m")
    names.append(page.text("#name"))
    page.press("Right")
    names.append(page.text("#name"))
    assert [name.split(",")[0] for name in names] == [
        "KL of the final distribution to the layer's", "entropy", "surprise of the target",
        "rank of the target",
    ]  # fmt: skip
    assert colours[0] != colours[1]


def test_keys_move_and_keep(page: Browser, found: Lens) -> None:
    page.run("document.querySelector(arguments[0]).focus()", at(6, 0))
    page.press("Down", "Down", "Right", "Right", "Up", "Left")
    assert detail(page) == likeliest(found, 5, 1)
    page.press("Enter", "Down")
    assert detail(page) == likeliest(found, 5, 1)
    page.press("Escape", "Down")
    assert detail(page) == likeliest(found, 3, 1)


def test_the_page_is_dark_where_the_user_prefers_it(page: Browser) -> None:
    back = "return getComputedStyle(document.body).backgroundColor"
    assert page.run(back) == "rgb(255, 255, 255)"
    page.prefer("dark")
    assert page.run(back) == "rgb(22, 24, 28)"


def test_no_text_is_mark_up_and_nothing_is_loaded(page: Browser) -> None:
    assert page.run("return document.querySelectorAll('i').length") == 0
    assert page.run("return performance.getEntriesByType('resource').length") == 0
    heads = page.run("return Array.from(document.querySelectorAll('thead th'), x => x.textContent).slice(1).join('')")
    assert heads == TEXT.replace(" ", "\u2423").replace("\n", "\u21b5").replace("\t", "\u21e5")
