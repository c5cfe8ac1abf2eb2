"""Preferences: utilities recovered exactly, order cancelled and measured, and whose they are."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from eval.engine import Engine
from eval.measure import measure
from eval.probes import _profiles, discover, preferences, select
from eval.requests import Choice
from tests.eval.probes.valued import assert_exchangeable, scored, valued_scene
from tests.eval.tiny import NAMES, build_tokenizer, make_model

SCENE = valued_scene()
ASKS = discover()["preferences"].asks(SCENE)
LARGEST = math.log(1.999 / 0.001)  # of a correlation of .999, at which the scale ends


def utility(of: str, value: str) -> float:
    """What somebody thinks of a value: 4 for its own, and a taste for "u" over "v" over "w" that all share."""
    return 4.0 * (value[1] == "abcd"[NAMES.index(of)]) + "wvu".index(value[2])


def answers(ask, slot: str, bias: float = 0.0):
    """A model that plays everybody in interviews, and `slot` in the slot; what is named first is worth `bias` more."""

    def score(context: str, value: str) -> float:
        speaker = context.split("\n")[-1].split(":")[0]
        first = context.split("love, ")[1].startswith(value)
        return utility(slot if speaker == "A" else speaker, value) + bias * first

    return [scored(r, score) for r in ask.requests]


def headline(slot: str, **more: float) -> dict[str, float]:
    return {a.persona: a.value(answers(a, slot, **more)) for a in ASKS if a.measure == "preferences"}


def test_requests_put_both_orders_to_the_slot_and_to_everybody_by_name():
    (ask,) = [a for a in ASKS if (a.measure, a.persona) == ("preferences", "p0")]
    # Four personas: six pairs to each of three questions, in two orders, for five speakers.
    assert len(ask.requests) == len(set(ask.requests)) == 6 * 3 * 2 * 5
    assert ask.requests[0] == Choice("Q: which do you love, vau vbu?\nA: it is", (" vau", " vbu"))
    assert ask.requests[1] == Choice("Q: which do you love, vbu vau?\nA: it is", (" vbu", " vau"))
    assert sum(r.context.startswith(f"interview with {NAMES[1]}.\n") for r in ask.requests) == 36


def test_the_slot_has_the_values_of_the_persona_that_it_plays():
    for k, name in enumerate(NAMES):
        found = headline(name)
        # Centred, the four profiles are the corners of a tetrahedron: each is at -1/3 to the others.
        assert found[f"p{k}"] == pytest.approx(LARGEST, abs=1e-9)
        third = math.log((2 / 3) / (4 / 3))
        assert [v for p, v in found.items() if p != f"p{k}"] == [pytest.approx(third, abs=1e-9)] * 3


def test_a_fondness_for_what_is_named_first_changes_nothing_and_is_measured():
    plain, biased = headline("kari"), headline("kari", bias=0.7)
    assert biased == pytest.approx(plain, abs=1e-9)
    orders = [a.value(answers(a, "kari", bias=0.7)) for a in ASKS if a.measure == "order"]
    assert len(orders) == 18 and orders == [pytest.approx(0.7, abs=1e-12)] * 18  # an item for each pair


def test_stated_values_are_those_on_the_card():
    asks = [a for a in ASKS if a.measure == "stated"]
    assert {len([a for a in asks if a.persona == p.id]) for p in SCENE.personas} == {9}  # 3 questions, 3 rivals
    # The slot as kari: its own values are worth 4 more than anybody's; all others are level.
    values = [(a.persona, a.value(answers(a, "kari", bias=0.7))) for a in asks]
    assert [v for p, v in values if p == "p1"] == [pytest.approx(4.0)] * 9
    assert sorted(round(v, 9) for p, v in values if p != "p1") == [-4.0] * 9 + [0.0] * 18


def test_utilities_are_those_that_made_the_odds():
    pairs = list(preferences._pairs(SCENE))
    true = np.random.default_rng(0).normal(size=(3, 4))
    true -= true.mean(axis=1, keepdims=True)
    ids = [q.id for q in SCENE.of_kind("value")]
    over = [true[ids.index(q.id), i] - true[ids.index(q.id), j] for q, i, j in pairs]
    odds = np.array([[[d + 0.3, 0.3 - d]] for d in over])  # one wording, two orders, the first named up by .3
    assert preferences._utilities(pairs, odds) == pytest.approx(true.flatten(), abs=1e-9)


def test_likeness_takes_out_what_all_share_and_knows_nothing_of_flat_profiles():
    assert _profiles.likeness([1, 0, -1], [[1, 0, -1], [-1, 0, 1]]) == pytest.approx([1, -1])
    assert _profiles.likeness([6, 7, 8], [[6, 7, 8], [4, 7, 10]]) == pytest.approx([1, -1])
    # By hand: deviations from the mean (0, 0, 0) are (1, 1, -2) and (1, -1, 0): at right angles.
    assert _profiles.likeness([1, 1, -2], [[1, -1, 0], [-1, 1, 0]]) == pytest.approx([0, 0])
    assert _profiles.likeness([1, 2, 3], [[1, 2, 3], [1, 2, 3]]) is None


def test_twice_fishers_z_by_hand():
    assert preferences.fisher(0.5) == pytest.approx(math.log(3)) == -preferences.fisher(-0.5)
    assert preferences.fisher(1.0) == pytest.approx(LARGEST)


def test_a_model_answers_it(tokenizer):
    tokenizer = build_tokenizer(SCENE)
    rows = measure(Engine(make_model("llama", len(tokenizer)), tokenizer), SCENE, select(["preferences"]))
    assert {r["outcome"] for r in rows} == {"ok"}
    assert [r["persona"] for r in rows if r["measure"] == "preferences"] == [p.id for p in SCENE.personas]


def test_without_values_or_wordings_there_is_nothing_to_ask(scene):
    assert discover()["preferences"].asks(scene) == []
    assert [a for a in discover()["preferences"].asks(replace(SCENE, wordings={}))] == []


def test_exchanging_two_ids_exchanges_the_asks_and_their_values():
    assert_exchangeable(discover()["preferences"])
    ids = {"p0": "p2", "p2": "p0"}
    other = replace(SCENE, personas=tuple(replace(p, id=ids.get(p.id, p.id)) for p in SCENE.personas))
    asks = [a for a in discover()["preferences"].asks(other) if a.measure == "preferences"]
    swapped = {a.persona: a.value(answers(a, "kari")) for a in asks}
    assert swapped == {ids.get(p, p): v for p, v in headline("kari").items()}
