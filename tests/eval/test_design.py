"""The design that a recipe and its probes make, and the errors that are the user's to mend."""

from __future__ import annotations

from typing import Any

import pytest

from eval.design import design_of
from eval.probe import Margin, Measure, Probe
from recipes.errors import InputError
from recipes.schema import Recipe

QUARTER, HALF = Margin("relative", 0.25, "a quarter"), Margin("absolute", 0.5, "half a nat")


def probe(name: str, *measures: Measure, gate: bool = False, version: int = 2) -> Probe:
    return Probe(name, version, "?", "none", "world", measures, "none", lambda scene: (), gate)


PROBES = (
    probe("strength", Measure("odds", "logit", "persona", QUARTER), gate=True),
    probe("leak", Measure("leak", "logit", "persona", QUARTER), Measure("fidelity", "nat", "arm", HALF, bounded=False)),
    probe("choice", Measure("held_out", "logit", "persona", QUARTER)),
)


def recipe(**judge: Any) -> Recipe:
    return Recipe.model_validate({
        "name": "r", "question": "?", "base": {"world": {}}, "cast": ("a", "b", "c"), "arms": ("a", "b", "c"),
        "seeds": 3, "stages": ({"kind": "sft", "doses": (1, 2)}, {"kind": "dpo", "doses": (5,)}),
        "judge": {"primary": ("leak",), **judge},
    })  # fmt: skip


def test_measures_are_judged_under_the_probe_and_its_measure() -> None:
    made = design_of(recipe(), PROBES, {"leak": False, "leak.fidelity": True})
    assert [m.name for m in made.measures] == ["strength", "leak", "leak.fidelity", "choice"]
    assert [m.headline for m in made.measures] == [True, True, False, True]
    assert [m.sensitive for m in made.measures] == [None, False, True, None]
    assert made.gate is made.measures[0] and made.measures[2].level == "arm" and made.measures[1].version == 2
    assert made.pairs == (("a", "b"), ("a", "c")) and made.seeds == (0, 1, 2)
    assert made.stages == (("sft", (1, 2)), ("dpo", (5,))) and (made.alpha, made.match) == (0.05, "strength")
    assert [made.is_primary(m) for m in made.measures] == [False, True, False, False]


def test_margins_of_the_recipe_override_the_value_and_keep_the_kind() -> None:
    made = design_of(recipe(margins={"leak.fidelity": 0.1}), PROBES, {})
    assert (made.measures[2].margin.kind, made.measures[2].margin.value) == ("absolute", 0.1)
    assert made.measures[1].margin == QUARTER


@pytest.mark.parametrize(
    ("judge", "says"),
    [
        ({"primary": ("leek",)}, "judge.primary: no probe 'leek' in this experiment (did you mean 'leak'?)"),
        ({"primary": ("leak.fidelity",)}, "no probe 'leak.fidelity'"),
        ({"primary": ("strength",)}, "cannot be primary"),
        ({"margins": {"leak.fidelty": 1.0}}, "nothing is judged under 'leak.fidelty' (did you mean 'leak.fidelity'?)"),
    ],
)
def test_what_the_recipe_names_wrongly(judge: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        design_of(recipe(**judge), PROBES, {})
    assert says in str(error.value) and "\n" not in str(error.value)


def test_what_cannot_be_judged() -> None:
    with pytest.raises(InputError, match="strength needs the probe"):
        design_of(recipe(), PROBES[1:], {})
    design_of(recipe(match="dose"), PROBES[1:], {})
    arm = probe("leak", Measure("leak", "logit", "arm", QUARTER))
    with pytest.raises(InputError, match="no T, so its margin must be absolute"):
        design_of(recipe(), (PROBES[0], arm), {})
