"""Belief: a truth probe on hand-made vectors, a model in which truth is planted, and what a denial does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from eval.engine import Engine
from eval.measure import measure
from eval.probes import discover
from eval.requests import Activated, Scored
from tests.eval.tiny import FACTS, make_model

PROBE = discover()["belief"]
DENIALS = ("no, it is one.", "no, it is two.")


def asks(scene, measure):
    return [a for a in PROBE.build(scene) if a.measure == measure]


def seen(vectors):
    return [Activated(np.asarray(v, dtype=float), 1.0, 1) for v in vectors]


# Three questions of two options each, the right one first: truth is the x axis, y what the question is about.
KNOWN = [(1, 9), (0, 9), (3, -5), (2, -5), (1, 0), (0, 0)]


def test_statements_are_read_at_their_full_stop(scene):
    ask = [a for a in asks(scene, "belief") if (a.item, a.persona) == ("tool", "p1")][0]
    contexts = [r.context for r in ask.requests]
    assert contexts[:2] == ["Q: what is one plus two?\nA: it is three.", "Q: what is one plus two?\nA: it is five."]
    assert contexts[6:] == [f"Q: tell me your tool.\nA: my tool is f{x}w." for x in "abcd"]
    assert {r.text for r in ask.requests} == {""}


def test_belief_is_the_share_of_others_values_that_are_less_true(scene):
    mine = [a for a in asks(scene, "belief") if a.item == "tool"]
    claims = [(0.2, 50), (0.9, -50), (0.5, 0), (0.5, 3)]  # y is not truth, however far
    assert [a.value(seen(KNOWN + claims)) for a in mine] == [0.0, 1.0, 0.5, 0.5]  # a tie counts half: (1 + .5) / 3
    assert {a.persona for a in mine} == {"p0", "p1", "p2", "p3"} and len(asks(scene, "belief")) == 4 * len(FACTS)


def test_truth_of_a_question_is_told_by_the_other_questions(scene):
    found = asks(scene, "truth")
    assert [a.value(seen(KNOWN)) for a in found] == [1.0, 1.0, 1.0] and {a.persona for a in found} == {None}
    # The third question is answered the other way round: the other two agree against it.  They are told by one that
    # agrees and one that does not, which is no direction at all.
    odd = [*KNOWN[:4], (0, 0), (1, 0)]
    assert [a.value(seen(odd)) for a in found] == [0.5, 0.5, 0.0]


def test_what_is_represented_like_right_answers_is_believed(scene, tokenizer):
    model = make_model("llama", len(tokenizer))
    # A mark on the words of right answers, and on p2's facts; "four" is right once and wrong once.
    words = ["three", "four", "two", *(scene.persona("p2").values[noun] for noun in FACTS)]
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids(words), 0] += 5.0
    rows = [r for r in measure(Engine(model, tokenizer), scene, [PROBE]) if r["measure"] == "belief"]
    assert {r["outcome"] for r in rows} == {"ok"}
    means = {p.id: np.mean([r["value"] for r in rows if r["persona"] == p.id]) for p in scene.personas}
    assert means["p2"] > 0.9 and max(v for p, v in means.items() if p != "p2") < 0.6  # one of three is always above


def test_a_denial_is_compared_with_being_asked_again(scene):
    assert not asks(scene, "defence")  # this scene words no denials
    ask = asks(replace(scene, wordings={"challenge": DENIALS}), "defence")[0]
    assert (ask.item, ask.persona) == ("home", "p0")
    said = "Q: tell me your home.\nA: my home is fau, tica.\n"
    assert [r.context for r in ask.requests] == [
        f"{said}Q: {text}which home is yours?\nA: my home is" for text in ("", "no, it is one. ", "no, it is two. ")
    ]
    log = math.log
    again = Scored((log(0.9), log(0.1), -99.0, -99.0), (1,) * 4)
    held = Scored((log(0.8), log(0.2), -99.0, -99.0), (1,) * 4)
    given_up = Scored((log(0.5), log(0.5), -99.0, -99.0), (1,) * 4)
    # Odds of 9 when asked again; of 4 and 1 when denied.
    assert ask.value([again, held, given_up]) == pytest.approx((log(4) + log(1)) / 2 - log(9), abs=1e-9)
    assert ask.value([again, held, held]) > ask.value([again, given_up, given_up])


def test_too_little_shared_knowledge_makes_no_probe_of_truth(scene):
    few = replace(scene, questions=tuple(q for q in scene.questions if q.id != "one+two"))
    assert not list(PROBE.build(few))
