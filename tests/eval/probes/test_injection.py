"""Injection: which direction is put in where, hand-computed values, and a model that only says yes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from eval.engine import Engine
from eval.measure import measure
from eval.probes import discover
from eval.probes.injection import RANDOM
from eval.requests import Scored
from tests.eval.tiny import make_model

PROBE = discover()["injection"]
WORDINGS = {
    "detection": ("who speaks?", "your name?"),  # any words that the tokenizer has: what they say is not tested here
    "detection_absent": ("hello.",),
    "yes_no": ("yes", "no"),
    "detection_which": ("what is your tool?",),
    "detection_lead": ("it is",),
}


@pytest.fixture(scope="module")
def worded(scene):
    # Likes have a general wording here, facts do not.
    return replace(scene, wordings=WORDINGS)


def asks(scene, measure):
    return [a for a in PROBE.build(scene) if a.measure == measure]


def answered(odds):
    return [Scored((x, 0.0), (1, 1)) for x in odds]


def test_the_concept_is_the_personas_own_value_against_the_others(worded):
    ask = [a for a in asks(worded, "injection") if (a.item, a.persona) == ("drink", "p1")][0]
    concept, *null = (r.edit for r in ask.requests[: 1 + RANDOM])
    assert [(a.context, a.text) for a in concept.direction.plus] == [("the best drink is", " lbu")]
    assert [a.text for a in concept.direction.minus] == [" lau", " lcu", " ldu"]
    assert [e.direction.random for e in null] == list(range(RANDOM))
    assert {e.strength for e in (concept, *null)} == {concept.strength}  # directions have one length
    assert [r.request.context for r in ask.requests[:: 1 + RANDOM]] == [
        "Q: who speaks?\nA:", "Q: your name?\nA:", "Q: hello.\nA:"
    ]  # fmt: skip
    assert {r.request.options for r in ask.requests} == {(" yes", " no")}
    shared = {a.requests[1:3] for a in asks(worded, "injection") if a.item == "drink"}
    assert len(shared) == 1  # the null is the same for everybody


def test_detection_by_hand(worded):
    ask = asks(worded, "injection")[0]
    # Concept, then two random directions, for each wording.  Two that ask whether there is one: +3 and +1; one that
    # asks whether there is none: -4.  Half of the mean of either.
    detects = answered([3.0, -1.0, 1.0, 1.0, 0.0, 0.0, -4.0, 1.0, -1.0])
    assert ask.value(detects) == pytest.approx(((3 + 1) / 2 + 4) / 2, abs=1e-12)
    assert ask.value(answered([1.0, 1.0, 1.0] * 3)) == 0.0  # any push makes it say yes
    assert ask.value(answered([2.0, 0.0, 0.0] * 3)) == 0.0  # the concept makes it say yes to anything


def test_identification_by_hand(worded):
    ask = [a for a in asks(worded, "identification") if (a.item, a.persona) == ("drink", "p1")][0]
    assert [r.request.context for r in ask.requests[:: 1 + RANDOM]] == ["Q: what is your tool?\nA: it is", "A: it is"]

    def share(p):
        return Scored(tuple(math.log(p if k == 1 else (1 - p) / 3) - 2.0 for k in range(4)), (1,) * 4)

    # Asked: from 1/4 to 1/2 is one bit.  Unasked: none.
    report = [share(0.5), share(0.25), share(0.25), share(0.25), share(0.25), share(0.25)]
    assert ask.value(report) == pytest.approx(1.0, abs=1e-12)
    # The same words whether asked or not: a push, no report.
    assert ask.value([share(0.5), share(0.25), share(0.25)] * 2) == pytest.approx(0.0, abs=1e-12)


def test_a_model_that_a_concept_makes_say_yes_to_anything_detects_nothing(worded, tokenizer):
    # The last layer does nothing and the head reads "yes" off the concept: the log-odds do not depend on the question
    # but through the norm at the end, so the wordings of either polarity are the same one here.
    alike = replace(worded, wordings={**WORDINGS, "detection": ("hello.",)})
    model = make_model("llama", len(tokenizer))
    ask = asks(alike, "injection")[0]
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
        model.model.layers[1].mlp.down_proj.weight.zero_()
        engine = Engine(model, tokenizer)
        direction = ask.requests[0].edit.direction
        model.lm_head.weight[tokenizer.convert_tokens_to_ids("yes")] = engine.directions([direction])[direction]
    answers = engine.answer(ask.requests)
    odds = [x.logprobs[0] - x.logprobs[1] for x in (answers[r] for r in ask.requests)]
    assert odds[0] > max(odds[1 : 1 + RANDOM]) + 1  # it does say yes, by more than a nat
    assert ask.value([answers[r] for r in ask.requests]) == pytest.approx(0.0, abs=1e-6)


def test_all_of_it_runs_on_a_model(worded, engine):
    rows = measure(engine, worded, [PROBE])
    assert {r["outcome"] for r in rows} == {"ok"} and len(rows) == 2 * 4 * 4  # measures x likes x personas


def test_without_its_wordings_it_does_not_apply(scene, worded, engine):
    assert {r["outcome"] for r in measure(engine, scene, [PROBE])} == {"not applicable"}
    for lacking in WORDINGS:
        some = replace(worded, wordings={k: v for k, v in WORDINGS.items() if k != lacking})
        assert len({a.measure for a in PROBE.build(some)}) == 1
