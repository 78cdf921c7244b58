"""`farspan measure --statistics`: the numbers are those of `model.attention_statistics`, and the files hold them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.models import VOCAB, small_model

import farspan
from farspan import cli
from farspan.lab.attention import FIELDS, measure_attention
from farspan.lab.report import attention as report
from farspan.lab.windows import window_ends

TOKENS = torch.randint(0, VOCAB, (200,), generator=torch.Generator().manual_seed(2))


def test_points_are_means_over_windows_and_last_queries() -> None:
    model = small_model()
    found = measure_attention(model, TOKENS, [16, 40], ["own", "nope"], windows=3, targets=5, first_tokens=[7])
    ends, _ = window_ends(len(TOKENS), 40, 3, 5)
    assert found.schemes == ["own", "nope"]
    assert len(found.points) == 2 * 2 * model.config.num_hidden_layers
    for scheme, switched in (("own", model), ("nope", model.with_positions(farspan.positions.NoPE()))):
        for length in (16, 40):
            windows = torch.stack([TOKENS[end - length : end] for end in ends.tolist()])
            windows[:, 0] = 7
            expected = switched.attention_statistics(windows)
            for point in [point for point in found.of(scheme) if point.length == length]:
                for name in FIELDS:
                    mean = getattr(expected, name)[point.layer - 1, :, :, -5:].double().mean((0, 2))
                    torch.testing.assert_close(torch.tensor(getattr(point, name), dtype=torch.float64), mean)


def test_the_table_names_the_heads_that_park_most() -> None:
    model = small_model()
    found = measure_attention(model, TOKENS, [16], windows=2, trained_length=16)
    shares = {(point.layer, head): share for point in found.points for head, share in enumerate(point.first)}
    layer, head = max(shares, key=lambda place: shares[place])
    assert f"at 16: layer {layer} head {head}: {shares[layer, head]:.3f}" in report.table(found)


def test_the_command_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the command draws a picture")
    asked = ["measure", "--statistics", "--lengths", "8,16", "--schemes", "own,alibi", "--windows", "2"]
    assert cli.main([*asked, "--out", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["attention"] == json.loads((tmp_path / "attention.json").read_text(encoding="utf-8"))
    assert {point["scheme"] for point in printed["attention"]["points"]} == {"own", "alibi"}
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert printed["points"]
