"""The page: one file that needs no network, with the picture, the tables and what was done."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from farspan.lab.extrapolation.result import Extrapolation
from farspan.lab.recipes import Recipe
from farspan.lab.schemes import looks

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
img { max-width: 100% }
table { border-collapse: collapse; margin: .6rem 0 1.6rem }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4 }
th:first-child, td:first-child { text-align: left }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem }
.less { color: #666 }
"""


def page_of(found: Extrapolation, picture: bytes, recipe: Recipe | None = None) -> str:
    """HTML. Tables have the median over seeds, and the least and the most of them."""
    settings = found.settings
    title = f"{settings.task}: trained up to length {settings.train_length}"
    image = base64.b64encode(picture).decode()
    parts = [
        f"<h1>{_text(title)}</h1>",
        f'<img alt="accuracy over length, scheme by scheme" src="data:image/png;base64,{image}">',
        _results(found, "accuracy", "Outputs right, %"),
        _results(found, "exact", "Inputs all right, %"),
        _published(found, recipe) if recipe else "",
        _trainings(found),
        _table("Settings", ("setting", "value"), [(name, _plain(x)) for name, x in settings.to_dict().items()]),
        f'<p class="less">Chance is {100 * found.chance:.1f} %. Made on: {_text(found.machine)}.</p>',
    ]
    body = "\n".join(part for part in parts if part)
    head = f'<meta charset="utf-8"><title>{_text(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _results(found: Extrapolation, value: str, caption: str) -> str:
    lengths = found.settings.test_lengths
    labels = looks(found.settings.schemes)
    medians = found.medians(value)
    rows = []
    for scheme, seeds in found.curves(value).items():
        cells = []
        for median, column in zip(medians[scheme], zip(*seeds, strict=True), strict=True):
            spread = f" ({100 * min(column):.0f}-{100 * max(column):.0f})" if len(seeds) > 1 else ""
            cells.append(f"{100 * median:.1f}{spread}")
        rows.append((labels[scheme].label, *cells))
    return _table(caption, ("scheme", *map(str, lengths)), rows)


def _published(found: Extrapolation, recipe: Recipe) -> str:
    source = f'<p class="less">Published: {_text(recipe.source)}.</p>'
    figures = recipe.published.get(found.settings.task)
    if figures is None:
        return source
    labels, own = looks(found.settings.schemes), found.beyond()
    rows = [
        (labels[scheme].label, "" if mean is None else f"{100 * mean:.1f}", f"{figures[scheme]:.1f}")
        for scheme, mean in own.items() if scheme in figures
    ]  # fmt: skip
    caption = "Beyond the trained length: mean of outputs right, %"
    return _table(caption, ("scheme", "here, median of seeds", "published"), rows) + source


def _trainings(found: Extrapolation) -> str:
    chosen = found.learning_rates
    rows = []
    for trial, result in found.results.items():
        rate = f"{trial.learning_rate:g}" + "*" * (chosen[trial.scheme] == trial.learning_rate)
        told = (f"{result['held_out_loss']:.4f}", f"{result['parameters']:,}", f"{result['seconds']:.0f}")
        rows.append((trial.scheme, str(trial.seed), rate, *told))
    head = ("scheme", "seed", "learning rate (* shown)", "loss at trained lengths, nats", "parameters", "seconds")
    return _table("Trainings", head, rows)


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def row(cells: Sequence[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{_text(cell)}</{kind}>" for cell in cells) + "</tr>"

    lines = [f"<table><caption>{_text(caption)}</caption>", row(head, "th"), *(row(cells, "td") for cells in rows)]
    return "\n".join([*lines, "</table>"])


def _text(text: str) -> str:
    return html.escape(text)


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
