"""`farspan lens`: its files, and that a text cannot become mark-up of the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import farspan
from farspan import cli
from farspan.inside.page import page_of

pytest.importorskip("matplotlib", reason="the command draws a picture")


def test_the_files_hold_what_the_function_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = farspan.load_embedded()
    text = "<i>$x"
    assert cli.main(["lens", "--prompt", text, "--top", "2", "--out", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "lens.json").read_text(encoding="utf-8"))
    found = farspan.lens(model, torch.tensor([tokenizer.encode(text)]), top=2)
    assert printed["top_token"] == found.top_token[:, 0].tolist()
    assert printed["kl"] == found.kl[:, 0].tolist()
    assert printed["logprob"][0][-1] is None
    assert (tmp_path / "lens.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "lens.html").read_text(encoding="utf-8")
    assert "http" not in page


def test_no_text_ends_the_script_that_holds_it() -> None:
    assert page_of({"model": "</script>"}).count("</script>") == page_of({}).count("</script>") == 2


def test_a_missing_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lens", "--data", str(tmp_path / "absent"), "--out", str(tmp_path)]) == 1
    assert "absent: No such file" in capsys.readouterr().err
