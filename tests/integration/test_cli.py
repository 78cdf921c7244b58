"""The command line from the outside: exit codes, what is printed where, and the files that are written."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import farspan
from farspan import cli
from farspan.embedded import FOLDER

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("def add(a, b):\n    return a + b\n\n" * 120)
    return path


# ------------------------------------------------------------------------------------------------------------ generate


def test_generate_prints_the_prompt_and_what_follows(run: Run) -> None:
    code, out, err = run("generate", "--prompt", "import ", "--max-new-tokens", 30, "--seed", 3)
    assert (code, err) == (0, "")
    assert out.startswith("import ")
    assert len(out) > len("import ") + 20


def test_two_hyphens_are_a_text(run: Run) -> None:
    code, out, err = run("generate", "--prompt=--", "--stop=--", "--max-new-tokens", 3)
    assert (code, err) == (0, "")
    assert out.startswith("--")
    code, _, err = run("measure", "--data=--")
    assert (code, "--:" in err) == (1, True), err
    code, _, err = run("generate", "--seed=--")
    assert code == 2
    assert "--seed: expected an integer" in err


def test_generate_json_agrees_with_the_library(run: Run) -> None:
    options = ("--prompt", "for i in ", "--max-new-tokens", 20, "--temperature", 0.9, "--seed", 8)
    code, out, err = run("generate", *options, "--json")
    document = json.loads(out)
    model, tokenizer = farspan.load_embedded()
    ids = tokenizer.encode("for i in ")
    (wanted,) = model.generate([ids], max_new_tokens=20, temperature=0.9, seed=8)
    assert (code, err) == (0, "")
    assert document["tokens"] == wanted.tokens
    assert document["logprobs"] == wanted.logprobs
    assert document["finish_reason"] == wanted.finish_reason
    assert document["text"] == tokenizer.decode(wanted.tokens).rstrip("\0")
    assert run("generate", *options)[1] == "for i in " + document["text"] + "\n"


def test_generate_reads_the_embedded_folder_as_any_other_model(run: Run) -> None:
    pytest.importorskip("tokenizers")
    options = ("--prompt", "x = ", "--max-new-tokens", 6, "--temperature", 0, "--json")
    own, folder = (json.loads(run("generate", *options, *more)[1]) for more in ((), ("--model", FOLDER)))
    assert own["model"] == "the embedded model"
    assert folder["model"] == FOLDER.name
    assert len(folder["tokens"]) == 6


def test_generate_from_an_empty_prompt_starts_a_file(run: Run) -> None:
    code, out, _ = run("generate", "--prompt", "", "--max-new-tokens", 5, "--json")
    assert code == 0
    assert len(json.loads(out)["tokens"]) <= 5


def test_generate_nothing(run: Run) -> None:
    assert run("generate", "--prompt", "abc", "--max-new-tokens", 0) == (0, "abc\n", "")


# ------------------------------------------------------------------------------------------------------------- measure


def test_measure_writes_json_csv_and_picture(run: Run, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    options = ("--data", text, "--lengths", "64,32", "--schemes", "rope,yarn,pi", "--windows", 4, "--targets", 8)
    code, printed, err = run("measure", *options, "--out", out)
    assert (code, err) == (0, "")
    document = json.loads((out / "loss.json").read_text())
    assert list(document["schemes"]) == ["rope", "yarn", "linear"]
    assert (document["text"], document["trained_length"], document["targets"]) == ("text.txt", 256, 8)
    assert [point["length"] for point in document["points"]] == [32, 64] * 3
    assert all(0 < point["bits_per_byte"] < 12 for point in document["points"])
    with (out / "loss.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert str(out / "loss.png") in printed
    assert "bits per byte" in printed
    assert {path.name for path in out.iterdir()} == {f"loss.{kind}" for kind in ("json", "csv", "png", "svg", "pdf")}


def test_measure_json_prints_what_it_writes(run: Run, text: Path, tmp_path: Path) -> None:
    options = ("--data", text, text, "--lengths", "32", "--schemes", "own", "--windows", 1, "--out", tmp_path)
    code, printed, err = run("measure", *options, "--json", "--by", "position")
    assert (code, err) == (0, "")
    document = json.loads(printed, parse_constant=pytest.fail)
    assert document == json.loads((tmp_path / "loss.json").read_text())
    assert document["points"][0]["standard_error"] is None, "a single window has none, and JSON has no NaN"


def test_measure_knows_its_default_text(run: Run, tmp_path: Path) -> None:
    code, printed, _ = run(
        "measure", "--lengths", "32", "--schemes", "rope", "--windows", 2, "--out", tmp_path, "--json"
    )
    assert code == 0
    assert json.loads(printed)["text"] == "held-out Python source"


def test_measure_a_folder_with_its_own_tokenizer(run: Run, text: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    options = ("--data", text, "--lengths", "32", "--schemes", "rope", "--windows", 4, "--json", "--out", tmp_path)
    own, folder = (json.loads(run("measure", *options, *more)[1]) for more in ((), ("--model", FOLDER)))
    assert own["first_tokens"] == folder["first_tokens"] == []
    # The folder's text lacks the zero byte that opens a file, so its windows lie one token later.
    assert folder["points"][0]["nats_per_token"] == pytest.approx(own["points"][0]["nats_per_token"], rel=0.2)


def test_measure_puts_the_beginning_of_a_text_before_every_window_or_before_none(
    run: Run, text: Path, tmp_path: Path
) -> None:
    options = ("--data", text, "--lengths", "32", "--schemes", "own", "--windows", 2, "--out", tmp_path)
    documents = {bos: json.loads(run("measure", *options, "--bos", bos, "--json")[1]) for bos in ("always", "never")}
    assert {bos: document["first_tokens"] for bos, document in documents.items()} == {"always": [0], "never": []}
    assert documents["always"]["notes"][0].startswith("every window begins with 0")
    assert "note: every window begins with 0" in run("measure", *options, "--bos", "always")[1]
    assert documents["always"]["points"] != documents["never"]["points"]


OWN_SCHEME = """
import dataclasses
from farspan.positions import RoPE, Span

@dataclasses.dataclass(frozen=True)
class Nearby(RoPE):
    window: int = 16

    def hooks(self, span: Span):
        return super().hooks(span) | {"window": self.window}
"""


def test_measure_takes_a_class_of_ones_own(
    run: Run, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "schemes_of_mine.py").write_text(OWN_SCHEME)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    named = "schemes_of_mine:Nearby(base, window=8)"
    options = ("--data", text, "--lengths", "32", "--windows", 2, "--out", tmp_path / "out", "--json")
    code, printed, err = run("measure", *options, "--schemes", f"own,{named}")
    assert (code, err) == (0, "")
    document = json.loads(printed)
    assert document["schemes"][named] == {"scheme": "Nearby", "base": 10000.0, "window": 8}
    own, nearby = document["points"]
    assert nearby["nats_per_token"] != own["nats_per_token"]
    assert named in (tmp_path / "out" / "loss.svg").read_text()
    code, _, err = run("measure", *options, "--schemes", "schemes_of_mine:Far")
    assert code == 2
    assert "Far" in err


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_measure_keeps_what_it_has_when_it_ends_early(
    failure: type[BaseException], run: Run, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_positions = farspan.Transformer.with_positions

    def stop_at_yarn(model: farspan.Transformer, scheme: object) -> farspan.Transformer:
        if type(scheme).__name__ == "YaRN":
            raise failure
        return with_positions(model, scheme)

    monkeypatch.setattr(farspan.Transformer, "with_positions", stop_at_yarn)
    options = ("--data", text, "--lengths", "32,64", "--windows", 2, "--out", tmp_path)
    code, out, err = run("measure", *options, "--schemes", "own,linear,yarn,ntk")
    assert (code, out) == (130 if failure is KeyboardInterrupt else 1, "")
    document = json.loads((tmp_path / "loss-partial.json").read_text())
    assert document["complete"] is False
    assert [(point["scheme"], point["length"]) for point in document["points"]] == [
        ("own", 32), ("own", 64), ("linear", 32), ("linear", 64)
    ]  # fmt: skip
    assert (tmp_path / "loss-partial.png").is_file()
    assert "loss-partial.csv" in err
    assert not (tmp_path / "loss.json").exists()


@pytest.mark.parametrize("command", [["demo"], ["measure"]])
def test_a_missing_matplotlib_is_told_at_once(
    command: list[str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("farspan.lab.subject.load_model", lambda *_: pytest.fail("work has begun"))
    code, _, err = run(*command, "--out", tmp_path)
    assert code == 1
    assert "pip install matplotlib" in only_line(err)


def test_a_text_that_is_too_short_is_told_before_the_model_is_loaded(
    run: Run, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farspan.lab.subject.load_model", lambda *_: pytest.fail("the weights were read"))
    code, _, err = run("measure", "--data", text, "--lengths", "64,100000", "--out", tmp_path)
    assert code == 1
    assert "lengths: expected at most" in only_line(err)


# ---------------------------------------------------------------------------------------------------------------- info


def test_info_tells_which_backend_each_operation_uses_and_why_not_the_others(run: Run) -> None:
    code, out, err = run("info", "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert torch.__version__.startswith(document["packages"]["torch"])
    used = {operation["backend"] for operation in document["operations"].values()}
    assert "attention" in document["operations"]
    assert used <= set(document["cpu"]["instruction_sets"])
    reason, devices = document["cuda"]["reason"], document["cuda"]["devices"]
    assert bool(reason) != bool(devices), "either a reason why CUDA is off, or GPUs"
    if reason:
        assert document["not_used"]["cuda"] == reason
        assert re.match(r"[\w ]+: expected .*, given .*", reason), "what is missing, and what was found"
    assert not used & set(document["not_used"])


def test_info_for_people_names_the_same_backend(run: Run) -> None:
    code, out, _ = run("info")
    (backend,) = {o["backend"] for o in json.loads(run("info", "--json")[1])["operations"].values()}
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.split()[:1] == ["attention"]]
    assert line.split()[-1] == backend


# --------------------------------------------------------------------------------------------------------------- cache


def test_cache_counts_and_clears_its_own_files(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARSPAN_CACHE_DIR", str(tmp_path))
    (tmp_path / "notes.txt").write_text("not ours")
    known = json.loads(run("cache", "info", "--json")[1])
    assert (known["folder"], known["kernels"], known["bytes"]) == (str(tmp_path), 0, 0)
    code, out, err = run("cache", "info")
    assert (code, err) == (0, "")
    assert str(tmp_path) in out
    assert run("cache", "clear", "--json")[1] == '{"removed": 0}\n'
    assert (tmp_path / "notes.txt").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cache_warm_asks_for_what_no_gpu_tells(run: Run) -> None:
    code, out, err = run("cache", "warm")
    assert (code, out) == (1, "")
    assert err.startswith("farspan: error: architectures: expected the compute capabilities")


# ------------------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["nonsense"], ["cache"], ["cache", "clear", "90"], ["cache", "warm", "75"],
        ["generate", "--nonsense"], ["generate", "--max-new-tokens", "many"],
        ["generate", "--max-new-tokens", "-1"], ["generate", "--temperature", "-1"],
        ["generate", "--temperature", "nan"], ["generate", "--seed", str(2**63)], ["measure", "--lengths", "long"],
        ["measure", "--lengths", ","], ["measure", "--lengths", "1"], ["measure", "--schemes", "rope,rotary"],
        ["measure", "--by", "token"], ["measure", "--windows", "0"], ["info", "extra"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_2_and_is_explained(arguments: list[str], run: Run) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "farspan" in err
    assert "Traceback" not in err


def test_an_unknown_scheme_is_answered_with_the_known_ones(run: Run) -> None:
    assert "self-extend" in run("measure", "--schemes", "rotary")[2]


def only_line(err: str) -> str:
    (line,) = err.splitlines()
    return line


@pytest.mark.parametrize("command", ["generate", "measure"])
def test_a_missing_model_is_1_and_one_line_that_names_it(command: str, run: Run, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out") if command == "measure" else ()
    code, printed, err = run(command, "--model", tmp_path / "nowhere", *out)
    assert (code, printed) == (1, "")
    assert "nowhere" in only_line(err)


def test_a_name_that_the_hub_cannot_give_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, printed, err = run("generate", "--model", "org/small-1b")
    assert (code, printed) == (1, "")
    assert "org/small-1b" in only_line(err)
    assert "the Hugging Face hub or its cache here" in err


def test_missing_and_too_short_data_are_named(run: Run, tmp_path: Path) -> None:
    code, _, err = run("measure", "--data", tmp_path / "absent.txt", "--lengths", "32", "--out", tmp_path)
    assert code == 1
    assert "absent.txt" in only_line(err)
    (tmp_path / "short.txt").write_text("short")
    code, _, err = run("measure", "--data", tmp_path / "short.txt", "--lengths", "32", "--out", tmp_path)
    assert code == 1
    assert "lengths" in only_line(err)


def test_a_folder_without_a_tokenizer_is_named(run: Run, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(FOLDER / name, tmp_path / name)
    code, _, err = run("generate", "--model", tmp_path, "--max-new-tokens", 1)
    assert code == 1
    assert "tokenizer.json" in only_line(err)


@pytest.mark.parametrize("before", [True, False])
def test_debug_on_either_side_shows_the_traceback(before: bool, run: Run, tmp_path: Path) -> None:
    command = ["generate", "--model", tmp_path / "nowhere"]
    code, _, err = run(*(["--debug", *command] if before else [*command, "--debug"]))
    assert code == 1
    assert "Traceback" in err
    assert "nowhere" in err.splitlines()[-1]


def test_an_unforeseen_failure_is_one_short_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: object) -> None:
        raise RuntimeError("first line\n" + "x" * 5000)

    monkeypatch.setattr("farspan.commands.info.print_info", fail)
    code, _, err = run("info")
    assert code == 1
    assert "RuntimeError: first line xxx" in only_line(err)
    assert len(err) < 1000


def test_interrupting_is_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("farspan.commands.info.print_info", interrupt)
    assert run("info")[0] == 130


def test_a_reader_that_leaves_early_is_no_traceback() -> None:
    command = f"{sys.executable} -m farspan generate --max-new-tokens 400 | head -c 5"
    environment = dict(os.environ, PYTHONWARNINGS="ignore")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300, env=environment)
    assert done.stdout.startswith("def ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "code"),
    [("generate --max-new-tokens 3 --temperature 0", 0), ("info --json", 0), ("generate --top-k x", 2)],
)
def test_closed_streams_are_no_failure(command: str, code: int) -> None:
    run = [sys.executable, "-m", "farspan", *command.split()]
    usual = subprocess.run(run, capture_output=True, text=True)
    without_err, without_out = (
        subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *run], capture_output=True, text=True)
        for closed in ("2>&-", ">&-")
    )
    assert (without_err.returncode, without_err.stdout, without_err.stderr) == (code, usual.stdout, "")
    assert (without_out.returncode, without_out.stdout, without_out.stderr) == (code, "", usual.stderr)


def test_version_is_the_packages() -> None:
    done = subprocess.run([sys.executable, "-m", "farspan", "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"farspan {farspan.__version__}\n"


def test_demo_shows_all_four_parts_and_writes_the_picture(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farspan.commands.demo.LENGTHS", (32, 64))
    monkeypatch.setattr("farspan.commands.demo.WINDOWS", 2)
    monkeypatch.setattr("farspan.commands.demo.ROUNDS", 1)
    code, out, _ = run("demo", "--out", tmp_path)
    assert code == 0
    assert "class Stack" in out
    assert "tokens are the same" in out
    assert "DIFFER" not in out
    assert out.count("tokens/s") == 2
    assert "self-extend" in out
    assert str(tmp_path / "loss.png") in out
    assert (tmp_path / "loss.png").is_file()
