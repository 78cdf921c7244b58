"""The whole model: against its definition in float64, against transformers, with caches, in batches."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from support.models import SHAPE, VOCAB, ids, reference_twin, small_model, transformers_model

import farspan
from farspan import positions as P
from farspan.model import Config, Transformer
from farspan.testing import assert_close, assert_same_bits

pytestmark = pytest.mark.usefixtures("no_gradients")

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "attention_output_bias": True, "mlp_bias": True},
    "layer norm, plain MLP": {"norm": "layer", "gated_mlp": False, "hidden_act": "gelu_pytorch_tanh"},
    "relu": {"hidden_act": "relu"},
    "q and k norm": {"qk_norm": True, "head_dim": 20},
    "one kv head": {"num_key_value_heads": 1},
    "windows and schemes by layer": {"windows": (None, 7, 5), "positions": (P.RoPE(), P.NoPE(), P.Streaming(2, 9))},
    "odd sizes": {"hidden_size": 44, "intermediate_size": 33, "head_dim": 10},
    "heads of one dimension": {"head_dim": 1, "positions": P.NoPE()},
}


def bound(truth: torch.Tensor) -> float:
    return 2e-5 * float(1 + truth.abs().max())


@pytest.mark.parametrize("name", SHAPES)
def test_follows_the_definition(name: str) -> None:
    model = small_model(**SHAPES[name])
    twin, tokens = reference_twin(model), ids(2, 40)
    truth = twin(tokens)
    assert_close(model(tokens), truth, bound(truth), f"{name}: hidden states against float64")
    truth = twin.logits(tokens)
    assert_close(model.logits(tokens), truth, bound(truth), f"{name}: logits against float64")


@pytest.mark.parametrize("name", SHAPES)
def test_a_row_has_the_same_bits_alone_in_chunks_and_in_a_batch(name: str) -> None:
    model, tokens = small_model(**SHAPES[name]), ids(5, 37)
    together = model(tokens).numpy()
    for row in (0, 4):
        assert_same_bits(model(tokens[row : row + 1]).numpy()[0], together[row], f"{name}: row {row} alone")
    cache = model.new_cache(5)
    chunks = [model(tokens[:, a:b], cache) for a, b in ((0, 1), (1, 20), (20, 36), (36, 37))]
    assert_same_bits(torch.cat(chunks, 1).numpy(), together, f"{name}: in chunks")


def test_bits_do_not_depend_on_threads(threads: Any) -> None:
    model, tokens = small_model(hidden_size=256, intermediate_size=700), ids(3, 150)
    threads(1)
    alone = model(tokens).numpy()
    threads(3)
    assert_same_bits(model(tokens).numpy(), alone, "three threads against one")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights(dtype: str) -> None:
    """Between half-precision weights everything is float32, so only the last rounding separates it from float64."""
    model, tokens = small_model(dtype=dtype, mlp_bias=True, qk_norm=True), ids(2, 30)
    hidden, truth = model(tokens), reference_twin(model)(tokens)
    assert hidden.dtype == getattr(torch, dtype)
    rounding = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
    assert_close(hidden.double(), truth, 1.1 * rounding * float(truth.abs().max()), f"{dtype} weights")
    out = model.generate([[1, 2, 3]], max_new_tokens=5)
    assert len(out[0].tokens) == 5


def test_weights_changed_in_place_count_at_the_next_call() -> None:
    model, tokens = small_model(dtype="bfloat16"), ids(1, 9)
    before = model(tokens)
    with torch.no_grad():
        model.norm.weight.mul_(2)
        model.layers[0].mlp.down.weight.mul_(2)
    changed = model(tokens)
    assert not torch.equal(before, changed)
    assert_same_bits(
        changed.float().numpy(), copy.deepcopy(model)(tokens).float().numpy(), "a copy made after the change"
    )


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")  # a pure function is traced
def test_compiles_without_graph_breaks() -> None:
    model, tokens = small_model(), ids(2, 12)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    truth = model(tokens)
    assert_close(compiled(tokens), truth, bound(truth), "torch.compile(fullgraph=True)")


@pytest.mark.parametrize("bad", [VOCAB, -1, 2**40])
def test_ids_outside_the_vocabulary(bad: int) -> None:
    tokens = ids(2, 5)
    tokens[1, 2] = bad
    for backend in ("fused", "reference"):
        with pytest.raises(farspan.ArgumentError, match=f"ids.*{bad}"):
            small_model(backend)(tokens)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (torch.zeros(3), farspan.DtypeError), (torch.zeros(3, dtype=torch.int64), farspan.ArgumentError),
        ([["a"]], farspan.Error), ([[1, 2], [3]], farspan.ArgumentError),
    ],
    ids=["floats", "one dimension", "text", "ragged lists"],
)  # fmt: skip
def test_wrong_ids(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="ids"):
        small_model()(wrong)


def test_ids_of_any_kind_and_of_no_length() -> None:
    model, tokens = small_model(), ids(2, 6)
    for same in (tokens.numpy(), tokens.tolist(), tokens.int(), tokens.numpy().astype(np.int32)):
        assert_same_bits(model(same).numpy(), model(tokens).numpy(), f"ids as {type(same).__name__}")
    assert model(tokens[:, :0]).shape == (2, 0, 48)
    assert model(tokens[:0]).shape == (0, 6, 48)


# --------------------------------------------------------------------------------------------------------------- cache


def test_cache_lengths_differ_within_a_batch() -> None:
    model, tokens = small_model(), ids(2, 40)
    cache = model.new_cache(2)
    model(tokens[:, :30], cache)
    assert cache.truncate([30, 12]).lengths.tolist() == [30, 12]
    new = ids(2, 5, seed=3)
    hidden = model(new, cache)
    assert cache.lengths.tolist() == [35, 17]
    for row, held in enumerate((30, 12)):
        fresh = model(torch.cat([tokens[row, :held], new[row]])[None])[0, held:]
        assert_same_bits(hidden[row].numpy(), fresh.numpy(), f"row {row} after truncation to {held}")


def test_fork_is_independent_and_grows() -> None:
    model, tokens = small_model(), ids(1, 30)
    cache = model.new_cache(1)
    model(tokens, cache)
    forked = cache.fork([0, 0, 0])
    tails = ids(3, 90, seed=4)
    hidden = model(tails, forked)
    assert cache.lengths.tolist() == [30]
    assert forked.lengths.tolist() == [120] * 3
    fresh = model(torch.cat([tokens.expand(3, -1), tails], 1))[:, 30:]
    assert_same_bits(hidden.numpy(), fresh.numpy(), "three continuations of one prefix")


def test_fixed_capacity_is_a_bound() -> None:
    model = small_model()
    cache = model.new_cache(1, capacity=8)
    model(ids(1, 8), cache)
    with pytest.raises(farspan.ArgumentError, match=r"cache.*8.*9"):
        model(ids(1, 1), cache)
    assert cache.lengths.tolist() == [8], "a refused call leaves the cache as it was"


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda m, c: c.truncate([5]), "lengths"), (lambda m, c: c.truncate(-1), "lengths"),
        (lambda m, c: c.truncate([1, 1]), "lengths"), (lambda m, c: c.truncate(1.5), "lengths"),
        (lambda m, c: c.fork([1]), "indices"), (lambda m, c: c.fork(["a"]), "indices"),
        (lambda m, c: m(ids(2, 3), c), "cache"), (lambda m, c: m(ids(1, 3), "x"), "cache"),
        (lambda m, c: m.new_cache(0), "batch"), (lambda m, c: m.new_cache(1, capacity=-1), "capacity"),
    ],
)  # fmt: skip
def test_cache_refuses(call: Any, word: str) -> None:
    model = small_model()
    cache = model.new_cache(1)
    model(ids(1, 4), cache)
    with pytest.raises(farspan.ArgumentError, match=word):
        call(model, cache)


# -------------------------------------------------------------------------------------------------------------- config


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads"), ({"hidden_size": 50}, "hidden_size"),
        ({"vocab_size": 0}, "vocab_size"), ({"norm": "batch"}, "norm"), ({"hidden_act": "tanh"}, "hidden_act"),
        ({"windows": (1, 2)}, "windows"), ({"windows": (0,)}, "windows"), ({"positions": ("rope",)}, "positions"),
        ({"dtype": "int8"}, "dtype"), ({"norm_eps": -1.0}, "norm_eps"),
    ],
)  # fmt: skip
def test_config_refuses(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(farspan.ArgumentError, match=word):
        Config(**{**SHAPE, **changes})


def test_transformer_refuses() -> None:
    with pytest.raises(farspan.ArgumentError, match="backend"):
        small_model("quick")
    with pytest.raises(farspan.DtypeError, match="dtype"):
        small_model(dtype="int8")
    with pytest.raises(farspan.ArgumentError, match="config"):
        Transformer({"vocab_size": 3})  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------- against transformers

FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Llama with biases": {"attention_bias": True, "mlp_bias": True},
    "Llama with its own head_dim": {"head_dim": 20, "tie_word_embeddings": True},
    "Llama with gelu": {"hidden_act": "gelu_pytorch_tanh"},
    "Mistral": {"sliding_window": 16},
    "Qwen2": {},
    "Qwen2 with some windows": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "Qwen3": {"head_dim": 24},
    "Qwen3 with layer types": {
        "head_dim": 24, "use_sliding_window": True, "sliding_window": 9,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "SmolLM3": {"no_rope_layer_interval": 2},
    "SmolLM3 with windows": {"no_rope_layers": [1, 0, 1], "use_sliding_window": True, "sliding_window": 6},
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_families_against_transformers(name: str, tmp_path: Any) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers_model(name.split()[0], **FAMILIES[name])
    theirs.save_pretrained(tmp_path)
    ours = Transformer.from_pretrained(tmp_path)
    tokens = ids(2, 50)
    with torch.no_grad():
        single = theirs(tokens).logits.double()
        truth = theirs.double()(tokens).logits
    own_error = float((single - truth).abs().max())
    assert_close(ours.logits(tokens), truth, 4 * own_error + bound(truth), f"{name}: logits against transformers")

    prompt = tokens[0, :9].tolist()
    completion = ours.generate([prompt], max_new_tokens=64, stop=())[0]
    with torch.no_grad():
        after = theirs(torch.tensor([prompt + completion.tokens])).logits[0, len(prompt) - 1 : -1]
    two = after.topk(2).values
    clear = (two[:, 0] - two[:, 1]) > 1e-3
    assert clear.float().mean() > 0.8
    assert torch.equal(after.argmax(-1)[clear], torch.tensor(completion.tokens)[clear]), f"{name}: 64 greedy tokens"


def test_heads_of_one_dimension_on_tensors() -> None:
    model, tokens = small_model(**SHAPES["heads of one dimension"]), ids(2, 7)
    expected = model(tokens)
    model.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert_same_bits(model(tokens).numpy(), expected.numpy(), "hidden states")
