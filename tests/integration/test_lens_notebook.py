"""A lens in a notebook: the page inline, and the table."""

from __future__ import annotations

import html
import json
import re
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from support.models import VOCAB, ids, small_model

import farspan


class Letters:
    """A tokenizer whose texts are mark-up."""

    def encode(self, text: str) -> list[int]:
        return [len(text)]

    def decode(self, tokens: list[int]) -> str:
        return "".join(f"<b>{token}</b>" for token in tokens)


def documents(found: farspan.Lens) -> list[dict[str, Any]]:
    """What the frames of a notebook hold."""
    pages = [html.unescape(page) for page in re.findall(r'srcdoc="([^"]*)"', found._repr_html_())]
    return [json.loads(page.partition('id="document">')[2].partition("</script>")[0]) for page in pages]


def test_a_notebook_shows_the_page_of_each_sequence() -> None:
    model, tokens = small_model(), ids(2, 9)
    found = farspan.lens(model, tokens, top=2, layers=[0, -1], positions=[2, 5], tokenizer=Letters())
    shown = documents(found)
    for sequence, document in enumerate(shown):
        read = tokens[sequence, [2, 5]].tolist()
        assert document["tokens"] == read
        assert document["positions"] == [2, 5]
        assert document["targets"] == tokens[sequence, [3, 6]].tolist(), "those that follow in the text"
        assert {str(target) for target in document["targets"]} <= set(document["texts"])
        assert document["layers"] == [0, model.config.num_hidden_layers]
        assert document["kl"] == found.kl[:, sequence].tolist()
        assert document["top_token"] == found.top_token[:, sequence].tolist()
        assert document["texts"][str(read[0])] == f"<b>{read[0]}</b>"
    assert len(shown) == 2
    assert "<b>" not in found._repr_html_()
    assert documents(farspan.lens(model, tokens))[0]["targets"][-1] == -1
    token = str(int(tokens[0, 0]))
    assert documents(farspan.lens(model, tokens))[0]["texts"][token] == token


def test_a_notebook_says_how_many_sequences_it_leaves_out() -> None:
    text = farspan.lens(small_model(), ids(7, 3), top=1)._repr_html_()
    assert text.count("<iframe") == 4
    assert "3 more sequences" in text


def test_a_frame_has_a_row_for_each_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = types.SimpleNamespace(DataFrame=lambda columns: columns)
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    tokens = ids(2, 5)
    found = farspan.lens(small_model(), tokens, top=2, positions=[1, 4])
    frame = found.to_frame()
    rows = {len(column) for column in frame.values()}
    layers = len(found.layers)
    assert rows == {layers * 2 * 2}
    for row in range(layers * 4):
        layer, sequence, place = row // 4, row // 2 % 2, row % 2
        assert (frame["layer"][row], frame["sequence"][row]) == (found.layers[layer], sequence)
        assert frame["position"][row] == found.positions[place]
        assert frame["token"][row] == int(tokens[sequence, found.positions[place]])
        for name in ("entropy", "kl", "logprob", "rank"):
            np.testing.assert_equal(frame[name][row], getattr(found, name)[layer, sequence, place].item())
        assert frame["top_2"][row] == str(int(found.top_token[layer, sequence, place, 1]))
        assert frame["top_2_logprob"][row] == found.top_logprob[layer, sequence, place, 1].item()


def test_without_pandas_a_frame_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    found = farspan.lens(small_model(), torch.tensor([[1, VOCAB - 1]]), top=0)
    with pytest.raises(farspan.BackendError, match="pandas"):
        found.to_frame()
