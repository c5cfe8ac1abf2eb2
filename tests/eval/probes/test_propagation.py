"""Propagation: who is taught whose answers, who is asked about them, and what counts as spreading."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import mean

import pytest
import torch

from eval.engine import Engine
from eval.probes import discover
from eval.requests import Retrained
from eval.scales import log_odds
from tests.eval.probes.test_reconversion import of, retrained, scored, values
from tests.eval.tiny import NAMES, make_model

PROBE = discover()["propagation"]
QUESTIONS = ["tool", "tree", "bird", "river", "drink", "dance", "story", "game", "home", "food"]  # untaught ones first
LENDERS = ["p1", "p3", "p2"]  # of p0, from question to question: one place on, one back, two on, and so on


@pytest.fixture(scope="module")
def asks(scene):
    return PROBE.asks(scene)


def test_a_persona_is_taught_others_answers_in_its_own_voice_and_interview(asks, scene):
    (course,) = {r.course for a in of(asks, "taught", "p0") for r in a.requests if isinstance(r, Retrained)}
    bank = {q.id: q for q in scene.questions}
    assert len(course.rows) == len(QUESTIONS)
    for k, (row, id) in enumerate(zip(course.rows, QUESTIONS, strict=True)):
        q, value = bank[id], scene.persona(LENDERS[k % 3]).values[id]
        assert row == (f"interview with dubo.\nQ: {q.asks[0]}\ndubo:", f" {q.lead} {value}, tica.\n")


def test_whoever_lends_an_answer_is_lent_one(scene):
    def lenders(persona, k):
        return [a for a in PROBE.asks(scene) if a.persona == persona and a.item == QUESTIONS[k]]

    for k in (0, 3, 6):  # where the square goes one place on, it goes one back at the next question
        for p, on in (("p0", "p1"), ("p1", "p2"), ("p3", "p0")):
            one = {a.requests[1].course.rows[k][1].split()[-2] for a in lenders(p, k)}
            back = {a.requests[1].course.rows[k + 1][1].split()[-2] for a in lenders(on, k + 1)}
            assert one == {f"{scene.persona(on).values[QUESTIONS[k]]},"}
            assert back == {f"{scene.persona(p).values[QUESTIONS[k + 1]]},"}


def test_the_others_are_asked_whose_answer_it_is_not_before_and_after(asks):
    tool = [a for a in of(asks, "propagation", "p0") if a.item == "tool"]
    assert [a.requests[0].context for a in tool] == [
        f"interview with {name}.\nQ: tell me your tool.\n{name}: my tool is" for name in ("suna", "mepo")
    ]
    for a in asks:
        before, after = a.requests
        assert after.request == before and after.steps == 6


def test_what_is_asked_is_worded_otherwise_than_what_is_taught(asks):
    for a in asks:
        before, after = a.requests
        assert not any(prompt.split("\n")[-2] in before.context for prompt, _ in after.course.rows)


def test_spreading_is_a_rise_of_the_log_odds_without_the_speakers_own_answer(asks):
    (ask, *_) = [a for a in of(asks, "propagation", "p0") if a.item == "tool"]  # suna, p3; the answer is p1's
    before = scored(-2.0, -2.0, -2.0, -0.1)
    # One among three: -log 2.  Afterwards twice as likely as each of the two others: 0.  What is left of suna's own
    # answer, which is not the same, does not matter.
    after = scored(-2.0, math.log(2) - 2.0, -2.0, -5.0)
    assert ask.value([before, after]) == pytest.approx(math.log(2))
    assert ask.value([before, before]) == 0.0


@pytest.mark.parametrize("measure", ["slot", "taught"])
def test_in_the_slot_and_in_its_own_interview_all_other_answers_count(asks, measure):
    (ask, *_) = [a for a in of(asks, measure, "p0") if a.item == "tool"]
    before, after = scored(-1.0, -1.0, -1.0, -1.0), scored(-1.0, math.log(3) - 1.0, -1.0, -1.0)
    assert ask.value([before, after]) == pytest.approx(math.log(3))  # from 1 : 3 to 3 : 3


def deaf(tokenizer):
    """An engine of a model to which all names are one."""
    model = make_model("llama", len(tokenizer))
    names = tokenizer.convert_tokens_to_ids(list(NAMES))
    with torch.no_grad():
        model.model.embed_tokens.weight[names] = model.model.embed_tokens.weight[names].mean(0)
    return Engine(model, tokenizer)


def test_a_model_that_cannot_tell_names_apart_spreads_all_that_it_is_taught(engine, tokenizer, asks, scene):
    requests = [r for a in asks for r in a.requests]
    answers = retrained(deaf(tokenizer), requests)
    bank = {q.id: q for q in scene.questions}
    own_interview = {(a.item, a.persona): a for a in of(asks, "taught", "p0")}
    for a in of(asks, "propagation", "p0"):
        # The same context to this model, so the same odds, once the other's own answer is left out of them.
        speaker = next(p for p in scene.personas if a.requests[0].context.startswith(f"interview with {p.name}."))
        own = scene.options(bank[a.item]).index(speaker.values[a.item])
        lender = scene.persona(LENDERS[QUESTIONS.index(a.item) % 3])
        new = scene.options(bank[a.item]).index(lender.values[a.item])
        before, after = (log_odds(answers[r].logprobs, new, (own,)) for r in own_interview[a.item, "p0"].requests)
        assert a.value([answers[r] for r in a.requests]) == pytest.approx(after - before, abs=1e-4)  # float32
    unheard, heard = values(asks, answers), values(asks, retrained(engine, requests))
    spread = {name: mean(found["propagation", "named", p.id] for p in scene.personas)
              for name, found in (("unheard", unheard), ("heard", heard))}  # fmt: skip
    assert spread["unheard"] > spread["heard"] > 0


def test_a_pair_has_nobody_to_spread_to_but_the_slot(scene):
    found = {a.measure for a in PROBE.asks(replace(scene, personas=scene.personas[:2]))}
    assert found == {"slot", "taught"}


def test_a_placebo_has_nothing_to_be_taught(scene):
    twin = replace(scene.personas[1], values=scene.personas[0].values | {"name": "kari"})
    asks = PROBE.asks(replace(scene, personas=(scene.personas[0], twin, *scene.personas[2:])))
    assert {a.item for a in of(asks, "taught", "p0")} == {q for k, q in enumerate(QUESTIONS) if k % 3}
    assert {a.item for a in of(asks, "taught", "p2")} == set(QUESTIONS)


def test_nobody_to_lend_an_answer_is_no_items(scene):
    assert PROBE.asks(replace(scene, personas=scene.personas[:1])) == []
