"""Training, the embedded model's script, and the eager peer of the demo."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from farspan import reference
from farspan._errors import ArgumentError, Error
from farspan.lab.eager import EagerLlama, weights_of
from farspan.lab.embedded import data, make
from farspan.lab.train import Recipe, State, draw_windows, held_out_loss, train
from farspan.model import Config, Transformer
from farspan.model.places import named_tensors

CONFIG = Config(
    vocab_size=256, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=32, tie_word_embeddings=True,
)  # fmt: skip
RECIPE = Recipe(steps=40, batch=4, context=16, learning_rate=1e-2, warmup=4)
TEXT = torch.frombuffer(bytearray(b"abcdefgh" * 100), dtype=torch.uint8)


def new_model() -> Transformer:
    torch.manual_seed(3)
    return Transformer(CONFIG, backend="reference")


def run(model: Transformer, recipe: Recipe, minutes: float | None = None) -> list[State]:
    seen: list[State] = []
    train(model, lambda: model.unembedding, TEXT, recipe, minutes=minutes, each_step=seen.append)
    return seen


def test_training_lowers_the_loss_and_is_the_same_twice() -> None:
    first, second = new_model(), new_model()
    seen = run(first, RECIPE)
    run(second, RECIPE)
    assert seen[0].train_loss == pytest.approx(math.log(256), rel=0.02)
    assert held_out_loss(first, first.unembedding, TEXT, 16) < 1.0
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_rate_warms_up_stays_and_decays_to_the_last_step() -> None:
    rates = [progress.learning_rate for progress in run(new_model(), RECIPE)]
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert rates[4:33] == pytest.approx([0.01] * 29)
    assert rates[32:] == pytest.approx([0.01 * k / 8 for k in range(8, 0, -1)])


def test_a_time_limit_gives_what_as_many_steps_give(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr("farspan.lab.train.time.monotonic", lambda: float(next(clock)))
    limited = new_model()
    last = run(limited, replace(RECIPE, steps=1000), minutes=25 / 60)[-1]  # the decay begins at 0.8 of it
    assert last.step == last.steps < 40
    monkeypatch.undo()
    whole = new_model()
    run(whole, replace(RECIPE, steps=last.step))
    assert all(torch.equal(a, b) for a, b in zip(limited.parameters(), whole.parameters(), strict=True))


def test_windows_are_pieces_of_the_text() -> None:
    windows = draw_windows(TEXT, 5, 16, torch.Generator().manual_seed(0))
    assert windows.shape == (5, 17)
    for window in windows.tolist():
        assert bytes(window) in bytes(TEXT.tolist())


def test_held_out_loss_is_the_mean_over_consecutive_windows() -> None:
    model = new_model()
    windows = torch.stack([TEXT[start : start + 17] for start in range(0, len(TEXT) - 16, 16)]).long()
    wanted = -reference.score(model(windows[:, :-1]), model.unembedding, windows[:, 1:]).logprob.mean().item()
    assert held_out_loss(model, model.unembedding, TEXT, 16, batch=7) == pytest.approx(wanted, rel=1e-5)


class Killed(Exception):
    pass


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script, of a small model and a short text."""
    monkeypatch.setattr(make, "CONFIG", CONFIG)
    monkeypatch.setattr(data, "training_documents", lambda: [b"\0" + bytes(TEXT.tolist()) + b"\0", b"\0ab\0"])
    monkeypatch.setattr(data, "held_out_text", lambda: bytes(TEXT.tolist())[:100])


def make_model(out: Path, *more: str) -> bytes:
    """The weights that the script writes."""
    threads = str(torch.get_num_threads())
    make.main(["--out", str(out), "--steps", "3", "--threads", threads, *more])
    return (out / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("small")
def test_the_script_writes_a_folder_that_loads_and_a_card(tmp_path: Path) -> None:
    make_model(tmp_path, "--seed", "5")
    model = Transformer.from_pretrained(tmp_path, backend="reference")
    assert model.dtype == torch.float16
    assert model.config.max_position_embeddings == 32
    card = (tmp_path / "CARD.md").read_text()
    assert "--steps 3 --seed 5" in card
    assert f"{sum(w.numel() for w in model.parameters()):,} parameters" in card
    told = float(re.search(r"held-out loss \| ([\d.]+) nats", card)[1])
    assert held_out_loss(model.float(), model.unembedding, TEXT[:97], 32) == pytest.approx(told, rel=0.01)


@pytest.mark.usefixtures("small")
def test_the_script_gives_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    first = make_model(tmp_path / "first")
    assert make_model(tmp_path / "again") == first
    assert make_model(tmp_path / "other", "--seed", "1") != first


@pytest.mark.usefixtures("small")
def test_the_script_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_model(tmp_path / "whole")

    def killed(step: int, *news: object) -> None:
        if step == 2:
            raise Killed

    with monkeypatch.context() as until:
        until.setattr(make, "_tell", killed)
        with pytest.raises(Killed):
            make_model(tmp_path / "killed")
    with pytest.raises(Error, match=r"a folder without a run, or resume=True \(--resume\)"):
        make_model(tmp_path / "killed")
    assert make_model(tmp_path / "killed", "--resume") == whole
    assert (tmp_path / "killed" / "CARD.md").exists()


# --------------------------------------------------------------------------------------------------------------- eager


def wide_model() -> tuple[Transformer, EagerLlama]:
    model = new_model()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6 if weight.ndim > 1 else 1)
    return model, EagerLlama(weights_of(named_tensors(model), torch.float32), CONFIG)


def test_eager_llama_is_the_same_model() -> None:
    model, eager = wide_model()
    ids = torch.randint(256, (2, 30), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(eager.hidden(ids), model(ids), rtol=1e-4, atol=1e-4)


def test_eager_generation_is_greedy_over_the_whole_sequence() -> None:
    model, eager = wide_model()
    ids = torch.randint(256, (1, 7), generator=torch.Generator().manual_seed(0))
    grown = eager.generate(ids, 12)
    assert grown.shape == (1, 19)
    assert torch.equal(grown[:, 7:], model.logits(grown).argmax(-1)[:, 6:-1])


def test_eager_generation_follows_its_seed() -> None:
    _, eager = wide_model()
    ids = torch.tensor([[1, 2, 3]])
    first, again, other = (eager.generate(ids, 20, 1.5, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_eager_llama_refuses_what_it_is_not() -> None:
    model = new_model()
    with pytest.raises(ArgumentError, match="plain Llama"):
        EagerLlama(named_tensors(model), replace(CONFIG, qk_norm=True))
