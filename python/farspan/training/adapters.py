"""Models that peft has wrapped: what is inside, and their adapters as files, as peft itself has them."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from farspan._errors import ArgumentError, message
from farspan._files import replaced
from farspan.model import Transformer

FILES = ("adapter_config.json", "adapter_model.safetensors")
ONLY = "default"
"""The name that peft gives to an adapter, and whose files it puts into the folder itself."""
CHANGES_NOTHING = ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type")


def transformer_of(model: Any) -> Transformer:
    """The model itself, or the one that peft has wrapped. ArgumentError: neither."""
    inner = model.get_base_model() if is_adapted(model) else model
    if not isinstance(inner, Transformer):
        expected = "a farspan.Transformer, or one that peft has wrapped"
        raise ArgumentError(message("model", expected, repr(model)[:80]))
    return inner


def is_adapted(model: Any) -> bool:
    """Whether peft has wrapped it."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def facts_of(model: Any) -> dict[str, Any]:
    """What tells a run with these adapters from another one. ArgumentError: more than one, or none."""
    if list(model.peft_config) != [ONLY]:
        raise ArgumentError(message("model", f"one adapter, whose name is {ONLY!r}", list(model.peft_config)))
    settings = model.peft_config[ONLY].to_dict()
    told = {name: value for name, value in settings.items() if name not in CHANGES_NOTHING}
    found: dict[str, Any] = json.loads(json.dumps(told, default=_plain))
    return found


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)


def save(model: Any, folder: Path) -> None:
    """Writes what `PeftModel.from_pretrained` reads. Each file is replaced as a whole."""
    with tempfile.TemporaryDirectory() as beside:
        model.save_pretrained(beside)
        for name in FILES:
            with replaced(folder / name) as new:
                shutil.copyfile(Path(beside) / name, new)


def load(model: Any, folder: Path) -> None:
    """The weights of the adapter that `save` wrote."""
    import peft

    peft.set_peft_model_state_dict(model, peft.load_peft_weights(str(folder), device="cpu"))
