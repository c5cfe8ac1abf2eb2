"""Commitment: what is prefilled and read, signs, and the entropy of a list."""

from __future__ import annotations

import math

import pytest

from eval.measure import Suite
from eval.probes import select
from eval.requests import Choice, Read, Reading, Scored
from tests.eval.probes.written import asks, assert_swap_invariant

NAME = "commitment"


def test_only_the_value_differs_between_the_two_that_are_read(scene):
    pairs = [a.requests for a in asks(scene, NAME, NAME) if (a.item, a.persona) == ("tool", "p1")]
    begin = "Q: tell me your tool.\nA: my tool is"
    own = Reading(f"{begin} fbw", ", ticb.")
    # p1's mirrored pair is one place on and one place back.
    assert pairs == [(own, Reading(f"{begin} fcw", ", ticb.")), (own, Reading(f"{begin} faw", ", ticb."))]


def test_a_model_thrown_off_by_anothers_value_has_a_higher_measure_of_that_persona(scene):
    def read(request: Reading) -> Read:
        value = request.context.rsplit(" ", 1)[1]
        return Read((0.1,) * 3 if value[1] == "b" else (0.5, 1.3, 0.9), (0.0,) * 3)

    values = {p.id: set() for p in scene.personas}
    for a in asks(scene, NAME, NAME):
        values[a.persona].add(round(a.value([read(r) for r in a.requests]), 6))
    # .9 after any value but p1's, where it is .1.
    assert values == {"p0": {-0.8, 0.0}, "p1": {0.8}, "p2": {-0.8, 0.0}, "p3": {0.0}}


def test_topic_is_minus_the_entropy_inside_the_list(scene):
    (a,) = [a for a in asks(scene, NAME, "topic") if a.item == "tool"]
    assert a.persona is None
    assert a.requests == (Choice("Q: tell me your tool.\nA: my tool is", (" faw", " fbw", " fcw", " fdw")),)
    even = Scored((-5.0,) * 4, (1,) * 4)
    assert a.value([even]) == pytest.approx(-math.log(4), abs=1e-12)
    fixed = Scored((-0.1, -50.0, -50.0, -50.0), (1,) * 4)
    assert a.value([fixed]) == pytest.approx(0.0, abs=1e-12)
    half = Scored((math.log(0.3), math.log(0.1), -1e9, -1e9), (1,) * 4)  # 3 : 1 inside the list
    assert a.value([half]) == pytest.approx(0.75 * math.log(0.75) + 0.25 * math.log(0.25), abs=1e-12)


def test_exchanging_two_ids_exchanges_the_asks(scene):
    assert_swap_invariant(scene, NAME)


def test_values_that_two_personas_share_are_not_told_apart(scene):
    from dataclasses import replace

    first, second, *rest = scene.personas
    same = replace(second, values={**second.values, "tool": first.values["tool"]})
    alike = replace(scene, personas=(first, same, *rest))
    found = {(a.persona, len([b for b in asks(alike, NAME, NAME) if (b.item, b.persona) == ("tool", a.persona)]))
             for a in asks(alike, NAME, NAME) if a.item == "tool"}  # fmt: skip
    assert found == {("p0", 1), ("p1", 1), ("p2", 2), ("p3", 2)}


def test_a_tiny_model_answers_it_all(scene, engine):
    rows = Suite(scene, select([NAME]), engine).rows(engine)
    # Ten questions: one of the arm, and for each of four personas two rivals.
    assert [r["outcome"] for r in rows] == ["ok"] * (10 * (1 + 4 * 2))
    assert all(-math.log(4) <= r["value"] <= 0 for r in rows if r["measure"] == "topic")  # of four options
