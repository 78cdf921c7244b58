"""`farspan train`: from files to a folder that other commands read."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.training import log_of, without_time

from farspan._errors import ArgumentError
from farspan.cli import main
from farspan.embedded import FOLDER
from farspan.model import Config, Transformer
from farspan.tokenizer import ByteTokenizer, load_tokenizer
from farspan.training import files

CONFIG = Config(
    vocab_size=257, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True,
)  # fmt: skip
TEXT = "one two three four five six seven " * 30


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config and texts, in which commands run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    (tmp_path / "text.txt").write_text(TEXT)
    lines = [{"text": TEXT[:90], "source": i} for i in range(3)]
    (tmp_path / "lines.jsonl").write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    return tmp_path


NEW = ("--config", "config.json")


def command(*more: str, out: str = "out", steps: int = 6, source: tuple[str, ...] = NEW) -> list[str]:
    fixed = ["--batch", "2", "--context", "32", "--learning-rate", "0.01", "--warmup", "2", "--steps", str(steps)]
    return ["train", "--data", "text.txt", "lines.jsonl", "--out", out, *source, *fixed, *more]


def told(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> Any:
    """The JSON document that a command prints."""
    assert main([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_a_new_model_of_bytes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = told(capsys, command("--validation", "text.txt", "--validate-every", "3", steps=30))
    log = log_of(place / "out")
    assert [line["step"] for line in log if "validation_loss" in line] == list(range(3, 31, 3))
    assert document | {"seconds": 0} == {
        "out": "out", "parameters": sum(p.numel() for p in Transformer(CONFIG).parameters()), "documents": 4,
        "steps": 30, "loss": log[-1]["loss"], "validation_loss": log[-1]["validation_loss"], "seconds": 0,
    }  # fmt: skip
    assert document["loss"] < log[0]["loss"] - 0.5
    model, tokenizer = Transformer.from_pretrained(place / "out"), load_tokenizer(place / "out")
    assert model.config.eos_token_ids == (256,)
    assert tokenizer.encode("five\u00e9<|end|>") == [*"five\u00e9".encode(), 256]
    assert tokenizer.decode([102, 105, 256]) == "fi"
    assert main(["generate", "--model", "out", "--prompt", "one ", "--max-new-tokens", "5"]) == 0
    assert main(command("--resume", "--validation", "text.txt", "--validate-every", "3", steps=30)) == 0
    assert "30 steps in" in capsys.readouterr().out


def test_fine_tuning_keeps_the_tokenizer(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = told(capsys, command(source=("--model", str(FOLDER)), steps=2))
    assert document["documents"] == 4
    assert (place / "out" / "tokenizer.json").read_bytes() == (FOLDER / "tokenizer.json").read_bytes()
    assert Transformer.from_pretrained(place / "out").config.dtype == "float16"
    assert log_of(place / "out")[0]["loss"] < 4.5  # random weights have the logarithm of 256, 5.5


def test_scheme_and_dtype(place: Path) -> None:
    assert main(command("--scheme", "alibi", "--dtype", "bfloat16", steps=1)) == 0
    config = Config.from_pretrained(place / "out")
    assert [type(scheme).__name__ for scheme in config.positions] == ["ALiBi"]
    assert config.dtype == "bfloat16"
    assert main(command("--scheme", "t5", out="learned", steps=1)) == 0
    trained = Transformer.from_pretrained(place / "learned")
    assert trained.layers[0].attention.positions.bucket_bias.shape == (trained.config.num_attention_heads, 32)
    assert main(command("--scheme", "yarn", "--context", "256", out="longer", steps=1)) == 0
    (scheme,) = Config.from_pretrained(place / "longer").positions
    assert (scheme.factor, scheme.original_length) == (4.0, 64)


def test_killed_and_resumed(place: Path) -> None:
    """As a process of its own, by a signal that no program hears."""

    def start(*more: str, out: str) -> subprocess.Popen[bytes]:
        words = command("--save-every", "5", *more, out=out, steps=40)
        return subprocess.Popen([sys.executable, "-m", "farspan", *words], stdout=subprocess.DEVNULL)

    whole, killed = start(out="whole"), start(out="killed")
    log = place / "killed" / "log.jsonl"
    while killed.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= 12):
        time.sleep(0.005)
    killed.kill()
    assert (whole.wait(), killed.wait()) == (0, -signal.SIGKILL)
    assert start("--resume", out="killed").wait() == 0
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (place / "killed" / name).read_bytes() == (place / "whole" / name).read_bytes()
    assert without_time(log_of(place / "killed")) == without_time(log_of(place / "whole"))


def test_documents_of_files(place: Path) -> None:
    found = files.documents([place / "lines.jsonl", place / "text.txt"], files.as_bytes(256))
    assert [bytes(ids[:-1].tolist()).decode() for ids in found] == [TEXT[:90]] * 3 + [TEXT]
    assert {int(ids[-1]) for ids in found} == {256}

    class Ending(ByteTokenizer):
        def encode(self, text: str, *, special: bool = True) -> list[int]:
            return [*super().encode(text), 7]

    def ids_of(tokenizer: Any, end: int | None) -> list[int]:
        return files.by_tokenizer(tokenizer, end)("here", b"ab").tolist()

    assert ids_of(ByteTokenizer(), 7) == ids_of(Ending(), 7) == [97, 98, 7]
    assert ids_of(ByteTokenizer(), None) == [97, 98]
    with pytest.raises(ArgumentError, match=r"^data: expected text in UTF-8, .* given here, whose byte 1 is 0xff"):
        files.by_tokenizer(ByteTokenizer(), 7)("here", b"a\xff")
    assert files.as_bytes(256)("here", b"a\xff").tolist() == [97, 255, 256]
    assert isinstance(found[0], np.ndarray)


WRONG = {
    "no JSON": ('{"text": "a"}\n{"text": \n', r"lines\.jsonl, line 2"),
    "no text": ('{"content": "a"}\n', r"line 1: .*content"),
    "a number": ("7\n", "line 1: 7"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_lines_that_are_no_documents(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, words = WRONG[name]
    (place / "lines.jsonl").write_text(content)
    assert main(command()) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(words, error)
    assert not (place / "out").exists()


def test_what_is_wrong_is_told_in_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "small.json").write_text(json.dumps({**CONFIG.to_dict(), "vocab_size": 256}))
    for arguments, words in (
        (command(source=("--config", "small.json")), "vocab_size: expected at least 257"),
        (command(source=("--config", "absent.json")), "absent.json"), (command("--data", "absent.txt"), "absent.txt"),
        (command(source=("--model", "nowhere")), "nowhere"), (command(out="."), "out: expected a folder of its own"),
    ):  # fmt: skip
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["train"], ["train", "--data", "text.txt", "--out", "out"], command("--model", "x"), command("--steps", "0"),
        command("--learning-rate", "0"), command("--scheme", "spiral"), command("--dtype", "int9"),
        command("--batch", "-1"),
    ],
)  # fmt: skip
def test_wrong_usage(wrong: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2
    assert not (place / "out").exists()
