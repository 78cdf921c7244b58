"""The entry in the registries of transformers."""

from __future__ import annotations

from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from farspan.integrations.transformers.attend import attend
from farspan.integrations.transformers.visible import visible

NAME = "farspan"


def register() -> None:
    """Make `attn_implementation="farspan"` work in transformers. A second call changes nothing.

    A model gets it by `from_pretrained(..., attn_implementation="farspan")` or by
    `model.set_attn_implementation("farspan")`. What `farspan.attention` cannot express is a `farspan.Error` in the
    model's call: it names the mask or the setting.
    """
    AttentionInterface.register(NAME, attend)
    # Without a mask function transformers passes no mask at all, and padding would count.
    AttentionMaskInterface.register(NAME, visible)
