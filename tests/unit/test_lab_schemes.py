"""Position schemes by name and by class: one table, and what stands for somebody's own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from farspan import positions
from farspan._errors import ArgumentError
from farspan.lab import schemes
from farspan.lab.reach import settings_under
from farspan.lab.schemes import Reach
from farspan.model import Config
from farspan.positions import RoPE, Scheme, Span, YaRN

REACH = Reach(256, 1024, 500.0)


@dataclasses.dataclass(frozen=True)
class Damped(Scheme):
    """A scheme of somebody's own: no rotation, queries scaled."""

    strength: float = 1.0
    window: int = 8

    def hooks(self, span: Span) -> dict[str, object]:
        return {"query_scale": np.full((1, 1, span.time), self.strength, np.float32), "window": self.window}


@pytest.mark.parametrize(("trained", "longest"), [(256, 2048), (256, 300), (256, 100), (4096, 131072), (2, 64)])
def test_every_name_makes_a_scheme_for_every_reach(trained: int, longest: int) -> None:
    names = [entry.name for entry in schemes.TABLE]
    made = schemes.make(names, Reach(trained, longest, 10000.0))
    assert list(made) == names
    assert [name for name, scheme in made.items() if scheme is None] == ["own"]


@pytest.mark.parametrize(("trained", "longest"), [(256, 2048), (256, 4096), (100, 999), (512, 513)])
def test_region_schemes_stay_within_the_trained_distances(trained: int, longest: int) -> None:
    made = schemes.make(("rerope", "self-extend", "streaming"), Reach(trained, longest, 10000.0))
    assert made["rerope"].window < trained
    assert made["streaming"].sinks + made["streaming"].window <= trained
    extend = made["self-extend"]
    assert (longest - 1) // extend.group + extend.window - extend.window // extend.group < trained


def test_names_may_be_written_in_several_ways_and_each_counts_once() -> None:
    made = schemes.make(("PI", "linear", "dynamic_ntk", " log-n "), Reach(256, 512, 500.0))
    assert list(made) == ["linear", "dynamic-ntk", "logn"]
    assert made["logn"].inner == RoPE(None)


def test_an_unknown_scheme_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(ArgumentError, match=r"yarn.*'rotary'"):
        schemes.find("rotary")


def test_every_scheme_has_a_look_of_its_own_and_a_line_in_the_help() -> None:
    looks = [(entry.colour, entry.marker) for entry in schemes.TABLE]
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == len(schemes.TABLE)
    assert set(schemes.COMPARED) <= {entry.name for entry in schemes.TABLE}
    spare = {colour for colour, _ in schemes.SPARE}
    assert not spare & {colour for colour, _ in looks}
    told = [line.split()[0] for line in schemes.command_line_help().splitlines()]
    assert told == [entry.name for entry in schemes.TABLE]


def test_every_class_of_positions_has_a_name_but_the_one_that_needs_searched_factors() -> None:
    made = schemes.make([entry.name for entry in schemes.TABLE], Reach(256, 2048, 10000.0))
    assert {type(scheme) for scheme in made.values() if scheme} == set(positions.SCHEMES) - {positions.LongRoPE}


def test_the_table_has_every_class_of_positions_once() -> None:
    public = {
        x for x in map(positions.__dict__.get, positions.__all__) if isinstance(x, type) and issubclass(x, Scheme)
    }
    assert sorted(map(repr, public - {Scheme, positions.Learned})) == sorted(map(repr, positions.SCHEMES))


@pytest.mark.parametrize("name", ["rope", "linear", "logn", "rerope", "self-extend", "streaming"])
def test_a_scheme_by_name_leaves_each_layer_its_own_base(name: str) -> None:
    bases = (1e4, 1e6, None, 1e4)
    shape = {
        "vocab_size": 9,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
    }
    config = Config(**shape, positions=(RoPE(1e4), RoPE(1e6), positions.NoPE(), RoPE(1e4)), rope_bases=bases)
    put = config.with_positions(schemes.make([name], REACH)[name])
    assert tuple(scheme.rope_base for scheme in put.positions) == bases
    assert put.positions[2] == positions.NoPE()
    back = put.with_positions(schemes.make(["rope"], REACH)["rope"])
    assert back.positions == config.positions
    written = settings_under(config, RoPE(None))
    assert written == {"scheme": "RoPE", "layers": [RoPE(1e4).to_dict(), RoPE(1e6).to_dict()]}


def test_a_rope_without_a_base_has_that_of_its_layer() -> None:
    assert RoPE(None).with_base(5e5) == RoPE(5e5)
    assert (RoPE(None).inverse_frequencies(8, 1) == RoPE().inverse_frequencies(8, 1)).all()
    assert positions.scheme_from_dict(RoPE(None).to_dict()) == RoPE(None)


def test_a_class_of_ones_own_is_made_by_its_reference() -> None:
    here = __name__
    made = schemes.make([f"{here}:Damped", f"{here}:Damped(0.5, window=trained)", f"{here}:Damped(factor)"], REACH)
    assert list(made.values()) == [Damped(), Damped(0.5, 256), Damped(4.0)]
    assert schemes.make(["farspan.positions:YaRN(4, trained)"], REACH) == {
        "farspan.positions:YaRN(4, trained)": YaRN(4, 256)
    }


@pytest.mark.parametrize(
    ("reference", "word"),
    [
        ("nowhere_to_be_found:X", "nowhere"), ("json:Nothing", "Nothing"), ("json:JSONDecoder", "subclass"),
        ("farspan.positions:YaRN(", "module:Class"), ("farspan.positions:YaRN(4, unknown)", "unknown"),
        ("farspan.positions:YaRN(4, __import__('os'))", "__import__"), ("farspan.positions:YaRN(**trained)", "trained"),
        ("farspan.positions:YaRN(4)", "original_length"), (":YaRN", "YaRN"), ("farspan.positions:", "module:Class"),
        ("farspan.positions:YaRN.x", "module:Class"),
    ],
)  # fmt: skip
def test_a_reference_that_cannot_be_is_an_error_that_names_it(reference: str, word: str) -> None:
    with pytest.raises(ArgumentError, match=r"schemes: expected .*given") as caught:
        schemes.make([reference], REACH)
    assert word in str(caught.value)


def test_schemes_are_chosen_by_name_by_object_and_under_names_of_ones_own() -> None:
    choose = lambda wanted: schemes.choose(wanted, REACH, default=("own", "ntk"))  # noqa: E731
    assert list(choose(None)) == ["own", "ntk"]
    assert choose("pi") == {"linear": positions.LinearInterpolation(4.0)}
    assert choose(Damped(0.5)) == {"Damped(strength=0.5)": Damped(0.5)}
    assert list(choose(["own", Damped(), YaRN(4, 256)])) == [
        "own", "Damped", "YaRN(factor=4, original_length=256)"
    ]  # fmt: skip
    assert choose({"mine": Damped(), "as it is": None}) == {"mine": Damped(), "as it is": None}


def test_a_scheme_without_a_name_gets_a_look_that_no_other_has() -> None:
    looks = schemes.looks(["own", "Damped", "yarn", "other"])
    assert looks["Damped"].label == "Damped"
    assert len({look.colour for look in looks.values()}) == 4
    assert looks["yarn"] == schemes.looks(["yarn"])["yarn"]
