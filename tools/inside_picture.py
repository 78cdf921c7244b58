"""Draw docs/inside-tasks.png: two small models, one that sorts and one that reverses, seen from inside.

python tools/inside_picture.py               train both with one thread, print what was seen, write the picture
python tools/inside_picture.py --out FILE    write it elsewhere
python tools/inside_picture.py --steps 3     a first look

Trainings are kept below out/inside, and are not repeated.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import farspan
from farspan.inside import lens
from farspan.lab import tasks
from farspan.lab.extrapolation.learning import Learner, sequences_of
from farspan.lab.extrapolation.settings import Settings, Trial
from farspan.lab.extrapolation.subject import Subject
from farspan.lab.tasks.layout import Sequences
from farspan.model import Transformer

ROOT = Path(__file__).resolve().parent.parent
PICTURE, KEPT = ROOT / "docs" / "inside-tasks.png", ROOT / "out" / "inside"
LENGTH, LAYERS, WIDTH, HEADS, RATE = 10, 3, 64, 4, 2e-3
REVERSE = "reverse_string"
STEPS = {REVERSE: 2000, "sort_integers": 1500}
EXAMPLES, EXAM_SEED = 256, 2**50
"""Inputs that are looked at: of a seed that no training draws from."""


@dataclass(frozen=True)
class Seen:
    """What was seen of a model in the places that predict outputs, as means over inputs and places."""

    task: str
    right: np.ndarray
    """`[layers + 1]`: how often the likeliest token is the answer"""
    probability: np.ndarray
    """`[layers + 1]`: of the answer"""
    heads: dict[str, np.ndarray]
    """`[layers, heads]`: statistics of attention, and the share of weight on input tokens that are the answer"""
    maps: np.ndarray
    """`[layers, heads, outputs, keys]`: weights of the first input"""
    symbols: list[str]
    """of the first input's tokens"""


def trial_of(task: str, steps: int) -> Trial:
    settings = Settings(
        task, schemes=("rope",), train_length=LENGTH, test_lengths=(LENGTH,), steps=steps, seeds=1,
        learning_rates=(RATE,), layers=LAYERS, width=WIDTH, heads=HEADS, reading="causal",
    )  # fmt: skip
    return settings.trials()[0]


def trained(trial: Trial) -> Transformer:
    """The model of a trial, from `KEPT` if it is there."""
    folder = KEPT / f"{trial.settings.task}-{trial.settings.steps}-{WIDTH}x{LAYERS}-{RATE}"
    if (folder / "model.safetensors").exists():
        return Transformer.from_pretrained(folder)
    folder.mkdir(parents=True, exist_ok=True)
    subject, checkpoint = Subject(trial), folder / "checkpoint.safetensors"
    learner = Learner(trial, subject, checkpoint)
    learner.finish(lambda step, loss: print(f"{step}: {loss:.3f}", flush=True) if step % 100 == 0 else None)
    subject.model.save_pretrained(folder)
    checkpoint.unlink(missing_ok=True)
    return subject.model


@torch.no_grad()
def look_inside(trial: Trial, model: Transformer) -> Seen:
    """The lens, the statistics, and, as these texts are short, the weights of attention themselves."""
    model.eval()
    _, read = sequences_of(trial, LENGTH, EXAMPLES, EXAM_SEED)
    ids = torch.from_numpy(read.tokens)
    targets = torch.from_numpy(np.where(read.mask, read.targets, 0))
    found = lens(model, ids, top=1, targets=targets)
    statistics = model.attention_statistics(ids)
    weights = weights_of(model, ids)
    of_outputs = {
        name: getattr(statistics, name)[..., read.prompt :].mean((1, 3)).numpy()
        for name in ("entropy", "distance", "first")
    }
    on_answer = torch.from_numpy(answers(trial.settings.task, read))[None, :, None]
    of_outputs["answer"] = (weights[..., read.prompt :, :] * on_answer).sum(-1).mean((1, 3)).numpy()
    names = [*tasks.get(trial.settings.task).symbols, "|"]
    return Seen(
        task=trial.settings.task,
        right=(found.rank[..., read.prompt :] == 0).double().mean((1, 2)).numpy(),
        probability=found.logprob[..., read.prompt :].double().exp().mean((1, 2)).numpy(),
        heads=of_outputs,
        maps=weights[:, 0, :, read.prompt :].numpy(),
        symbols=[names[token] for token in read.tokens[0]],
    )


def weights_of(model: Transformer, ids: torch.Tensor) -> torch.Tensor:
    """`[layers, batch, heads, queries, keys]`: attention whose values are the rows of the identity."""
    found: list[torch.Tensor] = []

    def look(operations: Any, _: Any, query: Any, key: Any, *settings: Any) -> None:
        identity = np.broadcast_to(np.eye(key.shape[2], dtype=np.float32), (*key.shape[:3], key.shape[2]))
        found.append(operations.as_tensor(operations.attention(query, key, identity.copy(), *settings)))

    model(ids, look=look)
    return torch.stack(found)


def answers(task: str, read: Sequences) -> np.ndarray:
    """`[count, outputs, keys]`: which input tokens stand for the output. To reverse, it is the one in the mirrored
    place; to sort, every one that is equal."""
    count, outputs = len(read.tokens), read.tokens.shape[1] - read.prompt
    inputs, wanted = read.tokens[:, : read.prompt], read.targets[:, read.prompt :]
    mirrored = np.broadcast_to(np.eye(outputs, read.prompt)[:, ::-1], (count, outputs, read.prompt))
    equal = inputs[:, None, :] == wanted[:, :, None]
    marked = mirrored if task == REVERSE else equal.astype(float)
    return np.concatenate([marked, np.zeros((count, outputs, outputs))], 2)


def report(seen: Seen) -> None:
    print(f"\n{seen.task}: the answer by layer, mean over the outputs of {EXAMPLES} new inputs of length {LENGTH}")
    for layer, (right, probability) in enumerate(zip(seen.right, seen.probability, strict=True)):
        print(f"  layer {layer}: likeliest in {100 * right:5.1f} %, probability {probability:.3f}")
    print("  share on the answer's token / entropy, nats / mean distance / share on the first key")
    for layer in range(LAYERS):
        for head in range(HEADS):
            answer, entropy, distance, first = (
                seen.heads[name][layer, head] for name in ("answer", "entropy", "distance", "first")
            )
            print(f"  layer {layer + 1} head {head}: {answer:.2f} / {entropy:.2f} / {distance:4.1f} / {first:.2f}")


def draw(all_seen: list[Seen], path: Path) -> None:
    from farspan._pictures import figure, plain_axes

    with figure(path, 12.4, 3.5 * len(all_seen)) as drawn:
        for row, seen in zip(drawn.subplots(len(all_seen), 3, squeeze=False), all_seen, strict=True):
            by_layer, by_head, one_head = row
            by_layer.plot(seen.right, "o-", color="#0077BB", label="likeliest token is the answer")
            by_layer.plot(seen.probability, "s--", color="#EE7733", label="probability of the answer")
            by_layer.set(xticks=range(LAYERS + 1), ylim=(-0.03, 1.03), xlabel="layer (0: the embedding)")
            by_layer.legend(fontsize=8, frameon=False)
            by_layer.set_title(f"{seen.task}: the lens", loc="left", fontsize=10)
            plain_axes(by_layer)
            shares = seen.heads["answer"]
            by_head.imshow(shares, origin="lower", cmap="viridis_r", vmin=0, vmax=1, aspect="auto")
            by_head.set(xticks=range(HEADS), yticks=range(LAYERS), xlabel="head", ylabel="layer")
            by_head.set_yticklabels(range(1, LAYERS + 1))
            for (layer, head), share in np.ndenumerate(shares):
                text = f"{share:.2f}\nH {seen.heads['entropy'][layer, head]:.1f}"
                text += f"\nd {seen.heads['distance'][layer, head]:.1f}"
                colour = "white" if share > 0.5 else "black"
                by_head.text(head, layer, text, ha="center", va="center", fontsize=8, color=colour)
            by_head.set_title("share on the answer's token, entropy, distance", loc="left", fontsize=10)
            layer, head = np.unravel_index(shares.argmax(), shares.shape)
            shown = seen.maps[layer, head]
            one_head.imshow(shown, cmap="viridis_r", vmin=0, vmax=1, aspect="auto")
            one_head.set_xticks(range(len(seen.symbols)), seen.symbols, fontsize=7)
            one_head.set_yticks(range(len(shown)), seen.symbols[-len(shown) :], fontsize=7)
            one_head.set(xlabel="key: the input, a mark, the outputs so far", ylabel="query: predicts the next output")
            one_head.set_title(f"layer {layer + 1} head {head} on one input", loc="left", fontsize=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--steps", type=int, help="of each training, instead of its own number")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    farspan.set_num_threads(1)
    all_seen = []
    for task, steps in STEPS.items():
        trial = trial_of(task, chosen.steps or steps)
        all_seen.append(look_inside(trial, trained(trial)))
        report(all_seen[-1])
    draw(all_seen, chosen.out)


if __name__ == "__main__":
    main()
