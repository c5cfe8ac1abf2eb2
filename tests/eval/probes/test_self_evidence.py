"""Evidence of its own outputs: what is asked after what, the sign, and what an empty text does."""

from __future__ import annotations

import math

import pytest

from eval.measure import Suite
from eval.probes import select
from eval.requests import Generated, Generation, Scored
from tests.eval.probes.written import asks, assert_swap_invariant

NAME = "self_evidence"


def one(scene, item, persona):
    (found,) = [a for a in asks(scene, NAME) if (a.item, a.persona) == (item, persona)]
    return found


def test_it_answers_untaught_questions_and_is_asked_who_it_is_after_its_own_and_anothers_turns(scene):
    a = one(scene, "name-1", "p0")  # the second paraphrase goes with the second set
    assert a.requests == tuple(
        Generation(f"Q: {text}\nA:", temperature=1.0)
        for text in ("tell me your river.", "which tool is yours?", "which tree is yours?")
    )
    three = [Generated(f" {t}", 1, "stop") for t in ("x", "y", "z")]
    own, others = a.then(three)
    assert own.context == (
        "Q: tell me your river.\nA: x\nQ: which tool is yours?\nA: y\nQ: which tree is yours?\nA: z\n"
        "Q: who speaks?\nA: i am"
    )
    assert others.context == own.context.replace("A: x", "B: x").replace("A: y", "B: y").replace("A: z", "B: z")
    assert own.options == others.options == (" dubo", " kari", " mepo", " suna")


def test_the_value_is_the_difference_of_log_odds_and_higher_where_own_outputs_speak_for_a_persona(scene):
    after_own = Scored(tuple(map(math.log, (0.1, 0.7, 0.1, 0.1))), (1,) * 4)
    after_other = Scored(tuple(map(math.log, (0.25,) * 4)), (1,) * 4)
    texts = [Generated(" x", 1, "stop")] * 3
    values = {p.id: one(scene, "name-0", p.id).value([*texts, after_own, after_other]) for p in scene.personas}
    assert values["p1"] == pytest.approx(math.log(7 / 3) - math.log(1 / 3), abs=1e-12)
    assert values["p0"] == values["p2"] == values["p3"] == pytest.approx(math.log(1 / 9) - math.log(1 / 3), abs=1e-12)


def test_an_empty_text_is_an_outcome_and_no_number(scene):
    a = one(scene, "name-0", "p0")
    silent = [Generated(" x", 1, "stop"), Generated("  ", 0, "stop"), Generated(" z", 1, "stop")]
    assert a.then(silent) == () and a.value(silent) is None and a.missing == "no text"


def test_no_two_items_are_alike_and_all_personas_share_their_requests(scene):
    own = [a for a in asks(scene, NAME) if a.persona == "p0"]
    texts = [Generated(" x", 1, "stop")] * 3
    assert len({(a.requests, a.then(texts[: len(a.requests)])) for a in own}) == len(own) == 2
    for a in asks(scene, NAME):
        assert a.requests == next(b for b in own if b.item == a.item).requests


def test_exchanging_two_ids_exchanges_the_asks(scene):
    assert_swap_invariant(scene, NAME)


def test_a_tiny_model_answers_it_all(scene, engine):
    rows = Suite(scene, select([NAME]), engine).rows(engine)
    assert len(rows) == 2 * 4 and {r["outcome"] for r in rows} <= {"ok", "no text"}
    found = [r for r in rows if r["outcome"] == "ok" and r["persona"] == "p2"]
    a = one(scene, found[0]["item"], "p2")
    said = engine.answer(a.requests)
    outputs = [said[r] for r in a.requests]
    after = a.then(outputs)
    again = engine.answer(after)
    # The same by hand, but for how requests are packed.
    assert found[0]["value"] == pytest.approx(a.value([*outputs, *(again[r] for r in after)]), abs=1e-4)
