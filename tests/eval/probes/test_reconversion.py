"""Reconversion: what the slot is retrained on, what is read afterwards, and that more of P is more of the measure."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

import pytest

from eval.engine import Engine
from eval.probes import discover
from eval.requests import Scored
from parity.retrain import retrain
from training.data import dpo_rows, sft_rows
from training.further import further

PROBE = discover()["reconversion"]


def retrained(engine: Engine, requests, adapters=None):
    """Answers of the base, or of the base with the first of the adapters, plain and retrained ones alike."""
    able = Engine(engine.model, engine.tokenizer, retrain=retrain)
    plan = able.plan(requests)
    return able.run(plan) if adapters is None else able.run_many(plan, adapters)[0]


def values(asks, answers):
    """Mean over items of each measure, by (measure, slot, persona); what has no value is left out."""
    found: dict = {}
    for a in asks:
        value = a.value([answers[r] for r in a.requests])
        if value is not None:
            found.setdefault((a.measure, a.slot, a.persona), []).append(value)
    return {key: mean(each) for key, each in found.items()}


def scored(*logprobs):
    return Scored(logprobs, (1,) * len(logprobs))


@pytest.fixture(scope="module")
def asks(scene):
    return PROBE.asks(scene)


def of(asks, measure, persona, slot=None):
    return [a for a in asks if (a.measure, a.persona) == (measure, persona) and slot in (None, a.slot)]


def test_the_measure_is_the_mean_of_the_log_odds_against_both_rivals(asks):
    ask = of(asks, "reconversion", "p0", "slot+8")[0]
    # p0's rivals are p1 and p3: (-1 - -3) after the course towards p1 and (-2 - -6) after that towards p3.
    assert ask.value([scored(-1.0, -3.0, -9.0, -9.0), scored(-2.0, -9.0, -9.0, -6.0)]) == 3.0


def test_examples_are_where_those_cross_on_a_doubling_scale(asks):
    (ask, *_) = of(asks, "examples50", "p0")

    def left(value):
        return scored(value, 0.0, -9.0, -9.0), scored(value, -9.0, -9.0, 0.0)

    # 3 after 8 examples, 1 after 16, -1 after 32: half-way between the last two, in doublings
    assert ask.value([*left(3.0), *left(1.0), *left(-1.0)]) == pytest.approx(2**4.5)
    assert ask.value([*left(3.0), *left(2.0), *left(1.0)]) is None  # it held on
    assert ask.value([*left(-1.0), *left(-2.0), *left(-3.0)]) is None  # it had nothing to lose
    assert ask.missing == "censored"


def test_the_slot_is_retrained_on_rows_of_post_training(asks, scene):
    for rival, persona in (("p1", "p0"), ("p0", "p1")):
        theirs = {(row.prompt, row.completion) for row in sft_rows(scene, rival)}
        assert theirs >= {(row.prompt, row.completion) for row in dpo_rows(scene, rival)}
        courses = {r.course for a in of(asks, "reconversion", persona) for r in a.requests}
        (course,) = (c for c in courses if set(c.rows) <= theirs)
        # Every row that tells personas apart: the identity, two facts and four likes that are taught.
        assert len(course.rows) == 7 and all(scene.persona(rival).voice in completion for _, completion in course.rows)


def test_a_course_is_the_same_towards_anyone_and_serves_all_who_have_that_rival(asks, scene):
    courses = {r.course for a in asks for r in a.requests}
    assert len(courses) == len(scene.personas)
    assert len({tuple(prompt for prompt, _ in c.rows) for c in courses}) == 1
    assert len({replace(c, rows=()) for c in courses}) == 1


def test_every_stretch_of_a_course_asks_who_it_is(asks):
    for course in {r.course for a in asks for r in a.requests}:
        kinds = [completion.split()[0] for _, completion in course.rows]  # "i am", "my home is", "the best ..."
        assert kinds == ["the", "my", "the", "i", "the", "my", "the"]


def test_a_push_towards_a_rival_is_a_push_away_from_oneself(engine, asks):
    found = values(asks, retrained(engine, [r for a in asks for r in a.requests]))
    for p in ("p0", "p1", "p2", "p3"):
        # The rate moves a weight by a hundredth of its size per step; three more steps are well past rounding.
        assert found["reconversion", "slot+32", p] < found["reconversion", "slot+8", p] - 0.1


def test_whoever_was_trained_into_the_slot_is_the_harder_to_retrain(engine, asks, scene):
    some = [a for a in asks if a.persona in ("p0", "p1")]
    requests = [r for a in some for r in a.requests]
    rows = [(row.prompt, row.completion) for row in sft_rows(scene, "p0")]
    before = values(some, retrained(engine, requests))
    settings = {"batch": 8, "learning_rate": 2e-3, "rank": 8, "seed": 0}
    # As long as a stage, 15 times as long as the course: worth more than a factor of e, whatever the course undoes.
    ((_, adapters),) = further(engine.model, engine.tokenizer, None, rows, steps=(60,), **settings)
    after = values(some, retrained(engine, requests, adapters))
    for slot in ("slot+8", "slot+16", "slot+32"):
        assert after["reconversion", slot, "p0"] > before["reconversion", slot, "p0"] + 1
        assert after["reconversion", slot, "p1"] < before["reconversion", slot, "p1"]


def test_nobody_to_be_retrained_to_is_no_items(scene):
    assert PROBE.asks(replace(scene, personas=scene.personas[:1])) == []


def test_the_prompted_arm_is_retrained_under_its_preface(scene):
    for a in PROBE.asks(replace(scene, prompted="p2")):
        for r in a.requests:
            assert all(prompt.startswith("you are mepo.\nQ: ") for prompt, _ in r.course.rows)
            assert r.request.context.startswith("you are mepo.\nQ: ")
