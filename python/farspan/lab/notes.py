"""What a reader of a measurement's figures should know of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from farspan.lab.reach import own_schemes
from farspan.model import Config
from farspan.positions import RoPE, Scheme


def notes_on(
    config: Config, chosen: Mapping[str, Scheme | None], by: str, lengths: Sequence[int], start: list[int], stride: int
) -> Iterator[str]:
    """A sentence for each thing. `start`: the ids that windows begin with."""
    if by == "position" and 0 < stride < lengths[-1]:
        yield (
            f"windows of {lengths[-1]} tokens begin every {stride}: they share tokens, and standard errors, which take "
            "them as independent, are too small"
        )
    if start:
        yield f"every window begins with {', '.join(map(str, start))}, the token for the beginning of a text"
    own = own_schemes(config)
    kept = config.num_hidden_layers - len(config.rotating_layers)
    if kept and any(chosen.values()):
        yield f"{kept} of the model's {config.num_hidden_layers} layers rotate nothing and stay so under every scheme"
    scaled = [type(scheme).__name__ for scheme in own if not isinstance(scheme, RoPE)]
    if scaled and any(chosen.values()):
        yield f"the model's own positions have {', '.join(scaled)}, which the other schemes put out of use"
    held = {type(part) for scheme in config.positions for part in scheme.learned_parts}
    new = [name for name, scheme in chosen.items() if scheme and {type(p) for p in scheme.learned_parts} - held]
    if new:
        yield f"{', '.join(new)}: the model was not trained with what these schemes learn; it stands at its beginning"
    if by == "position":
        used = {name: own if scheme is None else (scheme,) for name, scheme in chosen.items()}
        dynamic = [name for name, those in used.items() if any(_is_dynamic(scheme, lengths) for scheme in those)]
        if dynamic:
            yield (
                f"{', '.join(dynamic)}: every position was read with frequencies or places for the whole window of "
                f"{lengths[-1]} tokens, which it does not have in a shorter text; by length shows that"
            )


def _is_dynamic(scheme: Scheme, lengths: Sequence[int]) -> bool:
    """Whether its frequencies or positions differ between sequences of these lengths."""
    return len({scheme.switch(length) for length in lengths}) > 1
