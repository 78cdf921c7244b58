"""`farspan generate` with sampler settings: the same as the library, and wrong values explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.sentencepiece import sentencepiece_like

import farspan
from farspan import cli
from farspan.embedded import FOLDER

Run = tuple[int, str, str]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Run:
    """Exit code, stdout, stderr."""
    try:
        code = cli.main(["generate", *map(str, arguments)])
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_all_numbers_reach_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        "top_k": 60, "top_p": 0.98, "min_p": 0.001, "typical": 0.99, "epsilon": 1e-5, "eta": 1e-5, "top_h": 0.99,
        "top_n_sigma": 3.0, "xtc_probability": 0.3, "xtc_threshold": 0.2, "min_keep": 2, "repetition_penalty": 1.05,
        "frequency_penalty": 0.05, "presence_penalty": 0.1, "no_repeat_ngram": 4, "dry_multiplier": 0.4,
        "dry_base": 1.5, "dry_allowed_length": 3, "min_tokens": 10, "order": "llamacpp",
    }  # fmt: skip
    options = [x for name, value in settings.items() for x in (f"--{name.replace('_', '-')}", value)]
    common = ("--prompt", "import ", "--max-new-tokens", 24, "--temperature", 1.1, "--seed", 6)
    code, out, err = run(
        capsys, *common, *options, "--banned", "120,121", "--logit-bias", "101=-1.5,102=-inf", "--bad-word", "sys",
        "--logprobs", 3, "--json",
    )  # fmt: skip
    document = json.loads(out, parse_constant=pytest.fail)
    model, tokenizer = farspan.load_embedded()
    (wanted,) = model.generate(
        [tokenizer.encode("import ")], 24, 1.1, 6, **settings, banned=[120, 121], top=3,
        logit_bias={101: -1.5, 102: float("-inf")}, bad_words=[tokenizer.encode("sys")],
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert (document["tokens"], document["logprobs"]) == (wanted.tokens, wanted.logprobs)
    assert document["top_tokens"] == wanted.top_tokens
    assert [[float(x) for x in row] for row in document["top_logprobs"]] == wanted.top_logprobs
    assert document["settings"]["logit_bias"] == {"101": -1.5, "102": "-inf"}
    assert document["settings"].items() >= settings.items()
    assert run(capsys, *common, "--allowed", "97")[1] == "import " + "a" * 24 + "\n"


def test_a_bad_word_is_the_words_own_tokens(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Not with the token that a tokenizer puts before every text: that would never match."""
    tokenizer = sentencepiece_like(bos=True)
    torch.manual_seed(0)
    config = farspan.Config(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=1, eos_token_ids=(2,),
    )  # fmt: skip
    farspan.Transformer(config).save_pretrained(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    words = {word: tokenizer.encode(word, add_special_tokens=False).ids[0] for word in ("Hello", "world")}
    common = ("--model", tmp_path, "--prompt", "Hello", "--max-new-tokens", 8, "--temperature", 1, "--json")
    for word, banned in words.items():
        allowed = ",".join(map(str, words.values()))
        document = json.loads(run(capsys, *common, "--allowed", allowed, "--bad-word", word)[1])
        assert document["tokens"] == [token for token in words.values() if token != banned] * 8
        assert document["text"] == "".join(f" {other}" for other in words if other != word) * 8


def test_text_that_is_no_utf8(capsys: pytest.CaptureFixture[str]) -> None:
    latin = b"caf\xe9".decode(errors="surrogateescape")  # as Python hands over an argument
    model, _ = farspan.load_embedded()
    (wanted,) = model.generate([list(b"caf\xe9")], 3, temperature=0)
    common = ("--prompt", latin, "--max-new-tokens", 3, "--temperature", 0)
    code, out, err = run(capsys, *common, "--json")
    document = json.loads(out)
    assert (code, err, document["tokens"], document["prompt"]) == (0, "", wanted.tokens, "caf\ufffd")
    assert run(capsys, *common)[1] == "caf\ufffd" + document["text"] + "\n"
    code, out, err = run(capsys, *common, "--model", FOLDER)
    assert (code, out) == (1, "")
    assert "prompt: expected UTF-8" in err
    code, out, err = run(capsys, "--bad-word", latin)
    assert (code, out) == (2, "")
    assert "--bad-word: expected UTF-8" in err.splitlines()[-1]


@pytest.mark.parametrize("draft", ["prompt-lookup", FOLDER])
def test_a_drafter_gives_the_same_text_and_is_reported(draft: object, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--prompt", "a = [1, 2, 3, 1, 2, 3, 1, 2, ", "--max-new-tokens", 20, "--temperature", 0.4, "--json")
    plain = json.loads(run(capsys, *common)[1])
    code, out, err = run(capsys, *common, "--draft", draft, "--draft-length", 3)
    drafted = json.loads(out)
    assert (code, err) == (0, "")
    assert (drafted["tokens"], drafted["logprobs"]) == (plain["tokens"], plain["logprobs"])
    assert 0 < drafted["accepted"] <= drafted["drafted"]
    assert "drafted" not in plain


@pytest.mark.parametrize(
    "arguments",
    [
        "--top-k -1", "--top-k x", "--top-p 1.5", "--top-p nan", "--typical 0", "--order random", "--min-keep 0",
        "--repetition-penalty 0", "--frequency-penalty inf", "--dry-base 0.5", "--banned 1,x", "--allowed ,",
        "--logit-bias 3", "--logit-bias 3=nan", "--logprobs 129 --json", "--logprobs 2", "--draft-length 2",
        "--draft prompt-lookup --draft-length 0", "--mask 3", "--bad-word=",
    ],
)  # fmt: skip
def test_wrong_values_are_2_and_name_the_option(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *arguments.split())
    named = "--draft-length" if "--draft-length" in arguments else arguments.split()[0].rstrip("=")
    assert (code, out) == (2, "")
    assert named in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--banned", "256"], "banned"), (["--draft", "nowhere"], "nowhere"),
        *(([f"--{name}=1e39"], f"{name.replace('-', '_')}: expected numbers that float32 can hold, given 1e")
        for name in ("temperature", "repetition-penalty", "frequency-penalty", "presence-penalty", "dry-base")),
        (["--logit-bias=97=1e39"], "given 1e+39"), (["--logit-bias=97=-1e39"], "given -1e+39"),
        (["--repetition-penalty=1e-50"], "given 1e-50"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_the_model_are_1_and_one_line(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *arguments)
    (line,) = err.splitlines()
    assert code == 1
    assert word in line
