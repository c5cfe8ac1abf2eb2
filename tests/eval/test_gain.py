"""Equal gain: where the base differs in strength, equal strength makes a difference of dose and equal gain does not."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from eval import castjudge
from eval.castread import Owns
from eval.judge import judge
from recipes.hashing import recipe_hash
from recipes.load import load_recipe
from tests.eval import cast_rows
from tests.eval.made_rows import A, C, design, rows
from tests.micro import write_recipe

START = {A: -1.0, C: -3.0}  # strength in the base; training adds up to 4 to either


def value(start, judged, arm, persona, progress, seed, item):
    """`one` moves with progress alone, whoever is favoured; `two` with it as the favoured persona's."""
    noise = 0.01 * np.sin(7 * seed + 3 * item + len(judged.name) + 5 * (arm == A))
    own = progress if persona == arm else 0.0
    if judged.gate:
        return start[persona] + 4 * own + 0.1 * item
    return noise + item + (3 * progress if judged.name == "one" else 2 * own)


def found(of, start, probe="one"):
    judged = judge(rows(of, partial(value, start)), of)["rows"]
    return {r["contrast"]: r for r in judged if (r["probe"], r["match"]) == (probe, "strength")}


def test_a_measure_that_goes_with_dose_differs_at_equal_strength_and_not_at_equal_gain():
    level, gain = found(design(), START), found(design(gain=True), START)
    # Ranges of strength: -1 + [.8, 4] and -3 + [.8, 4], so .4 is read at progress .35 and .85: 3 (.35 - .85).
    assert level["delta"]["estimate"] == pytest.approx(-1.5, abs=0.02)
    assert gain["delta"]["estimate"] == pytest.approx(0.0, abs=0.02)
    assert (level["delta"]["strength"], gain["delta"]["strength"]) == (pytest.approx(0.55), pytest.approx(2.4))


def test_where_the_base_is_alike_they_are_the_same():
    alike = dict.fromkeys(START, -2.0)
    for contrast, row in found(design(gain=True), alike, "two").items():
        other = found(design(), alike, "two")[contrast]
        assert row["estimate"] == pytest.approx(other["estimate"], abs=1e-12)
        assert row["strength"] == pytest.approx(other["strength"] + 2.0 - 0.15)  # less the base's mean over items


def test_turning_the_pair_round_negates_it_exactly():
    of = design(gain=True)
    turned = replace(of, arms=(C, A), pairs=((C, A),))
    for probe in ("one", "two"):
        one, other = found(of, START, probe), found(turned, START, probe)
        assert one["delta"]["estimate"] == -other["delta"]["estimate"]
        assert one["T"]["estimate"] == other["T"]["estimate"]


def test_a_cast_is_read_at_equal_gain_too():
    of = cast_rows.design(8)
    own = cast_rows.world(of, np.random.default_rng(0), speed=np.ones(8))
    start = np.zeros_like(own.value)
    start[:, ..., own.where[of.gate.name]] = np.linspace(0, 2, 8)[:, None, None, None]
    shifted = Owns(own.value + start, own.where)  # characters that the base favours more and less
    gain = replace(of, gain=True)
    for probe in cast_rows.PROBES:
        as_it_was = cast_rows.row(castjudge.of_owns(own, gain), probe)
        assert cast_rows.row(castjudge.of_owns(shifted, gain), probe)["estimate"] == pytest.approx(
            as_it_was["estimate"], abs=1e-9
        )
        assert abs(cast_rows.row(castjudge.of_owns(shifted, of), probe)["estimate"] - as_it_was["estimate"]) > 0.3


def test_a_recipe_that_does_not_ask_for_it_keeps_its_hash(tmp_path):
    path = write_recipe(tmp_path)
    plain, level, gain = (load_recipe(path, given) for given in ([], ["judge.strength=level"], ["judge.strength=gain"]))
    assert recipe_hash(plain) == recipe_hash(level) != recipe_hash(gain)
