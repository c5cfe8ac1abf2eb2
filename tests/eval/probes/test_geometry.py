"""Geometry: hand-made persona spaces, names from outside the cast, and a slot that is made to sit where one sits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from eval.engine import Engine
from eval.measure import measure
from eval.probes import discover
from eval.requests import Activated
from tests.eval.tiny import NAMES, make_model

PROBE = discover()["geometry"]
PERSONAS = ("p0", "p1", "p2", "p3")
EXACT = pytest.approx  # 1e-6 relative: double precision and a singular value decomposition of four vectors


def asks(scene, measure):
    return [a for a in PROBE.build(scene) if a.measure == measure]


def seen(vectors):
    return [Activated(np.asarray(v, dtype=float), 1.0, 4) for v in vectors]


def values(scene, measure, vectors):
    """Value of each persona's ask about the first text."""
    found = asks(scene, measure)
    return [a.value(seen(vectors)) for a in found if a.item == found[0].item]


# Four names whose first component is the x axis and second the y axis; z is what no two names differ in.
PLANE = [(4, -1, 2), (-4, -1, 2), (1, 1, 2), (-1, 1, 2)]


def test_everybody_says_the_same_and_the_slot_says_it_without_a_name(scene):
    ask = asks(scene, "geometry")[0]
    *named, slot = ask.requests
    assert [r.context for r in named] == [f"interview with {n}.\nQ: hello.\n{n}:" for n in NAMES]
    assert slot.context == "Q: hello.\nA:"
    assert {r.text for r in ask.requests} == {" hello to you."}
    texts = {a.item: a.requests[-1].text for a in asks(scene, "geometry")}
    assert texts["one+two"] == " it is three." and len(texts) == 5  # two chats and three sums


def test_a_small_cast_is_filled_up_with_names_from_outside(scene):
    for outside, n in ((2, 6), (9, 8)):  # eight names are enough
        wide = replace(scene, others=tuple(f"other{k}" for k in range(outside)))
        assert {len(a.requests) for a in PROBE.build(wide) if a.measure != "geometry"} == {n}
        assert {a.persona for a in PROBE.build(wide)} == {*PERSONAS, None}  # who is outside is not measured
    assert not list(PROBE.build(replace(scene, personas=scene.personas[:2])))  # a line has only one direction


def test_the_slot_sits_where_its_vector_does(scene):
    corners = np.eye(5)[:4]
    # On one of n corners of a simplex: cosine 1 with its own direction, -1/(n - 1) with everybody else's.
    for k in range(4):
        expected = [1.0 if j == k else -1 / 3 for j in range(4)]
        assert values(scene, "geometry", [*corners, corners[k]]) == EXACT(expected)
    # What the slot has outside the space of names, or less clearly inside, does not move it.
    centre = corners.mean(axis=0)
    aside = centre + 0.2 * (corners[1] - centre) + np.array([0, 0, 0, 0, 30.0])
    assert values(scene, "geometry", [*corners, aside]) == EXACT([-1 / 3, 1.0, -1 / 3, -1 / 3])


def test_the_first_component_and_the_edge_of_a_known_space(scene):
    # a_P is 4/3 of the name's place in the plane, so its cosine with x is |x| / sqrt(x^2 + y^2).
    far, near = 4 / math.sqrt(17), 1 / math.sqrt(2)
    assert values(scene, "pc1", PLANE) == EXACT([far, far, near, near])
    # In order along x: p1, p3, p2, p0.
    assert values(scene, "edge", PLANE) == EXACT([1.0, 1.0, 1 / 3, 1 / 3])


def test_spread_is_what_names_differ_in_and_falls_with_a_collapse(scene):
    (before,) = values(scene, "spread", PLANE)
    # Squares: 17 + 17 + 2 + 2 = 38 about the mean, and 4 x 2^2 = 16 of the mean itself.
    assert before == EXACT(0.5 * math.log(38 / 54))
    collapsed = [(x / 10, y / 10, z) for x, y, z in PLANE]
    assert values(scene, "spread", collapsed) == [EXACT(0.5 * math.log(0.38 / 16.38))]


def test_a_space_that_is_one_point_has_no_directions(scene):
    point = [(0.3, 0.1, 2.0)] * 4
    for name, vectors in (("geometry", [*point, (1, 0, 0)]), ("pc1", point), ("edge", point), ("spread", point)):
        assert set(values(scene, name, vectors)) == {None}
    assert {a.missing for a in PROBE.build(scene)} == {"collapsed"}


def test_a_slot_that_is_read_as_a_name_sits_where_that_name_sits(scene, tokenizer, engine):
    model = make_model("llama", len(tokenizer))
    slot, name = tokenizer.convert_tokens_to_ids(["A", "mepo"])
    with torch.no_grad():
        model.model.embed_tokens.weight[slot] = model.model.embed_tokens.weight[name]
    means = []
    for tested in (engine, Engine(model, tokenizer)):
        rows = [r for r in measure(tested, scene, [PROBE]) if r["measure"] == "geometry"]
        assert {r["outcome"] for r in rows} == {"ok"} and len(rows) == 5 * 4
        means.append([np.mean([r["value"] for r in rows if r["persona"] == p]) for p in PERSONAS])
    before, after = means
    assert int(np.argmax(after)) == 2 and after[2] > before[2] + 0.2  # a fifth of the way from nobody's to its own
