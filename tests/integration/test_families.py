"""Every family's settings: defaults and meanings are those of transformers, and no value of a wrong type loads."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.family_models import CASES, settings_for
from support.models import SHAPE, ids, small_model, transformers_model

import farspan
from farspan import positions as P
from farspan.model import Config, Transformer
from farspan.model.families import FAMILIES
from farspan.model.kinds import REQUIRED

pytestmark = pytest.mark.usefixtures("no_gradients")

CLASSES = {
    "llama": "Llama", "mistral": "Mistral", "ministral": "Ministral", "qwen2": "Qwen2", "qwen3": "Qwen3",
    "smollm3": "SmolLM3",
}  # fmt: skip
OTHERS = {family: case.config.removesuffix("Config") for family, case in CASES.items()}
"""Those that are no Llama with other defaults; `test_family_models.py` compares their numbers."""
WHOLE = {"gemma3": "gemma3_text", "mistral3": "ministral3"}
"""Models that see too, and the families of their text."""
BASE = {name: SHAPE[name] for name in SHAPE if name != "max_position_embeddings"}

# Settings of transformers that the numbers of a model do not depend on, or that all its configurations share.
APART = {
    "architectures", "chunk_size_feed_forward", "id2label", "is_encoder_decoder", "label2id", "output_hidden_states",
    "pretraining_tp", "problem_type", "return_dict", "transformers_version",
}  # fmt: skip
OLD_NAMES = {"torch_dtype", "rope_theta", "rope_scaling", "original_max_position_embeddings", "partial_rotary_factor"}


NOT_FIELDS = {
    "gemma3_text": {"sliding_window_pattern", "rope_local_base_freq"}, "gpt_neox": {"rotary_pct", "rotary_emb_base"},
    "qwen3_moe": {"num_local_experts"}, "gpt_oss": {"num_experts"},
}  # fmt: skip
"""What transformers takes under another name, or once had."""


def settings_of(family: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": family, **BASE, **changes}


def test_every_family_is_compared() -> None:
    assert CLASSES.keys() | OTHERS.keys() | WHOLE.keys() == FAMILIES.keys()
    for whole, text in WHOLE.items():
        assert issubclass(type(FAMILIES[whole]), type(FAMILIES[text]))


@pytest.mark.parametrize("family", CLASSES | OTHERS)
def test_defaults_are_those_of_transformers(family: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = getattr(transformers, f"{(CLASSES | OTHERS)[family]}Config")
    fields = {field.name: field.default for field in dataclasses.fields(theirs)}
    keys = FAMILIES[family].keys
    assert fields.keys() - keys.keys() - APART == set(), "settings that nobody reads"
    for name, setting in keys.items():
        if name in fields and setting.default is not REQUIRED:
            default = setting.kind.check(name, fields[name])
            assert setting.default == default, f"{family}: {name}"
    theta = FAMILIES[family].rope_theta
    if isinstance(theirs.default_theta, dict):
        assert {"global": theta, "local": FAMILIES[family].local_theta} == theirs.default_theta
    else:
        assert theta == theirs.default_theta
    # What transformers has no field for is taken from wherever a folder has it.
    extra = keys.keys() - fields.keys() - OLD_NAMES
    assert extra <= {"layer_types", "head_dim"} | NOT_FIELDS.get(family, set()), "settings that nobody knows"


ROPES: dict[str, dict[str, Any]] = {
    "yarn by two lengths": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 16},
    "longrope": {"rope_type": "longrope", "short_factor": [1.0] * 6, "long_factor": [2.0] * 6,
                 "original_max_position_embeddings": 32},
    "llama3 without a length": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}  # fmt: skip


def written(folder: Path, family: str, **changes: Any) -> Path:
    """A folder that transformers wrote, with other settings."""
    options: dict[str, Any] = {"num_hidden_layers": 4, "initializer_range": 0.3, "head_dim": 12}
    if family in ("Mistral", "Ministral"):
        options["sliding_window"] = 64  # past every text here
    transformers_model(family, **options).save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **changes}))
    return folder


def compare(folder: Path, time: int = 40) -> tuple[Transformer, Any]:
    """Both libraries read the folder: the same logits."""
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    ours = Transformer.from_pretrained(folder)
    with torch.no_grad():
        truth = theirs(ids(1, time)).logits
    assert torch.allclose(ours.logits(ids(1, time)), truth, atol=2e-4 * float(1 + truth.abs().max()))
    return ours, theirs


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("family", CLASSES.values())
def test_what_follows_from_a_length_that_is_not_given(family: str, rope: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    folder = written(tmp_path, family, rope_parameters={**ROPES[rope], "rope_theta": 1e4})
    settings = json.loads((folder / "config.json").read_text())
    del settings["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(settings))
    ours, theirs = compare(folder)
    assert ours.config.max_position_embeddings == theirs.config.max_position_embeddings


S, F = "sliding_attention", "full_attention"


@pytest.mark.parametrize(
    "kinds", [[S] * 4, [F, S, F, S], [S, F, S, F], [F] * 4], ids=lambda kinds: str(len(set(kinds)))
)
def test_windows_of_a_mistral_by_layer(kinds: list[str], tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    ours, _ = compare(written(tmp_path, "Mistral", layer_types=kinds, sliding_window=6))
    assert ours.config.windows == tuple(6 if kind == S else None for kind in kinds)
    ours.save_pretrained(tmp_path / "again")
    again, _ = compare(tmp_path / "again")
    assert again.config == ours.config


@pytest.mark.parametrize(
    "changes",
    [{}, {"max_window_layers": 0}, {"max_window_layers": 2}, {"no_rope_layers": [0, 1, 0, 1]},
     {"no_rope_layer_interval": 3}, {"sliding_window": None}],
    ids=str,
)  # fmt: skip
def test_windows_of_a_smollm3_stand_where_no_rotation_is(changes: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    written(tmp_path, "SmolLM3")
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["layer_types"]
    if "no_rope_layer_interval" in changes:
        del settings["no_rope_layers"]
    settings |= {"use_sliding_window": True, "sliding_window": 5, **changes}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    ours, theirs = compare(tmp_path)
    window = settings["sliding_window"]
    assert ours.config.windows == tuple(window if kind == S else None for kind in theirs.config.layer_types)


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3"])
@pytest.mark.parametrize("changes", [{"max_window_layers": 1}, {"layer_types": [F, S, F, F]}], ids=str)
def test_windows_of_a_qwen(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    written(tmp_path, family, use_sliding_window=True, sliding_window=5)
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["layer_types"]
    (tmp_path / "config.json").write_text(json.dumps({**settings, **changes}))
    ours, theirs = compare(tmp_path)
    assert ours.config.windows == tuple(5 if kind == S else None for kind in theirs.config.layer_types)


def test_layers_that_slide_without_a_window() -> None:
    for family in ("mistral", "ministral", "qwen2", "qwen3", "smollm3"):
        settings = settings_of(family, layer_types=[F, S, F], sliding_window=None)
        with pytest.raises(farspan.CheckpointError, match="sliding_window"):
            Config.from_dict(settings)
    with pytest.raises(farspan.CheckpointError, match="use_sliding_window"):
        Config.from_dict(settings_of("qwen2", layer_types=[F, S, F], sliding_window=4))


# ----------------------------------------------------------------------------------------------------- lengths in ropes

YARN = {"factor": 4.0}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {"short_factor": [1.0] * 6, "long_factor": [2.0] * 6}


@pytest.mark.parametrize(("kind", "rest"), [("yarn", YARN), ("llama3", LLAMA3), ("longrope", LONG)], ids=str)
def test_lengths_written_as_floats(kind: str, rest: dict[str, Any]) -> None:
    name = "original_max_position_embeddings"
    for settings in (
        {"rope_parameters": {"rope_type": kind, **rest, name: 8192.0}},
        {"rope_scaling": {"type": kind, **rest, name: 8192.0}},
        {"rope_scaling": {"rope_type": kind, **rest}, name: 8192.0},
    ):
        (scheme, *_) = Config.from_dict(settings_of("llama", max_position_embeddings=32768.0, **settings)).positions
        assert scheme.original_length == 8192  # type: ignore[attr-defined]
        assert isinstance(scheme.original_length, int)  # type: ignore[attr-defined]
    broken = {"rope_scaling": {"rope_type": kind, **rest, name: 8192.5}}
    with pytest.raises(farspan.CheckpointError, match=rf"rope_scaling\.{name}.*8192\.5"):
        Config.from_dict(settings_of("llama", **broken))


# ---------------------------------------------------------------------------------------------------------- wrong types

WRONG: list[Any] = [
    "false", "", "7", -1, -0.5, 0.5, float("nan"), float("inf"), 10**40, True, False, None, [], [1, "a"], [None], {},
    {"a": 1}, 0, 1, [True], [-1], [[1]], 1e300, 1e-300,
]  # fmt: skip
TOP = {
    "architectures": ["LlamaForCausalLM"], "no_rope_layers": [1, 1, 0], "layer_types": [F] * 3,
    "rope_parameters": None, "rope_scaling": None, "head_dim": 12,
}  # fmt: skip
ROPE_SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 2.0, "beta_fast": 32, "beta_slow": 1, "attention_factor": 1.0, "mscale": 1.0,
             "mscale_all_dim": 1.0, "truncate": True, "original_max_position_embeddings": 64},
    "llama3": {**LLAMA3, "original_max_position_embeddings": 64},
    "longrope": {**LONG, "factor": 2.0, "attention_factor": 1.0, "original_max_position_embeddings": 64},
}  # fmt: skip


def refused_or_usable(settings: dict[str, Any], *names: str) -> bool:
    """Whether the settings are refused by an error that has one of the names; what is accepted has to compute."""
    try:
        config = Config.from_dict(settings)
    except farspan.CheckpointError as error:
        said = str(error)
    else:
        heads = config.dim_per_head * config.num_attention_heads
        sizes = (config.num_hidden_layers, config.vocab_size, config.hidden_size, config.intermediate_size, heads)
        if max(sizes) < 1000:
            text = ids(1, min(9, config.longest or 9)) % config.vocab_size
            hidden = Transformer(dataclasses.replace(config, dtype="float32"))(text)
            assert hidden.isfinite().all(), settings
        return False
    assert re.search("|".join(names), said), f"{settings} says {said}"
    return True


BESIDE = (
    "rope", "num_key_value_heads", "hidden_size", "head_dim", "n_embd", "layer_types", "partial_rotary_factor",
    "num_experts_per_tok",
)  # fmt: skip
"""Settings that others have to fit."""
HARMLESS = {"num_key_value_heads=None", "attention_dropout=None", "final_logit_softcapping=1", "hidden_size=1"}


@pytest.mark.parametrize("family", CLASSES | OTHERS)
def test_every_setting_refuses_what_transformers_refuses(family: str) -> None:
    """Values of other types: CheckpointError by the setting's name, or accepted by the strict class as well."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = getattr(transformers, f"{(CLASSES | OTHERS)[family]}Config")
    fields = {field.name: field.default for field in dataclasses.fields(theirs)}
    lenient = []
    for name in [*FAMILIES[family].keys, "architectures", "model_type"]:
        for value in WRONG:
            sound = settings_of(family) if family in CLASSES else {"model_type": family, **settings_for(family)}
            settings = {**sound, name: copy.deepcopy(value)}
            if refused_or_usable(settings, name, *BESIDE):
                continue
            try:
                theirs(**{key: copy.deepcopy(x) for key, x in settings.items() if key != "model_type"})
            except Exception:
                unread = name.startswith("mamba_") or name == "time_step_limit"  # of layers that are not there
                if name in fields and not (unread or (isinstance(fields[name], float) and type(value) is int)):
                    lenient.append(f"{name}={value!r}")
    assert set(lenient) <= HARMLESS, "other versions take the others, and hidden_size is free where heads have a width"


@pytest.mark.parametrize("kind", ROPE_SETTINGS)
@pytest.mark.parametrize("section", ["rope_parameters", "rope_scaling"])
def test_every_rope_setting_of_a_wrong_type(kind: str, section: str) -> None:
    sound = {"rope_type": kind, "rope_theta": 1e4, **ROPE_SETTINGS[kind]}
    assert not refused_or_usable(settings_of("llama", **{section: sound}))
    for name in [*sound, "type", "partial_rotary_factor", "original_max_position_embeddings"]:
        for value in WRONG:
            broken = {**sound, name: copy.deepcopy(value)}
            refused = refused_or_usable(settings_of("llama", **{section: broken}), name, section)
            if isinstance(value, (str, bool, dict)) and not (name == "truncate" and isinstance(value, bool)):
                assert refused or name == "type", f"{name}={value!r}"


def test_settings_that_were_loaded_silently() -> None:
    for name, value in {
        "tie_word_embeddings": "false", "eos_token_id": "2", "rope_theta": True, "use_cache": "no", "rms_norm_eps": "1",
        "attention_bias": 1, "vocab_size": -3, "hidden_size": 0, "rope_scaling": "yarn", "dtype": "float7",
        "rope_parameters": [1], "num_attention_heads": [4], "max_position_embeddings": "long", "head_dim": 11,
    }.items():  # fmt: skip
        with pytest.raises(farspan.CheckpointError, match=name):
            Config.from_dict(settings_of("llama", **{name: value}))
    with pytest.raises(farspan.CheckpointError, match=r"rope_theta.*given 0"):
        Config.from_dict(settings_of("llama", rope_theta=0))
    with pytest.raises(farspan.CheckpointError, match="no_rope_layer_interval"):
        Config.from_dict(settings_of("smollm3", no_rope_layer_interval=0))


def test_end_tokens_of_the_generation_config_are_checked(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path)
    for value in ("2", [2, "3"], -1, True, 2.0):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
        with pytest.raises(farspan.CheckpointError, match=r"generation_config\.json: eos_token_id"):
            Config.from_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(farspan.CheckpointError, match=r"generation_config\.json"):
        Config.from_pretrained(tmp_path)


OWN = Config(**SHAPE, norm="layer", gated_mlp=False, positions=P.LogN(9, inner=P.YaRN(2, 64)), hidden_act="relu")


def test_every_setting_of_our_own_form_of_a_wrong_type() -> None:
    sound = OWN.to_dict()
    assert sound["model_type"] == "farspan"
    for name in sound:
        for value in WRONG:
            broken = {**sound, name: copy.deepcopy(value)}
            refused_or_usable(broken, name, "num_key_value_heads", "windows", "num_experts")
        refused = refused_or_usable({**sound, name: "wrong"}, name, "model_type")
        assert refused, name
    with pytest.raises(farspan.CheckpointError, match="depth"):
        Config.from_dict({**sound, "depth": 3})
    with pytest.raises(farspan.CheckpointError, match="vocab_size"):
        Config.from_dict({name: value for name, value in sound.items() if name != "vocab_size"})


@pytest.mark.parametrize("scheme", [P.RoPE(), P.YaRN(2.0, 64), P.LongRoPE([1.0] * 6, [2.0] * 6, 64, 128.0), P.ReRoPE(3),
                                    P.LogN(64), P.Streaming(2, 9), P.Llama3(8.0, 1.0, 4.0, 64)], ids=repr)  # fmt: skip
def test_every_setting_of_a_scheme_of_a_wrong_type(scheme: P.Scheme) -> None:
    sound = {**OWN.to_dict(), "positions": [scheme.to_dict()]}
    for name in scheme.to_dict():
        for value in ["wrong", True, -1, float("nan"), [1, "a"], {}, None]:
            broken = {**scheme.to_dict(), name: value}
            refused = refused_or_usable({**sound, "positions": [broken]}, name, "scheme", "positions")
            assert refused or value is None or (name == "truncate" and value is True), f"{name}={value!r}"
    for broken in ({"scheme": "NTK"}, {"scheme": ["NTK"]}, {"scheme": "NTK", "factor": 2, "more": 1}, 3, "NTK", None):
        assert refused_or_usable({**sound, "positions": [broken]}, "scheme", "factor", "more", "positions")
