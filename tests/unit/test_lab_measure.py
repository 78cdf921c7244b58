"""Loss against length: which windows and tokens are scored, and what the result says of itself."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from farspan import reference
from farspan._errors import ArgumentError, DtypeError
from farspan.lab import measure as measuring
from farspan.lab.measure import measure
from farspan.lab.measurement import Measurement
from farspan.lab.reach import default_schemes
from farspan.lab.windows import window_ends
from farspan.model import Config, Transformer
from farspan.positions import DynamicNTK, Llama3, NoPE, RoPE, YaRN

CONFIG = Config(
    vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, head_dim=8
)


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(CONFIG, backend="reference")
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.ndim > 1 else 1)  # far from uniform, so that a wrong window or target shows
    return model


@pytest.fixture(autouse=True)
def score_by_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here is which windows and targets are scored, not the backend."""
    monkeypatch.setattr(measuring, "score", reference.score)


TOKENS = torch.randint(50, (700,), generator=torch.Generator().manual_seed(1))


def losses(model: Transformer, start: int, end: int) -> torch.Tensor:
    """Nats of the tokens start + 1 to end, read from start on."""
    logits = reference.logits(model(TOKENS[None, start:end]), model.unembedding)[0]
    return -torch.log_softmax(logits.double(), -1).gather(1, TOKENS[start + 1 : end + 1, None])[:, 0].detach()


# ------------------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize(("tokens", "windows"), [(65, 4), (66, 4), (100, 3), (700, 7), (700, 1), (10_000, 32)])
def test_windows_fit_the_text_and_share_no_target(tokens: int, windows: int) -> None:
    ends, stride = window_ends(tokens, 64, windows, targets=8)
    assert 1 <= len(ends) <= windows
    assert int(ends[0]) == 64
    assert int(ends[-1]) < tokens
    assert (ends.diff() == stride).all()
    assert len(ends) == 1 or stride >= 8


def test_windows_reach_to_the_end_of_a_long_text() -> None:
    ends, _ = window_ends(10_000, 64, 32, targets=8)
    assert len(ends) == 32
    assert int(ends[-1]) > 10_000 - 64


def test_a_text_too_short_is_an_error_that_says_what_it_holds() -> None:
    with pytest.raises(ArgumentError, match="at most 63"):
        window_ends(64, 64, 4, targets=8)


# ------------------------------------------------------------------------------------------------------------- measure


def test_by_length_scores_the_same_tokens_at_every_length(model: Transformer) -> None:
    result = measure(model, TOKENS, [32, 16, 64], {"rope": None}, windows=5, targets=8)
    ends, stride = window_ends(len(TOKENS), 64, 5, 8)
    assert (result.lengths, result.windows, result.stride, result.targets) == ((16, 32, 64), 5, stride, 8)
    for point, length in zip(result.points, (16, 32, 64), strict=True):
        means = torch.stack([losses(model, end - length, end)[-8:].mean() for end in ends.tolist()])
        assert point.nats_per_token == pytest.approx(means.mean().item(), rel=1e-5)
        assert point.standard_error == pytest.approx(means.std().item() / math.sqrt(5), rel=1e-4)
        assert (point.length, point.shortest, point.tokens) == (length, length - 7, 40)


def test_by_position_averages_between_one_length_and_the_next(model: Transformer) -> None:
    result = measure(model, TOKENS, [16, 64], {"rope": None}, by="position", windows=3)
    ends, _ = window_ends(len(TOKENS), 64, 3, 8)
    whole = torch.stack([losses(model, end - 64, end) for end in ends.tolist()])
    near, far = result.points
    assert near.nats_per_token == pytest.approx(whole[:, :16].mean().item(), rel=1e-5)
    assert far.nats_per_token == pytest.approx(whole[:, 16:].mean().item(), rel=1e-5)
    assert [(p.shortest, p.length, p.tokens) for p in result.points] == [(1, 16, 48), (17, 64, 144)]


def test_batches_of_any_size_give_the_same(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    together = measure(model, TOKENS, [16, 32], {"rope": None}, windows=7)
    monkeypatch.setattr("farspan.lab.windows.TOKENS_AT_ONCE", 40)
    alone = measure(model, TOKENS, [16, 32], {"rope": None}, windows=7)
    for a, b in zip(together.points, alone.points, strict=True):
        assert a.nats_per_token == pytest.approx(b.nats_per_token, rel=1e-5)


def test_schemes_are_put_on_the_model(model: Transformer) -> None:
    chosen = {"own": None, "rope": RoPE(), "yarn": YaRN(4, 16)}
    own, rope, yarn = measure(model, TOKENS, [64], chosen, windows=4).points
    assert own.nats_per_token == rope.nats_per_token
    assert abs(yarn.nats_per_token - rope.nats_per_token) > 1e-4
    assert model.config.positions == CONFIG.positions


def test_targets_are_at_most_half_the_shortest_length(model: Transformer) -> None:
    assert measure(model, TOKENS, [10, 32], {"rope": None}, windows=2, targets=64).targets == 5


def test_one_window_has_no_standard_error(model: Transformer) -> None:
    (point,) = measure(model, TOKENS, [16], {"rope": None}, windows=1).points
    assert math.isnan(point.standard_error)


def test_progress_counts_up_to_the_whole(model: Transformer) -> None:
    seen: list[tuple[int, int]] = []
    measure(model, TOKENS, [16, 32], {"rope": None, "yarn": YaRN(2, 16)}, windows=3,
            progress=lambda done, total, next_step: seen.append((done, total)))  # fmt: skip
    assert [done for done, _ in seen] == [0, 48, 144, 192, 288]  # before each batch, and at the end
    assert {whole for _, whole in seen} == {288}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lengths": []}, "lengths"), ({"lengths": [1]}, "lengths"), ({"lengths": [900]}, "lengths"),
        ({"by": "token"}, "by"), ({"windows": 0}, "windows"), ({"targets": 0}, "targets"),
        ({"windows": 2.5}, "windows"), ({"trained_length": 0}, "trained_length"), ({"lengths": [16.5]}, "lengths"),
        ({"lengths": 16.5}, "lengths"),
        ({"first_tokens": [1] * 9}, "first_tokens"), ({"schemes": []}, "schemes"), ({"schemes": ["rotary"]}, "schemes"),
        ({"schemes": {"mine": 3}}, "mine"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(changes: dict[str, object], named: str, model: Transformer) -> None:
    lengths = changes.pop("lengths", [16])
    with pytest.raises(ArgumentError, match=named):
        measure(model, TOKENS, lengths, **{"schemes": {"rope": None}, **changes})


@pytest.mark.parametrize("tokens", [TOKENS.float(), TOKENS.bool(), [*TOKENS.tolist(), 0.5], "text", ["a", "b"], 3])
def test_tokens_are_integers(tokens: object, model: Transformer) -> None:
    with pytest.raises(DtypeError, match=r"tokens: expected token ids, integers .* given"):
        measure(model, tokens, [16], "own")


def test_a_model_of_another_library_is_named() -> None:
    with pytest.raises(DtypeError, match=r"model: expected a farspan\.Transformer, given Linear"):
        measure(torch.nn.Linear(2, 2), TOKENS, [16])


@pytest.mark.parametrize("kind", [np.array, list, lambda ids: torch.tensor(ids, dtype=torch.uint8)])
def test_tokens_may_come_as_anything_with_integers(kind: object, model: Transformer) -> None:
    wanted = measure(model, TOKENS, [16], "own", windows=3).points
    assert measure(model, kind(TOKENS.tolist()), [16], "own", windows=3).points == wanted


# ------------------------------------------------------------------------------------------------- what the result says


def test_own_is_measured_by_default_and_plain_rope_only_where_it_is_another_scheme(model: Transformer) -> None:
    result = measure(model, TOKENS, [16], windows=1)
    assert next(iter(result.schemes)) == "own"
    assert "rope" not in result.schemes
    assert result.schemes["own"] == {"scheme": "own", "layers": [RoPE().to_dict()]}
    scaled = model.with_positions(Llama3(8, 1, 4, 16))
    assert default_schemes(scaled.config)[:2] == ("own", "rope")


def test_a_scaling_that_other_schemes_put_out_of_use_is_told(model: Transformer) -> None:
    scaled = model.with_positions(Llama3(8, 1, 4, 16))
    result = measure(scaled, TOKENS, [32], ["own", "rope"], windows=2)
    assert any("Llama3" in note for note in result.notes)
    assert result.trained_length == 16
    own, rope = result.points
    assert abs(own.nats_per_token - rope.nats_per_token) > 1e-4
    assert not measure(scaled, TOKENS, [32], "own", windows=2).notes
    assert not measure(model, TOKENS, [32], ["own", "yarn"], windows=2).notes
    (note,) = measure(model, TOKENS, [32], ["own", "t5", "logn"], windows=2).notes
    assert note.startswith("t5: the model was not trained with")


def test_a_scheme_goes_on_the_layers_that_rotate(model: Transformer) -> None:
    """SmolLM3 has layers without positions. `rope` is then the model's own, and not another model."""
    mixed = Transformer(dataclasses.replace(CONFIG, positions=(RoPE(), NoPE()), rope_bases=None), backend="reference")
    mixed.load_state_dict(model.state_dict())
    assert "rope" not in default_schemes(mixed.config)
    result = measure(mixed, TOKENS, [32], ["own", "rope", "yarn"], windows=2, trained_length=16)
    own, rope, yarn = result.points
    assert rope.nats_per_token == own.nats_per_token
    assert yarn.nats_per_token != own.nats_per_token
    assert [note for note in result.notes if "1 of the model's 2 layers" in note]


@pytest.mark.parametrize(("by", "told"), [("length", False), ("position", True)])
def test_by_position_says_that_dynamic_schemes_know_the_whole_window(by: str, told: bool, model: Transformer) -> None:
    chosen = {"own": None, "dynamic": DynamicNTK(2, 16), "yarn": YaRN(2, 16)}
    notes = measure(model, TOKENS, [16, 64], chosen, by=by, windows=2).notes
    assert [note.startswith("dynamic: every position") and "64" in note for note in notes] == [True] * told


def test_every_window_begins_with_the_first_tokens(model: Transformer) -> None:
    """A text of one letter: all values are equal, so the loss is the same at every length where like is compared."""
    text = torch.full((300,), 7)
    bare = measure(model, text, [16, 32, 64], "own", windows=4)
    begun = measure(model, text, [16, 32, 64], "own", windows=4, first_tokens=[3], targets=4)
    assert begun.first_tokens == (3,)
    assert any("begins with 3" in note for note in begun.notes)
    assert len({round(point.nats_per_token, 5) for point in bare.points}) == 1
    window = torch.cat((torch.tensor([3]), text[:15]))[None]
    wanted = -torch.log_softmax(model.logits(window).double(), -1)[0, -4:, 7].mean().item()
    assert begun.points[0].nats_per_token == pytest.approx(wanted, rel=1e-5)
    assert begun.points[0].nats_per_token != pytest.approx(bare.points[0].nats_per_token, rel=1e-3)


def test_what_is_measured_so_far_is_handed_over_after_each_point(model: Transformer) -> None:
    seen: list[Measurement] = []
    result = measure(model, TOKENS, [16, 32], ["own", YaRN(2, 16)], windows=2, keep=seen.append)
    assert [len(so_far.points) for so_far in seen] == [1, 2, 3, 4]
    assert not any(so_far.complete for so_far in seen)
    assert result.complete
    assert seen[2].points == result.points[:3]
    assert list(seen[0].schemes) == ["own", "YaRN(factor=2, original_length=16)"]


def test_differences_are_between_the_same_windows(model: Transformer) -> None:
    own, yarn = measure(model, TOKENS, [64], {"own": None, "yarn": YaRN(4, 16)}, windows=5, targets=4).points
    mean, error = yarn.above(own)
    assert mean == pytest.approx(yarn.nats_per_token - own.nats_per_token)
    apart = torch.tensor(yarn.window_losses, dtype=torch.float64) - torch.tensor(own.window_losses, dtype=torch.float64)
    assert error == pytest.approx(apart.std().item() / math.sqrt(5))
    assert own.above(own) == (0.0, 0.0)


# ------------------------------------------------------------------------------------------- strides, effective lengths


def test_with_a_stride_windows_begin_at_the_first_place_and_end_with_the_text() -> None:
    ends, stride = window_ends(100, 64, 1000, targets=1, stride=1)
    assert stride == 1
    assert ends.tolist() == list(range(64, 100)), "every token that has so much before it is predicted"
    assert window_ends(100, 64, 5, targets=1, stride=3)[0].tolist() == [64, 67, 70, 73, 76]


def test_by_length_no_token_counts_twice_under_a_stride(model: Transformer) -> None:
    found = measure(model, TOKENS, [16, 32], "own", windows=20, stride=3)
    assert (found.targets, found.stride) == (3, 3)
    wanted = torch.cat([losses(model, end - 16, end)[-3:] for end in range(32, 32 + 20 * 3, 3)])
    assert found.points[0].nats_per_token == pytest.approx(wanted.mean().item(), abs=1e-5)


def test_by_position_with_a_stride_of_one_each_position_has_every_window(model: Transformer) -> None:
    found = measure(model, TOKENS[:60], [2, 4, 8], "own", by="position", stride=1, windows=1000)
    assert found.windows == 52
    rows = torch.stack([losses(model, end - 8, end) for end in range(8, 60)])
    means = [rows[:, first:last].mean().item() for first, last in ((0, 2), (2, 4), (4, 8))]
    assert [point.nats_per_token for point in found.points] == pytest.approx(means, abs=1e-5)
    assert "too small" in found.notes[-1]
    assert found.rows()[0]["perplexity"] == pytest.approx(math.exp(found.points[0].nats_per_token))


@pytest.mark.parametrize(("wrong", "named"), [({"stride": 0}, "stride"), ({"margin": -1}, "margin")])
def test_wrong_strides_and_margins(wrong: dict[str, float], named: str, model: Transformer) -> None:
    with pytest.raises(ArgumentError, match=named):
        measure(model, TOKENS, [16], "own", **wrong)


@pytest.mark.parametrize(
    ("means", "reach"),
    [
        ((3.0, 2.0, 2.04, 2.2, 2.0), 30),  # what comes after a rise is not reached
        ((3.0, 2.0, 1.5, 1.55, 1.4), 50),
        ((1.0, 2.0, 3.0, 4.0, 5.0), 10),
    ],
)
def test_effective_lengths(means: tuple[float, ...], reach: int, model: Transformer) -> None:
    lengths = (10, 20, 30, 40, 50)
    found = measure(model, TOKENS, lengths, "own", windows=1)
    made = tuple(dataclasses.replace(p, nats_per_token=x) for p, x in zip(found.points, means, strict=True))
    assert dataclasses.replace(found, points=made).effective_lengths() == {"own": reach}
    wide = dataclasses.replace(found, points=made, margin=9.0)
    assert wide.effective_lengths() == {"own": 50}
    assert wide.to_dict()["effective_lengths"] == {"own": 50}
